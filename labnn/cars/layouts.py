"""Where the photos of a data set lie and what its annotations say, in every layout that people have."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labnn.cars.folders import (
    Listing,
    Official,
    class_folders,
    official_classes,
    same_name,
    subfolders,
    why_none,
)
from labnn.cars.matfile import MatError, read_mat
from labnn.kit.errors import LabError
from labnn.kit.progress import say

__all__ = ["Official", "find_dataset", "official_classes", "read_boxes", "same_name", "write_annotations"]
BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
_ANNOTATIONS = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}


def read_annotations(file: Path, images_dir: Path, class_names: Sequence[str] | None = None) -> Listing:
    """The photos that an official ``.mat`` file lists.

    Raises ``LabError``: a file absent, unreadable, empty or without labels, a label outside ``class_names``,
    a file name that leads out of ``images_dir`` or occurs twice.
    """
    records = _records(file, ("class", "fname"))
    listing = _listing(records, records["fname"], file, class_names)
    folder = images_dir.resolve()
    return listing._replace(images_dir=images_dir, origin=(folder.parent.name, folder.name))


def read_boxes(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The boxes in an official ``.mat`` file, int64 ``(n, 4)``, and its labels from 0, ``(n,)``, if any."""
    records = _load_mat(file, "annotations")
    return _boxes(records, file), _integers(records, "class", file) - 1 if "class" in records else None


def find_dataset(root: Path) -> tuple[Listing, Listing, list[str]]:
    """The training photos, the test photos and the class names under ``root``, in whichever of these layouts:

    - torchvision's: ``devkit/``, ``cars_train/``, ``cars_test/``, ``cars_test_annos_withlabels.mat``;
    - the same unpacked from Kaggle: ``car_devkit/devkit/``, ``cars_train/cars_train/``;
    - ``cars_annos.mat`` with all photos in ``car_ims/``;
    - a folder for each class in ``train/`` and ``test/`` or ``val/``, with no boxes (``class_folders``).

    ``root`` may also be a folder around these: ``root/stanford_cars``, as torchvision calls it, or an only
    subfolder. Raises ``LabError`` as ``read_annotations`` does, and where there is no data set.
    """
    bases = list(_bases(root))
    for base in bases:
        for find in (_torchvision, _single_file, class_folders):
            if found := find(base):
                return found
    for base in bases:
        if reason := why_none(base):
            raise LabError(reason)
    raise LabError(
        f"В папке {root} нет набора данных (devkit, cars_annos.mat или train и test с папками классов): "
        f"скачайте его командой python -m labnn download --data {root}, "
        "положите туда файлы, как описано в README, или укажите другую папку."
    )


def without_absent(listing: Listing, missing: str) -> Listing:
    """``listing`` without absent photos, which is said; with ``missing="error"`` they raise ``LabError``."""
    if missing not in ("error", "skip"):
        raise LabError(f"Неизвестное значение missing={missing!r}: выберите error или skip.")
    folder, names = listing.images_dir, listing.names
    if not folder.is_dir():
        raise LabError(f"Нет папки снимков {folder}: проверьте корень набора и распакуйте туда снимки.")
    nested = any("/" in name for name in names)
    files = {name for name in names if (folder / name).exists()} if nested else set(os.listdir(folder))
    absent = [name for name in names if name not in files]
    if not absent:
        return listing
    found = f"папке {folder} нет снимков: {len(absent)} из {len(names)}, первый — {absent[0]}"
    if missing == "error" or len(absent) == len(names):
        way_out = 'доложите файлы или разрешите пропуск (--skip-missing, missing="skip")'
        raise LabError(f"В {found}: {way_out}.")
    say(f"Пропущено: в {found}.")
    return listing.take(np.flatnonzero([name in files for name in names]))


def write_annotations(
    root: Path, parts: dict[str, tuple[Sequence[str], np.ndarray, np.ndarray]], class_names: Sequence[str]
) -> None:
    """Writes the ``.mat`` files of torchvision's layout; each part's names, labels from 0 and boxes."""
    import scipy.io  # here: reading needs none of it

    (root / "devkit").mkdir(parents=True, exist_ok=True)
    names = np.array([class_names], dtype=object)
    scipy.io.savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    for part, (names, labels, boxes) in parts.items():
        records = np.empty((1, len(names)), dtype=[(field, object) for field in (*BOX, "class", "fname")])
        for index, (name, label, box) in enumerate(zip(names, labels, boxes, strict=True)):
            records[0, index] = (*(float(edge) for edge in box), float(label + 1), name)
        scipy.io.savemat(root / _ANNOTATIONS[part], {"annotations": records})


