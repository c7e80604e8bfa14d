"""The comparison is paired, gives an interval, and never calls noise a result."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from labnn.experiment import Run
from labnn.kit.errors import LabError
from labnn.report import frames, words
from labnn.report.protocol import Protocol
from labnn.report.statistics import (
    area_under_curve,
    best_rates,
    comparable,
    describe_differences,
    detectable_difference,
    exact_interval,
    mcnemar,
    paired_difference,
    reached,
    sign_flip_p,
)
from labnn.report.words import (
    answer_to_original,
    other_differences,
    rate_against_optimizer,
    stability,
    verdict,
)
from labnn.settings import OPTIMIZERS, Experiment
from labnn.train import HISTORY_COLUMNS


def finished(optimizer: str, seed: int, test_accuracy: float, **settings) -> Run:
    """A run of two epochs whose last test accuracy is given; the first is better, and must not count."""
    rows = [
        [1, 1e-3, 1.0, 2.0, 0.1, 2.0, 0.999, 0.1, False],
        [2, 1e-3, 1.0, 1.0, 0.5, 1.0, test_accuracy, 0.1, False],
    ]
    history = pd.DataFrame(rows, columns=HISTORY_COLUMNS)
    data = {"name": "cars", "fingerprint": "0", "train": 2, "test": 2, "classes": 2, "crop_to_box": False}
    return Run(
        Experiment(optimizer=optimizer, seed=seed, epochs=2, **settings), data, history, pd.DataFrame(), {}
    )


def answered(labels, predictions) -> Run:
    return replace(
        finished("adam", 0, 0.5), predictions=pd.DataFrame({"label": labels, "prediction": predictions})
    )


def tuned(optimizer: str, lr: float, accuracy: float, loss: float) -> Run:
    run = finished(optimizer, 0, accuracy, lr=lr)
    run.history["test_loss"] = loss
    return run


def runs(amsgrad, adam) -> list[Run]:
    return [
        finished(name, seed, value)
        for name, values in (("amsgrad", amsgrad), ("adam", adam))
        for seed, value in enumerate(values)
    ]


def test_difference_and_interval_are_the_paired_t_tests():
    first, second = [0.52, 0.55, 0.50, 0.58], [0.50, 0.54, 0.51, 0.53]
    result = paired_difference(
        [finished("amsgrad", s, v) for s, v in enumerate(first)],
        [finished("adam", s, v) for s, v in enumerate(second)],
    )
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert result.mean == pytest.approx(np.mean(first) - np.mean(second))
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert result.pairs == 4


def test_pairs_are_made_by_seed_whatever_the_order():
    first = [finished("amsgrad", 0, 0.5), finished("amsgrad", 1, 0.7)]
    second = [finished("adam", 1, 0.6), finished("adam", 0, 0.4)]
    result = paired_difference(first, second)
    assert (result.low, result.high) == pytest.approx((0.1, 0.1))


def test_noise_is_not_called_a_result():
    text = verdict(runs(amsgrad=[0.52, 0.50, 0.55], adam=[0.50, 0.53, 0.54]))
    assert "разница не доказана" in text


@pytest.mark.parametrize(
    "better, difference", [("лучше AMSGrad", 0.10), ("лучше Adam", -0.10), ("практически равны", 0.0)]
)
def test_verdict_names_the_better_one_or_says_equal(better, difference):
    adam = np.array([0.50, 0.53, 0.54, 0.52, 0.51, 0.52])
    text = verdict(
        runs(amsgrad=adam + difference + np.array([0.01, -0.01, 0.0, 0.01, -0.01, 0.0]), adam=adam)
    )
    possible = ("лучше AMSGrad", "лучше Adam", "практически равны", "разница не доказана")
    answers = [answer for answer in possible if answer in text]
    assert answers == [better]
    assert f"{100 * difference:+.1f} процентного пункта".replace("-", "−").replace(".", ",") in text


@pytest.mark.parametrize(
    "found, difference",
    [("лучше AMSGrad", 0.10), ("лучше Adam", -0.10), ("разницы в точности не доказывают", 0.0)],
)
def test_claim_of_the_original_is_answered_in_one_sentence(found, difference):
    adam = np.array([0.50, 0.53, 0.54, 0.52, 0.51, 0.52])
    dead = [
        replace(answered([0, 1], [0, 0]), experiment=Experiment(optimizer=name))
        for name in ("amsgrad", "adam")
    ]
    text = answer_to_original(
        dead, runs(amsgrad=adam + difference + np.array([0.01, -0.01, 0.0, 0.01, -0.01, 0.0]), adam=adam)
    )
    assert found in text and "разных ответов: 1; 1" in text
    assert text.count(". ") == text.count("п. п.") and text.endswith(
        "."
    )  # one sentence, but for the abbreviation


def test_optimizers_part_is_the_far_end_of_the_interval_against_the_span_of_the_rates():
    tuning = [
        tuned(name, lr, accuracy, 1.0)
        for name in ("adam", "amsgrad")
        for lr, accuracy in ((1e-3, 0.2), (1e-2, 0.6))
    ]
    amsgrad, adam = [0.50, 0.53, 0.54, 0.52, 0.51], [0.52, 0.53, 0.55, 0.51, 0.53]
    ends = stats.ttest_rel(amsgrad, adam).confidence_interval()
    text = rate_against_optimizer(tuning, runs(amsgrad, adam))
    assert "от 20,0 до 60,0 %" in text
    assert f"не больше чем на {100 * max(-ends.low, ends.high):.1f} п. п.".replace(".", ",", 1) in text


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_too_few_pairs_prove_nothing_however_far_apart(pairs):
    text = verdict(runs(amsgrad=np.linspace(0.90, 0.91, pairs), adam=np.linspace(0.10, 0.12, pairs)))
    assert "разница не доказана" in text and "лучше" not in text


def test_verdict_on_three_optimizers_compares_every_two_with_wider_intervals():
    accuracies = {
        "sgd": [0.30, 0.32, 0.31, 0.33, 0.30, 0.32, 0.31],
        "adam": [0.50, 0.53, 0.54, 0.52, 0.51, 0.53, 0.52],
        "amsgrad": [0.51, 0.52, 0.55, 0.51, 0.52, 0.54, 0.51],
    }
    three = [
        finished(name, seed, value)
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    text = verdict(three)
    assert "AMSGrad и Adam: практически равны" in text
    assert "AMSGrad и SGD с импульсом: лучше AMSGrad" in text and "Adam и SGD с импульсом: лучше Adam" in text
    adam, amsgrad = np.array(accuracies["adam"]), np.array(accuracies["amsgrad"])
    low = stats.ttest_rel(100 * amsgrad, 100 * adam).confidence_interval(1 - 0.05 / 3).low
    assert f"[{low:+.1f}".replace("-", "−").replace(".", ",") in text


@pytest.mark.parametrize("pairs", [6, 8])
def test_exact_interval_covers_as_it_says_where_t_assumes_too_much(pairs):
    """Laplace's distribution, symmetric but not normal; 95 % within the error of 1500 tries."""
    intervals = [exact_interval(row) for row in np.random.default_rng(0).laplace(size=(1500, pairs))]
    assert 0.935 < np.mean([low <= 0 <= high for low, high in intervals]) < 0.985


