"""How sure a difference is: Student's interval and exact tests."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

# Accuracies that differ by less are equal in practice: so much another seed alone moves a run. It is set
# before the runs, since a margin chosen after them proves nothing.
MARGIN = 0.015


class Difference(NamedTuple):
    """The mean of paired differences, in their units, and how sure it is.

    ``low``, ``high``, ``p_value``: Student's interval and paired t test. ``exact_p``: Fisher's randomisation
    test, the share of sign patterns that move the mean as far from zero, at least 2 / 2^pairs. ``spread``:
    whether the pairs differ among themselves; else nothing is proven: the bounds of one pair are infinite, of
    differences all alike they are the mean.
    """

    mean: float
    low: float
    high: float
    p_value: float
    exact_p: float
    pairs: int
    confidence: float
    spread: bool

    @property
    def proven(self) -> bool:
        """Whether Student's interval excludes zero and the exact test agrees: it takes ``pairs_needed``."""
        return self.spread and (self.low > 0 or self.high < 0) and self.exact_p <= 1 - self.confidence

    def within(self, margin: float) -> bool:
        """Whether the whole interval lies inside ``margin`` on both sides of zero: more than two one-sided
        tests ask (Schuirmann 1987), which take a 90 % interval.
        """
        return self.spread and -margin < self.low and self.high < margin


def describe(differences: Sequence[float], confidence: float = 0.95) -> Difference:
    """``Difference`` of the differences in each pair, float ``(pairs,)``, one or more."""
    values = np.asarray(differences, dtype=float)
    mean, pairs, spread = float(values.mean()), len(values), bool(np.ptp(values) > 1e-12)
    low, high = (mean, mean) if pairs > 1 else (-np.inf, np.inf)
    p_value = exact_p = 1.0
    if pairs > 1:  # to 13 pairs all sign patterns, else 10 000 random ones
        options = {"n_resamples": 10_000, "random_state": 0, "permutation_type": "samples"}
        exact_p = float(stats.permutation_test((values,), np.mean, **options).pvalue)
    if spread:
        test = stats.ttest_1samp(values, 0)
        (low, high), p_value = map(float, test.confidence_interval(confidence)), float(test.pvalue)
    return Difference(mean, low, high, p_value, exact_p, pairs, confidence, spread)


def pairs_needed(confidence: float = 0.95) -> int:
    """The fewest pairs whose ``exact_p`` can fall to 1 - ``confidence``: six for 95 %."""
    return int(np.ceil(np.log2(2 / (1 - confidence)) - 1e-9))


def mcnemar(first: pd.DataFrame, second: pd.DataFrame) -> tuple[int, int, float]:
    """Pictures that only the first or only the second of two networks names rightly, by their predictions on
    the same pictures, and the exact two-sided p-value (McNemar 1947; Dietterich 1998): of these two networks,
    not of their optimizers.
    """
    right, other = (answers["prediction"] == answers["label"] for answers in (first, second))
    one, two = int((right & ~other).sum()), int((other & ~right).sum())
    return one, two, float(stats.binomtest(one, one + two).pvalue) if one + two else 1.0


def share_interval(share: float, images: int) -> tuple[float, float]:
    """The exact 95 % interval (Clopper and Pearson 1934) of a ``share`` of so many ``images``."""
    return tuple(stats.binomtest(round(share * images), images).proportion_ci(0.95))
