"""What is noticed while a network trains: watchers of ``train_test``, each gives columns of its history."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from labnn.kit.numbers import number
from labnn.kit.progress import say

COLLAPSE_COLUMNS = ["test_information", "collapsed"]
MAXIMUM_COLUMNS = ["maximum_share", "step_10", "step_50", "step_90"]

_STEPS_TO_LEARN = 100  # before that an answer that is the same for every image is no sign of anything

# Of the entropy of the labels. In the recorded runs: up to 1.5e-7 where the network stayed dead, up to 3.4e-6
# on a plateau that it left later, from 4e-5 on once its answers differed between photos.
_DEAD_INFORMATION = 3e-5


class Epoch(NamedTuple):
    """What a watcher sees: the row of the history in the making and the rows before it, the steps so far, the
    network that is tested, the optimizer, the test (``train.Evaluation``, None without one), its loader.
    """

    row: dict
    rows: list[dict]
    steps: int
    model: nn.Module
    optimizer: Optimizer
    test: Any
    test_loader: Iterable


def watch_collapse(epoch: Epoch) -> dict:
    """``test_information``, the mutual information between a picture and the answer drawn from the network's
    probabilities, nats (Bridle et al. 1991), and ``collapsed``: whether it is none, every picture being
    answered alike. Says so the first time, and when the network recovers.
    """
    test = epoch.test
    if test is None:
        return {"test_information": math.nan, "collapsed": False}
    levels = chance_levels(test.labels.numpy())
    dead = test.information < _DEAD_INFORMATION * levels.prior_loss
    collapsed = epoch.steps >= _STEPS_TO_LEARN and dead
    before = [row["collapsed"] for row in epoch.rows if not math.isnan(row["test_loss"])]
    if collapsed and not any(before):
        say(
            "Внимание: сеть не учится и отвечает одинаково на любой снимок, потери "
            f"{number(test.loss, 4)} при энтропии меток {number(levels.prior_loss, 4)}: попробуйте другие "
            "начальные веса, пакетную нормализацию, меньшую скорость обучения или уберите ReLU с выхода сети."
        )
    if before and before[-1] and not collapsed:
        say(f"Сеть начала учиться: её ответ теперь зависит от снимка ({test.information:.2g} нат).")
    return {"test_information": test.information, "collapsed": collapsed}


def watch_maximum(epoch: Epoch) -> dict[str, float]:
    """How AMSGrad's maximum binds; no column for an optimizer that keeps none.

    ``maximum_share``: share of the weights whose running maximum is above the present second moment v.
    ``step_10``, ``step_50``, ``step_90``: quantiles over the weights of AMSGrad's step over the one that
    Adam would take from the same moments, (sqrt(v) + eps) / (sqrt(maximum) + eps), both corrected for bias
    where the optimizer counts its steps; 1 where the maximum does not bind.
    """
    groups, states = epoch.optimizer.param_groups, getattr(epoch.optimizer, "state", {})
    weights = [(group, states.get(one, {})) for group in groups for one in group["params"]]
    weights = [(group, state) for group, state in weights if "max_exp_avg_sq" in state]
    if not weights:
        return {}
    steps = torch.stack([torch.as_tensor(state.get("step", math.inf)).double() for _, state in weights])
    ratios = []
    for (group, state), step in zip(weights, steps.tolist(), strict=True):  # one wait for the device
        correction = 1 - group["betas"][1] ** step
        moments = (state["exp_avg_sq"], state["max_exp_avg_sq"])
        present, largest = ((moment / correction).sqrt() + group["eps"] for moment in moments)
        ratios.append((present / largest).float().flatten())
    ratio = torch.cat(ratios).numpy(force=True)
    values = [(ratio < 1).mean(), *np.quantile(ratio, [0.1, 0.5, 0.9])]
    return dict(zip(MAXIMUM_COLUMNS, map(float, values), strict=True))


class ChanceLevels(NamedTuple):
    """What a classifier that has not looked at the image reaches: accuracies 0..1, losses in nats."""

    uniform_accuracy: float
    majority_share: float
    uniform_loss: float
    prior_loss: float


def chance_levels(labels: Sequence[int]) -> ChanceLevels:
    """Accuracy of a uniform guess, share of the largest class, ln K and the entropy of ``labels``, int
    ``(n,)``, with K classes. A network whose loss stops between the last two has learned the class shares
    only.
    """
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    shares = counts / counts.sum()
    entropy = -(shares * np.log(shares)).sum()
    return ChanceLevels(1 / len(counts), float(shares.max()), float(np.log(len(counts))), float(entropy))
