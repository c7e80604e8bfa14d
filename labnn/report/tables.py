"""Results in Russian words and tables. The one file with the wording of results."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from labnn.data import CarsData, ChanceLevels
from labnn.experiment import Experiment, Run
from labnn.kit.files import written_whole
from labnn.report.compare import (
    LEAST_PAIRS,
    PairedDifference,
    area_under_curve,
    best_rates,
    describe_differences,
    last,
    make_pairs,
    mcnemar,
    paired_difference,
    reached,
    sensitivity,
)

_NAMES = {
    "amsgrad": "AMSGrad",
    "adam": "Adam",
    "adamw-amsgrad": "AdamW-AMSGrad",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "sgd": "SGD с импульсом",
}


def optimizer_name(key: str) -> str:
    """How texts call the optimizer ``key``; one that a user has added is called by its key."""
    return _NAMES.get(key, key)


def by_optimizer(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """``runs`` grouped by the optimizer's name in texts, AMSGrad first, as in the lab's title, added ones last."""
    keys = {run.experiment.optimizer for run in runs}
    order = [key for key in _NAMES if key in keys] + sorted(keys - set(_NAMES))
    return {optimizer_name(key): [run for run in runs if run.experiment.optimizer == key] for key in order}


def epoch_table(runs: Sequence[Run]) -> pd.DataFrame:
    """The original report's table of one optimizer: a row an epoch; means over ``runs``, which differ in the seed only."""
    mean = pd.concat([run.history for run in runs]).groupby("epoch").mean()
    rows = [
        [
            epoch,
            number(row.seconds, 2),
            number(row.train_loss, 4),
            number(100 * row.train_accuracy, 2),
            number(100 * row.test_accuracy, 2),
        ]
        for epoch, row in mean.iterrows()
    ]
    return pd.DataFrame(
        rows, columns=["Эпоха", "Время обучения, с", "Потери", "Точность, %", "Тестовая точность, %"]
    )


