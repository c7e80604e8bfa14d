"""The recorded report's numbers come out of the text files of ``data/runs`` through other libraries: t tests,
intervals and McNemar's p through statsmodels, macro figures through scikit-learn; ``statistics.py`` of ours
is not used.
"""

import json
from dataclasses import asdict
from itertools import product

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from sklearn.metrics import precision_recall_fscore_support
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.weightstats import DescrStatsW

from labnn.kit.numbers import interval, number, probability, signed
from labnn.report.metrics import class_scores
from labnn.report.studies import STUDIES

RUNS, RECORDED = PROJECT / "data" / "runs", PROJECT / "figures" / "recorded"


def read(folder) -> dict:
    """A record's settings, last figures and answers, by json and pandas alone; accuracies in percent."""
    settings = json.loads((folder / "run.json").read_text(encoding="utf-8"))["experiment"]
    history = pd.read_csv(folder / "history.csv")
    tested = history.dropna(subset="test_accuracy")
    curve, last = 100 * tested["test_accuracy"], history.iloc[-1]
    area = np.trapezoid(curve, tested["epoch"]) / np.ptp(tested["epoch"]) if len(tested) > 1 else np.nan
    figures = {"Точность на тесте, п. п.": curve.iloc[-1], "Потери на тесте, нат": last["test_loss"]}
    figures |= {"Точность в среднем по эпохам, п. п.": area, "Потери на обучении, нат": last["train_loss"]}
    answers = pd.read_csv(folder / "predictions.csv")
    return settings | figures | {"answers": answers, "held": last.get("maximum_share")}


def records(folder: str) -> pd.DataFrame:
    """Records of a folder of ``data/runs``, a row each, by seed."""
    paths = sorted((RUNS / folder).glob("*/run.json"))
    return pd.DataFrame([read(path.parent) for path in paths]).sort_values("seed", ignore_index=True)


def shown(name: str) -> pd.DataFrame:
    return pd.read_csv(RECORDED / f"{name}.csv", dtype=str, keep_default_na=False)


def sign_flips(differences) -> float:
    """Fisher's p by hand: of all patterns of signs, those that move the sum as far from zero."""
    sums = np.array(list(product((1, -1), repeat=len(differences)))) @ np.asarray(differences)
    return float(np.mean(abs(sums) >= abs(np.sum(differences)) - 1e-9))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[pd.Series, pd.Series]]:
    found = records("comparison/final")
    first, second = (found[found["optimizer"] == name] for name in ("amsgrad", "adam"))
    assert first["seed"].tolist() == second["seed"].tolist()
    return [(a, b) for (_, a), (_, b) in zip(first.iterrows(), second.iterrows(), strict=True)]


def test_differences_intervals_and_p_values_are_those_of_statsmodels(pairs):
    for row in shown("comparison/statistics").to_dict("records"):
        digits = 2 if "п. п." in row["Величина"] else 3
        found = DescrStatsW([a[row["Величина"]] - b[row["Величина"]] for a, b in pairs])
        assert row["Разность"] == signed(found.mean, digits)
        assert row["Разброс разностей"] == number(found.std_ddof(1), digits)
        level = 0.05 if row["Величина"] == "Точность на тесте, п. п." else 0.05 / 3
        assert row["Интервал по Стьюденту"] == interval(*found.tconfint_mean(level), digits)
        assert row["p (Стьюдент)"] == probability(found.ttest_mean(0)[1])
        assert row["p (перестановки знаков)"] == probability(sign_flips(found.data))


def test_verdict_has_the_interval_and_the_p_values_of_statsmodels(pairs):
    text = (RECORDED / "comparison" / "verdict.md").read_text(encoding="utf-8")
    found = DescrStatsW([a["Точность на тесте, п. п."] - b["Точность на тесте, п. п."] for a, b in pairs])
    assert f"{signed(found.mean)} процентного пункта" in text and f"пар: {len(pairs)})" in text
    assert f"интервал {interval(*found.tconfint_mean(0.05), 1)}" in text
    student, flips = probability(found.ttest_mean(0)[1]), probability(sign_flips(found.data))
    assert f"p = {student} по Стьюденту, {flips} по перестановкам знаков" in text


def test_mcnemar_is_that_of_statsmodels(pairs):
    for row, networks in zip(shown("comparison/pairs").to_dict("records"), pairs, strict=True):
        right, other = (one["answers"]["label"] == one["answers"]["prediction"] for one in networks)
        table = pd.crosstab(right, other)
        assert int(row["Верно только у AMSGrad"]) == table.loc[True, False]
        assert int(row["Верно только у Adam"]) == table.loc[False, True]
        assert row["p (Макнемар)"] == probability(mcnemar(table, exact=True).pvalue)


def test_spread_of_the_recipe_over_seeds_is_that_of_statsmodels():
    found = DescrStatsW(records("recipe")["Точность на тесте, п. п."])
    low, high = (number(end, 1) for end in found.tconfint_mean(0.05))
    told = f"в среднем {number(found.mean, 1)} %; 95-процентный интервал среднего по Стьюденту — "
    assert f"{told}от {low} до {high} %" in (RECORDED / "REPORT.md").read_text(encoding="utf-8")
    headline = shown("headline").iloc[-1]
    assert headline["Точность, %"] == f"{number(found.mean, 2)} ± {number(found.std_ddof(1), 2)}"


