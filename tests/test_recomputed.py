"""The recorded report's numbers come out of the text files of ``data/runs`` through other libraries: t tests,
intervals and McNemar's p through statsmodels, means by pandas alone. Of ``labnn/report``
only the base of a study is asked.
"""

import json
import tomllib
from dataclasses import asdict
from itertools import product

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.weightstats import DescrStatsW

from labnn.kit.numbers import interval, number, probability, rate, signed
from labnn.report.studies import studies
from labnn.settings import Experiment

RUNS, RECORDED = PROJECT / "data" / "runs", PROJECT / "figures" / "recorded"
REPORT = (RECORDED / "REPORT.md").read_text(encoding="utf-8")
TITLES = {"amsgrad": "AMSGrad", "adam": "Adam"}
PAIRED = {"comparison": "final", "recipe_pairs": "", "short_memory": "final"}


def read(folder) -> dict:
    """A record's settings, last figures and answers; accuracies in percent. What an older record does not
    name has its default.
    """
    settings = json.loads((folder / "run.json").read_text(encoding="utf-8"))["experiment"]
    history, answers = pd.read_csv(folder / "history.csv"), pd.read_csv(folder / "predictions.csv")
    tested = history.dropna(subset="test_accuracy")
    area = np.trapezoid(tested["test_accuracy"], tested["epoch"]) / max(np.ptp(tested["epoch"]), 1)
    figures = {"accuracy": 100 * (answers["label"] == answers["prediction"]).mean(), "area": 100 * area}
    last = history.iloc[-1]
    figures |= {"loss": last["test_loss"], "train_loss": last["train_loss"]}
    if "maximum_share" in history:
        factor = DescrStatsW(history["step_50"], weights=history["lr"]).mean
        figures |= {"held": last["maximum_share"], "factor": factor}
    return asdict(Experiment()) | settings | figures | {"answers": answers}


def records(folder: str) -> pd.DataFrame:
    """Records of a folder of ``data/runs``, a row each, by seed."""
    paths = sorted((RUNS / folder).glob("*/run.json"))
    return pd.DataFrame([read(path.parent) for path in paths]).sort_values("seed", ignore_index=True)


def pairs(folder: str) -> list[tuple[pd.Series, pd.Series]]:
    """AMSGrad and Adam of each seed that both have."""
    groups = records(folder).set_index("optimizer").groupby("seed")
    return [(pair.loc["amsgrad"], pair.loc["adam"]) for _, pair in groups if len(pair) == 2]


def gaps(folder: str) -> DescrStatsW:
    return DescrStatsW([first["accuracy"] - second["accuracy"] for first, second in pairs(folder)])


def shown(name: str) -> pd.DataFrame:
    return pd.read_csv(RECORDED / f"{name}.csv", dtype=str, keep_default_na=False)


def sign_flips(differences) -> float:
    """Fisher's p by hand: of all patterns of signs, those that move the sum as far from zero."""
    sums = np.array(list(product((1, -1), repeat=len(differences)))) @ np.asarray(differences)
    return float(np.mean(abs(sums) >= abs(np.sum(differences)) - 1e-9))


def mean_and_deviation(values: pd.Series, digits: int = 1) -> str:
    return f"{number(values.mean(), digits)} ± {number(values.std(), digits)}"


def test_comparison_followed_its_protocol():
    tuning, final = records("comparison/tuning"), records("comparison/final")
    grids = [sorted(part["lr"]) for _, part in tuning.groupby("optimizer")]
    assert grids[0] == grids[1] and np.allclose(np.diff(np.log10(grids[0])), 0.5, atol=0.01)
    assert len(pairs("comparison/final")) == 10
    for optimizer, tried in tuning.groupby("optimizer"):
        best = tried.sort_values(["accuracy", "loss"], ascending=[False, True])["lr"].iloc[0]
        assert set(final["lr"][final["optimizer"] == optimizer]) == {best}
    varied = ["optimizer", "lr", "seed", "accuracy", "area", "loss", "train_loss"]
    varied += ["held", "factor", "answers"]
    assert pd.concat([tuning, final]).drop(columns=varied).astype(str).nunique().max() == 1


