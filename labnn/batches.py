"""Labelled images to batches, fast: whole batches augmented on the device that trains."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from labnn.kit.errors import LabError, check
from labnn.kit.hardware import resident, sent

# Channel means and deviations of ImageNet photos (0..255), the field's usual normalisation.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


class Batches:
    """Iterates ``(images, labels)``: normalised float32 ``(n, 3, H, W)``, channels last, and int64 ``(n,)``.

    ``images`` is uint8 ``(n, H, W, 3)``; a GPU gets it whole where it takes half of the free memory at most.
    ``augment(images, generator, epoch)`` changes a float batch (0..255) on the device, then ``mix(images,
    labels, random)`` the normalised one. With ``shuffle`` each pass has its own order and augmentation, by
    ``seed`` and its number. Random numbers are the host's, the same for every device, and no step waits.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        *,
        device: str | torch.device = "cpu",
        shuffle: bool = False,
        augment: Callable[[Tensor, torch.Generator, int], Tensor] | None = None,
        mix: Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]] | None = None,
        seed: int = 0,
    ):
        check("batch_size", batch_size, int, 1, 10**6)
        if len(images) != len(labels):
            raise LabError(f"Снимков {len(images)}, а меток {len(labels)}: дайте по метке на снимок.")
        self.device = torch.device(device)
        self.images = resident(torch.from_numpy(images), self.device)
        self.labels = torch.as_tensor(labels, dtype=torch.int64).to(self.device)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.augment, self.mix = augment, mix
        self._epoch = 0
        self._mean = torch.tensor(_MEAN).view(3, 1, 1).to(self.device)
        self._std = torch.tensor(_STD).view(3, 1, 1).to(self.device)

    def __len__(self) -> int:
        return len(self._sizes())

    def _sizes(self) -> list[int]:
        """Images in each batch; with ``shuffle`` one left alone joins the last: batch norm needs a spread."""
        full, left = divmod(len(self.labels), self.batch_size)
        if self.shuffle and full and left == 1:
            return [self.batch_size] * (full - 1) + [self.batch_size + 1]
        return [self.batch_size] * full + [left] * (left > 0)

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass the one number ``epoch``, from 0, as in PyTorch's ``DistributedSampler``."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self._epoch
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        random = np.random.default_rng([self.seed, epoch])
        self._epoch += 1
        n, sizes = len(self.labels), self._sizes()
        order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
        labels = self.labels[sent(order, self.device)].split(sizes)
        for chosen, classes in zip(sent(order, self.images.device).split(sizes), labels, strict=True):
            images = sent(self.images[chosen], self.device).permute(0, 3, 1, 2)
            # Channel after channel while each picture has factors of its own: ten times faster on a CPU.
            images = images.to(torch.float32, memory_format=torch.contiguous_format)
            if self.augment is not None:
                images = self.augment(images, generator, epoch)
            images = images.sub_(self._mean).div_(self._std).contiguous(memory_format=torch.channels_last)
            yield (images, classes) if self.mix is None else self.mix(images, classes, random)


class Augment:
    """New pictures from old, each drawn for itself: float ``(batch, 3, h, w)``, 0..255, to side ``side``.

    ``side`` is the size itself, or a function of the epoch from 0 that gives it (``growing``). A random crop
    has ``min_area``..1 of the picture's area and an aspect of 3/4..4/3 (Szegedy et al. 2014, arXiv 1409.4842,
    section 6); with ``mirror`` half of the pictures are mirrored; one bilinear sampling does both. Brightness
    and contrast change by factors of 1 - ``colour``..1 + ``colour``. The ``generator`` is the host's.
    """

    def __init__(
        self,
        side: int | Callable[[int], int],
        min_area: float = 0.35,
        mirror: bool = True,
        colour: float = 0.0,
    ):
        self.side, self.min_area, self.mirror, self.colour = side, min_area, mirror, colour

    def __call__(self, images: Tensor, generator: torch.Generator, epoch: int = 0) -> Tensor:
        n, side = len(images), self.side(epoch) if callable(self.side) else self.side
        draws = sent(torch.rand(7, n, 1, 1, generator=generator), images.device)
        area, log_aspect, left, top, turn, brightness, contrast = draws
        area = self.min_area + (1 - self.min_area) * area
        aspect = torch.exp((2 * log_aspect - 1) * (math.log(4 / 3) if self.min_area < 1 else 0))
        width = (area * aspect).sqrt().clamp(max=1)
        height = (area / aspect).sqrt().clamp(max=1)
        # Where the output's pixel centres lie in the input, both in -1..1 (torch.nn.functional.grid_sample).
        centres = torch.linspace(1 / side - 1, 1 - 1 / side, side, device=images.device)
        x = centres * (torch.where(turn < 0.5, -width, width) if self.mirror else width)
        x = x + (1 - width) * (2 * left - 1)
        y = centres.view(-1, 1) * height + (1 - height) * (2 * top - 1)
        grid = torch.stack([x.expand(n, side, side), y.expand(n, side, side)], dim=3)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        if not self.colour:
            return images
        gain = 1 + self.colour * (2 * contrast.unsqueeze(1) - 1)
        shift = 1 + self.colour * (2 * brightness.unsqueeze(1) - 1)
        grey = images.mean(dim=(1, 2, 3), keepdim=True)
        return images.mul_(gain * shift).add_(grey * (1 - gain) * shift)


def growing(start: int, end: int, epochs: int) -> Callable[[int], int]:
    """Side of the pictures by epoch from 0: ``start`` to ``end`` by 16 pixels, over 80 % of ``epochs``.

    Small pictures teach the same network first, at a fraction of the time, and the last epochs fit it to the
    full size (progressive resizing; Tan and Le 2021, arXiv 2104.00298, section 4).
    """
    last = max(int(0.8 * epochs), 1)
    return lambda epoch: end if epoch >= last else start + 16 * int((end - start) / 16 * epoch / last)


class Mix:
    """CutMix or mixup of each picture with another of its batch, on a random ``share`` of the batches.

    ``(images, labels)``, labels int64 ``(batch,)``, become ``(images, targets)``, targets float ``(batch,
    num_classes)``: the shares of the two classes. CutMix (Yun et al. 2019, arXiv 1905.04899) pastes a
    rectangle, its share of the picture uniform; mixup (Zhang et al. 2018, arXiv 1710.09412) adds the pictures
    with a weight from Beta(0.4, 0.4). One rectangle or weight, drawn on the host, serves the whole batch.
    """

    def __init__(self, num_classes: int, share: float):
        self.num_classes, self.share = num_classes, share

    def __call__(self, images: Tensor, labels: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        targets = F.one_hot(labels, self.num_classes).float()
        chosen, cut = random.random(2)
        if chosen >= self.share:
            return images, targets
        other = images.roll(1, 0).contiguous(memory_format=torch.channels_last)  # roll on CUDA forgets it
        if cut < 0.5:
            kept = float(random.beta(0.4, 0.4))
            images = torch.lerp(other, images, kept)
        else:
            height, width = images.shape[2:]
            side = math.sqrt(1 - random.random())
            top, bottom = _span(height, side, random)
            left, right = _span(width, side, random)
            images = images.clone()
            images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
            kept = 1 - (bottom - top) * (right - left) / (height * width)
        return images, torch.lerp(targets.roll(1, 0), targets, kept)


def _span(length: int, share: float, random: np.random.Generator) -> tuple[int, int]:
    """A stretch of ``share`` of ``length`` around a random centre, cut off at the ends."""
    centre, half = random.integers(length), round(share * length / 2)
    return max(centre - half, 0), min(centre + half, length)
