"""Figures: each function draws on the given axes and returns them."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from labnn.data import CarModelsDataset, CarsData, ChanceLevels
from labnn.experiment import Run
from labnn.tables import by_optimizer

_COLORS = {"AMSGrad": "#c1440e", "Adam": "#1f5a96"}
_SCALES = {"loss": (1, "потери, нат"), "accuracy": (100, "точность, %")}


def plot_metric(runs: Sequence[Run], metric: str, ax: Axes | None = None) -> Axes:
    """``metric`` ("loss" or "accuracy") by epoch: test solid, training dashed; mean over seeds and a band of its range."""
    ax = _axes(ax)
    scale, label = _SCALES[metric]
    for name, group in by_optimizer(runs).items():
        epochs = group[0].history["epoch"]
        for part, style in (("test", "-"), ("train", "--")):
            values = scale * np.stack([run.history[f"{part}_{metric}"].interpolate() for run in group])  # over epochs without a test
            title = f"{name}, {'тест' if part == 'test' else 'обучение'}"
            ax.plot(epochs, values.mean(axis=0), style, color=_COLORS[name], label=title, linewidth=1.8 if part == "test" else 1.2)
            if len(group) > 1:
                ax.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=_COLORS[name], alpha=0.15, linewidth=0)
    classes = runs[0].data["classes"]
    chance = np.log(classes) if metric == "loss" else 100 / classes
    ax.axhline(chance, color="0.45", linestyle=":", linewidth=1.2, label=f"наугад, K = {classes}")
    ax.set(xlabel="эпоха", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_curves(runs: Sequence[Run]) -> Figure:
    """Loss and accuracy side by side, for both optimizers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    plot_metric(runs, "loss", left)
    plot_metric(runs, "accuracy", right)
    seeds = len({run.experiment.seed for run in runs})
    spread = f"среднее и размах по зёрнам: {seeds}" if seeds > 1 else "одно зерно генератора"
    data = runs[0].data
    figure.suptitle(f"SqueezeNet, {data['name']}, снимков {data['train']} / {data['test']}, {spread}", fontsize="medium")
    return figure


def plot_losses(runs: dict[str, Run], levels: ChanceLevels, ax: Axes | None = None) -> Axes:
    """Training loss by epoch of each titled run, against the band where a network that knows only the class shares stays."""
    ax = _axes(ax)
    for index, (title, run) in enumerate(runs.items()):
        style = ("-", "--", ":")[index % 3]  # dead networks lie one upon another
        ax.plot(run.history["epoch"], run.history["train_loss"], style, marker=".", label=title)
    band = f"H … ln K = {levels.prior_loss:.3f} … {levels.uniform_loss:.3f}".replace(".", ",")
    ax.axhspan(levels.prior_loss, levels.uniform_loss, color="0.45", alpha=0.6, linewidth=0, label=band)
    ax.set(xlabel="эпоха", ylabel="потери на обучении, нат")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_signal(signals: dict[str, pd.DataFrame], column: str = "spread", ax: Axes | None = None) -> Axes:
    """``column`` ("spread" or "gradient") of titled ``diagnose.signal_by_layer`` tables, layer by layer, on a logarithmic scale."""
    ax = _axes(ax)
    for title, table in signals.items():
        ax.semilogy(range(1, len(table) + 1), table[column].clip(lower=1e-12), marker=".", label=title)
    labels = {"spread": "разброс выхода между снимками", "gradient": "норма градиента / норма весов"}
    ax.set(xlabel="номер свёртки от входа", ylabel=labels[column])
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_changes(table: pd.DataFrame, levels: ChanceLevels, ax: Axes | None = None) -> Axes:
    """The accuracies of ``tables.ablation_table`` or ``ladder_table`` as bars, and the share of the most frequent class."""
    words = ["\n".join(textwrap.wrap(text, 80)) for text in table["Что изменено"]]
    if ax is None:
        row = 0.16 * max(text.count("\n") + 1 for text in words) + 0.14  # inches
        ax = plt.subplots(figsize=(12, 1 + row * len(words)), layout="constrained")[1]
    column = next(name for name in table if name.startswith("Точность"))
    values = [float(cell.split(" ")[0].replace(",", ".")) for cell in table[column]]
    bars = ax.barh(words, values, color="#1f5a96")
    ax.bar_label(bars, table[column], padding=3, fontsize="small")
    ax.axvline(100 * levels.majority_share, color="#c1440e", linestyle=":", label="доля самого частого класса")
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set_xlabel(column.lower())
    ax.tick_params(axis="y", labelsize="small")
    ax.legend(frameon=False, fontsize="small", loc="best")
    return ax


def plot_class_sizes(data: CarsData, ax: Axes | None = None) -> Axes:
    """Training images in each class, from the largest; named when the names fit."""
    ax = _axes(ax)
    sizes = np.bincount(data.train.labels, minlength=len(data.class_names))
    order = np.argsort(-sizes, kind="stable")
    ax.bar(np.arange(len(sizes)), sizes[order], width=0.8, color="0.55")
    if len(sizes) <= 20:
        ax.set_xticks(np.arange(len(sizes)), [data.class_names[index] for index in order], rotation=30, ha="right")
    else:
        ax.set_xlabel("класс, по убыванию")
    ax.set_ylabel("обучающих снимков")
    ax.grid(axis="y", alpha=0.25)
    return ax


def show_images(dataset: CarModelsDataset, class_names: Sequence[str], columns: int = 5, rows: int = 2) -> Figure:
    """The first image of each of the first ``rows * columns`` classes, with its name."""
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 1.5 * rows), layout="constrained", squeeze=False)
    _, firsts = np.unique(dataset.labels, return_index=True)
    for ax in axes.flat:
        ax.axis("off")
    for ax, index in zip(axes.flat, firsts, strict=False):
        ax.imshow(dataset.image(int(index)))
        ax.set_title(class_names[dataset.labels[index]], fontsize="small")
    return figure


def show_batch(images: Tensor, labels: Tensor, class_names: Sequence[str], columns: int = 8) -> Figure:
    """The first ``columns`` images of a normalised batch as the network gets them."""
    figure, axes = plt.subplots(1, columns, figsize=(1.4 * columns, 1.8), layout="constrained")
    for ax, image, label in zip(axes, images.float().cpu(), labels.tolist(), strict=False):
        shown = image - image.amin()
        ax.imshow((shown / shown.amax()).permute(1, 2, 0))
        ax.set_title(class_names[label], fontsize="x-small")
        ax.axis("off")
    return figure


def plot_confusion(run: Run, class_names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Shares of each true class (rows) that got each answer (columns); for few classes."""
    ax = _axes(ax)
    counts = np.zeros((len(class_names), len(class_names)))
    np.add.at(counts, (run.predictions["label"], run.predictions["prediction"]), 1)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(class_names) <= 20:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                ax.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize="x-small", color="white" if share > 0.5 else "black")
        ax.set_xticks(range(len(class_names)), class_names, rotation=40, ha="right")
        ax.set_yticks(range(len(class_names)), class_names)
    ax.set(xlabel="ответ сети", ylabel="истинный класс")
    return ax


def _axes(ax: Axes | None) -> Axes:
    return ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
