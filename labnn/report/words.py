"""The one file with the Russian words of results: tables as a reader sees them, and all sentences."""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from labnn.experiment import Run
from labnn.kit.errors import check
from labnn.kit.numbers import interval, number, percent, probability, rate, scientific, signed, thousands
from labnn.report import frames
from labnn.report.statistics import (
    MARGIN,
    PairedDifference,
    beats_majority,
    best_rates,
    by_experiment,
    by_optimizer,
    describe_differences,
    final,
    is_finite,
    learned_interval,
    majority_share,
    make_pairs,
    pairs_needed,
    pairs_of,
    pairs_to_decide,
    sensitivity,
)
from labnn.settings import Experiment, method

# How a cell is written: from its row, a dict, and the name of its column.
Cell = Callable[[dict, str], str | int]


def title(optimizer: str) -> str:
    """How texts call an optimizer; one that a user has added without a title, by its key."""
    return method(optimizer).title


def _as(write: Callable[[Any], str | int]) -> Cell:
    return lambda row, column: write(row[column])


def _decimals(digits: int, scale: float = 1) -> Cell:
    """The number and, where it is known, its deviation: «55,0 ± 7,1»."""

    def cell(row: dict, column: str) -> str:
        mean, deviation = number(scale * row[column], digits), row.get(f"{column}_deviation", np.nan)
        return mean if np.isnan(deviation) else f"{mean} ± {number(scale * deviation, digits)}"

    return cell


def _points_and_interval(row: dict, column: str) -> str:
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    bounds = f" {interval(100 * low, 100 * high, 1)}" if np.isfinite(low) else ""
    return "" if np.isnan(row[column]) else signed(100 * row[column]) + bounds


def _reached_by_all(row: dict, column: str) -> str:
    if 0 < row["count"] < row["runs"]:  # the mean of those that got there would be the quickest ones' alone
        return f"— ({row['count']} из {row['runs']})" if column == "epochs" else "—"
    return number(row[column], 1)


# What pairs are compared by: its name, the unit's scale and the decimals.
_FIGURES = {
    "test_accuracy": ("Точность на тесте, п. п.", 100, 2),
    "test_loss": ("Потери на тесте, нат", 1, 3),
    "mean_accuracy": ("Точность в среднем по эпохам, п. п.", 100, 2),
    "train_loss": ("Потери на обучении, нат", 1, 3),
}


def _figure(row: dict, column: str, write: Callable[[float, int], str] = number) -> str:
    _, scale, digits = _FIGURES[row["figure"]]
    return write(scale * row[column], digits)


def _figure_interval(row: dict, column: str) -> str:
    low, high = f"{column}_low", f"{column}_high"
    words = f"[{_figure(row, low, signed)}; {_figure(row, high, signed)}]"
    return words if np.isfinite(row[low]) else "—"


def _from_to(row: dict, column: str) -> str:
    low, high = (number(100 * row[f"{column}_{end}"], 1) for end in ("low", "high"))
    return "—" if low == "—" else f"{low}…{high}"


_PERCENT, _PERCENT_2 = _decimals(1, 100), _decimals(2, 100)
_ACCURACY, _CHANGE = "Точность на тесте, %", "Что изменено"
_ANSWERS = {"uniform": "все классы равновероятны", "majority": "всегда самый частый класс"}
_BOUNDS = {"uniform": "ln K = ", "majority": "не ниже H = "}
_STEPS = {
    "published": "исходная работа, официальный тест",
    "original": "её рецепт, повторён",
    "batch_norm": "+ пакетная нормализация",
    "best": "полный рецепт",
}

