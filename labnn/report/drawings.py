"""The network and its Fire module, drawn from the model itself: every shape is what a forward pass gave."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from labnn.kit.numbers import thousands
from labnn.model import FireModule
from labnn.report.plots import WIDTH

Layer = tuple[nn.Module, tuple[int, ...]]  # the shape of what it gives, without the batch
_SHADES = {FireModule: "#f3d9b1", nn.Conv2d: "#bcd4ea", nn.MaxPool2d: "0.9"}
_ARROW = {"arrowstyle": "-|>", "color": "0.25", "shrinkA": 0, "shrinkB": 0}


def output_shapes(model: nn.Module, modules: Sequence[nn.Module], images: torch.Tensor) -> list[Layer]:
    """``modules`` of ``model`` in the order that ``images`` pass them, with the shapes of their outputs."""
    layers, training = [], model.training
    keep = lambda module, _, output: layers.append((module, tuple(output.shape[1:])))  # noqa: E731
    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        with torch.no_grad():
            model.eval()(images.to(next(model.parameters()).device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return layers


def network_layers(model: nn.Module, size: int) -> list[Layer]:
    """Fire modules of ``model`` and layers outside; not those that keep the shape and have no weights."""
    inner = {part for fire in model.modules() if isinstance(fire, FireModule) for part in fire.modules()}
    outer = [m for m in model.modules() if isinstance(m, FireModule) or not (m in inner or [*m.children()])]
    shape, layers = (3, size, size), []
    for module, after in output_shapes(model, outer, torch.zeros(1, *shape)):
        if after != shape or [*module.parameters()]:
            layers.append((module, after))
        shape = after
    return layers


def draw_network(model: nn.Module, size: int) -> Figure:
    """``network_layers`` from the input down, a box a layer, as wide as the map is large; bypasses beside."""
    layers = [(None, (3, size, size)), *network_layers(model, size)]
    figure, ax = plt.subplots(figsize=(WIDTH, 0.6 + 0.48 * len(layers)))
    ax.set(xlim=(-1, 1.35), ylim=(len(layers) - 0.4, -0.6))
    ax.axis("off")
    for place, (module, shape) in enumerate(layers):
        width = 0.35 + 0.55 * np.log2(shape[-1]) / np.log2(size)
        _box(ax, (0, place), (2 * width, 0.66), _title(module), _SHADES.get(type(module), "white"))
        ax.text(1, place, _shape(shape), va="center", fontsize="small")
        if place:
            ax.annotate("", (0, place - 0.33), (0, place - 0.67), arrowprops=_ARROW)
        if getattr(module, "bypass", False):
            arc = _ARROW | {"connectionstyle": "bar,fraction=0.4", "linestyle": "--"}
            ax.annotate("", (-width, place + 0.1), (-width, place - 0.8), arrowprops=arc)
    return figure


def draw_fire(fire: FireModule, in_channels: int, side: int) -> Figure:
    """What ``fire`` does to maps ``(in_channels, side, side)``: squeezed, expanded in two ways, joined."""
    parts = [fire.squeeze, fire.expand1x1, fire.expand3x3, fire]
    first = (in_channels, side, side)
    shapes = [first, *(shape for _, shape in output_shapes(fire, parts, torch.zeros(1, *first)))]
    norm = " + BN" if isinstance(fire.expand_norm, nn.BatchNorm2d) else ""
    last = f"склейка{norm}\n{'+ вход, ' if fire.bypass else ''}ReLU"
    titles = ["вход", f"сжатие 1 × 1{norm}\nReLU", "расширение 1 × 1", "расширение 3 × 3", last]
    places = [(0, 0), (2, 0), (4, 0.85), (4, -0.85), (6, 0)]
    shades = ["white", "#bcd4ea", "#f3d9b1", "#f3d9b1", "0.9"]
    figure, ax = plt.subplots(figsize=(WIDTH, 3.4))
    ax.set(xlim=(-0.8, 6.8), ylim=(-1.6, 1.7))
    ax.axis("off")
    for place, title, shape, shade in zip(places, titles, shapes, shades, strict=True):
        _box(ax, place, (1.5, 1), f"{title}\n{_shape(shape)}", shade)
    for start, end in [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)]:
        (x, y), (to_x, to_y) = places[start], places[end]
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
    return " × ".join(map(thousands, shape))


def _title(module: nn.Module | None) -> str:
    if isinstance(module, FireModule):
        squeeze, *expand = (
            part.out_channels for part in (module.squeeze, module.expand1x1, module.expand3x3)
        )
        return f"Fire: {squeeze} → {expand[0]} + {expand[1]}"
    if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
        kernel, stride = (np.max(getattr(module, name)) for name in ("kernel_size", "stride"))
        name = "свёртка" if isinstance(module, nn.Conv2d) else "MaxPool"
        return f"{name} {kernel} × {kernel}" + (f", шаг {stride}" if stride > 1 else "")
    return {"NoneType": "снимок", "AdaptiveAvgPool2d": "среднее по карте"}.get(
        kind := type(module).__name__, kind
    )
