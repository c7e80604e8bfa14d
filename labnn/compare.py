"""Many runs to one answer: paired differences between two optimizers, with an interval."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
from scipy import stats

from labnn.errors import LabError
from labnn.experiment import Run


class PairedDifference(NamedTuple):
    """Mean over seeds of ``first`` minus ``second``, its ``confidence`` interval, and the number of pairs.

    With one pair there is no interval: ``low`` and ``high`` are infinite.
    """

    mean: float
    low: float
    high: float
    pairs: int
    confidence: float

    @property
    def proven(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def last(run: Run, metric: str) -> float:
    """``metric``, a column of the history, after the last epoch: never the best one, which would be chosen on the test."""
    return float(run.history[metric].iloc[-1])


def paired_difference(first: Sequence[Run], second: Sequence[Run], metric: str = "test_accuracy", confidence: float = 0.95) -> PairedDifference:
    """Compares the last epochs of runs that share seeds, by Student's t interval of the mean difference.

    Raises ``LabError`` where the runs do not pair off: every seed of one must have its run in the other, equal in all but
    the optimizer.
    """
    first, second = sorted(first, key=_pairing), sorted(second, key=_pairing)
    if not first or [_pairing(run) for run in first] != [_pairing(run) for run in second]:
        raise LabError("Прогоны двух оптимизаторов не образуют пар: обучите оба с одинаковыми зёрнами и настройками.")
    differences = np.array([last(a, metric) - last(b, metric) for a, b in zip(first, second, strict=True)])
    low, high = -np.inf, np.inf
    if len(first) > 1:
        low, high = stats.ttest_1samp(differences, 0).confidence_interval(confidence)
    return PairedDifference(float(differences.mean()), float(low), float(high), len(first), confidence)


def comparable(runs: Sequence[Run]) -> list[list[Run]]:
    """``runs`` in groups that differ in optimizer and seed only, the largest group first."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(_conditions(run), []).append(run)
    return sorted(groups.values(), key=len, reverse=True)


def _conditions(run: Run) -> tuple:
    settings = asdict(run.experiment)
    del settings["optimizer"], settings["seed"]
    return run.data["fingerprint"], tuple(sorted(settings.items()))


def _pairing(run: Run) -> tuple:
    return *_conditions(run), run.experiment.seed
