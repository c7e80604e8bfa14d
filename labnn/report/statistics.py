"""What runs say together: groups, pairs, differences, how sure they are. Accuracies 0..1, losses in nats."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import integrate, optimize, stats

from labnn.experiment import Run
from labnn.kit.errors import LabError
from labnn.settings import OPTIMIZERS, Experiment
from labnn.train import FIGURES


def final(run: Run, metric: str) -> float:
    """``metric``, a column of the history, after the last epoch: never the best, chosen on the test."""
    value = run.history[metric].iloc[-1]
    return np.nan if value is None else float(value)


def is_finite(run: Run) -> bool:
    """Whether all figures of the last epoch are numbers; a run without them is no evidence."""
    return all(np.isfinite(final(run, figure)) for figure in FIGURES)


def by_optimizer(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """``runs`` grouped by optimizer, in the order of ``OPTIMIZERS``, AMSGrad first; unknown ones last."""
    keys = {run.experiment.optimizer for run in runs}
    order = [key for key in OPTIMIZERS if key in keys] + sorted(keys - set(OPTIMIZERS))
    return {key: [run for run in runs if run.experiment.optimizer == key] for key in order}


def by_experiment(runs: Sequence[Run]) -> dict[Experiment, list[Run]]:
    """``runs`` that differ in the seed only, under their experiment with seed 0."""
    groups: dict[Experiment, list[Run]] = {}
    for run in runs:
        groups.setdefault(replace(run.experiment, seed=0), []).append(run)
    return groups


def comparable(runs: Sequence[Run]) -> list[list[Run]]:
    """``runs`` in groups that differ in optimizer and seed only, the largest first; an optimizer may have its
    own rate and decay.
    """
    groups: dict[tuple, list[Run]] = {}
    contents = {run.data["fingerprint"]: run.data["content"] for run in runs if run.data.get("content")}
    for run in runs:  # a record from before the content goes with those that know it
        content = run.data.get("content") or contents.get(run.data["fingerprint"])
        groups.setdefault((content, *_conditions(run)), []).append(run)
    parts = []
    for group in groups.values():
        tuned = {(run.experiment.optimizer, _rate_and_decay(run)) for run in group}
        if len(tuned) == len({optimizer for optimizer, _ in tuned}):
            parts.append(group)
        else:  # not tuned: only equal rates and decays compare
            for same in sorted({own for _, own in tuned}):
                parts.append([run for run in group if _rate_and_decay(run) == same])
    return sorted(parts, key=len, reverse=True)


def _rate_and_decay(run: Run) -> tuple[float, float]:
    return run.experiment.lr, run.experiment.weight_decay


def at_best_rates(runs: Sequence[Run], tuning: Sequence[Run]) -> list[Run]:
    """Those of ``runs`` with the rates that the runs of ``tuning`` with their settings found best; all, while
    an optimizer has none yet. A grid that was widened leaves runs with its old best rate behind.
    """
    best = {_settings(run): best_rates([one for one in tuning if same_settings(one, run)]) for run in runs}
    rates = [best[_settings(run)].get(run.experiment.optimizer, run.experiment.lr) for run in runs]
    kept = [run for run, lr in zip(runs, rates, strict=True) if run.experiment.lr == lr]
    return kept if set(by_optimizer(kept)) == set(by_optimizer(runs)) else list(runs)


def same_settings(run: Run, other: Run) -> bool:
    """Whether two experiments differ in no more than what ``Protocol`` varies."""
    return _settings(run) == _settings(other)


def _settings(run: Run) -> tuple:
    settings = asdict(run.experiment)
    del settings["optimizer"], settings["seed"], settings["lr"], settings["weight_decay"]
    return tuple(sorted(settings.items()))


def _conditions(run: Run) -> tuple:
    return run.data["fingerprint"], _settings(run)


def sensitivity(tuning: Sequence[Run]) -> pd.DataFrame:
    """A row an optimizer and learning rate: ``optimizer``, ``lr``, last ``accuracy`` and ``loss``, means over
    seeds.
    """
    rows = [
        [run.experiment.optimizer, run.experiment.lr, final(run, "test_accuracy"), final(run, "test_loss")]
        for run in tuning
    ]
    table = pd.DataFrame(rows, columns=["optimizer", "lr", "accuracy", "loss"])
    return table.groupby(["optimizer", "lr"], as_index=False).mean()


def best_rates(tuning: Sequence[Run]) -> dict[str, float]:
    """The learning rate of each optimizer with the highest accuracy on validation; of equal ones that with
    the lower loss.
    """
    table = sensitivity(tuning).sort_values(["accuracy", "loss"], ascending=[False, True])
    return table.groupby("optimizer")["lr"].first().to_dict()


def make_pairs(first: Sequence[Run], second: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs that share a seed, by seed, equal in all but the optimizer, its learning rate and its weight
    decay; each run once. Runs without a partner, and with figures that are no numbers, are left out.

    Raises ``LabError`` where no pair is left, or several of one seed.
    """
    one, other = _by_pairing(first), _by_pairing(second)
    found = [(one[key], other[key]) for key in sorted(one.keys() & other.keys())]
    if not found:
        way_out = "обучите оба с одинаковыми зёрнами и настройками"
        raise LabError(f"Прогоны двух оптимизаторов не образуют пар: {way_out}.")
    if any(len({run.data["content"] for run in pair if "content" in run.data}) > 1 for pair in found):
        raise LabError("Прогоны двух оптимизаторов сделаны на разных снимках: обучите оба на одном наборе.")
    return found


