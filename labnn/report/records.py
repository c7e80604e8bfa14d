"""Records as one table, a row a run: its settings, what came out, where it was made; and pairs of runs."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import integrate

from labnn.experiment import Run, load_runs
from labnn.kit.errors import LabError
from labnn.report.statistics import share_interval
from labnn.settings import OPTIMIZERS, method
from labnn.train import FIGURES

MACHINE = ["device", "processor", "precision", "torch", "threads"]


def load(folder: str | Path) -> pd.DataFrame:
    """``table`` of the runs recorded in ``folder``. Raises ``LabError`` for a damaged record."""
    return table(load_runs(folder))


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run, in the order of ``OPTIMIZERS``, AMSGrad first.

    Columns: the fields of ``Experiment``; ``run`` itself; ``recipe``, its experiment but for the seed, and
    ``shared``, but for optimizer, rate and decay, too; the optimizer's ``title``; ``fingerprint`` and
    ``content`` of the photos; ``FIGURES`` of the last epoch, never of the best, which would be chosen on the
    test; ``mean_accuracy`` over the epochs, NaN where fewer than three were tested; ``minutes``, the time of
    training times the threads; of AMSGrad ``held``, the share of weights that its maximum binds at the end,
    and ``factor``, its step / Adam's of the same moments, median over the weights, mean over the epochs
    weighted by their rates, NaN for others; shares of the most frequent class (``majority``) and answer
    (``top_share``), the number of different ``answers``, whether the network ``learns``; and the ``MACHINE``.
    """
    least = ["run", "optimizer", "title", "seed", "lr", "shared", "fingerprint", "precision", "factor"]
    found = pd.DataFrame([_row(run) for run in runs], columns=None if runs else [*least, *FIGURES])
    # Older records do not know the content of their photos: they go with those of the same fingerprint.
    contents = {run.data["fingerprint"]: run.data["content"] for run in runs if run.data.get("content")}
    found["content"] = [run.data.get("content") or contents.get(run.data["fingerprint"], "") for run in runs]
    order = [*OPTIMIZERS, *sorted(found["optimizer"])]
    places = found["optimizer"].map(order.index)
    return found.loc[places.sort_values(kind="stable").index].reset_index(drop=True)


def _row(run: Run) -> dict:
    history, answers, recipe = run.history, run.predictions, replace(run.experiment, seed=0)
    row = asdict(run.experiment) | {"run": run, "recipe": recipe, "title": method(recipe.optimizer).title}
    row["shared"] = replace(recipe, optimizer="adam", lr=1.0, weight_decay=0.0)
    row |= {name: str(run.environment.get(name, "—")) for name in MACHINE}
    row |= {name: float(history[name].astype(float).iloc[-1]) for name in FIGURES}
    row |= {"fingerprint": run.data["fingerprint"], "minutes": history["seconds"].sum() / 60}
    row["minutes"] *= run.environment.get("threads", 1)
    bound = "maximum_share" in history
    row["held"] = history["maximum_share"].iloc[-1] if bound else np.nan
    row["factor"] = np.average(history["step_50"], weights=history["lr"]) if bound else np.nan
    tested = history.dropna(subset="test_accuracy")
    area = integrate.trapezoid(tested["test_accuracy"], tested["epoch"])
    row["mean_accuracy"] = area / np.ptp(tested["epoch"]) if len(tested) > 2 else np.nan
    shares = answers["prediction"].value_counts(normalize=True)
    row["majority"] = answers["label"].value_counts(normalize=True).iloc[0]
    row |= {"top_share": shares.iloc[0], "answers": len(shares)}
    return row | {"learns": share_interval(row["test_accuracy"], len(answers))[0] > row["majority"]}


def by(found: pd.DataFrame, *names: str) -> dict:
    """The parts of ``found`` that are alike in the columns ``names``, in the order of its rows."""
    return dict(list(found.groupby(names[0] if len(names) == 1 else [*names], sort=False)))


def pairs(found: pd.DataFrame) -> pd.DataFrame:
    """A row a pair, by seed: runs of the two optimizers of ``found`` that share the seed, the photos and all
    settings but rate and decay. Columns end in ``_first`` and ``_second``; ``difference`` is that of their
    last test accuracies. A run without a partner, or with a figure that is no number, is left out.

    Raises ``LabError`` where there are not two optimizers, no pair is left, or a seed has several.
    """
    names, key = list(by(found, "optimizer")), ["fingerprint", "content", "shared", "seed"]
    if len(names) != 2:
        raise LabError(f"Пары бывают у двух оптимизаторов, а не у {len(names)}: выберите прогоны двух.")
    known = found[np.isfinite(found[FIGURES]).all(axis=1)].drop_duplicates(["fingerprint", "recipe", "seed"])
    if known.duplicated([*key, "optimizer"]).any():
        told = "оптимизатор обучен с одним зерном при разных скоростях или затухании весов"
        raise LabError(f"Прогоны не образуют пар: {told}; оставьте по одному прогону на зерно.")
    first, second = (known[known["optimizer"] == name] for name in names)
    paired = first.merge(second, on=key, suffixes=("_first", "_second"))
    if paired.empty:
        way_out = "обучите оба с одинаковыми зёрнами и настройками, на одних снимках"
        raise LabError(f"Прогоны двух оптимизаторов не образуют пар: {way_out}.")
    paired["difference"] = paired["test_accuracy_first"] - paired["test_accuracy_second"]
    return paired.sort_values("seed", ignore_index=True)