def test_exact_interval_of_five_values_does_not_exist_at_95_percent():
    assert exact_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (-np.inf, np.inf)
    assert exact_interval([1.0, 2.0, 3.0, 4.0, 5.0], 0.9) == (
        1.0,
        5.0,
    )  # one of 32 parts on each side: 93.75 %


def test_randomisation_test_counts_the_sign_patterns():
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0]) == 2 / 2**5
    assert sign_flip_p([1.0, -1.0, 2.0, -2.0]) == 1.0


@pytest.mark.parametrize("pairs", [5, 10])
def test_detectable_difference_is_found_four_times_in_five(pairs):
    samples = np.random.default_rng(0).normal(detectable_difference(2.0, pairs), 2.0, size=(4000, pairs))
    assert (stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)


def test_equal_differences_have_no_spread_and_no_warning():
    result = describe_differences([0.25] * 6)
    assert (result.low, result.high, result.p_value) == (0.25, 0.25, 0.0)
    assert describe_differences([0.0] * 6).p_value == 1.0


def test_mcnemar_counts_photos_that_only_one_network_knows():
    first = answered([0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1, 0, 0])
    second = answered([0, 0, 0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0])
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second) == (5, 1)
    assert test.p_value == pytest.approx(2 * (1 + 6) / 2**6)  # at most one of six coins, either way
    assert mcnemar(first, first).p_value == 1.0
    with pytest.raises(LabError, match="разных снимках"):
        mcnemar(first, answered([0], [0]))