# A table: a column of its frame (a deviation or an interval goes with it), its title, in which names of the
# row's optimizers stand in braces, and how to write a cell. Where titles name {optimizer}, the rows of all
# optimizers that have the first column in common are one.
_SUMMARY: dict[str, tuple[str, Cell]] = {
    "optimizer": ("Оптимизатор", _as(title)),
    "runs": ("Прогонов", _as(round)),
    "epochs": ("Эпох", _as(round)),
    "lr": ("Скорость обучения", _as(rate)),
    "train_loss": ("Потери на обучении", _decimals(3)),
    "train_accuracy": ("Точность на обучении, %", _PERCENT),
    "test_loss": ("Потери на тесте", _decimals(3)),
    "test_accuracy": (_ACCURACY, _PERCENT),
    "mean_accuracy": ("Точность в среднем по эпохам, %", _PERCENT),
    "seconds": ("Секунд на эпоху, медиана", _decimals(1)),
}
_TABLES: list[dict[str, tuple[str, Cell]]] = [
    {  # epochs
        "epoch": ("Эпоха", _as(round)),
        "seconds": ("Время обучения, с", _decimals(2)),
        "train_loss": ("Потери", _decimals(4)),
        "train_accuracy": ("Точность, %", _PERCENT_2),
        "test_accuracy": ("Тестовая точность, %", _PERCENT_2),
    },
    _SUMMARY,
    # the same of runs that are tested at their ends alone, which have no mean over the epochs
    {name: cell for name, cell in _SUMMARY.items() if name != "mean_accuracy"},
    {  # rates
        "lr": ("Скорость обучения", _as(rate)),
        "accuracy": ("{optimizer}, %", lambda row, column: _PERCENT(row, column) + " ★" * row["best"]),
    },
    {  # milestones
        "test_accuracy": (_ACCURACY, _as(lambda share: round(100 * share))),
        "epochs": ("{optimizer}, эпох", _reached_by_all),
        "seconds": ("{optimizer}, с", _reached_by_all),
    },
    {  # pairs
        "seed": ("Зерно", _as(round)),
        "first_accuracy": ("{first}, %", _PERCENT),
        "second_accuracy": ("{second}, %", _PERCENT),
        "difference": ("Разность", _as(lambda share: signed(100 * share))),
        "only_first": ("Верно только у {first}", _as(round)),
        "only_second": ("Верно только у {second}", _as(round)),
        "p_value": ("p (Макнемар)", _as(probability)),
    },
    {  # differences
        "figure": ("Величина", _as(lambda figure: _FIGURES[figure][0])),
        "difference": ("Разность", partial(_figure, write=signed)),
        "spread": ("Разброс разностей", _figure),
        "student": ("Интервал по Стьюденту", _figure_interval),
        "student_p": ("p (Стьюдент)", _as(probability)),
        "exact": ("Интервал точный", _figure_interval),
        "exact_p": ("p (перестановки знаков)", _as(probability)),
        "detectable": ("Наименьшая заметная разность", _figure),
    },
    {  # cells
        "cell": ("Ячейка", _as(str)),
        "pairs": ("Пар", _as(round)),
        "first_accuracy": ("{first}, %", _PERCENT),
        "second_accuracy": ("{second}, %", _PERCENT),
        "difference": (
            "Разность, п. п. [интервал]",
            lambda row, _: (
                f"{signed(100 * row['difference'])} "
                + interval(100 * row["difference_low"], 100 * row["difference_high"], 1)
            ),
        ),
        "exact_p": ("p (перестановки знаков)", _as(probability)),
        "maximum_share": ("Весов, у которых максимум ограничивает шаг", _as(lambda share: percent(share, 1))),
    },
    {  # ablation
        "change": (_CHANGE, _as(lambda change: change or "исходный рецепт")),
        "runs": ("Прогонов", _as(round)),
        "accuracy": ("Точность, %", _PERCENT),
        "loss": ("Потери, нат", _decimals(3)),
        "difference": ("Разность точности [95 %]", _points_and_interval),
        "learns": ("Учится", _as({True: "да", False: "нет"}.get)),
    },
    {  # others
        "optimizer": ("Оптимизатор", _as(title)),
        "lr": ("Скорость обучения", _as(rate)),
        "runs": ("Прогонов", _as(round)),
        "accuracy": ("Точность, %", _PERCENT),
        "difference": ("Разность точности [95 % вместе]", _points_and_interval),
        "validation": ("На проверке при разных скоростях, %", _from_to),
        "seconds": ("Секунд на эпоху, медиана", _decimals(1)),
    },
    {  # ladder
        "change": (_CHANGE, _as(lambda change: change or "рецепт исходной работы")),
        "runs": ("Прогонов", _as(round)),
        "epochs": ("Эпох", _as(round)),
        "minutes": ("Минут обучения", _decimals(1)),
        "test_loss": ("Потери на тесте", _decimals(3)),
        "test_accuracy": (_ACCURACY, _PERCENT_2),
    },
    {  # headline
        "step": ("Что", _as(_STEPS.get)),
        "test_images": ("Снимков на тесте", _as(thousands)),
        "runs": ("Прогонов", _decimals(0)),
        "test_accuracy": ("Точность, %", _PERCENT_2),
        "minutes": ("Минут обучения", _decimals(1)),
    },
    {  # collapse
        "optimizer": ("Оптимизатор", _as(title)),
        "epochs": ("Эпох", _as(round)),
        "train_loss": ("Потери на обучении", _decimals(4)),
        "test_loss": ("Потери на тесте", _decimals(4)),
        "test_accuracy": (_ACCURACY, _PERCENT_2),
        "top_share": ("Самый частый ответ", _as(lambda share: f"{percent(share, 1)} снимков")),
        "answers": ("Разных ответов", _as(round)),
    },
    {  # signal
        "network": ("Сеть до обучения", _as(str)),
        "first_spread": ("Разброс после первой свёртки", _as(scientific)),
        "last_spread": ("Разброс ответов", _as(scientific)),
        "first_gradient": ("Градиент первой свёртки / её веса", _as(scientific)),
    },
    {  # variants
        "test_size": ("Пикселей на тесте", _as(round)),
        "mirror": ("Ответ", _as({True: "среднее с отражением", False: "снимок"}.get)),
        "test_loss": ("Потери на тесте", _decimals(3)),
        "test_accuracy": (_ACCURACY, _PERCENT),
    },
    {  # confused
        "class_name": ("Класс", _as(str)),
        "other_class": ("Путается с классом", _as(str)),
        "mistakes": ("Ошибок", _as(round)),
        "images": ("Снимков в двух классах", _as(round)),
    },
    {  # chance
        "answer": ("Ответ наугад", _as(_ANSWERS.get)),
        "accuracy": ("Точность, %", _decimals(3, 100)),
        "loss": ("Потери, нат", lambda row, column: _BOUNDS[row["answer"]] + number(row[column], 4)),
    },
    {  # data
        "part": ("Выборка", _as({"train": "обучающая", "test": "тестовая"}.get)),
        "images": ("Снимков", _as(thousands)),
        "classes": ("Классов", _as(round)),
        "smallest": ("Меньше всего в классе", _as(round)),
        "largest": ("Больше всего в классе", _as(round)),
    },
]


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame of ``frames`` as a reader sees it: Russian titles, whole numbers and texts.

    It is the widest table of ours whose columns it has; a frame of none is given back as it is.
    """
    names = {re.sub("_(low|high)$", "", name) for name in frame}
    shown = max((one for one in _TABLES if set(one) <= names), key=len, default={})
    rows = []
    for row in frame.to_dict("records"):
        titles = {key: title(row[key]) for key in ("optimizer", "first", "second") if key in names}
        rows.append({head.format(**titles): cell(row, name) for name, (head, cell) in shown.items()})
    if any("{optimizer}" in head for head, _ in shown.values()):
        return _side_by_side(rows, frame[next(iter(shown))])
    return pd.DataFrame(rows) if shown and rows else frame


def _side_by_side(rows: list[dict], key: pd.Series) -> pd.DataFrame:
    """One row of those of equal ``key``, by ``key``; what it lacks has diverged."""
    merged: dict[float, dict] = {value: {} for value in sorted(key)}
    for value, row in zip(key, rows, strict=True):
        merged[value] |= row
    columns = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame(merged.values(), columns=list(columns)).fillna("расходится")


LONG = 44  # characters that a figure has for the name of a row
_BRIEF = {
    "скорость обучения ": "α = ",
    "разгон и спад скорости (один цикл)": "цикл",
    "пакетная нормализация": "BN",
    "начальные веса He": "веса He",
    "без ReLU на логитах": "без ReLU",
    "случайный кадр от ": "кадр от ",
    " площади": "",
}


def numbered(changes: Sequence[str], *, brief: bool = False) -> list[str]:
    """``changes`` as they are or, if one is too long for a figure, numbered as in the table beside it;
    ``brief``: then also in short words.
    """
    if max(map(len, changes), default=0) <= LONG:
        return list(changes)
    for long, short in _BRIEF.items() if brief else ():
        changes = [change.replace(long, short) for change in changes]
    return [f"{index}. {change}" for index, change in enumerate(changes, 1)]


def markdown(frame: pd.DataFrame) -> str:
    """``table`` of ``frame`` in Markdown, numbers with the decimals that they have and words as they are, but
    for what would end a cell or a line. One of more than six columns is turned, in equal parts of five rows
    or fewer.
    """
    shown = table(frame)
    if shown is frame or shown.empty:  # none of ours, or nothing in it
        return _cells(shown).to_markdown(index=False, disable_numparse=True)
    first = shown.columns[0]
    if "change" in frame:
        shown[first] = numbered(shown[first])
    parts = [shown]
    if len(shown.columns) > 6:
        size = math.ceil(len(shown) / math.ceil(len(shown) / 5))
        cut = (shown[start : start + size] for start in range(0, len(shown), size))
        parts = [part.set_index(first).T.reset_index(names=first) for part in cut]
    return "\n\n".join(_with_numbers_right(_cells(part)) for part in parts)


def _with_numbers_right(shown: pd.DataFrame) -> str:
    number = r"(?!\d+\. )([-+−—<∞\[\d]|$|расходится)"  # "1. …" is a row's number before its words
    sides = ["right" if cells.astype(str).str.match(number).all() else "left" for _, cells in shown.items()]
    return shown.to_markdown(index=False, disable_numparse=True, colalign=sides)


def _cells(shown: pd.DataFrame) -> pd.DataFrame:
    return shown.rename(columns=_in_a_cell).map(_in_a_cell)


def _in_a_cell(value: Any) -> Any:
    return " ".join(value.splitlines()).replace("|", "\\|") if isinstance(value, str) else value


def sizes(data: dict) -> str:
    """Numbers of training and test images of a record's data set, «5 871 / 1 305»."""
    return f"{thousands(data['train'])} / {thousands(data['test'])}"


