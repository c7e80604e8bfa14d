"""Where the photos of a data set lie and what its annotations say of them, in every layout that people have."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io
from torchvision.datasets.folder import IMG_EXTENSIONS

from labnn.cars.matfile import MatError, read_mat
from labnn.kit.errors import LabError

BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
_ANNOTATIONS = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}


class Listing(NamedTuple):
    """The photos of one part of a data set.

    ``names`` are paths relative to ``images_dir``; ``labels`` int64 ``(n,)`` from 0; ``boxes`` int64 ``(n, 4)``: x1, y1, x2, y2 in pixels
    from 1, both ends inside, as in the official files, or None where the layout has none. ``origin`` is the name of the data set and of
    its part.
    """

    images_dir: Path
    names: list[str]
    labels: np.ndarray
    boxes: np.ndarray | None
    origin: tuple[str, str]


class Official(NamedTuple):
    """Stanford Cars as published: class names in the order of the labels, photos of each class in the two parts, bytes of all photos."""

    class_names: list[str]
    train: list[int]
    test: list[int]
    photo_bytes: int


def official_classes() -> Official:
    """The 196 classes of Stanford Cars, counted in the official annotations; the size is TensorFlow Datasets' (cars196: 1.82 GiB)."""
    with open(Path(__file__).with_name("stanford_cars.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Official(
        [row["class"] for row in rows],
        [int(row["train"]) for row in rows],
        [int(row["test"]) for row in rows],
        1_960_000_000,
    )


def read_annotations(file: Path, images_dir: Path, class_names: Sequence[str] | None = None) -> Listing:
    """The photos that an official ``.mat`` file lists.

    Raises ``LabError``: a file absent, unreadable, empty or without labels, a label outside ``class_names``, a file name that leads out of
    ``images_dir`` or occurs twice.
    """
    records = _records(file, "fname")
    folder = images_dir.resolve()
    return _listing(
        records, records["fname"], file, images_dir, class_names, (folder.parent.name, folder.name)
    )


def read_boxes(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The boxes in an official ``.mat`` file, int64 ``(n, 4)``, and its labels from 0, int64 ``(n,)``, or None where it has none."""
    records = _load_mat(file, "annotations")
    boxes = np.stack([_integers(records, field, file) for field in BOX], axis=1)
    return boxes, _integers(records, "class", file) - 1 if "class" in records else None


def find_dataset(root: Path) -> tuple[Listing, Listing, list[str]]:
    """The training and the test photos and the class names under ``root``, in whichever of these layouts they lie:

    - torchvision's: ``devkit/``, ``cars_train/``, ``cars_test/``, ``cars_test_annos_withlabels.mat``;
    - the same unpacked from Kaggle: ``car_devkit/devkit/``, ``cars_train/cars_train/``;
    - ``cars_annos.mat`` with all photos in ``car_ims/``;
    - a folder for each class in ``train/`` and ``test/``, with no boxes; Stanford Cars' labels follow the official order, others the names'.

    ``root`` may also be a folder around these: ``root/stanford_cars``, as torchvision calls it, or an only subfolder.
    Raises ``LabError`` as ``read_annotations`` does, and where there is no data set.
    """
    for base in _bases(root):
        for find in (_torchvision, _single_file, _class_folders):
            if found := find(base):
                return found
    raise LabError(
        f"В папке {root} нет набора данных (devkit, cars_annos.mat или train и test с папками классов): "
        f"скачайте его командой python -m labnn download --data {root}, положите туда файлы, как описано в README, или укажите другую папку."
    )


def write_annotations(
    root: Path, parts: dict[str, tuple[Sequence[str], np.ndarray, np.ndarray]], class_names: Sequence[str]
) -> None:
    """Writes the three ``.mat`` files of torchvision's layout into ``root``; ``parts`` gives names, labels from 0 and boxes of each part."""
    (root / "devkit").mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(
        root / "devkit" / "cars_meta.mat", {"class_names": np.array([class_names], dtype=object)}
    )
    for part, (names, labels, boxes) in parts.items():
        records = np.empty((1, len(names)), dtype=[(field, object) for field in (*BOX, "class", "fname")])
        for index, (name, label, box) in enumerate(zip(names, labels, boxes, strict=True)):
            records[0, index] = (*(float(edge) for edge in box), float(label + 1), name)
        scipy.io.savemat(root / _ANNOTATIONS[part], {"annotations": records})


def same_name(name: str) -> str:
    """What two spellings of a class name share: letters and digits ("Ram C/V Cargo", "Ram C-V Cargo" and a folder "Ram C" with "V Cargo" in it)."""
    return re.sub(r"[^\w]|_", "", name).casefold()


def _bases(root: Path) -> Iterator[Path]:
    for _ in range(4):
        yield root
        if not root.is_dir():
            return
        folders = [
            entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")
        ]
        if "stanford_cars" not in folders and len(folders) != 1:
            return
        root = root / ("stanford_cars" if "stanford_cars" in folders else folders[0])


def _first(*paths: Path) -> Path:
    """The first of ``paths`` that exists, else the first."""
    return next((path for path in paths if path.exists()), paths[0])


def _nested(folder: Path) -> Path:
    """The folder of the same name inside ``folder``, as Kaggle's archives unpack, or ``folder``."""
    return inner if (inner := folder / folder.name).is_dir() else folder


def _torchvision(base: Path) -> tuple[Listing, Listing, list[str]] | None:
    devkit = _first(base / "devkit", base / "car_devkit" / "devkit", base / "car_devkit")
    if not devkit.is_dir():
        return None
    class_names = _class_names(devkit / "cars_meta.mat")
    test = _ANNOTATIONS["test"]
    # "(1)" is how the file is called in the copies on Kaggle
    files = {
        "train": devkit / "cars_train_annos.mat",
        "test": _first(base / test, devkit / test, base / test.replace(".", " (1).")),
    }
    train, test = (
        read_annotations(file, _nested(base / f"cars_{part}"), class_names)._replace(
            origin=(base.resolve().name, part)
        )
        for part, file in files.items()
    )
    return train, test, class_names


def _single_file(base: Path) -> tuple[Listing, Listing, list[str]] | None:
    file = base / "cars_annos.mat"
    if not file.is_file():
        return None
    if not (base / "car_ims").is_dir() and (base / "cars_train").is_dir():  # the most used copy on Kaggle
        raise LabError(
            f"Файл {file} описывает снимки из папки car_ims, а в {base} лежит cars_train, с другими именами: "
            "доложите официальную папку devkit и файл cars_test_annos_withlabels.mat."
        )
    class_names = _class_names(file)
    records = _records(file, "relative_im_path", "test")
    names = [
        name.removeprefix("car_ims/") if isinstance(name, str) else name
        for name in records["relative_im_path"]
    ]
    whole = _listing(
        records, names, file, _nested(base / "car_ims"), class_names, (base.resolve().name, "train")
    )
    in_test = _integers(records, "test", file).astype(bool)
    parts = []
    for part, chosen in (("train", ~in_test), ("test", in_test)):
        indices = np.flatnonzero(chosen)
        if not indices.size:
            raise LabError(f"В файле разметки {file} часть {part} пуста: скачайте его заново.")
        some = [names[index] for index in indices]
        parts.append(
            Listing(
                whole.images_dir,
                some,
                whole.labels[indices],
                whole.boxes[indices],
                (base.resolve().name, part),
            )
        )
    return *parts, class_names


def _class_folders(base: Path) -> tuple[Listing, Listing, list[str]] | None:
    if not ((base / "train").is_dir() and (base / "test").is_dir()):
        return None
    photos = {part: _photos(base / part) for part in ("train", "test")}
    folders = sorted({os.path.dirname(name) for names in photos.values() for name in names})
    if not folders:
        return None
    class_names, label_of = _order(folders, base)
    parts = []
    for part, names in photos.items():
        labels = np.array([label_of[os.path.dirname(name)] for name in names], dtype=np.int64)
        if not names:
            raise LabError(f"В папке {base / part} нет ни одного снимка в папках классов: положите их туда.")
        parts.append(Listing(base / part, names, labels, None, (base.resolve().name, part)))
    strangers = sorted(set(parts[1].labels.tolist()) - set(parts[0].labels.tolist()))
    if strangers:
        raise LabError(
            f"В папке {base / 'train'} нет снимков класса «{class_names[strangers[0]]}», а в test они есть: доложите их."
        )
    return *parts, class_names


def _photos(folder: Path) -> list[str]:
    """Paths of all photos in the folders below ``folder``, relative to it, with "/", sorted."""
    found = [Path(place, name).relative_to(folder) for place, _, names in os.walk(folder) for name in names]
    return sorted(
        path.as_posix()
        for path in found
        if len(path.parts) > 1 and path.name.lower().endswith(IMG_EXTENSIONS)
    )


def _order(folders: list[str], base: Path) -> tuple[list[str], dict[str, int]]:
    """Class names in the order of the labels and the label of each folder: the official order for the classes of Stanford Cars, else by name."""
    official = {same_name(name): (index, name) for index, name in enumerate(official_classes().class_names)}
    known = {folder: official[same_name(folder)] for folder in folders if same_name(folder) in official}
    if not known:
        return folders, {folder: index for index, folder in enumerate(folders)}
    if unknown := [folder for folder in folders if folder not in known]:
        raise LabError(
            f"В папке {base} класса «{unknown[0]}» нет среди классов Stanford Cars, а остальные ({len(known)}) есть: переименуйте его."
        )
    if len(set(known.values())) < len(known):
        twice = Counter(name for _, name in known.values()).most_common(1)[0][0]
        raise LabError(f"В папке {base} класс «{twice}» лежит в двух папках: объедините их.")
    class_names = [name for _, name in sorted(known.values())]
    return class_names, {folder: class_names.index(name) for folder, (_, name) in known.items()}


def _records(file: Path, name_field: str, *more: str) -> dict[str, list]:
    records = _load_mat(file, "annotations")
    if not isinstance(records, dict) or not {"class", name_field, *more, *BOX} <= set(records):
        raise LabError(
            f"В файле разметки {file} нет полей {', '.join(('class', name_field, *more))} и bbox_*: "
            "возьмите файл с метками (для теста — cars_test_annos_withlabels.mat)."
        )
    if not records["class"]:
        raise LabError(f"В файле разметки {file} нет ни одного снимка: скачайте его заново.")
    return records


def _listing(
    records: dict[str, list],
    names: list[str],
    file: Path,
    images_dir: Path,
    class_names: Sequence[str] | None,
    origin,
) -> Listing:
    labels = _integers(records, "class", file) - 1
    boxes = np.stack([_integers(records, field, file) for field in BOX], axis=1)
    _check_labels(labels, names, class_names, file)
    _check_names(names, file)
    return Listing(images_dir, names, labels, boxes, origin)


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
        raise LabError(
            f"В файле разметки {file} класс или рамка не целое число ({error}): исправьте его или скачайте заново."
        ) from None


def _load_mat(path: Path, name: str) -> Any:
    if not path.is_file():
        raise LabError(f"Нет файла разметки {path}: проверьте корень набора и докачайте файл.")
    try:
        content = read_mat(path)
    except NotImplementedError:
        raise LabError(
            f"Файл разметки {path} записан как MATLAB v7.3: возьмите официальный файл или сохраните его в MATLAB с ключом -v7."
        ) from None
    except (OSError, MatError) as error:
        raise LabError(f"Файл разметки {path} не читается как .mat ({error}): скачайте его заново.") from None
    if name not in content:
        raise LabError(
            f"В файле {path} нет переменной {name}: это не файл разметки Stanford Cars, скачайте его заново."
        )
    return content[name]


def _class_names(file: Path) -> list[str]:
    names = _load_mat(file, "class_names")
    names = [names] if isinstance(names, str) else names
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) and name for name in names)
        or len(set(names)) < len(names)
    ):
        raise LabError(
            f"В файле {file} названия классов должны быть строками, непустыми и разными: скачайте его заново."
        )
    return names


def _check_labels(
    labels: np.ndarray, names: list[str], class_names: Sequence[str] | None, file: Path
) -> None:
    limit = len(class_names) if class_names is not None else np.inf
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if wrong.size:
        allowed = f"от 1 до {limit}" if class_names is not None else "от 1"
        found = f"у снимка {names[wrong[0]]} класс {labels[wrong[0]] + 1}, а должен быть {allowed}"
        raise LabError(f"В файле {file} {found}: исправьте разметку или список классов.")


def _check_names(names: list[str], file: Path) -> None:
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise LabError(
                f"В файле {file} имя снимка {name!r} ведёт за пределы папки снимков: исправьте его или скачайте разметку заново."
            )
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise LabError(
            f"В файле {file} снимок {repeated[0]} описан дважды (таких снимков: {len(repeated)}): оставьте по одной записи на снимок."
        )
