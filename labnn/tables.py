"""Results in Russian words and tables. The one file with the wording of results."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from labnn.compare import last, paired_difference
from labnn.data import CarsData, ChanceLevels
from labnn.experiment import Experiment, Run
from labnn.files import written_whole

OPTIMIZER_NAMES = {"amsgrad": "AMSGrad", "adam": "Adam"}


def by_optimizer(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """``runs`` grouped by the optimizer's Russian-text name, AMSGrad first, as in the lab's title."""
    groups = {name: [run for run in runs if run.experiment.optimizer == key] for key, name in OPTIMIZER_NAMES.items()}
    return {name: group for name, group in groups.items() if group}


def epoch_table(runs: Sequence[Run]) -> pd.DataFrame:
    """The original report's table of one optimizer: a row an epoch; means over ``runs``, which differ in the seed only."""
    mean = pd.concat([run.history for run in runs]).groupby("epoch").mean()
    rows = [
        [epoch, number(row.seconds, 2), number(row.train_loss, 4), number(100 * row.train_accuracy, 2), number(100 * row.test_accuracy, 2)]
        for epoch, row in mean.iterrows()
    ]
    return pd.DataFrame(rows, columns=["Эпоха", "Время обучения, с", "Потери", "Точность, %", "Тестовая точность, %"])


