"""The comparison is paired, gives an interval, and never calls noise a result."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from labnn.compare import paired_difference
from labnn.errors import LabError
from labnn.experiment import Experiment, Run
from labnn.tables import summary_table, verdict
from labnn.train import HISTORY_COLUMNS


def finished(optimizer: str, seed: int, test_accuracy: float, **settings) -> Run:
    """A run of two epochs whose last test accuracy is given; the first epoch is better, and must not count."""
    rows = [[1, 1e-3, 1.0, 2.0, 0.1, 2.0, 0.999, 0.1, False], [2, 1e-3, 1.0, 1.0, 0.5, 1.0, test_accuracy, 0.1, False]]
    history = pd.DataFrame(rows, columns=HISTORY_COLUMNS)
    data = {"name": "cars", "fingerprint": "0", "train": 2, "test": 2, "classes": 2, "crop_to_box": False}
    return Run(Experiment(optimizer=optimizer, seed=seed, epochs=2, **settings), data, history, pd.DataFrame(), {})


def runs(amsgrad, adam) -> list[Run]:
    return [finished(name, seed, value) for name, values in (("amsgrad", amsgrad), ("adam", adam)) for seed, value in enumerate(values)]


def test_difference_and_interval_are_the_paired_t_tests():
    first, second = [0.52, 0.55, 0.50, 0.58], [0.50, 0.54, 0.51, 0.53]
    result = paired_difference([finished("amsgrad", s, v) for s, v in enumerate(first)], [finished("adam", s, v) for s, v in enumerate(second)])
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


def test_one_pair_proves_nothing_however_large():
    assert "разница не доказана" in verdict(runs(amsgrad=[0.9], adam=[0.1]))


@pytest.mark.parametrize("sign, better", [(1, "AMSGrad"), (-1, "Adam")])
def test_steady_difference_is_told_with_its_side(sign, better):
    adam = np.array([0.50, 0.53, 0.54, 0.52])
    text = verdict(runs(amsgrad=adam + sign * np.array([0.10, 0.11, 0.09, 0.10]), adam=adam))
    assert text.endswith(f"точнее {better}.") and "не доказана" not in text


def test_runs_without_partners_are_refused():
    with pytest.raises(LabError, match="не образуют пар"):
        paired_difference([finished("amsgrad", 0, 0.5)], [finished("adam", 1, 0.5)])
    with pytest.raises(LabError, match="не образуют пар"):
        paired_difference([finished("amsgrad", 0, 0.5)], [replace(finished("adam", 0, 0.5, lr=0.1))])


def test_summary_reports_the_last_epoch_mean_and_deviation():
    table = summary_table(runs(amsgrad=[0.5, 0.6], adam=[0.4, 0.4])).set_index("Оптимизатор")
    assert table.loc["AMSGrad", "Точность на тесте, %"] == "55,0 ± 7,1"
    assert table.loc["Adam", "Точность на тесте, %"] == "40,0 ± 0,0"
