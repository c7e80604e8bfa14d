"""Studies: what each trains stands in a study.toml beside its records; what its kind shows of it, here."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from labnn.data import open_dataset
from labnn.experiment import Run, load_runs
from labnn.kit.errors import LabError
from labnn.report import plots, records, tables, words
from labnn.report.records import is_paired
from labnn.settings import ORIGINAL, Experiment

RUNS = Path(__file__).parents[2] / "data" / "runs"


class Told(NamedTuple):
    """What is shown of a study: tables, sentences and figures, drawn when called, by name; its
    ``tables.answer`` to the question of all; of a ladder the recipes that it climbs.
    """

    tables: dict[str, pd.DataFrame]
    texts: dict[str, str]
    figures: dict[str, Callable[[], Figure]] = {}
    answer: pd.DataFrame | None = None
    climb: Sequence[pd.DataFrame] = ()


@dataclass(frozen=True)
class Study:
    """The fields of a study.toml, whose folder is the ``name``.

    ``kind``: a key of ``KINDS``. It trains ``base``, called ``title``, and every one of ``changes`` from it,
    each with ``seeds`` seeds; a study of pairs or cells all that with AMSGrad and with Adam. ``base`` is what
    differs from the default experiment, or with ``original = true`` from the original's; a change is a
    dictionary of settings and may have a ``title``. With ``validation`` the test is a part cut from the
    training one. ``runs``: other folders whose records belong to it too, those of its ``precision`` where it
    names one. With a ``grid`` each optimizer first tries its rates on validation (``records.top_rates``).
    ``titles``: of a ladder's recipes. Of the question "AMSGrad or Adam?": the ``condition`` in words, whether
    rates were ``tuned``, the ``role`` of the answer, "main" or "exploratory", and the ``factor`` of AMSGrad's
    step by which its best rate is foretold, 0 for the one that its runs measure. ``demands``: what the
    protocol of a recipe asks for, the least mean accuracy and the most minutes times threads of a training.
    """

    name: str
    kind: str = "comparison"
    base: Experiment | None = None
    changes: tuple[dict, ...] = ()
    title: str = ""
    titles: tuple[str, ...] = ()
    seeds: int = 1
    validation: bool = False
    runs: tuple[str, ...] = ()
    precision: str = ""
    grid: tuple[float, ...] = ()
    condition: str = ""
    tuned: bool = True
    role: str = "exploratory"
    factor: float = 0.0
    demands: tuple[float, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Study":
        """The study of the file ``path``. Raises ``LabError`` for one that describes none."""
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
            start, base = ORIGINAL if told.pop("original", False) else Experiment(), told.pop("base", None)
            study = cls(path.parent.name, base=None if base is None else _changed(start, base), **told)
            KINDS[study.kind], study.experiments()
            return study
        except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
            raise LabError(f"Файл {path} не описывает опыт ({error}): исправьте его.") from error

    def _optimizers(self) -> tuple[str, ...]:
        """With which it trains everything, in place of the one that a change has."""
        return ("amsgrad", "adam") if self.kind in ("cells", "pairs") or self.grid else ()

    def tuning(self) -> list[Experiment]:
        """What it trains on validation first, Adam's rates before AMSGrad's; nothing without a grid."""
        names = reversed(self._optimizers() if self.grid else ())
        return [replace(self.base, optimizer=name, lr=lr) for name in names for lr in self.grid]

    def experiments(self, rates: Mapping[str, float] = {}) -> list[Experiment]:
        """What it trains, seed by seed: a study cut short has every change once, or whole pairs; at the
        ``rates`` that were chosen for an optimizer.
        """
        changes = [self.base, *(_changed(self.base, change) for change in self.changes)] if self.base else []
        return [
            replace(one, optimizer=name, seed=seed, lr=rates.get(name, one.lr))
            for seed in range(self.seeds)
            for one in changes
            for name in self._optimizers() or (one.optimizer,)
        ]

    def folder(self, runs_dir: str | Path) -> Path:
        """Where it leaves the runs of ``experiments``; those that chose their rates lie beside, in tuning."""
        return Path(runs_dir) / self.name / ("final" if self.kind in ("others", "comparison") else "")

    def load(self, runs_dir: str | Path) -> pd.DataFrame:
        """Its records and those that ``runs`` names; the column ``change`` is what texts call a run."""
        folders = [self.folder(runs_dir), *(Path(runs_dir) / other for other in self.runs)]
        found = records.table([run for folder in folders for run in load_runs(folder)])
        found = found[found["precision"] == self.precision] if self.precision else found
        return found.assign(change=[self._called(run) for run in found["run"]])

    def _called(self, run: Run) -> str:
        """The title of the change that ``run`` has from the base, or what it has otherwise."""
        if self.base is None:
            return run.experiment.optimizer
        titles = {_changed(self.base, one): one["title"] for one in self.changes if "title" in one}
        either = {"optimizer": self.base.optimizer} if self._optimizers() else {}
        experiment = replace(run.experiment, seed=self.base.seed, **either)
        return titles.get(experiment) or experiment.changes(self.base) or self.title or "без правок"

    def tell(self, runs_dir: str | Path = RUNS) -> Told | None:
        """Its records in ``runs_dir``, told; ``None`` where there is nothing to tell yet."""
        found, tuning = self.load(runs_dir), records.load(self.folder(runs_dir).with_name("tuning"))
        if self.grid:  # records of other folders count at the chosen rates, once all are tried
            tried = set(zip(tuning["optimizer"], tuning["lr"], strict=True))
            whole = tried >= {(one.optimizer, one.lr) for one in self.tuning()}
            chosen = records.top_rates(tuning) if whole else {}
            found = found[found["lr"] == found["optimizer"].map(chosen)]
        return KINDS[self.kind](self, found, tuning) if len(found) else None


def _changed(base: Experiment, change: dict) -> Experiment:
    """``base`` with a change; another optimizer comes with its own usual weight decay."""
    usual = {"weight_decay": None} if "optimizer" in change else {}
    return replace(base, **usual | {name: value for name, value in change.items() if name != "title"})


# What is shown of a study of each kind, from its records and those that chose its rates.


def changes(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """What each change does."""
    texts = {"conditions": words.conditions(found), "single": words.single_causes(found, study.base)}
    return Told({"table": tables.changes(found, study.base)}, texts)


def collapse(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """What a network that does not learn is like."""
    dead = found[~found["batch_norm"]]
    return Told({"table": tables.collapse(dead)}, {"conditions": words.conditions(dead)})


def recipe(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """One recipe by its seeds."""
    texts = {"spread": words.spread(found)}
    if study.demands:
        texts["demands"] = words.demands(found, *study.demands)
    return Told({"settings": tables.settings(found)}, texts)


def ladder(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """From the original's recipe to the best: the AMSGrad runs on one set of photos."""
    found = found[found["optimizer"].str.endswith("amsgrad")]
    climb = tables.recipes(found)[::-1]
    if len(climb) == len(study.titles):
        climb = [part.assign(change=title) for part, title in zip(climb, study.titles, strict=True)]
    return Told({"headline": tables.ladder(climb)}, {}, climb=climb)


