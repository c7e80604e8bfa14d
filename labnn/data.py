"""Files to labelled images: the data set on disk."""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from labnn.cars.layouts import Listing, find_dataset, read_annotations
from labnn.kit.errors import LabError, as_path, check
from labnn.kit.files import readable


class CarModelsDataset(Dataset):
    """Photos of cars with their class, as the official ``.mat`` annotations list them.

    An item is ``(transform(image), label)``: a ``PIL.Image`` in RGB, cropped to its bounding box with ``crop_to_box``, and
    the class index from 0. ``labels`` is int64 ``(n,)``; ``boxes`` int64 ``(n, 4)``: x1, y1, x2, y2 in pixels from 1, both
    ends inside, as in the files, or None where a layout has none; ``paths`` has n paths.

    Raises ``LabError``: annotations absent, unreadable or empty, without labels, a label outside ``class_names``, a file name that
    leads out of ``images_dir`` or occurs twice, an image that is absent (unless ``missing="skip"``) or cannot be decoded.
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
        self._take(
            read_annotations(as_path(annotations_file), as_path(images_dir), class_names),
            transform,
            crop_to_box,
            missing,
        )

    @classmethod
    def of(
        cls,
        listing: Listing,
        transform: Callable | None = None,
        *,
        crop_to_box: bool = False,
        missing: str = "error",
    ) -> "CarModelsDataset":
        """The photos of ``listing``; without boxes there they stay whole, and ``crop_to_box`` of the data set is False."""
        dataset = cls.__new__(cls)
        dataset._take(listing, transform, crop_to_box, missing)
        return dataset

    def _take(self, listing: Listing, transform: Callable | None, crop_to_box: bool, missing: str) -> None:
        present = _present_images(listing, missing)
        self.labels = listing.labels[present]
        self.boxes = None if listing.boxes is None else listing.boxes[present]
        self.paths = [listing.images_dir / listing.names[index] for index in present]
        self.origin = listing.origin
        self.transform = transform
        self.crop_to_box = crop_to_box and self.boxes is not None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.image(index)
        return image if self.transform is None else self.transform(image), int(self.labels[index])

    def subset(self, indices: Sequence[int]) -> "CarModelsDataset":
        """The photos ``indices``, in that order, as a data set of their own."""
        part = copy.copy(self)
        part.labels = self.labels[indices]
        part.boxes = None if self.boxes is None else self.boxes[indices]
        part.paths = [self.paths[index] for index in indices]
        return part

    def image(self, index: int) -> Image.Image:
        """The photo ``index``, RGB and upright, cropped to its box when the data set was asked to."""
        path = self.paths[index]
        try:
            with Image.open(path) as file:
                ImageOps.exif_transpose(file, in_place=True)
                image = _rgb(file)
        except Exception as error:  # the decoders raise whatever the broken bytes led them to
            reason = str(error).replace(str(path), path.name)
            raise LabError(
                f"Снимок {path} не читается ({reason}): замените файл целым или скачайте набор заново."
            ) from None
        if not self.crop_to_box:
            return image
        left, top, right, bottom = self.boxes[index]
        box = max(left - 1, 0), max(top - 1, 0), min(right, image.width), min(bottom, image.height)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise LabError(
                f"Рамка {self.boxes[index].tolist()} лежит вне снимка {path}: исправьте разметку или читайте набор без кадрирования."
            )
        return image.crop(box)


class CarsData(NamedTuple):
    """A data set: its two parts and the class names in the order of the labels."""

    train: CarModelsDataset
    test: CarModelsDataset
    class_names: list[str]

    @property
    def name(self) -> str:
        """The name of the data set's folder, with "-validation" where the test photos come from the training part."""
        name, part = self.train.origin
        return name + ("-validation" if self.test.origin[1] == part else "")

    def validation(self, share: float = 0.15, seed: int = 0) -> "CarsData":
        """The training part cut in two, ``share`` of every class for the second, which stands where the test part stood.

        Everything is chosen on this; the test part is not in it. The cut depends on ``seed`` and the labels only. A class of
        one image stays whole in the first part. Raises ``LabError`` where nothing would be left to validate on.
        """
        check("share", share, float, 0, 1)
        check("seed", seed, int, 0, 2**31 - 1)
        order = np.random.default_rng(seed).permutation(len(self.train))
        labels = self.train.labels[order]
        held = np.concatenate(
            [
                order[labels == label][: _share_of((labels == label).sum(), share)]
                for label in np.unique(labels)
            ]
        )
        if not held.size:
            raise LabError(
                f"Доля проверочной части {share} не оставляет в ней ни одного снимка: увеличьте её."
            )
        kept = np.setdiff1d(np.arange(len(self.train)), held)
        return CarsData(self.train.subset(kept), self.train.subset(np.sort(held)), self.class_names)

    def describe(self) -> dict:
        """What a record says of the data: name, fingerprint, numbers of images and classes, whether boxes were cropped to."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint(),
            "train": len(self.train),
            "test": len(self.test),
            "classes": len(self.class_names),
            "crop_to_box": self.train.crop_to_box,
        }

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any file name, file size, label, class name, or box where boxes are cropped to."""
        content = [self.class_names]
        for part in (self.train, self.test):
            files = [(path.name, path.stat().st_size) for path in part.paths]
            content.append([files, part.labels.tolist(), part.boxes.tolist() if part.crop_to_box else None])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def open_dataset(
    root: str | Path, transform: Callable | None = None, *, crop_to_box: bool = False, missing: str = "error"
) -> CarsData:
    """Opens the data set in ``root``, in any of the layouts of ``layouts.find_dataset``.

    Reads the annotations and lists the folders; opens no image. Says so in a line where boxes are asked for and the layout has none.
    Raises ``LabError`` as ``CarModelsDataset`` does, and where there is no data set.
    """
    root = as_path(root)
    with readable(root):
        train, test, class_names = find_dataset(root)
        options = {"transform": transform, "crop_to_box": crop_to_box, "missing": missing}
        data = CarsData(
            CarModelsDataset.of(train, **options), CarModelsDataset.of(test, **options), class_names
        )
    if crop_to_box and train.boxes is None:
        print(f"Рамок в наборе {root} нет: снимки берутся целиком.", flush=True)
    return data


