"""The network: SqueezeNet of Iandola et al. (2016), arXiv 1602.07360, with optional batch norm."""

import torch
from torch import Tensor, nn

from labnn.kit.dropout import Dropout
from labnn.kit.errors import check

# Stem channels and kernel, then in the network's order, after the stem's own pool, Fire modules by their
# squeeze channels (each of the two expand convolutions has four times as many) and "pool", a 3x3 max-pool of
# stride 2. 1.0 is table 1 of the paper, 1.1 the authors' later variant with 2.4 times fewer operations.
_LAYOUTS = {
    "1_0": (96, 7, [16, 16, 32, "pool", 32, 48, 48, 64, "pool", 64]),
    "1_1": (64, 3, [16, 16, "pool", 32, 32, "pool", 48, 48, 64, 64]),
}


class FireModule(nn.Module):
    """Squeeze to few channels by 1x1 convolutions, expand by 1x1 and 3x3 ones (paper, section 3.2).

    ``(batch, in_channels, H, W)`` becomes ``(batch, expand1x1_channels + expand3x3_channels, H, W)``. With
    ``batch_norm`` each stage is normalised before its ReLU, and its convolutions need no bias. With
    ``bypass`` the input is added before the last ReLU where it has the output's shape (section 6, "simple").
    """

    def __init__(
        self,
        in_channels: int,
        squeeze_channels: int,
        expand1x1_channels: int,
        expand3x3_channels: int,
        batch_norm: bool = False,
        bypass: bool = False,
    ):
        super().__init__()
        out_channels, bias = expand1x1_channels + expand3x3_channels, not batch_norm
        self.squeeze = nn.Conv2d(in_channels, squeeze_channels, 1, bias=bias)
        self.expand1x1 = nn.Conv2d(squeeze_channels, expand1x1_channels, 1, bias=bias)
        self.expand3x3 = nn.Conv2d(squeeze_channels, expand3x3_channels, 3, padding=1, bias=bias)
        self.squeeze_norm = nn.BatchNorm2d(squeeze_channels) if batch_norm else nn.Identity()
        self.expand_norm = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.bypass = bypass and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.relu(self.squeeze_norm(self.squeeze(x)))
        # One norm and one ReLU over the joined halves: the same numbers, fewer passes over memory.
        expanded = self.expand_norm(torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], dim=1))
        return self.relu(expanded + x if self.bypass else expanded)


class SqueezeNet(nn.Module):
    """SqueezeNet ``version`` "1_0" or "1_1" for ``num_classes`` classes.

    Images ``(batch, 3, H, W)``, float, become logits ``(batch, num_classes)``; H and W are at least 21 pixels
    (the three pools leave nothing of smaller ones). Without ``batch_norm`` the ``state_dict`` has the keys
    and shapes of torchvision's ``squeezenet1_0/1_1``, and the same weights give the same outputs.

    ``logits_relu`` keeps the paper's ReLU over the last convolution. Half of the logits start below zero,
    where it has no gradient, and the network then tends to stay at the class shares (loss ln K) for ever; so
    it is left out by default with ``batch_norm``, and kept, for torchvision's sake, without.

    ``init`` "he": convolutions start from He et al. (2015, arXiv 1502.01852, eq. 10), the last from N(0,
    0.01) as in the paper's own configuration. "default": PyTorch's start, U(-a, a) with a = 1/sqrt(fan in),
    too small for this depth: the signal dies before the last layer (``report.signal`` shows it).

    Raises ``LabError`` for values out of range.
    """

    def __init__(
        self,
        num_classes: int = 196,
        version: str = "1_1",
        batch_norm: bool = True,
        bypass: bool = False,
        dropout: float = 0.5,
        *,
        logits_relu: bool | None = None,
        init: str = "he",
    ):
        super().__init__()
        check("num_classes", num_classes, int, 1, 10**6)
        check("version", version, str, choices=_LAYOUTS)
        check("dropout", dropout, float, 0, 1)
        check("init", init, str, choices=("he", "default"))
        channels, kernel, layout = _LAYOUTS[version]
        # The stem's ReLU commutes with its pool: after it, the same numbers from a quarter of the memory.
        stem = nn.Conv2d(3, channels, kernel, stride=2)
        layers = [stem, nn.MaxPool2d(3, stride=2, ceil_mode=True), nn.ReLU(inplace=True)]
        for squeeze in layout:
            if squeeze == "pool":
                layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
            else:
                layers.append(FireModule(channels, squeeze, 4 * squeeze, 4 * squeeze, batch_norm, bypass))
                channels = 8 * squeeze
        self.features = nn.Sequential(*layers)
        keeps_relu = not batch_norm if logits_relu is None else logits_relu
        relu = nn.ReLU(inplace=True) if keeps_relu else nn.Identity()
        last = nn.Conv2d(channels, num_classes, 1)
        self.classifier = nn.Sequential(Dropout(dropout), last, relu, nn.AdaptiveAvgPool2d(1))
        if init == "he":
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
            nn.init.normal_(last.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images)).flatten(1)
