"""Runs to a report's files: figures and tables of each data set, from live runs and recorded ones alike."""

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from labnn.errors import LabError
from labnn.experiment import Run, load_runs
from labnn.plots import plot_curves
from labnn.tables import OPTIMIZER_NAMES, epoch_table, save_table, settings_table, summary_table


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
    """``write_report`` for every data set recorded in ``runs_dir``, each into a folder of its name. Raises ``LabError`` if none is."""
    runs = load_runs(runs_dir)
    if not runs:
        raise LabError(f"В папке {runs_dir} нет записанных прогонов: обучите сети командой python -m labnn train.")
    names = dict.fromkeys(run.data["name"] for run in runs)
    return [path for name in names for path in write_report([run for run in runs if run.data["name"] == name], Path(folder) / name)]


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes ``figure`` as PNG whole or not at all; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    figure.savefig(unfinished, dpi=130, format="png")
    os.replace(unfinished, path)
    return path
