"""Tables as a reader sees them: a table is a list of columns, a row is written from some of the records."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from labnn.data import CarsData
from labnn.kit.numbers import interval, number, percent, probability, rate, signed, thousands
from labnn.kit.watchers import ChanceLevels
from labnn.report.records import best_rates, by, is_paired, pairs
from labnn.report.statistics import Difference, describe, mcnemar
from labnn.settings import Experiment

# How a cell is written from the records of its row: rows of ``records.table`` or of ``records.pairs``.
Column = Callable[[pd.DataFrame], Any]

# The published result of the work that this one replaces: 68 photos of the most frequent class among 8 041.
PUBLISHED = ["исходная работа, официальный тест", thousands(8041), "—", "—", "—", "—", number(0.85, 2)]


def first(name: str, write: Callable = lambda value: value) -> Column:
    """What the records of a row have in common in the column ``name``."""
    return lambda part: write(part[name].iloc[0])


def mean(name: str, digits: int, scale: float = 1, deviation: bool = False) -> Column:
    """The mean over the records of a row, with the standard ``deviation`` of several: «55,0 ± 7,1»."""

    def written(part: pd.DataFrame) -> str:
        values = scale * part[name].astype(float)
        told = number(values.mean(skipna=False), digits)
        return f"{told} ± {number(values.std(), digits)}" if deviation and len(values) > 1 else told

    return written


spread = partial(mean, deviation=True)


def epoch_seconds(part: pd.DataFrame) -> str:
    """The median: an epoch that waited for other work on the machine took minutes."""
    return number(pd.concat([run.history["seconds"] for run in part["run"]]).median(), 1)


def tuned_rates(paired: pd.DataFrame) -> str:
    """Whether rates were tuned for each optimizer, and which they are."""
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
    "Секунд на эпоху, медиана": epoch_seconds,
    "Минут (время × потоки)": mean("minutes", 1),
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


def collapse(found: pd.DataFrame) -> pd.DataFrame:
    """A row a recipe: what a network is like that answers every photo alike."""
    losses = {"Потери на обучении": spread("train_loss", 4), "Потери на тесте": spread("test_loss", 4)}
    own = losses | {"Точность на тесте, %": spread("test_accuracy", 2, 100)}
    titles = ["Оптимизатор", "Эпох", *own, "Самый частый ответ", "Разных ответов"]
    return table(by(found, "recipe").values(), titles, own)


def rates(tuning: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on validation by rate, the best of each optimizer with a star; what is absent has diverged."""
    best, titles = best_rates(tuning), tuning.set_index("optimizer")["title"].to_dict()
    shown = tuning.pivot_table("test_accuracy", "lr", "optimizer", sort=False).sort_index()
    for name, accuracies in shown.items():
        told = [f"{number(100 * one, 1)}{' ★' * (lr == best[name])}" for lr, one in accuracies.items()]
        shown[name] = pd.Series(told, shown.index).where(accuracies.notna(), "расходится")
    shown = shown.rename(columns={name: f"{titles[name]}, %" for name in shown})
    return shown.rename(index=rate).rename_axis(index="Скорость обучения", columns=None).reset_index()


def pair_rows(found: pd.DataFrame) -> pd.DataFrame:
    """The pairs behind a verdict, a row a seed; McNemar's test is of the two networks alone."""
    paired = pairs(found)
    runs = zip(paired["run_first"], paired["run_second"], strict=True)
    tested = [mcnemar(one.predictions, other.predictions) for one, other in runs]
    paired[["only_first", "only_second", "mcnemar"]] = pd.DataFrame(tested, dtype=object)
    titles = ["Зерно", "{first}, %", "{second}, %", "Разность"]
    titles += ["Верно только у {first}", "Верно только у {second}", "p (Макнемар)"]
    return table(by(paired, "seed").values(), titles)


def recipes(found: pd.DataFrame) -> list[pd.DataFrame]:
    """The parts of ``found`` that differ in the seed alone, the most accurate first."""
    return sorted(by(found, "recipe").values(), key=lambda part: -part["test_accuracy"].mean())


def against(base: pd.DataFrame, found: pd.DataFrame, confidence: float = 0.95) -> list[pd.DataFrame]:
    """``recipes`` with the column ``gap``: the difference in last test accuracy from the runs ``base`` over
    shared seeds, ``None`` of the base itself and without such seeds.
    """
    parts, theirs = [], base.set_index("seed")["test_accuracy"]
    for part in recipes(found):
        shared = (part.set_index("seed")["test_accuracy"] - theirs).dropna()
        known = len(shared) and not part.index.equals(base.index)
        parts.append(part.assign(gap=[describe(shared, confidence) if known else None] * len(part)))
    return parts


