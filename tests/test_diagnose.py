"""Why a network does not learn is found and told; a network that learns is left in peace."""

import numpy as np
import pytest
import torch
from conftest import PROJECT, handful
from torch import nn
from torch.utils.data import DataLoader

from labnn.experiment import load_runs
from labnn.kit.diagnose import signal_by_layer
from labnn.kit.numbers import number, percent
from labnn.kit.watchers import maximum_binding
from labnn.model import SqueezeNet
from labnn.train import evaluate, train_test

ORIGINAL = {"version": "1_0", "batch_norm": False, "init": "default"}


def train_for_a_hundred_steps(model, lr: float):
    loader = DataLoader(handful(), batch_size=2)
    return train_test(
        model,
        torch.optim.Adam(model.parameters(), lr=lr),
        loader,
        loader,
        17,
        test_every=17,
        progress=lambda rows, epochs: None,
    )


def test_guard_tells_of_a_dead_network_once_with_numbers_and_causes(capsys):
    torch.manual_seed(0)
    history = train_for_a_hundred_steps(SqueezeNet(10, **ORIGINAL), lr=1e-4)
    told = capsys.readouterr().out.splitlines()
    assert history["collapsed"].iloc[-1]
    assert len(told) == 1 and told[0].startswith("Внимание: сеть не учится")
    assert f"потери {number(history['test_loss'].iloc[-1], 4)}" in told[0]
    assert f"Самый частый ответ — {percent(1, 1)} снимков" in told[0]
    for cause in (
        "сигнал гаснет",
        "ReLU на выходных логитах",
        "нет пакетной нормализации",
        "скорость обучения 0,0001",
    ):
        assert cause in told[0]


def test_guard_is_silent_on_a_network_that_learns(capsys):
    torch.manual_seed(0)
    history = train_for_a_hundred_steps(SqueezeNet(10, dropout=0.0), lr=1e-3)
    assert capsys.readouterr().out == ""
    assert not history["collapsed"].any()


def test_guard_tells_when_a_dead_network_comes_to_life(capsys):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))
    nn.init.zeros_(model[1].weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    waits = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step >= 102))
    loader = DataLoader(handful(), batch_size=2)
    history = train_test(
        model,
        optimizer,
        loader,
        loader,
        34,
        scheduler=waits,
        test_every=17,
        progress=lambda rows, epochs: None,
    )
    told = capsys.readouterr().out.splitlines()
    assert history["collapsed"].iloc[[16, 33]].tolist() == [True, False]
    assert len(told) == 2 and told[1].startswith("Сеть начала учиться")


def test_guard_was_right_about_every_recorded_run():
    """Where it spoke, one answer stood for (nearly) all photos, and it took that back before any run beat the
    most frequent class.
    """
    runs = [
        run
        for folder in ("", "collapse", "causes", "levers", "recipe")
        for run in load_runs(PROJECT / "data" / "runs" / folder)
    ]
    assert {bool(run.history["collapsed"].iloc[-1]) for run in runs} == {False, True}
    for run in runs:
        majority = run.predictions["label"].value_counts(normalize=True).iloc[0]
        learned = run.history["test_accuracy"] > 1.5 * majority
        assert not (run.history["collapsed"] & learned).any()
        if (
            run.experiment.batch_norm and learned.iloc[-1]
        ):  # without it a network may stand still for epochs before it learns
            assert not run.history["collapsed"].any()
        if run.history["collapsed"].iloc[-1]:
            assert run.predictions["prediction"].value_counts(normalize=True).iloc[0] > 0.9


@pytest.mark.parametrize("scale, expected", [(0.0, 0.0), (100.0, np.log(10))])
def test_information_is_nothing_for_one_answer_and_all_for_a_sure_one(scale, expected):
    labels = torch.arange(40) % 10
    images = nn.functional.one_hot(labels, 10).float().view(40, 10, 1, 1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 10, bias=False))
    model[1].weight.data = scale * torch.eye(10)
    result = evaluate(model, [(images[:30], labels[:30]), (images[30:], labels[30:])])
    assert result.information == pytest.approx(expected, abs=1e-6)


def test_default_start_loses_the_signal_with_depth_and_he_keeps_it():
    images, labels = handful().tensors
    dead, alive = (
        signal_by_layer(SqueezeNet(10, version="1_0", batch_norm=False, init=init), images, labels)
        for init in ("default", "he")
    )
    assert list(dead["layer"][[0, 1, 25]]) == ["features.0", "features.3.squeeze", "classifier.1"]
    assert dead["spread"].iloc[-1] < 1e-4 * dead["spread"].iloc[0]
    assert alive["spread"].iloc[-2] > 0.1 * alive["spread"].iloc[0]
    assert dead["gradient"].iloc[0] < 1e-4 * alive["gradient"].iloc[0]


def test_looking_at_the_signal_leaves_the_model_as_it_was():
    model = SqueezeNet(10).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    signal_by_layer(model, *handful().tensors)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training and all(parameter.grad is None for parameter in model.parameters())


def test_spread_is_the_deviation_across_images():
    images = torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    layer = nn.Conv2d(3, 5, 3)
    outputs = layer(images)
    assert signal_by_layer(nn.Sequential(layer), images)["spread"].item() == pytest.approx(
        outputs.var(dim=0).mean().sqrt().item()
    )


def test_maximum_binds_where_the_second_moment_has_fallen():
    """Of two weights with a large first gradient one has none later; the third's grows: the maximum binds for
    the first two.
    """
    weights = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([weights], 1e-3, amsgrad=True)
    for gradient in ([1.0, 1.0, 1.0], [0.0, 0.5, 1.0]):
        weights.grad = torch.tensor(gradient)
        optimizer.step()
    found = maximum_binding(optimizer)
    assert found["maximum_share"] == pytest.approx(
        1 / 3
    )  # 0.999 + 0.001 * 0.25 is still above 1: only the first fell
    state = optimizer.state[weights]
    steps = (state["exp_avg_sq"] / state["max_exp_avg_sq"]).sqrt()
    assert found["step_10"] == pytest.approx(np.quantile(steps, 0.1), rel=1e-4)
    assert found["step_50"] == found["step_90"] == 1


def test_optimizer_without_a_maximum_records_none():
    weights = torch.nn.Parameter(torch.zeros(3))
    for optimizer in (torch.optim.Adam([weights]), torch.optim.SGD([weights], 0.1)):
        weights.grad = torch.ones(3)
        optimizer.step()
        assert maximum_binding(optimizer) == {}