def conditions(runs: Sequence[Run]) -> str:
    """What ``runs`` share, in short."""
    experiment, seeds = runs[0].experiment, {run.experiment.seed for run in runs}
    return (
        f"{experiment.words('version')}, снимки {experiment.image_size} × {experiment.image_size}, "
        f"эпох: {experiment.epochs}, фотографий: {sizes(runs[0].data)}, зёрен: {len(seeds)}"
    )


def settings(runs: Sequence[Run]) -> pd.DataFrame:
    """The settings of ``runs``, which differ in the optimizer, its rate and the seed, and where they were
    made, a row each.
    """
    data, experiment = runs[0].data, runs[0].experiment
    rates = {title(key): rate(group[0].experiment.lr) for key, group in by_optimizer(runs).items()}
    peaks = rates.values() if len(set(rates.values())) > 1 else list(rates.values())[:1]
    network = [experiment.words("version")] if experiment.network == "squeezenet" else [experiment.network]
    network += [experiment.words(name) for name in ("batch_norm", "bypass") if getattr(experiment, name)]
    size, start = experiment.image_size, experiment.start_size
    picture = f"{size} × {size} пикселей" + (f", в начале {start} × {start}" if start else "")
    picture += ", кадр по рамке" if data["crop_to_box"] else ""
    picture += f"; на тесте {experiment.test_size} × {experiment.test_size}" if experiment.test_size else ""
    picture += "; на тесте среднее с отражением" if experiment.mirror_test else ""
    regular = ["weight_decay", "dropout", "label_smoothing", "min_crop_area", "mirror", "colour", "mix"]
    rows = {
        "Оптимизатор": ", ".join(rates),
        "Набор данных": f"{data['name']}: {sizes(data)} снимков, классов: {data['classes']}",
        "Сеть": ", ".join(network),
        "Снимок на входе": picture,
        "Эпох, размер пакета": f"{experiment.epochs}, {experiment.batch_size}",
        "Скорость обучения": f"наибольшая {', '.join(peaks)}; {experiment.words('schedule')}",
        "Регуляризация": ", ".join(map(experiment.words, regular)),
        "Вычислитель": "; ".join(dict.fromkeys(_machine(run.environment) for run in runs)),
    }
    return pd.DataFrame({"Настройка": rows.keys(), "Значение": rows.values()})


