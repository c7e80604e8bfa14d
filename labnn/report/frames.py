"""Tables as numbers: accuracies 0..1, losses in nats, times in seconds unless a name says otherwise.

A mean's standard deviation over seeds is in a column of its own, ``..._deviation``, an interval in
``..._low`` and ``..._high``; what is not known is NaN. ``words.table`` makes of each what a reader sees.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd

from labnn.data import CarsData, ChanceLevels
from labnn.experiment import Run
from labnn.kit.errors import LabError
from labnn.report.statistics import (
    PairedDifference,
    area_under_curve,
    beats_majority,
    best_rates,
    by_experiment,
    by_optimizer,
    describe_differences,
    final,
    make_pairs,
    mcnemar,
    pairs_of,
    reached,
    sensitivity,
    tested_along,
)
from labnn.settings import Experiment

# The published result of the laboratory work that this one replaces, on the official test part: 68 photos of
# the most frequent class among 8 041.
PUBLISHED = {"step": "published", "test_images": 8041, "test_accuracy": 0.0085}


def epochs(runs: Sequence[Run]) -> pd.DataFrame:
    """The original report's table of one optimizer: a row an epoch, means over ``runs``, which differ in the
    seed only.
    """
    columns = ["seconds", "train_loss", "train_accuracy", "test_accuracy"]
    return pd.concat([run.history for run in runs]).groupby("epoch")[columns].mean().reset_index()


def summary(runs: Sequence[Run]) -> pd.DataFrame:
    """A row an optimizer: last-epoch figures, means and deviations over seeds; the mean over the epochs only
    of runs that were tested between their ends.
    """
    rows, along = [], tested_along(runs)
    for optimizer, group in by_optimizer(runs).items():
        row = {"optimizer": optimizer, "runs": len(group), "epochs": group[0].experiment.epochs}
        row["lr"] = group[0].experiment.lr
        for metric in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
            row |= _mean(metric, [final(run, metric) for run in group])
        row |= _mean("mean_accuracy", [area_under_curve(run) for run in group]) if along else {}
        row["seconds"] = _epoch_seconds(group)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
    deviation = np.std(values, ddof=1) if len(values) > 1 and np.isfinite(values).all() else np.nan
    return {name: float(np.mean(values)), f"{name}_deviation": float(deviation)}


def rates(tuning: Sequence[Run]) -> pd.DataFrame:
    """``sensitivity`` of the learning rates tried, in the order of optimizers, and which is ``best``."""
    best, table = best_rates(tuning), sensitivity(tuning)
    table["best"] = [best[row.optimizer] == row.lr for row in table.itertuples()]
    parts = [table[table["optimizer"] == optimizer] for optimizer in by_optimizer(tuning)]
    return pd.concat(parts, ignore_index=True)


def milestones(runs: Sequence[Run]) -> pd.DataFrame:
    """Epochs and seconds of training that each optimizer needs to the tens of percent that the best run
    reaches, or to the single ones where it reaches no ten: means over the seeds that reach it, how many do
    (``count``), and of how many.
    """
    rows, parts = [], 10 if max(run.history["test_accuracy"].max() for run in runs) >= 0.1 else 100
    for optimizer, group in by_optimizer(runs).items():
        for accuracy in np.arange(1, 11) / parts:
            ends = pd.DataFrame([reached(run, accuracy) for run in group], columns=["epochs", "seconds"])
            row = {"test_accuracy": accuracy, "optimizer": optimizer, **ends.mean()}
            rows.append(row | {"count": int(ends["epochs"].notna().sum()), "runs": len(group)})
    table = pd.DataFrame(rows)
    best = table.groupby("test_accuracy")["count"].transform("max")
    return table[best > 0].reset_index(drop=True)


def pairs(runs: Sequence[Run]) -> pd.DataFrame:
    """The pairs behind the verdict, a row a seed: accuracies of the two optimizers ``first`` and ``second``
    and their difference; photos that only one of the two networks names rightly, and McNemar's exact p-value.
    """
    rows, paired = [], pairs_of(runs)
    first, second = by_optimizer(runs)
    for a, b in paired:
        row = {"seed": a.experiment.seed, "first": first, "second": second}
        row |= {"first_accuracy": final(a, "test_accuracy"), "second_accuracy": final(b, "test_accuracy")}
        row["difference"] = row["first_accuracy"] - row["second_accuracy"]
        rows.append(row | mcnemar(a, b)._asdict())
    return pd.DataFrame(rows)


# What pairs are compared by, first that which the verdict goes by.
FIGURES = {
    "test_accuracy": lambda run: final(run, "test_accuracy"),
    "test_loss": lambda run: final(run, "test_loss"),
    "mean_accuracy": area_under_curve,
    "train_loss": lambda run: final(run, "train_loss"),
}


def differences(runs: Sequence[Run]) -> pd.DataFrame:
    """``PairedDifference`` of two optimizers in each of ``FIGURES``, a row a figure: ``difference``, its
    ``spread`` over pairs, intervals and p-values ``student`` and ``exact``, and whether it is ``proven``;
    without a spread there is no ``student``; no mean over the epochs of runs tested at their ends alone.

    The interval of the first, by which the verdict goes, holds with 95 %, those of the others with 95 % all
    together (Bonferroni).
    """
    paired = pairs_of(runs)
    names = {"mean": "difference", "deviation": "spread", "p_value": "student_p"}
    names |= {"low": "student_low", "high": "student_high"}
    rows, along = [], tested_along(runs)
    figures = {name: value for name, value in FIGURES.items() if along or name != "mean_accuracy"}
    for figure, value in figures.items():
        level = 1 - 0.05 / (len(figures) - 1 if rows else 1)
        found = describe_differences([value(a) - value(b) for a, b in paired], level)
        row = {"figure": figure} | found._asdict() | {"proven": found.proven}
        rows.append(row if found.spread else row | dict.fromkeys(("low", "high", "p_value"), np.nan))
    return pd.DataFrame(rows).rename(columns=names)


def cell_differences(runs: Sequence[Run], base: Experiment) -> dict[str, PairedDifference]:
    """AMSGrad minus Adam in last accuracy, by cell: runs that share all but optimizer and seed, called by
    their changes from ``base``. The intervals of all cells hold together with 95 % (Bonferroni).
    """
    found = {}
    for name, group in _cells(runs, base).items():
        with suppress(LabError):  # no pair yet
            paired = make_pairs(*by_optimizer(group).values())
            found[name] = [final(a, "test_accuracy") - final(b, "test_accuracy") for a, b in paired]
    level = 1 - 0.05 / max(len(found), 1)
    return {name: describe_differences(values, level) for name, values in found.items()}


def cells(runs: Sequence[Run], base: Experiment) -> pd.DataFrame:
    """``cell_differences`` in a table: also the mean accuracies of the pairs, and the share of weights whose
    maximum lies above v at the end of AMSGrad's runs.
    """
    rows, groups = [], _cells(runs, base)
    for name, found in cell_differences(runs, base).items():
        first, second = by_optimizer(groups[name])
        paired = make_pairs(*by_optimizer(groups[name]).values())
        row = {"cell": name, "pairs": found.pairs, "first": first, "second": second}
        for column, part in (("first_accuracy", 0), ("second_accuracy", 1)):
            row[column] = np.mean([final(pair[part], "test_accuracy") for pair in paired])
        held = [final(run, "maximum_share") for run, _ in paired if "maximum_share" in run.history]
        row["maximum_share"] = np.mean(held) if held else np.nan
        row |= {"difference": found.mean, "difference_low": found.low, "difference_high": found.high}
        rows.append(row | {"exact_p": found.exact_p})
    return pd.DataFrame(rows)


def _cells(runs: Sequence[Run], base: Experiment) -> dict[str, list[Run]]:
    """Runs of two optimizers by cell, called by the settings that any of them has otherwise than ``base``."""
    apart = {"optimizer", "seed", "weight_decay"}
    varied = [
        name
        for name in vars(base)
        if name not in apart and any(getattr(run.experiment, name) != getattr(base, name) for run in runs)
    ]
    found: dict[tuple, list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(getattr(run.experiment, name) for name in varied), []).append(run)
    groups = [found[key] for key in sorted(found)]
    names = [", ".join(group[0].experiment.words(name) for name in varied) for group in groups]
    cells = zip(names, groups, strict=True)
    return {name or "все": group for name, group in cells if len(by_optimizer(group)) == 2}


def ablation(runs: Sequence[Run], base: Experiment, title: str = "") -> pd.DataFrame:
    """A row a ``change`` from ``base``, which is called ``title``, the most accurate first: held-out accuracy
    and loss of the last epoch; the paired difference in accuracy from ``base``, over shared seeds, with its
    95 % interval; whether the networks of all seeds beat the most frequent class.
    """
    groups = by_experiment(runs)
    base_runs, rows = groups.get(replace(base, seed=0), []), []
    for experiment, group in groups.items():
        row = {"change": experiment.changes(base) or title, "runs": len(group)}
        row |= _mean("accuracy", [final(run, "test_accuracy") for run in group])
        row |= _mean("loss", [final(run, "test_loss") for run in group])
        row |= _difference(group, base_runs if group is not base_runs else [])
        rows.append(row | {"learns": all(beats_majority(run) for run in group)})
    return pd.DataFrame(rows).sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)


def _difference(runs: Sequence[Run], base: Sequence[Run], confidence: float = 0.95) -> dict[str, float]:
    first, second = (
        pd.Series({run.experiment.seed: final(run, "test_accuracy") for run in group}, dtype=float)
        for group in (runs, base)
    )
    shared, unknown = (first - second).dropna(), {"difference_low": np.nan, "difference_high": np.nan}
    if shared.empty:
        return {"difference": np.nan} | unknown
    found = describe_differences(shared, confidence)
    bounds = {"difference_low": found.low, "difference_high": found.high}
    return {"difference": found.mean} | (bounds if found.spread else unknown)


def others(tuning: Sequence[Run], runs: Sequence[Run], reference: str) -> pd.DataFrame:
    """A row an optimizer: its ``lr``, last ``accuracy``, the paired ``difference`` from ``reference`` with
    intervals that hold together with 95 % (Bonferroni), median ``seconds`` an epoch; ``validation`` holds the
    least and the greatest accuracy of the rates that it was tuned with.
    """
    groups, rows = by_optimizer(runs), []
    level, tried = 1 - 0.05 / max(len(groups) - 1, 1), by_optimizer(tuning)
    for optimizer, group in groups.items():
        row = {"optimizer": optimizer, "lr": group[0].experiment.lr, "runs": len(group)}
        row |= _mean("accuracy", [final(run, "test_accuracy") for run in group])
        row |= _difference(group, groups.get(reference, []) if optimizer != reference else [], level)
        held = [final(run, "test_accuracy") for run in tried.get(optimizer, ())]
        row |= {"validation_low": min(held, default=np.nan), "validation_high": max(held, default=np.nan)}
        rows.append(row | {"seconds": _epoch_seconds(group)})
    return pd.DataFrame(rows).sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)


def _epoch_seconds(runs: Sequence[Run]) -> float:
    """The median: an epoch that waited for other work on the machine took minutes."""
    return pd.concat([run.history["seconds"] for run in runs]).median()


def ladder(runs: Sequence[Run]) -> pd.DataFrame:
    """From the lowest test accuracy to the highest: a row for runs that differ in the seed alone, their
    means, and what they have that those before had otherwise.
    """
    rows, previous = [], None
    for experiment, group in _climb(runs):
        row = {"change": experiment.changes(previous) if previous else "", "epochs": experiment.epochs}
        rows.append(row | _mean("test_loss", [final(run, "test_loss") for run in group]) | _trained(group))
        previous = experiment
    return pd.DataFrame(rows)


def _climb(runs: Sequence[Run]) -> list[tuple[Experiment, list[Run]]]:
    """``by_experiment`` from the lowest mean test accuracy to the highest: no seed is chosen by its test."""
    groups = by_experiment(runs).items()
    return sorted(groups, key=lambda item: np.mean([final(run, "test_accuracy") for run in item[1]]))


def _trained(runs: Sequence[Run]) -> dict[str, float]:
    minutes = np.mean([run.history["seconds"].sum() / 60 for run in runs])
    accuracy = _mean("test_accuracy", [final(run, "test_accuracy") for run in runs])
    return {"runs": len(runs), "minutes": float(minutes)} | accuracy


def headline(runs: Sequence[Run]) -> pd.DataFrame:
    """The original against ours in four rows: what it published, and of ``runs`` the least accurate without
    and with batch norm, and the best; means of runs that differ in the seed alone.
    """
    climb, rows = _climb(runs), [PUBLISHED]
    steps = {
        "original": [group for experiment, group in climb if not experiment.batch_norm],
        "batch_norm": [group for experiment, group in climb if experiment.batch_norm],
        "best": [group for _, group in climb[::-1]],
    }
    for step, (group, *_) in steps.items():
        rows.append({"step": step, "test_images": group[0].data["test"]} | _trained(group))
    return pd.DataFrame(rows)


def collapse(runs: Sequence[Run]) -> pd.DataFrame:
    """What a network that answers every photo alike looks like: a row a run, from its last epoch and its
    predictions, of which ``top_share`` are the most frequent answer of ``answers``.
    """
    rows = []
    for run in sum(by_optimizer(runs).values(), []):
        shares = run.predictions["prediction"].value_counts(normalize=True)
        row = {"optimizer": run.experiment.optimizer, "epochs": run.experiment.epochs}
        row |= {metric: final(run, metric) for metric in ("train_loss", "test_loss", "test_accuracy")}
        rows.append(row | {"top_share": shares.iloc[0], "answers": len(shares)})
    return pd.DataFrame(rows)


def signal(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Of titled ``diagnose.signal_by_layer`` tables, a row a network: spread after the first and the last
    layer and gradient of the first.
    """
    rows = [
        [title, table["spread"].iloc[0], table["spread"].iloc[-1], table["gradient"].iloc[0]]
        for title, table in tables.items()
    ]
    return pd.DataFrame(rows, columns=["network", "first_spread", "last_spread", "first_gradient"])


