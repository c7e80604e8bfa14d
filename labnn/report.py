"""Runs to a report's files: figures and tables of each data set, from live runs and recorded ones alike."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from labnn.compare import comparable
from labnn.errors import LabError
from labnn.experiment import Run, load_runs
from labnn.files import written_whole
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


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes ``figure`` as PNG whole or not at all; returns the path."""
    path = Path(path)
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, dpi=130, format="png")
    return path
