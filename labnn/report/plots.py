"""Figures: each function draws numbers, runs or frames, on the given axes and returns them."""

import textwrap
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from torch import Tensor

from labnn.data import CarModelsDataset, CarsData, ChanceLevels
from labnn.experiment import Run
from labnn.kit.numbers import number, rate
from labnn.report import frames, words
from labnn.report.statistics import MARGIN, best_rates, by_optimizer, paired_difference
from labnn.settings import OPTIMIZERS, method

# For good, since ticks are made when a figure is drawn, after any context has ended. Text is large for the
# width: a figure is read at half of it and on a phone.
plt.rcParams.update(
    {
        "font.size": 12,
        "axes.titlesize": "medium",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "grid.color": "0.88",
        "legend.fontsize": "small",
        "legend.frameon": False,
        "xtick.labelsize": "small",
        "ytick.labelsize": "small",
        "lines.linewidth": 1.8,
        "lines.markersize": 6,
        "hatch.linewidth": 1.5,
        "errorbar.capsize": 3,
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "labnn",  # the same bytes each time
    }
)
WIDTH = 8  # inches, of a figure with several panels
_SCALES = {"loss": (1, "потери, нат"), "accuracy": (100, "точность, %")}
_PARTS = {"test": ("тест", "-"), "train": ("обучение", "--")}
_CHANCE = {"color": "0.45", "linestyle": ":"}
_GREYS = [("0", "-", "o"), ("0.35", "--", "s"), ("0.55", ":", "^"), ("0.2", "-.", "D")]  # of no optimizer


def color(optimizer: str) -> str:
    """The colour of an optimizer in every figure."""
    return method(optimizer).color


