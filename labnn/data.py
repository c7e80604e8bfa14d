"""Files to labelled images: the data set on disk."""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from labnn.cars.layouts import Listing, find_dataset, read_annotations, without_absent
from labnn.cars.pictures import read_picture
from labnn.kit.errors import LabError, as_path, check
from labnn.kit.files import digest, read_errors
from labnn.kit.progress import say


class CarModelsDataset(Dataset):
    """Photos of cars with their class, as the official ``.mat`` annotations list them.

    An item is ``(transform(image), label)``: a ``PIL.Image`` in RGB, cropped to its box with ``crop_to_box``,
    and the class index from 0. ``labels`` is int64 ``(n,)``; ``boxes`` int64 ``(n, 4)``: x1, y1, x2, y2 in
    pixels from 1, both ends inside, or None where a layout has none; ``paths`` has n paths.

    Raises ``LabError``: annotations absent, unreadable, empty or without labels, a label outside
    ``class_names``, a file name twice or with a folder in it, a photo absent (unless ``missing="skip"``).
    """

    def __init__(
        self,
        annotations_file: str | Path,
        images_dir: str | Path,
        transform: Callable[[Image.Image], Any] | None = None,
        *,
        class_names: Sequence[str] | None = None,
        crop_to_box: bool = False,
        missing: str = "error",
    ):
        listing = read_annotations(as_path(annotations_file), as_path(images_dir), class_names)
        self._take(listing, transform, crop_to_box, missing)

    @classmethod
    def of(
        cls, listing: Listing, transform: Callable | None = None, *, crop_to_box=False, missing="error"
    ) -> "CarModelsDataset":
        """The photos of ``listing``; where it has no boxes they stay whole, with ``crop_to_box`` False."""
        dataset = cls.__new__(cls)
        dataset._take(listing, transform, crop_to_box, missing)
        return dataset

    def _take(self, listing: Listing, transform: Callable | None, crop_to_box: bool, missing: str) -> None:
        listing = without_absent(listing, missing)
        self.labels, self.boxes, self.origin = listing.labels, listing.boxes, listing.origin
        self.paths = [listing.images_dir / name for name in listing.names]
        self.transform = transform
        self.crop_to_box = crop_to_box and self.boxes is not None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.image(index)
        return image if self.transform is None else self.transform(image), int(self.labels[index])

    def image(self, index: int) -> Image.Image:
        """The photo ``index``, RGB and upright, cropped to its box when the data set was asked to."""
        return read_picture(self.paths[index], self.boxes[index] if self.crop_to_box else None)

    def subset(self, indices: Sequence[int]) -> "CarModelsDataset":
        """The photos ``indices``, in that order, or those where a mask of all is true, as a data set."""
        indices, part = np.asarray(indices, dtype=None if len(indices) else int), copy.copy(self)
        if indices.dtype == bool:
            if len(indices) != len(self):
                way_out = "дайте по значению на снимок"
                raise LabError(f"В маске значений {len(indices)}, а снимков {len(self)}: {way_out}.")
            indices = np.flatnonzero(indices)
        part.labels = self.labels[indices]
        part.boxes = None if self.boxes is None else self.boxes[indices]
        part.paths = [self.paths[index] for index in indices]
        return part


class CarsData(NamedTuple):
    """A data set: its two parts and the class names in the order of the labels."""

    train: CarModelsDataset
    test: CarModelsDataset
    class_names: list[str]

    @property
    def name(self) -> str:
        """The data set's folder, with "-validation" where the test photos come from the training part."""
        name, part = self.train.origin
        return name + ("-validation" if self.test.origin[1] == part else "")

    def validation(self, share: float = 0.15, seed: int = 0) -> "CarsData":
        """The training part cut in two: ``share`` of every class stands in the place of the test part.

        Everything is chosen on this; the test part is not in it. The cut depends on ``seed`` and the labels
        only; of a class of two images or more at least one is held. Raises ``LabError`` where nothing is left
        to validate on.
        """
        check("share", share, float, 0, 1)
        check("seed", seed, int, 0, 2**31 - 1)
        order = np.random.default_rng(seed).permutation(len(self.train))
        held = []
        for label in np.unique(self.train.labels):
            of_class = order[self.train.labels[order] == label]
            held.extend(of_class[: min(max(round(len(of_class) * share), 1), len(of_class) - 1)])
        if not held or not round(len(order) * share):
            raise LabError(f"Доля {share} не оставляет в проверочной части ни одного снимка: увеличьте её.")
        kept = np.setdiff1d(np.arange(len(self.train)), held)
        return CarsData(self.train.subset(kept), self.train.subset(np.sort(held)), self.class_names)

    def describe(self) -> dict:
        """What a record says of the data: name, digests, sizes, and whether boxes were cropped to."""
        digests = {"fingerprint": self.fingerprint(), "content": self.content()}
        sizes = {"train": len(self.train), "test": len(self.test), "classes": len(self.class_names)}
        return {"name": self.name, **digests, **sizes, "crop_to_box": self.train.crop_to_box}

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the files' names and sizes, the labels, the classes and the boxes used."""
        content = [self.class_names]
        for part in (self.train, self.test):
            files = [(path.name, path.stat().st_size) for path in part.paths]
            content.append([files, part.labels.tolist(), part.boxes.tolist() if part.crop_to_box else None])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def content(self) -> str:
        """16 hexadecimal digits of the bytes of all photos, in order; reads each file once in a process."""
        return hashlib.sha256(b"".join(map(digest, self.train.paths + self.test.paths))).hexdigest()[:16]


def open_dataset(
    root: str | Path, transform: Callable | None = None, *, crop_to_box: bool = False, missing: str = "error"
) -> CarsData:
    """Opens the data set in ``root``, in any of the layouts of ``layouts.find_dataset``.

    Opens no photo; says so where boxes are asked for and there are none. Raises ``LabError`` as
    ``CarModelsDataset`` does, and where there is no data set.
    """
    root = as_path(root)
    options = {"crop_to_box": crop_to_box, "missing": missing}
    with read_errors(root):
        *listings, class_names = find_dataset(root)
        train, test = (CarModelsDataset.of(listing, transform, **options) for listing in listings)
    if crop_to_box and not train.crop_to_box:
        say(f"Рамок в наборе {root} нет: снимки берутся целиком.")
    return CarsData(train, test, class_names)


class ChanceLevels(NamedTuple):
    """What a classifier that has not looked at the image reaches: accuracies 0..1, losses in nats."""

    uniform_accuracy: float
    majority_share: float
    uniform_loss: float
    prior_loss: float


def chance_levels(labels: Sequence[int]) -> ChanceLevels:
    """Accuracy of a uniform guess, share of the largest class, ln K and the entropy of ``labels`` with K
    classes.

    A network whose loss stops between the last two, with the second as accuracy, has learned the class shares
    only.
    """
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    shares = counts / counts.sum()
    entropy = -(shares * np.log(shares)).sum()
    return ChanceLevels(1 / len(counts), float(shares.max()), float(np.log(len(counts))), float(entropy))