@pytest.mark.parametrize("name", ["causes", "levers"])
def test_every_change_has_the_mean_and_the_interval_of_statsmodels(name):
    """The rows are compared as a set: which change is which only our words say."""
    found, base = records(name), pd.Series(asdict(STUDIES[name].base)).drop("seed")
    settings = [column for column in base.index if column in found]
    found[settings] = found[settings].fillna(base)  # a record older than a setting has its default
    is_base, accuracy = (found[settings] == base[settings]).all(axis=1), "Точность на тесте, п. п."
    expected = []
    for _, group in found.groupby(settings):
        values, reference = (part.set_index("seed")[accuracy] for part in (group, found[is_base]))
        change, told = DescrStatsW((values - reference).dropna()), ""
        if not is_base[group.index].all():
            spread = np.ptp(change.data) > 1e-9  # of differences all alike there is no interval
            bounds = f" {interval(*change.tconfint_mean(0.05), 1)}" if spread else ""
            told = signed(change.mean) + bounds
        expected.append((f"{number(values.mean(), 1)} ± {number(values.std(), 1)}", told))
    table = shown(name)[["Точность, %", "Разность точности [95 %]"]]
    assert sorted(expected) == sorted(table.itertuples(index=False, name=None))


@pytest.mark.parametrize("folder", ["recipe", "comparison/final"])
def test_macro_figures_of_recorded_answers_are_those_of_scikit_learn(folder):
    for answers in records(folder)["answers"]:
        table = class_scores(answers["label"], answers["prediction"])
        expected = precision_recall_fscore_support(*answers.T.values[:2], average="macro", zero_division=0)
        assert np.allclose(table[["precision", "recall", "f1"]].mean(), expected[:3])


@pytest.mark.skipif(not list((RUNS / "beta2").glob("*/run.json")), reason="нет записей опыта beta2")
def test_cells_of_beta2_have_the_corrected_intervals_of_statsmodels():
    found, expected = records("beta2"), []
    cells = found.groupby(["schedule", "beta2"])
    for _, cell in cells:
        first, second = (cell[cell["optimizer"] == name].set_index("seed") for name in ("amsgrad", "adam"))
        accuracies = [one["Точность на тесте, п. п."] for one in (first, second)]
        change = DescrStatsW((accuracies[0] - accuracies[1]).dropna())
        told = f"{signed(change.mean)} {interval(*change.tconfint_mean(0.05 / len(cells)), 1)}"
        means = [number(one.mean(), 1) for one in accuracies]
        share = f"{number(100 * first['held'].mean(), 1)} %"
        expected.append((*means, told, probability(sign_flips(change.data)), share))
    assert sorted(expected) == sorted(shown("beta2").iloc[:, 2:].itertuples(index=False, name=None))


def test_other_optimizers_have_the_corrected_intervals_of_statsmodels():
    found, expected, accuracy = records("optimizers/final"), [], "Точность на тесте, п. п."
    groups = {name: group.set_index("seed")[accuracy] for name, group in found.groupby("optimizer")}
    tried = records("optimizers/tuning").groupby("optimizer")[accuracy].agg(["min", "max"])
    for name, values in groups.items():
        held, told = tried.loc[name].map(lambda one: number(one, 1)) if name in tried.index else [], ""
        if name != "adam":
            change = DescrStatsW((values - groups["adam"]).dropna())
            told = f"{signed(change.mean)} {interval(*change.tconfint_mean(0.05 / (len(groups) - 1)), 1)}"
        mean = f"{number(values.mean(), 1)} ± {number(values.std(), 1)}"
        expected.append((mean, told, "…".join(held) or "—"))
    columns = ["Точность, %", "Разность точности [95 % вместе]", "На проверке при разных скоростях, %"]
    assert sorted(expected) == sorted(shown("optimizers")[columns].itertuples(index=False, name=None))


@pytest.mark.parametrize("name, folder", [("recipe_pairs", ""), ("short_memory", "final")])
def test_pairs_have_the_accuracies_and_p_values_of_statsmodels(name, folder):
    found, expected, differences = records(f"{name}/{folder}"), [], []
    for seed, pair in found.groupby("seed"):
        pair = pair.set_index("optimizer")
        if len(pair) < 2:
            continue  # its other half is still to come
        answers = [pair.loc[name, "answers"] for name in ("amsgrad", "adam")]
        right = [one["prediction"] == one["label"] for one in answers]
        accuracies = [100 * one.mean() for one in right]
        counts = [[(a & b).sum() for b in (right[1], ~right[1])] for a in (right[0], ~right[0])]
        told = [number(one, 1) for one in accuracies] + [signed(accuracies[0] - accuracies[1])]
        told += [str(counts[0][1]), str(counts[1][0]), probability(mcnemar(counts, exact=True).pvalue)]
        expected.append((str(seed), *told))
        differences.append(accuracies[0] - accuracies[1])
    assert expected == list(shown(name).itertuples(index=False, name=None))
    change = DescrStatsW(differences)
    student = probability(change.ttest_mean(0)[1], "p")
    verdict = f"{interval(*change.tconfint_mean(0.05), 1)}, {student} по Стьюденту, "
    verdict += f"{probability(sign_flips(differences))} по перестановкам знаков"
    assert verdict in (RECORDED / "REPORT.md").read_text(encoding="utf-8")


def test_pairs_tested_at_their_ends_alone_have_no_mean_over_the_epochs():
    assert "Точность в среднем по эпохам, %" not in shown("recipe_pairs_summary")
