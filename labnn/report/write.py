"""Runs to a report's files: figures and tables of each data set, from live runs and recorded ones alike."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from labnn.data import ChanceLevels, chance_levels
from labnn.experiment import ORIGINAL, Run, load_runs, make_model
from labnn.kit.diagnose import signal_by_layer
from labnn.kit.errors import LabError
from labnn.kit.files import written_whole
from labnn.report.compare import comparable
from labnn.report.plots import plot_answer, plot_changes, plot_curves, plot_losses, plot_maximum, plot_signal
from labnn.report.studies import STUDIES
from labnn.report.tables import (
    ablation_table,
    by_optimizer,
    changes,
    collapse_table,
    epoch_table,
    ladder_table,
    milestones_table,
    optimizer_name,
    pairs_table,
    rates_table,
    save_table,
    settings_table,
    statistics_table,
    summary_table,
    variants_table,
    verdict,
)


def write_report(runs: Sequence[Run], folder: str | Path, tuning: Sequence[Run] = ()) -> list[Path]:
    """Writes figures (PNG), tables (CSV and Markdown) and the verdict of ``runs``, one data set's, into ``folder``; returns the paths.

    ``tuning``: the runs that their learning rates were chosen by, where they were.
    """
    folder = Path(folder)
    paths = _save_figures(comparison_figures(runs, tuning), folder)
    tables = comparison_tables(runs, tuning) | {"settings": settings_table(runs)}
    tables |= {
        f"epochs-{group[0].experiment.optimizer}": epoch_table(group) for group in by_optimizer(runs).values()
    }
    for name, table in tables.items():
        paths += save_table(table, folder / name)
    with written_whole(folder / "verdict.md") as unfinished:
        unfinished.write_text(verdict(runs) + "\n", encoding="utf-8")
    return [*paths, folder / "verdict.md"]


def comparison_figures(runs: Sequence[Run], tuning: Sequence[Run] = ()) -> dict[str, Figure]:
    """The figures that ``runs`` allow: curves, how AMSGrad's maximum bound, with ``tuning`` what the verdict on two optimizers stands on."""
    figures = {"curves": plot_curves(runs)}
    if bounded := [run for run in runs if "maximum_share" in run.history]:
        figures["maximum"] = plot_maximum(bounded)
    if len(by_optimizer(runs)) == 2 and tuning:
        figures["answer"] = plot_answer(tuning, runs)
    return figures


def comparison_tables(runs: Sequence[Run], tuning: Sequence[Run] = ()) -> dict[str, pd.DataFrame]:
    """The tables that ``runs`` allow, by file name: the summary, epochs to given accuracies, with two optimizers in pairs the pairs and
    their statistics, with ``tuning`` the learning rates tried."""
    tables = {"summary": summary_table(runs), "milestones": milestones_table(runs)}
    if tuning:
        tables["rates"] = rates_table(tuning)
    first, *others = ({run.experiment.seed for run in group} for group in by_optimizer(runs).values())
    if len(others) == 1 and others[0] == first:
        tables["pairs"] = pairs_table(runs)
        if len(first) > 1:
            tables["statistics"] = statistics_table(runs)
    return tables


def write_recorded(runs_dir: str | Path, folder: str | Path) -> list[Path]:
    """``write_report`` for every group of comparable runs in ``runs_dir``; returns the paths.

    Each group has a folder named by its data set, with a number where a data set has several. Raises ``LabError`` if
    nothing is recorded.
    """
    runs = load_runs(runs_dir)
    if not runs:
        raise LabError(
            f"В папке {runs_dir} нет записанных прогонов: обучите сети командой python -m labnn train."
        )
    paths, met = [], Counter()
    for group in comparable(runs):
        name = group[0].data["name"]
        met[name] += 1
        paths += write_report(group, Path(folder) / (name if met[name] == 1 else f"{name}-{met[name]}"))
    return paths


class Recorded(NamedTuple):
    """The studies on real photos that ``runs_dir`` holds, each in a folder of its own; ``early`` are the runs in none.

    ``tuning`` and ``final`` are the comparison of optimizers, ``signals`` ``start_signals`` of real photos.
    """

    early: list[Run]
    tuning: list[Run]
    final: list[Run]
    collapse: list[Run]
    causes: list[Run]
    levers: list[Run]
    recipe: Run
    variants: pd.DataFrame
    signals: dict[str, pd.DataFrame]

    @property
    def levels(self) -> ChanceLevels:
        """Chance levels of the photos that the networks are tested on."""
        return chance_levels(self.recipe.predictions["label"])