def summary_table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row an optimizer: last-epoch figures, mean over seeds, with the standard deviation where there are several."""
    rows = []
    for name, group in by_optimizer(runs).items():
        rows.append(
            {
                "Оптимизатор": name,
                "Прогонов": len(group),
                "Эпох": group[0].experiment.epochs,
                "Скорость обучения": rate(group[0].experiment.lr),
                "Потери на обучении": _mean_and_deviation(group, "train_loss", 1, 3),
                "Точность на обучении, %": _mean_and_deviation(group, "train_accuracy", 100, 1),
                "Потери на тесте": _mean_and_deviation(group, "test_loss", 1, 3),
                "Точность на тесте, %": _mean_and_deviation(group, "test_accuracy", 100, 1),
                "Точность в среднем по эпохам, %": _spread([100 * area_under_curve(run) for run in group], 1),
                "Секунд на эпоху": number(
                    sum(run.history["seconds"].mean() for run in group) / len(group), 1
                ),
            }
        )
    return pd.DataFrame(rows)


def settings_table(runs: Sequence[Run]) -> pd.DataFrame:
    """The settings of ``runs``, which differ in the optimizer, its rate and the seed, and where they were made, a row each."""
    data, experiment, environment = runs[0].data, runs[0].experiment, runs[0].environment
    rates = {name: rate(group[0].experiment.lr) for name, group in by_optimizer(runs).items()}
    rows = {
        "Оптимизатор": ", ".join(rates),
        "Набор данных": f"{data['name']}: {sizes(data)} снимков, классов: {data['classes']}",
        "Сеть": f"SqueezeNet {experiment.version.replace('_', '.')}"
        + (", пакетная нормализация" if experiment.batch_norm else "")
        + (", обходные связи" if experiment.bypass else ""),
        "Снимок на входе": f"{experiment.image_size} × {experiment.image_size} пикселей"
        + (f", в начале {experiment.start_size} × {experiment.start_size}" if experiment.start_size else "")
        + (", кадр по рамке" if data["crop_to_box"] else "")
        + (f"; на тесте {experiment.test_size} × {experiment.test_size}" if experiment.test_size else "")
        + ("; на тесте среднее с отражением" if experiment.mirror_test else ""),
        "Эпох, размер пакета": f"{experiment.epochs}, {experiment.batch_size}",
        "Скорость обучения": f"до {', '.join(rates.values())}; {_CHANGES['schedule'][experiment.schedule]}",
        "Регуляризация": ", ".join(
            wording[value] if isinstance(wording, dict) else wording(value)
            for name in (
                "weight_decay",
                "dropout",
                "label_smoothing",
                "min_crop_area",
                "mirror",
                "colour",
                "mix",
            )
            for wording, value in [(_CHANGES[name], getattr(experiment, name))]
        ),
        "Вычислитель": f"{environment['processor'] if environment['device'] == 'cpu' else environment['device']}, "
        f"потоков: {environment['threads']}, {environment['precision']}, PyTorch {environment['torch']}",
    }
    return pd.DataFrame({"Настройка": rows.keys(), "Значение": rows.values()})


_CHANGES = {
    "optimizer": optimizer_name,
    "epochs": lambda value: f"эпох: {value}",
    "lr": lambda value: f"скорость обучения {rate(value)}",
    "schedule": {"one_cycle": "разгон и спад скорости (один цикл)", "constant": "постоянная скорость"},
    "warmup": lambda value: f"разгон {value:.0%} шагов",
    "weight_decay": lambda value: f"затухание весов {value:g}".replace(".", ","),
    "batch_size": lambda value: f"пакет {value}",
    "image_size": lambda value: f"{value} пикселей",
    "start_size": lambda value: f"снимок растёт от {value} пикселей" if value else "снимок одного размера",
    "min_crop_area": lambda value: (
        "без случайного кадра" if value == 1 else f"случайный кадр от {value:.0%} площади"
    ),
    "label_smoothing": lambda value: (
        f"сглаживание меток {number(value, 1)}" if value else "без сглаживания меток"
    ),
    "version": lambda value: f"SqueezeNet {value.replace('_', '.')}",
    "batch_norm": {True: "пакетная нормализация", False: "без пакетной нормализации"},
    "bypass": {True: "обходные связи", False: "без обходных связей"},
    "dropout": lambda value: f"dropout {number(value, 1)}",
    "init": {"he": "начальные веса He", "default": "начальные веса PyTorch"},
    "logits_relu": {True: "ReLU на логитах", False: "без ReLU на логитах"},
    "mirror": {True: "отражение", False: "без отражения"},
    "colour": lambda value: f"яркость и контраст ±{value:.0%}" if value else "без изменения яркости",
    "mix": lambda value: f"CutMix и mixup в {value:.0%} пакетов" if value else "без CutMix и mixup",
    "mirror_test": {True: "среднее с отражением на тесте", False: "без отражения на тесте"},
    "test_size": lambda value: f"{value} пикселей на тесте" if value else "на тесте как при обучении",
    "ema_decay": lambda value: (
        f"усреднение весов {value:g}".replace(".", ",") if value else "без усреднения весов"
    ),
    "cosine": lambda value: (
        "косинусная функция потерь рядом с энтропией" if value else "без косинусной функции потерь"
    ),
}


def changes(experiment: Experiment, base: Experiment) -> str:
    """The settings of ``experiment`` that ``base`` has otherwise, in Russian words; the seed apart."""
    words = []
    for name, wording in _CHANGES.items():
        value = getattr(experiment, name)
        if value != getattr(base, name):
            words.append(wording[value] if isinstance(wording, dict) else wording(value))
    return ", ".join(words)


def ablation_table(runs: Sequence[Run], base: Experiment, title: str = "исходный рецепт") -> pd.DataFrame:
    """A row a change from ``base``, the most accurate first: held-out accuracy and loss of the last epoch, mean and deviation
    over seeds; the mean paired difference from ``base`` with its 95 % interval; whether the networks of all seeds learned."""
    groups = _by_experiment(runs)
    base_runs = groups[replace(base, seed=0)]
    rows = []
    for experiment, group in sorted(groups.items(), key=lambda item: -_mean_last(item[1], "test_accuracy")):
        row = {
            "Что изменено": changes(experiment, base) or title,
            "Прогонов": len(group),
            "Точность, %": _mean_and_deviation(group, "test_accuracy", 100, 1),
            "Потери, нат": _mean_and_deviation(group, "test_loss", 1, 3),
            "Разность точности [95 %]": "" if group is base_runs else _difference(group, base_runs),
            "Учится": "да" if all(_beats_majority(run) for run in group) else "нет",
        }
        rows.append(row)
    return pd.DataFrame(rows)


# Settings that are one cause together; every other setting is a cause of its own.
_CAUSES = {
    "lr": "rate",
    "schedule": "rate",
    "min_crop_area": "augmentation",
    "mirror": "augmentation",
    "colour": "augmentation",
}


def single_causes(runs: Sequence[Run], base: Experiment) -> str:
    """Which causes, changed alone from ``base``, were enough for the networks of all seeds to learn, and which were not."""
    words: dict[bool, list[str]] = {True: [], False: []}
    for experiment, group in _by_experiment(runs).items():
        if (
            len(
                {
                    _CAUSES.get(name, name)
                    for name in _CHANGES
                    if getattr(experiment, name) != getattr(base, name)
                }
            )
            == 1
        ):
            words[all(_beats_majority(run) for run in group)].append(changes(experiment, base))
    enough, not_enough = ("; ".join(words[learned]) or "ничего" for learned in (True, False))
    return f"В одиночку достаточно: {enough}. В одиночку не помогает: {not_enough}."


def _by_experiment(runs: Sequence[Run]) -> dict[Experiment, list[Run]]:
    """``runs`` that differ in the seed only, under their experiment with seed 0."""
    groups: dict[Experiment, list[Run]] = {}
    for run in runs:
        groups.setdefault(replace(run.experiment, seed=0), []).append(run)
    return groups


def collapse_table(runs: Sequence[Run]) -> pd.DataFrame:
    """What a network that answers every photo alike looks like: a row a run, from its last epoch and its predictions."""
    rows = []
    for name, group in by_optimizer(runs).items():
        for run in group:
            answers = run.predictions["prediction"].value_counts(normalize=True)
            row = [
                name,
                run.experiment.epochs,
                *(number(last(run, f"{part}_loss"), 4) for part in ("train", "test")),
            ]
            row += [
                number(100 * last(run, "test_accuracy"), 2),
                f"{number(100 * answers.iloc[0], 1)} % снимков",
                len(answers),
            ]
            rows.append(row)
    columns = [
        "Оптимизатор",
        "Эпох",
        "Потери на обучении",
        "Потери на тесте",
        "Точность на тесте, %",
        "Самый частый ответ",
        "Разных ответов",
    ]
    return pd.DataFrame(rows, columns=columns)


def ladder_table(runs: Sequence[Run]) -> pd.DataFrame:
    """From the lowest test accuracy to the highest: a row a run, and what it has that the one before had otherwise."""
    runs = sorted(runs, key=lambda run: last(run, "test_accuracy"))
    rows = []
    for previous, run in zip([None, *runs], runs, strict=False):
        step = changes(run.experiment, previous.experiment) if previous else "рецепт исходной работы"
        minutes = number(run.history["seconds"].sum() / 60, 1)
        rows.append(
            [
                step,
                run.experiment.epochs,
                minutes,
                number(last(run, "test_loss"), 3),
                number(100 * last(run, "test_accuracy"), 2),
            ]
        )
    return pd.DataFrame(
        rows, columns=["Что изменено", "Эпох", "Минут обучения", "Потери на тесте", "Точность на тесте, %"]
    )


def variants_table(variants: pd.DataFrame) -> pd.DataFrame:
    """What ``experiment.evaluate_variants`` found, in Russian."""
    rows = [
        [
            row.test_size,
            "среднее с отражением" if row.mirror else "снимок",
            number(row.test_loss, 3),
            number(100 * row.test_accuracy, 1),
        ]
        for row in variants.itertuples()
    ]
    return pd.DataFrame(
        rows, columns=["Пикселей на тесте", "Ответ", "Потери на тесте", "Точность на тесте, %"]
    )


def confused_pairs(run: Run, class_names: Sequence[str], count: int = 8) -> pd.DataFrame:
    """The ``count`` pairs of classes most often taken for one another on the test part, by name, both ways together."""
    wrong = run.predictions[run.predictions["label"] != run.predictions["prediction"]]
    pairs = pd.DataFrame(
        np.sort(wrong[["label", "prediction"]].to_numpy(), axis=1), columns=["first", "second"]
    )
    sizes = run.predictions["label"].value_counts()
    rows = [
        [class_names[first], class_names[second], mistakes, sizes[[first, second]].sum()]
        for (first, second), mistakes in pairs.value_counts(sort=True).head(count).items()
    ]
    return pd.DataFrame(rows, columns=["Класс", "Путается с классом", "Ошибок", "Снимков в двух классах"])


def amsgrad_table(steps: pd.DataFrame, without_eps: pd.DataFrame) -> pd.DataFrame:
    """Where Algorithm 2 and PyTorch's AMSGrad differ and how much, from ``theory.step_sizes`` of real gradients, with eps and without."""
    longer = steps["paper"] / steps["torch"]
    order = steps["corrected_first"] / steps["torch"]
    eps = (without_eps["torch"] / steps["torch"] - 1).abs().max()
    most, final = longer.idxmax(), steps["step"].iloc[-1]
    correction = (
        f"без поправок шаг 1 длиннее в {number(longer.iloc[0], 1)} раза, шаг {steps['step'][most]} — в {number(longer[most], 1)}, "
        f"шаг {final} — в {number(longer.iloc[-1], 1)}"
    )
    later = f"в шаге 1 одно и то же, в шаге {final} обратный порядок укорачивает шаг в {number(1 / order.iloc[-1], 1)} раза"
    rows = [
        ["поправки на смещение", "нет", "у обоих моментов", correction],
        [
            "порядок максимума и поправки",
            "поправки нет",
            "максимум до поправки",
            f"{later} (Optax, задача 1389)",
        ],
        [
            "ε в знаменателе",
            "нет",
            "10⁻⁸ после корня",
            f"меняет длину шага не больше чем на {number(100 * eps, 2)} %",
        ],
        ["проекция на допустимое множество", "есть", "нет", "у сети множество — всё пространство весов"],
    ]
    return pd.DataFrame(
        rows, columns=["Чем различаются", "Алгоритм 2", "PyTorch", "Сколько это на первых шагах обучения"]
    )


