"""Records as one table, a row a run: its settings, what came out, where it was made; and pairs of runs."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import integrate, stats

from labnn.experiment import Run, load_runs
from labnn.kit.errors import LabError
from labnn.settings import OPTIMIZERS, Experiment, method
from labnn.train import FIGURES

SETTINGS = [field.name for field in fields(Experiment)]
RECIPE = [name for name in SETTINGS if name != "seed"]
# The settings in which runs of different optimizers are alike: each optimizer has its own rate and decay.
SHARED = [name for name in RECIPE if name not in ("optimizer", "lr", "weight_decay")]
MACHINE = ["device", "processor", "precision", "torch", "threads"]


def load(folder: str | Path) -> pd.DataFrame:
    """``table`` of the runs recorded in ``folder``. Raises ``LabError`` for a damaged record."""
    return table(load_runs(folder))


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run, in the order of ``OPTIMIZERS``, AMSGrad first.

    Columns: the fields of ``Experiment``; ``run`` itself and the optimizer's ``title``; ``fingerprint`` and
    ``content`` of its photos; ``FIGURES`` of the last epoch, never of the best, which would be chosen on the
    test; ``mean_accuracy`` over the epochs (NaN where only the ends were tested); ``minutes`` of training;
    of the answers the share of the most frequent class ``majority``, of the most frequent answer
    ``top_share``, the number of different ``answers``, and whether the network ``learns``; ``held``, the
    share of weights that AMSGrad's maximum binds at the end; and the ``MACHINE``.
    """
    found = pd.DataFrame([_row(run) for run in runs], columns=None if runs else ["run", *SETTINGS, *FIGURES])
    # Older records do not know the content of their photos: they go with those of the same fingerprint.
    contents = {run.data["fingerprint"]: run.data["content"] for run in runs if run.data.get("content")}
    found["content"] = [run.data.get("content") or contents.get(run.data["fingerprint"], "") for run in runs]
    found["title"] = [method(name).title for name in found["optimizer"]]
    order = [*OPTIMIZERS, *sorted(set(found["optimizer"]) - set(OPTIMIZERS))]
    places = found["optimizer"].map(order.index)
    return found.iloc[places.argsort(kind="stable")].reset_index(drop=True)


def _row(run: Run) -> dict:
    history, answers = run.history, run.predictions
    row = asdict(run.experiment) | {"run": run, "fingerprint": run.data["fingerprint"]}
    row |= {name: str(run.environment.get(name, "—")) for name in MACHINE}
    row |= {name: float(history[name].astype(float).iloc[-1]) for name in FIGURES}
    row |= {"mean_accuracy": _mean_accuracy(history), "minutes": history["seconds"].sum() / 60}
    row["held"] = history["maximum_share"].iloc[-1] if "maximum_share" in history else np.nan
    if len(answers):
        shares = answers["prediction"].value_counts(normalize=True)
        row["majority"] = answers["label"].value_counts(normalize=True).iloc[0]
        row |= {"top_share": shares.iloc[0], "answers": len(shares)}
        row["learns"] = learned_interval(run, row["test_accuracy"])[0] > row["majority"]
    return row


def _mean_accuracy(history: pd.DataFrame) -> float:
    """The area under the test accuracy's curve over the epochs, divided by their number."""
    tested = history.dropna(subset="test_accuracy")
    if len(tested) < 3 <= len(history):
        return np.nan
    if len(tested) < 2:
        return float(tested["test_accuracy"].mean())
    return float(integrate.trapezoid(tested["test_accuracy"], tested["epoch"]) / np.ptp(tested["epoch"]))


def learned_interval(run: Run, accuracy: float) -> tuple[float, float]:
    """The exact 95 % interval (Clopper and Pearson 1934) of ``accuracy`` on the test pictures of ``run``."""
    images = len(run.predictions)
    if not images or np.isnan(accuracy):
        return 0.0, 1.0
    low, high = stats.binomtest(round(accuracy * images), images).proportion_ci(0.95)
    return float(low), float(high)


