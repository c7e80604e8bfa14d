"""Many runs to one answer: learning rates tuned on validation, paired runs, their difference and how sure it is.

The protocol is that of Schneider et al. (DeepOBS, 2019, arXiv 1903.05499) and Schmidt et al. (2021, arXiv 2007.01547): every
optimizer is tuned with the same budget, the best setting is repeated with several seeds, the test part is looked at once.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import integrate, optimize, stats

from labnn.data import CarsData
from labnn.experiment import Experiment, Run, check_optimizer
from labnn.kit.errors import LabError, check
from labnn.runner import run_all

# Two points in each power of ten.
GRID = (1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2, 1e-1)

# Fewer pairs prove nothing, however far apart they lie: their spread is not known well enough.
LEAST_PAIRS = 5


@dataclass(frozen=True)
class Protocol:
    """Compares ``optimizers`` on ``base``, whose own optimizer, rate, decay and seed do not matter.

    Each optimizer trains with every learning rate of ``grid`` on the training part without its validation share, where its
    accuracy chooses the rate; then with that rate and every one of ``seeds`` seeds on the whole training part. Runs that share a seed
    share the initial weights, the order of the batches and their augmentation: they are pairs. ``weight_decay`` is for all, or
    ``None``: for each what is usual with it. Raises ``LabError`` for a protocol that could compare nothing.
    """

    base: Experiment
    optimizers: tuple[str, ...] = ("amsgrad", "adam")
    grid: tuple[float, ...] = GRID
    seeds: int = 5
    weight_decay: float | None = None

    def __post_init__(self):
        for name in self.optimizers:
            check_optimizer(name)
        if len(set(self.optimizers)) != len(self.optimizers) or len(self.optimizers) < 2:
            raise LabError(
                f"Сравнивать нечего: оптимизаторы {', '.join(self.optimizers)}; назовите два разных или больше."
            )
        check("seeds", self.seeds, int, 1, 10**6)
        if not self.grid or len(set(self.grid)) < len(self.grid):
            raise LabError(
                f"Сетка скоростей обучения {list(self.grid)} не годится: задайте одну или больше, все разные."
            )
        for lr in self.grid:
            self._experiment(self.optimizers[0], lr, 0)  # refuses what no training can have

    def tuning(self) -> list[Experiment]:
        """A run for every rate and optimizer, from the middle of the grid outwards, so that the first to end say most."""
        outwards = sorted(self.grid, key=lambda lr: abs(np.log(lr / np.median(self.grid))))
        return [self._experiment(name, lr, 0) for lr in outwards for name in self.optimizers]

    def finals(self, rates: dict[str, float]) -> list[Experiment]:
        """A run for every seed and optimizer, pair by pair."""
        return [
            self._experiment(name, rates[name], seed)
            for seed in range(self.seeds)
            for name in self.optimizers
        ]

    def _experiment(self, optimizer: str, lr: float, seed: int) -> Experiment:
        return replace(self.base, optimizer=optimizer, lr=lr, seed=seed, weight_decay=self.weight_decay)

    def tune(self, data: CarsData, runs_dir: str | Path, **options) -> list[Run]:
        """Trains the tuning runs, or reads the recorded ones, in ``runs_dir``/tuning; ``options`` are those of ``runner.run_all``.

        Rates that diverge are left out. Raises ``LabError`` if an optimizer diverges with all.
        """
        runs = run_all(
            self.tuning(), data.validation(), Path(runs_dir) / "tuning", skip_diverged=True, **options
        )
        if lost := set(self.optimizers) - {run.experiment.optimizer for run in runs}:
            raise LabError(
                f"Обучение расходится со всеми скоростями сетки ({', '.join(sorted(lost))}): добавьте меньшие."
            )
        return runs

    def compare(self, tuning: Sequence[Run], data: CarsData, runs_dir: str | Path, **options) -> list[Run]:
        """Then the final runs, in ``runs_dir``/final, with the rates that were best in ``tuning``."""
        return run_all(self.finals(best_rates(tuning)), data, Path(runs_dir) / "final", **options)


def sensitivity(tuning: Sequence[Run]) -> pd.DataFrame:
    """A row an optimizer and learning rate: ``optimizer``, ``lr``, last ``accuracy`` 0..1 and ``loss`` (nats), means over seeds."""
    rows = [
        [run.experiment.optimizer, run.experiment.lr, last(run, "test_accuracy"), last(run, "test_loss")]
        for run in tuning
    ]
    table = pd.DataFrame(rows, columns=["optimizer", "lr", "accuracy", "loss"])
    return table.groupby(["optimizer", "lr"], as_index=False).mean()


def best_rates(tuning: Sequence[Run]) -> dict[str, float]:
    """The learning rate of each optimizer with the highest accuracy on validation; of equal ones that with the lower loss."""
    table = sensitivity(tuning).sort_values(["accuracy", "loss"], ascending=[False, True])
    return table.groupby("optimizer")["lr"].first().to_dict()


class PairedDifference(NamedTuple):
    """Mean over pairs of ``first`` minus ``second`` and how sure it is; all but the last two in the metric's units or p-values.

    ``low``, ``high``: Student's t interval; ``p_value``: the paired t test. ``exact_low``, ``exact_high``, ``exact_p``: without the
    normal distribution, see ``exact_interval`` and ``sign_flip_p``. ``detectable``: the true difference that these many pairs of
    this spread would have shown with a chance of 80 %. With one pair intervals are infinite and ``deviation`` and ``detectable`` NaN.
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
    def proven(self) -> bool:
        """Whether the t interval of enough pairs excludes zero."""
        return self.pairs >= LEAST_PAIRS and (self.low > 0 or self.high < 0)


