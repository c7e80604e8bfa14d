"""The exponential moving average of a network's weights."""

from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average(AveragedModel):
    """PyTorch's average of weights and buffers, ``decay`` the share of the old ones, whose step waits for no
    device.

    PyTorch's own sends its counter of steps to the device for each kind of number. Integers are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, use_buffers=True)
        self.mix = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Takes the present weights of ``model`` in; the first ones as they are."""
        means, values = _tensors(self.module), _tensors(model)
        mixed = [bool(self.n_averaged) and mean.is_floating_point() for mean in means]
        for mean, value, mix in zip(means, values, mixed, strict=True):
            if not mix:
                mean.copy_(value)
        if any(mixed):
            self.mix(_chosen(means, mixed), _chosen(values, mixed), self.n_averaged)
        self.n_averaged += 1  # on the host


def _tensors(model: nn.Module) -> list[Tensor]:
    return list(chain(model.parameters(), model.buffers()))


def _chosen(tensors: list[Tensor], chosen: list[bool]) -> list[Tensor]:
    return [tensor for tensor, is_chosen in zip(tensors, chosen, strict=True) if is_chosen]
