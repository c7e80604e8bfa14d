"""Files to labelled images: the data set on disk, in the layout of ``torchvision.datasets.StanfordCars``."""

import copy
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from labnn.errors import LabError
from labnn.matfile import MatError, read_mat

_BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


class CarModelsDataset(Dataset):
    """Photos of cars with their class, as the official ``.mat`` annotations list them.

    An item is ``(transform(image), label)``: a ``PIL.Image`` in RGB, cropped to its bounding box with ``crop_to_box``, and
    the class index from 0. ``labels`` is int64 ``(n,)``; ``boxes`` int64 ``(n, 4)``: x1, y1, x2, y2 in pixels from 1, both
    ends inside, as in the files; ``paths`` has n paths.

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
        annotations_file, images_dir = Path(annotations_file), Path(images_dir)
        records = _load_mat(annotations_file, "annotations")
        if not isinstance(records, dict) or not {"class", "fname", *_BOX} <= set(records):
            raise LabError(
                f"В файле разметки {annotations_file} нет полей class, fname и bbox_*: "
                "возьмите файл с метками (для теста — cars_test_annos_withlabels.mat)."
            )
        if not records["fname"]:
            raise LabError(f"В файле разметки {annotations_file} нет ни одного снимка: скачайте его заново.")
        self.labels = _integers(records, "class", annotations_file) - 1
        self.boxes = np.stack([_integers(records, field, annotations_file) for field in _BOX], axis=1)
        names = records["fname"]
        _check_labels(self.labels, names, class_names, annotations_file)
        _check_names(names, annotations_file)
        present = _present_images(names, images_dir, missing)
        self.labels, self.boxes = self.labels[present], self.boxes[present]
        self.images_dir = images_dir
        self.paths = [images_dir / names[index] for index in present]
        self.transform = transform
        self.crop_to_box = crop_to_box

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.image(index)
        return image if self.transform is None else self.transform(image), int(self.labels[index])

    def subset(self, indices: Sequence[int]) -> "CarModelsDataset":
        """The photos ``indices``, in that order, as a data set of their own."""
        part = copy.copy(self)
        part.labels, part.boxes = self.labels[indices], self.boxes[indices]
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
            raise LabError(f"Снимок {path} не читается ({reason}): замените файл целым или скачайте набор заново.") from None
        if not self.crop_to_box:
            return image
        left, top, right, bottom = self.boxes[index]
        box = max(left - 1, 0), max(top - 1, 0), min(right, image.width), min(bottom, image.height)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise LabError(f"Рамка {self.boxes[index].tolist()} лежит вне снимка {path}: исправьте разметку или читайте набор без кадрирования.")
        return image.crop(box)


class CarsData(NamedTuple):
    """A data set: its two parts and the class names in the order of the labels."""

    train: CarModelsDataset
    test: CarModelsDataset
    class_names: list[str]

    @property
    def name(self) -> str:
        """The name of the data set's folder, with "-validation" where the test photos come from the training part."""
        folder = self.train.images_dir.resolve()
        return folder.parent.name + ("-validation" if folder == self.test.images_dir.resolve() else "")

    def validation(self, share: float = 0.15, seed: int = 0) -> "CarsData":
        """The training part cut in two, ``share`` of every class for the second, which stands where the test part stood.

        Everything is chosen on this; the test part is not in it. The cut depends on ``seed`` and the labels only. A class of
        one image stays whole in the first part. Raises ``LabError`` where nothing would be left to validate on.
        """
        order = np.random.default_rng(seed).permutation(len(self.train))
        labels = self.train.labels[order]
        held = np.concatenate([order[labels == label][: _share_of((labels == label).sum(), share)] for label in np.unique(labels)])
        if not held.size:
            raise LabError(f"Доля проверочной части {share} не оставляет в ней ни одного снимка: увеличьте её.")
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