def chance_table(levels: ChanceLevels) -> pd.DataFrame:
    """What a classifier that has not looked at the picture reaches."""
    return pd.DataFrame(
        [
            [
                "все классы равновероятны",
                number(100 * levels.uniform_accuracy, 3),
                f"ln K = {number(levels.uniform_loss, 4)}",
            ],
            [
                "всегда самый частый класс",
                number(100 * levels.majority_share, 3),
                f"не ниже H = {number(levels.prior_loss, 4)}",
            ],
        ],
        columns=["Ответ наугад", "Точность, %", "Потери, нат"],
    )


def data_table(data: CarsData) -> pd.DataFrame:
    """Numbers of images and the spread of class sizes in both parts of a data set."""
    rows = []
    for name, part in (("обучающая", data.train), ("тестовая", data.test)):
        sizes = pd.Series(part.labels).value_counts()
        rows.append([name, len(part), sizes.size, sizes.min(), sizes.max()])
    return pd.DataFrame(
        rows, columns=["Выборка", "Снимков", "Классов", "Меньше всего в классе", "Больше всего в классе"]
    )


def rates_table(tuning: Sequence[Run]) -> pd.DataFrame:
    """The learning rates tried: a row a rate, the validation accuracy with each optimizer, the best one marked with a star."""
    table, best = sensitivity(tuning), best_rates(tuning)
    table["words"] = [
        number(100 * row.accuracy, 1) + (" ★" if best[row.optimizer] == row.lr else "")
        for row in table.itertuples()
    ]
    wide = table.pivot(index="lr", columns="optimizer", values="words").fillna("расходится")
    order = [group[0].experiment.optimizer for group in by_optimizer(tuning).values()]
    wide = (
        wide[order]
        .rename(columns=lambda key: f"{optimizer_name(key)}, %")
        .rename_axis(columns=None)
        .reset_index()
    )
    wide["lr"] = [rate(lr) for lr in wide["lr"]]
    return wide.rename(columns={"lr": "Скорость обучения"})