def summary_table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row an optimizer: last-epoch figures, mean over seeds, with the standard deviation where there are several."""
    rows = []
    for name, group in by_optimizer(runs).items():
        rows.append(
            {
                "Оптимизатор": name,
                "Прогонов": len(group),
                "Эпох": group[0].experiment.epochs,
                "Потери на обучении": _mean_and_deviation(group, "train_loss", 1, 3),
                "Точность на обучении, %": _mean_and_deviation(group, "train_accuracy", 100, 1),
                "Потери на тесте": _mean_and_deviation(group, "test_loss", 1, 3),
                "Точность на тесте, %": _mean_and_deviation(group, "test_accuracy", 100, 1),
                "Секунд на эпоху": number(sum(run.history["seconds"].mean() for run in group) / len(group), 1),
            }
        )
    return pd.DataFrame(rows)


def settings_table(run: Run) -> pd.DataFrame:
    """The settings of a run and where it was made, a row each."""
    data, experiment, environment = run.data, run.experiment, run.environment
    rows = {
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
        "Скорость обучения": f"до {number(experiment.lr, 4)}, {_CHANGES['schedule'][experiment.schedule]}",
        "Регуляризация": ", ".join(
            wording[value] if isinstance(wording, dict) else wording(value)
            for name in ("weight_decay", "dropout", "label_smoothing", "min_crop_area", "mirror", "colour", "mix")
            for wording, value in [(_CHANGES[name], getattr(experiment, name))]
        ),
        "Вычислитель": f"{environment['processor'] if environment['device'] == 'cpu' else environment['device']}, "
        f"потоков: {environment['threads']}, {environment['precision']}, PyTorch {environment['torch']}",
    }
    return pd.DataFrame({"Настройка": rows.keys(), "Значение": rows.values()})


_CHANGES = {
    "optimizer": lambda value: OPTIMIZER_NAMES[value],
    "epochs": lambda value: f"эпох: {value}",
    "lr": lambda value: f"скорость обучения {value:g}".replace(".", ","),
    "schedule": {"one_cycle": "разгон и спад скорости (один цикл)", "constant": "постоянная скорость"},
    "warmup": lambda value: f"разгон {value:.0%} шагов",
    "weight_decay": lambda value: f"затухание весов {value:g}".replace(".", ","),
    "batch_size": lambda value: f"пакет {value}",
    "image_size": lambda value: f"{value} пикселей",
    "start_size": lambda value: f"снимок растёт от {value} пикселей" if value else "снимок одного размера",
    "min_crop_area": lambda value: "без случайного кадра" if value == 1 else f"случайный кадр от {value:.0%} площади",
    "label_smoothing": lambda value: f"сглаживание меток {number(value, 1)}" if value else "без сглаживания меток",
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
    "ema_decay": lambda value: f"усреднение весов {value:g}".replace(".", ",") if value else "без усреднения весов",
    "cosine": lambda value: "косинусная функция потерь рядом с энтропией" if value else "без косинусной функции потерь",
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
_CAUSES = {"lr": "rate", "schedule": "rate", "min_crop_area": "augmentation", "mirror": "augmentation", "colour": "augmentation"}


def single_causes(runs: Sequence[Run], base: Experiment) -> str:
    """Which causes, changed alone from ``base``, were enough for the networks of all seeds to learn, and which were not."""
    words: dict[bool, list[str]] = {True: [], False: []}
    for experiment, group in _by_experiment(runs).items():
        if len({_CAUSES.get(name, name) for name in _CHANGES if getattr(experiment, name) != getattr(base, name)}) == 1:
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
            row = [name, run.experiment.epochs, *(number(last(run, f"{part}_loss"), 4) for part in ("train", "test"))]
            row += [number(100 * last(run, "test_accuracy"), 2), f"{number(100 * answers.iloc[0], 1)} % снимков", len(answers)]
            rows.append(row)
    columns = ["Оптимизатор", "Эпох", "Потери на обучении", "Потери на тесте", "Точность на тесте, %", "Самый частый ответ", "Разных ответов"]
    return pd.DataFrame(rows, columns=columns)


def ladder_table(runs: Sequence[Run]) -> pd.DataFrame:
    """From the lowest test accuracy to the highest: a row a run, and what it has that the one before had otherwise."""
    runs = sorted(runs, key=lambda run: last(run, "test_accuracy"))
    rows = []
    for previous, run in zip([None, *runs], runs, strict=False):
        step = changes(run.experiment, previous.experiment) if previous else "рецепт исходной работы"
        minutes = number(run.history["seconds"].sum() / 60, 1)
        rows.append([step, run.experiment.epochs, minutes, number(last(run, "test_loss"), 3), number(100 * last(run, "test_accuracy"), 2)])
    return pd.DataFrame(rows, columns=["Что изменено", "Эпох", "Минут обучения", "Потери на тесте", "Точность на тесте, %"])


def variants_table(variants: pd.DataFrame) -> pd.DataFrame:
    """What ``experiment.evaluate_variants`` found, in Russian."""
    rows = [
        [row.test_size, "среднее с отражением" if row.mirror else "снимок", number(row.test_loss, 3), number(100 * row.test_accuracy, 1)]
        for row in variants.itertuples()
    ]
    return pd.DataFrame(rows, columns=["Пикселей на тесте", "Ответ", "Потери на тесте", "Точность на тесте, %"])


def confused_pairs(run: Run, class_names: Sequence[str], count: int = 8) -> pd.DataFrame:
    """The ``count`` pairs of classes most often taken for one another on the test part, by name, both ways together."""
    wrong = run.predictions[run.predictions["label"] != run.predictions["prediction"]]
    pairs = pd.DataFrame(np.sort(wrong[["label", "prediction"]].to_numpy(), axis=1), columns=["first", "second"])
    sizes = run.predictions["label"].value_counts()
    rows = [
        [class_names[first], class_names[second], mistakes, sizes[[first, second]].sum()]
        for (first, second), mistakes in pairs.value_counts(sort=True).head(count).items()
    ]
    return pd.DataFrame(rows, columns=["Класс", "Путается с классом", "Ошибок", "Снимков в двух классах"])


def chance_table(levels: ChanceLevels) -> pd.DataFrame:
    """What a classifier that has not looked at the picture reaches."""
    return pd.DataFrame(
        [
            ["все классы равновероятны", number(100 * levels.uniform_accuracy, 3), f"ln K = {number(levels.uniform_loss, 4)}"],
            ["всегда самый частый класс", number(100 * levels.majority_share, 3), f"не ниже H = {number(levels.prior_loss, 4)}"],
        ],
        columns=["Ответ наугад", "Точность, %", "Потери, нат"],
    )


def data_table(data: CarsData) -> pd.DataFrame:
    """Numbers of images and the spread of class sizes in both parts of a data set."""
    rows = []
    for name, part in (("обучающая", data.train), ("тестовая", data.test)):
        sizes = pd.Series(part.labels).value_counts()
        rows.append([name, len(part), sizes.size, sizes.min(), sizes.max()])
    return pd.DataFrame(rows, columns=["Выборка", "Снимков", "Классов", "Меньше всего в классе", "Больше всего в классе"])


def verdict(runs: Sequence[Run]) -> str:
    """The answer to "AMSGrad or Adam?" that ``runs`` allow, computed from the test accuracies of their last epochs."""
    groups = by_optimizer(runs)
    if len(groups) < 2:
        return f"Прогоны есть только для одного оптимизатора ({', '.join(groups)}), сравнивать не с чем: разница не доказана."
    seeds = set.intersection(*({run.experiment.seed for run in group} for group in groups.values()))
    if not seeds:
        return "У прогонов двух оптимизаторов нет общих зёрен, пар не составить: разница не доказана."
    (first, first_runs), (second, second_runs) = groups.items()
    difference = paired_difference(*([run for run in group if run.experiment.seed in seeds] for group in (first_runs, second_runs)))
    points = f"{first} минус {second}: {signed(100 * difference.mean)} процентного пункта тестовой точности"
    if difference.pairs == 1:
        return f"{points} в единственной паре прогонов. По одной паре разброс не оценить: разница не доказана."
    interval = f"доверительный интервал от {signed(100 * difference.low)} до {signed(100 * difference.high)}"
    level = f"{100 * difference.confidence:.0f}-процентный"
    evidence = f"{points} в среднем по парам с общим зерном (пар: {difference.pairs}), {level} {interval}."
    if not difference.proven:
        return f"{evidence} Интервал содержит ноль: разница не доказана."
    better = first if difference.mean > 0 else second
    return f"{evidence} Интервал не содержит нуля: в этих условиях точнее {better}."


def _beats_majority(run: Run) -> bool:
    """Whether the accuracy is half as large again as the share of the most frequent class: what no constant answer reaches."""
    return last(run, "test_accuracy") > 1.5 * run.predictions["label"].value_counts(normalize=True).iloc[0]


def learned(runs: Sequence[Run], levels: ChanceLevels) -> str:
    """Whether the networks learned at all: their test accuracy against that of the most frequent class, computed."""
    sentences = []
    for name, group in by_optimizer(runs).items():
        accuracy = sum(last(run, "test_accuracy") for run in group) / len(group)
        figures = f"{number(100 * accuracy, 1)} % на тесте, доля самого частого класса {number(100 * levels.majority_share, 2)} %"
        outcome = "сеть научилась" if accuracy > 1.5 * levels.majority_share else "сеть не научилась: это уровень самого частого класса"
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
    return f"{digits.replace('.', ',')}·10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def signed(value: float) -> str:
    """``value`` with one decimal, a comma and its sign: «+1,5», «−0,2»."""
    return f"{value:+.1f}".replace(".", ",").replace("-", "−")


def _mean_last(runs: Sequence[Run], metric: str) -> float:
    return sum(last(run, metric) for run in runs) / len(runs)


def _difference(runs: Sequence[Run], base: Sequence[Run]) -> str:
    """The mean difference in accuracy over shared seeds, in points, and its t interval where there are several."""
    accuracies = ({run.experiment.seed: 100 * last(run, "test_accuracy") for run in group} for group in (runs, base))
    pairs = pd.concat([pd.Series(group) for group in accuracies], axis=1, join="inner")
    differences = pairs[0] - pairs[1]
    if len(differences) < 2:
        return signed(differences.mean())
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    return f"{signed(differences.mean())} [{signed(interval.low)}; {signed(interval.high)}]"


def _mean_and_deviation(runs: Sequence[Run], metric: str, scale: float, digits: int) -> str:
    values = pd.Series([scale * last(run, metric) for run in runs])
    mean = number(values.mean(), digits)
    return mean if len(values) == 1 else f"{mean} ± {number(values.std(), digits)}"
