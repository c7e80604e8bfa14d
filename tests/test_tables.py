"""Tables and sentences say what the runs say."""

import numpy as np
import pandas as pd
import pytest
from made_runs import finished, found, runs
from scipy import stats

from labnn.kit.numbers import number, percent
from labnn.report import records, tables, words
from labnn.settings import OPTIMIZERS, Experiment

BASE = Experiment("adam", epochs=2, batch_norm=False)


def named(*changed) -> pd.DataFrame:
    """A table of runs, each called by what it has otherwise than ``BASE``."""
    table = records.table(changed)
    return table.assign(change=[run.experiment.changes(BASE) or "исходный" for run in table["run"]])


def plain(accuracy: float, **settings):
    """A run of ``BASE`` with other ``settings``."""
    return finished(accuracy, **{"batch_norm": False} | settings)


def test_summary_reports_the_last_epoch_mean_and_deviation():
    table = tables.summary(found(amsgrad=[0.5, 0.6], adam=[0.4, 0.4])).set_index("Оптимизатор")
    assert table["Точность на тесте, %"].to_dict() == {"AMSGrad": "55,0 ± 7,1", "Adam": "40,0 ± 0,0"}


def test_runs_tested_at_their_ends_alone_have_no_mean_over_the_epochs():
    ends = finished(0.5, epochs=4)
    ends.history.loc[1:2, "test_accuracy"] = np.nan
    assert "Точность в среднем по эпохам, %" not in tables.summary(records.table([ends]))
    along = tables.summary(records.table([finished(0.5, epochs=4)]))  # 0.999 thrice, then 0.5
    assert along["Точность в среднем по эпохам, %"].tolist() == [number(100 * (2 * 0.999 + 0.7495) / 3, 1)]


def test_a_users_optimizer_stands_after_the_shipped_ones_under_its_name(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "lion", lambda weights, lr, weight_decay: None)
    assert tables.summary(found(lion=[0.5], sgd=[0.5], amsgrad=[0.5]))["Оптимизатор"].tolist() == [
        "AMSGrad",
        "SGD с импульсом",
        "lion",
    ]


def test_epochs_are_the_table_of_the_original_work():
    table = tables.epochs(found(adam=[0.4, 0.6]))
    assert list(table) == ["Эпоха", "Время обучения, с", "Потери", "Точность, %", "Тестовая точность, %"]
    assert table.iloc[-1].tolist() == [2, "30,00", "1,5000", "50,00", "50,00"]


def test_changes_are_paired_by_seed_and_have_the_t_interval():
    base, better = [0.10, 0.20, 0.12], [0.30, 0.38, 0.35]
    known = [plain(value, seed=seed) for seed, value in enumerate(base)]
    known += [plain(value, seed=seed, batch_norm=True) for seed, value in reversed(list(enumerate(better)))]
    table = tables.changes(named(*known), BASE)
    assert table["Что изменено"].tolist() == ["пакетная нормализация", "исходный"]  # the most accurate first
    ends = stats.ttest_rel(better, base).confidence_interval()
    shown = [f"{100 * end:+.1f}".replace(".", ",") for end in (np.mean(better) - np.mean(base), *ends)]
    assert table["Разность точности [95 %]"].tolist() == [f"{shown[0]} [{shown[1]}; {shown[2]}]", ""]
    assert table["Точность, %"].tolist() == ["34,3 ± 4,0", "14,0 ± 5,3"]


def test_a_change_learns_when_every_seed_beats_the_most_frequent_class():
    """Half of the 40 labels are class 0: 36 right answers are more than that explains, 24 are not."""
    known = named(
        plain(0.5),
        plain(0.5, init="default"),
        plain(0.9, batch_norm=True),
        plain(0.9, lr=3e-2),
        plain(0.6, lr=3e-2, seed=1),
    )
    table = tables.changes(known, BASE).set_index("Что изменено")
    assert table["Учится"][["пакетная нормализация", "исходный"]].tolist() == ["да", "нет"]
    told = words.single_causes(known, BASE)
    assert told.startswith("Из правок по одной сеть обучили: пакетная нормализация. Не обучили: ")
    assert "скорость обучения 0,03" in told and "начальные веса PyTorch" in told


def test_settings_of_one_cause_count_as_one_and_two_causes_as_none():
    one = plain(0.5, lr=1e-3, schedule="constant"), plain(0.9, mirror=False, colour=0.0)
    told = words.single_causes(named(*one, plain(0.9, init="default", batch_norm=True)), BASE)
    assert told.count("скорость обучения 0,001") == told.count("без отражения") == 1
    assert "начальные веса" not in told


def test_other_optimizers_stand_beside_the_reference_with_intervals_that_hold_together():
    accuracies = {"adam": [0.30, 0.33, 0.31], "sgd": [0.20, 0.24, 0.20], "adamw": [0.31, 0.33, 0.33]}
    tuning = [finished(0.10, optimizer="sgd", lr=1e-2), finished(0.22, optimizer="sgd", lr=1e-1)]
    table = tables.others(records.table(tuning), found(**accuracies), "adam").set_index("Оптимизатор")
    assert table.index.tolist() == ["AdamW", "Adam", "SGD с импульсом"]  # the most accurate first
    low, high = stats.ttest_rel(accuracies["sgd"], accuracies["adam"]).confidence_interval(1 - 0.05 / 2)
    shown = f"−10,0 [{100 * low:.1f}; {100 * high:.1f}]".replace(".", ",").replace("-", "−")
    assert table["Разность точности [95 % вместе]"][["SGD с импульсом", "Adam"]].tolist() == [shown, ""]
    assert table["На проверке при разных скоростях, %"].tolist() == ["—", "—", "10,0…22,0"]


