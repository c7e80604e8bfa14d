"""Why a network does not learn: where on its way through the layers the signal dies."""

import copy
from dataclasses import replace

import pandas as pd
import torch.nn.functional as F
from torch import Tensor, nn

from labnn.settings import ORIGINAL, make_model


def signal_by_layer(model: nn.Module, images: Tensor, labels: Tensor) -> pd.DataFrame:
    """How much of the difference between ``images`` each convolution passes on, and how much gradient comes
    back to it.

    A row a convolution or linear layer, in the order of the forward pass: ``layer``, its name; ``spread``,
    the standard deviation of its outputs across the images, root mean square over units; ``gradient``, the
    norm of the cross-entropy's gradient by its weights over the norm of these weights. Computed in float32 on
    a copy in training mode without dropout: the model stays as it was. At initialisation Glorot and Bengio
    (2010, section 4.2) and He et al. (2015, section 2.2) ask both to keep their size with depth.
    """
    model = copy.deepcopy(model).float().train()
    spreads: dict[str, float] = {}
    layers: dict[str, nn.Module] = {}

    def measure(name: str, output: Tensor) -> None:
        spreads[name] = output.detach().var(dim=0).mean().sqrt().item()

    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            layers[name] = module
            module.register_forward_hook(lambda _, inputs, output, name=name: measure(name, output))
    F.cross_entropy(model(images), labels).backward()
    weights = [layers[name].weight for name in spreads]
    gradients = [(weight.grad.norm() / weight.norm()).item() for weight in weights]
    return pd.DataFrame({"layer": spreads.keys(), "spread": spreads.values(), "gradient": gradients})


def start_signals(images: Tensor, labels: Tensor, num_classes: int) -> dict[str, pd.DataFrame]:
    """``signal_by_layer`` of the original's untrained network, and with He's weights or batch norm."""
    starts = (ORIGINAL, replace(ORIGINAL, init="he"), replace(ORIGINAL, batch_norm=True))
    return {
        start.changes(ORIGINAL) or "исходная сеть": signal_by_layer(
            make_model(start, num_classes), images, labels
        )
        for start in starts
    }