def stability(tuning: Sequence[Run]) -> str:
    """How much each optimizer depends on its learning rate, and whether its best one lies at an edge of the grid."""
    table, sentences = sensitivity(tuning), []
    for name, group in by_optimizer(tuning).items():
        tried = table[table["optimizer"] == group[0].experiment.optimizer]
        best = tried["accuracy"].max()
        lr = best_rates(group)[group[0].experiment.optimizer]
        good = (tried["accuracy"] >= 0.9 * best).sum()
        sentence = f"{name}: лучше всего {rate(lr)} ({number(100 * best, 1)} %), не хуже девяти десятых лучшего — скоростей: {good} из {len(tried)}"
        if lr in (tried["lr"].min(), tried["lr"].max()) and len(tried) > 1:
            sentence += "; лучшая лежит на краю сетки, расширьте её"
        sentences.append(sentence)
    return ". ".join(sentences) + "."


def milestones_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Epochs and seconds of training that each optimizer needs to a test accuracy: means over the seeds that reach it, and how many do.

    The accuracies are the tens of percent that the best run reaches.
    """
    rows = []
    for percent in range(10, 101, 10):
        row: dict = {"Точность на тесте, %": percent}
        for name, group in by_optimizer(runs).items():
            epochs, seconds = np.array([reached(run, percent / 100) for run in group]).T
            count = np.isfinite(epochs).sum()
            few = f" ({count} из {len(group)})" if 0 < count < len(group) else ""
            row[f"{name}, эпох"] = number(np.nanmean(epochs), 1) + few if count else "—"
            row[f"{name}, с"] = number(np.nanmean(seconds), 1) if count else "—"
        if set(row.values()) != {percent, "—"}:
            rows.append(row)
    return pd.DataFrame(rows)


def pairs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """The pairs behind the verdict, a row a seed: both accuracies and their difference; photos that only one of the two networks names
    rightly, and McNemar's exact p-value. For runs of two optimizers."""
    (first, first_runs), (second, second_runs) = by_optimizer(runs).items()
    rows = []
    for a, b in make_pairs(first_runs, second_runs):
        accuracies = [100 * last(run, "test_accuracy") for run in (a, b)]
        test = mcnemar(a, b)
        row = [
            a.experiment.seed,
            *(number(value, 1) for value in accuracies),
            signed(accuracies[0] - accuracies[1]),
        ]
        rows.append([*row, test.only_first, test.only_second, probability(test.p_value)])
    columns = [
        "Зерно",
        f"{first}, %",
        f"{second}, %",
        "Разность",
        f"Верно только у {first}",
        f"Верно только у {second}",
        "p (Макнемар)",
    ]
    return pd.DataFrame(rows, columns=columns)


