"""What in a picture speaks for an answer: class activation maps."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from labnn.kit.hardware import device_of
from labnn.model import SqueezeNet
from labnn.report.plots import WIDTH, stretched


def class_maps(model: SqueezeNet, images: Tensor) -> Tensor:
    """Maps ``(n, classes, h, w)`` of ``images`` ``(n, 3, H, W)``, whose means are the logits: what Zhou et
    al. (2016, arXiv 1512.04150) make of features and classifier is here the output of the last convolution.
    """
    model.eval()
    with torch.no_grad():
        return model.classifier[:-1](model.features(images.to(device_of(model))))


def plot_class_maps(
    model: SqueezeNet, loader: Iterable, class_names: Sequence[str], columns: int = 5
) -> Figure:
    """The first ``columns`` pictures of ``loader`` that ``model`` names rightly, and below those that it
    mistakes, under the map of the answer.
    """
    figure, axes = plt.subplots(2, columns, figsize=(WIDTH, 2 * (0.5 + WIDTH / columns)))
    for ax in axes.flat:
        ax.axis("off")
    free = {True: [*axes[0]], False: [*axes[1]]}
    for images, labels in loader:
        maps = class_maps(model, images)
        for image, own, label in zip(images, maps, labels.tolist(), strict=True):
            answer = int(own.mean((1, 2)).argmax())
            if free[answer == label]:
                ax = free[answer == label].pop(0)
                draw_map(ax, image, own[answer])
                mistake = "" if answer == label else f"\nа это {class_names[label]}"
                ax.set_title(class_names[answer] + mistake, fontsize="x-small")
    return figure


def draw_map(ax: Axes, image: Tensor, own: Tensor) -> None:
    """A picture ``(3, H, W)`` of any range, dark where the map ``(h, w)`` is low, light where it is high."""
    own = F.interpolate(own[None, None].float(), image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    image, own = stretched(image), stretched(own)
    ax.imshow((image * (0.25 + 0.75 * own)).permute(1, 2, 0).numpy())
    ax.contour(own.numpy(), levels=[0.5], colors="white", linewidths=1)
    ax.axis("off")
