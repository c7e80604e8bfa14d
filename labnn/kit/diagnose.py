"""Why a network does not learn: where on its way the signal dies, and what else is known to keep it dead."""

import copy

import pandas as pd
import torch.nn.functional as F
from torch import Tensor, nn

from labnn.kit.numbers import rate, scientific


def likely_causes(model: nn.Module, images: Tensor, lr: float) -> list[str]:
    """Russian words for what on ``model`` keeps it from learning, with the signal of ``images``
    (``signal_by_layer``).
    """
    modules = list(model.modules())
    spread = signal_by_layer(model, images)["spread"]
    causes = []
    if spread.iloc[-1] < 0.05 * spread.iloc[0]:
        start, end = map(scientific, spread.iloc[[0, -1]])
        sizes = f"{start} после первой свёртки и {end} после последней"
        causes.append(f"сигнал гаснет по глубине — разброс между снимками {sizes} (начальные веса)")
    last = max(index for index, module in enumerate(modules) if isinstance(module, (nn.Conv2d, nn.Linear)))
    if any(isinstance(module, nn.ReLU) for module in modules[last:]):
        causes.append("ReLU на выходных логитах — там, где он даёт ноль, нет и градиента")
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules):
        causes.append("нет пакетной нормализации")
    causes.append(f"скорость обучения {rate(lr)} — попробуйте другую и разгон с малой")
    return causes


def signal_by_layer(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> pd.DataFrame:
    """How much of the difference between ``images`` each convolution passes on, and how much gradient it gets
    back.

    One row a convolution or linear layer, in the order of the forward pass: ``layer``, its name; ``spread``,
    the standard deviation of its outputs across the images, root mean square over units; with ``labels`` also
    ``gradient``, the norm of the cross-entropy's gradient by its weights over the norm of these weights.
    Computed in float32 on a copy in training mode without dropout: the model, its batch norm's averages
    included, stays as it was. At initialisation Glorot and Bengio (2010, section 4.2) and He et al. (2015,
    section 2.2) ask both to keep their size with depth.
    """
    model = copy.deepcopy(model).float().train()
    spreads: dict[str, float] = {}

    def measure(name: str, output: Tensor) -> None:
        spreads[name] = output.detach().var(dim=0).mean().sqrt().item()

    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            layers[name] = module
            module.register_forward_hook(lambda _, inputs, output, name=name: measure(name, output))
    logits = model(images)
    table = pd.DataFrame({"layer": spreads.keys(), "spread": spreads.values()})
    if labels is not None:
        F.cross_entropy(logits, labels).backward()
        weights = [layers[name].weight for name in table["layer"]]
        table["gradient"] = [(weight.grad.norm() / weight.norm()).item() for weight in weights]
    return table
