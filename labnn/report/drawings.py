"""The network and its Fire module, drawn from the model itself: every shape is what its layers gave."""

from copy import deepcopy

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from labnn.kit.numbers import thousands
from labnn.model import FireModule, SqueezeNet
from labnn.report.plots import WIDTH

_SHADES = {FireModule: "#f3d9b1", nn.Conv2d: "#bcd4ea", nn.MaxPool2d: "0.9"}
_ARROW = {"arrowstyle": "-|>", "color": "0.25", "shrinkA": 0, "shrinkB": 0}


def network_layers(model: SqueezeNet, size: int) -> list[tuple[nn.Module, torch.Size]]:
    """Layers of ``model`` on an image of ``size`` pixels, each with the shape of its output, ``(1, channels,
    H, W)``; not those that keep the shape and have no weights.
    """
    model, x, layers = deepcopy(model).cpu().eval(), torch.zeros(1, 3, size, size), []
    for layer in (*model.features, *model.classifier):
        before = x.shape
        with torch.no_grad():
            x = layer(x)
        if x.shape != before or [*layer.parameters()]:
            layers.append((layer, x.shape))
    return layers


def draw_network(model: SqueezeNet, size: int) -> Figure:
    """``network_layers`` from the input down, a box a layer, as wide as the map is large; bypasses beside."""
    layers = [(None, (1, 3, size, size)), *network_layers(model, size)]
    figure, ax = plt.subplots(figsize=(WIDTH, 0.6 + 0.48 * len(layers)))
    ax.set(xlim=(-1, 1.35), ylim=(len(layers) - 0.4, -0.6))
    ax.axis("off")
    for place, (layer, shape) in enumerate(layers):
        width = 0.35 + 0.55 * np.log2(shape[-1]) / np.log2(size)
        _box(ax, (0, place), (2 * width, 0.66), _title(layer), _SHADES.get(type(layer), "white"))
        ax.text(1, place, _shape(shape), va="center", fontsize="small")
        if place:
            ax.annotate("", (0, place - 0.33), (0, place - 0.67), arrowprops=_ARROW)
        if getattr(layer, "bypass", False):
            arc = _ARROW | {"connectionstyle": "bar,fraction=0.4", "linestyle": "--"}
            ax.annotate("", (-width, place + 0.1), (-width, place - 0.8), arrowprops=arc)
    return figure


@torch.no_grad()
def draw_fire(fire: FireModule, in_channels: int, side: int) -> Figure:
    """What ``fire`` does to maps ``(in_channels, side, side)``: squeezed, expanded in two ways, joined."""
    fire, x = deepcopy(fire).cpu().eval(), torch.zeros(1, in_channels, side, side)
    squeezed = fire.squeeze(x)
    norm = " + BN" if isinstance(fire.expand_norm, nn.BatchNorm2d) else ""
    last = f"склейка{norm}\n{'+ вход, ' if fire.bypass else ''}ReLU"
    boxes = [
        ((0, 0), "вход", x, "white"),
        ((2, 0), f"сжатие 1 × 1{norm}\nReLU", squeezed, "#bcd4ea"),
        ((4, 0.85), "расширение 1 × 1", fire.expand1x1(squeezed), "#f3d9b1"),
        ((4, -0.85), "расширение 3 × 3", fire.expand3x3(squeezed), "#f3d9b1"),
        ((6, 0), last, fire(x), "0.9"),
    ]
    figure, ax = plt.subplots(figsize=(WIDTH, 3.4))
    ax.set(xlim=(-0.8, 6.8), ylim=(-1.6, 1.7))
    ax.axis("off")
    for middle, title, maps, shade in boxes:
        _box(ax, middle, (1.5, 1), f"{title}\n{_shape(maps.shape)}", shade)
    for start, end in [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)]:
        (x, y), (to_x, to_y) = boxes[start][0], boxes[end][0]
        ax.annotate("", (to_x - 0.75, to_y), (x + 0.75, y), arrowprops=_ARROW)
    if fire.bypass:
        arc = _ARROW | {"connectionstyle": "bar,fraction=-0.16", "linestyle": "--"}
        ax.annotate("", (6, 0.5), (0, 0.5), arrowprops=arc)
    return figure


def _box(ax: Axes, middle: tuple[float, float], size: tuple[float, float], text: str, shade: str) -> None:
    x, y = np.subtract(middle, np.divide(size, 2))
    ax.add_patch(plt.Rectangle((x, y), *size, facecolor=shade, edgecolor="0.25"))
    ax.text(*middle, text, ha="center", va="center", fontsize="small")


def _shape(shape: tuple[int, ...]) -> str:
    """Of a batch of one: without the batch."""
    return " × ".join(map(thousands, shape[1:]))


def _title(layer: nn.Module | None) -> str:
    if isinstance(layer, FireModule):
        parts = layer.squeeze, layer.expand1x1, layer.expand3x3
        return "Fire: {} → {} + {}".format(*(part.out_channels for part in parts))
    if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
        kernel, stride = np.max(layer.kernel_size), np.max(layer.stride)
        name = "свёртка" if isinstance(layer, nn.Conv2d) else "MaxPool"
        return f"{name} {kernel} × {kernel}" + (f", шаг {stride}" if stride > 1 else "")
    return "среднее по карте" if layer else "снимок"