def _by_pairing(runs: Sequence[Run]) -> dict[tuple, Run]:
    found: dict[tuple, Run] = {}
    for run in runs:
        twin = found.setdefault(_pairing(run), run)
        if twin.experiment != run.experiment:
            rates = f"{twin.experiment.lr:g} и {run.experiment.lr:g}"
            words = f"зерно {run.experiment.seed} есть со скоростями {rates}"
            raise LabError(f"Прогоны не образуют пар: {words}; оставьте по одной на оптимизатор.")
    return {key: run for key, run in found.items() if is_finite(run)}


def _pairing(run: Run) -> tuple:
    return *_conditions(run), run.experiment.seed


def pairs_of(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """``make_pairs`` of the two optimizers of ``runs``. Raises ``LabError`` where there are not two."""
    groups = by_optimizer(runs)
    if len(groups) != 2:
        raise LabError(f"Пары бывают у двух оптимизаторов, а не у {len(groups)}: выберите прогоны двух.")
    return make_pairs(*groups.values())


def pairs_needed(confidence: float = 0.95) -> int:
    """The fewest pairs with which ``sign_flip_p`` can fall to 1 - ``confidence``."""
    return int(np.ceil(np.log2(2 / (1 - confidence)) - 1e-9))


MARGIN = 0.015  # of accuracy; its reason stands in ``protocol.Protocol``


class PairedDifference(NamedTuple):
    """Mean over pairs of ``first`` minus ``second`` and how sure it is, in the metric's units or p-values.

    Of differences all alike the t interval is a point and the spread unknown: nothing is proven.

    ``low``, ``high``: Student's t interval; ``p_value``: the paired t test. ``exact_low``, ``exact_high``,
    ``exact_p``: without the normal distribution, see ``exact_interval`` and ``sign_flip_p``.
    ``detectable``: the true difference that these many pairs of this spread would have shown with a chance of
    80 %, NaN where they could have shown none. With one pair intervals are infinite, ``deviation`` NaN.
    """

    mean: float
    deviation: float
    low: float
    high: float
    p_value: float
    exact_low: float
    exact_high: float
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
        """Whether the t interval excludes zero and the exact test agrees, which takes ``pairs_needed``."""
        apart = self.low > 0 or self.high < 0
        return self.spread and apart and self.exact_p <= 1 - self.confidence

    def within(self, margin: float) -> bool:
        """Whether the whole t interval lies inside ``margin`` on both sides of zero: practically equal.

        Two one-sided tests (Schuirmann 1987) ask that of a 90 % interval at the level of 5 %; the 95 %
        interval, which is shown, asks more.
        """
        return self.spread and -margin < self.low and self.high < margin


def paired_difference(
    first: Sequence[Run], second: Sequence[Run], metric: str = "test_accuracy", confidence: float = 0.95
) -> PairedDifference:
    """Compares the last epochs of runs that share seeds. Raises ``LabError`` as ``make_pairs`` does."""
    differences = [final(a, metric) - final(b, metric) for a, b in make_pairs(first, second)]
    return describe_differences(differences, confidence)


def describe_differences(differences: Sequence[float], confidence: float = 0.95) -> PairedDifference:
    """``PairedDifference`` of the differences in each pair, float ``(pairs,)``. Raises ``LabError`` for none
    and for what is no number.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values) or not np.isfinite(values).all():
        found = f"разностей {len(values)}, из них чисел {np.isfinite(values).sum()}"
        raise LabError(f"Пары сравнить нельзя ({found}): нужна одна или больше, и все числа.")
    mean, pairs = float(values.mean()), len(values)
    if pairs == 1:
        unknown = (-np.inf, np.inf, 1.0)
        return PairedDifference(mean, np.nan, *unknown, *unknown, np.nan, 1, confidence)
    deviation = float(values.std(ddof=1)) if np.ptp(values) > 1e-12 else 0.0
    student = (mean, mean, float(mean == 0))  # of differences all alike, which have no t
    if deviation:
        test = stats.ttest_1samp(values, 0)
        student = (*map(float, test.confidence_interval(confidence)), float(test.pvalue))
    exact = (*exact_interval(values, confidence), sign_flip_p(values))
    provable = deviation and pairs >= pairs_needed(confidence)
    detectable = detectable_difference(deviation, pairs, confidence) if provable else np.nan
    return PairedDifference(mean, deviation, *student, *exact, detectable, pairs, confidence)


def exact_interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the centre of a symmetric distribution, of at least ``confidence`` for any number of
    values.

    The means of all 2^n - 1 non-empty subsets cut the line into 2^n parts, each as likely as any other to
    hold the centre (Hartigan 1969, "Using subsample values as typical values", JASA 64). Infinite where there
    are too few values: below 6 for 95 %. Above 16 values, where subsets are too many to list, 10 000 random
    ones (the same ones each time).
    """
    values = np.asarray(differences, dtype=float)
    if len(values) <= 16:
        members = (np.arange(1, 2 ** len(values))[:, None] >> np.arange(len(values))) & 1
    else:
        members = np.random.default_rng(0).integers(0, 2, (10_000, len(values)))
        members = members[members.any(axis=1)]
    means = np.sort(members @ values / members.sum(axis=1))
    outside = int((1 - confidence) / 2 * (len(means) + 1))  # parts to leave out on each side
    return (float(means[outside - 1]), float(means[-outside])) if outside else (-np.inf, np.inf)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of Fisher's randomisation test: the share of sign patterns that move the mean as far
    from zero.

    All 2^n of them to n = 13, else 10 000 random ones. At least 2 / 2^n: five pairs cannot go below 0.0625.
    """
    values, options = np.asarray(differences, dtype=float), {"n_resamples": 10_000, "random_state": 0}
    return float(stats.permutation_test((values,), np.mean, permutation_type="samples", **options).pvalue)


def detectable_difference(
    deviation: float, pairs: int, confidence: float = 0.95, power: float = 0.8
) -> float:
    """The true mean difference that a paired t test of ``pairs`` pairs, of standard deviation ``deviation``,
    finds with a chance of ``power``; NaN for one pair.
    """
    if pairs < 2:
        return np.nan
    critical = stats.t.ppf((1 + confidence) / 2, pairs - 1)

    def lacking(shift: float) -> float:  # the chance to find the wrong sign is a few millionths
        return stats.nct.sf(critical, pairs - 1, shift) - power

    return float(optimize.brentq(lacking, 0, 3 * critical + 3) * deviation / np.sqrt(pairs))


def pairs_to_decide(difference: PairedDifference, margin: float = MARGIN, power: float = 0.8) -> int | None:
    """How many pairs, more than there are, would decide with a chance of ``power`` if the difference and the
    spread seen are the true ones: prove it, or that it lies inside ``margin``, whichever takes fewer.

    ``None``: over 1 000, or no spread.
    """
    confidence, deviation = difference.confidence, difference.deviation
    if not difference.spread:
        return None
    beyond = stats.norm.ppf((1 + power) / 2)
    for pairs in range(max(pairs_needed(confidence), difference.pairs + 1), 1001):
        half = stats.t.ppf((1 + confidence) / 2, pairs - 1)
        apart = detectable_difference(deviation, pairs, confidence, power) <= abs(difference.mean)
        if apart or (half + beyond) * deviation / np.sqrt(pairs) < margin - abs(difference.mean):
            return pairs
    return None


class McNemar(NamedTuple):
    """Test pictures that only the first or only the second of two networks names rightly, and the exact
    two-sided p-value.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Run, second: Run) -> McNemar:
    """McNemar's exact test of the predictions of two runs on the same pictures (1947; Dietterich 1998).

    It asks about these two trained networks; only several seeds tell about the optimizers. Raises
    ``LabError`` for other pictures.
    """
    if not first.predictions["label"].equals(second.predictions["label"]):
        way_out = "сравнивайте прогоны одного набора"
        raise LabError(f"Предсказания двух прогонов сделаны на разных снимках: {way_out}.")
    right, other = (run.predictions["prediction"] == run.predictions["label"] for run in (first, second))
    only_first, only_second = int((right & ~other).sum()), int((other & ~right).sum())
    decided = only_first + only_second
    p_value = float(stats.binomtest(only_first, decided).pvalue) if decided else 1.0
    return McNemar(only_first, only_second, p_value)


