"""Stanford Cars from public mirrors, checked, into the layout that ``open_dataset`` reads. The official address has been dead since 2023."""

import hashlib
import io
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import ExifTags, Image

from labnn.cars.layouts import (
    Official,
    find_dataset,
    official_classes,
    read_boxes,
    same_name,
    write_annotations,
)
from labnn.data import CarsData, open_dataset
from labnn.kit.errors import LabError, as_path
from labnn.kit.files import alone, is_full, readable, told
from labnn.kit.progress import print_download

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # in a notebook without widgets their progress bars complain
    import kagglehub
    from huggingface_hub import HfFileMetadata, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import disable_progress_bars

_REPOSITORY, _REVISION = "tanganke/stanford_cars", "9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40"
_PARQUET = {
    part: [f"data/{part}-0000{number}-of-00002.parquet" for number in (0, 1)] for part in ("train", "test")
}
_KAGGLE = (
    "rickyyyyyyy/torchvision-stanford-cars",
    "eduardo4jesus/stanford-cars-dataset",
    "cyizhuo/stanford-cars-by-classes-folder",
)
_BOXES = {
    part: f"car_devkit/devkit/cars_{part}_annos.mat" for part in ("train", "test")
}  # in the second of them


class _Unfit(Exception):
    """What a source holds is not Stanford Cars."""


def download(
    root: str | Path,
    *,
    endpoint: str | None = None,
    official: Official | None = None,
    progress: Callable[[int, int], None] = print_download,
) -> CarsData:
    """Stanford Cars in ``root``, from Hugging Face or else from Kaggle; what is there already is opened and nothing fetched.

    The photos are the source's own bytes. Rows, photos of each class and the order of the classes are checked against ``official``, and
    ``root`` appears whole at the end or not at all. A broken transfer goes on at the next call. Hugging Face has no boxes: the official
    ones come from Kaggle where it answers and the photos stand in the official order, else a box is the whole photo, which is said.
    ``endpoint`` is the address of a mirror of Hugging Face; ``progress`` is called with the bytes that have come from there and all.

    Raises ``LabError``: ``root`` holds something else, the disk is too small, no source answers with the whole set.
    """
    root, official = as_path(root), official or official_classes()
    for library in ("kagglehub", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)  # what they say is said here, in Russian
    disable_progress_bars()
    if _occupied(root):
        return _present(root, official)
    with alone(root, f"Набор {root}"):
        if _occupied(root):  # by who was waited for
            return _present(root, official)
        unfinished, packed = (root.with_name(f".{root.name}.{state}") for state in ("unfinished", "download"))
        _check_space(root.parent, 2 * official.photo_bytes - _size(packed))
        sources = {
            "Hugging Face": partial(_from_huggingface, packed=packed, endpoint=endpoint, progress=progress)
        }
        sources |= {f"Kaggle ({handle})": partial(_from_kaggle, handle) for handle in _KAGGLE}
        try:
            _first_that_answers(sources, unfinished, official, root)
            with told(root):
                if root.is_dir():
                    root.rmdir()
                os.replace(unfinished, root)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(packed, ignore_errors=True)
    data = open_dataset(root)
    print(f"Готово, {_sizes(data)}: {root}", flush=True)
    return data


def _occupied(root: Path) -> bool:
    with readable(root):
        return root.exists() and not (root.is_dir() and next(root.iterdir(), None) is None)


def _present(root: Path, official: Official) -> CarsData:
    try:
        data = open_dataset(root)
        _check_classes(data.class_names, official)
    except _Unfit as error:
        raise LabError(
            f"Место {root} занято другим набором, не Stanford Cars ({error}): укажите другое."
        ) from None
    except LabError as error:
        found = str(error).partition(":")[0]
        raise LabError(
            f"Место {root} занято, а целого набора там нет ({found}): освободите его или укажите другое."
        ) from None
    print(f"Набор уже есть, {_sizes(data)}: {root}; ничего не скачивалось.", flush=True)
    return data


