"""Runs to a report's files: figures and tables of each data set, from live runs and recorded ones alike."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from labnn.compare import comparable
from labnn.errors import LabError
from labnn.experiment import ORIGINAL, Experiment, Run, load_runs
from labnn.files import written_whole
from labnn.plots import plot_curves
from labnn.tables import (
    OPTIMIZER_NAMES,
    ablation_table,
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
    """The studies on real photos that ``runs_dir`` holds, each in a folder of its own but the comparison of optimizers."""

    comparison: list[Run]
    collapse: list[Run]
    causes: list[Run]
    levers: list[Run]
    recipe: Run
    variants: pd.DataFrame


def recorded_studies(runs_dir: str | Path) -> Recorded:
    """Reads the studies below ``runs_dir``: ``collapse``, ``causes``, ``levers``, and in ``recipe`` the most accurate run with its
    ``variants.csv``. Raises ``LabError`` if one is absent."""
    runs_dir = Path(runs_dir)
    groups = {name: load_runs(runs_dir / name) for name in ("", "collapse", "causes", "levers", "recipe")}
    variants = list((runs_dir / "recipe").glob("*/variants.csv"))
    absent = [name or "." for name, runs in groups.items() if not runs] + ([] if variants else ["recipe/*/variants.csv"])
    if absent:
        raise LabError(f"В папке {runs_dir} нет записей опытов ({', '.join(absent)}): восстановите её из git.")
    comparison, collapse, causes, levers, [recipe] = groups.values()
    return Recorded(comparable(comparison)[0], collapse, causes, levers, recipe, pd.read_csv(variants[0]))


def recorded_tables(studies: Recorded) -> dict[str, pd.DataFrame]:
    """The tables of the studies, by the names that README and report give them."""
    dead = [run for run in studies.collapse if not run.experiment.batch_norm]
    ladder = [run for run in (*studies.collapse, *studies.comparison, studies.recipe) if run.experiment.optimizer == "amsgrad"]
    sick = replace(ORIGINAL, optimizer="amsgrad", image_size=64, epochs=studies.causes[0].experiment.epochs)
    short = replace(Experiment(), image_size=64, test_size=0, epochs=30, min_crop_area=0.35, mix=0.3)
    return {
        "ladder": ladder_table(ladder),
        "collapse": collapse_table(dead),
        "causes": ablation_table(studies.causes, sick, "рецепт исходной работы"),
        "settings": settings_table(studies.recipe),
        "variants": variants_table(studies.variants),
        "levers": ablation_table(studies.levers, short, "рецепт"),
        "summary": summary_table(studies.comparison),
    }


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes ``figure`` as PNG whole or not at all; returns the path."""
    path = Path(path)
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, dpi=130, format="png")
    return path
