"""The comparison is paired, gives an interval, and never calls noise a result."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_runs import LABELS, finished, found, runs
from scipy import stats

from labnn.kit.errors import LabError
from labnn.report import records, tables, words
from labnn.report.statistics import describe, detectable, mcnemar, pairs_needed, sign_flip_p

ADAM = np.array([0.50, 0.53, 0.54, 0.52, 0.51, 0.52])
NOISE = np.array([0.01, -0.01, 0.0, 0.01, -0.01, 0.0])


def test_difference_and_interval_are_the_paired_t_tests():
    first, second = [0.52, 0.55, 0.50, 0.58], [0.50, 0.54, 0.51, 0.53]
    result = describe(records.pairs(found(amsgrad=first, adam=second))["difference"])
    expected = stats.ttest_rel(first, second)
    assert (result.mean, result.pairs) == (pytest.approx(np.mean(first) - np.mean(second)), 4)
    assert (result.low, result.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert result.p_value == pytest.approx(expected.pvalue)


def test_pairs_are_made_by_seed_whatever_the_order():
    shuffled = [finished(0.6, optimizer="adam", seed=1), finished(0.5, optimizer="amsgrad", seed=0)]
    shuffled += [finished(0.7, optimizer="amsgrad", seed=1), finished(0.4, optimizer="adam", seed=0)]
    paired = records.pairs(records.table(shuffled))
    assert paired["difference"].tolist() == pytest.approx([0.1, 0.1])


def test_runs_without_partners_are_refused():
    with pytest.raises(LabError, match="не образуют пар"):
        records.pairs(records.table([finished(0.5, optimizer="amsgrad"), finished(0.5, seed=1)]))
    with pytest.raises(LabError, match="не образуют пар"):
        records.pairs(records.table([finished(0.5, optimizer="amsgrad"), finished(0.5, batch_size=8)]))
    with pytest.raises(LabError, match="со скоростями 0.003 и 0.01"):
        records.pairs(records.table([*runs(amsgrad=[0.5], adam=[0.5]), finished(0.5, lr=0.01)]))


def test_runs_on_other_photos_are_no_pair():
    pair = runs(amsgrad=[0.5], adam=[0.5])
    known = [
        replace(run, data=run.data | {"content": content}) for run, content in zip(pair, "ab", strict=True)
    ]
    with pytest.raises(LabError, match="на разных снимках"):
        records.pairs(records.table(known))


def test_a_run_with_figures_that_are_no_numbers_is_left_out_and_told():
    compared = found(amsgrad=[0.5, 0.52, np.nan], adam=[0.4, 0.43, 0.41])
    assert records.pairs(compared)["seed"].tolist() == [0, 1]
    assert "Без пары остались зёрна: 2." in words.verdict(compared)


@pytest.mark.parametrize(
    ("better", "shift"),
    [("AMSGrad точнее Adam на 10,0 п. п.", 0.10), ("Adam точнее AMSGrad на 10,0 п. п.", -0.10)],
)
def test_verdict_names_the_better_one_and_by_how_much(better, shift):
    text = words.verdict(found(amsgrad=ADAM + shift + NOISE, adam=ADAM))
    assert text.startswith(better) and "не доказана" not in text and "практически" not in text


def test_verdict_can_say_equal_within_the_margin():
    text = words.verdict(found(amsgrad=ADAM + NOISE, adam=ADAM))
    assert text.startswith("AMSGrad и Adam практически равны (весь интервал разности внутри ±1,5 п. п.).")
    assert "не доказана" in words.verdict(found(amsgrad=ADAM + NOISE, adam=ADAM), margin=0.005)
    with pytest.raises(LabError, match="margin"):
        words.verdict(found(amsgrad=ADAM, adam=ADAM), margin=1.5)


def test_noise_is_not_called_a_result_and_the_pairs_that_would_decide_are_told():
    text = words.verdict(found(amsgrad=[0.52, 0.50, 0.55, 0.50, 0.51, 0.54], adam=ADAM))
    assert "разница не доказана" in text and "точнее" not in text and "нужно пар: " in text


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_too_few_pairs_prove_nothing_however_far_apart(pairs):
    text = words.verdict(found(amsgrad=np.linspace(0.90, 0.91, pairs), adam=np.linspace(0.10, 0.12, pairs)))
    assert "разница не доказана" in text and "точнее" not in text


def test_three_optimizers_are_compared_by_twos_with_wider_intervals():
    sgd, adam = ADAM[[0, 1, 2, 3, 4, 5, 0]] - 0.2 + 0.01, ADAM[[0, 1, 2, 3, 4, 5, 1]]
    amsgrad = adam + np.array([0.01, -0.01, 0.01, -0.01, 0.01, 0.0, -0.01])
    text = words.verdict(found(amsgrad=amsgrad, adam=adam, sgd=sgd))
    assert "AMSGrad точнее SGD с импульсом" in text and "Adam точнее SGD с импульсом" in text
    low = stats.ttest_rel(100 * amsgrad, 100 * adam).confidence_interval(1 - 0.05 / 3).low
    assert f"98,3-процентный доверительный интервал [{low:+.1f}".replace("-1", "−1").replace(".", ",") in text
    assert "с поправкой Бонферрони на число сравнений, 3." in text


def test_no_answer_is_given_before_the_last_pair_that_was_planned():
    so_far = words.verdict(found(amsgrad=[0.75, 0.76], adam=[0.71, 0.71]), planned=3)
    assert so_far.startswith("Готово пар: 2 из 3; ответ даётся, когда готовы все.")
    assert "AMSGrad — 75,0…76,0 %, Adam — 71,0 %" in so_far
    three = found(amsgrad=[0.75, 0.76, 0.77], adam=[0.71, 0.71, 0.70])
    assert words.verdict(three, planned=3) == words.verdict(three)


def test_the_one_table_has_no_difference_and_no_verdict_before_the_last_pair():
    halfway = found(amsgrad=[0.75, 0.76], adam=[0.71, 0.71])
    known = [tables.answer(halfway, "коротко", 3, True, "main")]
    row = tables.answers(known).iloc[0]
    assert row["Разность, п. п. [95 %]"] == "готово пар: 2 из 3" and words.answers(known) == ""
    known = [
        tables.answer(found(amsgrad=ADAM + 0.1 + NOISE, adam=ADAM), "долго", 6, False, "exploratory"),
        *known,
    ]
    assert tables.answers(known)["Роль"].tolist() == ["главный", "разведочный"]
    assert tables.answers(known)["Скорость подобрана"].tolist() == ["да: 0,003", "нет: 0,003"]
    assert "точнее" not in words.answers(known) and "долго — +10,0 п. п. [+9,1; +10,9]." in words.answers(
        known
    )


def test_another_machine_is_told_and_whether_it_is_within_pairs():
    compared = runs(amsgrad=[0.5, 0.6], adam=[0.4, 0.4])
    compared[1].environment["precision"] = "bfloat16"
    assert "часть разницы может быть от них" in words.verdict(records.table(compared))
    compared[3].environment["precision"] = "bfloat16"
    assert "(числа: float32 и bfloat16), но обе сети пары — на одной" in words.verdict(
        records.table(compared)
    )


def test_randomisation_test_counts_the_sign_patterns():
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0]) == 2 / 2**5
    assert sign_flip_p([1.0, -1.0, 2.0, -2.0]) == 1.0
    assert pairs_needed(0.95) == 6 and pairs_needed(1 - 0.05 / 3) == 7


@pytest.mark.parametrize("pairs", [5, 10])
def test_detectable_difference_is_found_four_times_in_five(pairs):
    samples = np.random.default_rng(0).normal(detectable(2.0, pairs), 2.0, size=(4000, pairs))
    assert (stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)


def test_equal_differences_have_no_spread_and_prove_nothing():
    result = describe([0.25] * 6)
    assert (result.low, result.high, result.p_value, result.proven) == (0.25, 0.25, 0.0, False)
    with pytest.raises(LabError, match="Пары сравнить нельзя"):
        describe([0.1, np.nan])


def test_mcnemar_counts_photos_that_only_one_network_knows():
    labels = [0, 0, 0, 0, 0, 0, 1, 1]
    first = pd.DataFrame({"label": labels, "prediction": [0, 0, 0, 0, 0, 1, 0, 0]})
    second = pd.DataFrame({"label": labels, "prediction": [1, 1, 1, 1, 1, 0, 0, 0]})
    assert mcnemar(first, second) == (5, 1, pytest.approx(2 * (1 + 6) / 2**6))  # at most one of six coins
    assert mcnemar(first, first)[2] == 1.0
    with pytest.raises(LabError, match="разных снимках"):
        mcnemar(first, first.head(1))


def test_rates_are_chosen_on_accuracy_then_loss_each_optimizer_alone():
    tried = [(1e-3, 0.4, 2.0), (1e-2, 0.5, 1.9), (1e-1, 0.5, 1.8)]
    tuning = [finished(accuracy, lr=lr, loss=loss) for lr, accuracy, loss in tried]
    tuning = records.table([*tuning, finished(0.6, optimizer="amsgrad", lr=1e-3)])
    assert records.best_rates(tuning) == {"adam": 1e-1, "amsgrad": 1e-3}
    assert tables.rates(tuning)["Adam, %"].tolist() == ["40,0", "50,0", "50,0 ★"]
    assert tables.rates(tuning)["AMSGrad, %"].tolist() == ["60,0 ★", "расходится", "расходится"]
    told = "Adam: лучшая скорость 0,1 (50,0 %), не ниже 90 % от лучшей точности — при 2 из 3 скоростей; "
    assert f"{told}лучшая лежит на краю сетки, расширьте её." in words.stability(tuning)


def test_tuned_runs_are_comparable_but_a_grid_is_taken_apart_by_its_rates():
    final = [finished(0.5, optimizer=name, lr=lr) for name, lr in (("adam", 1e-3), ("amsgrad", 1e-2))]
    assert [len(part) for part in records.comparable(records.table(final))] == [2]
    grid = [finished(0.5, optimizer=name, lr=lr) for name in ("adam", "amsgrad") for lr in (1e-3, 1e-2)]
    assert [set(part["lr"]) for part in records.comparable(records.table(grid))] == [{1e-3}, {1e-2}]


@pytest.mark.parametrize(
    ("right", "labels", "told"),
    [(36, LABELS * 10, "сеть научилась"), (24, LABELS * 10, "от уровня самого частого класса не отличить")]
    + [(20, LABELS * 10, "сеть не научилась"), (40, (0,) * 40, "на тесте один класс")],
)
def test_learning_is_a_test_against_the_most_frequent_class(right, labels, told):
    """Half of the 40 labels are class 0: 36 right answers are more than that explains, 24 are not."""
    run = finished(right / 40)
    run.predictions["label"] = labels
    assert told in words.learning(records.table([run]))


def test_maximum_is_described_at_its_strongest_and_at_the_end():
    bound = {"maximum_share": [0.8, 0.4], "step_10": [0.3, 0.7], "step_50": [0.6, 0.9], "step_90": [0.9, 1.0]}
    run = finished(0.5, optimizer="amsgrad")
    text = words.maximum(records.table([replace(run, history=run.history.assign(**bound)), finished(0.5)]))
    strongest = "медиана множителя 0,60 (у средних 80 % весов от 0,30 до 0,90), максимум выше v у 80 % весов."
    assert f"в эпоху 1: {strongest}" in text and "В последней эпохе медиана множителя 0,90" in text
    assert words.maximum(records.table([finished(0.5)])) == ""