class ChanceLevels(NamedTuple):
    """What a classifier that has not looked at the image reaches: accuracies 0..1, losses in nats."""

    uniform_accuracy: float
    majority_share: float
    uniform_loss: float
    prior_loss: float


def chance_levels(labels: Sequence[int]) -> ChanceLevels:
    """Accuracy of a uniform guess, share of the largest class, ln K and the entropy of ``labels``; K classes occur in them.

    A network whose loss has stopped between the last two and whose accuracy is the second has learned the class shares only.
    """
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    shares = counts / counts.sum()
    return ChanceLevels(
        1 / len(counts),
        float(shares.max()),
        float(np.log(len(counts))),
        float(-(shares * np.log(shares)).sum()),
    )


def _rgb(image: Image.Image) -> Image.Image:
    """``image`` of any mode in RGB: 16-bit grey by its upper 8 bits, a transparent one on black."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")


def _share_of(count: int, share: float) -> int:
    return min(round(count * share), count - 1)


def _present_images(listing: Listing, missing: str) -> list[int]:
    if missing not in ("error", "skip"):
        raise LabError(f"Неизвестное значение missing={missing!r}: выберите error или skip.")
    images_dir, names = listing.images_dir, listing.names
    if not images_dir.is_dir():
        raise LabError(f"Нет папки снимков {images_dir}: проверьте корень набора и распакуйте туда снимки.")
    if any("/" in name for name in names):
        return list(range(len(names)))  # listed from the disk a moment ago
    files = {entry.name for entry in os.scandir(images_dir)}
    present = [index for index, name in enumerate(names) if name in files]
    absent = len(names) - len(present)
    if absent:
        first = next(name for name in names if name not in files)
        summary = f"нет снимков: {absent} из {len(names)}, первый — {first}"
        if missing == "error" or not present:
            raise LabError(
                f'В папке {images_dir} {summary}: доложите файлы или разрешите пропуск (--skip-missing, missing="skip").'
            )
        print(f"Пропущено: в папке {images_dir} {summary}.")
    return present
