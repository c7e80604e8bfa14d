"""The numbers that the sentences of ``phrases.j2`` need; each function gives one told text."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy import stats

from labnn.kit import numbers
from labnn.kit.errors import check
from labnn.kit.watchers import chance_levels
from labnn.report import tables
from labnn.report.records import MACHINE, best_rates, by, changed, learned_interval, pairs
from labnn.report.statistics import MARGIN, describe, pairs_needed, pairs_to_decide
from labnn.settings import Experiment
from labnn.train import FIGURES, Evaluation


@cache
def templates() -> Environment:
    """The Jinja templates of this folder; numbers by filter the Russian way: ``{{ 0.314 | percent(1) }}``."""
    options = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    made = Environment(loader=FileSystemLoader(Path(__file__).parent), **options)
    names = ("number", "signed", "rate", "percent", "interval", "probability", "thousands")
    made.filters |= {name: getattr(numbers, name) for name in names}
    return made


def say(phrase: str, **facts: Any) -> str:
    """The macro ``phrase`` of phrases.j2 about ``facts``, on one line."""
    told = getattr(templates().get_template("phrases.j2").module, phrase)(**facts)
    told = re.sub(r"[ \n]+", " ", told).strip()  # no-break spaces stay
    return re.sub(r"п\. п\.\.", "п. п.", re.sub(r" ([.,;:)])", r"\1", told))


def conditions(found: pd.DataFrame) -> str:
    """What the runs of ``found`` were trained on and how long; where they differ, how many differ."""
    return say(
        "conditions",
        version=_in_common(run.experiment.words("version") for run in found["run"]),
        image_size=_in_common(f"{size} × {size}" for size in found["image_size"]),
        epochs=_in_common(found["epochs"].astype(str)),
        photos=_in_common(tables.sizes(run.data) for run in found["run"]),
        seeds=found["seed"].nunique(),
    )


def _in_common(values: Iterable[str]) -> str:
    counts = pd.Series(list(values)).value_counts()
    usual, *others = counts.index
    told = [f"у {counts[value]} из {counts.sum()} прогонов {value}" for value in others]
    return usual + (f" ({', '.join(told)})" if told else "")


def verdict(found: pd.DataFrame, margin: float = MARGIN, planned: int = 0) -> str:
    """The answer to "which optimizer is better?", from the test accuracies of the last epochs; before all
    ``planned`` pairs are there only how many are.

    For every two optimizers one of four: the first or the second is more accurate, they are equal in practice
    (the whole interval inside ``margin``, a share), or no difference is proven; with the numbers behind it.
    The intervals of several comparisons hold together with 95 % (Bonferroni).
    """
    check("margin", margin, float, 0, 1)
    groups = by(found, "title")
    ready = (found.groupby("seed")["title"].nunique() == len(groups)).sum()
    if ready < planned:
        reached = [f"{title} — {_span(part)}" for title, part in groups.items()]
        return say("waiting", ready=ready, planned=planned, reached=reached)
    two = list(combinations(groups, 2))
    confidence = 1 - 0.05 / max(len(two), 1)
    comparisons = [_compared(found, first, second, confidence, margin) for first, second in two]
    facts = {"titles": list(groups), "comparisons": comparisons, "margin": margin}
    return say("verdict", enough=pairs_needed(confidence), **facts, **_machines(found))


def _compared(found: pd.DataFrame, first: str, second: str, confidence: float, margin: float) -> dict:
    both = found[found["title"].isin([first, second])]
    known = both[np.isfinite(both[FIGURES]).all(axis=1)]
    if known.groupby("seed")["title"].nunique().max() != 2:
        return {"first": first, "second": second, "difference": None}
    paired = pairs(both)
    difference = describe(paired["difference"], confidence)
    alone = sorted(set(both["seed"]) - set(paired["seed"]))
    told = {"first": first, "second": second, "difference": difference, "alone": alone}
    return told | {"more": pairs_to_decide(difference, margin)}


_MACHINE = dict(zip(MACHINE, ("устройство", "процессор", "числа", "PyTorch", "потоков"), strict=True))


def _machines(found: pd.DataFrame) -> dict:
    """In what the machines of pairs differ, and whether they do within a pair; a lone seed has no pair."""
    together = found[found.duplicated("seed", keep=False)]
    told = [
        f"{_MACHINE[name]}: {' и '.join(together[name].unique())}"
        for name in (MACHINE if len(together) else ())
        if together[name].nunique() > 1
    ]
    within = bool(told) and (together.groupby("seed")[MACHINE].nunique() > 1).any(axis=None)
    return {"machines": told, "within_pairs": within}


def _span(part: pd.DataFrame) -> str:
    ends = part["test_accuracy"].min(), part["test_accuracy"].max()
    return f"{'…'.join(dict.fromkeys(numbers.number(100 * end, 1) for end in ends))} %"


def answers(known: Sequence[pd.DataFrame]) -> str:
    """The ``tables.answer`` of all conditions in one breath: conclusions of the main ones, intervals of the
    exploratory ones; nothing of those that wait for pairs.
    """
    told: dict[str, list] = {"main": [], "exploratory": []}
    for paired in known:
        one = paired.iloc[0]
        if one["gap"] is not None and one["gap"].spread:
            facts = {"first": one["title_first"], "second": one["title_second"], "difference": one["gap"]}
            told[one["role"]].append(facts | {"condition": one["condition"]})
    return say("answers", **told, margin=MARGIN)


def stability(tuning: pd.DataFrame) -> str:
    """How much each optimizer depends on its learning rate, and whether the grid was wide enough."""
    told, best = [], best_rates(tuning)
    for name, part in by(tuning, "optimizer").items():
        tried, lr = part.groupby("lr")["test_accuracy"].mean(), best[name]
        one = {"title": part["title"].iloc[0], "lr": lr, "best": tried.max(), "tried": len(tried)}
        edge = len(tried) > 1 and lr in (tried.index.min(), tried.index.max())
        told.append(one | {"good": (tried >= 0.9 * tried.max()).sum(), "edge": edge})
    return say("stability", tried=told)


def learning(found: pd.DataFrame) -> str:
    """Whether the networks learned at all: their mean test accuracy, with its exact interval on so many
    pictures, against the share of the most frequent class.
    """
    told = []
    for title, part in by(found, "title").items():
        accuracy = part["test_accuracy"].mean(skipna=False)
        low, high = learned_interval(part["run"].iloc[0], accuracy)
        one = {"title": title, "accuracy": accuracy, "share": part["majority"].iloc[0]}
        told.append(one | {"low": low, "high": high})
    return say("learning", known=told)


def learned(tested: dict[str, Evaluation]) -> str:
    """``learning`` of single networks, by their titles."""
    told = []
    for title, test in tested.items():
        right = int((test.predictions == test.labels).sum())
        interval = stats.binomtest(right, len(test.labels)).proportion_ci(0.95)
        one = {"title": title, "accuracy": test.accuracy, "low": interval.low, "high": interval.high}
        told.append(one | {"share": chance_levels(test.labels).majority_share})
    return say("learning", known=told)


def one_each(tested: dict[str, Evaluation]) -> str:
    """What two single networks, by their titles, say of their optimizers: nothing yet."""
    first, second = tested
    right = [int((test.predictions == test.labels).sum()) for test in tested.values()]
    images = len(tested[first].labels)
    return say("one_each", first=first, second=second, apart=right[0] - right[1], images=images)


def original(history: pd.DataFrame, share: float) -> str:
    """How the original's recipe ended, by its history; ``share``: of the most frequent class."""
    end = history.iloc[-1]
    return say("original", accuracy=end["test_accuracy"], share=share, collapsed=bool(end["collapsed"]))


