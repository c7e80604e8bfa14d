"""The numbers that the sentences of ``phrases.j2`` need; each function gives one told text."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from labnn.kit import numbers
from labnn.kit.watchers import chance_levels
from labnn.report import tables
from labnn.report.records import MACHINE, apart, best_rates, by, is_paired, nearest, pairs, tops, twins
from labnn.report.statistics import MARGIN, describe, pairs_needed, share_interval
from labnn.settings import Experiment
from labnn.train import Evaluation


@cache
def templates() -> Environment:
    """The Jinja templates of this folder; numbers by filter the Russian way: ``{{ 0.314 | percent(1) }}``."""
    options = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    made = Environment(loader=FileSystemLoader(Path(__file__).parent), **options)
    names = ("number", "signed", "percent", "interval", "probability", "rate")
    made.filters |= {name: getattr(numbers, name) for name in names}
    return made


def say(phrase: str, **facts: Any) -> str:
    """The macro ``phrase`` of phrases.j2 about ``facts``, on one line."""
    told = getattr(templates().get_template("phrases.j2").module, phrase)(**facts)
    told = re.sub(r"[ \n]+", " ", told).strip()  # no-break spaces stay
    return re.sub(r"п\. п\.\.", "п. п.", re.sub(r" ([.,;:)])", r"\1", told))


def conditions(found: pd.DataFrame) -> str:
    """What the runs of ``found`` were trained on and how long."""
    versions = [run.experiment.words("version") for run in found["run"]]
    photos = [tables.sizes(run.data) for run in found["run"]]
    return say("conditions", found=found, versions=versions, photos=photos)


def verdict(found: pd.DataFrame, margin: float = MARGIN, planned: int = 0, exploratory: bool = False) -> str:
    """The answer to "which optimizer is better?", from the test accuracies of the last epochs; before all
    ``planned`` pairs are there only how many are. Of an ``exploratory`` comparison the numbers alone.

    Of every two optimizers one is more accurate, they are equal in practice (the whole interval inside
    ``margin``, a share), or no difference is proven. The intervals of several comparisons hold together with
    95 % (Bonferroni).
    """
    groups = by(found, "title")
    ready = (found.groupby("seed")["title"].nunique() == len(groups)).sum()
    if ready < planned:
        return say("waiting", ready=ready, planned=planned)
    twos = list(combinations(groups, 2))
    confidence, compared = 1 - 0.05 / max(len(twos), 1), []
    for two in twos:
        both = found[found["title"].isin(two)]
        paired = pairs(both) if is_paired(both) else both[:0].assign(difference=0.0)
        gap = describe(paired["difference"], confidence) if len(paired) else None
        compared.append((*two, gap, sorted(set(both["seed"]) - set(paired["seed"]))))
    machines = (found.groupby("seed")[MACHINE].nunique() > 1).any(axis=None)
    facts = {"titles": list(groups), "margin": margin, "enough": pairs_needed(confidence)}
    return say("verdict", compared=compared, machines=machines, exploratory=exploratory, **facts)


def answers(
    known: Sequence[pd.DataFrame], waiting: Sequence[tuple[str, int, int]] = (), phrase: str = "answers"
) -> str:
    """The ``tables.answer`` of all conditions in one breath: conclusions of the main ones, the range of the
    exploratory ones; of main ones ``waiting`` for pairs the condition, how many are there and of how many.
    ``phrase``: in Russian, or "answers_english".
    """
    told = [paired.iloc[0] for paired in known if (gap := paired["gap"].iloc[0]) and gap.spread]
    main = [one for one in told if one["role"] == "main"]
    means = [one["gap"].mean for one in told if one["role"] != "main"]
    return say(phrase, main=main, waiting=waiting, means=means, margin=MARGIN)


def stability(tuning: pd.DataFrame) -> str:
    """Whether the grid of rates was wide enough, or the best one of an optimizer lies at its edge."""
    edges, best = [], best_rates(tuning)
    for name, part in by(tuning, "optimizer").items():
        if part["lr"].nunique() > 1 and best[name] in (part["lr"].min(), part["lr"].max()):
            edges.append(part["title"].iloc[0])
    return say("stability", edges=edges)


def learning(found: pd.DataFrame) -> str:
    """Whether the networks learned at all: their mean test accuracy, with its exact interval on so many
    pictures, against the share of the most frequent class.
    """
    parts = by(found, "title").items()
    images = len(found["run"].iloc[0].predictions)
    return _learning((title, *part[["test_accuracy", "majority"]].mean(), images) for title, part in parts)


def learned(tested: dict[str, Evaluation]) -> str:
    """``learning`` of single networks, by their titles."""
    return _learning(
        (title, test.accuracy, chance_levels(test.labels).majority_share, len(test.labels))
        for title, test in tested.items()
    )


def _learning(known: Iterable[tuple[str, float, float, int]]) -> str:
    return say("learning", known=[(*one, *share_interval(one[1], one[3])) for one in known])


def spread(found: pd.DataFrame) -> str:
    """How far the last accuracies of runs lie apart that differ in the seed alone."""
    return say("spread", accuracies=found["test_accuracy"], d=describe(found["test_accuracy"]))


def demands(found: pd.DataFrame, bar: float, limit: float) -> str:
    """Whether runs that differ in the seed came up to their protocol: a mean accuracy of at least ``bar`` in
    at most ``limit`` minutes times threads each.
    """
    return say("demands", bar=bar, limit=limit, mean=found["test_accuracy"].mean(), minutes=found["minutes"])


def single_causes(found: pd.DataFrame, base: Experiment) -> str:
    """Which settings, changed alone from ``base``, were enough for all seeds to learn, and which not."""
    told: dict[bool, list[str]] = {True: [], False: []}
    for recipe, part in by(found, "recipe").items():
        if sum(value != getattr(base, name) for name, value in vars(recipe).items()) == 1:
            told[bool(part["learns"].all())].append(part["change"].iloc[0])
    return say("single_causes", enough=told[True], not_enough=told[False])


def reason(found: pd.DataFrame, tuned: tuple[pd.DataFrame, pd.DataFrame], factor: float = 0.0) -> str:
    """How much AMSGrad's maximum shortens its step in the runs ``found``; where it and Adam have ``tuned``
    their rates (``twins``, of three rates at least), too, where Adam's best one puts AMSGrad's by that
    factor, or by a ``factor`` foretold, if the length of the step is all, and where it is. Nothing unless
    ``found`` has both and it is recorded.
    """
    _, shortened = twins(found)
    if shortened["factor"].isna().all():
        return ""
    factor, tried, (adam, amsgrad) = factor or shortened["factor"].mean(), {}, tuned
    if len(amsgrad):
        (top,), (own,) = tops(adam).values(), tops(amsgrad).values()
        tried = {"unmoved": nearest(amsgrad["lr"], top), "near": nearest(amsgrad["lr"], top / factor)}
        tried |= {"top": top, "own": own, "chosen": shortened["lr"].iloc[0]}
        laid = amsgrad["lr"], amsgrad["lr"] * amsgrad["factor"]
        tried["gaps"] = [apart(adam, amsgrad, rates) for rates in laid]
    return say("reason", factor=factor, tried=tried)


def counter_example(paths: dict[str, pd.DataFrame]) -> str:
    """Where Adam and AMSGrad end in the titled ``theory.counter_example`` tables."""
    ends = {title: path.tail(max(len(path) // 5, 1)).mean() for title, path in paths.items()}
    apart = all(end["x_amsgrad"] < -0.9 and end["x_adam"] > 0.9 for end in ends.values())
    return say("counter_example", ends=ends, apart=apart)
