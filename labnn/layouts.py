"""Where the photos of a data set lie and what its annotations say, in the layouts that people have."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from labnn.kit.errors import LabError, explained
from labnn.kit.progress import say

BOX = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"]
TEST_FILE = "cars_test_annos_withlabels.mat"
# As torchvision's ``ImageFolder`` has them, whose import takes two seconds.
_PHOTOS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_PARTS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
# What editors, disks and archives leave behind.
_LITTER = re.compile(r"[.@#$].*|__MACOSX|Thumbs\.db|desktop\.ini|lost\+found|System Volume Information", re.I)


class Listing(NamedTuple):
    """The photos of one part: paths below ``images_dir``, labels int64 ``(n,)`` from 0, boxes int64 ``(n,
    4)`` as in the official files or None, the names of the data set and of the part.
    """

    images_dir: Path
    names: list[str]
    labels: np.ndarray
    boxes: np.ndarray | None
    origin: tuple[str, str]


def official_classes() -> pd.DataFrame:
    """The 196 classes in the official order, ``class``, with their numbers of photos, ``train``, ``test``."""
    return pd.read_csv(Path(__file__).with_name("stanford_cars.csv"))


def same_name(name: str) -> str:
    """What spellings of a class name share, its letters and digits: "Ram C/V Cargo" and "Ram C-V Cargo"."""
    return re.sub(r"[^\w]|_", "", name).casefold()


def find_dataset(root: Path) -> tuple[Listing, Listing, list[str]]:
    """The training photos, the test photos and the class names under ``root``, in whichever of these layouts:

    - torchvision's: ``devkit/``, ``cars_train/``, ``cars_test/``, ``cars_test_annos_withlabels.mat``;
    - the same unpacked from Kaggle: ``car_devkit/devkit/``, ``cars_train/cars_train/``;
    - ``cars_annos.mat`` with all photos in ``car_ims/``;
    - a folder for each class in ``train/`` and ``test/`` or ``val/``, with no boxes, as for ``ImageFolder``.

    ``root`` may also be a folder around these. Raises ``LabError`` where there is no data set or it is
    damaged.
    """
    for base in _bases(root):
        for find in (_official, _single_file, _class_folders):
            if found := find(base):
                return found
    there = f"есть: {_few(_visible(root))}" if _visible(root) else "пусто или её нет"
    raise LabError(
        f"В папке {root} нет набора данных (там {there}): нужны devkit и cars_train, как в официальном, либо "
        "папки классов train/КЛАСС и test/КЛАСС; официальный скачает команда "
        f"python -m labnn download --data {root}."
    )


def list_photos(folder: str | Path) -> list[str]:
    """The photos at any depth below ``folder``, relative to it, sorted; no hidden and system entries."""
    return [name for name in _files(folder) if name.lower().endswith(_PHOTOS)]


def read_annotations(file: Path, images_dir: Path, class_names: Sequence[str] | None = None) -> Listing:
    """The photos that an official ``.mat`` file lists, called by the folders of the photos.

    Raises ``LabError``: a file that cannot be read or has no labels, a label outside ``class_names``, a
    file name that leads out of ``images_dir``.
    """
    table, folder = load_mat(file, "annotations"), images_dir.resolve()
    return _listing(table, file, images_dir, class_names, (folder.parent.name, folder.name))


def load_mat(file: Path, name: str) -> Any:
    """The variable ``name`` of a ``.mat`` file: "annotations" as a table, "class_names" as a list. Raises
    ``LabError`` for a file that cannot be read or lacks it.
    """
    from scipy.io import loadmat  # here: class folders need none of it

    try:
        value = list(np.atleast_1d(loadmat(file, simplify_cells=True)[name]))  # one record comes bare
        return pd.DataFrame(value) if name == "annotations" else list(map(str, value))
    except Exception as error:  # whatever the bytes of a damaged file led it to
        way_out = "возьмите официальный файл (формат MATLAB до v7.2) и проверьте корень набора"
        raise LabError(f"Файл разметки {file} не читается ({error}): {way_out}.") from error


def _listing(
    table: pd.DataFrame,
    file: Path,
    images_dir: Path,
    class_names: Sequence[str] | None,
    origin: tuple[str, str],
) -> Listing:
    """The photos in the rows of ``table``, which is looked at: what is wrong in it would be trained on."""
    most = np.inf if class_names is None else len(class_names)
    way_out = f"возьмите официальный файл с метками, для теста {TEST_FILE}"
    with explained(f"В файле разметки {file} нет меток или рамок числами", way_out):
        table = table[["fname", "class", *BOX]].astype({"fname": str})
        numbers = table[["class", *BOX]].astype(float)
        inside = ~table["fname"].str.contains(r"[/\\\0]|^\.*$")
        fits = (numbers % 1 == 0).all(axis=1) & numbers["class"].between(1, most) & inside
    fits &= ~table["fname"].duplicated(keep=False)
    if table.empty or not fits.all():
        row = "нет снимков" if table.empty else f"негодная строка {table[~fits].iloc[0].to_dict()}"
        raise LabError(
            f"В файле {file} {row}: имя должно быть одно на снимок и без папок, класс — целым от 1 до "
            f"{most:g}; исправьте разметку."
        )
    labels, boxes = (numbers[columns].to_numpy(np.int64) for columns in ("class", BOX))
    return Listing(images_dir, table["fname"].tolist(), labels - 1, boxes, origin)


def _bases(root: Path, depth: int = 4) -> Iterator[Path]:
    """``root`` and the folders in it that may stand for it, as archives unpack."""
    yield root
    folders = _folders(root)
    only = [name for name in folders if name == "stanford_cars"] or folders
    if len(only) == 1 and depth:
        yield from _bases(root / only[0], depth - 1)


def _first(*paths: Path) -> Path:
    return next((path for path in paths if path.exists()), paths[0])


def _official(base: Path) -> tuple[Listing, Listing, list[str]] | None:
    devkit = _first(base / "devkit", base / "car_devkit" / "devkit", base / "car_devkit")
    if not devkit.is_dir():
        return None
    # "(1)" is how the file is called in the copies on Kaggle.
    test_file = _first(base / TEST_FILE, devkit / TEST_FILE, base / TEST_FILE.replace(".", " (1)."))
    class_names, parts = load_mat(devkit / "cars_meta.mat", "class_names"), []
    for part, file in (("train", devkit / "cars_train_annos.mat"), ("test", test_file)):
        images_dir = _unwrapped(base / f"cars_{part}")
        table = load_mat(file, "annotations")
        parts.append(_listing(table, file, images_dir, class_names, (base.resolve().name, part)))
    return *parts, class_names


def _single_file(base: Path) -> tuple[Listing, Listing, list[str]] | None:
    file = base / "cars_annos.mat"
    if not (file.is_file() and (base / "car_ims").is_dir()):
        return None
    table, class_names, parts = load_mat(file, "annotations"), load_mat(file, "class_names"), []
    table["fname"] = table["relative_im_path"].str.removeprefix("car_ims/")
    for part, number in (("train", 0), ("test", 1)):
        rows, origin = table[table["test"] == number], (base.resolve().name, part)
        parts.append(_listing(rows, file, _unwrapped(base / "car_ims"), class_names, origin))
    return *parts, class_names


def _class_folders(base: Path) -> tuple[Listing, Listing, list[str]] | None:
    """A class is a folder of the first level with the photos at any depth below it. Official classes stand
    in the official order, others after them by name; what is not read is told.
    """
    folders = [_part(base, words) for words in _PARTS.values()]
    if None in folders:
        return None
    files = list(map(_files, folders))
    photos = [[name for name in names if "/" in name and name.lower().endswith(_PHOTOS)] for names in files]
    if not any(photos):
        return None
    official = official_classes()["class"].tolist()
    spelled = {same_name(name): name for name in official}
    classes = [[_class_of(name, spelled) for name in names] for names in photos]
    known = set(classes[0])
    class_names = [name for name in official if name in known] + sorted(known.difference(official))
    spellings = Counter(name.strip().casefold() for name in class_names)
    if alike := [name for name in class_names if spellings[name.strip().casefold()] > 1]:
        say(f"Внимание: имена классов различаются только регистром или пробелом: {_few(alike)}.")
    if len(known) == 1:
        way_out = "положите туда хотя бы две папки классов"
        raise LabError(f"В папке {folders[0]} только один класс, {class_names[0]}: {way_out}.")
    parts = []
    for part, folder, there, names, of_photos in zip(_PARTS, folders, files, photos, classes, strict=True):
        if strangers := set(of_photos) - known:
            raise LabError(
                f"В папке {folder} есть классы, которых нет в {folders[0]}: {_few(sorted(strangers))}."
            )
        if not names:
            raise LabError(f"В папке {folder} нет снимков в папках классов: положите их туда.")
        if absent := [name for name in class_names if name not in of_photos]:
            say(f"В папке {folder} нет снимков классов: {_few(absent)}.")
        if others := sorted(set(there).difference(names)):
            say(f"В папке {folder} не взяты файлы, что не снимки в папках классов: {_few(others)}.")
        labels = pd.Categorical(of_photos, class_names).codes.astype(np.int64)
        parts.append(Listing(folder, names, labels, None, (base.resolve().name, part)))
    if [folder.name for folder in folders] != list(_PARTS):
        say(f"В папке {base} обучающая часть — {folders[0].name}, тестовая — {folders[1].name}.")
    return *parts, class_names


def _part(base: Path, words: Sequence[str]) -> Path | None:
    """The folder in ``base`` that is called by the first of ``words`` to name only one: "train",
    "seg_train".
    """
    folders = _folders(base)
    for word in words:
        same = [name for name in folders if name.lower() == word]
        found = same or [name for name in folders if word in re.split(r"[\W_]+", name.lower())]
        if len(found) == 1:
            return _unwrapped(base / found[0])
    return None


def _unwrapped(folder: Path) -> Path:
    """The folder of the same name alone inside ``folder``, as archives unpack, or ``folder``."""
    inner = folder / folder.name
    return inner if inner.is_dir() and _visible(folder) == [inner.name] else folder


def _class_of(photo: str, official: dict[str, str]) -> str:
    """The name of the folder of a photo, or the official one that it spells."""
    name = _text(photo.partition("/")[0])
    return official.get(same_name(name), name)


def _text(name: str) -> str:
    """A file's name as text: letters composed (NFC), bytes that are no UTF-8 as escapes."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _visible(folder: str | Path) -> list[str]:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name for name in names if not _LITTER.fullmatch(name))


def _folders(base: Path) -> list[str]:
    return [name for name in _visible(base) if (base / name).is_dir()]


def _files(folder: str | Path, above: tuple[Path, ...] = ()) -> list[str]:
    """All files below ``folder``, sorted. A link to a folder that is read in its own place, or that is around
    one being read, is not followed and counts as a file: its photos would come twice, under two labels.
    """
    above, found = (*above, Path(folder).resolve()), []
    for name in _visible(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not (os.path.islink(path) and _overlaps(Path(path).resolve(), above)):
            found += [f"{name}/{below}" for below in _files(path, above)]
        else:
            found.append(name)
    return sorted(found)


def _overlaps(folder: Path, others: Sequence[Path]) -> bool:
    return any(folder.is_relative_to(other) or other.is_relative_to(folder) for other in others)


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(_text, names[:3])) + (f" и ещё {len(names) - 3}" if len(names) > 3 else "")
