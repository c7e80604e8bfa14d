"""What goes on inside a training: a collapse to the class shares, where on its way the signal dies, how AMSGrad's maximum binds."""

import copy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

MAXIMUM_COLUMNS = ["maximum_share", "step_10", "step_50", "step_90"]


class Collapse(NamedTuple):
    """What the guard of ``train_test`` saw: share of the most frequent answer and accuracy 0..1, the rest in nats."""

    top_share: float
    information: float
    loss: float
    prior_loss: float
    accuracy: float


# Of the entropy of the labels. In the recorded runs: 1.5e-7 and less where the network stayed dead, up to 3.4e-6 on a plateau that
# it left later, 4e-5 and more once its answers told photos apart.
_DEAD_INFORMATION = 3e-5


def find_collapse(predictions: Tensor, labels: Tensor, information: float, loss: float) -> Collapse | None:
    """Tells whether a classifier, tested after an epoch, gives every picture the same answer; ``None`` where it does not.

    ``predictions`` and ``labels``: int64 ``(n,)``. ``information`` is the mutual information between the picture and the
    answer drawn from the network's probabilities, in nats (Bridle et al. 1991): 0 when all pictures get the same
    probabilities, whichever class these favour, at most the entropy of the labels when each picture gets its class. It is
    a surer sign than the loss or the most frequent answer, which a healthy network may share after a first, slow epoch.
    """
    shares = torch.bincount(labels) / len(labels)
    prior_loss = -torch.special.xlogy(shares, shares).sum().item()
    if information >= _DEAD_INFORMATION * prior_loss:
        return None
    top_share = torch.bincount(predictions).max().item() / len(predictions)
    return Collapse(top_share, information, loss, prior_loss, (predictions == labels).double().mean().item())


def explain_collapse(collapse: Collapse, model: nn.Module, images: Tensor, lr: float) -> str:
    """One Russian line: the numbers of ``collapse`` and its likely causes, found on ``model`` and a batch of its ``images``."""
    return (
        f"Внимание: сеть не учится и отвечает одинаково на любой снимок. Самый частый ответ — {collapse.top_share:.1%} снимков, точность "
        f"{collapse.accuracy:.2%}, потери {collapse.loss:.4f} при энтропии меток {collapse.prior_loss:.4f}. "
        f"Вероятные причины: {'; '.join(_causes(model, images, lr))}."
    )


def _causes(model: nn.Module, images: Tensor, lr: float) -> list[str]:
    modules = list(model.modules())
    spread = signal_by_layer(model, images)["spread"]
    causes = []
    if spread.iloc[-1] < 0.05 * spread.iloc[0]:
        sizes = f"{spread.iloc[0]:.2g} после первой свёртки и {spread.iloc[-1]:.2g} после последней"
        causes.append(f"сигнал гаснет по глубине — разброс между снимками {sizes} (начальные веса)")
    last = max(index for index, module in enumerate(modules) if isinstance(module, (nn.Conv2d, nn.Linear)))
    if any(isinstance(module, nn.ReLU) for module in modules[last:]):
        causes.append("ReLU на выходных логитах — там, где он даёт ноль, нет и градиента")
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules):
        causes.append("нет пакетной нормализации")
    causes.append(f"скорость обучения {lr:.2g} — попробуйте другую и разгон с малой")
    return causes


def signal_by_layer(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> pd.DataFrame:
    """How much of the difference between ``images`` each convolution passes on, and how much gradient it gets back.

    One row a convolution or linear layer, in the order of the forward pass: ``layer``, its name; ``spread``, the standard
    deviation of its outputs across the images, root mean square over units; with ``labels`` also ``gradient``, the norm of
    the cross-entropy's gradient by its weights over the norm of these weights. Computed in float32 on a copy in training
    mode without dropout: the model, its batch norm's averages included, stays as it was. At initialisation Glorot and
    Bengio (2010, section 4.2) and He et al. (2015, section 2.2) ask both to keep their size with depth.
    """
    model = copy.deepcopy(model).float().train()
    spreads: dict[str, float] = {}
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
        if name in layers:
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: spreads.__setitem__(
                    name, output.detach().var(dim=0).mean().sqrt().item()
                )
            )
    logits = model(images)
    table = pd.DataFrame({"layer": spreads.keys(), "spread": spreads.values()})
    if labels is not None:
        F.cross_entropy(logits, labels).backward()
        table["gradient"] = [
            (layers[name].weight.grad.norm() / layers[name].weight.norm()).item() for name in table["layer"]
        ]
    return table


def maximum_binding(optimizer: Optimizer) -> dict[str, float]:
    """How often and how strongly the maximum of AMSGrad binds now; empty for an optimizer that keeps none.

    ``maximum_share``: share of the weights whose running maximum is above the present second moment v. ``step_10``, ``step_50``
    and ``step_90``: quantiles over the weights of AMSGrad's step over the one that Adam would take from the same moments,
    (sqrt(v) + eps) / (sqrt(maximum) + eps), both corrected for bias; 1 where the maximum does not bind.
    """
    ratios = []
    for group in optimizer.param_groups:
        for state in (optimizer.state[parameter] for parameter in group["params"]):
            if "max_exp_avg_sq" in state:
                correction = 1 - group["betas"][1] ** state["step"].item()
                present, largest = (
                    (state[name] / correction).sqrt() + group["eps"]
                    for name in ("exp_avg_sq", "max_exp_avg_sq")
                )
                ratios.append((present / largest).flatten())
    if not ratios:
        return {}
    ratio = torch.cat(ratios)
    low, median, high = np.quantile(ratio.numpy(force=True), [0.1, 0.5, 0.9])
    values = [(ratio < 1).double().mean().item(), float(low), float(median), float(high)]
    return dict(zip(MAXIMUM_COLUMNS, values, strict=True))


def near_duplicates(first: np.ndarray, second: np.ndarray, threshold: float = 0.95) -> pd.DataFrame:
    """Pairs of nearly the same picture, one from each of two decoded parts, uint8 ``(n, size, size, 3)``.

    Pictures are shrunk to 32 x 32 and correlated over pixels and channels, as they are and mirrored; columns ``first``,
    ``second`` (indices) and ``correlation`` of at least ``threshold``, the largest first.
    """
    first, second = _small_and_standard(first), _small_and_standard(second)
    mirrored = first.view(-1, 3, 32, 32).flip(3).flatten(1)
    correlation = torch.maximum(first @ second.T, mirrored @ second.T)
    pairs = (correlation >= threshold).nonzero()
    table = pd.DataFrame(
        {"first": pairs[:, 0], "second": pairs[:, 1], "correlation": correlation[pairs[:, 0], pairs[:, 1]]}
    )
    return table.sort_values("correlation", ascending=False, ignore_index=True)


def _small_and_standard(images: np.ndarray) -> Tensor:
    parts = (
        torch.from_numpy(images).permute(0, 3, 1, 2).split(256)
    )  # not all at once: floats take four times the bytes
    pixels = torch.cat([F.interpolate(part.float(), (32, 32), mode="area") for part in parts]).flatten(1)
    return F.normalize(pixels - pixels.mean(dim=1, keepdim=True), dim=1)