def statistics_table(runs: Sequence[Run]) -> pd.DataFrame:
    """What the pairs say of each figure, a row a figure: the mean difference of the first optimizer from the second, its deviation,
    Student's interval and p-value, the exact ones, and the smallest difference that these pairs would have shown. For two optimizers."""
    rows = []
    for title, difference in _differences(runs).items():
        digits = _FIGURES[title][1]
        rows.append(
            {
                "Величина": title,
                "Разность": signed(difference.mean, digits),
                "Разброс разностей": number(difference.deviation, digits),
                "95 % по Стьюденту": interval(difference.low, difference.high, digits),
                "p (Стьюдент)": probability(difference.p_value),
                "95 % точный": interval(difference.exact_low, difference.exact_high, digits)
                if np.isfinite(difference.exact_low)
                else "—",
                "p (перестановки знаков)": probability(difference.exact_p),
                "Наименьшая заметная разность": number(difference.detectable, digits)
                if difference.pairs >= LEAST_PAIRS
                else "—",
            }
        )
    return pd.DataFrame(rows)


# What pairs are compared by, first that which the verdict goes by; and the decimals of each.
_FIGURES: dict[str, tuple[Callable[[Run], float], int]] = {
    "Точность на тесте, п. п.": (lambda run: 100 * last(run, "test_accuracy"), 2),
    "Потери на тесте, нат": (lambda run: last(run, "test_loss"), 3),
    "Точность в среднем по эпохам, п. п.": (lambda run: 100 * area_under_curve(run), 2),
    "Потери на обучении, нат": (lambda run: last(run, "train_loss"), 3),
}


