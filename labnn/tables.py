"""Results in Russian words and tables. The one file with the wording of results."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from labnn.compare import last, paired_difference
from labnn.data import CarsData, ChanceLevels
from labnn.experiment import Run
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
        "Снимок на входе": f"{experiment.image_size} × {experiment.image_size} пикселей" + (", кадр по рамке" if data["crop_to_box"] else ""),
        "Эпох, размер пакета": f"{experiment.epochs}, {experiment.batch_size}",
        "Скорость обучения": f"до {number(experiment.lr, 4)}, один цикл",
        "Регуляризация": f"сглаживание меток {number(experiment.label_smoothing, 2)}, dropout {number(experiment.dropout, 2)}, "
        f"затухание весов {number(experiment.weight_decay, 3)}, случайный кадр от {number(experiment.min_crop_area, 2)} площади, отражение",
        "Вычислитель": f"{environment['processor'] if environment['device'] == 'cpu' else environment['device']}, "
        f"потоков: {environment['threads']}, {environment['precision']}, PyTorch {environment['torch']}",
    }
    return pd.DataFrame({"Настройка": rows.keys(), "Значение": rows.values()})


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


def signed(value: float) -> str:
    """``value`` with one decimal, a comma and its sign: «+1,5», «−0,2»."""
    return f"{value:+.1f}".replace(".", ",").replace("-", "−")


def _mean_and_deviation(runs: Sequence[Run], metric: str, scale: float, digits: int) -> str:
    values = pd.Series([scale * last(run, metric) for run in runs])
    mean = number(values.mean(), digits)
    return mean if len(values) == 1 else f"{mean} ± {number(values.std(), digits)}"