def _machine(environment: dict) -> str:
    known = dict.fromkeys(("processor", "device", "threads", "precision", "torch"), "—") | environment
    device = known["processor" if known["device"] == "cpu" else "device"]
    return f"{device}, потоков: {known['threads']}, {known['precision']}, PyTorch {known['torch']}"


def amsgrad(steps: pd.DataFrame, without_eps: pd.DataFrame) -> pd.DataFrame:
    """Where Algorithm 2 and PyTorch's AMSGrad differ and how much, from ``theory.step_sizes`` of real
    gradients, with eps and without.
    """
    longer, order = steps["paper"] / steps["torch"], steps["corrected_first"] / steps["torch"]
    most, end = longer.idxmax(), steps["step"].iloc[-1]
    times = [
        number(value, 1) for value in (longer.iloc[0], longer[most], longer.iloc[-1], 1 / order.iloc[-1])
    ]
    eps = percent((without_eps["torch"] / steps["torch"] - 1).abs().max(), 2)
    columns = ["Чем различаются", "Алгоритм 2", "PyTorch", "Сколько это на первых шагах обучения"]
    rows = [
        (
            "поправки на смещение",
            "нет",
            "у обоих моментов",
            f"без поправок шаг 1 длиннее в {times[0]} раза, шаг {steps['step'][most]} — в {times[1]}, "
            f"шаг {end} — в {times[2]}",
        ),
        (
            "порядок максимума и поправки",
            "поправки нет",
            "максимум до поправки",
            f"в шаге 1 одно и то же, в шаге {end} обратный порядок укорачивает шаг в {times[3]} раза "
            "(Optax, задача 1389)",
        ),
        ("ε в знаменателе", "нет", "10⁻⁸ после корня", f"меняет длину шага не больше чем на {eps}"),
        ("проекция на допустимое множество", "есть", "нет", "у сети множество — всё пространство весов"),
    ]
    return pd.DataFrame(rows, columns=columns)