def spread(found: pd.DataFrame) -> str:
    """How far the last accuracies of runs lie apart that differ in the seed alone."""
    return say("spread", runs=len(found), span=_span(found), d=describe(found["test_accuracy"]))


# Settings that are one cause together; every other setting is a cause of its own.
_CAUSES = {"lr": "rate", "schedule": "rate"} | dict.fromkeys(("min_crop_area", "mirror", "colour"), "crops")


def single_causes(found: pd.DataFrame, base: Experiment) -> str:
    """Which causes, changed alone from ``base``, were enough for all seeds to learn, and which not."""
    told: dict[bool, list[str]] = {True: [], False: []}
    for part in by(found, "recipe").values():
        names = set(changed(part["run"].iloc[0], base)) - {"test_every"}
        if len({_CAUSES.get(name, name) for name in names}) == 1:
            told[bool(part["learns"].all())].append(part["change"].iloc[0])
    return say("single_causes", enough=told[True], not_enough=told[False])


def maximum(found: pd.DataFrame) -> str:
    """How often and how strongly AMSGrad's maximum binds, at its strongest and at the end, means over the
    runs that recorded it; nothing where none did.
    """
    table = tables.maximum(found).dropna()
    if table.empty:
        return ""
    return say("maximum", strongest=table.loc[table["step_50"].idxmin()], end=table.iloc[-1])


def counter_example(paths: dict[str, pd.DataFrame]) -> str:
    """Where Adam and AMSGrad end in the titled ``theory.counter_example`` tables."""
    told = []
    for title, path in paths.items():
        end = path.tail(max(len(path) // 5, 1))[["x_amsgrad", "x_adam"]].mean()
        apart = end["x_amsgrad"] < -0.9 and end["x_adam"] > 0.9
        told.append({"title": title, "amsgrad": end["x_amsgrad"], "adam": end["x_adam"], "apart": apart})
    return say("counter_example", ends=told)
