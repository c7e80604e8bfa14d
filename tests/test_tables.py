"""Tables and sentences say what the runs say."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from labnn.experiment import Experiment, Run
from labnn.report.tables import (
    ablation_table,
    amsgrad_table,
    changes,
    collapse_table,
    confused_pairs,
    ladder_table,
    power,
    single_causes,
    variants_table,
)
from labnn.train import HISTORY_COLUMNS

BASE = Experiment(batch_norm=False, init="default", schedule="constant", lr=1e-4)
CLASSES = ["Audi", "BMW", "Ram C/V"]


def finished(accuracy: float, predictions=(0, 0, 0, 0), **settings) -> Run:
    """A one-epoch run with the given last test accuracy, on four pictures of the classes 0, 0, 1, 2."""
    experiment = Experiment(
        **{"batch_norm": False, "init": "default", "schedule": "constant", "lr": 1e-4} | settings
    )
    history = pd.DataFrame([[1, 1e-4, 60.0, 1.5, 0.1, 2.0, accuracy, 0.1, False]], columns=HISTORY_COLUMNS)
    answers = pd.DataFrame({"label": [0, 0, 1, 2], "prediction": predictions})
    return Run(experiment, {"fingerprint": "0", "classes": 3}, history, answers, {})


def test_changes_name_every_setting_that_differs_and_no_other():
    assert changes(BASE, BASE) == ""
    assert changes(Experiment(batch_norm=True, init="he", schedule="constant", lr=3e-3, seed=5), BASE) == (
        "скорость обучения 0,003, пакетная нормализация, начальные веса He"
    )
    bare = Experiment(mix=0.0, colour=0.0, min_crop_area=1.0)
    assert changes(bare, Experiment()) == "без случайного кадра, без изменения яркости, без CutMix и mixup"


def another(value):
    """A value of the same kind that an experiment may have, too."""
    if isinstance(value, bool):
        return not value
    return 2 * value + 64 if isinstance(value, int) else value / 2 or 0.5


def test_every_setting_of_an_experiment_has_words():
    words = {
        "optimizer": "adam",
        "init": "default",
        "schedule": "constant",
        "version": "1_0",
        "start_size": 64,
    }
    for name, value in vars(Experiment()).items():
        if name not in ("seed", "test_every"):
            other = words[name] if name in words else another(value)
            assert changes(Experiment(**{name: other}), Experiment()), name


def test_ablation_pairs_seeds_and_gives_the_t_interval():
    base, better = [0.10, 0.20, 0.12], [0.30, 0.38, 0.35]
    runs = [finished(value, seed=seed) for seed, value in enumerate(base)]
    runs += [finished(value, seed=seed, batch_norm=True) for seed, value in reversed(list(enumerate(better)))]
    table = ablation_table(runs, BASE, "исходный")
    assert table["Что изменено"].tolist() == ["пакетная нормализация", "исходный"]  # the most accurate first
    interval = stats.ttest_rel(better, base).confidence_interval()
    words = [
        f"{100 * value:+.1f}".replace(".", ",")
        for value in (np.mean(better) - np.mean(base), interval.low, interval.high)
    ]
    assert table["Разность точности [95 %]"].tolist() == [f"{words[0]} [{words[1]}; {words[2]}]", ""]
    assert table["Точность, %"].tolist() == ["34,3 ± 4,0", "14,0 ± 5,3"]


def test_a_change_learns_when_every_seed_beats_the_most_frequent_class():
    """Half of the labels are class 0, so that 75 % is the least that no constant answer explains."""
    runs = [
        finished(0.5),
        finished(0.5, init="he"),
        finished(0.9, batch_norm=True),
        finished(0.9, lr=3e-3),
        finished(0.6, lr=3e-3, seed=1),
    ]
    table = ablation_table(runs, BASE).set_index("Что изменено")
    assert table["Учится"].to_dict() == {
        "пакетная нормализация": "да",
        "скорость обучения 0,003": "нет",
        "исходный рецепт": "нет",
        "начальные веса He": "нет",
    }
    assert single_causes(runs, BASE) == (
        "В одиночку достаточно: пакетная нормализация. В одиночку не помогает: начальные веса He; скорость обучения 0,003."
    )


def test_settings_of_one_cause_count_as_one():
    """The learning rate and its schedule are one cause, as are the ways to augment; two causes together are none alone."""
    dead = [finished(0.5), finished(0.5, init="he"), finished(0.5, lr=1e-3, schedule="one_cycle")]
    alive = [finished(0.9, mirror=False, colour=0.0), finished(0.9, init="he", batch_norm=True)]
    assert single_causes(dead + alive, BASE) == (
        "В одиночку достаточно: без отражения, без изменения яркости. "
        "В одиночку не помогает: начальные веса He; скорость обучения 0,001, разгон и спад скорости (один цикл)."
    )


def test_collapse_is_described_by_its_answers():
    row = collapse_table([finished(0.5, predictions=(0, 0, 0, 1))]).iloc[0]
    assert (row["Самый частый ответ"], row["Разных ответов"], row["Точность на тесте, %"]) == (
        "75,0 % снимков",
        2,
        "50,00",
    )


def test_ladder_climbs_and_names_each_step():
    runs = [finished(0.9, batch_norm=True, epochs=200), finished(0.1), finished(0.5, batch_norm=True)]
    table = ladder_table(runs)
    assert table["Точность на тесте, %"].tolist() == ["10,00", "50,00", "90,00"]
    assert table["Что изменено"].tolist() == ["рецепт исходной работы", "пакетная нормализация", "эпох: 200"]


def test_confused_pairs_count_both_ways_together():
    table = confused_pairs(finished(0.25, predictions=(1, 0, 0, 1)), CLASSES)
    assert table.iloc[0].tolist() == ["Audi", "BMW", 2, 3]
    assert table.iloc[1].tolist() == ["BMW", "Ram C/V", 1, 2]


def test_test_variants_are_told_in_words():
    columns = ["test_size", "mirror", "test_loss", "test_accuracy"]
    table = variants_table(pd.DataFrame([[128, False, 1.5, 0.5], [160, True, 1.25, 0.625]], columns=columns))
    assert table.iloc[1].tolist() == [160, "среднее с отражением", "1,250", "62,5"]


@pytest.mark.parametrize("value, words", [(0.256, "0,26"), (1.2e-7, "1,2·10⁻⁷"), (3.0, "3,00")])
def test_powers_are_written_the_russian_way(value, words):
    assert power(value) == words


def test_two_amsgrads_are_compared_step_by_step():
    steps = pd.DataFrame(
        {
            "step": [1, 2, 3],
            "paper": [3.0, 6.0, 4.0],
            "torch": [1.0, 1.0, 2.0],
            "corrected_first": [1.0, 0.9, 1.6],
        }
    )
    without_eps = steps.assign(torch=[1.01, 1.0, 2.0])
    table = amsgrad_table(steps, without_eps).set_index("Чем различаются").iloc[:, -1]
    assert (
        table["поправки на смещение"] == "без поправок шаг 1 длиннее в 3,0 раза, шаг 2 — в 6,0, шаг 3 — в 2,0"
    )
    assert "в шаге 3 обратный порядок укорачивает шаг в 1,2 раза" in table["порядок максимума и поправки"]
    assert "1,00 %" in table["ε в знаменателе"]