def test_curve_is_summed_up_by_its_area_and_its_milestones():
    history = finished("adam", 0, 0.5).history
    run = replace(
        finished("adam", 0, 0.5), history=pd.concat([history, history, history], ignore_index=True).head(3)
    )
    run.history["epoch"], run.history["test_accuracy"], run.history["seconds"] = (
        [1, 2, 3],
        [0.1, np.nan, 0.5],
        [2.0, 3.0, 4.0],
    )
    assert area_under_curve(run) == pytest.approx(0.3)
    assert reached(run, 0.1) == (1, 2.0) and reached(run, 0.5) == (3, 9.0)
    assert np.isnan(reached(run, 0.6)).all()


@pytest.mark.parametrize(("best", "steps"), [(0.27, [0.1, 0.2]), (0.031, [0.01, 0.02, 0.03]), (0.004, [])])
def test_milestones_are_tens_of_percent_or_single_ones(best, steps):
    compared = runs([best], [best / 2])
    for run in compared:
        run.history["test_accuracy"] = [0.001, run.history["test_accuracy"].iloc[-1]]
    assert sorted(set(frames.milestones(compared)["test_accuracy"])) == pytest.approx(steps)


def test_rates_are_chosen_on_accuracy_then_loss_each_optimizer_alone():
    tuning = [
        tuned("adam", 1e-3, 0.4, 2.0),
        tuned("adam", 1e-2, 0.5, 1.9),
        tuned("adam", 1e-1, 0.5, 1.8),
        tuned("amsgrad", 1e-3, 0.6, 1.0),
    ]
    assert best_rates(tuning) == {"adam": 1e-1, "amsgrad": 1e-3}
    table = words.table(frames.rates(tuning)).set_index("Скорость обучения")
    assert table["Adam, %"].to_dict() | {"0,1": "50,0 ★"} == table["Adam, %"].to_dict()
    assert (
        "Adam: лучше всего 0,1 (50,0 %), не ниже 90 % от лучшей точности — при 2 из 3 скоростей; "
        "лучшая лежит на краю сетки" in stability(tuning)
    )


def test_other_figures_that_differ_are_named_with_wider_intervals():
    pairs = runs(amsgrad=[0.5] * 7, adam=[0.5] * 7)
    assert other_differences(pairs) == "И в других величинах разница не доказана."
    gaps = [0.30, 0.32, 0.28, 0.31, 0.29, 0.30, 0.30]
    for run in pairs:
        run.history.loc[1, "train_loss"] = 1 + (
            gaps[run.experiment.seed] if run.experiment.optimizer == "amsgrad" else 0
        )
    low, high = stats.ttest_1samp(gaps, 0).confidence_interval(1 - 0.05 / 3)
    bounds = f"[+{low:.3f}; +{high:.3f}]".replace(".", ",")
    assert (
        other_differences(pairs)
        == f"Из других величин различаются потери на обучении, нат: разность AMSGrad − Adam +0,300 {bounds} "
        "(интервалы с поправкой Бонферрони на 3 величины)."
    )


def test_maximum_is_described_at_its_strongest_and_at_the_end():
    run = finished("amsgrad", 0, 0.5)
    bound = {"maximum_share": [0.8, 0.4], "step_10": [0.3, 0.7], "step_50": [0.6, 0.9], "step_90": [0.9, 1.0]}
    text = words.maximum([replace(run, history=run.history.assign(**bound)), finished("adam", 0, 0.5)])
    assert (
        "в эпоху 1: он выше v у 80 % весов, медиана множителя шага 0,60 "
        "(у средних 80 % весов от 0,30 до 0,90)" in text
    )
    assert "В последней эпохе он выше v у 40 % весов, медиана множителя шага 0,90" in text


