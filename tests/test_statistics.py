"""The comparison is paired, gives an interval, and never calls noise a result."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_runs import LABELS, finished, found, runs
from scipy import stats

from labnn.kit.errors import LabError
from labnn.report import records, tables, words
from labnn.report.statistics import describe, mcnemar, pairs_needed

ADAM = np.array([0.50, 0.53, 0.54, 0.52, 0.51, 0.52])
NOISE = np.array([0.01, -0.01, 0.0, 0.01, -0.01, 0.0])


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
    with pytest.raises(LabError, match="при разных скоростях"):
        records.pairs(records.table([*runs(amsgrad=[0.5], adam=[0.5]), finished(0.5, lr=0.01)]))
    first, second = runs(amsgrad=[0.5], adam=[0.5])
    other = replace(second, data=second.data | {"content": "b"})
    with pytest.raises(LabError, match="на одних снимках"):
        records.pairs(records.table([replace(first, data=first.data | {"content": "a"}), other]))


def test_a_run_with_figures_that_are_no_numbers_is_left_out_and_told():
    compared = records.table(
        [*runs(amsgrad=[0.5, 0.52, 0.5], adam=[0.4, 0.43]), finished(0.4, loss=np.nan, seed=2)]
    )
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


def test_noise_is_not_called_a_result():
    text = words.verdict(found(amsgrad=[0.52, 0.50, 0.55, 0.50, 0.51, 0.54], adam=ADAM))
    assert "разница не доказана" in text and "точнее" not in text


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
    told = words.answers(known)
    assert "точнее" not in told and told.endswith("разность AMSGrad − Adam +10,0 п. п.")


def test_randomisation_test_counts_the_sign_patterns():
    assert describe([1.0, 2.0, 3.0, 4.0, 5.0]).exact_p == 2 / 2**5
    assert describe([1.0, -1.0, 2.0, -2.0]).exact_p == 1.0
    assert pairs_needed(0.95) == 6 and pairs_needed(1 - 0.05 / 3) == 7


def test_machines_that_differ_within_a_pair_are_told():
    compared = runs(amsgrad=[0.5, 0.6], adam=[0.4, 0.4])
    compared[1].environment["precision"] = "bfloat16"
    assert "на разных машинах" in words.verdict(records.table(compared))
    compared[3].environment["precision"] = "bfloat16"
    assert "машинах" not in words.verdict(records.table(compared))


def test_equal_differences_have_no_spread_and_prove_nothing():
    result = describe([0.25] * 6)
    assert (result.low, result.high, result.proven) == (0.25, 0.25, False)


def test_mcnemar_counts_photos_that_only_one_network_knows():
    labels = [0, 0, 0, 0, 0, 0, 1, 1]
    first = pd.DataFrame({"label": labels, "prediction": [0, 0, 0, 0, 0, 1, 0, 0]})
    second = pd.DataFrame({"label": labels, "prediction": [1, 1, 1, 1, 1, 0, 0, 0]})
    assert mcnemar(first, second) == (5, 1, pytest.approx(2 * (1 + 6) / 2**6))  # at most one of six coins
    assert mcnemar(first, first)[2] == 1.0


def test_rates_are_chosen_on_accuracy_then_loss_each_optimizer_alone():
    tried = [(1e-3, 0.4, 2.0), (1e-2, 0.5, 1.9), (1e-1, 0.5, 1.8)]
    tuning = [finished(accuracy, lr=lr, loss=loss) for lr, accuracy, loss in tried]
    tuning = records.table([*tuning, finished(0.6, optimizer="amsgrad", lr=1e-3)])
    assert records.best_rates(tuning) == {"adam": 1e-1, "amsgrad": 1e-3}
    assert tables.rates(tuning)["Adam, %"].tolist() == ["40,0", "50,0", "50,0 ★"]
    assert tables.rates(tuning)["AMSGrad, %"].tolist() == ["60,0 ★", "расходится", "расходится"]
    assert words.stability(tuning) == "Лучшая скорость лежит на краю сетки (Adam): расширьте её."


@pytest.mark.parametrize(
    ("right", "labels", "told"),
    [(36, LABELS * 10, "сеть научилась"), (24, LABELS * 10, "от уровня самого частого класса не отличить")]
    + [(20, LABELS * 10, "сеть не научилась"), (40, (0,) * 40, "сеть не научилась")],
)
def test_learning_is_a_test_against_the_most_frequent_class(right, labels, told):
    """Half of the 40 labels are class 0: 36 right answers are more than that explains, 24 are not."""
    run = finished(right / 40)
    run.predictions["label"] = labels
    assert told in words.learning(records.table([run]))


def tried(optimizer: str, step: float | None, losses: Mapping[int, float], **accuracies: float) -> list:
    """Runs that tried rates on validation, 3 for "x3" times 0.001; AMSGrad's with its ``step``."""
    runs = []
    for name, accuracy in accuracies.items():
        place = int(name[1:])
        run = finished(accuracy, optimizer=optimizer, lr=place / 1000)
        bound = {"maximum_share": 0.9, "step_50": step} if step else {}
        history = run.history.assign(train_loss=losses.get(place, 1.5), **bound)
        runs.append(replace(run, history=history))
    return runs


@pytest.mark.parametrize(
    ("step", "told"), [(0.25, "Из сетки предсказано 0,008, выбрано 0,004."), (0.9, "не различает")]
)
def test_reason_foretells_the_rate_of_amsgrad_from_that_of_adam(step, told):
    adam = tried("adam", None, {}, x1=0.4, x2=0.5, x4=0.4, x8=0.1)
    amsgrad = tried("amsgrad", step, {}, x1=0.3, x2=0.4, x4=0.5, x8=0.4)
    other = tried("sgd", None, {}, x100=0.5, x300=0.6, x900=0.5)

    def reason(found: list, tuning: list) -> str:
        return words.reason(records.table(found), records.twins(records.table(tuning), 3))

    final = adam[1:2] + amsgrad[2:3]
    assert told in reason(final, other + adam + amsgrad)
    few = reason(final, other + adam + amsgrad[:2])
    assert few.startswith("Знаменатель у AMSGrad не уменьшается, поэтому шаг не длиннее")
    assert "сетк" not in few.lower()
    assert reason(other + amsgrad, other + amsgrad) == ""  # no Adam


def test_reason_tells_whether_the_losses_are_alike_at_equal_rates_or_at_equal_steps():
    """AMSGrad, its step halved, has at each rate the loss that Adam has at half of it."""
    rates = {"x1": 0.4, "x2": 0.5, "x4": 0.4}
    adam = tried("adam", None, {1: 3.0, 2: 2.0, 4: 4.0}, **rates)
    amsgrad = tried("amsgrad", 0.5, {1: 9.0, 2: 3.0, 4: 2.0}, **rates)
    found = records.table(adam + amsgrad)
    text = words.reason(found, records.twins(found, 3))
    assert "на 3,00 нат при равной скорости и на 0,00 при равной" in text  # means of 6, 1, 2; of 0, 0


def test_the_top_of_a_parabola_lies_within_the_rates_tried():
    rising = tried("adam", None, {}, x1=0.1, x2=0.31, x4=0.5)  # its parabola goes on rising to 2
    assert records.tops(records.table(rising))["adam"] == pytest.approx(0.004)
    sagging = tried("adam", None, {}, x1=0.1, x2=0.2, x4=0.5)  # its parabola has no top
    assert records.tops(records.table(sagging))["adam"] == 0.004
