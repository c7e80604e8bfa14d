"""Labelled images to batches, fast: JPEGs decoded once, whole batches augmented on the device that trains."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from labnn.data import CarModelsDataset
from labnn.kit.errors import LabError, check
from labnn.kit.files import alone, reserve, written_whole
from labnn.kit.progress import print_decoding

# Channel means and deviations of ImageNet photos (0..255), the field's usual normalisation.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


def decode_images(
    dataset: CarModelsDataset,
    size: int,
    cache_dir: str | Path,
    progress: Callable[[int, int], None] = print_decoding,
) -> np.ndarray:
    """Every image of ``dataset`` squashed to ``size`` x ``size``: a memory-mapped uint8 array ``(n, size, size, 3)``.

    Decodes once and keeps the array in ``cache_dir`` under a name made of all that its content depends on, so that a change
    of any file, box or size makes a new one. The file appears whole or not at all, and as it is mapped, any number of images
    takes the memory of those in use. ``progress`` is called with the images decoded and all. Raises ``LabError`` for broken images, all at once,
    and for a size that is none.
    """
    check("size", size, int, 1, 4096)
    files = [(str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in dataset.paths]
    key = json.dumps([files, dataset.boxes.tolist() if dataset.crop_to_box else None])
    path = Path(cache_dir) / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{size}.npy"
    if not path.exists():
        with alone(path, f"Декодирование снимков в {path.name}"):
            if not path.exists():  # nobody has done it meanwhile
                with written_whole(path) as unfinished:
                    _decode_to(unfinished, dataset, size, progress)
    return np.load(
        path, mmap_mode="c"
    )  # copy-on-write: read-only to the file, and PyTorch takes writable memory only


def _decode_to(
    path: Path, dataset: CarModelsDataset, size: int, progress: Callable[[int, int], None]
) -> None:
    broken: dict[int, LabError] = {}

    def fill(index: int) -> None:
        try:
            array[index] = dataset.image(index).resize(
                (size, size), Image.Resampling.BICUBIC, reducing_gap=3.0
            )
        except LabError as error:
            broken[index] = error

    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(dataset), size, size, 3))
    reserve(path)
    with ThreadPoolExecutor(
        os.cpu_count()
    ) as pool:  # Pillow decodes and resizes outside the interpreter's lock
        for done, _ in enumerate(pool.map(fill, range(len(dataset))), start=1):
            if done % 100 == 0 or done == len(dataset):
                progress(done, len(dataset))
    if broken:
        first = broken[min(broken)]
        names = ", ".join(dataset.paths[index].name for index in sorted(broken)[:20])
        more = "" if len(broken) <= 20 else f" и ещё {len(broken) - 20}"
        raise (
            first
            if len(broken) == 1
            else LabError(f"Не годятся снимки ({len(broken)}): {names}{more}. Первый: {first}")
        )
    array.flush()


class Batches:
    """Iterates ``(images, labels)``: float32 ``(batch, 3, H, W)``, normalised, in channels-last memory, and int64 ``(batch,)``.

    ``images`` is uint8 ``(n, H, W, 3)``; on a GPU it is copied to the device once, if it takes no more than half of the free
    memory there. ``augment(images, generator, epoch)`` changes a whole float batch (0..255) on the device; ``mix(images, labels,
    random)`` then changes the normalised batch and its labels. With ``shuffle`` each pass has its own order and its own
    augmentation, both fixed by ``seed`` and the pass's number; ``set_epoch`` sets that number, as in PyTorch's
    ``DistributedSampler``.
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
        self.images = torch.from_numpy(images)
        if self.device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(self.device)[0] // 2:
            self.images = self.images.to(self.device)
        self.labels = torch.as_tensor(labels, dtype=torch.int64).to(self.device)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment = augment
        self.mix = mix
        self.seed = seed
        self._epoch = 0
        self._mean = torch.tensor(_MEAN, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(_STD, device=self.device).view(3, 1, 1)

    def __len__(self) -> int:
        """The number of batches; the last one may be smaller, or with ``shuffle`` larger by one that would be left alone."""
        return math.ceil(len(self.labels) / self.batch_size) - self._one_left()

    def _one_left(self) -> bool:
        """Whether the last image of a shuffled pass would be a batch alone: batch norm has no spread to divide a single small map by."""
        return (
            self.shuffle
            and len(self.labels) > self.batch_size > 1
            and len(self.labels) % self.batch_size == 1
        )

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass the one number ``epoch``, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self._epoch
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + epoch)
        random = np.random.default_rng([self.seed, epoch])
        self._epoch += 1
        n = len(self.labels)
        order = (
            torch.randperm(n, generator=generator, device=self.device)
            if self.shuffle
            else torch.arange(n, device=self.device)
        )
        chunks = list(order.split(self.batch_size))
        if self._one_left():
            chunks[-2:] = [torch.cat(chunks[-2:])]
        for chosen in chunks:
            images = self.images[chosen.to(self.images.device)].to(self.device).permute(0, 3, 1, 2)
            # Channel after channel while each picture has factors of its own: with channels last these passes are ten times slower.
            images = images.to(torch.float32, memory_format=torch.contiguous_format)
            if self.augment is not None:
                images = self.augment(images, generator, epoch)
            images = images.sub_(self._mean).div_(self._std).contiguous(memory_format=torch.channels_last)
            labels = self.labels[chosen]
            yield (images, labels) if self.mix is None else self.mix(images, labels, random)