def _differences(runs: Sequence[Run], confidence: float = 0.95) -> dict[str, PairedDifference]:
    pairs = make_pairs(*by_optimizer(runs).values())
    return {
        title: describe_differences([figure(a) - figure(b) for a, b in pairs], confidence)
        for title, (figure, _) in _FIGURES.items()
    }


def other_differences(runs: Sequence[Run]) -> str:
    """In which of the other figures of ``statistics_table`` two optimizers differ; the intervals hold together with 95 % (Bonferroni)."""
    first, second = by_optimizer(runs)
    _, *others = _differences(runs, 1 - 0.05 / (len(_FIGURES) - 1)).items()
    words = [
        f"{title.lower()}: {first} минус {second} {signed(difference.mean, _FIGURES[title][1])} "
        f"{interval(difference.low, difference.high, _FIGURES[title][1])}"
        for title, difference in others
        if difference.proven
    ]
    return (
        f"Из других величин различаются {'; '.join(words)}."
        if words
        else "И в других величинах разница не доказана."
    )


def verdict(runs: Sequence[Run], *, brief: bool = False) -> str:
    """The answer to "which optimizer is better?" that ``runs`` allow, computed from the test accuracies of their last epochs.

    For every two optimizers one of three answers, "лучше" the first or the second or "разница не доказана", and the number behind it;
    unless ``brief`` also the tests and what they could have shown.
    """
    groups = by_optimizer(runs)
    if len(groups) < 2:
        return f"Прогоны есть только для одного оптимизатора ({', '.join(groups)}), сравнивать не с чем: разница не доказана."
    comparisons = list(combinations(groups.items(), 2))
    sentences = []
    for (first, first_runs), (second, second_runs) in comparisons:
        seeds = {run.experiment.seed for run in first_runs} & {run.experiment.seed for run in second_runs}
        if not seeds:
            sentences.append(
                f"{first} и {second}: разница не доказана. Общих зёрен у прогонов нет, пар не составить."
            )
            continue
        shared = (
            [run for run in group if run.experiment.seed in seeds] for group in (first_runs, second_runs)
        )
        difference = paired_difference(
            *shared, confidence=1 - 0.05 / len(comparisons)
        )  # Bonferroni: all intervals hold together
        sentences.append(_answer(first, second, difference, brief))
    return " ".join(sentences)