def exploding(weights, lr: float, decay: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent that a large learning rate blows up at its first step."""
    optimizer = torch.optim.SGD(weights, lr)
    if lr > 0.005:
        optimizer.register_step_post_hook(
            lambda sgd, *_: [weight.data.mul_(1e38) for weight in sgd.param_groups[0]["params"]]
        )
    return optimizer


@pytest.mark.parametrize("processes", [1, 2])
def test_rate_that_diverges_is_left_out_of_the_choice(minicars, tmp_path, monkeypatch, capsys, processes):
    monkeypatch.setitem(OPTIMIZERS, "exploding", exploding)
    protocol = Protocol(
        Experiment(epochs=2, image_size=32, batch_size=128), ("adam", "exploding"), (1e-3, 1e-2), seeds=1
    )
    tuning = protocol.tune(minicars, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=processes)
    assert len(tuning) == 3 and best_rates(tuning)["exploding"] == 1e-3
    assert words.table(frames.rates(tuning))["exploding, %"].tolist()[1] == "расходится"
    assert "потери стали nan: уменьшите lr" in capsys.readouterr().out
    hopeless = replace(protocol, grid=(1e-2,))
    with pytest.raises(LabError, match="со всеми скоростями"):
        hopeless.tune(minicars, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=processes)


def test_tuned_runs_are_comparable_but_a_grid_is_taken_apart_by_its_rates():
    final = [finished("adam", seed, 0.5, lr=1e-3) for seed in (0, 1)] + [
        finished("amsgrad", seed, 0.5, lr=1e-2) for seed in (0, 1)
    ]
    assert [len(group) for group in comparable(final)] == [4]
    grid = [finished(name, 0, 0.5, lr=lr) for name in ("adam", "amsgrad") for lr in (1e-3, 1e-2, 1e-1)]
    assert [{run.experiment.lr for run in group} for group in comparable(grid)] == [{1e-3}, {1e-2}, {1e-1}]


def test_every_optimizer_gets_the_same_grid_and_pairs_share_all_but_itself():
    protocol = Protocol(Experiment(epochs=2), ("adam", "sgd", "adamw"), (1e-3, 1e-2, 1e-1), seeds=2)
    tuning = protocol.tuning()
    assert len(tuning) == 9 and {e.lr for e in tuning if e.optimizer == "sgd"} == {1e-3, 1e-2, 1e-1}
    assert [e.lr for e in tuning[:3]] == [1e-2] * 3  # from the middle outwards
    finals = protocol.finals({"adam": 1e-3, "sgd": 1e-1, "adamw": 1e-2})
    assert [(e.optimizer, e.lr, e.weight_decay, e.seed) for e in finals[:3]] == [
        ("adam", 1e-3, 0.0, 0),
        ("sgd", 1e-1, 2e-4, 0),
        ("adamw", 1e-2, 0.05, 0),
    ]
    assert len({replace(e, optimizer="", lr=1, weight_decay=0, seed=0) for e in (*tuning, *finals)}) == 1


@pytest.mark.parametrize("wrong", [("adam",), ("adam", "adam"), ("adam", "lion")])
def test_protocol_that_could_compare_nothing_is_refused(wrong):
    with pytest.raises(LabError, match=wrong[-1]):
        Protocol(Experiment(), wrong)


def test_a_margin_that_is_no_share_is_refused_before_the_first_run():
    with pytest.raises(LabError, match="margin"):
        Protocol(Experiment(), margin=1.5)


def test_runs_without_partners_are_refused():
    with pytest.raises(LabError, match="не образуют пар"):
        paired_difference([finished("amsgrad", 0, 0.5)], [finished("adam", 1, 0.5)])
    with pytest.raises(LabError, match="не образуют пар"):
        paired_difference([finished("amsgrad", 0, 0.5)], [finished("adam", 0, 0.5, batch_size=8)])


def test_summary_reports_the_last_epoch_mean_and_deviation():
    table = words.table(frames.summary(runs(amsgrad=[0.5, 0.6], adam=[0.4, 0.4]))).set_index("Оптимизатор")
    assert table.loc["AMSGrad", "Точность на тесте, %"] == "55,0 ± 7,1"
    assert table.loc["Adam", "Точность на тесте, %"] == "40,0 ± 0,0"


def test_no_answer_is_given_before_the_last_pair_that_was_planned():
    so_far = words.verdict_of(runs(amsgrad=[0.75, 0.76], adam=[0.71, 0.71]), planned=3)
    assert so_far.startswith("Готово пар: 2 из 3; ответ даётся, когда готовы все.")
    assert "AMSGrad — 75,0…76,0 %, Adam — 71,0 %" in so_far and "лучше" not in so_far
    all_three = runs(amsgrad=[0.75, 0.76, 0.77], adam=[0.71, 0.71, 0.70])
    assert words.verdict_of(all_three, planned=3) == words.verdict(all_three)


def test_runs_tested_at_their_ends_alone_have_no_mean_over_the_epochs():
    ends = runs(amsgrad=[0.5, 0.6], adam=[0.4, 0.4])
    for run in ends:
        run.history.loc[2] = run.history.loc[1]
        run.history.loc[1, "test_accuracy"] = np.nan
    table = words.table(frames.summary(ends))
    assert "Точность на тесте, %" in table and "Точность в среднем по эпохам, %" not in table
    assert list(frames.differences(ends)["figure"]) == ["test_accuracy", "test_loss", "train_loss"]
