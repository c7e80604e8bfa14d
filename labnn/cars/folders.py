"""Data sets of a folder for each class, read as ``torchvision``'s ``ImageFolder`` does; official classes."""

import os
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from labnn.kit.errors import LabError
from labnn.kit.progress import say

# As torchvision's ``ImageFolder`` has them, whose import takes two seconds.
IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
_SYSTEM = (
    *(
        "@eadir",
        "@recycle",
        "#recycle",
        "__macosx",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    ),
    *("thumbs.db", "desktop.ini"),
)


class Listing(NamedTuple):
    """The photos of one part of a data set.

    ``names`` are paths relative to ``images_dir``; ``labels`` int64 ``(n,)`` from 0; ``boxes`` int64 ``(n,
    4)``: x1, y1, x2, y2 in pixels from 1, both ends inside, as in the official files, or None where the
    layout has none. ``origin`` is the name of the data set and of its part.
    """

    images_dir: Path
    names: list[str]
    labels: np.ndarray
    boxes: np.ndarray | None
    origin: tuple[str, str]

    def take(self, indices: np.ndarray) -> "Listing":
        """The photos ``indices`` alone."""
        names = [self.names[index] for index in indices]
        boxes = None if self.boxes is None else self.boxes[indices]
        return self._replace(names=names, labels=self.labels[indices], boxes=boxes)


class Official(NamedTuple):
    """Stanford Cars as published: classes in the labels' order, photos of each in both parts, all bytes."""

    class_names: list[str]
    train: list[int]
    test: list[int]
    photo_bytes: int


def official_classes() -> Official:
    """The 196 classes, counted in the official annotations; the size is TensorFlow Datasets' (cars196)."""
    table = pd.read_csv(Path(__file__).with_name("stanford_cars.csv"))
    return Official(*(table[column].tolist() for column in ("class", "train", "test")), 1_960_000_000)


def same_name(name: str) -> str:
    """What spellings of a class name share, its letters and digits: "Ram C/V Cargo" and "Ram C-V Cargo"."""
    return re.sub(r"[^\w]|_", "", name).casefold()


