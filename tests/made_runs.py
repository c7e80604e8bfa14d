"""Records as a training leaves them, with the figures that a test needs."""

import numpy as np
import pandas as pd

from labnn.experiment import Run
from labnn.report import records
from labnn.settings import Experiment
from labnn.train import HISTORY_COLUMNS

MACHINE = {"processor": "CPU", "device": "cpu", "threads": 1, "precision": "float32", "torch": "2.0"}
LABELS = (0, 0, 1, 2)


def finished(accuracy: float, predictions=LABELS * 10, *, loss: float = 1.0, **settings) -> Run:
    """A run whose last test accuracy is given; an epoch before it was better, and must not count. The labels
    are 0, 0, 1, 2, as often as there are ``predictions``.
    """
    experiment = Experiment(**{"optimizer": "adam", "epochs": 2} | settings)
    epochs = np.arange(1, experiment.epochs + 1)
    history = pd.DataFrame({"epoch": epochs}, columns=HISTORY_COLUMNS)
    history[["lr", "seconds", "train_loss", "train_accuracy"]] = [1e-3, 30.0, 1.5, 0.5]
    history[["test_loss", "test_accuracy", "test_information"]] = [loss, 0.999, 0.1]
    history["collapsed"] = False
    history.loc[history.index[-1], "test_accuracy"] = accuracy
    answers = pd.DataFrame({"label": LABELS * (len(predictions) // 4), "prediction": predictions})
    data = {"name": "cars", "fingerprint": "0", "train": 16, "test": len(answers), "classes": 3}
    return Run(experiment, data | {"crop_to_box": False}, history, answers, dict(MACHINE))


def runs(**accuracies) -> list[Run]:
    """Runs of each optimizer, by seed: ``runs(amsgrad=[0.5, 0.6], adam=[0.4, 0.4])``."""
    return [
        finished(value, optimizer=name.replace("_", "-"), seed=seed)
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def found(**accuracies) -> pd.DataFrame:
    """``runs`` in one table."""
    return records.table(runs(**accuracies))
