"""What is noticed while a network trains: watchers of ``train_test``, each gives columns of its history."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from labnn.kit.diagnose import likely_causes
from labnn.kit.hardware import device_of
from labnn.kit.numbers import number, percent
from labnn.kit.progress import say

COLLAPSE_COLUMNS = ["test_information", "collapsed"]
MAXIMUM_COLUMNS = ["maximum_share", "step_10", "step_50", "step_90"]

# Before that many steps an answer that is the same for every image is no sign of anything.
_STEPS_TO_LEARN = 100

# Of the entropy of the labels. In the recorded runs: 1.5e-7 and less where the network stayed dead, up to
# 3.4e-6 on a plateau that it left later, 4e-5 and more once its answers differed between photos.
_DEAD_INFORMATION = 3e-5


class Epoch(NamedTuple):
    """What a watcher sees: the row of the history in the making and the rows before it, how many steps all
    epochs took, the network that is tested, the optimizer, the test (None in an epoch without one) and the
    loader of the test.
    """

    row: dict
    rows: list[dict]
    steps: int
    model: nn.Module
    optimizer: Optimizer
    test: Any  # train.Evaluation, which stands above
    test_loader: Iterable


def watch_maximum(epoch: Epoch) -> dict[str, float]:
    """How AMSGrad's maximum binds (``maximum_binding``); no column for an optimizer that keeps none."""
    return maximum_binding(epoch.optimizer)


def watch_collapse(epoch: Epoch) -> dict:
    """``test_information``, nats, and ``collapsed``: whether the test shows a network that answers every
    image alike.

    Prints it the first time with the likely causes, and when the network recovers.
    """
    test = epoch.test
    if test is None:
        return {"test_information": math.nan, "collapsed": False}
    if epoch.steps < _STEPS_TO_LEARN:
        return {"test_information": test.information, "collapsed": False}
    before = [row["collapsed"] for row in epoch.rows if not math.isnan(row["test_loss"])]
    collapse = find_collapse(test.predictions, test.labels, test.information, test.loss)
    if collapse and not any(before):
        images = next(iter(epoch.test_loader))[0][:32].to(device_of(epoch.model))
        say(explain_collapse(collapse, epoch.model, images, epoch.row["lr"]))
    if not collapse and any(before[-1:]):
        information = f"взаимная информация {test.information:.2g} нат"
        say(f"Сеть начала учиться: её ответ теперь зависит от снимка ({information}).")
    return {"test_information": test.information, "collapsed": collapse is not None}


class Collapse(NamedTuple):
    """A dead network: share of its most frequent answer and accuracy 0..1, the rest in nats."""

    top_share: float
    information: float
    loss: float
    prior_loss: float
    accuracy: float


def find_collapse(predictions: Tensor, labels: Tensor, information: float, loss: float) -> Collapse | None:
    """Whether a classifier gives every picture the same answer; ``None`` where it does not.

    ``predictions`` and ``labels``: int64 ``(n,)``. ``information`` is the mutual information between the
    picture and the answer drawn from the network's probabilities, in nats (Bridle et al. 1991): 0 when all
    pictures get the same probabilities, whichever class these favour, at most the entropy of the labels when
    each picture gets its class. It is a surer sign than the loss or the most frequent answer, which a healthy
    network may share after a slow start.
    """
    shares = torch.bincount(labels) / len(labels)
    prior_loss = -torch.special.xlogy(shares, shares).sum().item()
    if information >= _DEAD_INFORMATION * prior_loss:
        return None
    top_share = torch.bincount(predictions).max().item() / len(predictions)
    return Collapse(top_share, information, loss, prior_loss, (predictions == labels).double().mean().item())


def explain_collapse(collapse: Collapse, model: nn.Module, images: Tensor, lr: float) -> str:
    """One Russian line: the numbers of ``collapse`` and its likely causes, found on ``model`` and some
    ``images``.
    """
    return (
        "Внимание: сеть не учится и отвечает одинаково на любой снимок. "
        f"Самый частый ответ — {percent(collapse.top_share, 1)} снимков, "
        f"точность {percent(collapse.accuracy, 2)}, "
        f"потери {number(collapse.loss, 4)} при энтропии меток {number(collapse.prior_loss, 4)}. "
        f"Вероятные причины: {'; '.join(likely_causes(model, images, lr))}."
    )


def maximum_binding(optimizer: Optimizer) -> dict[str, float]:
    """How often and how strongly the maximum of AMSGrad binds now; empty for an optimizer that keeps none.

    ``maximum_share``: share of the weights whose running maximum is above the present second moment v.
    ``step_10``, ``step_50``, ``step_90``: quantiles over the weights of AMSGrad's step over the one that Adam
    would take from the same moments, (sqrt(v) + eps) / (sqrt(maximum) + eps), both corrected for bias; 1
    where the maximum does not bind.
    """
    weights = [
        (group, optimizer.state.get(p, {})) for group in optimizer.param_groups for p in group["params"]
    ]
    weights = [(group, state) for group, state in weights if "max_exp_avg_sq" in state]
    if not weights:
        return {}
    steps = torch.stack(
        [torch.as_tensor(state["step"]) for _, state in weights]
    ).tolist()  # one wait for the device
    ratios = []
    for (group, state), step in zip(weights, steps, strict=True):
        correction = 1 - group["betas"][1] ** step
        moments = (state["exp_avg_sq"], state["max_exp_avg_sq"])
        present, largest = ((moment / correction).sqrt() + group["eps"] for moment in moments)
        ratios.append((present / largest).flatten())
    ratio = torch.cat(ratios).numpy(force=True)
    values = [(ratio < 1).mean(), *np.quantile(ratio, [0.1, 0.5, 0.9])]
    return dict(zip(MAXIMUM_COLUMNS, map(float, values), strict=True))
