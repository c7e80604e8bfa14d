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
from labnn.report.plots import WIDTH


def class_maps(model: SqueezeNet, images: Tensor) -> Tensor:
    """Maps ``(n, classes, h, w)`` of ``images`` ``(n, 3, H, W)``; the mean of a class's map is its logit.

    Zhou et al. (2016, arXiv 1512.04150) weight the last features by the classifier; SqueezeNet's classifier
    is a convolution before the mean, so that its output is these maps.
    """
    model.eval()
    with torch.inference_mode():
        return model.classifier[:-1](model.features(images.to(device_of(model))))


def plot_class_maps(
    model: SqueezeNet, loader: Iterable, class_names: Sequence[str], columns: int = 5
) -> Figure:
    """The first ``columns`` pictures of ``loader`` that ``model`` names rightly, and below those that it
    mistakes, under the map of the answer.
    """
    rows: dict[bool, list] = {True: [], False: []}
    for images, labels in loader:
        maps = class_maps(model, images)
        answers = maps.mean((2, 3)).argmax(1)
        for image, own, answer, label in zip(images, maps, answers.tolist(), labels.tolist(), strict=True):
            title = class_names[answer] + ("" if answer == label else f"\nа это {class_names[label]}")
            rows[answer == label].append((image, own[answer], title))
    figure, axes = plt.subplots(2, columns, figsize=(WIDTH, 2 * (0.5 + WIDTH / columns)))
    for ax in axes.flat:
        ax.axis("off")
    for line, shown in zip(axes, rows.values(), strict=True):
        for ax, (image, own, title) in zip(line, shown, strict=False):
            draw_map(ax, image, own)
            ax.set_title(title, fontsize="x-small")
    return figure


def draw_map(ax: Axes, image: Tensor, own: Tensor) -> None:
    """A picture ``(3, H, W)`` of any range, darkened where the map ``(h, w)`` is low, light where it is
    high.
    """
    image, own = image.float().cpu(), own.float().cpu()
    image = (image - image.amin()) / (image.amax() - image.amin()).clamp(min=1e-6)
    own = F.interpolate(own[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    own = ((own - own.amin()) / (own.amax() - own.amin()).clamp(min=1e-6)).clamp(0, 1)
    ax.imshow((image * (0.25 + 0.75 * own)).permute(1, 2, 0).numpy())
    ax.contour(own.numpy(), levels=[0.5], colors="white", linewidths=1)
    ax.axis("off")
