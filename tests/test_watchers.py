"""A network that does not learn is told, one that learns is left in peace; a watcher is a function."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PROJECT
from test_train import LABELS, PICTURES, loader, network, train
from torch import nn
from torch.optim import SGD, Adam, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from labnn import SqueezeNet, evaluate
from labnn.experiment import Run
from labnn.kit.numbers import number
from labnn.kit.watchers import Epoch, watch_maximum

PAIRS = DataLoader(TensorDataset(PICTURES, LABELS), batch_size=2)
A_HUNDRED_STEPS = {"train_loader": PAIRS, "epochs": 17, "test_every": 17}


def test_guard_tells_of_a_dead_network_once_with_its_loss_and_what_to_try(capsys):
    torch.manual_seed(0)
    original = SqueezeNet(10, version="1_0", batch_norm=False, init="default")
    history = train(original, lambda model: Adam(model.parameters(), 1e-4), **A_HUNDRED_STEPS)
    [told] = capsys.readouterr().out.splitlines()
    assert history["collapsed"].tolist() == [False] * 16 + [True]
    assert told.startswith("Внимание: сеть не учится и отвечает одинаково на любой снимок")
    assert f"потери {number(history['test_loss'].iloc[-1], 4)} при энтропии меток" in told
    assert all(
        cure in told for cure in ("начальные веса", "нормализацию", "меньшую скорость", "уберите ReLU")
    )


def test_guard_is_silent_on_a_network_that_learns(capsys):
    assert not train(**A_HUNDRED_STEPS)["collapsed"].any()
    assert capsys.readouterr().out == ""


def test_guard_tells_when_a_dead_network_comes_to_life(capsys):
    model = network()
    nn.init.zeros_(model[6].weight)
    sgd = lambda model: SGD(model.parameters(), lr=0.1)  # noqa: E731
    waits = lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: float(step >= 102))  # noqa: E731
    history = train(model, sgd, schedule=waits, **(A_HUNDRED_STEPS | {"epochs": 34}))
    _, dead, alive = capsys.readouterr().out.splitlines()
    assert history["collapsed"].iloc[[16, 33]].tolist() == [True, False]
    assert dead.startswith("Внимание: сеть не учится") and alive.startswith("Сеть начала учиться")


def test_guard_was_right_about_every_recorded_run():
    """Where it spoke, one answer stood for (nearly) all photos, and it took that back before any run beat the
    most frequent class.
    """
    runs = [Run.load(path.parent) for path in sorted((PROJECT / "data" / "runs").rglob("run.json"))]
    assert {bool(run.history["collapsed"].iloc[-1]) for run in runs} == {False, True}
    for run in runs:
        majority = run.predictions["label"].value_counts(normalize=True).iloc[0]
        learned = run.history["test_accuracy"] > 1.5 * majority
        assert not (run.history["collapsed"] & learned).any()
        if run.history["collapsed"].iloc[-1]:
            assert run.predictions["prediction"].value_counts(normalize=True).iloc[0] > 0.9


@pytest.mark.parametrize("scale, expected", [(0.0, 0.0), (100.0, np.log(10))])
def test_information_is_nothing_for_one_answer_and_all_for_a_sure_one(scale, expected):
    labels = torch.arange(40) % 10
    images = F.one_hot(labels, 10).float().view(40, 10, 1, 1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 10, bias=False))
    model[1].weight.data = scale * torch.eye(10)
    result = evaluate(model, [(images[:30], labels[:30]), (images[30:], labels[30:])])
    assert result.information == pytest.approx(expected, abs=1e-6)


def test_classes_ruled_out_by_minus_infinity_leave_the_figures_numbers(capsys):
    """Of a network that answers every photo rightly and surely."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, images):
            sure = 10 * F.one_hot(images[:, 0, 0, 0].long(), 4).float() + self.weight
            return torch.cat([sure, torch.full((len(images), 2), -torch.inf)], 1)

    labels = torch.arange(24) % 4
    batches = [(labels.float()[:, None, None, None].expand(24, 3, 8, 8), labels)] * 100
    sgd = lambda model: SGD(model.parameters(), 1e-3)  # noqa: E731
    known = {"criterion": lambda logits, labels: F.cross_entropy(logits[:, :4], labels)}
    history = train(Masked(), sgd, batches, batches, 1, **known)
    assert history["test_accuracy"].item() == 1 and not history["collapsed"].item()
    assert history["test_information"].item() == pytest.approx(np.log(4), abs=0.01)
    assert capsys.readouterr().out == ""


def bound(optimizer) -> dict[str, float]:
    return watch_maximum(Epoch({}, [], 0, network(), optimizer, None, []))


def test_maximum_binds_where_the_second_moment_has_fallen():
    """Of three weights with a large first gradient one has none later; what is left of it is largest."""
    weights = nn.Parameter(torch.zeros(3))
    optimizer = Adam([weights], 1e-3, amsgrad=True)
    for gradient in ([1.0, 1.0, 1.0], [0.0, 0.5, 1.0]):
        weights.grad = torch.tensor(gradient)
        optimizer.step()
    found = bound(optimizer)
    assert found["maximum_share"] == pytest.approx(1 / 3)  # 0.999 + 0.001 * 0.25 is still above 1
    state = optimizer.state[weights]
    steps = (state["exp_avg_sq"] / state["max_exp_avg_sq"]).sqrt()
    assert found["step_10"] == pytest.approx(np.quantile(steps, 0.1), rel=1e-4)
    assert found["step_50"] == found["step_90"] == 1


def test_steps_counted_by_a_plain_number_are_corrected_as_pytorchs():
    """As optimizers written by hand count them."""
    weights = nn.Parameter(torch.zeros(3))
    optimizer = Adam([weights], 1e-3, amsgrad=True)
    weights.grad = torch.ones(3)
    optimizer.step()
    theirs = bound(optimizer)
    optimizer.state[weights]["step"] = 1
    assert bound(optimizer) == theirs


def test_optimizer_without_a_maximum_has_no_such_columns():
    assert "maximum_share" not in train(epochs=1)


def test_a_watcher_of_ones_own_adds_its_columns():
    """It sees each epoch's row, network and test; an epoch without a test has none."""

    def weigh(epoch):
        norm = sum(weight.norm().item() for weight in epoch.model.parameters())
        return {"weight_norm": norm, "tested": epoch.test is not None, "before": len(epoch.rows)}

    history = train(train_loader=loader(), epochs=3, test_every=3, watchers=(weigh,))
    assert list(history.columns[-3:]) == ["weight_norm", "tested", "before"]
    assert history["tested"].tolist() == [True, False, True] and history["before"].tolist() == [0, 1, 2]
