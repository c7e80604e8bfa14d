"""Records as one table, a row a run: its settings, what came out, where it was made; and pairs of runs."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import integrate, stats

from labnn.experiment import Run, load_runs
from labnn.kit.errors import LabError
from labnn.settings import OPTIMIZERS, Experiment, method
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
    test; ``mean_accuracy`` over the epochs, NaN where only the ends were tested; ``minutes`` of training;
    ``held``, the share of weights that AMSGrad's maximum binds at the end; of the answers the share of the
    most frequent class ``majority`` and of the most frequent answer ``top_share``, the number of different
    ``answers``, and whether the network ``learns``; and the ``MACHINE``.
    """
    found = pd.DataFrame([_row(run) for run in runs], columns=None if runs else ["run", "lr", *_COLUMNS])
    # Older records do not know the content of their photos: they go with those of the same fingerprint.
    contents = {run.data["fingerprint"]: run.data["content"] for run in runs if run.data.get("content")}
    found["content"] = [run.data.get("content") or contents.get(run.data["fingerprint"], "") for run in runs]
    order = [*OPTIMIZERS, *sorted(set(found["optimizer"]) - set(OPTIMIZERS))]
    places = found["optimizer"].map(order.index)
    return found.iloc[places.argsort(kind="stable")].reset_index(drop=True)


_COLUMNS = [
    "optimizer",
    "title",
    "seed",
    "recipe",
    "shared",
    "fingerprint",
    *FIGURES,
]  # of a table without runs


def _row(run: Run) -> dict:
    history, answers, recipe = run.history, run.predictions, replace(run.experiment, seed=0)
    row = asdict(run.experiment) | {"run": run, "recipe": recipe, "title": method(recipe.optimizer).title}
    row["shared"] = replace(recipe, optimizer="adam", lr=1.0, weight_decay=0.0)
    row |= {name: str(run.environment.get(name, "—")) for name in MACHINE}
    row |= {name: float(history[name].astype(float).iloc[-1]) for name in FIGURES}
    row |= {"fingerprint": run.data["fingerprint"], "minutes": history["seconds"].sum() / 60}
    row["mean_accuracy"] = _mean_accuracy(history)
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
    right = round(accuracy * images)
    low, high = stats.beta.ppf([0.025, 0.975], [right, right + 1], [images - right + 1, images - right])
    return float(low) if right else 0.0, float(high) if right < images else 1.0


def changed(run: Run, base: Experiment) -> list[str]:
    """The names of the settings that ``run`` has otherwise than ``base``, the seed apart."""
    settings = vars(run.experiment)
    return [name for name in settings if name != "seed" and settings[name] != getattr(base, name)]


def by(found: pd.DataFrame, *names: str) -> dict:
    """The parts of ``found`` that are alike in the columns ``names``, in the order of its rows."""
    groups = found.groupby([*names], sort=False) if len(found) else ()
    return {key if len(names) > 1 else key[0]: part for key, part in groups}


def pairs(found: pd.DataFrame) -> pd.DataFrame:
    """A row a pair, by seed: runs of the two optimizers of ``found`` that share the seed, the photos and all
    settings but rate and decay. Columns end in ``_first`` and ``_second``; ``difference`` is that of their
    last test accuracies. A run without a partner, or with a figure that is no number, is left out.

    Raises ``LabError`` where there are not two optimizers, no pair is left, or a seed has several.
    """
    names, key = list(by(found, "optimizer")), ["fingerprint", "shared", "seed"]
    if len(names) != 2:
        raise LabError(f"Пары бывают у двух оптимизаторов, а не у {len(names)}: выберите прогоны двух.")
    known = found[np.isfinite(found[FIGURES]).all(axis=1)].drop_duplicates(["fingerprint", "recipe", "seed"])
    twins = known[known.duplicated([*key, "optimizer"], keep=False)]
    if len(twins):
        rates = " и ".join(f"{lr:g}" for lr in twins["lr"].iloc[:2])
        told = f"зерно {twins['seed'].iloc[0]} есть со скоростями {rates}"
        raise LabError(f"Прогоны не образуют пар: {told}; оставьте по одной на оптимизатор.")
    first, second = (known[known["optimizer"] == name] for name in names)
    paired = first.merge(second, on=key, suffixes=("_first", "_second")).sort_values(
        "seed", ignore_index=True
    )
    if paired.empty:
        way_out = "обучите оба с одинаковыми зёрнами и настройками"
        raise LabError(f"Прогоны двух оптимизаторов не образуют пар: {way_out}.")
    contents = paired[["content_first", "content_second"]].replace("", np.nan).dropna()
    if (contents["content_first"] != contents["content_second"]).any():
        raise LabError("Прогоны двух оптимизаторов сделаны на разных снимках: обучите оба на одном наборе.")
    return paired.assign(difference=paired["test_accuracy_first"] - paired["test_accuracy_second"])


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
    for part in by(found, "content", "fingerprint", "shared").values():
        own = part.groupby("optimizer")[["lr", "weight_decay"]].nunique()
        parts += [part] if own.max(axis=None) == 1 else by(part, "lr", "weight_decay").values()
    return sorted(parts, key=len, reverse=True)


def one_protocol(final: pd.DataFrame, tuning: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of several comparisons in a folder the one with most runs, and the runs that chose its rates.

    A grid that was widened leaves runs at its old best rate behind: they are left out, unless an optimizer
    has no run yet at its best one.
    """
    kept = []
    for shared, part in by(final, "shared").items():
        best = part["optimizer"].map(best_rates(tuning[tuning["shared"] == shared]))
        kept.append(part[part["lr"] == best.fillna(part["lr"])])
    chosen = pd.concat(kept)
    whole = set(chosen["optimizer"]) == set(final["optimizer"])
    found = comparable(chosen if whole else final)[0]
    return found, tuning[tuning["shared"] == found["shared"].iloc[0]]
