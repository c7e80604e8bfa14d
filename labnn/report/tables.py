"""Tables as a reader sees them: a table is a list of columns, a row is written from some of the records."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import pandas as pd

from labnn.data import CarsData
from labnn.kit.numbers import interval, number, percent, probability, rate, signed, thousands
from labnn.kit.watchers import ChanceLevels
from labnn.report.records import best_rates, by, changed, is_paired, pairs
from labnn.report.statistics import Difference, describe, mcnemar
from labnn.settings import Experiment

# How a cell is written from the records of its row: rows of ``records.table`` or of ``records.pairs``.
Column = Callable[[pd.DataFrame], Any]

# The published result of the work that this one replaces: 68 photos of the most frequent class among 8 041.
PUBLISHED = ["исходная работа, официальный тест", thousands(8041), "—", number(0.85, 2), "—"]


def first(name: str, write: Callable = lambda value: value) -> Column:
    """What the records of a row have in common in the column ``name``."""
    return lambda part: write(part[name].iloc[0])


def mean(name: str, digits: int, scale: float = 1) -> Column:
    """The mean over the records of a row."""
    return lambda part: number(scale * part[name].astype(float).mean(skipna=False), digits)


def spread(name: str, digits: int, scale: float = 1) -> Column:
    """The mean and, of several records, the standard deviation: «55,0 ± 7,1»."""

    def written(part: pd.DataFrame) -> str:
        deviation = scale * part[name].astype(float).std(skipna=False)
        told = mean(name, digits, scale)(part)
        return told if math.isnan(deviation) else f"{told} ± {number(deviation, digits)}"

    return written


def epoch_seconds(part: pd.DataFrame) -> str:
    """The median: an epoch that waited for other work on the machine took minutes."""
    return number(pd.concat([run.history["seconds"] for run in part["run"]]).median(), 1)


def tuned_rates(paired: pd.DataFrame) -> str:
    """Whether the rates of pairs were tuned for each optimizer, and which they are."""
    lrs = dict.fromkeys(rate(paired[name].iloc[0]) for name in ("lr_first", "lr_second"))
    return f"{'да' if paired['tuned'].iloc[0] else 'нет'}: {' и '.join(lrs)}"


def points(found: Difference | None) -> str:
    """A difference in percentage points and its interval, «−2,0 [−2,5; −1,5]»; nothing of ``None``."""
    if found is None:
        return ""
    bounds = f" {interval(100 * found.low, 100 * found.high, 1)}"
    return signed(100 * found.mean) + (bounds if found.spread else "")


# Every column by its title. A ``change``, ``gap`` (``Difference``) and such are put to the records by whoever
# makes the table; {first} and {second} are the titles of the two optimizers of pairs.
COLUMNS: dict[str, Column] = {
    "Оптимизатор": first("title"),
    "Что изменено": first("change"),
    "Что": first("change"),
    "Прогонов": len,
    "Эпох": first("epochs"),
    "Скорость обучения": first("lr", rate),
    "Потери на обучении": spread("train_loss", 3),
    "Точность на обучении, %": spread("train_accuracy", 1, 100),
    "Потери на тесте": spread("test_loss", 3),
    "Потери, нат": spread("test_loss", 3),
    "Точность на тесте, %": spread("test_accuracy", 1, 100),
    "Точность, %": spread("test_accuracy", 1, 100),
    "Точность в среднем по эпохам, %": spread("mean_accuracy", 1, 100),
    "Разность точности [95 %]": first("gap", points),
    "Разность точности [95 % вместе]": first("gap", points),
    "На проверке при разных скоростях, %": first("tried"),
    "Секунд на эпоху, медиана": epoch_seconds,
    "Минут обучения": mean("minutes", 1),
    "Снимков на тесте": first("run", lambda run: thousands(run.data["test"])),
    "Учится": lambda part: "да" if part["learns"].all() else "нет",
    "Самый частый ответ": first("top_share", lambda share: f"{percent(share, 1)} снимков"),
    "Разных ответов": first("answers"),
    # of pairs
    "Условие": first("condition"),
    "Зерно": first("seed"),
    "Пар": len,
    "{first}, %": mean("test_accuracy_first", 1, 100),
    "{second}, %": mean("test_accuracy_second", 1, 100),
    "Разность": first("difference", lambda share: signed(100 * share)),
    "Разность, п. п. [интервал]": first("gap", points),
    "Разность, п. п. [95 %]": first("told"),
    "p (перестановки знаков)": first("gap", lambda gap: probability(gap.exact_p)),
    "Верно только у {first}": first("only_first"),
    "Верно только у {second}": first("only_second"),
    "p (Макнемар)": first("mcnemar", probability),
    "Весов, у которых максимум ограничивает шаг": lambda part: percent(part["held_first"].mean(), 1),
    "Скорость подобрана": tuned_rates,
    "Роль": first("role", {"main": "главный", "exploratory": "разведочный"}.get),
    # of an epoch
    "Эпоха": first("epoch"),
    "Время обучения, с": mean("seconds", 2),
    "Потери": mean("train_loss", 4),
    "Точность в эпохе, %": mean("train_accuracy", 2, 100),
    "Тестовая точность, %": mean("test_accuracy", 2, 100),
}


def table(
    parts: Iterable[pd.DataFrame], titles: Sequence[str], own: Mapping[str, Column] = {}
) -> pd.DataFrame:
    """A row for each of ``parts`` with the columns ``titles``; ``own`` ones before those of ``COLUMNS``."""
    columns, rows = COLUMNS | dict(own), []
    for part in parts:
        names = {end: part[f"title_{end}"].iloc[0] for end in ("first", "second") if f"title_{end}" in part}
        rows.append({title.format(**names): columns[title](part) for title in titles})
    return pd.DataFrame(rows)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """A row an optimizer: the last epoch, means and deviations over seeds."""
    titles = ["Оптимизатор", "Прогонов", "Эпох", "Скорость обучения", "Потери на обучении"]
    titles += ["Точность на обучении, %", "Потери на тесте", "Точность на тесте, %"]
    titles += ["Точность в среднем по эпохам, %"] * bool(found["mean_accuracy"].notna().all())
    return table(by(found, "optimizer").values(), [*titles, "Секунд на эпоху, медиана"])


def epochs(found: pd.DataFrame) -> pd.DataFrame:
    """The original report's table of one optimizer: a row an epoch, means over seeds."""
    parts = by(pd.concat([run.history for run in found["run"]]), "epoch").values()
    titles = ["Эпоха", "Время обучения, с", "Потери", "Точность в эпохе, %", "Тестовая точность, %"]
    return table(parts, titles).rename(columns={"Точность в эпохе, %": "Точность, %"})