def subfolders(folder: Path) -> list[str]:
    """The folders in ``folder`` but hidden ones and the system's own, by name."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_visible(entry.name) and entry.is_dir())


def class_folders(base: Path) -> tuple[Listing, Listing, list[str]] | None:
    """The two parts in ``base`` and their class names, or None where no photos lie so.

    A class is a folder of the first level with the photos at any depth below it. Official classes stand in
    the official order, others after them by name. What is not read as the names say is told in a line. Raises
    ``LabError``: a class in two folders of a part or without training photos, a part without photos.
    """
    taken = [_named(subfolders(base), words) for words in (_TRAIN, _TEST)]
    if None in taken:
        return None
    folders = [_unwrapped(base / name) for name in taken]
    if os.path.samefile(*folders):
        raise LabError(f"В папке {base} части {_few(taken)} — одна и та же папка: разделите снимки.")
    listed = [_photos(folder) for folder in folders]
    if not any(photos for photos, _ in listed):
        return None
    official = official_classes().class_names
    classes = []
    for folder, (photos, others) in zip(folders, listed, strict=True):
        classes.append(_classes(folder, photos, official))
        _tell_left_out(folder, photos, others)
    trained, tested = map(set, classes)
    class_names = _ordered(trained | tested, official, base)
    if strangers := [name for name in class_names if name not in trained]:
        found = f"В папке {folders[0]} нет снимков класса «{strangers[0]}», а в {taken[1]} они есть"
        raise LabError(f"{found}: доложите их или назовите папки класса одинаково.")
    places = {os.path.dirname(name) for name in listed[0][0]}
    if len(class_names) == 1 and len(places) > 1:
        found = f"В папке {folders[0]} один класс «{class_names[0]}», а в нём папок: {len(places)}"
        raise LabError(f"{found}: если классы это они, поднимите их на уровень выше.")
    _tell_parts(base, taken)
    if untested := [name for name in class_names if name not in tested]:
        _tell(f"В папке {folders[1]} нет снимков классов, на тесте их не будет: {_few(untested)}.")
    parts = []
    for part, folder, (photos, _), of_photos in zip(("train", "test"), folders, listed, classes, strict=True):
        labels = pd.Categorical(of_photos, class_names).codes.astype(np.int64)
        parts.append(Listing(folder, photos, labels, None, (base.resolve().name, part)))
    return *parts, class_names


def why_none(base: Path) -> str | None:
    """Why the class folders in ``base`` are no data set, and the way out, if there are any."""
    folders = subfolders(base)
    train, test = _named(folders, _TRAIN), _named(folders, _TEST)
    way_out = "разложите снимки каждого класса по папкам train/КЛАСС и test/КЛАСС, например 4 : 1"
    if train and not test and _photos(base / train)[0]:
        return f"В папке {base} есть {printable(train)}, но нет test или val: {way_out}."
    if train or test or sum(_has_photo(base / name) for name in folders) < 2:
        return None
    if _named([base.resolve().name], _TRAIN + _TEST):
        way_out = "укажите папку над ней, в которой лежат train и test"
    return f"В папке {base} лежат папки классов без деления на train и test ({_few(folders)}): {way_out}."


def _named(folders: list[str], words: Sequence[str]) -> str | None:
    """The folder that is called by the first of ``words`` to name only one: "train", "Train", "seg_train"."""
    for word in words:
        if word in folders:
            return word
        same = [name for name in folders if name.lower() == word]
        found = same or [name for name in folders if word in re.split(r"[\W_]+", name.lower())]
        if len(found) == 1:
            return found[0]
    return None


def _unwrapped(folder: Path) -> Path:
    """The folder of the same name in ``folder``, as archives unpack, if it is alone there and has folders."""
    inner = folder / folder.name
    return inner if subfolders(folder) == [folder.name] and subfolders(inner) else folder


def _has_photo(folder: Path) -> bool:
    """Whether a photo lies right in ``folder``, which may be any on the disk: no deeper look is taken."""
    with suppress(OSError):
        return any(_is_photo(name) for name in os.listdir(folder))
    return False


def _photos(folder: Path) -> tuple[list[str], list[str]]:
    """Photos in the folders below ``folder``, and all other files: paths relative to it, with "/", sorted."""
    photos, others = [], []
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if _is_visible(name) and not _is_loop(Path(place), name)]
        inside = Path(place).relative_to(folder)
        for name in filter(_is_visible, files):
            (photos if inside.parts and _is_photo(name) else others).append((inside / name).as_posix())
    return sorted(photos), sorted(others)


def _refuse(error: OSError) -> None:
    raise error  # a folder that cannot be read is not one without photos


def _is_loop(place: Path, name: str) -> bool:
    """Whether ``name`` is a link to a folder around it."""
    return (place / name).is_symlink() and place.resolve().is_relative_to((place / name).resolve())


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _SYSTEM


def _is_photo(name: str) -> bool:
    return _is_visible(name) and name.lower().endswith(IMG_EXTENSIONS)


def _classes(folder: Path, photos: list[str], official: list[str]) -> list[str]:
    """The class of each photo; the slash of an official name may have become a folder: "Ram C/V Cargo"."""
    if not photos:
        raise LabError(f"В папке {folder} нет ни одного снимка в папках классов: положите их туда.")
    spelled = {same_name(name): name for name in official}
    class_of = {}  # of each folder
    homes = {}  # of each class
    for place in dict.fromkeys(os.path.dirname(name) for name in photos):
        levels = place.split("/")
        above = ["/".join(levels[:depth]) for depth in range(1, len(levels) + 1)]
        home = next((path for path in above if same_name(path) in spelled), above[0])
        class_of[place] = spelled.get(same_name(home)) or printable(home)
        if homes.setdefault(class_of[place], home) != home:
            raise LabError(f"В папке {folder} класс «{class_of[place]}» лежит в двух папках: объедините их.")
    return [class_of[os.path.dirname(name)] for name in photos]


def _ordered(names: set[str], official: list[str], base: Path) -> list[str]:
    """Official classes in the official order, then the others by name."""
    known = [name for name in official if name in names]
    own = sorted(names.difference(known))
    if known and own:
        _tell(f"Классы не из Stanford Cars в папке {base} стоят после официальных: {_few(own)}.")
    return known + own


def _tell_parts(base: Path, taken: list[str]) -> None:
    spare = [name for name in subfolders(base) if name not in taken and _named([name], _TRAIN + _TEST)]
    if taken != ["train", "test"] or spare:
        others = f", не взято: {_few(spare)}" if spare else ""
        _tell(f"В папке {base} обучающая часть — {taken[0]}, тестовая — {taken[1]}{others}.")


def _tell_left_out(folder: Path, photos: list[str], others: list[str]) -> None:
    empty = sorted(set(subfolders(folder)) - {name.partition("/")[0] for name in photos})
    for words, names in (("папки без снимков", empty), ("файлы, что не снимки в папках классов", others)):
        if names:
            _tell(f"В папке {folder} не взяты {words}: {_few(names)}.")


def _tell(words: str) -> None:
    say(printable(words))


def _few(names: list[str]) -> str:
    more = f" и ещё {len(names) - 3}" if len(names) > 3 else ""
    return ", ".join(map(printable, names[:3])) + more


def printable(name: str) -> str:
    """A file's name as text in one line: letters composed (NFC); control characters, and bytes that are no
    UTF-8, as in names from archives of old Windows, as escapes.
    """
    text = unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
    unfit = {letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")}
    return text.translate({ord(letter): letter.encode("unicode_escape").decode() for letter in unfit})