def last(run: Run, metric: str) -> float:
    """``metric``, a column of the history, after the last epoch: never the best one, which would be chosen on the test."""
    return float(run.history[metric].iloc[-1])


def paired_difference(
    first: Sequence[Run], second: Sequence[Run], metric: str = "test_accuracy", confidence: float = 0.95
) -> PairedDifference:
    """Compares the last epochs of runs that share seeds.

    Raises ``LabError`` where the runs do not pair off: every seed of one must have its run in the other, equal in all but
    the optimizer, its learning rate and its weight decay.
    """
    pairs = make_pairs(first, second)
    return describe_differences([last(a, metric) - last(b, metric) for a, b in pairs], confidence)


def make_pairs(first: Sequence[Run], second: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs that share a seed, by seed. Raises ``LabError`` as ``paired_difference`` does."""
    first, second = sorted(first, key=_pairing), sorted(second, key=_pairing)
    if not first or [_pairing(run) for run in first] != [_pairing(run) for run in second]:
        raise LabError(
            "Прогоны двух оптимизаторов не образуют пар: обучите оба с одинаковыми зёрнами и настройками."
        )
    return list(zip(first, second, strict=True))


def describe_differences(differences: Sequence[float], confidence: float = 0.95) -> PairedDifference:
    """``PairedDifference`` of the differences in each pair, float ``(pairs,)``."""
    values = np.asarray(differences, dtype=float)
    mean, pairs = float(values.mean()), len(values)
    if pairs == 1:
        return PairedDifference(
            mean, np.nan, -np.inf, np.inf, 1.0, -np.inf, np.inf, 1.0, np.nan, 1, confidence
        )
    deviation = float(values.std(ddof=1))
    low, high, p_value = mean, mean, float(mean == 0)  # of differences all alike, which have no t
    if np.ptp(values) > 1e-12:
        test = stats.ttest_1samp(values, 0)
        (low, high), p_value = test.confidence_interval(confidence), test.pvalue
    exact = exact_interval(values, confidence)
    detectable = detectable_difference(deviation, pairs, confidence)
    return PairedDifference(
        mean,
        deviation,
        float(low),
        float(high),
        float(p_value),
        *exact,
        sign_flip_p(values),
        detectable,
        pairs,
        confidence,
    )


def exact_interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the centre of a symmetric distribution, of at least ``confidence`` for any number of values.

    The means of all 2^n - 1 non-empty subsets cut the line into 2^n parts, each as likely as any other to hold the centre
    (Hartigan 1969, "Using subsample values as typical values", JASA 64). Infinite where there are too few values: below 6 for
    95 %. Above 16 values, where subsets are too many to list, 10 000 random ones (the same ones each time).
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
    """Two-sided p-value of Fisher's randomisation test: the share of sign patterns that move the mean as far from zero.

    All 2^n of them to n = 13, else 10 000 random ones. At least 2 / 2^n: five pairs cannot go below 0.0625.
    """
    values = np.asarray(differences, dtype=float)
    test = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=10_000, random_state=0
    )
    return float(test.pvalue)


def detectable_difference(
    deviation: float, pairs: int, confidence: float = 0.95, power: float = 0.8
) -> float:
    """The true mean difference that a paired t test of ``pairs`` pairs, of standard deviation ``deviation``, finds with a chance of ``power``."""
    freedom = pairs - 1
    critical = stats.t.ppf((1 + confidence) / 2, freedom)
    if pairs < LEAST_PAIRS:
        return np.nan  # nothing would have been shown

    def lacking(shift: float) -> float:
        return (
            stats.nct.sf(critical, freedom, shift) - power
        )  # the chance to find the wrong sign is a few millionths

    return float(optimize.brentq(lacking, 0, 3 * critical + 3) * deviation / np.sqrt(pairs))


class McNemar(NamedTuple):
    """Test pictures that only the first or only the second of two networks names rightly, and the exact two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Run, second: Run) -> McNemar:
    """McNemar's exact test of the predictions of two runs on the same pictures (1947; Dietterich 1998).

    It asks about these two trained networks; only several seeds tell about the optimizers. Raises ``LabError`` for other pictures.
    """
    if not first.predictions["label"].equals(second.predictions["label"]):
        raise LabError(
            "Предсказания двух прогонов сделаны на разных снимках: сравнивайте прогоны одного набора."
        )
    right, other = (run.predictions["prediction"] == run.predictions["label"] for run in (first, second))
    only_first, only_second = int((right & ~other).sum()), int((other & ~right).sum())
    p_value = (
        stats.binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    )
    return McNemar(only_first, only_second, float(p_value))