@pytest.mark.parametrize("name", ["comparison", "short_memory"])
def test_rates_are_the_accuracies_on_validation(name):
    table = shown(f"{name}/rates").set_index("Скорость обучения")
    for _, run in records(f"{name}/tuning").iterrows():
        cell = table.loc[rate(run["lr"]), f"{TITLES[run['optimizer']]}, %"]
        assert cell.removesuffix(" ★") == number(run["accuracy"], 1)


@pytest.mark.parametrize("name", ["comparison", "short_memory"])
def test_reason_has_the_tops_of_a_regression(name):
    tops, factor = {}, records(f"{name}/final")["factor"].mean()
    for optimizer, part in records(f"{name}/tuning").groupby("optimizer"):
        place = np.log10(part["lr"])
        _, slope, bend = OLS(part["accuracy"], np.column_stack([place**0, place, place**2])).fit().params
        tops[optimizer] = 10 ** (-slope / bend / 2)
    told = f"была бы у {rate(tops['adam'], 2)} / {number(factor, 2)} = {rate(tops['adam'] / factor, 2)}"
    assert f"{told}; найдена у {rate(tops['amsgrad'], 2)}" in REPORT


@pytest.mark.parametrize("name", PAIRED)
def test_summary_is_mean_and_deviation(name):
    table, found = shown(f"{name}/summary").set_index("Оптимизатор"), records(f"{name}/{PAIRED[name]}")
    columns = {"Точность на тесте, %": ("accuracy", 1), "Потери на тесте": ("loss", 3)}
    columns |= {"Потери на обучении": ("train_loss", 3)}
    columns |= {"Точность в среднем по эпохам, %": ("area", 1)} if name == "comparison" else {}
    for optimizer, part in found.groupby("optimizer"):
        for title, (figure, digits) in columns.items():
            assert table.loc[TITLES[optimizer], title] == mean_and_deviation(part[figure], digits)


@pytest.mark.parametrize("name", PAIRED)
def test_pairs_have_the_accuracies_and_p_values_of_statsmodels(name):
    expected = []
    for first, second in pairs(f"{name}/{PAIRED[name]}"):
        right = [one["answers"]["prediction"] == one["answers"]["label"] for one in (first, second)]
        counts = pd.crosstab(*right)
        told = [number(first["accuracy"], 1), number(second["accuracy"], 1)]
        told += [signed(first["accuracy"] - second["accuracy"])]
        told += [str(counts.loc[True, False]), str(counts.loc[False, True])]
        expected.append((str(first["seed"]), *told, probability(mcnemar(counts, exact=True).pvalue)))
    assert expected == list(shown(f"{name}/pairs").itertuples(index=False, name=None))


@pytest.mark.parametrize("name", PAIRED)
def test_verdict_has_the_interval_and_the_p_values_of_statsmodels(name):
    found = gaps(f"{name}/{PAIRED[name]}")
    mean = f"{signed(found.mean)} п. п. точности на тесте в последней эпохе, среднее по парам с общим зерном"
    bounds = f"95-процентный доверительный интервал {interval(*found.tconfint_mean(0.05), 1)}"
    student, flips = probability(found.ttest_mean(0)[1], "p"), probability(sign_flips(found.data))
    tests = f"{student} по Стьюденту, {flips} по перестановкам знаков"
    assert f"{mean} (пар: {len(found.data)}); {bounds}, {tests}" in REPORT


def test_the_one_table_has_the_means_and_intervals_of_statsmodels():
    rows = {}
    for name, part in PAIRED.items():
        found, paired = gaps(f"{name}/{part}"), pairs(f"{name}/{part}")
        condition = tomllib.loads((RUNS / name / "study.toml").read_text(encoding="utf-8"))["condition"]
        means = [number(np.mean([pair[place]["accuracy"] for pair in paired]), 1) for place in (0, 1)]
        gap = f"{signed(found.mean)} {interval(*found.tconfint_mean(0.05), 1)}, пар: {len(paired)}"
        rows[condition] = (*means, gap)
    table = shown("answers/table").set_index("Условие")
    assert {name: tuple(row.iloc[:3]) for name, row in table.iterrows()} == rows