def spread(runs: Sequence[Run]) -> str:
    """How far the last accuracies of ``runs`` lie apart, which differ in the seed alone, and the 95 %
    interval of their mean.
    """
    shares = [final(run, "test_accuracy") for run in runs]
    if len(shares) == 1:
        return f"Точность в последней эпохе {percent(shares[0], 1)}; зерно одно, разброс не измерен."
    found = describe_differences(shares)
    bounds = f"от {number(100 * found.low, 1)} до {percent(found.high, 1)}"
    return (
        f"Точность в последней эпохе при {len(shares)} зёрнах {_range(shares)}, в среднем "
        f"{percent(found.mean, 1)}; 95-процентный интервал среднего по Стьюденту — {bounds}."
    )


# Settings that are one cause together; every other setting is a cause of its own.
_CAUSES = {"lr": "rate", "schedule": "rate"} | dict.fromkeys(("min_crop_area", "mirror", "colour"), "crops")


def single_causes(runs: Sequence[Run], base: Experiment) -> str:
    """Which causes, changed alone from ``base``, were enough for all seeds to learn, and which not."""
    words: dict[bool, list[str]] = {True: [], False: []}
    for experiment, group in by_experiment(runs).items():
        changed = [name for name in vars(base) if getattr(experiment, name) != getattr(base, name)]
        if len({_CAUSES.get(name, name) for name in changed if name not in ("seed", "test_every")}) == 1:
            words[all(map(beats_majority, group))].append(experiment.changes(base))
    enough, not_enough = ("; ".join(words[learns]) or "ничего" for learns in (True, False))
    return f"По отдельности достаточно: {enough}. По отдельности не помогает: {not_enough}."


def others(tuning: Sequence[Run], runs: Sequence[Run], reference: str) -> str:
    """Which optimizer to take beside ``reference``, as far as the intervals of ``frames.others`` say."""
    table, known = frames.others(tuning, runs, reference), title(reference)
    best = table.iloc[0]
    better, worse = (
        ", ".join(title(row.optimizer) for row in table.itertuples() if beyond(row))
        for beyond in (lambda row: row.difference_low > 0, lambda row: row.difference_high < 0)
    )
    gap = f", разность с {known} {_points_and_interval(best, 'difference')} п. п."
    said = f"Точнее всех {title(best['optimizer'])}: {percent(best['accuracy'], 1)}"
    said += gap if best["optimizer"] != reference else "."
    said += f" Интервал разности с {known} весь выше нуля: {better}, это и стоит взять." if better else ""
    said += f" Интервал разности с {known} весь ниже нуля: {worse}." if worse else ""
    return said + ("" if better else f" Что другой лучше {known}, этот опыт не доказал.")


def cost(trainings: int, seconds: float, processes: int) -> str:
    """How long ``protocol.Cost`` foretells, and what makes it shorter."""
    each, whole = number(seconds / 60, 1), number(trainings * seconds / processes / 60, 0)
    return (
        f"обучений {trainings}, каждое около {each} мин; по {processes} сразу — "
        f"около {whole} мин на все. Короче: меньше epochs или image_size в SETTINGS, скоростей в GRID, "
        "пар в SEEDS, или QUICK = True."
    )


def stability(tuning: Sequence[Run]) -> str:
    """How much each optimizer depends on its learning rate, and whether the grid was wide enough."""
    tried, best_rate, sentences = sensitivity(tuning), best_rates(tuning), []
    for key in by_optimizer(tuning):
        own, lr = tried[tried["optimizer"] == key], best_rate[key]
        best = own["accuracy"].max()
        if not best > 0:
            sentences.append(f"{title(key)}: ни одна скорость не дала верных ответов, расширьте сетку")
            continue
        good = (own["accuracy"] >= 0.9 * best).sum()
        sentence = f"{title(key)}: лучше всего {rate(lr)} ({percent(best, 1)}), "
        sentence += f"не ниже 90 % от лучшей точности — при {good} из {len(own)} скоростей"
        if len(own) > 1 and lr in (own["lr"].min(), own["lr"].max()):
            sentence += "; лучшая лежит на краю сетки, расширьте её"
        sentences.append(sentence)
    return ". ".join(sentences) + "."