def is_paired(found: pd.DataFrame) -> bool:
    """Whether ``pairs`` of ``found`` can be made."""
    try:
        return len(pairs(found)) > 0
    except LabError:
        return False


def best_rates(tuning: pd.DataFrame) -> dict[str, float]:
    """The rate of each optimizer with the highest accuracy on validation, mean over seeds; of equal ones the
    one with the lower loss.
    """
    tried = tuning.groupby(["optimizer", "lr"], as_index=False)[["test_accuracy", "test_loss"]].mean()
    tried = tried.sort_values(["test_accuracy", "test_loss"], ascending=[False, True])
    return tried.groupby("optimizer")["lr"].first().to_dict()


def tops(tuning: pd.DataFrame) -> dict[str, float]:
    """Of each optimizer the rate at the top of a parabola over the logarithm of the rate, fitted to all its
    accuracies on validation, since one run a rate is noisy, but within the rates tried; the most accurate
    where it has no top.
    """
    found = best_rates(tuning)
    for name, part in by(tuning, "optimizer").items():
        if part["lr"].nunique() > 2:
            places = np.log10(part["lr"])
            bend, slope, _ = np.polyfit(places, part["test_accuracy"], 2)
            if bend < 0:
                found[name] = 10 ** np.clip(-slope / (2 * bend), places.min(), places.max())
    return found


def nearest(rates: pd.Series, rate: float) -> float:
    """Of ``rates`` the one nearest to ``rate``, by their ratio."""
    return rates.loc[np.log(rates / rate).abs().idxmin()]


def top_rates(tuning: pd.DataFrame) -> dict[str, float]:
    """Of each optimizer the rate tried that is nearest to its top (``tops``)."""
    tried = by(tuning, "optimizer")
    return {name: nearest(tried[name]["lr"], top) for name, top in tops(tuning).items()}


def twins(found: pd.DataFrame, rates: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of ``found`` the runs of Adam and of AMSGrad, or of AdamW and of AdamW-AMSGrad; none unless each has so
    many ``rates`` or more.
    """
    for names in (("adam", "amsgrad"), ("adamw", "adamw-amsgrad")):
        parts = [found[found["optimizer"] == name] for name in names]
        if all(part["lr"].nunique() >= rates for part in parts):
            return tuple(parts)
    return found[:0], found[:0]


def apart(curve: pd.DataFrame, other: pd.DataFrame, rates: pd.Series) -> float:
    """How far the training losses of ``other``, laid at these ``rates``, lie from the ``curve`` through those
    of another optimizer by the logarithm of its rate, within its rates: the mean, in nats.
    """
    means = curve.groupby("lr")["train_loss"].mean()
    inside = rates.between(means.index.min(), means.index.max())
    there = np.interp(np.log(rates[inside]), np.log(means.index), means)
    return (other.loc[inside, "train_loss"] - there).abs().mean()


def comparable(found: pd.DataFrame) -> list[pd.DataFrame]:
    """``found`` in parts that differ in optimizer and seed only, the largest first. An optimizer may have its
    own rate and decay; where one has several, runs of equal rate and decay are a part.
    """
    parts: list[pd.DataFrame] = []
    for part in by(found, "content", "fingerprint", "shared").values():
        own = part.groupby("optimizer")[["lr", "weight_decay"]].nunique()
        parts += [part] if own.max(axis=None) == 1 else by(part, "lr", "weight_decay").values()
    return sorted(parts, key=len, reverse=True)


def one_protocol(final: pd.DataFrame, tuning: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of several comparisons in a folder the one with most runs at the rates that its tuning chose, and that
    tuning: a grid that was widened leaves runs at its old best rate behind.
    """
    best = {shared: best_rates(part) for shared, part in by(tuning, "shared").items()}
    runs = zip(final["shared"], final["optimizer"], final["lr"], strict=True)
    chosen = [best.get(shared, {}).get(name, lr) == lr for shared, name, lr in runs]
    found = (comparable(final[chosen]) or comparable(final))[0]
    return found, tuning[tuning["shared"] == found["shared"].iloc[0]]
