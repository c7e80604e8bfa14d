"""Dropout at a fraction of the time on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """``nn.Dropout`` whose mask takes a byte of randomness an element on a CPU, ``p`` being rounded to 1/256.

    PyTorch draws a whole random number for each element there, which is 7 % of a training step.
    """

    def forward(self, x: Tensor) -> Tensor:
        threshold = round(256 * self.p)
        masks = self.training and 0 < threshold < 256 and not torch.compiler.is_compiling()
        if not (masks and x.device.type == "cpu" and x.numel() % 8 == 0):
            return F.dropout(x, self.p, self.training)
        random = torch.empty_like(x, dtype=torch.uint8)
        random.as_strided((x.numel(),), (1,)).view(torch.int64).random_(-(2**63), None)
        return x * ((random >= threshold).to(x.dtype) * (256 / (256 - threshold)))