def _answer(first: str, second: str, difference: PairedDifference, brief: bool) -> str:
    better = first if difference.mean > 0 else second
    answer = f"лучше {better}" if difference.proven else "разница не доказана"
    mean, bounds = signed(100 * difference.mean), interval(100 * difference.low, 100 * difference.high, 1)
    level = f"{number(100 * difference.confidence, 0 if difference.confidence == 0.95 else 1)}-процентный"
    if brief:
        return f"{first} и {second}: {answer} ({first} минус {second}: {mean} п. п. точности, {level} интервал {bounds}, пар: {difference.pairs})."
    evidence = f"{first} и {second}: {answer}. {first} минус {second} — {mean} процентного пункта тестовой точности в последней эпохе"
    if difference.pairs == 1:
        return f"{evidence} в единственной паре прогонов, по одной паре разброс не оценить."
    evidence += f", в среднем по парам с общим зерном (пар: {difference.pairs}); {level} доверительный интервал {bounds}"
    if difference.pairs < LEAST_PAIRS:
        return f"{evidence}. Пар слишком мало, для вывода нужно не меньше {LEAST_PAIRS}."
    tests = f"p = {probability(difference.p_value)} по Стьюденту, {probability(difference.exact_p)} по перестановкам знаков"
    shown = f"такое число пар с вероятностью 80 % обнаружило бы разницу от {number(100 * difference.detectable, 1)} пункта"
    return f"{evidence}, {tests}; {shown}."


def rate_against_optimizer(tuning: Sequence[Run], runs: Sequence[Run]) -> str:
    """How much the learning rate changes the accuracy, and how much the optimizer can: the far end of the interval. For two optimizers."""
    table = 100 * sensitivity(tuning)["accuracy"]
    difference = paired_difference(*by_optimizer(runs).values())
    most = 100 * max(abs(difference.low), abs(difference.high))
    return (
        f"Скорость обучения меняет точность на проверке от {number(table.min(), 1)} до {number(table.max(), 1)} %, "
        f"а выбор оптимизатора с подобранной скоростью — на тесте не больше чем на {number(most, 1)} п. п. (дальний край интервала)."
    )


def maximum_words(runs: Sequence[Run], *, brief: bool = False) -> str:
    """How often and how strongly AMSGrad's maximum binds in those of ``runs`` that recorded it, means over them: at its strongest
    and at the end."""
    mean = pd.concat([run.history for run in runs if "maximum_share" in run.history]).groupby("epoch").mean()
    strongest, final = mean["step_50"].idxmin(), mean.iloc[-1]

    def words(row: pd.Series) -> str:
        spread = f"у средних 80 % весов от {number(row['step_10'], 2)} до {number(row['step_90'], 2)}"
        return f"он выше v у {number(100 * row['maximum_share'], 0)} % весов, медиана множителя шага {number(row['step_50'], 2)} ({spread})"

    if brief:
        medians = [number(row["step_50"], 2) for row in (mean.loc[strongest], final)]
        return f"Сильнее всего максимум укорачивает шаг в эпоху {strongest}, медиана множителя {medians[0]}; в последней эпохе она {medians[1]}."
    return f"Сильнее всего максимум держит шаг в эпоху {strongest}: {words(mean.loc[strongest])}. В последней эпохе {words(final)}."


def answer_to_original(original: Sequence[Run], runs: Sequence[Run]) -> str:
    """One sentence on the original's claim "Adam is slightly better": what its own recipe gives, ``original``, and trained networks, ``runs``."""
    accuracies = ", ".join(
        f"{name} {number(100 * last(group[0], 'test_accuracy'), 2)} %"
        for name, group in by_optimizer(original).items()
    )
    answers = "; ".join(str(run.predictions["prediction"].nunique()) for run in original)
    (first, first_runs), (second, second_runs) = by_optimizer(runs).items()
    difference = paired_difference(first_runs, second_runs)
    found = "разницы в точности не доказывают"
    if difference.proven:
        found = f"показывают, что лучше {first if difference.mean > 0 else second}"
    return (
        f"Утверждение исходной работы «Adam показал себя слегка лучше» её прогоны подтвердить не могли: по её рецепту сети не учатся ({accuracies}, "
        f"разных ответов: {answers}); сети, которые учатся, {found} ({first} минус {second}: {signed(100 * difference.mean)} п. п., "
        f"интервал {interval(100 * difference.low, 100 * difference.high, 1)})."
    )


def _beats_majority(run: Run) -> bool:
    """Whether the accuracy is half as large again as the share of the most frequent class: what no constant answer reaches."""
    return last(run, "test_accuracy") > 1.5 * run.predictions["label"].value_counts(normalize=True).iloc[0]