def test_spread_of_the_recipe_over_seeds_is_that_of_statsmodels():
    found = DescrStatsW(records("recipe")["accuracy"])
    low, high = (number(end, 1) for end in found.tconfint_mean(0.05))
    told = f"в среднем {number(found.mean, 1)} %; 95-процентный интервал среднего по Стьюденту — "
    assert f"{told}от {low} до {high} %" in REPORT
    headline = shown("ladder/headline").iloc[-1]
    assert headline["Точность, %"] == f"{number(found.mean, 2)} ± {number(found.std_ddof(1), 2)}"


@pytest.mark.parametrize("name", ["causes", "levers"])
def test_every_change_has_the_mean_and_the_interval_of_statsmodels(name):
    """The rows are compared as a set: which change is which only our words say."""
    found, base, expected = records(name), asdict(studies()[name].base), []
    settings = [setting for setting in base if setting != "seed"]
    is_base = (found[settings] == pd.Series(base)[settings]).all(axis=1)
    reference = found[is_base].set_index("seed")["accuracy"]
    for _, group in found.groupby(settings):
        values = group.set_index("seed")["accuracy"]
        change, told = DescrStatsW((values - reference).dropna()), ""
        if not is_base[group.index].all():
            spread = np.ptp(change.data) > 1e-9  # of differences all alike there is no interval
            bounds = f" {interval(*change.tconfint_mean(0.05), 1)}" if spread else ""
            told = signed(change.mean) + bounds
        expected.append((mean_and_deviation(values), told))
    table = shown(f"{name}/table")[["Точность, %", "Разность точности [95 %]"]]
    assert sorted(expected) == sorted(table.itertuples(index=False, name=None))


def test_cells_of_beta2_have_the_corrected_intervals_of_statsmodels():
    expected = []
    for _, cell in records("beta2").groupby(["schedule", "beta2"]):
        first, second = (cell[cell["optimizer"] == name].set_index("seed") for name in TITLES)
        change = DescrStatsW((first["accuracy"] - second["accuracy"]).dropna())
        told = f"{signed(change.mean)} {interval(*change.tconfint_mean(0.05 / 4), 1)}"
        means = [number(one["accuracy"].mean(), 1) for one in (first, second)]
        share = f"{number(100 * first['held'].mean(), 1)} %"
        expected.append((*means, told, probability(sign_flips(change.data)), share))
    assert sorted(expected) == sorted(shown("beta2/table").iloc[:, 2:].itertuples(index=False, name=None))


def test_other_optimizers_have_the_corrected_intervals_of_statsmodels():
    found, expected = records("optimizers/final"), []
    groups = {name: group.set_index("seed")["accuracy"] for name, group in found.groupby("optimizer")}
    tried = records("optimizers/tuning").groupby("optimizer")["accuracy"].agg(["min", "max"])
    for name, values in groups.items():
        held, told = tried.loc[name].map(lambda one: number(one, 1)) if name in tried.index else [], ""
        if name != "adam":
            change = DescrStatsW((values - groups["adam"]).dropna())
            told = f"{signed(change.mean)} {interval(*change.tconfint_mean(0.05 / (len(groups) - 1)), 1)}"
        expected.append((mean_and_deviation(values), told, "…".join(held) or "—"))
    columns = ["Точность, %", "Разность точности [95 % вместе]", "На проверке при разных скоростях, %"]
    assert sorted(expected) == sorted(shown("optimizers/table")[columns].itertuples(index=False, name=None))


def test_only_the_main_question_is_concluded_and_missed_demands_are_told():
    assert "точнее" not in REPORT and REPORT.count("Сравнение разведочное") == len(PAIRED)
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in (RUNS / "recipe").glob("*/run.json")]
    minutes = [run["final"]["training_seconds"] / 60 * run["environment"]["threads"] for run in runs]
    mean = number(100 * np.mean([run["final"]["test_accuracy"] for run in runs]), 2)
    assert f"83 %: не выполнено ({mean} %)" in REPORT
    assert f"не выполнено (от {min(minutes):.0f} до {max(minutes):.0f})" in REPORT