def _bases(root: Path) -> Iterator[Path]:
    """``root`` and the folders in it that may stand for it."""
    for _ in range(4):
        if not root.is_dir():
            return
        yield root
        folders = subfolders(root)
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
    test_file = _first(base / test, devkit / test, base / test.replace(".", " (1)."))
    parts = []
    for part, file in (("train", devkit / "cars_train_annos.mat"), ("test", test_file)):
        listing = read_annotations(file, _nested(base / f"cars_{part}"), class_names)
        parts.append(listing._replace(origin=(base.resolve().name, part)))
    return *parts, class_names


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
    records = _records(file, ("class", "relative_im_path", "test"))
    paths = records["relative_im_path"]
    names = [path.removeprefix("car_ims/") if isinstance(path, str) else path for path in paths]
    whole = _listing(records, names, file, class_names)._replace(images_dir=_nested(base / "car_ims"))
    in_test = _integers(records, "test", file).astype(bool)
    parts = []
    for part, chosen in (("train", ~in_test), ("test", in_test)):
        if not chosen.any():
            raise LabError(f"В файле разметки {file} часть {part} пуста: скачайте его заново.")
        parts.append(whole.take(np.flatnonzero(chosen))._replace(origin=(base.resolve().name, part)))
    return *parts, class_names


def _records(file: Path, fields: Sequence[str]) -> dict[str, list]:
    """``fields`` and boxes of the annotations: a list of the values of all photos for each."""
    records = _load_mat(file, "annotations")
    if not isinstance(records, dict) or not {*fields, *BOX} <= set(records):
        raise LabError(
            f"В файле разметки {file} нет полей {', '.join(fields)} и bbox_*: "
            "возьмите файл с метками (для теста — cars_test_annos_withlabels.mat)."
        )
    if not records["class"]:
        raise LabError(f"В файле разметки {file} нет ни одного снимка: скачайте его заново.")
    return records


def _listing(records: dict[str, list], names: list, file: Path, class_names: Sequence[str] | None) -> Listing:
    """The photos ``names`` with the labels and boxes of ``records``, all of them checked."""
    labels = _integers(records, "class", file) - 1
    limit = np.inf if class_names is None else len(class_names)
    if (wrong := np.flatnonzero((labels < 0) | (labels >= limit))).size:
        allowed = "от 1" if class_names is None else f"от 1 до {limit}"
        found = f"у снимка {names[wrong[0]]} класс {labels[wrong[0]] + 1}, а должен быть {allowed}"
        raise LabError(f"В файле {file} {found}: исправьте разметку или список классов.")
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
            found = f"имя снимка {name!r} ведёт за пределы папки снимков"
            raise LabError(f"В файле {file} {found}: исправьте его или скачайте разметку заново.")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        found = f"снимок {repeated[0]} описан дважды (таких снимков: {len(repeated)})"
        raise LabError(f"В файле {file} {found}: оставьте по одной записи на снимок.")
    return Listing(file.parent, names, labels, _boxes(records, file), ("", ""))


def _boxes(records: dict[str, list], file: Path) -> np.ndarray:
    return np.stack([_integers(records, field, file) for field in BOX], axis=1)


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
        found = f"класс или рамка не целое число ({error})"
        raise LabError(f"В файле разметки {file} {found}: исправьте его или скачайте заново.") from None


def _load_mat(path: Path, name: str) -> Any:
    if not path.is_file():
        raise LabError(f"Нет файла разметки {path}: проверьте корень набора и докачайте файл.")
    try:
        content = read_mat(path)
    except NotImplementedError:
        way_out = "возьмите официальный файл или сохраните его в MATLAB с ключом -v7"
        raise LabError(f"Файл разметки {path} записан как MATLAB v7.3: {way_out}.") from None
    except (OSError, MatError) as error:
        raise LabError(f"Файл разметки {path} не читается как .mat ({error}): скачайте его заново.") from None
    if name not in content:
        what = f"нет переменной {name}: это не файл разметки Stanford Cars"
        raise LabError(f"В файле {path} {what}, скачайте его заново.")
    return content[name]


def _class_names(file: Path) -> list[str]:
    names = _load_mat(file, "class_names")
    names = [names] if isinstance(names, str) else names
    are_names = isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)
    if not are_names or len(set(names)) < len(names):
        what = "названия классов должны быть строками, непустыми и разными"
        raise LabError(f"В файле {file} {what}: скачайте его заново.")
    return names
