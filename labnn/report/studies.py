"""The studies behind the report: what each trains, its records, tables, sentences and figures."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from labnn.data import chance_levels
from labnn.experiment import Run, load_runs
from labnn.kit.diagnose import signal_by_layer
from labnn.kit.numbers import percent
from labnn.report import frames, plots, words
from labnn.report.statistics import (
    at_best_rates,
    by_experiment,
    by_optimizer,
    comparable,
    final,
    majority_share,
    pairs_of,
    same_settings,
)
from labnn.settings import ORIGINAL, Experiment, make_model

Compared = tuple[list[Run], list[Run]]
Tested = tuple[list[Run], pd.DataFrame]


@dataclass(frozen=True)
class Study:
    """Changes from a ``base``, which is called ``title``, each alone in its dictionary or several together,
    for every one of ``seeds``. Other kinds of study inherit and have another record, other tables, figures.

    With ``validation`` the networks are tested on a part cut from the training one (``CarsData.validation``).
    What ``load`` gives, ``tables``, ``texts`` and ``figures`` take, and name what they give as its files.
    """

    name: str
    base: Experiment | None = None
    changes: Sequence[dict] = ()
    seeds: int = 1
    validation: bool = False
    title: str = ""

    def experiments(self) -> list[Experiment]:
        """What it trains, the base first; seed by seed, so that a study cut short has every change once."""
        changes = ({}, *self.changes) if self.base else ()
        return [replace(self.base, **change, seed=seed) for seed in range(self.seeds) for change in changes]

    def folder(self, runs_dir: str | Path) -> Path:
        """Where in the folder of all runs it leaves those of ``experiments``."""
        return Path(runs_dir) / self.name

    def load(self, runs_dir: str | Path) -> Any:
        """Its record in the folder of all runs, empty if there is none: here, the runs in its folder."""
        return load_runs(self.folder(runs_dir))

    def tables(self, runs: Any) -> dict[str, pd.DataFrame]:
        """Frames by name: here, what each change does."""
        return {self.name: frames.ablation(runs, self.base, self.title)}

    def texts(self, runs: Any) -> dict[str, str]:
        """Sentences by name."""
        texts = {f"{self.name}_conditions": words.conditions(runs)}
        return texts | ({f"{self.name}_single": words.single_causes(runs, self.base)} if self.base else {})

    def figures(self, runs: Any) -> dict[str, Figure]:
        """Figures by name."""
        return {self.name: plots.plot_changes(self.tables(runs)[self.name], majority_share(runs[0])).figure}


class Collapse(Study):
    """The original's recipe, and with batch norm beside it: what a network that does not learn is like."""

    def tables(self, runs: list[Run]) -> dict[str, pd.DataFrame]:
        return {self.name: frames.collapse([run for run in runs if not run.experiment.batch_norm])}

    def figures(self, runs: list[Run]) -> dict[str, Figure]:
        titled = {run.experiment.changes(self.base) or self.title: run for run in runs}
        return {self.name: plots.plot_losses(titled, chance_levels(runs[0].predictions["label"])).figure}