def look(optimizer: str, points: int = 1) -> dict:
    """What tells the lines of an optimizer in every figure, without colour too: its colour and marker, hollow
    for every second one; of a line of ``points`` about eight are marked.
    """
    place, every = _place(optimizer), max(1, points // 8)
    face = "white" if place % 2 else color(optimizer)
    where = (place * every // 2 % every, every)  # optimizers side by side mark other points
    shape = "osD^vP"[place % 6]
    return {"color": color(optimizer), "marker": shape, "markerfacecolor": face, "markevery": where}


def _place(optimizer: str) -> int:
    return [*OPTIMIZERS, optimizer].index(optimizer)


def plot_metric(
    histories: dict[str, Sequence[pd.DataFrame]], classes: int, metric: str, ax: Axes | None = None
) -> Axes:
    """``metric`` ("loss" or "accuracy") by epoch, for the histories of each optimizer: test solid, training
    dashed; their mean and a band of its range; what a guess among ``classes`` gives.
    """
    ax = _axes(ax)
    scale, label = _SCALES[metric]
    for key, group in histories.items():
        epochs = group[0]["epoch"]
        for part, (name, style) in _PARTS.items():
            values = scale * np.stack([_between(history[f"{part}_{metric}"]) for history in group])
            mean, line = values.mean(axis=0), look(key, len(epochs))
            ax.plot(epochs, mean, linestyle=style, label=f"{words.title(key)}, {name}", **line)
            if len(group) > 1:
                low, high = values.min(axis=0), values.max(axis=0)
                ax.fill_between(epochs, low, high, color=color(key), alpha=0.2, linewidth=0)
    chance = np.log(classes) if metric == "loss" else 100 / classes
    ax.axhline(chance, label=f"наугад, классов: {classes}", **_CHANCE)
    ax.set(xlabel="эпоха", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(ax)


def plot_histories(histories: dict[str, Sequence[pd.DataFrame]], classes: int) -> Figure:
    """Loss and accuracy side by side, for the histories of each optimizer."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.4))
    for metric, ax in zip(("loss", "accuracy"), axes, strict=True):
        plot_metric(histories, classes, metric, ax)
    return _legend_below(figure)


def plot_curves(runs: Sequence[Run]) -> Figure:
    """``plot_histories`` of ``runs``, for every optimizer."""
    data, seeds = runs[0].data, len({run.experiment.seed for run in runs})
    histories = {key: [run.history for run in group] for key, group in by_optimizer(runs).items()}
    figure = plot_histories(histories, data["classes"])
    spread = f"среднее и размах, зёрен: {seeds}" if seeds > 1 else "одно зерно генератора"
    figure.suptitle(f"Снимков на обучении и тесте: {words.sizes(data)}; {spread}", fontsize="medium")
    return figure


def plot_sensitivity(tuning: Sequence[Run], ax: Axes | None = None) -> Axes:
    """Accuracy on the validation part against the learning rate, a line an optimizer, its best marked
    large.
    """
    ax = _axes(ax)
    tried, best = frames.rates(tuning), best_rates(tuning)
    for key, own in tried.groupby("optimizer", sort=False):
        line = look(key)
        label = f"{words.title(key)}, лучшая {rate(best[key])}"
        ax.semilogx(own["lr"], 100 * own["accuracy"], label=label, **line)
        large = line | {"markersize": 15, "markerfacecolor": "none", "markeredgewidth": 1.8}
        ax.plot(own["lr"][own["best"]], 100 * own["accuracy"][own["best"]], **large)
    ax.axhline(100 / tuning[0].data["classes"], label="наугад", **_CHANCE)
    ax.set(xlabel="скорость обучения (наибольшая)", ylabel="точность на проверке, %")
    _finished(ax).legend(loc="lower left", bbox_to_anchor=(0, 1))  # above: lines are everywhere below
    return ax


def plot_accuracy_by_time(runs: Sequence[Run], ax: Axes | None = None) -> Axes:
    """Test accuracy against seconds of training: a thin line a run, a thick one the mean of an optimizer."""
    ax = _axes(ax)
    for key, group in by_optimizer(runs).items():
        seconds = np.stack([run.history["seconds"].cumsum() for run in group])
        accuracy = 100 * np.stack([_between(run.history["test_accuracy"]) for run in group])
        ax.plot(seconds.T, accuracy.T, color=color(key), alpha=0.5, linewidth=1)
        line = {"label": words.title(key), "linewidth": 2.4} | look(key, seconds.shape[1])
        ax.plot(seconds.mean(axis=0), accuracy.mean(axis=0), **line)
    ax.set(xlabel="время обучения, с", ylabel="точность на тесте, %")
    return _finished(ax)


def plot_differences(runs: Sequence[Run], ax: Axes | None = None, planned: int = 2) -> Axes:
    """The difference in test accuracy of each pair of two optimizers' runs, by seed, and, when there are
    ``planned`` pairs, the mean with its interval.
    """
    ax = _axes(ax)
    first, second = by_optimizer(runs)
    pairs, mean = frames.pairs(runs), paired_difference(*by_optimizer(runs).values())
    points = 100 * pairs["difference"]
    for key, height in ((first, points.clip(lower=0)), (second, points.clip(upper=0))):
        own = {"color": color(key), "edgecolor": "white", "hatch": "//" if _place(key) % 2 else ""}
        ax.bar(pairs.index, height, label=words.title(key), **own)  # also of who never wins
    ticks, names = [*range(len(pairs))], [*pairs["seed"]]
    if mean.pairs >= planned:
        ends = 100 * np.array([[mean.mean - mean.low], [mean.high - mean.mean]])
        style = {"fmt": "ko", "capsize": 6, "label": "среднее и 95-процентный интервал"}
        ax.errorbar(len(pairs) + 0.5, 100 * mean.mean, ends, **style)
        ticks, names = [*ticks, len(pairs) + 0.5], [*names, "среднее"]
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(ticks, names)
    ax.margins(y=0.3)  # room for the legend
    ax.set(xlabel="зерно; цвет того, чья сеть точнее", ylabel="разность, п. п.")
    ax.set_title(f"{words.title(first)} минус {words.title(second)}, точность на тесте")
    return _finished(ax)


def plot_answer(tuning: Sequence[Run], runs: Sequence[Run]) -> Figure:
    """What the verdict on two optimizers stands on: learning rates, accuracy by time, differences by seed."""
    figure = plt.figure(figsize=(WIDTH, 7.6))
    panels = figure.subplot_mosaic([["rates", "time"], ["pairs", "pairs"]])
    plot_sensitivity(tuning, panels["rates"])
    plot_accuracy_by_time(runs, panels["time"])
    plot_differences(runs, panels["pairs"])
    return figure


def plot_maximum(table: pd.DataFrame) -> Figure:
    """How often and how strongly AMSGrad's maximum binds, by epoch: ``frames.maximum``."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.8))
    line, epochs = look("amsgrad", len(table)), table["epoch"]
    left.plot(epochs, 100 * table["maximum_share"], **line)
    left.set(xlabel="эпоха", ylabel="веса, где максимум выше $v_t$, %", ylim=(0, 100))
    right.plot(epochs, table["step_50"], label="медиана по весам", **line)
    band = {"color": color("amsgrad"), "alpha": 0.25, "linewidth": 0, "label": "от 10 до 90 % весов"}
    right.fill_between(epochs, table["step_10"], table["step_90"], **band)
    right.axhline(1, color="black", linewidth=0.8)
    right.set(xlabel="эпоха", ylabel="шаг AMSGrad / шаг Adam", ylim=(0, 1.05))
    _finished(left)
    _finished(right)
    return figure


def plot_counter_example(tables: dict[str, pd.DataFrame], points: int = 400) -> Figure:
    """Figure 1 of Reddi et al. anew: for each titled ``theory.counter_example`` the point x_t and the average
    regret of both optimizers, of which the first steps are cut off and told.
    """
    size = (WIDTH, 0.6 + 3.2 * len(tables))
    figure, axes = plt.subplots(len(tables), 2, figsize=size, squeeze=False)
    labels = {"x": "$x_t$", "regret": "среднее сожаление $R_t / t$"}
    for (title, table), row in zip(tables.items(), axes, strict=True):
        shown = table.iloc[np.unique(np.linspace(0, len(table) - 1, points).astype(int))]
        for ax, (column, label) in zip(row, labels.items(), strict=True):
            for key in ("amsgrad", "adam"):
                line = look(key, len(shown)) | {"label": words.title(key)}
                ax.plot(shown["step"] / 1e6, shown[f"{column}_{key}"], **line)
            ax.set(xlabel="шаг, млн", ylabel=label)
            _finished(ax)
        top = 1.5 * shown["regret_adam"].tail(points // 2).max()
        row[1].set_ylim(0, top)
        row[0].set_title(title, loc="left")
        regrets = table[["regret_adam", "regret_amsgrad"]].to_numpy()
        if regrets.min() < 0 or regrets.max() > top:
            ends = f"от {number(regrets.min(), 1)} до {number(regrets.max(), 1)}"
            row[1].set_title(f"начало вне рамки: {ends}", fontsize="small")
    return _legend_below(figure)


def plot_step_sizes(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The steps of ``theory.step_sizes``, each over that of PyTorch, by step."""
    ax = _axes(ax)
    titles = {"paper": "алгоритм 2: без поправок на смещение", "corrected_first": "максимум после поправки"}
    for (column, title), style in zip(titles.items(), ("-", "--"), strict=True):
        own = {"color": color("amsgrad"), "linestyle": style, "label": title}
        ax.semilogx(table["step"], table[column] / table["torch"], **own)
    ax.axhline(1, color="black", linewidth=0.8, label="PyTorch: максимум до поправки")
    ax.set(xlabel="шаг", ylabel="длина шага / шаг PyTorch")
    return _finished(ax)


def plot_losses(runs: dict[str, Run], levels: ChanceLevels, ax: Axes | None = None) -> Axes:
    """Training loss by epoch of each titled run, against the band where a network that knows only the class
    shares stays.
    """
    ax = _axes(ax)
    for index, (title, run) in enumerate(runs.items()):
        style = ("-", "--", ":")[index % 3]  # dead networks lie one upon another
        line = look(run.experiment.optimizer) | {"linestyle": style, "label": title}
        ax.plot(run.history["epoch"], run.history["train_loss"], **line)
    band = f"H … ln K = {number(levels.prior_loss, 3)} … {number(levels.uniform_loss, 3)}"
    ax.axhspan(levels.prior_loss, levels.uniform_loss, color="0.45", alpha=0.6, linewidth=0, label=band)
    ax.set(xlabel="эпоха", ylabel="потери на обучении, нат")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(ax)


def plot_signals(signals: dict[str, pd.DataFrame]) -> Figure:
    """Spread and gradient of titled ``diagnose.signal_by_layer`` tables, layer by layer, side by side on
    logarithmic scales.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.2))
    labels = {"spread": "разброс выхода между снимками", "gradient": "норма градиента / норма весов"}
    for (column, label), ax in zip(labels.items(), axes, strict=True):
        for (title, table), (shade, style, marker) in zip(signals.items(), cycle(_GREYS), strict=False):
            layers, line = range(1, len(table) + 1), {"color": shade, "marker": marker, "label": title}
            ax.semilogy(layers, table[column].clip(lower=1e-12), linestyle=style, markevery=3, **line)
        ax.set(xlabel="номер свёртки от входа", ylabel=label)
        _finished(ax)
    return _legend_below(figure)


def plot_changes(table: pd.DataFrame, share: float, ax: Axes | None = None) -> Axes:
    """The accuracies of ``frames.ablation`` or ``ladder`` as bars, in the order of the table, with deviations
    where runs were repeated and the ``share`` of the most frequent class; long changes by their numbers in
    the table and their beginnings.
    """
    column = "accuracy" if "accuracy" in table else "test_accuracy"
    shown = words.table(table)
    heading = next(name for name in shown if name.startswith("Точность"))
    changes = [
        textwrap.shorten(text, words.LONG, placeholder=" …")
        for text in words.numbered(shown.iloc[:, 0], brief=True)
    ]
    ax = _axes(ax, (WIDTH, 1.3 + 0.34 * len(table)))
    deviation = 100 * table.get(f"{column}_deviation", pd.Series(np.nan, table.index))
    places = range(len(table))  # by place: two changes may be called alike
    ax.barh(places, 100 * table[column], color="0.6")
    ax.errorbar(100 * table[column], places, xerr=deviation, fmt="none", ecolor="0.1")
    ends = 100 * table[column] + deviation.fillna(0)
    beside = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": "small"}
    for place, end, text in zip(places, ends, shown[heading], strict=True):
        ax.annotate(text, (end, place), bbox={"facecolor": "white", "linewidth": 0, "pad": 1}, **beside)
    ax.axvline(100 * share, color="0.2", linestyle=":", label="доля самого частого класса", zorder=0)
    ax.set_yticks(places, changes)
    ax.invert_yaxis()
    ax.margins(x=0.25)
    ax.set_xlim(left=0)
    ax.set_xlabel(heading.lower())
    _finished(ax).grid(False)
    _legend_below(ax.figure)
    return ax


def plot_cells(table: pd.DataFrame) -> Figure:
    """``frames.cells``: the difference of each cell with its interval, and beside it how many weights the
    maximum holds.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 1.6 + 0.6 * len(table)), sharey=True, width_ratios=[2, 1]
    )
    places, points = np.arange(len(table)), 100 * table["difference"]
    reach = [points - 100 * table["difference_low"], 100 * table["difference_high"] - points]
    left.errorbar(points, places, xerr=np.nan_to_num(reach, posinf=0), fmt="o", color="0.2")
    left.axvspan(-100 * MARGIN, 100 * MARGIN, color="0.9", zorder=0)
    left.axvline(0, **_CHANCE)
    left.set(xlabel="разность точности, п. п.")
    right.barh(places, 100 * table["maximum_share"], color="0.55")
    right.set(xlabel="под максимумом, %", xlim=(0, 100))
    names = [cell.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}") for cell in table["cell"]]
    left.set_yticks(places, [textwrap.fill(name, 30) for name in names])
    left.invert_yaxis()
    for ax in (left, right):
        _finished(ax).grid(axis="y", visible=False)
    return figure


def plot_class_sizes(data: CarsData, ax: Axes | None = None) -> Axes:
    """Training images in each class, from the largest; named when the names fit."""
    ax = _axes(ax)
    sizes = np.bincount(data.train.labels, minlength=len(data.class_names))
    order, places = np.argsort(-sizes, kind="stable"), np.arange(len(sizes))
    ax.bar(places, sizes[order], width=0.8, color="0.55")
    if len(sizes) <= 20:
        ax.set_xticks(places, [data.class_names[index] for index in order], rotation=40, ha="right")
    else:
        ax.set_xlabel("класс, по убыванию")
    ax.set_ylabel("обучающих снимков")
    ax.grid(axis="x", visible=False)
    return ax


def show_images(
    dataset: CarModelsDataset, class_names: Sequence[str], columns: int = 5, rows: int = 2
) -> Figure:
    """The first image of each of the first ``rows * columns`` classes, with its name; those of a row are
    equally high.
    """
    _, firsts = np.unique(dataset.labels, return_index=True)
    lines = [firsts[start : start + columns] for start in range(0, min(len(firsts), rows * columns), columns)]
    pictures = [[dataset.image(int(index)) for index in line] for line in lines]
    ratios = [[picture.width / picture.height for picture in line] for line in pictures]
    heights = [0.5 + WIDTH / sum(line) for line in ratios]  # of a picture and its title
    figure = plt.figure(figsize=(WIDTH, sum(heights)))
    parts = figure.subfigures(len(lines), height_ratios=heights, squeeze=False).flat
    for part, line, shown, wide in zip(parts, lines, pictures, ratios, strict=True):
        axes = part.subplots(1, len(line), width_ratios=wide, squeeze=False).flat
        for ax, index, picture in zip(axes, line, shown, strict=True):
            _show(ax, picture, class_names[dataset.labels[index]])
    return figure


def show_batch(images: Tensor, labels: Tensor, class_names: Sequence[str], columns: int = 6) -> Figure:
    """The first ``columns`` images of a normalised batch as the network gets them, each with its class; of
    mixed pictures, whose labels are class shares, float ``(n, classes)``, with the largest.
    """
    figure, axes = plt.subplots(1, columns, figsize=(WIDTH, 0.6 + WIDTH / columns))
    classes = labels.argmax(dim=1) if labels.ndim > 1 else labels
    for ax in axes:
        ax.axis("off")
    for ax, image, label in zip(axes, images.float().cpu(), classes.tolist(), strict=False):
        shown = image - image.amin()
        _show(ax, (shown / shown.amax()).permute(1, 2, 0).numpy(), class_names[label])
    return figure


def _show(ax: Axes, picture: Any, name: str) -> None:
    ax.imshow(picture)
    ax.axis("off")
    ax.set_title(textwrap.fill(name, 16), fontsize="small")


def plot_confusion(run: Run, class_names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Shares of each true class (rows) that got each answer (columns); for few classes."""
    ax = _axes(ax, (WIDTH, 7))
    counts = np.zeros((len(class_names), len(class_names)))
    np.add.at(counts, (run.predictions["label"], run.predictions["prediction"]), 1)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    ax.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    if len(class_names) <= 20:
        style = {"ha": "center", "va": "center", "fontsize": "small"}
        for row, column in np.argwhere(shares >= 0.005):
            share = shares[row, column]
            shade = "white" if share > 0.5 else "black"
            ax.text(column, row, number(100 * share, 0), color=shade, **style)
        ax.set_xticks(range(len(class_names)), class_names, rotation=40, ha="right")
        ax.set_yticks(range(len(class_names)), class_names)
    ax.set(xlabel="ответ сети", ylabel="истинный класс")
    ax.grid(False)
    return ax


def _between(values: pd.Series) -> pd.Series:
    """Interpolated over epochs without a test, but not past the last number: what has diverged ends."""
    return values.interpolate(limit_area="inside")


def _finished(ax: Axes) -> Axes:
    for axis in (ax.xaxis, ax.yaxis):
        if isinstance(axis.get_major_formatter(), ScalarFormatter):  # not of logarithmic or named ticks
            axis.set_major_formatter(lambda value, _: rate(round(value, 9)))
    if ax.get_legend_handles_labels()[1]:
        ax.legend()
    return ax


def _legend_below(figure: Figure) -> Figure:
    """One legend below all panels, which have the same lines, in place of one in each."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    for ax in figure.axes:
        ax.get_legend().remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=1 if max(map(len, labels)) > 30 else 3)
    return figure


def _axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.2)) -> Axes:
    return ax if ax is not None else plt.subplots(figsize=size)[1]
