"""What accuracy does not say: classes weighted alike, and the five best answers."""

import numpy as np
import pandas as pd
import torch

from labnn.kit.numbers import number, percent
from labnn.train import Evaluation


def scores(tested: dict[str, Evaluation]) -> pd.DataFrame:
    """Figures of every test by its title: accuracy, the share with the right class among the five best
    answers, and means over the classes among labels or answers; a division by zero gives 0, as in
    scikit-learn.
    """
    columns = {
        name: {key: percent(one, 1) for key, one in _shares(test).items()} for name, test in tested.items()
    }
    return pd.DataFrame(columns).rename_axis("Показатель").reset_index()


def _shares(test: Evaluation) -> dict[str, float]:
    classes = torch.cat([test.labels, test.predictions]).unique()[:, None]
    labelled, answered = test.labels == classes, test.predictions == classes  # (classes, images)
    right, images, answers = ((one.sum(1).double()) for one in (labelled & answered, labelled, answered))
    shares = {
        "Точность": (test.predictions == test.labels).double(),
        "Верный среди пяти": (test.best == test.labels[:, None]).any(1).double(),
        "Полнота, макро": right / images.clamp(min=1),
        "Точность ответа, макро": right / answers.clamp(min=1),
        "F1, макро": 2 * right / (images + answers),
    }
    return {name: values.mean().item() for name, values in shares.items()}


def epochs(histories: dict[str, pd.DataFrame], most: int = 30) -> pd.DataFrame:
    """The original report's tables of ``train_test`` histories, by their titles, side by side: seconds, loss
    and accuracy of the training; of many epochs the first, the last and others evenly, about ``most`` rows.
    """
    length = max(map(len, histories.values()))
    rows = np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))
    chosen = {title: history.iloc[rows] for title, history in histories.items()}
    seconds = ([number(one, 2) for one in history["seconds"]] for history in chosen.values())
    titles = f"Время обучения, с: {' / '.join(chosen)}"
    shown = {"Эпоха": rows + 1, titles: [" / ".join(row) for row in zip(*seconds, strict=True)]}
    for title, history in chosen.items():
        shown[f"{title}: потери"] = [number(loss, 4) for loss in history["train_loss"]]
        shown[f"{title}: точность, %"] = [number(100 * share, 2) for share in history["train_accuracy"]]
    return pd.DataFrame(shown)