def area_under_curve(run: Run) -> float:
    """Test accuracy averaged over the training, 0..1: the area under its curve over the epochs, divided by their number."""
    tested = run.history.dropna(subset="test_accuracy")
    epochs, accuracy = tested["epoch"], tested["test_accuracy"]
    return (
        float(integrate.trapezoid(accuracy, epochs) / (epochs.iloc[-1] - epochs.iloc[0]))
        if len(tested) > 1
        else float(accuracy.iloc[0])
    )


def reached(run: Run, accuracy: float) -> tuple[float, float]:
    """The first epoch whose test accuracy is at least ``accuracy`` and the seconds of training until its end; NaN if none is."""
    enough = run.history["test_accuracy"] >= accuracy
    if not enough.any():
        return np.nan, np.nan
    index = enough.idxmax()
    return float(run.history["epoch"][index]), float(run.history["seconds"][: index + 1].sum())


def comparable(runs: Sequence[Run]) -> list[list[Run]]:
    """``runs`` in groups that differ in optimizer and seed only, the largest first; an optimizer may have its own rate and decay."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(_conditions(run), []).append(run)
    parts = []
    for group in groups.values():
        tuned = {(run.experiment.optimizer, _own(run)) for run in group}
        if len(tuned) == len({optimizer for optimizer, _ in tuned}):
            parts.append(group)
        else:  # not tuned: only equal rates and decays compare
            parts += [[run for run in group if _own(run) == own] for own in sorted({own for _, own in tuned})]
    return sorted(parts, key=len, reverse=True)


def _own(run: Run) -> tuple[float, float]:
    return run.experiment.lr, run.experiment.weight_decay


def _conditions(run: Run) -> tuple:
    settings = asdict(run.experiment)
    del settings["optimizer"], settings["seed"], settings["lr"], settings["weight_decay"]
    return run.data["fingerprint"], tuple(sorted(settings.items()))


def _pairing(run: Run) -> tuple:
    return *_conditions(run), run.experiment.seed
