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

from labnn.compare import comparable
from labnn.data import ChanceLevels, chance_levels
from labnn.diagnose import signal_by_layer
from labnn.errors import LabError
from labnn.experiment import ORIGINAL, Run, load_runs, make_model
from labnn.files import written_whole
from labnn.plots import plot_changes, plot_curves, plot_losses, plot_signal
from labnn.studies import STUDIES
from labnn.tables import (
    OPTIMIZER_NAMES,
    ablation_table,
    changes,
    collapse_table,
    epoch_table,
    ladder_table,
    save_table,
    settings_table,
    summary_table,
    variants_table,
)


def write_report(runs: Sequence[Run], folder: str | Path) -> list[Path]:
    """Writes the curves (PNG) and the tables (CSV and Markdown) of ``runs``, one data set's, into ``folder``; returns the paths."""
    folder = Path(folder)
    figure = plot_curves(runs)
    paths = [save_figure(figure, folder / "curves.png")]
    plt.close(figure)
    paths += save_table(summary_table(runs), folder / "summary")
    paths += save_table(settings_table(runs[0]), folder / "settings")
    for key in OPTIMIZER_NAMES:
        group = [run for run in runs if run.experiment.optimizer == key]
        if group:
            paths += save_table(epoch_table(group), folder / f"epochs-{key}")
    return paths


def write_recorded(runs_dir: str | Path, folder: str | Path) -> list[Path]:
    """``write_report`` for every group of comparable runs in ``runs_dir``; returns the paths.

    Each group has a folder named by its data set, with a number where a data set has several. Raises ``LabError`` if
    nothing is recorded.
    """
    runs = load_runs(runs_dir)
    if not runs:
        raise LabError(f"В папке {runs_dir} нет записанных прогонов: обучите сети командой python -m labnn train.")
    paths, met = [], Counter()
    for group in comparable(runs):
        name = group[0].data["name"]
        met[name] += 1
        paths += write_report(group, Path(folder) / (name if met[name] == 1 else f"{name}-{met[name]}"))
    return paths


class Recorded(NamedTuple):
    """The studies on real photos that ``runs_dir`` holds, each in a folder of its own but the comparison of optimizers.

    ``signals``: ``start_signals`` of real photos.
    """

    comparison: list[Run]
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
    """Reads the studies below ``runs_dir``: ``collapse``, ``causes``, ``levers``, in ``recipe`` the most accurate run with its
    ``variants.csv``, and ``signal.csv``. Raises ``LabError`` if one is absent."""
    runs_dir = Path(runs_dir)
    groups = {name: load_runs(runs_dir / name) for name in ("", "collapse", "causes", "levers", "recipe")}
    files = {name: next(iter(runs_dir.glob(name)), None) for name in ("recipe/*/variants.csv", "signal.csv")}
    absent = [name or "." for name, content in (groups | files).items() if not content]
    if absent:
        raise LabError(f"В папке {runs_dir} нет записей опытов ({', '.join(absent)}): восстановите её из git.")
    comparison, collapse, causes, levers, [recipe] = groups.values()
    variants, signal = (pd.read_csv(path) for path in files.values())
    signals = {title: table.drop(columns="network") for title, table in signal.groupby("network", sort=False)}
    return Recorded(comparable(comparison)[0], collapse, causes, levers, recipe, variants, signals)


def recorded_tables(studies: Recorded) -> dict[str, pd.DataFrame]:
    """The tables of the studies, by the names that README and report give them."""
    ladder = [run for run in (*studies.collapse, *studies.comparison, studies.recipe) if run.experiment.optimizer == "amsgrad"]
    return {
        "ladder": ladder_table(ladder),
        "collapse": collapse_table([run for run in studies.collapse if not run.experiment.batch_norm]),
        "causes": ablation_table(studies.causes, STUDIES["causes"].base, "рецепт исходной работы"),
        "settings": settings_table(studies.recipe),
        "variants": variants_table(studies.variants),
        "levers": ablation_table(studies.levers, STUDIES["levers"].base, "рецепт"),
        "summary": summary_table(studies.comparison),
    }


def recorded_figures(studies: Recorded) -> dict[str, Figure]:
    """The story in pictures: the collapse, its cause, its cure, and the ladder of accuracies."""
    tables = recorded_tables(studies)
    losses = {_title(run): run for run in studies.collapse}
    figures = {"collapse": plot_losses(losses, studies.levels).figure, "signal": plot_signals(studies.signals)}
    return figures | {name: plot_changes(tables[name], studies.levels).figure for name in ("causes", "ladder")}


def write_studies(runs_dir: str | Path, folder: str | Path) -> list[Path]:
    """Writes the figures (PNG) of the studies in ``runs_dir`` into ``folder``; returns the paths."""
    figures = recorded_figures(recorded_studies(runs_dir))
    paths = [save_figure(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]
    for figure in figures.values():
        plt.close(figure)
    return paths


def _title(run: Run) -> str:
    network = changes(replace(run.experiment, optimizer=ORIGINAL.optimizer, image_size=ORIGINAL.image_size), ORIGINAL)
    return f"{OPTIMIZER_NAMES[run.experiment.optimizer]}, {network or 'рецепт исходной работы'}"


def start_signals(images: Tensor, labels: Tensor, num_classes: int) -> dict[str, pd.DataFrame]:
    """``diagnose.signal_by_layer`` of the original's network at its start, and with He's weights or batch norm instead."""
    starts = (ORIGINAL, replace(ORIGINAL, init="he"), replace(ORIGINAL, batch_norm=True))
    return {changes(start, ORIGINAL) or "исходная сеть": signal_by_layer(make_model(start, num_classes), images, labels) for start in starts}


def plot_signals(signals: dict[str, pd.DataFrame]) -> Figure:
    """Spread and gradient of ``start_signals`` side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for column, ax in zip(("spread", "gradient"), axes, strict=True):
        plot_signal(signals, column, ax)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes ``figure`` as PNG whole or not at all; returns the path."""
    path = Path(path)
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, dpi=130, format="png")
    return path