def test_cells_are_compared_apart_with_intervals_that_hold_together():
    known = [*runs(amsgrad=[0.5, 0.52, 0.51], adam=[0.5, 0.51, 0.52])]
    known += [
        finished(value, optimizer=name, seed=seed, beta2=0.9)
        for name, values in {"amsgrad": [0.6, 0.63, 0.61], "adam": [0.4, 0.41, 0.43]}.items()
        for seed, value in enumerate(values)
    ]
    table = records.table([*known, finished(0.5, seed=7)])  # one without a partner
    cells = tables.cells(table.assign(change=[f"β₂ = {one:g}" for one in table["beta2"]]))
    assert cells["Условие"].tolist() == ["β₂ = 0.9", "β₂ = 0.999"] and cells["Пар"].tolist() == [3, 3]
    low, high = stats.ttest_1samp([20.0, 22.0, 18.0], 0).confidence_interval(1 - 0.05 / 2)
    assert cells["Разность, п. п. [интервал]"][0] == f"+20,0 [+{low:.1f}; +{high:.1f}]".replace(".", ",")


def test_collapse_is_described_by_its_answers():
    row = tables.collapse(records.table([finished(0.5, predictions=(0, 0, 0, 1))])).iloc[0]
    assert (row["Самый частый ответ"], row["Разных ответов"]) == ("75,0 % снимков", 2)
    assert row["Точность на тесте, %"] == "50,00"


def test_ladder_climbs_and_no_seed_is_chosen():
    known = [plain(share, batch_norm=True, seed=seed) for seed, share in enumerate((0.5, 0.7, 0.9))]
    table = named(plain(0.95, batch_norm=True, epochs=3), *known, plain(0.1))
    ladder, headline = tables.ladder(table), tables.headline(table)
    assert ladder["Точность на тесте, %"].tolist() == ["10,00", "70,00 ± 20,00", "95,00"]
    assert ladder["Что изменено"].tolist()[:2] == ["исходный", "пакетная нормализация"]
    assert headline["Точность, %"].tolist() == ["0,85", "10,00", "70,00 ± 20,00", "95,00"]
    assert headline["Снимков на тесте"].tolist() == ["8\u00a0041", "40", "40", "40"]


def test_spread_over_seeds_is_told_with_the_interval_of_the_mean():
    shares = [0.5, 0.7, 0.9]
    told = words.spread(found(adam=shares))
    low, high = stats.t.interval(0.95, 2, np.mean(shares), stats.sem(shares))
    assert "при 3 зёрнах 50,0…90,0 %, в среднем 70,0 %;" in told
    assert f"от {number(100 * low, 1)} до {percent(high, 1)}" in told
    assert words.spread(found(adam=[0.5])).endswith("зерно одно, разброс не измерен.")


def test_conditions_are_those_of_all_runs():
    told = words.conditions(records.table([*runs(adam=[0.5] * 3), finished(0.5, epochs=4)]))
    assert "эпох: 2 (у 1 из 4 прогонов 4)" in told and "зёрен: 3" in told


def test_settings_name_every_machine():
    known = runs(amsgrad=[0.5], adam=[0.5])
    known[1].environment["precision"] = "bfloat16"
    value = tables.settings(records.table(known)).set_index("Настройка")["Значение"]
    assert value["Вычислитель"].count("CPU, потоков: 1") == 2 and "bfloat16" in value["Вычислитель"]
    assert value["Оптимизатор"] == "AMSGrad, Adam" and value["Скорость обучения"].startswith(
        "наибольшая 0,003;"
    )


def test_a_table_of_more_than_six_columns_is_turned_and_numbers_stand_right():
    known = found(amsgrad=[0.5] * 7, adam=[0.5] * 7)
    for table, parts in ((tables.summary(known), 1), (tables.pair_rows(known), 2)):
        written = tables.markdown(table).split("\n\n")
        assert len(written) == parts and table.shape[1] > 6
        for part in written:
            head, rule, *rows = (line.strip("|").split("|") for line in part.splitlines())
            assert len(head) <= 6 and all(cell.endswith("-:") for cell in rule[1:]) and rule[0].endswith("--")
            assert [row[0].strip() for row in rows] == table.columns[1:].tolist()


def test_markdown_of_names_with_bars_and_line_ends_stays_one_table():
    written = tables.markdown(pd.DataFrame({"Класс": ["a|b\nc"], "Число": ["1,5"]}))
    assert written.splitlines()[-1] == "| a\\|b c  |     1,5 |"


@pytest.mark.parametrize(("end", "told"), [(0.97, True), (0.0, False)])
def test_counter_example_says_where_both_end_and_no_more(end, told):
    path = pd.DataFrame({"x_amsgrad": np.full(10, -0.98), "x_adam": np.linspace(-1, 1, 10)})
    path.loc[8:, "x_adam"] = end
    text = words.counter_example({"по порядку": path})
    assert "AMSGrad — −0,98, Adam — " in text
    assert ("AMSGrad приходит к лучшей точке, Adam — к худшей." in text) == told