def learning(runs: Sequence[Run]) -> str:
    """Whether the networks learned at all: their mean test accuracy, with its exact interval on so many
    pictures, against the share of the most frequent class.
    """
    sentences = []
    for key, group in by_optimizer(runs).items():
        accuracy, share = np.mean([final(run, "test_accuracy") for run in group]), majority_share(group[0])
        low, high = learned_interval(group[0], accuracy)
        outcome = "сеть не научилась: это уровень самого частого класса"
        if np.isnan(accuracy):
            outcome = "точность последней эпохи неизвестна"
        elif share == 1:
            outcome = "на тесте один класс, различать нечего"
        elif low > share:
            outcome = "сеть научилась"
        elif accuracy > share:
            bounds = f"от {number(100 * low, 1)} до {percent(high, 1)}"
            outcome = f"от уровня самого частого класса не отличить (95-процентный интервал {bounds})"
        words = f"{percent(accuracy, 1)} на тесте, доля самого частого класса {percent(share, 2)}"
        sentences.append(f"{title(key)}: {words}, {outcome}.")
    return " ".join(sentences)


def verdict(runs: Sequence[Run], *, brief: bool = False, margin: float = MARGIN) -> str:
    """The answer to "which optimizer is better?" that ``runs`` allow, computed from the test accuracies of
    their last epochs.

    For every two optimizers one of four answers: "лучше" the first or the second, "практически равны" where
    the whole interval lies inside ``margin``, a share (``PairedDifference.within``), or "разница не
    доказана"; and the number behind it, unless ``brief`` also the tests and what they could have shown.
    """
    check("margin", margin, float, 0, 1)
    groups = {title(key): group for key, group in by_optimizer(runs).items()}
    if len(groups) < 2:
        only = f"Прогоны есть только для одного оптимизатора ({', '.join(groups)})"
        known = only if groups else "Прогонов нет"
        return f"{known}, сравнивать не с чем: разница не доказана."
    comparisons = list(combinations(groups, 2))
    confidence = 1 - 0.05 / len(comparisons)  # Bonferroni: all intervals hold together
    sentences = [
        _comparison(*names, *map(groups.get, names), confidence, brief, margin) for names in comparisons
    ]
    corrected = f" Интервалы — с поправкой Бонферрони на {len(comparisons)} пары оптимизаторов."
    return " ".join(sentences) + (corrected if len(comparisons) > 1 else "") + _machines(runs)


def verdict_of(runs: Sequence[Run], planned: int, *, brief: bool = False) -> str:
    """``verdict`` of ``runs``, once all ``planned`` pairs are there; before, how many are, and no answer."""
    groups = by_optimizer(runs)
    ready = min(len(group) for group in groups.values())
    if ready >= planned:
        return verdict(runs, brief=brief)
    reached = [
        f"{title(key)} — {_range([final(run, 'test_accuracy') for run in group])}"
        for key, group in groups.items()
    ]
    return (
        f"Готово пар: {ready} из {planned}; ответ даётся, когда готовы все. "
        f"Точность готовых сетей на тесте в последней эпохе: {', '.join(reached)}."
    )


def _range(shares: Sequence[float]) -> str:
    ends = dict.fromkeys(number(100 * end, 1) for end in (min(shares), max(shares)))
    return f"{'…'.join(ends)} %"


def _comparison(
    first: str,
    second: str,
    runs: Sequence[Run],
    others: Sequence[Run],
    confidence: float,
    brief: bool,
    margin: float,
) -> str:
    """The answer for two optimizers and the seeds that have no pair, by divergence or since nobody trained
    them.
    """
    seeds, other_seeds = (
        {run.experiment.seed for run in group if is_finite(run)} for group in (runs, others)
    )
    if not seeds & other_seeds:
        answer = f"{first} и {second}: разница не доказана"
        return f"{answer}. Общих зёрен у прогонов нет, пар не составить."
    pairs = make_pairs(runs, others)
    found = [final(a, "test_accuracy") - final(b, "test_accuracy") for a, b in pairs]
    answer = _answer(first, second, describe_differences(found, confidence), brief, margin)
    met = {run.experiment.seed for run in (*runs, *others)}
    alone = sorted(met - {run.experiment.seed for run, _ in pairs})
    return answer + (f" Без пары остались зёрна: {', '.join(map(str, alone))}." if alone else "")