def _sizes(data: CarsData) -> str:
    return f"обучающих снимков {len(data.train)}, тестовых {len(data.test)}, классов {len(data.class_names)}"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check_space(folder: Path, needed: int) -> None:
    """``needed`` bytes: the photos once packed and once unpacked."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        gigabytes = f"{needed / 1e9:.1f} ГБ, а в папке {folder} свободно {free / 1e9:.1f} ГБ"
        raise LabError(f"Для набора нужно {gigabytes}: освободите место или укажите другую папку.")


def _first_that_answers(sources: dict, unfinished: Path, official: Official, root: Path) -> None:
    """Fills the folder ``unfinished`` from the first of ``sources`` that gives the whole set."""
    for name, fill in sources.items():
        print(f"Источник: {name}", flush=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        with told(root):
            unfinished.mkdir()
        try:
            fill(unfinished, official=official)
            open_dataset(unfinished)
            return
        except Exception as error:  # the clients raise whatever their transport led to
            if is_full(error):
                with told(root):
                    raise
            print(f"Не вышло: {_reason(error)}", flush=True)
    raise LabError(
        f"Stanford Cars не скачан, целого набора не дал ни один источник (причины названы выше): повторите там, где открывается huggingface.co или "
        f"kaggle.com, скачанное не пропадёт, либо скачайте архив браузером, например с kaggle.com/datasets/{_KAGGLE[0]}, и распакуйте в {root}."
    )


def _reason(error: Exception) -> str:
    """Our own words, the server's status, a broken connection, or another library's error and the start of its first line."""
    if isinstance(error, (_Unfit, LabError)):
        return str(error).rstrip(".")
    if (response := getattr(error, "response", None)) is not None:
        return f"сервер ответил {response.status_code}"
    kind = type(error)
    if kind.__module__.startswith(("httpx", "requests", "urllib3")):
        return f"связи нет или она прервалась ({kind.__name__})"
    return f"источник негоден, {kind.__name__}: {str(error).partition(chr(10))[0][:120]}"


def _from_huggingface(
    folder: Path, official: Official, packed: Path, endpoint: str | None, progress: Callable[[int, int], None]
) -> None:
    files = _fetch(packed, endpoint, progress)
    try:
        labels = {part: _labels(files[part], part, official) for part in files}
        sizes = {part: np.array(list(_unpack(files[part], folder / f"cars_{part}"))) for part in files}
    except Exception as error:
        if not isinstance(
            error, OSError
        ):  # not the disk's doing: the files are not what they should be, and fetched anew next time
            shutil.rmtree(packed, ignore_errors=True)
        raise
    boxes = _official_boxes(labels, sizes) or {part: _whole(sizes[part]) for part in sizes}
    parts = {
        part: ([_number(index) for index in range(len(labels[part]))], labels[part], boxes[part])
        for part in files
    }
    write_annotations(folder, parts, official.class_names)


def _fetch(packed: Path, endpoint: str | None, progress: Callable[[int, int], None]) -> dict[str, list[Path]]:
    """The parquet files of each part in the folder ``packed``; those that are whole there already are not asked for.

    Not by ``hf_hub_download``: in huggingface_hub 1.19 and later it begins an interrupted file anew in the next process.
    """
    files = {part: [packed / name for name in names] for part, names in _PARQUET.items()}
    absent = [path for paths in files.values() for path in paths if not path.exists()]
    address = partial(hf_hub_url, _REPOSITORY, repo_type="dataset", revision=_REVISION, endpoint=endpoint)
    remote = {
        path: get_hf_file_metadata(address(path.relative_to(packed).as_posix()), endpoint=endpoint)
        for path in absent
    }
    total = sum(
        remote[path].size if path in remote else path.stat().st_size
        for paths in files.values()
        for path in paths
    )
    for path, metadata in remote.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_file = path.with_name(f"{path.name}.part")
        with _Counted(io.FileIO(partial_file, "ab"), lambda: progress(_size(packed), total)) as file:
            if (start := file.seek(0, os.SEEK_END)) < metadata.size:
                http_get(
                    address(path.relative_to(packed).as_posix()), file, resume_size=start
                )  # not metadata.location, which expires
        try:
            _check_file(partial_file, metadata)
        except _Unfit:
            partial_file.unlink()
            raise
        os.replace(partial_file, path)
    return files


def _check_file(file: Path, metadata: HfFileMetadata) -> None:
    if (size := file.stat().st_size) != metadata.size:
        raise _Unfit(f"файл {file.stem} пришёл размером {size} байт вместо {metadata.size}")
    if re.fullmatch("[0-9a-f]{64}", metadata.etag or ""):  # the SHA-256 of a large file
        with open(file, "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != metadata.etag:
                raise _Unfit(f"файл {file.stem} пришёл с другой контрольной суммой")


class _Counted(io.BufferedWriter):
    """A file that calls ``told`` after each write."""

    def __init__(self, raw: io.RawIOBase, told: Callable[[], None]):
        super().__init__(raw)
        self._told = told

    def write(self, data) -> int:
        written = super().write(data)
        self._told()
        return written


def _labels(files: Sequence[Path], part: str, official: Official) -> np.ndarray:
    """The labels in ``files``, int64 ``(n,)``, after a look at their names, their order and their numbers."""
    labels = []
    for path in files:
        try:
            table = pq.read_table(path, columns=["label"])
            described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
            labels.append(table["label"].to_numpy().astype(np.int64, casting="safe"))
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise _Unfit(f"файл {path.name} не читается: {type(error).__name__}") from None
        names = described.get("info", {}).get("features", {}).get("label", {}).get("names")
        _check_classes(official.class_names if names is None else names, official)
    _check_counts(together := np.concatenate(labels), part, official)
    return together


def _unpack(files: Sequence[Path], folder: Path) -> Iterator[tuple[int, int]]:
    """Writes the pictures in ``files`` into ``folder`` as they are, and gives the width and height of each."""
    folder.mkdir()
    number = 0
    for path in files:
        for content in _pictures(path):
            try:
                size = _upright_size(io.BytesIO(content))
            except (OSError, TypeError) as error:
                raise _Unfit(f"снимок {number + 1} в {path.name} не читается: {error}") from None
            (folder / _number(number)).write_bytes(content)
            number += 1
            yield size
    print(f"Распаковано снимков в {folder.name}: {number}", flush=True)


def _pictures(file: Path) -> Iterator[bytes]:
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=64, columns=["image"]):
            for content in batch.column("image").field("bytes"):
                yield content.as_py()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _Unfit(f"файл {file.name} не читается: {type(error).__name__}") from None


def _official_boxes(
    labels: dict[str, np.ndarray], sizes: dict[str, np.ndarray]
) -> dict[str, np.ndarray] | None:
    """The official boxes, if they can be had and the photos stand in their order: labels agree, and boxes lie on their photos."""
    boxes = {}
    try:
        for part, file in _BOXES.items():
            boxes[part], classes = read_boxes(Path(kagglehub.dataset_download(_KAGGLE[1], path=file)))
            inside = (boxes[part][:, 2:] <= sizes[part]).all(axis=1).mean()
            if (classes is not None and not np.array_equal(classes, labels[part])) or inside < 0.99:
                raise _Unfit("снимки стоят в другом порядке")
    except Exception as error:  # whatever the transport led to
        print(f"Рамки из Kaggle не взяты ({_reason(error)}): рамкой будет весь снимок.", flush=True)
        return None
    return boxes


def _from_kaggle(handle: str, folder: Path, official: Official) -> None:
    train, test, class_names = find_dataset(Path(kagglehub.dataset_download(handle)))
    _check_classes(class_names, official)
    parts = {}
    for part, listing in (("train", train), ("test", test)):
        _check_counts(listing.labels, part, official)
        (folder / f"cars_{part}").mkdir()
        names = [_number(index) if "/" in name else name for index, name in enumerate(listing.names)]
        for source, name in zip(listing.names, names, strict=True):
            _link(listing.images_dir / source, folder / f"cars_{part}" / name)
        boxes = listing.boxes
        if boxes is None:
            boxes = _whole(np.array([_upright_size(folder / f"cars_{part}" / name) for name in names]))
        parts[part] = (names, listing.labels, boxes)
    write_annotations(folder, parts, official.class_names)


def _check_classes(names: Sequence[str], official: Official) -> None:
    for index, expected in enumerate(official.class_names):
        if index >= len(names) or same_name(names[index]) != same_name(expected):
            found = f"«{names[index]}»" if index < len(names) else "ничего"
            raise _Unfit(f"класс {index + 1} должен быть «{expected}», а стоит {found}")


def _check_counts(labels: np.ndarray, part: str, official: Official) -> None:
    expected = np.array(getattr(official, part))
    if len(labels) != expected.sum():
        raise _Unfit(f"в части {part} строк {len(labels)}, а должно быть {expected.sum()}")
    if labels.min() < 0:
        raise _Unfit(f"в части {part} есть метка {labels.min()}")
    counts = np.bincount(labels, minlength=len(expected))
    for name, count, right in zip(
        official.class_names, counts, expected, strict=False
    ):  # the totals agree, so one of these differs
        if count != right:
            raise _Unfit(f"в части {part} у класса «{name}» снимков {count}, а должно быть {right}")


def _number(index: int) -> str:
    return f"{index + 1:05d}.jpg"


def _upright_size(file: io.BytesIO | Path) -> tuple[int, int]:
    """Width and height of a picture after the turn that its EXIF asks for; only the header is read."""
    with Image.open(file) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size[::-1] if turned else image.size


def _whole(sizes: np.ndarray) -> np.ndarray:
    """Boxes ``(n, 4)`` that hold whole pictures of ``sizes`` ``(n, 2)``."""
    return np.concatenate([np.ones_like(sizes), sizes], axis=1)


def _link(source: Path, target: Path) -> None:
    """The same file at ``target`` without its bytes twice, where the disk can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