def learned(runs: Sequence[Run], levels: ChanceLevels) -> str:
    """Whether the networks learned at all: their test accuracy against that of the most frequent class, computed."""
    sentences = []
    for name, group in by_optimizer(runs).items():
        accuracy = sum(last(run, "test_accuracy") for run in group) / len(group)
        figures = f"{number(100 * accuracy, 1)} % на тесте, доля самого частого класса {number(100 * levels.majority_share, 2)} %"
        outcome = (
            "сеть научилась"
            if accuracy > 1.5 * levels.majority_share
            else "сеть не научилась: это уровень самого частого класса"
        )
        sentences.append(f"{name}: {figures}, {outcome}.")
    return " ".join(sentences)


def to_markdown(table: pd.DataFrame) -> str:
    """``table`` in Markdown, numbers with the decimals that they have and words as they are."""
    return table.to_markdown(index=False, disable_numparse=True)


def save_table(table: pd.DataFrame, stem: str | Path) -> list[Path]:
    """Writes ``table`` to ``stem``.csv and ``stem``.md, each whole or not at all; returns their paths."""
    stem = Path(stem)
    texts = {".csv": table.to_csv(index=False, lineterminator="\n"), ".md": to_markdown(table) + "\n"}
    paths = []
    for suffix, text in texts.items():
        path = stem.with_name(stem.name + suffix)
        with written_whole(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def sizes(data: dict) -> str:
    """Numbers of training and test images of a record's data set, «5 871 / 1 305»."""
    return f"{thousands(data['train'])} / {thousands(data['test'])}"


def thousands(number: int) -> str:
    """5871 as «5 871», the Russian way, with a no-break space."""
    return f"{number:,}".replace(",", "\u00a0")


def number(value: float, digits: int) -> str:
    """``value`` with ``digits`` decimals and a comma, the Russian way."""
    return f"{value:.{digits}f}".replace(".", ",")


def power(value: float) -> str:
    """A positive ``value`` of any size: «0,26», but «1,2·10⁻⁷»."""
    if value >= 0.01:
        return number(value, 2)
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.replace('.', ',')}·10" + str(int(exponent)).translate(
        str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    )


def signed(value: float, digits: int = 1) -> str:
    """``value`` with its sign, a comma and ``digits`` decimals: «+1,5», «−0,2»; infinity as «∞»."""
    return f"{value:+.{digits}f}".replace(".", ",").replace("-", "−").replace("inf", "∞")


def interval(low: float, high: float, digits: int) -> str:
    """«[−0,4; +1,2]»."""
    return f"[{signed(low, digits)}; {signed(high, digits)}]"


def probability(value: float) -> str:
    """A p-value: «0,038», below a thousandth «< 0,001»."""
    return "< 0,001" if value < 0.001 else number(value, 3)


def rate(lr: float) -> str:
    """A learning rate: «0,0032»."""
    return f"{lr:g}".replace(".", ",")


def _mean_last(runs: Sequence[Run], metric: str) -> float:
    return sum(last(run, metric) for run in runs) / len(runs)


def _difference(runs: Sequence[Run], base: Sequence[Run]) -> str:
    """The mean difference in accuracy over shared seeds, in points, and its t interval where there are several."""
    accuracies = (
        {run.experiment.seed: 100 * last(run, "test_accuracy") for run in group} for group in (runs, base)
    )
    pairs = pd.concat([pd.Series(group) for group in accuracies], axis=1, join="inner")
    difference = describe_differences(pairs[0] - pairs[1])
    return signed(difference.mean) + (
        f" {interval(difference.low, difference.high, 1)}" if difference.pairs > 1 else ""
    )


def _mean_and_deviation(runs: Sequence[Run], metric: str, scale: float, digits: int) -> str:
    return _spread([scale * last(run, metric) for run in runs], digits)


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean and, of several values, standard deviation: «55,0 ± 7,1»."""
    mean = number(np.mean(values), digits)
    return mean if len(values) == 1 else f"{mean} ± {number(np.std(values, ddof=1), digits)}"
