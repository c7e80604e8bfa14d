"""Tables and sentences say what the runs say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from scipy import stats

from labnn.experiment import Run
from labnn.kit.numbers import number, percent, scientific
from labnn.report import frames, words
from labnn.report.studies import recorded
from labnn.report.words import single_causes
from labnn.settings import Experiment
from labnn.train import HISTORY_COLUMNS

BASE = Experiment(batch_norm=False, init="default", schedule="constant", lr=1e-4)
CLASSES = ["Audi", "BMW", "Ram C/V"]


def finished(accuracy: float, predictions=(0, 0, 0, 0) * 10, **settings) -> Run:
    """A one-epoch run with the given last test accuracy, on 40 or four pictures of the classes 0, 0, 1, 2."""
    experiment = Experiment(
        **{"batch_norm": False, "init": "default", "schedule": "constant", "lr": 1e-4} | settings
    )
    history = pd.DataFrame([[1, 1e-4, 60.0, 1.5, 0.1, 2.0, accuracy, 0.1, False]], columns=HISTORY_COLUMNS)
    answers = pd.DataFrame({"label": [0, 0, 1, 2] * (len(predictions) // 4), "prediction": predictions})
    return Run(experiment, {"fingerprint": "0", "classes": 3}, history, answers, {})


def test_changes_name_every_setting_that_differs_and_no_other():
    assert BASE.changes(BASE) == ""
    assert Experiment(batch_norm=True, init="he", schedule="constant", lr=3e-3, seed=5).changes(BASE) == (
        "скорость обучения 0,003, пакетная нормализация, начальные веса He"
    )
    bare = Experiment(mix=0.0, colour=0.0, min_crop_area=1.0)
    assert bare.changes(Experiment()) == "без случайного кадра, без изменения яркости, без CutMix и mixup"


def another(value):
    """A value of the same kind that an experiment may have, too."""
    if isinstance(value, bool):
        return not value
    return 2 * value + 64 if isinstance(value, int) else value / 2 or 0.5


def test_every_setting_of_an_experiment_has_words():
    others = {
        "optimizer": "adam",
        "init": "default",
        "schedule": "constant",
        "version": "1_0",
        "start_size": 64,
        "network": "squeezenet-imagenet",
    }
    for name, value in vars(Experiment()).items():
        if name not in ("seed", "test_every"):
            other = others[name] if name in others else another(value)
            assert Experiment(**{name: other}).changes(Experiment()), name


def test_ablation_pairs_seeds_and_gives_the_t_interval():
    base, better = [0.10, 0.20, 0.12], [0.30, 0.38, 0.35]
    runs = [finished(value, seed=seed) for seed, value in enumerate(base)]
    runs += [finished(value, seed=seed, batch_norm=True) for seed, value in reversed(list(enumerate(better)))]
    table = words.table(frames.ablation(runs, BASE, "исходный"))
    assert table["Что изменено"].tolist() == ["пакетная нормализация", "исходный"]  # the most accurate first
    interval = stats.ttest_rel(better, base).confidence_interval()
    shown = [
        f"{100 * value:+.1f}".replace(".", ",")
        for value in (np.mean(better) - np.mean(base), interval.low, interval.high)
    ]
    assert table["Разность точности [95 %]"].tolist() == [f"{shown[0]} [{shown[1]}; {shown[2]}]", ""]
    assert table["Точность, %"].tolist() == ["34,3 ± 4,0", "14,0 ± 5,3"]


def test_other_optimizers_stand_beside_the_reference_with_intervals_that_hold_together():
    accuracies = {"adam": [0.30, 0.33, 0.31], "sgd": [0.20, 0.24, 0.20], "adamw": [0.31, 0.33, 0.33]}
    runs = [
        finished(value, optimizer=name, seed=seed)
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    tuning = [finished(0.10, optimizer="sgd", lr=1e-2), finished(0.22, optimizer="sgd", lr=1e-1)]
    table = words.table(frames.others(tuning, runs, "adam")).set_index("Оптимизатор")
    assert table.index.tolist() == ["AdamW", "Adam", "SGD с импульсом"]  # the most accurate first
    low, high = stats.ttest_rel(accuracies["sgd"], accuracies["adam"]).confidence_interval(1 - 0.05 / 2)
    shown = f"−10,0 [{100 * low:.1f}; {100 * high:.1f}]".replace(".", ",").replace("-", "−")
    assert table.loc["SGD с импульсом", "Разность точности [95 % вместе]"] == shown
    assert table.loc["SGD с импульсом", "На проверке при разных скоростях, %"] == "10,0…22,0"
    assert table.loc["Adam", "Разность точности [95 % вместе]"] == ""
    gap = table.loc["AdamW", "Разность точности [95 % вместе]"]
    assert gap.startswith("+1,0 [−") and words.others(tuning, runs, "adam") == (
        f"Точнее всех AdamW: {percent(0.3233, 1)}, разность с Adam {gap} п. п. Интервал разности с Adam весь "
        "ниже нуля: SGD с импульсом. Что другой лучше Adam, этот опыт не доказал."
    )


def test_a_change_learns_when_every_seed_beats_the_most_frequent_class():
    """Half of the 40 labels are class 0: 36 right answers are more than that explains, 24 are not."""
    runs = [
        finished(0.5),
        finished(0.5, init="he"),
        finished(0.9, batch_norm=True),
        finished(0.9, lr=3e-3),
        finished(0.6, lr=3e-3, seed=1),
    ]
    table = words.table(frames.ablation(runs, BASE)).set_index("Что изменено")
    assert table["Учится"].to_dict() == {
        "пакетная нормализация": "да",
        "скорость обучения 0,003": "нет",
        "исходный рецепт": "нет",
        "начальные веса He": "нет",
    }
    assert single_causes(runs, BASE) == (
        "По отдельности достаточно: пакетная нормализация. "
        "По отдельности не помогает: начальные веса He; скорость обучения 0,003."
    )


def test_settings_of_one_cause_count_as_one():
    """The learning rate and its schedule are one cause, as are the ways to augment; two causes together are
    none alone.
    """
    dead = [finished(0.5), finished(0.5, init="he"), finished(0.5, lr=1e-3, schedule="one_cycle")]
    alive = [finished(0.9, mirror=False, colour=0.0), finished(0.9, init="he", batch_norm=True)]
    assert single_causes(dead + alive, BASE) == (
        "По отдельности достаточно: без отражения, без изменения яркости. "
        "По отдельности не помогает: начальные веса He; "
        "скорость обучения 0,001, разгон и спад скорости (один цикл)."
    )


def test_collapse_is_described_by_its_answers():
    row = words.table(frames.collapse([finished(0.5, predictions=(0, 0, 0, 1))])).iloc[0]
    assert (row["Самый частый ответ"], row["Разных ответов"], row["Точность на тесте, %"]) == (
        "75,0 % снимков",
        2,
        "50,00",
    )


def test_ladder_climbs_and_names_each_step():
    runs = [finished(0.9, batch_norm=True, epochs=200), finished(0.1), finished(0.5, batch_norm=True)]
    table = words.table(frames.ladder(runs))
    assert table["Точность на тесте, %"].tolist() == ["10,00", "50,00", "90,00"]
    assert table["Что изменено"].tolist() == ["рецепт исходной работы", "пакетная нормализация", "эпох: 200"]


def test_headline_is_the_original_against_ours():
    runs = [finished(0.9, batch_norm=True, epochs=200), finished(0.1), finished(0.5, batch_norm=True)]
    runs = [replace(run, data=run.data | {"test": 4}) for run in runs]
    table = words.table(frames.headline(runs))
    assert table["Точность, %"].tolist() == ["0,85", "10,00", "50,00", "90,00"]
    assert table["Снимков на тесте"].tolist() == ["8\u00a0041", "4", "4", "4"]
    assert table["Минут обучения"].tolist() == ["—", "1,0", "1,0", "1,0"]


def test_seeds_of_one_recipe_are_a_row_of_their_means_and_none_is_chosen():
    runs = [finished(accuracy, batch_norm=True, seed=seed) for seed, accuracy in enumerate((0.5, 0.7, 0.9))]
    runs = [replace(run, data=run.data | {"test": 4}) for run in [*runs, finished(0.1)]]
    ladder, headline = words.table(frames.ladder(runs)), words.table(frames.headline(runs))
    assert ladder["Точность на тесте, %"].tolist() == ["10,00", "70,00 ± 20,00"]
    assert headline["Точность, %"].tolist() == ["0,85", "10,00", "70,00 ± 20,00", "70,00 ± 20,00"]
    assert headline["Прогонов"].tolist() == ["—", "1", "3", "3"]


def test_spread_over_seeds_is_told_with_the_interval_of_the_mean():
    shares = [0.5, 0.7, 0.9]
    told = words.spread([finished(share, seed=seed) for seed, share in enumerate(shares)])
    low, high = stats.t.interval(0.95, 2, np.mean(shares), stats.sem(shares))
    assert "при 3 зёрнах 50,0…90,0 %, в среднем 70,0 %;" in told.replace("\u00a0", " ")
    assert f"от {number(100 * low, 1)} до {percent(high, 1)}" in told
    assert words.spread([finished(0.5)]).endswith("зерно одно, разброс не измерен.")


def test_confused_pairs_count_both_ways_together():
    table = words.table(frames.confused(finished(0.25, predictions=(1, 0, 0, 1)), CLASSES))
    assert table.iloc[0].tolist() == ["Audi", "BMW", 2, 3]
    assert table.iloc[1].tolist() == ["BMW", "Ram C/V", 1, 2]


def test_variants_are_in_words():
    columns = ["test_size", "mirror", "test_loss", "test_accuracy"]
    variants = pd.DataFrame([[128, False, 1.5, 0.5], [160, True, 1.25, 0.625]], columns=columns)
    table = words.table(variants)
    assert table.iloc[1].tolist() == [160, "среднее с отражением", "1,250", "62,5"]


@pytest.mark.parametrize("value, text", [(0.256, "0,26"), (1.2e-7, "1,2·10⁻⁷"), (3.0, "3,00")])
def test_numbers_of_any_size_are_written_the_russian_way(value, text):
    assert scientific(value) == text


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
    table = words.amsgrad(steps, without_eps).set_index("Чем различаются").iloc[:, -1]
    assert (
        table["поправки на смещение"] == "без поправок шаг 1 длиннее в 3,0 раза, шаг 2 — в 6,0, шаг 3 — в 2,0"
    )
    assert "в шаге 3 обратный порядок укорачивает шаг в 1,2 раза" in table["порядок максимума и поправки"]
    assert "1,00 %" in table["ε в знаменателе"]


LABELS = {
    "optimizer",
    "first",
    "second",
    "figure",
    "change",
    "step",
    "network",
    "class_name",
    "other_class",
    "cell",
}


def test_tables_are_numbers_until_they_are_shown():
    """Nobody has to read a number out of a text: in the frames of all studies only labels are words."""
    for study, record in recorded(PROJECT / "data" / "runs"):
        for name, frame in study.tables(record).items():
            if name != "settings":
                words_of = {column for column in frame if not pd.api.types.is_numeric_dtype(frame[column])}
                assert words_of <= LABELS, (study.name, name)
                assert not words.table(frame).equals(frame)


def test_unknown_frame_is_shown_as_it_is():
    frame = pd.DataFrame({"mood": ["good"], "grade": [5]})
    assert words.markdown(frame).splitlines()[-1] == "| good   | 5       |"


def test_a_table_of_more_than_six_columns_is_turned_and_numbers_stand_right():
    runs = [finished(0.5, seed=seed, optimizer=name) for seed in range(7) for name in ("amsgrad", "adam")]
    for frame, parts in ((frames.summary(runs), 1), (frames.pairs(runs), 2)):
        shown, written = words.table(frame), words.markdown(frame).split("\n\n")
        assert len(written) == parts and shown.shape[1] > 6
        for part in written:
            head, rule, *rows = (line.strip("|").split("|") for line in part.splitlines())
            assert len(head) <= 6 and all(cell.endswith("-:") for cell in rule[1:]) and rule[0].endswith("--")
            assert [row[0].strip() for row in rows] == shown.columns[1:].tolist()
    assert words.markdown(frames.epochs(runs)).splitlines()[1].count("-:|") == 5


def test_words_behind_a_rows_number_stand_left():
    runs = [finished(0.5, **{name: 0.1 for name in ("mix", "colour", "dropout", "lr", "label_smoothing")})]
    rule, row = words.markdown(frames.ablation(runs, BASE)).splitlines()[1:3]
    assert row.startswith("| 1. скорость обучения 0,1") and rule.startswith("|:--")
