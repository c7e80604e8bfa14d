"""How sure a difference is: Student's interval, exact tests, and what so many pairs could have shown."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

from labnn.kit.errors import LabError

MARGIN = 0.015  # of accuracy: what another seed alone moves a run by; set before the runs (see ``Protocol``)


class Difference(NamedTuple):
    """The mean of paired differences and how sure it is, in the units of the differences or as p-values.

    ``deviation``: their standard deviation. ``low``, ``high``, ``p_value``: Student's interval and paired t
    test. ``exact_p``: ``sign_flip_p``. ``detectable``: the true difference that so many pairs show with a
    chance of 80 %, NaN where they cannot show any. One pair has infinite bounds and a deviation of NaN; of
    differences all alike the interval is a point and the spread unknown: then nothing is proven.
    """

    mean: float
    deviation: float
    low: float
    high: float
    p_value: float
    exact_p: float
    detectable: float
    pairs: int
    confidence: float

    @property
    def spread(self) -> bool:
        """Whether the pairs differ among themselves: without it there is no interval."""
        return self.deviation > 0

    @property
    def proven(self) -> bool:
        """Whether Student's interval excludes zero and the exact test agrees: it takes ``pairs_needed``."""
        return self.spread and (self.low > 0 or self.high < 0) and self.exact_p <= 1 - self.confidence

    def within(self, margin: float) -> bool:
        """Whether the whole interval lies inside ``margin`` on both sides of zero: practically equal.

        Two one-sided tests (Schuirmann 1987) ask that of a 90 % interval; the 95 % interval asks more.
        """
        return self.spread and -margin < self.low and self.high < margin


def describe(differences: Sequence[float], confidence: float = 0.95) -> Difference:
    """``Difference`` of the differences in each pair, float ``(pairs,)``.

    Raises ``LabError`` for none and for what is no number.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values) or not np.isfinite(values).all():
        found = f"разностей {len(values)}, из них чисел {np.isfinite(values).sum()}"
        raise LabError(f"Пары сравнить нельзя ({found}): нужна одна или больше, и все числа.")
    mean, pairs = float(values.mean()), len(values)
    if pairs == 1:
        return Difference(mean, np.nan, -np.inf, np.inf, 1.0, 1.0, np.nan, 1, confidence)
    deviation = float(values.std(ddof=1)) if np.ptp(values) > 1e-12 else 0.0
    if not deviation:
        p_value = float(mean == 0)
        return Difference(mean, 0.0, mean, mean, p_value, sign_flip_p(values), np.nan, pairs, confidence)
    test = stats.ttest_1samp(values, 0)
    low, high = map(float, test.confidence_interval(confidence))
    least = detectable(deviation, pairs, confidence) if pairs >= pairs_needed(confidence) else np.nan
    exact_p = sign_flip_p(values)
    return Difference(mean, deviation, low, high, float(test.pvalue), exact_p, least, pairs, confidence)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of Fisher's randomisation test: the share of sign patterns that move the mean as far
    from zero; all 2^n of them to n = 13, else 10 000 random ones. At least 2 / 2^n.
    """
    options = {"n_resamples": 10_000, "random_state": 0, "permutation_type": "samples"}
    values = np.asarray(differences, dtype=float)
    return float(stats.permutation_test((values,), np.mean, **options).pvalue)


def pairs_needed(confidence: float = 0.95) -> int:
    """The fewest pairs with which ``sign_flip_p`` can fall to 1 - ``confidence``: six for 95 %."""
    return int(np.ceil(np.log2(2 / (1 - confidence)) - 1e-9))


def detectable(deviation: float, pairs: int, confidence: float = 0.95, power: float = 0.8) -> float:
    """The true mean difference that a paired t test of two or more ``pairs`` with this standard ``deviation``
    finds with a chance of ``power``.
    """
    critical = stats.t.ppf((1 + confidence) / 2, pairs - 1)

    def lacking(shift: float) -> float:  # the chance of finding the wrong sign is a few millionths
        return stats.nct.sf(critical, pairs - 1, shift) - power

    return float(optimize.brentq(lacking, 0, 3 * critical + 3) * deviation / np.sqrt(pairs))


def pairs_to_decide(found: Difference, margin: float = MARGIN, power: float = 0.8) -> int | None:
    """How many pairs, more than there are, would decide with a chance of ``power`` if mean and deviation seen
    are the true ones: prove the difference, or that it lies inside ``margin``. ``None``: over 1 000.
    """
    if not found.spread:
        return None
    beyond = stats.norm.ppf((1 + power) / 2)
    for pairs in range(max(pairs_needed(found.confidence), found.pairs + 1), 1001):
        half = stats.t.ppf((1 + found.confidence) / 2, pairs - 1)
        apart = detectable(found.deviation, pairs, found.confidence, power) <= abs(found.mean)
        if apart or (half + beyond) * found.deviation / np.sqrt(pairs) < margin - abs(found.mean):
            return pairs
    return None


def mcnemar(first: pd.DataFrame, second: pd.DataFrame) -> tuple[int, int, float]:
    """Pictures that only the first or only the second of two networks names rightly, by their predictions,
    and the exact two-sided p-value (McNemar 1947; Dietterich 1998): of these two networks, not of their
    optimizers.

    Raises ``LabError`` for predictions on different pictures.
    """
    if not first["label"].equals(second["label"]):
        way_out = "сравнивайте прогоны одного набора"
        raise LabError(f"Предсказания двух прогонов сделаны на разных снимках: {way_out}.")
    right, other = (answers["prediction"] == answers["label"] for answers in (first, second))
    one, two = int((right & ~other).sum()), int((other & ~right).sum())
    return one, two, float(stats.binomtest(one, one + two).pvalue) if one + two else 1.0
