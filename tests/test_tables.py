"""Tables and sentences say what the runs say."""

import numpy as np
import pandas as pd
import pytest
from made_runs import finished, found, runs

from labnn.kit.numbers import number
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


def test_collapse_is_described_by_its_answers():
    row = tables.collapse(records.table([finished(0.5, predictions=(0, 0, 0, 1))])).iloc[0]
    assert (row["Самый частый ответ"], row["Разных ответов"]) == ("75,0 % снимков", 2)
    assert row["Точность на тесте, %"] == "50,00"


def test_ladder_climbs_and_no_seed_is_chosen():
    known = [plain(share, batch_norm=True, seed=seed) for seed, share in enumerate((0.5, 0.7, 0.9))]
    found = named(plain(0.95, batch_norm=True, epochs=3), *known, plain(0.1))
    ladder = tables.ladder(tables.recipes(found)[::-1])
    assert ladder["Точность, %"].tolist() == ["0,85", "10,00", "70,00 ± 20,00", "95,00"]
    assert ladder["Что"].tolist()[1:3] == ["исходный", "пакетная нормализация"]
    assert ladder["Снимков на тесте"].tolist() == ["8\u00a0041", "40", "40", "40"]


def test_conditions_are_those_of_all_runs():
    told = words.conditions(records.table([*runs(adam=[0.5] * 3), finished(0.5, epochs=4)]))
    assert "эпох: 2 и 4," in told and "зёрен: 3" in told


def test_settings_name_every_machine():
    known = runs(adam=[0.5, 0.5])
    known[1].environment["precision"] = "bfloat16"
    value = tables.settings(records.table(known)).set_index("Настройка")["Значение"]
    assert value["Вычислитель"].count("CPU, потоков: 1") == 2 and "bfloat16" in value["Вычислитель"]


def test_a_wide_table_of_few_rows_is_turned_and_numbers_stand_right():
    known = found(amsgrad=[0.5] * 7, adam=[0.5] * 7)
    for table, columns in ((tables.summary(known), 3), (tables.pair_rows(known), 7)):
        _, rule, *rows = (line.strip("|").split("|") for line in tables.markdown(table).splitlines())
        assert len(rule) == columns and table.shape[1] > 6 and all(cell.endswith("-:") for cell in rule[1:])
        assert len(rows) == (table.shape[1] - 1 if columns == 3 else 7)


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