def cells(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """Pairs of AMSGrad and Adam in cells of the changes."""
    return Told({"table": tables.cells(found)}, {"conditions": words.conditions(found)})


def others(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """Other optimizers beside the base's."""
    texts = {"conditions": words.conditions(found), "stability": words.stability(tuning)}
    return Told({"table": tables.others(tuning, found, study.base.optimizer)}, texts)


def compared(study: Study, found: pd.DataFrame, tuning: pd.DataFrame) -> Told:
    """Optimizers compared, with no answer before the last of ``seeds`` pairs."""
    found, tuning = records.one_protocol(found, tuning)
    shown, figures, answer = {"summary": tables.summary(found)}, {}, None
    exploratory = bool(study.condition) and study.role == "exploratory"
    verdict = words.verdict(found, planned=study.seeds, exploratory=exploratory)
    texts = {"conditions": words.conditions(found), "verdict": verdict}
    tried = records.twins(tuning, 3)
    texts |= {"reason": words.reason(found, tried, study.factor), "learning": words.learning(found)}
    if len(tuning):
        shown["rates"], texts["stability"] = tables.rates(tuning), words.stability(tuning)
    if is_paired(found):
        shown["pairs"] = tables.pair_rows(found)
        figures["answer"] = partial(plots.plot_answer, tuning, found, study.seeds)
        if texts["reason"] and len(tried[0]):
            figures["reason"] = partial(plots.plot_reason, *tried)
        if study.condition:
            answer = tables.answer(found, study.condition, study.seeds, study.tuned, study.role)
    return Told(shown, texts, figures, answer)


KINDS: dict[str, Callable[[Study, pd.DataFrame, pd.DataFrame], Told]] = {
    one.__name__: one for one in (changes, collapse, recipe, ladder, cells, others)
} | {"pairs": compared, "comparison": compared}


def studies(runs_dir: str | Path = RUNS) -> dict[str, Study]:
    """By name: every folder of ``runs_dir`` with a study.toml, and one's own comparisons, without any."""
    known = {path.parent.name: Study.read(path) for path in sorted(Path(runs_dir).glob("*/study.toml"))}
    own = {path.parent.name for path in Path(runs_dir).glob("*/final")} - set(known)
    return known | {name: Study(name) for name in sorted(own)}


def answers(asked: Mapping[str, Study], known: Mapping[str, Told | None]) -> Told | None:
    """The answers of all studies to "AMSGrad or Adam?"; of a main one that waits, how many pairs it has."""
    rows = {name: one.answer for name, one in known.items() if one and one.answer is not None}
    if not rows:
        return None
    main = {name: study for name, study in asked.items() if study.role == "main"}
    ready = {name: len(rows.get(name, ())) for name in main}
    waiting = [
        (one.condition, ready[name], one.seeds) for name, one in main.items() if ready[name] < one.seeds
    ]
    decided, figures = [paired for paired in rows.values() if paired["gap"].iloc[0]], {}
    if decided and known.get("ladder"):
        figures["hero"] = partial(plots.plot_hero, _cars(), known["ladder"].climb, decided)
    shown = tables.answers(rows.values())
    short = shown[["Условие", "Разность, п. п. [95 %]", "Скорость подобрана"]]
    english = words.answers(rows.values(), waiting, "answers_english")
    texts = {"sentence": words.answers(rows.values(), waiting), "english": english}
    return Told({"table": shown, "short": short}, texts, figures)


def _cars(count: int = 6) -> list[tuple[np.ndarray, str]]:
    """Drawn cars, one a class, with what the network that comes with the project answered."""
    folder = RUNS.with_name("minicars_network")
    if not folder.is_dir():  # the module alone is installed
        return []
    run, photos = Run.load(folder), open_dataset(RUNS.with_name("minicars")).test
    answers, names = run.predictions["prediction"], run.data["class_names"]
    places = run.predictions.drop_duplicates("label").index[:count]
    return [(np.asarray(photos.image(place)), names[answers[place]]) for place in places]


def recorded(runs_dir: str | Path = RUNS) -> dict[str, Told]:
    """All that is recorded in ``runs_dir``, told, by name: the studies, their ``answers`` together, and
    groups of comparable runs in ``runs_dir`` itself, called by their data set.
    """
    asked = studies(runs_dir)
    found = {name: study.tell(runs_dir) for name, study in asked.items()}
    found["answers"] = answers(asked, found)
    for place, group in enumerate(records.comparable(records.load(runs_dir)), 1):
        study = Study(f"{group['run'].iloc[0].data['name']}-{place}")
        found[study.name] = compared(study, group, group.iloc[:0])
    return {name: one for name, one in found.items() if one}