def changed(run: Run, base: Experiment) -> list[str]:
    """The names of the settings that ``run`` has otherwise than ``base``, the seed apart."""
    return [name for name in RECIPE if getattr(run.experiment, name) != getattr(base, name)]


def by(found: pd.DataFrame, *names: str) -> dict:
    """The parts of ``found`` that are alike in the columns ``names``, in the order of its rows."""
    if not len(found):
        return {}
    return {key if len(names) > 1 else key[0]: part for key, part in found.groupby([*names], sort=False)}


def pairs(found: pd.DataFrame) -> pd.DataFrame:
    """A row a pair, by seed: runs of the two optimizers of ``found`` that share the seed, the photos and
    ``SHARED``. Columns end in ``_first`` and ``_second``; a run without a partner, or with a figure that is
    no number, is left out.

    Raises ``LabError`` where there are not two optimizers, no pair is left, or a seed has several.
    """
    names, key = list(by(found, "optimizer")), ["fingerprint", *SHARED, "seed"]
    if len(names) != 2:
        raise LabError(f"Пары бывают у двух оптимизаторов, а не у {len(names)}: выберите прогоны двух.")
    known = found[np.isfinite(found[FIGURES]).all(axis=1)].drop_duplicates([*SETTINGS, "fingerprint"])
    twins = known[known.duplicated([*key, "optimizer"], keep=False)]
    if len(twins):
        rates = " и ".join(f"{lr:g}" for lr in twins["lr"].iloc[:2])
        told = f"зерно {twins['seed'].iloc[0]} есть со скоростями {rates}"
        raise LabError(f"Прогоны не образуют пар: {told}; оставьте по одной на оптимизатор.")
    first, second = (known[known["optimizer"] == name].set_index(key) for name in names)
    paired = first.join(second, how="inner", lsuffix="_first", rsuffix="_second").sort_index().reset_index()
    if paired.empty:
        way_out = "обучите оба с одинаковыми зёрнами и настройками"
        raise LabError(f"Прогоны двух оптимизаторов не образуют пар: {way_out}.")
    known = paired[["content_first", "content_second"]].replace("", np.nan).dropna()
    if (known["content_first"] != known["content_second"]).any():
        raise LabError("Прогоны двух оптимизаторов сделаны на разных снимках: обучите оба на одном наборе.")
    return paired


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


def comparable(found: pd.DataFrame) -> list[pd.DataFrame]:
    """``found`` in parts that differ in optimizer and seed only, the largest first. An optimizer may have its
    own rate and decay; where one has several, runs of equal rate and decay are a part.
    """
    parts: list[pd.DataFrame] = []
    for part in by(found, "content", "fingerprint", *SHARED).values():
        own = part.groupby("optimizer")[["lr", "weight_decay"]].nunique()
        parts += [part] if own.max(axis=None) == 1 else by(part, "lr", "weight_decay").values()
    return sorted(parts, key=len, reverse=True)


def same_settings(tuning: pd.DataFrame, part: pd.DataFrame) -> pd.DataFrame:
    """Those of ``tuning`` whose ``SHARED`` settings are those of ``part``, whatever their photos."""
    return tuning[(tuning[SHARED] == part[SHARED].iloc[0]).all(axis=1)] if len(tuning) else tuning


def at_best_rates(final: pd.DataFrame, tuning: pd.DataFrame) -> pd.DataFrame:
    """Those of ``final`` with the rates that ``tuning`` found best for their settings: a grid that was
    widened leaves runs at its old best rate behind. All of them while an optimizer has no run at its best
    rate.
    """
    kept = []
    for part in by(final, *SHARED).values():
        best = part["optimizer"].map(best_rates(same_settings(tuning, part)))
        kept.append(part[part["lr"] == best.fillna(part["lr"])])
    kept = pd.concat(kept) if kept else final
    return kept if set(kept["optimizer"]) == set(final["optimizer"]) else final
