"""Figures: one function a figure; each draws records or numbers and returns the figure."""

import math
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

from labnn.data import CarModelsDataset
from labnn.kit.numbers import number, rate
from labnn.report.records import best_rates, by, pairs
from labnn.report.statistics import describe
from labnn.settings import OPTIMIZERS, method

# For good, since ticks are made when a figure is drawn, after any context has ended. Text is large for the
# width: a figure is read at half of it and on a phone.
plt.rcParams.update(
    {
        "font.size": 12,
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
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "labnn",  # the same bytes each time
    }
)
WIDTH = 8  # inches
_CHANCE = {"color": "0.45", "linestyle": ":"}
_ABOVE = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0}  # of a legend, where no line can be


def look(optimizer: str, points: int = 1) -> dict:
    """What tells the lines of an optimizer in every figure, without colour too: its colour and marker, hollow
    for every second one; of a line of ``points`` about eight are marked, of its neighbour others.
    """
    color, every, place = (
        method(optimizer).color,
        max(1, points // 8),
        [*OPTIMIZERS, optimizer].index(optimizer),
    )
    line = {"color": color, "marker": "osD^vP"[place % 6], "markevery": (place * every // 2 % every, every)}
    return line | {"markerfacecolor": "white" if place % 2 else color}


def plot_histories(histories: dict[str, pd.DataFrame], classes: int) -> Figure:
    """Loss and accuracy by epoch for the history of each optimizer, on one set of ``classes``: test solid,
    training dashed, and what a guess gives.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.4))
    for ax, metric, scale in zip(axes, ("loss", "accuracy"), (1, 100), strict=True):
        for name, history in histories.items():
            for part, title, style in (("test", "тест", "-"), ("train", "обучение", "--")):
                line = look(name, len(history)) | {"label": f"{method(name).title}, {title}"}
                # Over epochs without a test, but not past the last number: what has diverged ends.
                values = scale * history[f"{part}_{metric}"].astype(float).interpolate(limit_area="inside")
                ax.plot(history["epoch"], values, linestyle=style, **line)
        guess = np.log(classes) if metric == "loss" else 100 / classes
        ax.axhline(guess, label=f"наугад, классов: {classes}", **_CHANCE)
        ax.set(xlabel="эпоха", ylabel="потери, нат" if metric == "loss" else "точность, %")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses = [history[["train_loss", "test_loss"]] for history in histories.values()]
    _cut(axes[0], pd.concat(losses).astype(float), 1.5 * np.log(classes))
    return _finished(figure, below=True)


def _cut(ax: Axes, values: Any, top: float) -> None:
    """Leaves out what lies above ``top``, one spike of which would flatten the rest, and says so."""
    if (most := np.nanmax(values)) > top:
        ax.set_ylim(top=top)
        ax.set_title(f"выше рамки: до {number(most, 1)}", fontsize="small")


def plot_answer(tuning: pd.DataFrame, found: pd.DataFrame, planned: int = 2) -> Figure:
    """What the verdict on two optimizers stands on: accuracy on validation by rate, where rates were tuned;
    the difference in test accuracy of each pair, with mean and interval when ``planned`` pairs are there.
    """
    figure, axes = plt.subplots(1, 2 if len(tuning) else 1, figsize=(WIDTH, 4.4), squeeze=False)
    if len(tuning):
        _plot_rates(tuning, axes[0, 0])
    _plot_differences(found, axes[0, -1], planned)
    return _finished(figure)


def _plot_rates(tuning: pd.DataFrame, ax: Axes) -> None:
    best = best_rates(tuning)
    for name, part in by(tuning, "optimizer").items():
        own, line = 100 * part.groupby("lr")["test_accuracy"].mean(), look(name)
        ax.semilogx(own.index, own, label=f"{method(name).title}, лучшая {rate(best[name])}", **line)
        large = {"markersize": 15, "markerfacecolor": "none", "markeredgewidth": 1.8}
        ax.plot([best[name]], [own[best[name]]], **line | large)
    ax.axhline(100 / tuning["run"].iloc[0].data["classes"], label="наугад", **_CHANCE)
    ax.set(xlabel="скорость обучения (наибольшая)", ylabel="точность на проверке, %")
    ax.legend(**_ABOVE)


def plot_reason(adam: pd.DataFrame, amsgrad: pd.DataFrame) -> Figure:
    """Whether the two differ by the length of the step alone: accuracy on validation and training loss by
    rate, and by the rate times the ``factor`` of AMSGrad's step, where they would be the same.
    """
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 6.6), sharey="row")
    tuning = pd.concat([amsgrad, adam])
    tuning = tuning.assign(step=tuning["lr"] * tuning["factor"].fillna(1))
    metrics = ("test_accuracy", 100, "точность на проверке, %"), ("train_loss", 1, "потери на обучении, нат")
    scales = ("lr", "скорость обучения (наибольшая)"), ("step", "скорость × множитель шага AMSGrad")
    for row, (metric, scale, label) in zip(axes, metrics, strict=True):
        row[0].set_ylabel(label)
        for ax, (x, title) in zip(row, scales, strict=True):
            ax.set_xlabel(title)
            for name, part in by(tuning, "optimizer").items():
                own = part.groupby("lr")[[x, metric]].mean()
                ax.semilogx(own[x], scale * own[metric], label=method(name).title, **look(name))
    return _finished(figure, below=True)


def _plot_differences(found: pd.DataFrame, ax: Axes, planned: int) -> None:
    paired = pairs(found)
    first, second = by(found, "optimizer")
    points = 100 * paired["difference"]
    for name, height in ((first, points.clip(lower=0)), (second, points.clip(upper=0))):
        label = f"точнее {method(name).title}"  # also of who never is
        ax.bar(paired.index, height, label=label, color=method(name).color)
    ticks, names = [*range(len(paired))], [*paired["seed"]]
    if len(paired) >= planned:
        mean = describe(points)
        style = {"fmt": "ko", "capsize": 6, "label": "среднее, 95-процентный интервал"}
        reach = [[mean.mean - mean.low], [mean.high - mean.mean]] if mean.spread else None
        ax.errorbar(len(paired) + 0.5, mean.mean, reach, **style)
        ticks, names = [*ticks, len(paired) + 0.5], [*names, "все"]
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(ticks, names)
    ax.set(xlabel="зерно", ylabel=f"{method(first).title} − {method(second).title}, п. п.")
    ax.grid(axis="x", visible=False)
    ax.legend(**_ABOVE)


def plot_counter_example(paths: dict[str, pd.DataFrame], points: int = 400) -> Figure:
    """Figure 1 of Reddi et al. anew: for each titled ``theory.counter_example`` the point x_t and the average
    regret of both optimizers; of the regret the first steps are cut off and told.
    """
    size = (WIDTH, 0.6 + 3.2 * len(paths))
    figure, axes = plt.subplots(len(paths), 2, figsize=size, squeeze=False)
    for (title, path), row in zip(paths.items(), axes, strict=True):
        shown = path.iloc[np.unique(np.linspace(0, len(path) - 1, points).astype(int))]
        for ax, column in zip(row, ("x", "regret"), strict=True):
            for name in ("amsgrad", "adam"):
                line = look(name, len(shown)) | {"label": method(name).title}
                ax.plot(shown["step"] / 1e6, shown[f"{column}_{name}"], **line)
            ax.set(xlabel="шаг, млн", ylabel="$x_t$" if column == "x" else "среднее сожаление $R_t / t$")
        row[0].set_title(title, loc="left")
        row[1].set_ylim(bottom=0)
        regrets = path[["regret_adam", "regret_amsgrad"]].to_numpy()
        _cut(row[1], regrets, 1.5 * shown["regret_adam"].tail(points // 2).max())
    return _finished(figure, below=True)


def plot_signals(signals: dict[str, pd.DataFrame]) -> Figure:
    """Spread and gradient of titled ``signal_by_layer`` tables, layer by layer, on logarithmic scales."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.2))
    labels = {"spread": "разброс выхода между снимками", "gradient": "норма градиента / норма весов"}
    for (column, label), ax in zip(labels.items(), axes, strict=True):
        for (title, table), style in zip(signals.items(), cycle(["k-", "k--", "k:", "k-."]), strict=False):
            ax.semilogy(range(1, len(table) + 1), table[column].clip(lower=1e-12), style, label=title)
        ax.set(xlabel="номер свёртки от входа", ylabel=label)
    return _finished(figure, below=True)


def plot_hero(
    cars: Sequence[tuple[np.ndarray, str]], climb: Sequence[pd.DataFrame], known: Sequence[pd.DataFrame]
) -> Figure:
    """What the whole work came to: pictures ``(h, w, 3)`` of cars with the network's answers; the accuracy of
    the named ``climb``, from the original to the best; every answer of ``known`` with its interval.
    """
    figure = plt.figure(figsize=(1.4 * WIDTH, 5.6))
    above, below = figure.subfigures(2, 1, height_ratios=[1, 2.6])
    _pictures(above.subplots(1, max(len(cars), 1), squeeze=False), *zip(*cars, strict=True))
    left, right = below.subplots(1, 2)
    values = [100 * part["test_accuracy"].mean() for part in climb]
    bars = left.barh([part["change"].iloc[0] for part in climb], values, color="0.6", height=0.55)
    left.bar_label(bars, [f"{number(value, 1 if value > 1 else 2)} %" for value in values], padding=4)
    left.invert_yaxis()
    left.set(xlim=(0, 112), xlabel="точность на тесте, %")
    left.set_title("SqueezeNet с нуля, 196 моделей", fontsize="medium")
    for place, paired in enumerate(known):
        gap = paired["gap"].iloc[0]
        winner = method(paired[f"optimizer_{'first' if gap.mean > 0 else 'second'}"].iloc[0])
        ends = 100 * np.array([[gap.mean - gap.low], [gap.high - gap.mean]])
        right.errorbar(100 * gap.mean, place, xerr=ends, fmt="o", color=winner.color, capsize=5)
    right.axvline(0, color="black", linewidth=0.8)
    names = [paired["condition"].iloc[0].replace(", ", ",\n") for paired in known]
    right.set_yticks(range(len(known)), names)
    widest = 1.3 * max(abs(bound) for bound in right.get_xlim())
    right.set(xlim=(-widest, widest), ylim=(len(known) - 0.5, -0.5))
    right.set_title("AMSGrad − Adam, п. п. точности", fontsize="medium")
    right.set_xlabel("точнее Adam  ←   →  точнее AMSGrad")
    left.grid(False)
    right.grid(axis="y", visible=False)
    return _finished(figure)


def show_images(
    dataset: CarModelsDataset, class_names: Sequence[str], columns: int = 5, rows: int = 2
) -> Figure:
    """The first image of each of the first ``rows * columns`` classes, with its name."""
    firsts = np.unique(dataset.labels, return_index=True)[1][: rows * columns]
    names = [class_names[dataset.labels[index]] for index in firsts]
    return _gallery([np.asarray(dataset.image(int(index))) for index in firsts], names, columns)


def show_batch(images: Tensor, labels: Tensor, class_names: Sequence[str], columns: int = 6) -> Figure:
    """The first ``columns`` images of a normalised batch as the network gets them, float ``(n, 3, h, w)``,
    each with its class; of mixed pictures, whose labels are shares, float ``(n, classes)``, with the largest.
    """
    classes = labels.argmax(dim=1) if labels.ndim > 1 else labels
    pictures = [stretched(image).permute(1, 2, 0).numpy() for image in images[:columns]]
    return _gallery(pictures, [class_names[label] for label in classes[:columns].tolist()], columns)


def stretched(values: Tensor) -> Tensor:
    """``values`` of any range in 0..1, float, on the host."""
    values = values.float().cpu()
    values = values - values.amin()
    return values / values.amax().clamp(min=1e-6)


def _gallery(pictures: Sequence[np.ndarray], names: Sequence[str], columns: int) -> Figure:
    """Pictures ``(h, w, 3)`` in rows of ``columns``, each under its name."""
    rows, highest = math.ceil(len(pictures) / columns), max(len(one) / len(one[0]) for one in pictures)
    size = (WIDTH, rows * (0.6 + highest * WIDTH / columns))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    _pictures(axes, pictures, names)
    return figure


def _pictures(axes: np.ndarray, pictures: Sequence[np.ndarray] = (), names: Sequence[str] = ()) -> None:
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture, name in zip(axes.flat, pictures, names, strict=False):
        ax.imshow(picture)
        ax.set_title(textwrap.fill(name, 16), fontsize="small")


def _finished(figure: Figure, *, below: bool = False) -> Figure:
    """Numbers on the axes as Russian texts write them; one legend ``below`` all panels, which have the same
    lines.
    """
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if isinstance(axis.get_major_formatter(), ScalarFormatter):  # not of logarithmic or named ticks
                axis.set_major_formatter(lambda value, _: rate(round(value, 9)))
    if below:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=1 if max(map(len, labels)) > 30 else 3
        )
    return figure