def area_under_curve(run: Run) -> float:
    """Test accuracy averaged over the training: the area under its curve over the epochs, divided by their
    number.
    """
    tested = run.history.dropna(subset="test_accuracy")
    epochs, accuracy = tested["epoch"], tested["test_accuracy"]
    if len(tested) < 2:
        return float(accuracy.mean())
    return float(integrate.trapezoid(accuracy, epochs) / (epochs.iloc[-1] - epochs.iloc[0]))


def tested_along(runs: Sequence[Run]) -> bool:
    """Whether all ``runs`` were tested between their ends: two points make no mean over the epochs."""
    return all(run.history["test_accuracy"].count() > 2 or len(run.history) <= 2 for run in runs)


def reached(run: Run, accuracy: float) -> tuple[float, float]:
    """The first epoch whose test accuracy is at least ``accuracy`` and the seconds of training until its end;
    NaN if none is.
    """
    enough = run.history["test_accuracy"] >= accuracy
    if not enough.any():
        return np.nan, np.nan
    index = enough.idxmax()
    return float(run.history["epoch"][index]), float(run.history["seconds"][: index + 1].sum())


def majority_share(run: Run) -> float:
    """The share of the most frequent class in the test part: the accuracy of the best constant answer."""
    return float(run.predictions["label"].value_counts(normalize=True).iloc[0])


def beats_majority(run: Run) -> bool:
    """Whether more answers of the last epoch are right than always naming the most frequent class would get,
    by an exact test at 5 %.
    """
    return learned_interval(run, final(run, "test_accuracy"))[0] > majority_share(run)


def learned_interval(run: Run, accuracy: float, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval (Clopper and Pearson 1934) of ``accuracy`` on the test pictures of ``run``."""
    images = len(run.predictions)
    if not images or np.isnan(accuracy):
        return 0.0, 1.0
    low, high = stats.binomtest(round(accuracy * images), images).proportion_ci(confidence)
    return float(low), float(high)