def recorded_studies(runs_dir: str | Path) -> Recorded:
    """Reads the studies below ``runs_dir``: ``comparison``, ``collapse``, ``causes``, ``levers``, in ``recipe`` the most accurate
    run with its ``variants.csv``, and ``signal.csv``. Raises ``LabError`` if one is absent."""
    runs_dir = Path(runs_dir)
    folders = ("", "comparison/tuning", "comparison/final", "collapse", "causes", "levers", "recipe")
    groups = {name: load_runs(runs_dir / name) for name in folders}
    files = {name: next(iter(runs_dir.glob(name)), None) for name in ("recipe/*/variants.csv", "signal.csv")}
    absent = [name or "." for name, content in (groups | files).items() if not content]
    if absent:
        raise LabError(
            f"В папке {runs_dir} нет записей опытов ({', '.join(absent)}): восстановите её из git."
        )
    early, tuning, final, collapse, causes, levers, [recipe] = groups.values()
    variants, signal = (pd.read_csv(path) for path in files.values())
    signals = {title: table.drop(columns="network") for title, table in signal.groupby("network", sort=False)}
    return Recorded(early, tuning, final, collapse, causes, levers, recipe, variants, signals)


def recorded_tables(studies: Recorded) -> dict[str, pd.DataFrame]:
    """The tables of the studies, by the names that README and report give them."""
    ladder = [
        run
        for run in (*studies.collapse, *studies.early, studies.recipe)
        if run.experiment.optimizer.endswith("amsgrad")
    ]
    return {
        "ladder": ladder_table(ladder),
        "collapse": collapse_table([run for run in studies.collapse if not run.experiment.batch_norm]),
        "causes": ablation_table(studies.causes, STUDIES["causes"].base, "рецепт исходной работы"),
        "settings": settings_table([studies.recipe]),
        "variants": variants_table(studies.variants),
        "levers": ablation_table(studies.levers, STUDIES["levers"].base, "рецепт"),
    } | comparison_tables(studies.final, studies.tuning)


def recorded_figures(studies: Recorded) -> dict[str, Figure]:
    """The story in pictures: the collapse, its cause, its cure, and the ladder of accuracies."""
    tables = recorded_tables(studies)
    losses = {_title(run): run for run in studies.collapse}
    figures = {
        "collapse": plot_losses(losses, studies.levels).figure,
        "signal": plot_signals(studies.signals),
    }
    return figures | {
        name: plot_changes(tables[name], studies.levels).figure for name in ("causes", "ladder")
    }


def write_studies(runs_dir: str | Path, folder: str | Path) -> list[Path]:
    """Writes the figures (PNG) of the studies in ``runs_dir`` into ``folder`` and the report of the comparison into
    ``folder``/comparison; returns the paths."""
    studies = recorded_studies(runs_dir)
    return _save_figures(recorded_figures(studies), Path(folder)) + write_report(
        studies.final, Path(folder) / "comparison", studies.tuning
    )


def _title(run: Run) -> str:
    network = changes(
        replace(run.experiment, optimizer=ORIGINAL.optimizer, image_size=ORIGINAL.image_size), ORIGINAL
    )
    return f"{optimizer_name(run.experiment.optimizer)}, {network or 'рецепт исходной работы'}"


def start_signals(images: Tensor, labels: Tensor, num_classes: int) -> dict[str, pd.DataFrame]:
    """``diagnose.signal_by_layer`` of the original's network at its start, and with He's weights or batch norm instead."""
    starts = (ORIGINAL, replace(ORIGINAL, init="he"), replace(ORIGINAL, batch_norm=True))
    return {
        changes(start, ORIGINAL) or "исходная сеть": signal_by_layer(
            make_model(start, num_classes), images, labels
        )
        for start in starts
    }


def plot_signals(signals: dict[str, pd.DataFrame]) -> Figure:
    """Spread and gradient of ``start_signals`` side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for column, ax in zip(("spread", "gradient"), axes, strict=True):
        plot_signal(signals, column, ax)
    return figure


def _save_figures(figures: dict[str, Figure], folder: Path) -> list[Path]:
    """Each figure in a file of its name; closed afterwards, so that a notebook does not show it once more."""
    paths = [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]
    for figure in figures.values():
        plt.close(figure)
    return paths


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes ``figure`` as PNG whole or not at all; returns the path."""
    path = Path(path)
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, dpi=130, format="png")
    return path
