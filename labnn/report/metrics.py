"""What accuracy does not say: classes weighted alike, and the five best answers."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from labnn.kit.numbers import number, percent
from labnn.train import Evaluation


def scores(tested: dict[str, Evaluation]) -> pd.DataFrame:
    """Figures of every test by its title: accuracy, top-5, and the macro means of ``class_scores``."""
    return pd.DataFrame({"Показатель": list(_TITLES)} | {name: _scores(one) for name, one in tested.items()})


_TITLES = {
    "Точность": lambda test, classes: test.accuracy,
    "Верный среди пяти": lambda test, classes: (test.best == test.labels[:, None]).any(1).double().mean(),
    "Полнота, макро": lambda test, classes: classes["recall"].mean(),
    "Точность ответа, макро": lambda test, classes: classes["precision"].mean(),
    "F1, макро": lambda test, classes: classes["f1"].mean(),
}


def _scores(test: Evaluation) -> list[str]:
    classes = class_scores(test.labels, test.predictions)
    return [percent(float(figure(test, classes)), 1) for figure in _TITLES.values()]


def class_scores(labels: Sequence[int], answers: Sequence[int]) -> pd.DataFrame:
    """A row for each class among ``labels`` or ``answers``: ``images``, ``recall``, ``precision``, ``f1``.

    Shares 0..1; what would be divided by zero is 0, as in scikit-learn: the precision of a class that was
    never answered, the recall of one with no picture.
    """
    labels, answers = np.asarray(labels), np.asarray(answers)
    classes = np.union1d(labels, answers)
    images, answered, right = (
        np.array([(part == index).sum() for index in classes])
        for part in (labels, answers, labels[labels == answers])
    )
    table = {"images": images, "recall": right / images.clip(1), "precision": right / answered.clip(1)}
    return pd.DataFrame(table | {"f1": 2 * right / (images + answered)}, index=classes)


def epochs(histories: dict[str, pd.DataFrame], most: int = 30) -> pd.DataFrame:
    """The original report's tables of ``train_test`` histories, by their titles, side by side: seconds, loss
    and accuracy of the training; of many epochs the first, the last and others evenly, about ``most`` rows.
    """
    length = max(map(len, histories.values()))
    rows = np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))
    chosen = {title: history.iloc[rows] for title, history in histories.items()}
    seconds = zip(*(history["seconds"] for history in chosen.values()), strict=True)
    shown = {
        "Эпоха": rows + 1,
        f"Время обучения, с: {' / '.join(chosen)}": [
            " / ".join(number(one, 2) for one in row) for row in seconds
        ],
    }
    for title, history in chosen.items():
        shown[f"{title}: потери"] = [number(loss, 4) for loss in history["train_loss"]]
        shown[f"{title}: точность, %"] = [number(100 * share, 2) for share in history["train_accuracy"]]
    return pd.DataFrame(shown)
