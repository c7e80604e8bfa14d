"""Labelled images to batches, fast: JPEGs decoded once, whole batches augmented on the device that trains."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from labnn.data import CarModelsDataset

# Channel means and deviations of ImageNet photos (0..255), the field's usual normalisation.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


def decode_images(dataset: CarModelsDataset, size: int, cache_dir: str | Path) -> np.ndarray:
    """Every image of ``dataset`` squashed to ``size`` x ``size``: a memory-mapped uint8 array ``(n, size, size, 3)``.

    Decodes once and keeps the array in ``cache_dir`` under a name made of all that its content depends on, so that a change
    of any file, box or size makes a new one. The file appears whole or not at all. Raises ``LabError`` for a broken image.
    """
    files = [(str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in dataset.paths]
    key = json.dumps([files, dataset.boxes.tolist() if dataset.crop_to_box else None])
    path = Path(cache_dir) / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{size}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _decode_to(path, dataset, size)
    return np.load(path, mmap_mode="c")  # copy-on-write: read-only to the file, and PyTorch takes writable memory only


def _decode_to(path: Path, dataset: CarModelsDataset, size: int) -> None:
    def fill(index: int) -> None:
        array[index] = dataset.image(index).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)

    with tempfile.TemporaryDirectory(dir=path.parent, prefix="decoding-") as folder:
        unfinished = Path(folder) / path.name
        array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=(len(dataset), size, size, 3))
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes and resizes outside the interpreter's lock
            list(pool.map(fill, range(len(dataset))))
        array.flush()
        os.replace(unfinished, path)


class Batches:
    """Iterates ``(images, labels)``: float32 ``(batch, 3, H, W)``, normalised, in channels-last memory, and int64 ``(batch,)``.

    ``images`` is uint8 ``(n, H, W, 3)``; on a GPU it is copied to the device once. ``augment(images, generator)`` changes a
    whole float batch (0..255) on the device. With ``shuffle`` each pass has its own order and its own augmentation, both
    fixed by ``seed`` and the pass's number; ``set_epoch`` sets that number, as in PyTorch's ``DistributedSampler``.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        *,
        device: str | torch.device = "cpu",
        shuffle: bool = False,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        seed: int = 0,
    ):
        self.device = torch.device(device)
        self.images = torch.from_numpy(images).to(self.device)
        self.labels = torch.as_tensor(labels, dtype=torch.int64).to(self.device)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment = augment
        self.seed = seed
        self._epoch = 0
        self._mean = torch.tensor(_MEAN, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(_STD, device=self.device).view(3, 1, 1)

    def __len__(self) -> int:
        """The number of batches; the last one may be smaller."""
        return math.ceil(len(self.labels) / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass the one number ``epoch``, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + self._epoch)
        self._epoch += 1
        n = len(self.labels)
        order = torch.randperm(n, generator=generator, device=self.device) if self.shuffle else torch.arange(n, device=self.device)
        for chosen in order.split(self.batch_size):
            images = self.images[chosen].permute(0, 3, 1, 2).float()
            if self.augment is not None:
                images = self.augment(images, generator)
            yield (images - self._mean) / self._std, self.labels[chosen]


class RandomCropFlip:
    """Random resized crop and mirror, drawn for each image of a batch: float ``(batch, 3, h, w)`` to ``(batch, 3, size, size)``.

    The crop has ``min_area``..1 of the picture's area and an aspect of 3/4..4/3 (Szegedy et al. 2014, arXiv 1409.4842,
    section 6); half of the pictures are mirrored. One bilinear sampling does both.
    """

    def __init__(self, size: int, min_area: float = 0.35):
        self.size = size
        self.min_area = min_area

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        n = len(images)
        area, log_aspect, left, top, mirror = torch.rand(5, n, generator=generator, device=images.device)
        area = self.min_area + (1 - self.min_area) * area
        aspect = torch.exp((2 * log_aspect - 1) * math.log(4 / 3))
        width = (area * aspect).sqrt().clamp(max=1)
        height = (area / aspect).sqrt().clamp(max=1)
        # Affine map from output to input, both in -1..1 (torch.nn.functional.affine_grid).
        theta = torch.zeros(n, 2, 3, device=images.device)
        theta[:, 0, 0] = torch.where(mirror < 0.5, -width, width)
        theta[:, 1, 1] = height
        theta[:, 0, 2] = (1 - width) * (2 * left - 1)
        theta[:, 1, 2] = (1 - height) * (2 * top - 1)
        grid = F.affine_grid(theta, [n, 3, self.size, self.size], align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