def confused(run: Run, class_names: Sequence[str], count: int = 8) -> pd.DataFrame:
    """The ``count`` pairs of classes most often taken for one another on the test part, by name, both ways
    together: ``mistakes`` among the ``images`` of both.
    """
    wrong = run.predictions[run.predictions["label"] != run.predictions["prediction"]]
    both = np.sort(wrong[["label", "prediction"]].to_numpy(), axis=1)
    mistaken = pd.DataFrame(both, columns=["first", "second"]).value_counts(sort=True).head(count)
    sizes = run.predictions["label"].value_counts()
    rows = [
        [class_names[first], class_names[second], mistakes, sizes.reindex([first, second]).sum()]
        for (first, second), mistakes in mistaken.items()
    ]
    return pd.DataFrame(rows, columns=["class_name", "other_class", "mistakes", "images"])


def chance(levels: ChanceLevels) -> pd.DataFrame:
    """What answers that do not depend on the photo reach: all classes alike, always the most frequent one."""
    rows = [
        ["uniform", levels.uniform_accuracy, levels.uniform_loss],
        ["majority", levels.majority_share, levels.prior_loss],
    ]
    return pd.DataFrame(rows, columns=["answer", "accuracy", "loss"])


def data(cars: CarsData) -> pd.DataFrame:
    """Numbers of images and the spread of class sizes in both parts of a data set."""
    rows = []
    for name, part in (("train", cars.train), ("test", cars.test)):
        sizes = pd.Series(part.labels).value_counts()
        rows.append([name, len(part), sizes.size, sizes.min(), sizes.max()])
    return pd.DataFrame(rows, columns=["part", "images", "classes", "smallest", "largest"])


def maximum(runs: Sequence[Run]) -> pd.DataFrame:
    """How AMSGrad's maximum binds, a row an epoch: the columns of ``watchers.maximum_binding``, means over
    those of ``runs`` that recorded it; empty if none did.
    """
    columns = ["maximum_share", "step_10", "step_50", "step_90"]
    histories = [run.history for run in runs if "maximum_share" in run.history]
    if not histories:
        return pd.DataFrame(columns=["epoch", *columns], dtype=float)
    return pd.concat(histories).groupby("epoch")[columns].mean().reset_index()


def is_paired(runs: Sequence[Run]) -> bool:
    """Whether ``runs`` are of two optimizers with a seed in common, as ``pairs`` needs them."""
    try:
        return bool(pairs_of(runs))
    except LabError:
        return False
