"""Figures: each function draws numbers, runs or frames, on the given axes and returns them."""

import textwrap
from collections.abc import Sequence

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
from labnn.report.statistics import best_rates, by_optimizer, paired_difference
from labnn.settings import method

_SCALES = {"loss": (1, "потери, нат"), "accuracy": (100, "точность, %")}
_PARTS = {"test": ("тест", "-", 1.8), "train": ("обучение", "--", 1.2)}
_CHANCE = {"color": "0.45", "linestyle": ":", "linewidth": 1.2}


def color(optimizer: str) -> str:
    """The colour of an optimizer in every figure."""
    return method(optimizer).color


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
        for part, (name, style, width) in _PARTS.items():
            # Interpolated over epochs without a test.
            values = scale * np.stack([history[f"{part}_{metric}"].interpolate() for history in group])
            line = {"color": color(key), "label": f"{words.title(key)}, {name}", "linewidth": width}
            ax.plot(epochs, values.mean(axis=0), style, **line)
            if len(group) > 1:
                low, high = values.min(axis=0), values.max(axis=0)
                ax.fill_between(epochs, low, high, color=color(key), alpha=0.15, linewidth=0)
    chance = np.log(classes) if metric == "loss" else 100 / classes
    ax.axhline(chance, label=f"наугад, K = {classes}", **_CHANCE)
    ax.set(xlabel="эпоха", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(ax)


def plot_histories(histories: dict[str, Sequence[pd.DataFrame]], classes: int) -> Figure:
    """Loss and accuracy side by side, for the histories of each optimizer."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for metric, ax in zip(("loss", "accuracy"), axes, strict=True):
        plot_metric(histories, classes, metric, ax)
    return figure


def plot_curves(runs: Sequence[Run]) -> Figure:
    """``plot_histories`` of ``runs``, for every optimizer."""
    data, seeds = runs[0].data, len({run.experiment.seed for run in runs})
    histories = {key: [run.history for run in group] for key, group in by_optimizer(runs).items()}
    figure = plot_histories(histories, data["classes"])
    spread = f"среднее и размах по зёрнам: {seeds}" if seeds > 1 else "одно зерно генератора"
    title = f"SqueezeNet, {data['name']}, снимков {words.sizes(data)}, {spread}"
    figure.suptitle(title, fontsize="medium")
    return figure


def plot_sensitivity(tuning: Sequence[Run], ax: Axes | None = None) -> Axes:
    """Accuracy on the validation part against the learning rate, a line an optimizer, a star on its best."""
    ax = _axes(ax)
    tried, best = frames.rates(tuning), best_rates(tuning)
    for key, own in tried.groupby("optimizer", sort=False):
        label = f"{words.title(key)}, лучшая {rate(best[key])}"
        ax.semilogx(own["lr"], 100 * own["accuracy"], "o-", color=color(key), label=label)
        star = own[own["best"]]
        ax.plot(star["lr"], 100 * star["accuracy"], "*", color=color(key), markersize=15)
    ax.axhline(100 / tuning[0].data["classes"], label="наугад", **_CHANCE)
    ax.set(xlabel="скорость обучения (наибольшая в расписании)", ylabel="точность на проверке, %")
    return _finished(ax)


def plot_accuracy_by_time(runs: Sequence[Run], ax: Axes | None = None) -> Axes:
    """Test accuracy against seconds of training: a thin line a run, a thick one the mean of an optimizer."""
    ax = _axes(ax)
    for key, group in by_optimizer(runs).items():
        seconds = np.stack([run.history["seconds"].cumsum() for run in group])
        accuracy = 100 * np.stack([run.history["test_accuracy"].interpolate() for run in group])
        ax.plot(seconds.T, accuracy.T, color=color(key), alpha=0.25, linewidth=0.8)
        mean = {"color": color(key), "linewidth": 1.8, "label": words.title(key)}
        ax.plot(seconds.mean(axis=0), accuracy.mean(axis=0), **mean)
    ax.set(xlabel="время обучения, с", ylabel="точность на тесте, %")
    return _finished(ax)


def plot_differences(runs: Sequence[Run], ax: Axes | None = None) -> Axes:
    """The difference in test accuracy of each pair of two optimizers' runs, by seed, and the mean with its
    interval.
    """
    ax = _axes(ax)
    first, second = by_optimizer(runs)
    pairs, mean = frames.pairs(runs), paired_difference(*by_optimizer(runs).values())
    colors = [color(first if difference > 0 else second) for difference in pairs["difference"]]
    ax.bar(range(len(pairs)), 100 * pairs["difference"], color=colors, alpha=0.7)
    if mean.pairs > 1:
        ends = 100 * np.array([[mean.mean - mean.low], [mean.high - mean.mean]])
        style = {"fmt": "ko", "capsize": 6, "label": "среднее и 95-процентный интервал"}
        ax.errorbar(len(pairs) + 0.5, 100 * mean.mean, ends, **style)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks([*range(len(pairs)), len(pairs) + 0.5], [*pairs["seed"], "среднее"])
    ax.margins(y=0.2)  # room for the legend
    ax.set(xlabel="зерно", ylabel=f"{words.title(first)} минус {words.title(second)}, п. п.")
    return _finished(ax)


def plot_answer(tuning: Sequence[Run], runs: Sequence[Run]) -> Figure:
    """What the verdict on two optimizers stands on, side by side: learning rates, accuracy by time,
    differences by seed.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    plot_sensitivity(tuning, left)
    plot_accuracy_by_time(runs, middle)
    plot_differences(runs, right)
    return figure


def plot_maximum(table: pd.DataFrame) -> Figure:
    """How often and how strongly AMSGrad's maximum binds, by epoch: ``frames.maximum``."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    own, epochs = color("amsgrad"), table["epoch"]
    left.plot(epochs, 100 * table["maximum_share"], color=own)
    left.set(xlabel="эпоха", ylabel="весов, у которых максимум выше $v_t$, %", ylim=(0, 100))
    right.plot(epochs, table["step_50"], color=own, label="медиана по весам")
    band = {"color": own, "alpha": 0.2, "linewidth": 0, "label": "от 10 до 90 % весов"}
    right.fill_between(epochs, table["step_10"], table["step_90"], **band)
    right.axhline(1, color="black", linewidth=0.8)
    right.set(xlabel="эпоха", ylabel="шаг AMSGrad / шаг Adam", ylim=(0, 1.05))
    _finished(left)
    _finished(right)
    return figure


def plot_counter_example(tables: dict[str, pd.DataFrame], points: int = 800) -> Figure:
    """Figure 1 of Reddi et al. anew: for each titled ``theory.counter_example`` the point x_t and the average
    regret of both optimizers.
    """
    size = (11, 3.2 * len(tables))
    figure, axes = plt.subplots(len(tables), 2, figsize=size, layout="constrained", squeeze=False)
    labels = {"x": "$x_t$", "regret": "среднее сожаление $R_t / t$"}
    for (title, table), row in zip(tables.items(), axes, strict=True):
        shown = table.iloc[np.unique(np.linspace(0, len(table) - 1, points).astype(int))]
        for ax, (column, label) in zip(row, labels.items(), strict=True):
            for key in ("amsgrad", "adam"):
                line = {"color": color(key), "label": words.title(key), "linewidth": 1.2}
                ax.plot(shown["step"] / 1e6, shown[f"{column}_{key}"], **line)
            ax.set(xlabel="шаг, млн", ylabel=label, title=title)
            _finished(ax)
        row[1].set_ylim(0, 1.5 * shown["regret_adam"].tail(points // 2).max())
    return figure


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
        line = {"color": color(run.experiment.optimizer), "marker": ".", "label": title}
        ax.plot(run.history["epoch"], run.history["train_loss"], style, **line)
    band = f"H … ln K = {number(levels.prior_loss, 3)} … {number(levels.uniform_loss, 3)}"
    ax.axhspan(levels.prior_loss, levels.uniform_loss, color="0.45", alpha=0.6, linewidth=0, label=band)
    ax.set(xlabel="эпоха", ylabel="потери на обучении, нат")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(ax)


def plot_signals(signals: dict[str, pd.DataFrame]) -> Figure:
    """Spread and gradient of titled ``diagnose.signal_by_layer`` tables, layer by layer, side by side on
    logarithmic scales.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    labels = {"spread": "разброс выхода между снимками", "gradient": "норма градиента / норма весов"}
    for (column, label), ax in zip(labels.items(), axes, strict=True):
        for (title, table), shade in zip(signals.items(), ("C7", "C2", "C4", "C5"), strict=False):
            layers, line = range(1, len(table) + 1), {"color": shade, "marker": ".", "label": title}
            ax.semilogy(layers, table[column].clip(lower=1e-12), **line)
        ax.set(xlabel="номер свёртки от входа", ylabel=label)
        _finished(ax)
    return figure


def plot_changes(table: pd.DataFrame, share: float, ax: Axes | None = None) -> Axes:
    """The accuracies of ``frames.ablation`` or ``ladder`` as bars, in the order of the table, with deviations
    and the ``share`` of the most frequent class.
    """
    column = "accuracy" if "accuracy" in table else "test_accuracy"
    shown = words.table(table)
    heading = next(name for name in shown if name.startswith("Точность"))
    changes = ["\n".join(textwrap.wrap(text, 80)) for text in shown.iloc[:, 0]]
    if ax is None:
        row = 0.16 * max(text.count("\n") + 1 for text in changes) + 0.14  # inches
        ax = plt.subplots(figsize=(12, 1 + row * len(changes)), layout="constrained")[1]
    deviation = 100 * table.get(f"{column}_deviation", pd.Series(np.nan, table.index))
    places = range(len(table))  # by place: two changes may be called alike
    ax.barh(places, 100 * table[column], color="0.6")
    ax.errorbar(100 * table[column], places, xerr=deviation, fmt="none", ecolor="0.2", capsize=3)
    ends = 100 * table[column] + deviation.fillna(0)
    beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": "small"}
    for place, end, text in zip(places, ends, shown[heading], strict=True):
        ax.annotate(text, (end, place), bbox={"facecolor": "white", "linewidth": 0, "pad": 1}, **beside)
    ax.axvline(100 * share, color="0.2", linestyle=":", label="доля самого частого класса", zorder=0)
    ax.set_yticks(places, changes, fontsize="small")
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set_xlim(left=0)
    ax.set_xlabel(heading.lower())
    _finished(ax).grid(False)
    return ax


def plot_class_sizes(data: CarsData, ax: Axes | None = None) -> Axes:
    """Training images in each class, from the largest; named when the names fit."""
    ax = _axes(ax)
    sizes = np.bincount(data.train.labels, minlength=len(data.class_names))
    order, places = np.argsort(-sizes, kind="stable"), np.arange(len(sizes))
    ax.bar(places, sizes[order], width=0.8, color="0.55")
    if len(sizes) <= 20:
        ax.set_xticks(places, [data.class_names[index] for index in order], rotation=30, ha="right")
    else:
        ax.set_xlabel("класс, по убыванию")
    ax.set_ylabel("обучающих снимков")
    ax.grid(axis="y", alpha=0.25)
    return ax


def show_images(
    dataset: CarModelsDataset, class_names: Sequence[str], columns: int = 5, rows: int = 2
) -> Figure:
    """The first image of each of the first ``rows * columns`` classes, with its name."""
    size = (2.2 * columns, 1.5 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    _, firsts = np.unique(dataset.labels, return_index=True)
    for ax in axes.flat:
        ax.axis("off")
    for ax, index in zip(axes.flat, firsts, strict=False):
        ax.imshow(dataset.image(int(index)))
        ax.set_title(class_names[dataset.labels[index]], fontsize="small")
    return figure


def show_batch(images: Tensor, labels: Tensor, class_names: Sequence[str], columns: int = 8) -> Figure:
    """The first ``columns`` images of a normalised batch as the network gets them, each with its class; of
    mixed pictures, whose labels are class shares, float ``(n, classes)``, with the largest.
    """
    figure, axes = plt.subplots(1, columns, figsize=(1.4 * columns, 1.8), layout="constrained")
    classes = labels.argmax(dim=1) if labels.ndim > 1 else labels
    for ax in axes:
        ax.axis("off")
    for ax, image, label in zip(axes, images.float().cpu(), classes.tolist(), strict=False):
        shown = image - image.amin()
        ax.imshow((shown / shown.amax()).permute(1, 2, 0).numpy())
        ax.set_title(textwrap.fill(class_names[label], 18), fontsize="x-small")
    return figure


def plot_confusion(run: Run, class_names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Shares of each true class (rows) that got each answer (columns); for few classes."""
    ax = _axes(ax)
    counts = np.zeros((len(class_names), len(class_names)))
    np.add.at(counts, (run.predictions["label"], run.predictions["prediction"]), 1)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(class_names) <= 20:
        style = {"ha": "center", "va": "center", "fontsize": "x-small"}
        for row, column in np.argwhere(shares >= 0.005):
            share = shares[row, column]
            shade = "white" if share > 0.5 else "black"
            ax.text(column, row, number(100 * share, 0), color=shade, **style)
        ax.set_xticks(range(len(class_names)), class_names, rotation=40, ha="right")
        ax.set_yticks(range(len(class_names)), class_names)
    ax.set(xlabel="ответ сети", ylabel="истинный класс")
    return ax


def _finished(ax: Axes) -> Axes:
    ax.grid(alpha=0.25)
    for axis in (ax.xaxis, ax.yaxis):
        if isinstance(axis.get_major_formatter(), ScalarFormatter):  # not of logarithmic or named ticks
            axis.set_major_formatter(lambda value, _: rate(round(value, 9)))
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, fontsize="small")
    return ax


def _axes(ax: Axes | None) -> Axes:
    return ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
