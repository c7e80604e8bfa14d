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
from labnn.report.compare import best_rates, last, make_pairs, paired_difference, sensitivity
from labnn.report.tables import by_optimizer, optimizer_name

_COLORS = {
    "amsgrad": "#c1440e",
    "adam": "#1f5a96",
    "adamw-amsgrad": "#e08a1e",
    "adamw": "#5aa0d6",
    "nadam": "#2e7d4f",
    "sgd": "#6b4c9a",
}
_SCALES = {"loss": (1, "потери, нат"), "accuracy": (100, "точность, %")}


def plot_metric(runs: Sequence[Run], metric: str, ax: Axes | None = None) -> Axes:
    """``metric`` ("loss" or "accuracy") by epoch: test solid, training dashed; mean over seeds and a band of its range."""
    ax = _axes(ax)
    scale, label = _SCALES[metric]
    for name, group in by_optimizer(runs).items():
        epochs = group[0].history["epoch"]
        for part, style in (("test", "-"), ("train", "--")):
            values = scale * np.stack(
                [run.history[f"{part}_{metric}"].interpolate() for run in group]
            )  # over epochs without a test
            title = f"{name}, {'тест' if part == 'test' else 'обучение'}"
            ax.plot(
                epochs,
                values.mean(axis=0),
                style,
                color=_color(group),
                label=title,
                linewidth=1.8 if part == "test" else 1.2,
            )
            if len(group) > 1:
                ax.fill_between(
                    epochs,
                    values.min(axis=0),
                    values.max(axis=0),
                    color=_color(group),
                    alpha=0.15,
                    linewidth=0,
                )
    classes = runs[0].data["classes"]
    chance = np.log(classes) if metric == "loss" else 100 / classes
    ax.axhline(chance, color="0.45", linestyle=":", linewidth=1.2, label=f"наугад, K = {classes}")
    ax.set(xlabel="эпоха", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(ax)


def plot_curves(runs: Sequence[Run]) -> Figure:
    """Loss and accuracy side by side, for every optimizer."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    plot_metric(runs, "loss", left)
    plot_metric(runs, "accuracy", right)
    seeds = len({run.experiment.seed for run in runs})
    spread = f"среднее и размах по зёрнам: {seeds}" if seeds > 1 else "одно зерно генератора"
    data = runs[0].data
    figure.suptitle(
        f"SqueezeNet, {data['name']}, снимков {data['train']} / {data['test']}, {spread}", fontsize="medium"
    )
    return figure


def plot_sensitivity(tuning: Sequence[Run], ax: Axes | None = None) -> Axes:
    """Accuracy on the validation part against the learning rate, a line an optimizer, a star on its best."""
    ax = _axes(ax)
    table, best = sensitivity(tuning), best_rates(tuning)
    for name, group in by_optimizer(tuning).items():
        key = group[0].experiment.optimizer
        tried = table[table["optimizer"] == key].set_index("lr")["accuracy"] * 100
        ax.semilogx(
            tried.index,
            tried,
            "o-",
            color=_color(group),
            label=f"{name}, лучшая {best[key]:g}".replace(".", ","),
        )
        ax.plot(best[key], tried[best[key]], "*", color=_color(group), markersize=15)
    ax.axhline(100 / tuning[0].data["classes"], color="0.45", linestyle=":", label="наугад")
    ax.set(xlabel="скорость обучения (наибольшая в расписании)", ylabel="точность на проверке, %")
    return _finished(ax)


def plot_accuracy_by_time(runs: Sequence[Run], ax: Axes | None = None) -> Axes:
    """Test accuracy against seconds of training: a thin line a run, a thick one the mean of an optimizer."""
    ax = _axes(ax)
    for name, group in by_optimizer(runs).items():
        seconds, accuracy = (
            np.stack([values(run.history) for run in group])
            for values in (
                lambda history: history["seconds"].cumsum(),
                lambda history: 100 * history["test_accuracy"].interpolate(),
            )
        )
        ax.plot(seconds.T, accuracy.T, color=_color(group), alpha=0.25, linewidth=0.8)
        ax.plot(seconds.mean(axis=0), accuracy.mean(axis=0), color=_color(group), linewidth=1.8, label=name)
    ax.set(xlabel="время обучения, с", ylabel="точность на тесте, %")
    return _finished(ax)


def plot_differences(runs: Sequence[Run], ax: Axes | None = None) -> Axes:
    """The difference in test accuracy of each pair of two optimizers' runs, by seed, and the mean with its interval."""
    ax = _axes(ax)
    (first, first_runs), (second, second_runs) = by_optimizer(runs).items()
    pairs = make_pairs(first_runs, second_runs)
    result = paired_difference(first_runs, second_runs)
    seeds = [a.experiment.seed for a, _ in pairs]
    differences = [100 * (last(a, "test_accuracy") - last(b, "test_accuracy")) for a, b in pairs]
    ax.bar(
        range(len(pairs)),
        differences,
        color=[_color(first_runs if value > 0 else second_runs) for value in differences],
        alpha=0.7,
    )
    if result.pairs > 1:
        ends = 100 * np.array([[result.mean - result.low], [result.high - result.mean]])
        ax.errorbar(
            len(pairs) + 0.5,
            100 * result.mean,
            ends,
            fmt="ko",
            capsize=6,
            label="среднее и 95-процентный интервал",
        )
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks([*range(len(pairs)), len(pairs) + 0.5], [*seeds, "среднее"])
    ax.margins(y=0.2)  # room for the legend
    ax.set(xlabel="зерно", ylabel=f"{first} минус {second}, п. п.")
    return _finished(ax)


def plot_answer(tuning: Sequence[Run], runs: Sequence[Run]) -> Figure:
    """What the verdict on two optimizers stands on, side by side: learning rates, accuracy by time, differences by seed."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    plot_sensitivity(tuning, left)
    plot_accuracy_by_time(runs, middle)
    plot_differences(runs, right)
    return figure


def plot_maximum(runs: Sequence[Run]) -> Figure:
    """How often and how strongly AMSGrad's maximum binds, by epoch: the columns of ``diagnose.maximum_binding``, means over ``runs``."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    mean = pd.concat([run.history for run in runs]).groupby("epoch").mean()
    left.plot(mean.index, 100 * mean["maximum_share"], color=_color(runs))
    left.set(xlabel="эпоха", ylabel="весов, у которых максимум выше $v_t$, %", ylim=(0, 100))
    right.plot(mean.index, mean["step_50"], color=_color(runs), label="медиана по весам")
    right.fill_between(
        mean.index,
        mean["step_10"],
        mean["step_90"],
        color=_color(runs),
        alpha=0.2,
        linewidth=0,
        label="от 10 до 90 % весов",
    )
    right.axhline(1, color="black", linewidth=0.8)
    right.set(xlabel="эпоха", ylabel="шаг AMSGrad / шаг Adam", ylim=(0, 1.05))
    left.grid(alpha=0.25)
    _finished(right)
    return figure


def plot_counter_example(tables: dict[str, pd.DataFrame], points: int = 800) -> Figure:
    """Figure 1 of Reddi et al. anew: for each titled ``theory.counter_example`` the point x_t and the average regret of both optimizers."""
    figure, axes = plt.subplots(
        len(tables), 2, figsize=(11, 3.2 * len(tables)), layout="constrained", squeeze=False
    )
    for (title, table), row in zip(tables.items(), axes, strict=True):
        shown = table.iloc[np.unique(np.linspace(0, len(table) - 1, points).astype(int))]
        for ax, column, label in zip(
            row, ("x", "regret"), ("$x_t$", "среднее сожаление $R_t / t$"), strict=True
        ):
            for key in ("amsgrad", "adam"):
                ax.plot(
                    shown["step"] / 1e6,
                    shown[f"{column}_{key}"],
                    color=_COLORS[key],
                    label=optimizer_name(key),
                    linewidth=1.2,
                )
            ax.set(xlabel="шаг, млн", ylabel=label, title=title)
            _finished(ax)
        row[1].set_ylim(0, 1.5 * shown["regret_adam"].tail(points // 2).max())
    return figure


def plot_step_sizes(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The steps of ``theory.step_sizes``, each over that of PyTorch, by step."""
    ax = _axes(ax)
    for column, title in (
        ("paper", "алгоритм 2: без поправок на смещение"),
        ("corrected_first", "максимум после поправки"),
    ):
        ax.semilogx(table["step"], table[column] / table["torch"], label=title)
    ax.axhline(1, color="black", linewidth=0.8, label="PyTorch: максимум до поправки")
    ax.set(xlabel="шаг", ylabel="длина шага / шаг PyTorch")
    return _finished(ax)


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
    return _finished(ax)


def plot_signal(signals: dict[str, pd.DataFrame], column: str = "spread", ax: Axes | None = None) -> Axes:
    """``column`` ("spread" or "gradient") of titled ``diagnose.signal_by_layer`` tables, layer by layer, on a logarithmic scale."""
    ax = _axes(ax)
    for title, table in signals.items():
        ax.semilogy(range(1, len(table) + 1), table[column].clip(lower=1e-12), marker=".", label=title)
    labels = {"spread": "разброс выхода между снимками", "gradient": "норма градиента / норма весов"}
    ax.set(xlabel="номер свёртки от входа", ylabel=labels[column])
    return _finished(ax)


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
    ax.axvline(
        100 * levels.majority_share, color="#c1440e", linestyle=":", label="доля самого частого класса"
    )
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
        ax.set_xticks(
            np.arange(len(sizes)), [data.class_names[index] for index in order], rotation=30, ha="right"
        )
    else:
        ax.set_xlabel("класс, по убыванию")
    ax.set_ylabel("обучающих снимков")
    ax.grid(axis="y", alpha=0.25)
    return ax


def show_images(
    dataset: CarModelsDataset, class_names: Sequence[str], columns: int = 5, rows: int = 2
) -> Figure:
    """The first image of each of the first ``rows * columns`` classes, with its name."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.2 * columns, 1.5 * rows), layout="constrained", squeeze=False
    )
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
                ax.text(
                    column,
                    row,
                    f"{100 * share:.0f}",
                    ha="center",
                    va="center",
                    fontsize="x-small",
                    color="white" if share > 0.5 else "black",
                )
        ax.set_xticks(range(len(class_names)), class_names, rotation=40, ha="right")
        ax.set_yticks(range(len(class_names)), class_names)
    ax.set(xlabel="ответ сети", ylabel="истинный класс")
    return ax


def _color(runs: Sequence[Run]) -> str:
    """The colour of the optimizer of ``runs``; one that a user has added gets a colour of its name's own."""
    key = runs[0].experiment.optimizer
    return _COLORS.get(key) or f"C{sum(key.encode()) % 10}"


def _finished(ax: Axes) -> Axes:
    ax.grid(alpha=0.25)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, fontsize="small")
    return ax


def _axes(ax: Axes | None) -> Axes:
    return ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