class Signal(Study):
    """``start_signals`` of real photos, in the file signal.csv."""

    def load(self, runs_dir: str | Path) -> dict[str, pd.DataFrame]:
        path = Path(runs_dir) / f"{self.name}.csv"
        table = pd.read_csv(path) if path.is_file() else pd.DataFrame({"network": []})
        return {title: part.drop(columns="network") for title, part in table.groupby("network", sort=False)}

    def tables(self, signals: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        return {self.name: frames.signal(signals)}

    def texts(self, signals: dict[str, pd.DataFrame]) -> dict[str, str]:
        return {}

    def figures(self, signals: dict[str, pd.DataFrame]) -> dict[str, Figure]:
        return {self.name: plots.plot_signals(signals)}


def start_signals(images: Tensor, labels: Tensor, num_classes: int) -> dict[str, pd.DataFrame]:
    """``signal_by_layer`` of the original's untrained network, and with He's weights or batch norm."""
    starts = (ORIGINAL, replace(ORIGINAL, init="he"), replace(ORIGINAL, batch_norm=True))
    return {
        start.changes(ORIGINAL) or "исходная сеть": signal_by_layer(
            make_model(start, num_classes), images, labels
        )
        for start in starts
    }


class Recipe(Study):
    """The best recipe, trained long: its runs by seed, and what ``variants`` found of one network."""

    def load(self, runs_dir: str | Path) -> Tested | tuple[()]:
        runs = super().load(runs_dir)
        for run in runs:
            if (path := self.folder(runs_dir) / run.name / "variants.csv").is_file():
                return by_experiment(runs)[replace(run.experiment, seed=0)], pd.read_csv(path)
        return ()

    def tables(self, record: Tested) -> dict[str, pd.DataFrame]:
        return {"settings": words.settings(record[0]), "variants": record[1]}

    def texts(self, record: Tested) -> dict[str, str]:
        accuracy = fmean(final(run, "test_accuracy") for run in record[0])
        return {"from_scratch": percent(accuracy, 1), f"{self.name}_spread": words.spread(record[0])}

    def figures(self, record: Tested) -> dict[str, Figure]:
        return {}


class Memory(Study):
    """When AMSGrad matters: pairs of Adam and AMSGrad in cells of the changes, the base's cell first."""

    def experiments(self) -> list[Experiment]:
        """What it trains, pair by pair, so that a study cut short has every cell with fewer pairs."""
        cells = [replace(self.base, **change) for change in ({}, *self.changes)]
        return [
            replace(cell, optimizer=name, seed=seed)
            for seed in range(self.seeds)
            for cell in cells
            for name in ("amsgrad", "adam")
        ]

    def tables(self, runs: list[Run]) -> dict[str, pd.DataFrame]:
        return {self.name: frames.cells(runs, self.base)}

    def texts(self, runs: list[Run]) -> dict[str, str]:
        told = {f"{self.name}_conditions": words.conditions(runs)}
        return told | {f"{self.name}_verdict": words.cells(runs, self.base)}

    def figures(self, runs: list[Run]) -> dict[str, Figure]:
        return {self.name: plots.plot_cells(frames.cells(runs, self.base))}


class Pairs(Memory):
    """The one cell of a base, where the networks are good: no answer before the last of ``seeds`` pairs."""

    def load(self, runs_dir: str | Path) -> list[Run]:
        runs = super().load(runs_dir)
        return [run for pair in pairs_of(runs) for run in pair] if frames.is_paired(runs) else []

    def tables(self, runs: list[Run]) -> dict[str, pd.DataFrame]:
        return {self.name: frames.pairs(runs), f"{self.name}_summary": frames.summary(runs)}

    def texts(self, runs: list[Run]) -> dict[str, str]:
        told = {f"{self.name}_conditions": words.conditions(runs)}
        return told | {f"{self.name}_verdict": words.verdict_of(runs, self.seeds)}

    def figures(self, runs: list[Run]) -> dict[str, Figure]:
        return {self.name: plots.plot_differences(runs, planned=self.seeds).figure}


class Others(Study):
    """Other optimizers beside the base's: the folders tuning, which chose their rates, and final."""

    def folder(self, runs_dir: str | Path) -> Path:
        return Path(runs_dir) / self.name / "final"

    def load(self, runs_dir: str | Path) -> Compared | tuple[()]:
        final = self.folder(runs_dir)
        record = load_runs(final.with_name("tuning")), load_runs(final)
        return record if len(by_optimizer(record[1])) > 1 else ()

    def tables(self, record: Compared) -> dict[str, pd.DataFrame]:
        return {self.name: frames.others(*record, self.base.optimizer)}

    def texts(self, record: Compared) -> dict[str, str]:
        told = {f"{self.name}_conditions": words.conditions(record[1])}
        told |= {f"{self.name}_answer": words.others(*record, self.base.optimizer)}
        return told | {f"{self.name}_rates": words.stability(record[0])}

    def figures(self, record: Compared) -> dict[str, Figure]:
        return {}


class Tuned(Others):
    """Two optimizers, each with the rate that validation has chosen for it in one setting, as ``compare``
    leaves them; no answer before the last of ``seeds`` pairs.
    """

    def tables(self, record: Compared) -> dict[str, pd.DataFrame]:
        tuning, runs = record
        return {self.name: frames.pairs(runs), f"{self.name}_rates": frames.rates(tuning)}

    def texts(self, record: Compared) -> dict[str, str]:
        told = {f"{self.name}_conditions": words.conditions(record[1])}
        told |= {f"{self.name}_brief": words.verdict_of(record[1], self.seeds, brief=True)}
        return told | {f"{self.name}_verdict": words.verdict_of(record[1], self.seeds)}


class Ladder(Study):
    """From the original's recipe to the best: the AMSGrad runs of the folders ``steps`` on its photos."""

    steps = ("collapse", "", "recipe")

    def load(self, runs_dir: str | Path) -> list[Run]:
        folders = [load_runs(Path(runs_dir) / step) for step in self.steps]
        photos = folders[-1][0].data["fingerprint"] if all(folders) else None
        runs = [run for runs in folders for run in runs if run.data["fingerprint"] == photos]
        return [run for run in runs if run.experiment.optimizer.endswith("amsgrad")]

    def tables(self, runs: list[Run]) -> dict[str, pd.DataFrame]:
        return {self.name: frames.ladder(runs), "headline": frames.headline(runs)}


class Comparison(Study):
    """Optimizers compared by a ``Protocol``, in the folders tuning and final of its own: the runs of the
    first, which chose the learning rates, and of the second; of several protocols the one with most runs.
    """

    def load(self, runs_dir: str | Path) -> Compared | tuple[()]:
        tuning, final = (load_runs(Path(runs_dir) / self.name / part) for part in ("tuning", "final"))
        for group in comparable(at_best_rates(final, tuning)):
            return [run for run in tuning if same_settings(run, group[0])], group
        return ()

    def tables(self, record: Compared) -> dict[str, pd.DataFrame]:
        tuning, runs = record
        tables = {"summary": frames.summary(runs), "milestones": frames.milestones(runs)}
        tables |= {"settings": words.settings(runs)} | ({"rates": frames.rates(tuning)} if tuning else {})
        if frames.is_paired(runs):
            pairs = frames.pairs(runs)
            tables |= {"pairs": pairs} | ({"statistics": frames.differences(runs)} if len(pairs) > 1 else {})
        return tables | {f"epochs-{key}": frames.epochs(group) for key, group in by_optimizer(runs).items()}

    def texts(self, record: Compared) -> dict[str, str]:
        tuning, runs = record
        texts = super().texts(runs) | {"verdict": words.verdict(runs), "maximum": words.maximum(runs)}
        texts |= {"other": words.other_differences(runs)} if frames.is_paired(runs) else {}
        texts |= {"verdict_brief": words.verdict(runs, brief=True)}
        return texts | ({"stability": words.stability(tuning)} if tuning else {})

    def figures(self, record: Compared) -> dict[str, Figure]:
        tuning, runs = record
        figures, maximum = {"curves": plots.plot_curves(runs)}, frames.maximum(runs)
        figures |= {"maximum": plots.plot_maximum(maximum)} if len(maximum) else {}
        paired = tuning and frames.is_paired(runs)
        return figures | ({"answer": plots.plot_answer(tuning, runs)} if paired else {})


_AT_64 = replace(
    Experiment(optimizer="adam", lr=3.2e-3), epochs=40, image_size=64, test_size=0, mix=0.0, test_every=40
)
_CROPS = {"min_crop_area": 0.5, "mirror": True, "colour": 0.3}
_CYCLE = {"lr": 3e-3, "schedule": "one_cycle"}
_PLAIN = {"init": "he", "logits_relu": False}

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Ladder("ladder"),
        # The laboratory work that this one replaces, on smaller photos; and the same with batch norm.
        Collapse(
            "collapse",
            replace(ORIGINAL, image_size=96),
            [{"optimizer": "amsgrad"}, {"optimizer": "amsgrad", "batch_norm": True}],
            title="Adam, рецепт исходной работы",
        ),
        Signal("signal"),
        # Why it did not learn: one cause at a time, then together.
        Study(
            "causes",
            replace(ORIGINAL, optimizer="amsgrad", image_size=64, epochs=8),
            [
                {"init": "he"},
                {"logits_relu": False},
                {"batch_norm": True},
                {"lr": 1e-3},
                {"schedule": "one_cycle", "lr": 1e-3},
                _CROPS,
                _PLAIN,
                {"init": "he", "lr": 1e-3},
                {"init": "he", "schedule": "one_cycle", "lr": 1e-3},
                _PLAIN | {"schedule": "one_cycle", "lr": 1e-3},
                {"batch_norm": True, "logits_relu": False},
                _PLAIN | _CYCLE | {"batch_norm": True},
                _PLAIN | _CYCLE | _CROPS | {"batch_norm": True},
            ],
            seeds=2,
            validation=True,
            title="рецепт исходной работы",
        ),
        # The best recipe, and how far its seeds lie apart. PROTOCOL.md has the rest.
        Recipe(
            "recipe", replace(Experiment(), epochs=240, start_size=64, test_size=160, test_every=20), seeds=3
        ),
        # What a longer recipe is made of: one part added or taken away. PROTOCOL.md has the rest.
        Study(
            "levers",
            replace(Experiment(), image_size=64, test_size=0, epochs=14),
            [
                {"mix": 0.0},
                {"label_smoothing": 0.0},
                {"min_crop_area": 1.0},
                {"bypass": False},
                {"cosine": 1.0},
                {"ema_decay": 0.998},
                {"start_size": 32},
                {"batch_size": 64},
                {"batch_size": 128},
                {"weight_decay": 0.0},
                {"weight_decay": 0.2},
                {"epochs": 28},
            ],
            seeds=3,
            validation=True,
            title="рецепт",
        ),
        Comparison("comparison"),
        # The two where networks are good: the recipe, shorter. PROTOCOL.md has the rest.
        Pairs(
            "recipe_pairs",
            replace(Experiment(optimizer="adam", lr=3.2e-3), start_size=64, test_size=160, test_every=100),
            seeds=6,
        ),
        # What else trains such a network: those whose rate validation has chosen. PROTOCOL.md has the rest.
        Others(
            "optimizers",
            _AT_64,
            [
                {"optimizer": "sgd", "lr": 0.1, "weight_decay": None},
                {"optimizer": "adamw", "weight_decay": None},
                {"optimizer": "adamw-amsgrad", "weight_decay": None},
                {"optimizer": "nadam", "lr": 1e-2, "weight_decay": None},
            ],
            seeds=3,
        ),
        # From ImageNet's weights or from scratch: the same epochs, the rates of fine-tuning side by side.
        Study(
            "finetune",
            replace(Experiment(), epochs=60),
            [{"network": "squeezenet-imagenet", "lr": lr} for lr in (1e-4, 3.2e-4, 1e-3)],
            seeds=3,
            validation=True,
            title="с нуля, полный рецепт",
        ),
        # The counter-example of Reddi et al. needs a short memory of v and large rare gradients: the two ends
        # of beta2 under a rate that falls and one that does not. data/runs/beta2/PROTOCOL.md has the rest.
        Memory(
            "beta2",
            replace(
                Experiment(optimizer="adam", lr=3.2e-3),
                epochs=20,
                image_size=64,
                test_size=0,
                mix=0.0,
                test_every=20,
            ),
            [
                {"beta2": 0.9},
                {"schedule": "constant", "lr": 1e-3},
                {"schedule": "constant", "lr": 1e-3, "beta2": 0.9},
            ],
            seeds=6,
            validation=True,
        ),
        # One of its cells once more, with a rate chosen for each of the two. PROTOCOL.md has the rest.
        Tuned("short_memory", seeds=6),
    )
}


def recorded(runs_dir: str | Path) -> list[tuple[Study, Any]]:
    """Every study with records in ``runs_dir``, and these: of ``STUDIES``, comparisons of one's own in
    folders with a folder final, and groups of comparable runs in ``runs_dir`` itself, by data set.
    """
    runs_dir = Path(runs_dir)
    own = {path.parent.name for path in runs_dir.glob("*/final")} - set(STUDIES)
    studies = (*STUDIES.values(), *(Comparison(name) for name in sorted(own)))
    found = [(study, record) for study in studies if (record := study.load(runs_dir))]
    met: Counter[str] = Counter()
    for group in comparable(load_runs(runs_dir)):
        name = group[0].data["name"]
        met[name] += 1
        study = Comparison(name if met[name] == 1 else f"{name}-{met[name]}")
        found.append((study, ([], group)))
    return found
