"""Studies: what each trains stands in a study.toml beside its records; what its kind shows of it, here."""

import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from labnn.experiment import Run, load_runs
from labnn.kit.errors import LabError
from labnn.kit.numbers import percent
from labnn.report import plots, records, tables, words
from labnn.report.records import by, is_paired
from labnn.settings import ORIGINAL, Experiment

RUNS = Path(__file__).parents[2] / "data" / "runs"


class Told(NamedTuple):
    """What is shown of a study: tables and sentences by name, and figures that are drawn when called."""

    tables: dict[str, pd.DataFrame]
    texts: dict[str, str]
    figures: dict[str, Callable[[], Figure]]


@dataclass(frozen=True)
class Study:
    """A study.toml: its fields are these, but ``name``, which is the name of its folder.

    ``kind``: a key of ``KINDS``. It trains ``base``, which is called ``title``, and every one of ``changes``
    from it, each with ``seeds`` seeds; a study of pairs or cells trains all that with AMSGrad and with Adam.
    ``base`` is what differs from the default experiment, or with ``original = true`` from the original's; a
    change is a dictionary of settings and may have a ``title``. With ``validation`` networks are tested on a
    part cut from the training one. ``runs``: other folders whose records belong to it too, by name, or as a
    dictionary with conditions on columns of ``records.table``: ``{folder = "recipe", precision =
    "bfloat16"}``. ``titles``: of the rungs of a ladder. Of the question "AMSGrad or Adam?": ``condition`` in
    words, whether the rates were ``tuned``, and the ``role`` of the answer, a key of ``tables.ROLES``.
    """

    name: str
    kind: str = "comparison"
    base: Experiment | None = None
    changes: tuple[dict, ...] = ()
    title: str = ""
    titles: tuple[str, ...] = ()
    seeds: int = 1
    validation: bool = False
    runs: tuple[str | dict, ...] = ()
    condition: str = ""
    tuned: bool = True
    role: str = "exploratory"

    @classmethod
    def read(cls, path: str | Path) -> "Study":
        """The study of the file ``path``. Raises ``LabError`` for one that is none."""
        try:
            told = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            start, base = ORIGINAL if told.pop("original", False) else Experiment(), told.pop("base", None)
            study = cls(Path(path).parent.name, **told)
            study = study if base is None else replace(study, base=_changed(start, base))
            study.experiments()
            KINDS[study.kind], tables.ROLES[study.role]
            return study
        except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
            raise LabError(f"Файл {path} не описывает опыт ({error}): исправьте его.") from error

    @property
    def of_pairs(self) -> bool:
        """Whether it trains everything with AMSGrad and with Adam."""
        return self.kind in ("cells", "pairs")

    def experiments(self) -> list[Experiment]:
        """What it trains, seed by seed: a study cut short has every change once, or whole pairs."""
        changes = [self.base, *(_changed(self.base, change) for change in self.changes)] if self.base else []
        names = ("amsgrad", "adam") if self.of_pairs else ("",)
        return [
            replace(one, optimizer=name or one.optimizer, seed=seed)
            for seed in range(self.seeds)
            for one in changes
            for name in names
        ]

    def folder(self, runs_dir: str | Path) -> Path:
        """Where it leaves the runs of ``experiments``; those that chose their rates lie beside, in tuning."""
        return Path(runs_dir) / self.name / ("final" if self.kind in ("others", "comparison") else "")

    def load(self, runs_dir: str | Path) -> pd.DataFrame:
        """Its records, those of the folders that ``runs`` names among them; ``change`` is what texts call
        one.
        """
        runs = load_runs(self.folder(runs_dir))
        for other in self.runs:
            wanted = dict(other) if isinstance(other, dict) else {"folder": other}
            found = records.load(Path(runs_dir) / wanted.pop("folder"))
            for name, value in wanted.items():
                found = found[found[name] == value]
            runs += list(found["run"])
        found = records.table(runs)
        found["change"] = [self.called(run) for run in found["run"]]
        return found

    def called(self, run: Run) -> str:
        """What texts call a run of this study: the title of its change, or what differs from the base."""
        if self.base is None:
            return run.experiment.optimizer
        told = {_changed(self.base, change): change["title"] for change in self.changes if "title" in change}
        either = {"optimizer": self.base.optimizer} if self.of_pairs else {}
        one = replace(run.experiment, seed=self.base.seed, **either)
        return told.get(one) or one.changes(self.base) or self.title or "исходный рецепт"

    def tell(self, runs_dir: str | Path = RUNS) -> Told | None:
        """Its records in ``runs_dir``, told; ``None`` where there is nothing to tell yet."""
        found = self.load(runs_dir)
        return KINDS[self.kind](self, found, self.tuning(runs_dir)) if len(found) else None

    def tuning(self, runs_dir: str | Path) -> pd.DataFrame:
        """The records that chose its rates; empty for a study without such."""
        return records.load(self.folder(runs_dir).with_name("tuning"))


def _changed(base: Experiment, change: dict) -> Experiment:
    """``base`` with a change; another optimizer comes with its own usual weight decay."""
    usual = {"weight_decay": None} if "optimizer" in change else {}
    return replace(base, **usual | {name: value for name, value in change.items() if name != "title"})