def open_dataset(root: str | Path, transform: Callable | None = None, *, crop_to_box: bool = False, missing: str = "error") -> CarsData:
    """Opens ``root`` (or ``root/stanford_cars``, which torchvision calls by its parent) in torchvision's layout.

    Reads the annotations and lists the folders; opens no image. Raises ``LabError`` as ``CarModelsDataset`` does.
    """
    root = Path(root)
    if not (root / "devkit").is_dir() and (root / "stanford_cars" / "devkit").is_dir():
        root = root / "stanford_cars"
    if not (root / "devkit").is_dir():
        raise LabError(f"В папке {root} нет набора данных (папки devkit): укажите корень набора или положите его туда, как описано в README.")
    class_names = _class_names(root / "devkit" / "cars_meta.mat")
    options = {"class_names": class_names, "crop_to_box": crop_to_box, "missing": missing}
    train = CarModelsDataset(root / "devkit" / "cars_train_annos.mat", root / "cars_train", transform, **options)
    test = CarModelsDataset(root / "cars_test_annos_withlabels.mat", root / "cars_test", transform, **options)
    return CarsData(train, test, class_names)


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
    return ChanceLevels(1 / len(counts), float(shares.max()), float(np.log(len(counts))), float(-(shares * np.log(shares)).sum()))


def _rgb(image: Image.Image) -> Image.Image:
    """``image`` of any mode in RGB: 16-bit grey by its upper 8 bits, a transparent one on black."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")


def _integers(records: dict[str, list], field: str, file: Path) -> np.ndarray:
    """The numbers in a field of the annotations, int64 ``(n,)``."""
    try:
        values = np.array(records[field], dtype=float)
        if values.ndim != 1 or not all(isinstance(value, (int, float)) for value in records[field]):
            raise ValueError(f"{field} не число")
        if (wrong := (values != np.trunc(values)) | (abs(values) > 2**31)).any():  # true of NaN too
            raise ValueError(f"{field} = {values[wrong][0]}")
        return values.astype(np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise LabError(f"В файле разметки {file} класс или рамка не целое число ({error}): исправьте его или скачайте заново.") from None


def _share_of(count: int, share: float) -> int:
    return min(round(count * share), count - 1)


def _load_mat(path: Path, name: str) -> Any:
    if not path.is_file():
        raise LabError(f"Нет файла разметки {path}: проверьте корень набора и докачайте файл.")
    try:
        content = read_mat(path)
    except NotImplementedError:
        raise LabError(f"Файл разметки {path} записан как MATLAB v7.3: возьмите официальный файл или сохраните его в MATLAB с ключом -v7.") from None
    except (OSError, MatError) as error:
        raise LabError(f"Файл разметки {path} не читается как .mat ({error}): скачайте его заново.") from None
    if name not in content:
        raise LabError(f"В файле {path} нет переменной {name}: это не файл разметки Stanford Cars, скачайте его заново.")
    return content[name]


def _class_names(file: Path) -> list[str]:
    names = _load_mat(file, "class_names")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise LabError(f"В файле {file} названия классов должны быть строками, непустыми и разными: скачайте его заново.")
    return names


def _check_labels(labels: np.ndarray, names: list[str], class_names: Sequence[str] | None, file: Path) -> None:
    limit = len(class_names) if class_names is not None else np.inf
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if wrong.size:
        allowed = f"от 1 до {limit}" if class_names is not None else "от 1"
        found = f"у снимка {names[wrong[0]]} класс {labels[wrong[0]] + 1}, а должен быть {allowed}"
        raise LabError(f"В файле {file} {found}: исправьте разметку или список классов.")


def _check_names(names: list[str], file: Path) -> None:
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise LabError(f"В файле {file} имя снимка {name!r} ведёт за пределы папки снимков: исправьте его или скачайте разметку заново.")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise LabError(f"В файле {file} снимок {repeated[0]} описан дважды (таких снимков: {len(repeated)}): оставьте по одной записи на снимок.")


def _present_images(names: list[str], images_dir: Path, missing: str) -> list[int]:
    if missing not in ("error", "skip"):
        raise LabError(f"Неизвестное значение missing={missing!r}: выберите error или skip.")
    if not images_dir.is_dir():
        raise LabError(f"Нет папки снимков {images_dir}: проверьте корень набора и распакуйте туда снимки.")
    files = {entry.name for entry in os.scandir(images_dir)}
    present = [index for index, name in enumerate(names) if name in files]
    absent = len(names) - len(present)
    if absent:
        first = next(name for name in names if name not in files)
        summary = f"нет снимков: {absent} из {len(names)}, первый — {first}"
        if missing == "error" or not present:
            raise LabError(f'В папке {images_dir} {summary}: доложите файлы или разрешите пропуск (--skip-missing, missing="skip").')
        print(f"Пропущено: в папке {images_dir} {summary}.")
    return present
