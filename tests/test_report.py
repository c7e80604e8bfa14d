"""The recorded comparison, computed again from the text files of ``data/runs`` by other means: every number
of its tables agrees.
"""

import csv
import json
import math
import statistics
from itertools import combinations, product

import pytest
from conftest import PROJECT
from scipy.special import stdtr, stdtrit

from labnn.report import words
from labnn.report.studies import STUDIES

COMPARISON = PROJECT / "data" / "runs" / "comparison"
TITLES = {"amsgrad": "AMSGrad", "adam": "Adam"}


def read(folder) -> dict:
    """A record by json and csv alone; its accuracy counted from the predictions."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    with open(folder / "history.csv", encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    with open(folder / "predictions.csv", encoding="utf-8") as file:
        right = [row["label"] == row["prediction"] for row in csv.DictReader(file)]
    curve = [float(row["test_accuracy"]) for row in history]
    return {
        "optimizer": record["experiment"]["optimizer"],
        "lr": record["experiment"]["lr"],
        "seed": record["experiment"]["seed"],
        "others": {
            key: value
            for key, value in record["experiment"].items()
            if key not in ("optimizer", "lr", "seed")
        },
        "right": right,
        "accuracy": 100 * sum(right) / len(right),
        "loss": float(history[-1]["test_loss"]),
        "train_loss": float(history[-1]["train_loss"]),
        "area": 100 * sum((a + b) / 2 for a, b in zip(curve, curve[1:], strict=False)) / (len(curve) - 1),
        "curve": curve,
        "seconds": [float(row["seconds"]) for row in history],
    }


@pytest.fixture(scope="module")
def records() -> dict[str, list[dict]]:
    """The records of both parts, by seed."""
    return {
        part: sorted(
            (read(path.parent) for path in (COMPARISON / part).glob("*/run.json")),
            key=lambda r: (r["seed"], r["lr"]),
        )
        for part in ("tuning", "final")
    }


@pytest.fixture(scope="module")
def tables():
    study = STUDIES["comparison"]
    frames = study.tables(study.load(PROJECT / "data" / "runs"))
    return {name: words.table(frame) for name, frame in frames.items()}


def of(records: list[dict], optimizer: str, figure: str) -> list[float]:
    return [record[figure] for record in records if record["optimizer"] == optimizer]


def in_russian(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}".replace(".", ",").replace("-", "−")


def test_comparison_followed_its_protocol(records):
    tuning, final = records["tuning"], records["final"]
    grids = [sorted(of(tuning, optimizer, "lr")) for optimizer in TITLES]
    assert grids[0] == grids[1] and len(grids[0]) >= 5
    assert max(abs(math.log10(b / a) - 0.5) for a, b in zip(grids[0], grids[0][1:], strict=False)) < 0.01
    seeds = [of(final, optimizer, "seed") for optimizer in TITLES]
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == len(seeds[0]) >= 5
    conditions = [record["others"] for record in tuning + final]
    assert all(condition == conditions[0] for condition in conditions) and conditions[0]["epochs"] >= 40
    for optimizer in TITLES:
        best = max(
            (r for r in tuning if r["optimizer"] == optimizer), key=lambda r: (r["accuracy"], -r["loss"])
        )
        assert set(of(final, optimizer, "lr")) == {best["lr"]}


def test_rates_table_is_the_tuning_records(records, tables):
    table = tables["rates"].set_index("Скорость обучения")
    for record in records["tuning"]:
        cell = table.loc[f"{record['lr']:g}".replace(".", ","), f"{TITLES[record['optimizer']]}, %"]
        assert cell.removesuffix(" ★") == in_russian(record["accuracy"], 1)


def test_summary_table_is_mean_and_deviation_of_the_records(records, tables):
    table = tables["summary"].set_index("Оптимизатор")
    columns = {
        "Точность на тесте, %": ("accuracy", 1),
        "Потери на тесте": ("loss", 3),
        "Точность в среднем по эпохам, %": ("area", 1),
    }
    for optimizer, title in TITLES.items():
        for column, (figure, digits) in columns.items():
            values = of(records["final"], optimizer, figure)
            assert (
                table.loc[title, column] == f"{in_russian(statistics.mean(values), digits)} "
                f"± {in_russian(statistics.stdev(values), digits)}"
            )


def test_statistics_table_is_students_and_the_exact_tests(records, tables):
    table = tables["statistics"].set_index("Величина")
    figures = {
        "Точность на тесте, п. п.": ("accuracy", 2),
        "Потери на тесте, нат": ("loss", 3),
        "Точность в среднем по эпохам, п. п.": ("area", 2),
        "Потери на обучении, нат": ("train_loss", 3),
    }
    for title, (figure, digits) in figures.items():
        d = [
            a - b
            for a, b in zip(
                of(records["final"], "amsgrad", figure), of(records["final"], "adam", figure), strict=True
            )
        ]
        n, mean, deviation = len(d), statistics.mean(d), statistics.stdev(d)
        error = deviation / math.sqrt(n)
        tail = 0.025 if figure == "accuracy" else 0.025 / 3
        reach = stdtrit(n - 1, 1 - tail) * error
        row = table.loc[title]
        assert (row["Разность"], row["Разброс разностей"]) == (
            in_russian(mean, digits, "+"),
            in_russian(deviation, digits),
        )
        assert (
            row["Интервал по Стьюденту"]
            == f"[{in_russian(mean - reach, digits, '+')}; {in_russian(mean + reach, digits, '+')}]"
        )
        assert row["p (Стьюдент)"] in (in_russian(2 * stdtr(n - 1, -abs(mean) / error), 3), "< 0,001")
        means = sorted(
            statistics.mean(subset) for size in range(1, n + 1) for subset in combinations(d, size)
        )
        outside = int(tail * 2**n)
        exact = (
            f"[{in_russian(means[outside - 1], digits, '+')}; {in_russian(means[-outside], digits, '+')}]"
            if outside
            else "—"
        )
        assert row["Интервал точный"] == exact
        as_far = sum(
            abs(sum(s * x for s, x in zip(signs, d, strict=True))) >= abs(sum(d)) - 1e-9
            for signs in product((1, -1), repeat=n)
        )
        assert row["p (перестановки знаков)"] in (in_russian(as_far / 2**n, 3), "< 0,001")


def test_pairs_table_counts_photos_that_one_network_knows(records, tables):
    pairs = zip(
        *([r for r in records["final"] if r["optimizer"] == optimizer] for optimizer in TITLES), strict=True
    )
    for row, (a, b) in zip(tables["pairs"].itertuples(index=False), pairs, strict=True):
        only = [
            sum(x and not y for x, y in zip(p["right"], q["right"], strict=True)) for p, q in ((a, b), (b, a))
        ]
        p_value = min(2 * sum(math.comb(sum(only), k) for k in range(min(only) + 1)) / 2 ** sum(only), 1)
        expected = [
            a["seed"],
            in_russian(a["accuracy"], 1),
            in_russian(b["accuracy"], 1),
            in_russian(a["accuracy"] - b["accuracy"], 1, "+"),
            *only,
        ]
        assert list(row)[:6] == expected
        assert row[6] in (in_russian(p_value, 3), "< 0,001")


def test_milestones_table_is_the_first_epoch_that_reaches_each(records, tables):
    for row in tables["milestones"].to_dict("records"):
        for optimizer, title in TITLES.items():
            epochs, seconds = [], []
            for record in (r for r in records["final"] if r["optimizer"] == optimizer):
                at = [
                    index
                    for index, accuracy in enumerate(record["curve"])
                    if 100 * accuracy >= row["Точность на тесте, %"]
                ]
                epochs += [at[0] + 1] if at else []
                seconds += [sum(record["seconds"][: at[0] + 1])] if at else []
            everyone = sum(record["optimizer"] == optimizer for record in records["final"])
            if len(epochs) == everyone:
                assert row[f"{title}, эпох"] == in_russian(statistics.mean(epochs), 1)
                assert row[f"{title}, с"] == in_russian(statistics.mean(seconds), 1)
            else:  # the mean of the quickest alone would flatter
                some = f"— ({len(epochs)} из {everyone})" if epochs else "—"
                assert (row[f"{title}, эпох"], row[f"{title}, с"]) == (some, "—")


def test_verdict_is_what_the_interval_says(records):
    d = [
        a - b
        for a, b in zip(
            of(records["final"], "amsgrad", "accuracy"), of(records["final"], "adam", "accuracy"), strict=True
        )
    ]
    reach = stdtrit(len(d) - 1, 0.975) * statistics.stdev(d) / math.sqrt(len(d))
    mean = statistics.mean(d)
    answer = "разница не доказана" if abs(mean) <= reach else "лучше AMSGrad" if mean > 0 else "лучше Adam"
    _, final = STUDIES["comparison"].load(PROJECT / "data" / "runs")
    text = words.verdict(final)
    assert text.startswith(f"AMSGrad и Adam: {answer}. Разность AMSGrad − Adam: {in_russian(mean, 1, '+')} ")
    assert f"[{in_russian(mean - reach, 1, '+')}; {in_russian(mean + reach, 1, '+')}]" in text