class Augment:
    """New pictures from old, each drawn for itself: float ``(batch, 3, h, w)``, 0..255, to ``(batch, 3, side, side)``.

    ``side`` is the size itself, or a function of the epoch from 0 that gives it (``growing``).
    A random crop has ``min_area``..1 of the picture's area and an aspect of 3/4..4/3 (Szegedy et al. 2014, arXiv 1409.4842,
    section 6); with ``mirror`` half of the pictures are mirrored; one bilinear sampling does both. Brightness and contrast
    change by factors of 1 - ``colour``..1 + ``colour``.
    """

    def __init__(
        self,
        side: int | Callable[[int], int],
        min_area: float = 0.35,
        mirror: bool = True,
        colour: float = 0.0,
    ):
        self.side = side
        self.min_area = min_area
        self.mirror = mirror
        self.colour = colour

    def __call__(self, images: Tensor, generator: torch.Generator, epoch: int = 0) -> Tensor:
        n, device = len(images), images.device
        side = self.side(epoch) if callable(self.side) else self.side
        area, log_aspect, left, top, turn, brightness, contrast = torch.rand(
            7, n, 1, 1, generator=generator, device=device
        )
        area = self.min_area + (1 - self.min_area) * area
        aspect = (
            torch.exp((2 * log_aspect - 1) * math.log(4 / 3)) if self.min_area < 1 else torch.ones_like(area)
        )
        width = (area * aspect).sqrt().clamp(max=1)
        height = (area / aspect).sqrt().clamp(max=1)
        # Where the output's pixel centres lie in the input, both in -1..1 (torch.nn.functional.grid_sample).
        centres = torch.linspace(1 / side - 1, 1 - 1 / side, side, device=device)
        x = centres * (torch.where(turn < 0.5, -width, width) if self.mirror else width) + (1 - width) * (
            2 * left - 1
        )
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
    """The side of the pictures by epoch from 0: from ``start`` to ``end`` by steps of 16 pixels, over 80 % of ``epochs``.

    Small pictures teach the same network first, at a fraction of the time, and the last epochs fit it to the full size
    (progressive resizing; Tan and Le 2021, arXiv 2104.00298, section 4).
    """
    last = max(int(0.8 * epochs), 1)
    return lambda epoch: end if epoch >= last else start + 16 * int((end - start) / 16 * epoch / last)


class Mix:
    """CutMix or mixup of each picture with another of its batch, on a random ``share`` of the batches.

    ``(images, labels)``, labels int64 ``(batch,)``, become ``(images, targets)``, targets float ``(batch, num_classes)``:
    the shares of the two classes. CutMix (Yun et al. 2019, arXiv 1905.04899) pastes a rectangle, its share of the picture
    uniform; mixup (Zhang et al. 2018, arXiv 1710.09412) adds the pictures with a weight from Beta(0.4, 0.4). One rectangle
    or weight serves the whole batch, drawn on the host, so that a GPU need not wait.
    """

    def __init__(self, num_classes: int, share: float):
        self.num_classes = num_classes
        self.share = share

    def __call__(self, images: Tensor, labels: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        targets = F.one_hot(labels, self.num_classes).float()
        chosen, cut = random.random(2)
        if chosen >= self.share:
            return images, targets
        other = images.roll(1, 0)
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
