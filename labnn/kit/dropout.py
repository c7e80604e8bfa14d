"""Dropout at a fraction of the time on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """``nn.Dropout`` whose mask takes a byte of randomness an element on a CPU, ``p`` being rounded to 1/256.

    PyTorch draws a whole random number for each element there, which is 7 % of a training step.
    """

    def __init__(self, p: float = 0.5):
        super().__init__(p)
        # torch.fx enters no module of torch.nn: a trace calls this one whole, and eval() switches it off.
        self.__module__ = nn.Dropout.__module__

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and self.training and not _in_a_compiler():
            threshold = round(256 * self.p)
            if x.device.type == "cpu" and x.numel() % 8 == 0 and 0 < threshold < 256:
                random = torch.empty_like(x, dtype=torch.uint8)
                random.as_strided((x.numel(),), (1,)).view(torch.int64).random_(-(2**63), None)
                return x * ((random >= threshold).to(x.dtype) * (256 / (256 - threshold)))
        return F.dropout(x, self.p, self.training)


def _in_a_compiler() -> bool:
    """Whether the call is being recorded (``torch.jit.trace``, ``torch.export``), not done."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()
