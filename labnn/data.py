"""Files to labelled images: the data set on disk."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from labnn.kit.errors import LabError, check, explained
from labnn.kit.pictures import read_picture
from labnn.kit.progress import say
from labnn.layouts import Listing, find_dataset, read_annotations


class CarModelsDataset(Dataset):
    """Photos of cars with their class, as the official ``.mat`` annotations list them.

    An item is ``(transform(image), label)``: a ``PIL.Image`` in RGB, cropped to its box with ``crop_to_box``,
    and the class index from 0. ``labels`` is int64 ``(n,)``; ``boxes`` int64 ``(n, 4)``: x1, y1, x2, y2 in
    pixels from 1, both ends inside, or None where a layout has none; ``paths`` has n paths.

    Raises ``LabError`` for annotations that cannot be read or name no photos, and for absent photos, unless
    ``missing="skip"``.
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
        listing = read_annotations(Path(annotations_file), Path(images_dir), class_names)
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
        check("missing", missing, str, choices=("error", "skip"))
        self.paths = [listing.images_dir / name for name in listing.names]
        self.labels, self.boxes, self.origin = listing.labels, listing.boxes, listing.origin
        self.transform, self.crop_to_box = transform, crop_to_box and self.boxes is not None
        there = np.array([path.exists() for path in self.paths])
        if not there.all():
            place, first = listing.images_dir, listing.names[there.argmin()]
            found = f"В папке {place} нет снимков: {(~there).sum()} из {len(there)}, первый — {first}"
            if missing == "error" or not there.any():
                way_out = 'доложите их или разрешите пропуск (--skip-missing, missing="skip")'
                raise LabError(f"{found}: {way_out}.")
            say(f"{found}; они пропущены.")
            vars(self).update(vars(self.subset(there)))

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
        part, chosen = (
            copy.copy(self),
            np.arange(len(self))[np.asarray(indices, dtype=None if len(indices) else int)],
        )
        part.labels, part.paths = self.labels[chosen], [self.paths[index] for index in chosen]
        part.boxes = None if self.boxes is None else self.boxes[chosen]
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
        order, held = np.random.default_rng(seed).permutation(len(self.train)), []
        for label in np.unique(self.train.labels):
            of_class = order[self.train.labels[order] == label]
            held.extend(of_class[: min(max(round(len(of_class) * share), 1), len(of_class) - 1)])
        if not held:
            raise LabError("Проверочная часть пуста: нужен класс с двумя обучающими снимками или больше.")
        kept = np.setdiff1d(np.arange(len(self.train)), held)
        return CarsData(self.train.subset(kept), self.train.subset(np.sort(held)), self.class_names)


def open_dataset(
    root: str | Path, transform: Callable | None = None, *, crop_to_box: bool = False, missing: str = "error"
) -> CarsData:
    """Opens the data set in ``root``, in any of the layouts of ``layouts.find_dataset``.

    Opens no photo; says so where boxes are asked for and there are none. Raises ``LabError`` as
    ``CarModelsDataset`` does, and where there is no data set.
    """
    with explained(f"Набор {root} не открыт", "задайте путь к папке набора и проверьте файлы в ней"):
        *listings, class_names = find_dataset(Path(root).expanduser())
        options = {"crop_to_box": crop_to_box, "missing": missing}
        train, test = (CarModelsDataset.of(listing, transform, **options) for listing in listings)
    if crop_to_box and not train.crop_to_box:
        say(f"Рамок в наборе {root} нет: снимки берутся целиком.")
    return CarsData(train, test, class_names)