# What of an environment may change a result.
_ENVIRONMENT = {
    "device": "устройство",
    "processor": "процессор",
    "precision": "числа",
    "torch": "PyTorch",
    "threads": "потоков",
}


def _machines(runs: Sequence[Run]) -> str:
    """In what the machines of ``runs`` differ, and whether they do within pairs; nothing if in nothing."""
    rows = [
        {"seed": run.experiment.seed}
        | {name: str(run.environment.get(key, "—")) for key, name in _ENVIRONMENT.items()}
        for run in runs
    ]
    machines = pd.DataFrame(rows)
    pairs = machines[machines.duplicated("seed", keep=False)].set_index("seed")  # a lone seed has no pair
    found = [f"{name}: {' и '.join(own.unique())}" for name, own in pairs.items() if own.nunique() > 1]
    if not found:
        return ""
    if (pairs.groupby("seed").nunique() == 1).all(axis=None):
        return f" Пары обучены на разных машинах ({'; '.join(found)}), но обе сети пары — на одной."
    return f" Прогоны сделаны на разных машинах ({'; '.join(found)}), часть разницы может быть от них."


def conclusion(first: str, second: str, difference: PairedDifference, margin: float = MARGIN) -> str:
    """«лучше …», «практически равны» or «разница не доказана»; both where a proven difference is smaller than
    ``margin``.
    """
    better = f"лучше {first if difference.mean > 0 else second}"
    equal = f"практически равны (весь интервал внутри ±{number(100 * margin, 1)} п. п.)"
    if difference.within(margin):
        return f"{better}, но {equal}" if difference.proven else equal
    return better if difference.proven else "разница не доказана"


def _answer(first: str, second: str, difference: PairedDifference, brief: bool, margin: float) -> str:
    answer = f"{first} и {second}: {conclusion(first, second, difference, margin)}"
    mean, bounds = signed(100 * difference.mean), interval(100 * difference.low, 100 * difference.high, 1)
    decimals = 0 if difference.confidence == 0.95 else 1
    level = f"{number(100 * difference.confidence, decimals)}-процентный"
    if brief:
        evidence = f"{level} интервал {bounds}" if difference.spread else "интервала нет"
        points = f"разность {first} − {second}: {mean} п. п. точности"
        return f"{answer} ({points}, {evidence}, пар: {difference.pairs})."
    evidence = f"{answer}. Разность {first} − {second}: {mean} процентного пункта (п. п.) тестовой точности"
    evidence += " в последней эпохе"
    if difference.pairs == 1:
        return f"{evidence} в единственной паре прогонов, по одной паре разброс не оценить."
    evidence += f", в среднем по парам с общим зерном (пар: {difference.pairs}); "
    if not difference.spread:
        return f"{evidence}она во всех парах одна и та же, без разброса вывода нет."
    evidence += f"{level} доверительный интервал {bounds}"
    if difference.pairs < (needed := pairs_needed(difference.confidence)):
        return f"{evidence}. Пар слишком мало, для вывода нужно не меньше {needed}."
    student, signs = probability(difference.p_value, "p"), probability(difference.exact_p)
    least = number(100 * difference.detectable, 1)
    return (
        f"{evidence}, {student} по Стьюденту, {signs} по перестановкам знаков; "
        f"такое число пар с вероятностью 80 % обнаружило бы разницу от {least} пункта."
    ) + _more_pairs(difference, margin)


def _more_pairs(difference: PairedDifference, margin: float) -> str:
    """Whether to go on: how many pairs would decide, where these do not."""
    if difference.proven or difference.within(margin):
        return ""
    pairs = pairs_to_decide(difference, margin)
    count = f"около {pairs}" if pairs else "больше 1 000"
    wanted = f"доказать эту разницу или равенство в пределах {number(100 * margin, 1)} п. п."
    return f" Чтобы при таких разности и разбросе {wanted}, нужно пар: {count}."


def cells(runs: Sequence[Run], base: Experiment) -> str:
    """In which cells of ``frames.cells`` AMSGrad and Adam differ, which are equal, which are not decided."""
    found: dict[str, list[str]] = {}
    for cell, difference in frames.cell_differences(runs, base).items():
        answer, needed = conclusion("AMSGrad", "Adam", difference), pairs_needed(difference.confidence)
        if difference.low * difference.high > 0 and difference.pairs < needed:
            better = "AMSGrad" if difference.mean > 0 else "Adam"
            answer += f", хотя интервал говорит за {better}: точному критерию нужно не меньше {needed} пар"
        found.setdefault(answer, []).append(f"«{cell}»")
    if not found:
        return "Пар прогонов в ячейках ещё нет."
    count = sum(map(len, found.values()))
    said = "; ".join(f"{answer} — {', '.join(where)}" for answer, where in found.items())
    return f"По ячейкам, с поправкой Бонферрони на {count}: {said}."