def changes(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """What each change does."""
    texts = {"conditions": words.conditions(found), "single": words.single_causes(found, study.base)}
    figures = {"figure": partial(plots.plot_changes, tables.recipes(found))}
    return Told({"table": tables.changes(found, study.base)}, texts, figures)


def collapse(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """What a network that does not learn is like."""
    dead = found[~found["batch_norm"]]
    return Told({"table": tables.collapse(dead)}, {"conditions": words.conditions(dead)}, {})


def recipe(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """The best recipe, trained long, by its seeds."""
    texts = {"accuracy": percent(found["test_accuracy"].mean(), 1), "spread": words.spread(found)}
    return Told({"settings": tables.settings(found)}, texts, {})


def ladder(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """From the original's recipe to the best: runs of one optimizer's kin on the photos of the last of them."""
    found = found[found["fingerprint"] == found["fingerprint"].iloc[-1]]
    found = found[found["optimizer"].str.endswith("amsgrad")]
    climb = tables.recipes(found)[::-1]
    if len(climb) == len(study.titles):
        climb = [part.assign(change=title) for part, title in zip(climb, study.titles, strict=True)]
        found = pd.concat(climb)
    shown = {"table": tables.ladder(found), "headline": tables.headline(found)}
    return Told(shown, {}, {"figure": partial(plots.plot_changes, climb)})


def cells(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """Pairs of AMSGrad and Adam in cells of the changes."""
    texts = {"conditions": words.conditions(found), "verdict": words.cells(found)}
    return Told({"table": tables.cells(found)}, texts, {})


def others(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told | None:
    """Other optimizers beside the base's."""
    if found["optimizer"].nunique() < 2:
        return None
    texts = {"conditions": words.conditions(found), "stability": words.stability(tuning)}
    texts["answer"] = words.others(tuning, found, study.base.optimizer)
    return Told({"table": tables.others(tuning, found, study.base.optimizer)[0]}, texts, {})


def compared(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told | None:
    """Optimizers compared, with no answer before the last of ``seeds`` pairs."""
    found, tuning = _one_protocol(found, tuning)
    two = is_paired(found)
    if study.kind == "pairs" and not two:
        return None
    shown = {"summary": tables.summary(found), "settings": tables.settings(found)}
    shown |= {f"epochs-{name}": tables.epochs(part) for name, part in by(found, "optimizer").items()}
    shown |= {"rates": tables.rates(tuning)} if len(tuning) else {}
    texts = {"conditions": words.conditions(found), "verdict": words.verdict_of(found, study.seeds)}
    texts |= {"stability": words.stability(tuning)} if len(tuning) else {}
    texts |= {"maximum": words.maximum(found), "learning": words.learning(found)}
    figures = {"curves": partial(plots.plot_curves, found)}
    if two:
        shown["pairs"] = tables.pair_rows(found)
        figures["answer"] = partial(plots.plot_answer, tuning, found, study.seeds)
    if texts["maximum"]:
        figures["maximum"] = partial(plots.plot_maximum, tables.maximum(found))
    return Told(shown, texts, figures)


def _one_protocol(found: pd.DataFrame, tuning: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of several protocols in a folder the one with most runs, and the runs that chose its rates."""
    found = records.comparable(records.at_best_rates(found, tuning))[0]
    return found, records.same_settings(tuning, found)


KINDS: dict[str, Callable[[Study, pd.DataFrame, pd.DataFrame], Told | None]] = {
    "changes": changes,
    "collapse": collapse,
    "recipe": recipe,
    "ladder": ladder,
    "cells": cells,
    "others": others,
    "pairs": compared,
    "comparison": compared,
}


def answers(runs_dir: str | Path) -> Told | None:
    """What all studies with a ``condition`` answer to "AMSGrad or Adam?", in one table and one sentence."""
    known = []
    for study in studies(runs_dir).values():
        found = study.load(runs_dir) if study.condition else ()
        if len(found):
            found, _ = _one_protocol(found, study.tuning(runs_dir))
            if is_paired(found):
                paired = records.pairs(found)
                known.append(tables.Answer(study.condition, paired, study.seeds, study.tuned, study.role))
    if not known:
        return None
    shown = tables.answers(known)
    short = ["Условие", "Разность, п. п. [95 %]", "Скорость подобрана"]
    return Told({"table": shown, "short": shown[short]}, {"sentence": words.answers(known)}, {})


def signal(runs_dir: str | Path) -> Told | None:
    """``start_signals`` of real photos, measured into signal.csv."""
    path = Path(runs_dir) / "signal.csv"
    if not path.is_file():
        return None
    signals = {title: part for title, part in pd.read_csv(path).groupby("network", sort=False)}
    return Told({}, {}, {"figure": partial(plots.plot_signals, signals)})


def studies(runs_dir: str | Path = RUNS) -> dict[str, Study]:
    """By name: every folder of ``runs_dir`` with a study.toml, and comparisons of one's own, which have none."""
    runs_dir = Path(runs_dir)
    known = {path.parent.name: Study.read(path) for path in sorted(runs_dir.glob("*/study.toml"))}
    own = {path.parent.name for path in runs_dir.glob("*/final")} - set(known)
    return known | {name: Study(name) for name in sorted(own)}


def told(name: str, runs_dir: str | Path = RUNS) -> Told | None:
    """One study of ``recorded``, without reading the others."""
    others = {"answers": answers, "signal": signal}
    return others[name](runs_dir) if name in others else studies(runs_dir)[name].tell(runs_dir)


def recorded(runs_dir: str | Path = RUNS) -> dict[str, Told]:
    """All that is recorded in ``runs_dir``, told, by name: the studies, their ``answers`` together, the
    ``signal``, and groups of comparable runs in ``runs_dir`` itself, called by their data set.
    """
    found: dict[str, Any] = {name: study.tell(runs_dir) for name, study in studies(runs_dir).items()}
    found |= {"answers": answers(runs_dir), "signal": signal(runs_dir)}
    met: Counter[str] = Counter()
    for group in records.comparable(records.load(runs_dir)):
        name = group["run"].iloc[0].data["name"]
        met[name] += 1
        study = Study(name if met[name] == 1 else f"{name}-{met[name]}")
        found[study.name] = compared(study, group, group.iloc[:0])
    return {name: one for name, one in found.items() if one}
