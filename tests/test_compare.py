"""Every optimizer is tuned alike, on validation; then pairs with the best rates answer."""

from dataclasses import replace

import pytest
import torch

from labnn.__main__ import main
from labnn.kit.errors import LabError
from labnn.protocol import Protocol
from labnn.report import records, tables
from labnn.settings import OPTIMIZERS, Experiment


def exploding(weights, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent that a large learning rate blows up at its first step."""
    optimizer = torch.optim.SGD(weights, lr)
    if lr > 0.005:
        optimizer.register_step_post_hook(
            lambda sgd, *_: [weight.data.mul_(1e38) for weight in sgd.param_groups[0]["params"]]
        )
    return optimizer


def test_rate_that_diverges_is_left_out_of_the_choice(minicars, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(OPTIMIZERS, "exploding", exploding)
    protocol = Protocol(
        Experiment(epochs=2, image_size=32, batch_size=128), ("adam", "exploding"), (1e-3, 1e-2), seeds=1
    )
    tuning = protocol.tune(minicars, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=1)
    assert len(tuning) == 3
    assert records.best_rates(records.table(tuning))["exploding"] == 1e-3
    assert tables.rates(records.table(tuning))["exploding, %"].tolist()[1] == "расходится"
    assert "потери стали nan: уменьшите lr" in capsys.readouterr().out
    hopeless = replace(protocol, grid=(1e-2,))
    with pytest.raises(LabError, match="со всеми скоростями"):
        hopeless.tune(minicars, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=1)


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


def test_a_margin_that_is_no_share_is_refused_before_the_first_run(tmp_path, capsys):
    assert main(["compare", "--data", str(tmp_path), "--margin", "150"]) == 2
    assert "margin" in capsys.readouterr().err