def collapse(found: pd.DataFrame) -> pd.DataFrame:
    """A row a run: what a network is like that answers every photo alike."""
    losses = {"Потери на обучении": mean("train_loss", 4), "Потери на тесте": mean("test_loss", 4)}
    own = losses | {"Точность на тесте, %": mean("test_accuracy", 2, 100)}
    parts = [found.iloc[[place]] for place in range(len(found))]
    return table(parts, ["Оптимизатор", "Эпох", *own, "Самый частый ответ", "Разных ответов"], own)


def rates(tuning: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on validation by rate, the best of each optimizer with a star; what is absent has diverged."""
    best, rows = best_rates(tuning), []
    for lr, tried in sorted(by(tuning, "lr").items()):
        row = {"Скорость обучения": rate(lr)}
        for name, own in by(tuning, "optimizer").items():
            part = tried[tried["optimizer"] == name]
            told = mean("test_accuracy", 1, 100)(part) + " ★" * (best[name] == lr)
            row[f"{own['title'].iloc[0]}, %"] = told if len(part) else "расходится"
        rows.append(row)
    return pd.DataFrame(rows)


def pair_rows(found: pd.DataFrame) -> pd.DataFrame:
    """The pairs behind a verdict, a row a seed; McNemar's test is of the two networks alone."""
    paired = pairs(found)
    runs = zip(paired["run_first"], paired["run_second"], strict=True)
    tested = [mcnemar(one.predictions, other.predictions) for one, other in runs]
    paired[["only_first", "only_second", "mcnemar"]] = pd.DataFrame(tested, dtype=object)
    titles = ["Зерно", "{first}, %", "{second}, %", "Разность"]
    titles += ["Верно только у {first}", "Верно только у {second}", "p (Макнемар)"]
    return table(by(paired, "seed").values(), titles)


def against(part: pd.DataFrame, base: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """``part`` with the column ``gap``: its difference in last test accuracy from ``base`` over shared seeds,
    ``None`` of the base itself and without such seeds.
    """
    ours, theirs = (runs.set_index("seed")["test_accuracy"] for runs in (part, base))
    shared = (ours - theirs).dropna()
    known = len(shared) and not part.index.equals(base.index)
    return with_gap(part, describe(shared, confidence) if known else None)


def with_gap(part: pd.DataFrame, gap: Difference | None) -> pd.DataFrame:
    """``part`` with ``gap`` in a column of that name."""
    return part.assign(gap=pd.Series([gap] * len(part), part.index, dtype=object))


def recipes(found: pd.DataFrame) -> list[pd.DataFrame]:
    """The parts of ``found`` that differ in the seed alone, the most accurate first."""
    return sorted(by(found, "recipe").values(), key=lambda part: -part["test_accuracy"].mean())


def changes(found: pd.DataFrame, base: Experiment) -> pd.DataFrame:
    """A row a ``change``, the most accurate first, with the difference from the runs of ``base``."""
    reference = found[[not changed(run, base) for run in found["run"]]]
    titles = ["Что изменено", "Прогонов", "Точность, %", "Потери, нат", "Разность точности [95 %]", "Учится"]
    return table([against(part, reference) for part in recipes(found)], titles)


def ladder(found: pd.DataFrame) -> pd.DataFrame:
    """A row a ``change``, from the lowest test accuracy to the highest: no seed is chosen by its test."""
    titles = ["Что изменено", "Прогонов", "Эпох", "Минут обучения", "Потери на тесте", "Точность на тесте, %"]
    return table(recipes(found)[::-1], titles, {"Точность на тесте, %": spread("test_accuracy", 2, 100)})


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """What the original published; of ``found`` the worst without and with batch norm, and the best."""
    climb = recipes(found)[::-1]
    steps = [next(part for part in climb if part["batch_norm"].iloc[0] == norm) for norm in (False, True)]
    names = ["её рецепт, повторён", "+ пакетная нормализация", "полный рецепт"]
    named = [part.assign(change=name) for part, name in zip([*steps, climb[-1]], names, strict=True)]
    titles = ["Что", "Снимков на тесте", "Прогонов", "Точность, %", "Минут обучения"]
    ours = table(named, titles, {"Точность, %": spread("test_accuracy", 2, 100)})
    return pd.concat([pd.DataFrame([PUBLISHED], columns=titles), ours], ignore_index=True)


def others(tuning: pd.DataFrame, found: pd.DataFrame, reference: str) -> pd.DataFrame:
    """A row an optimizer, the most accurate first, with the difference from the runs of ``reference``, whose
    intervals hold together with 95 % (Bonferroni), and the range of accuracies on validation.
    """
    groups, parts = by(found, "optimizer"), []
    level = 1 - 0.05 / max(len(groups) - 1, 1)
    for name, part in groups.items():
        tried = 100 * tuning["test_accuracy"][tuning["optimizer"] == name]
        span = f"{number(tried.min(), 1)}…{number(tried.max(), 1)}" if len(tried) else "—"
        parts.append(against(part, groups[reference], level).assign(tried=span))
    parts.sort(key=lambda part: -part["test_accuracy"].mean())
    titles = ["Оптимизатор", "Скорость обучения", "Прогонов", "Точность, %"]
    titles += ["Разность точности [95 % вместе]", "На проверке при разных скоростях, %"]
    return table(parts, [*titles, "Секунд на эпоху, медиана"])


def cells(found: pd.DataFrame) -> pd.DataFrame:
    """A row a cell: pairs of runs that share all but optimizer and seed, called by their ``change``; the
    intervals hold together with 95 % (Bonferroni).
    """
    parts = sorted(by(found, "lr", "shared").items(), key=lambda cell: (cell[0][0], astuple(cell[0][1])))
    paired = [pairs(part) for _, part in parts if is_paired(part)]
    level = 1 - 0.05 / max(len(paired), 1)
    known = [with_gap(part, describe(part["difference"], level)) for part in paired]
    titles = ["Условие", "Пар", "{first}, %", "{second}, %", "Разность, п. п. [интервал]"]
    titles += ["p (перестановки знаков)", "Весов, у которых максимум ограничивает шаг"]
    return table(known, titles, {"Условие": first("change_first")})


def answer(found: pd.DataFrame, condition: str, planned: int, tuned: bool, role: str) -> pd.DataFrame:
    """The pairs of ``found`` as an answer to "AMSGrad or Adam?" under a ``condition``, said in words; whether
    rates were ``tuned`` for each; ``role``: "main" or "exploratory". The ``gap`` is ``None`` before all
    ``planned`` pairs are there.
    """
    paired = pairs(found).assign(condition=condition, tuned=tuned, role=role)
    gap = describe(paired["difference"]) if len(paired) >= planned else None
    told = f"{points(gap)}, пар: {len(paired)}" if gap else f"готово пар: {len(paired)} из {planned}"
    return with_gap(paired, gap).assign(told=told)


def answers(known: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The one table of the question: a row for each ``answer``, the main ones first."""
    titles = ["Условие", "{first}, %", "{second}, %", "Разность, п. п. [95 %]", "Скорость подобрана", "Роль"]
    return table(sorted(known, key=lambda paired: paired["role"].iloc[0] != "main"), titles)


def data(cars: CarsData, levels: ChanceLevels) -> pd.DataFrame:
    """Both parts of a data set, and what an answer that does not depend on the photo reaches on them."""
    rows = []
    for name, part in (("обучающая", cars.train), ("тестовая", cars.test)):
        sizes = pd.Series(part.labels).value_counts()
        row = {"Выборка": name, "Снимков": thousands(len(part)), "Классов": sizes.size}
        row |= {"Снимков в классе": f"{sizes.min()}…{sizes.max()}"}
        row["Самый частый класс, %"] = number(100 * sizes.max() / len(part), 2)
        rows.append(row | {"Потери равномерного ответа ln K, нат": number(levels.uniform_loss, 3)})
    return pd.DataFrame(rows)


def settings(found: pd.DataFrame) -> pd.DataFrame:
    """The settings of runs that differ in optimizer, rate and seed, and where they were made, a row each."""
    data, one = found["run"].iloc[0].data, found["run"].iloc[0].experiment
    rates = {title: rate(part["lr"].iloc[0]) for title, part in by(found, "title").items()}
    peaks = ", ".join(dict.fromkeys(rates.values()))
    network = [one.words("version") if one.network == "squeezenet" else one.network]
    network += [one.words(name) for name in ("batch_norm", "bypass") if getattr(one, name)]
    picture = [f"{one.image_size} × {one.image_size} пикселей"]
    picture += [f"в начале {one.start_size} × {one.start_size}"] * bool(one.start_size)
    picture += ["кадр по рамке"] * data["crop_to_box"]
    picture += [f"на тесте {one.test_size} × {one.test_size}"] * bool(one.test_size)
    picture += [one.words("mirror_test")] * one.mirror_test
    regular = ["weight_decay", "dropout", "label_smoothing", "min_crop_area", "mirror", "colour", "mix"]
    machines = found["processor"].where(found["device"] == "cpu", found["device"])
    machines += ", потоков: " + found["threads"] + ", " + found["precision"] + ", PyTorch " + found["torch"]
    rows = {
        "Оптимизатор": ", ".join(rates),
        "Набор данных": f"{data['name']}: {sizes(data)} снимков, классов: {data['classes']}",
        "Сеть": ", ".join(network),
        "Снимок на входе": ", ".join(picture),
        "Эпох, размер пакета": f"{one.epochs}, {one.batch_size}",
        "Скорость обучения": f"наибольшая {peaks}; {one.words('schedule')}",
        "Регуляризация": ", ".join(map(one.words, regular)),
        "Вычислитель": "; ".join(dict.fromkeys(machines)),
    }
    return pd.DataFrame({"Настройка": rows.keys(), "Значение": rows.values()})


def sizes(data: dict) -> str:
    """Numbers of training and test images of a record's data set, «5 871 / 1 305»."""
    return f"{thousands(data['train'])} / {thousands(data['test'])}"


def maximum(found: pd.DataFrame) -> pd.DataFrame:
    """Numbers: how AMSGrad's maximum binds, a row an epoch; means over the runs that recorded it, empty if
    none did. Columns of ``watchers.watch_maximum``.
    """
    columns = ["maximum_share", "step_10", "step_50", "step_90"]
    histories = [run.history for run in found["run"] if "maximum_share" in run.history]
    if not histories:
        return pd.DataFrame(columns=["epoch", *columns], dtype=float)
    return pd.concat(histories).groupby("epoch")[columns].mean().reset_index()


def markdown(shown: pd.DataFrame) -> str:
    """``shown`` in Markdown, numbers on the right; of more than six columns turned, in equal parts of five
    rows or fewer.
    """
    parts = [shown]
    if len(shown.columns) > 6:
        name, size = shown.columns[0], math.ceil(len(shown) / math.ceil(len(shown) / 5))
        cut = (shown.iloc[start : start + size] for start in range(0, len(shown), size))
        parts = [part.set_index(name).T.reset_index(names=name) for part in cut]
    return "\n\n".join(map(_markdown, parts))


def _markdown(shown: pd.DataFrame) -> str:
    figures = r"[-+−—<∞\[\d]|$|расходится"
    shown = shown.rename(columns=_in_a_cell).map(_in_a_cell)
    sides = ["right" if cells.astype(str).str.match(figures).all() else "left" for _, cells in shown.items()]
    return shown.to_markdown(index=False, disable_numparse=True, colalign=sides)


def _in_a_cell(value: Any) -> Any:
    return " ".join(value.splitlines()).replace("|", "\\|") if isinstance(value, str) else value