def changes(found: pd.DataFrame, base: Experiment) -> pd.DataFrame:
    """A row a ``change``, the most accurate first, with the difference from the runs of ``base``."""
    titles = ["Что изменено", "Прогонов", "Точность, %", "Потери, нат", "Разность точности [95 %]", "Учится"]
    return table(against(found[found["recipe"] == base], found), titles)


def ladder(climb: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """What the original published, and a row for each of the recipes ``climb``: no seed is chosen."""
    titles = [
        "Что",
        "Снимков на тесте",
        "Прогонов",
        "Эпох",
        "Минут (время × потоки)",
        "Потери на тесте",
        "Точность, %",
    ]
    ours = table(climb, titles, {"Точность, %": spread("test_accuracy", 2, 100)})
    return pd.concat([pd.DataFrame([PUBLISHED], columns=titles), ours], ignore_index=True)


def others(tuning: pd.DataFrame, found: pd.DataFrame, reference: str) -> pd.DataFrame:
    """A row an optimizer, the most accurate first, with the difference from ``reference``, in intervals that
    hold together with 95 % (Bonferroni), and the range of accuracies on validation.
    """
    level, tried = 1 - 0.05 / max(len(recipes(found)) - 1, 1), tuning.groupby("optimizer")["test_accuracy"]
    spans = {name: f"{number(100 * own.min(), 1)}…{number(100 * own.max(), 1)}" for name, own in tried}
    titles = ["Оптимизатор", "Скорость обучения", "Прогонов", "Точность, %"]
    titles += ["Разность точности [95 % вместе]", "На проверке при разных скоростях, %"]
    own = {titles[-1]: first("optimizer", lambda name: spans.get(name, "—"))}
    base = found[found["optimizer"] == reference]
    return table(against(base, found, level), [*titles, "Секунд на эпоху, медиана"], own)


def cells(found: pd.DataFrame) -> pd.DataFrame:
    """A row a cell: pairs of runs that share all but optimizer and seed, called by their ``change``; the
    intervals hold together with 95 % (Bonferroni).
    """
    paired = [pairs(part) for _, part in sorted(by(found, "lr", "change").items()) if is_paired(part)]
    level = 1 - 0.05 / max(len(paired), 1)
    known = [part.assign(gap=[describe(part["difference"], level)] * len(part)) for part in paired]
    titles = ["Условие", "Пар", "{first}, %", "{second}, %", "Разность, п. п. [интервал]"]
    titles += ["p (перестановки знаков)", "Весов, у которых максимум ограничивает шаг"]
    return table(known, titles, {"Условие": first("change_first")})


def answer(found: pd.DataFrame, condition: str, planned: int, tuned: bool, role: str) -> pd.DataFrame:
    """The pairs of ``found`` as an answer to "AMSGrad or Adam?"; for the rest see ``Study``. The ``gap`` is
    ``None`` before all ``planned`` pairs are there.
    """
    paired = pairs(found)
    gap = describe(paired["difference"]) if len(paired) >= planned else None
    told = f"{points(gap)}, пар: {len(paired)}" if gap else f"готово пар: {len(paired)} из {planned}"
    return paired.assign(gap=[gap] * len(paired), told=told, condition=condition, tuned=tuned, role=role)


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
    """The data set, the machines and every setting of runs that differ in the seed alone, a row each."""
    data, one = found["run"].iloc[0].data, found["run"].iloc[0].experiment
    machines = found["processor"].where(found["device"] == "cpu", found["device"])
    machines += ", потоков: " + found["threads"] + ", " + found["precision"] + ", PyTorch " + found["torch"]
    photos = f"{data['name']}: {sizes(data)} снимков, классов: {data['classes']}"
    rows = {"Набор данных": photos + ", кадр по рамке" * data["crop_to_box"]}
    rows |= {"Вычислитель": "; ".join(machines.unique())}
    rows |= {name: one.words(name) for name in vars(one) if name != "seed"}
    return pd.DataFrame({"Настройка": rows.keys(), "Значение": rows.values()})


def sizes(data: dict) -> str:
    """Numbers of training and test images of a record's data set, «5 871 / 1 305»."""
    return f"{thousands(data['train'])} / {thousands(data['test'])}"


def markdown(shown: pd.DataFrame) -> str:
    """``shown`` in Markdown, numbers on the right; one wider than six columns and than it is high, turned."""
    if len(shown.columns) > max(6, len(shown) + 1):
        name = shown.columns[0]
        shown = shown.set_index(name).T.reset_index(names=name)
    shown = shown.rename(columns=_in_a_cell).map(_in_a_cell)
    figures = r"[-+−—<∞\[\d]|$|расходится"
    sides = ["right" if cells.astype(str).str.match(figures).all() else "left" for _, cells in shown.items()]
    return shown.to_markdown(index=False, disable_numparse=True, colalign=sides)


def _in_a_cell(value: Any) -> Any:
    return " ".join(value.splitlines()).replace("|", "\\|") if isinstance(value, str) else value