def other_differences(runs: Sequence[Run]) -> str:
    """In which other figures two optimizers differ, by intervals that hold together with 95 %."""
    names = " − ".join(map(title, by_optimizer(runs)))
    others = frames.differences(runs).iloc[1:]
    words = [
        f"{_FIGURES[row['figure']][0].lower()}: разность {names} {_figure(row, 'difference', signed)} "
        f"{_figure_interval(row, 'student')}"
        for row in others[others["proven"]].to_dict("records")
    ]
    corrected = f"интервалы с поправкой Бонферрони на {len(others)} величины"
    found = f"Из других величин различаются {'; '.join(words)} ({corrected})."
    return found if words else "И в других величинах разница не доказана."


def rate_against_optimizer(tuning: Sequence[Run], runs: Sequence[Run]) -> str:
    """How much the learning rate changes the accuracy, and how much the optimizer can: the far end of the
    interval. For two optimizers.
    """
    tried, difference = sensitivity(tuning)["accuracy"], _accuracy_difference(runs)
    most = number(100 * max(abs(difference.low), abs(difference.high)), 1)
    chosen = f"на тесте не больше чем на {most} п. п. (дальний край интервала)"
    if not difference.spread:
        chosen = f"по парам без разброса не оценить (пар: {difference.pairs})"
    return (
        "Скорость обучения меняет точность на проверке "
        f"от {number(100 * tried.min(), 1)} до {percent(tried.max(), 1)}, "
        f"а выбор оптимизатора с подобранной скоростью — {chosen}."
    )


def _accuracy_difference(runs: Sequence[Run]) -> PairedDifference:
    found = [final(a, "test_accuracy") - final(b, "test_accuracy") for a, b in pairs_of(runs)]
    return describe_differences(found)


def maximum(runs: Sequence[Run], *, brief: bool = False) -> str:
    """How often and how strongly AMSGrad's maximum binds in those of ``runs`` that recorded it, means over
    them: at its strongest and at the end; nothing where none did.
    """
    table = frames.maximum(runs).dropna()
    if table.empty:
        return ""
    strongest, end = table.loc[table["step_50"].idxmin()], table.iloc[-1]
    epoch, medians = int(strongest["epoch"]), [number(row["step_50"], 2) for row in (strongest, end)]
    if brief:
        return (
            f"Сильнее всего максимум укорачивает шаг в эпоху {epoch}, медиана множителя {medians[0]}; "
            f"в последней эпохе она {medians[1]}."
        )

    def words(row: pd.Series, median: str) -> str:
        spread = f"от {number(row['step_10'], 2)} до {number(row['step_90'], 2)}"
        share = percent(row["maximum_share"], 0)
        return f"он выше v у {share} весов, медиана множителя шага {median} (у средних 80 % весов {spread})"

    return (
        f"Сильнее всего максимум держит шаг в эпоху {epoch}: {words(strongest, medians[0])}. "
        f"В последней эпохе {words(end, medians[1])}."
    )


def answer_to_original(original: Sequence[Run], runs: Sequence[Run]) -> str:
    """On the claim "Adam is slightly better": ``original`` by its recipe, and ``runs`` that learn."""
    accuracies = ", ".join(
        f"{title(key)} {percent(final(group[0], 'test_accuracy'), 2)}"
        for key, group in by_optimizer(original).items()
    )
    answers = "; ".join(str(run.predictions["prediction"].nunique()) for run in original)
    difference = _accuracy_difference(runs)
    first, second = by_optimizer(runs)
    better = f"показывают, что лучше {title(first if difference.mean > 0 else second)}"
    found = better if difference.proven else "разницы в точности не доказывают"
    bounds = f"интервал {interval(100 * difference.low, 100 * difference.high, 1)}"
    bounds = bounds if difference.spread else "интервала нет"
    return (
        "Утверждение исходной работы «Adam показал себя слегка лучше» её прогоны подтвердить не могли: "
        f"по её рецепту сети не учатся ({accuracies}, разных ответов: {answers}); сети, которые учатся, "
        f"{found} "
        f"(разность {title(first)} − {title(second)}: {signed(100 * difference.mean)} п. п., {bounds})."
    )
