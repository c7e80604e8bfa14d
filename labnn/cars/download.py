"""Stanford Cars from public mirrors, checked, in ``open_dataset``'s layout; the official site is dead."""

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

from labnn.cars import layouts
from labnn.cars.layouts import Listing, Official, same_name
from labnn.cars.pictures import upright_size
from labnn.kit.errors import LabError, as_path
from labnn.kit.files import exclusive, is_full, read_errors, write_errors
from labnn.kit.progress import Live, say

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # in a notebook without widgets their progress bars complain
    import kagglehub
    from huggingface_hub import HfFileMetadata, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import disable_progress_bars

_PARTS = ("train", "test")
_REPOSITORY, _REVISION = "tanganke/stanford_cars", "9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40"
_PARQUET = {part: [f"data/{part}-0000{number}-of-00002.parquet" for number in (0, 1)] for part in _PARTS}
_KAGGLE = (
    "rickyyyyyyy/torchvision-stanford-cars",
    "eduardo4jesus/stanford-cars-dataset",
    "cyizhuo/stanford-cars-by-classes-folder",
)
_BOXES_OF, _BOXES = _KAGGLE[1], "car_devkit/devkit/cars_{part}_annos.mat"


Progress = Callable[[int, int], None]  # called with bytes done and all
_Arrays = dict[str, np.ndarray]  # one a part


class _Unfit(Exception):
    """What a source holds is not Stanford Cars."""


def download(
    root: str | Path,
    *,
    endpoint: str | None = None,
    official: Official | None = None,
    progress: Progress | None = None,
) -> Path:
    """Stanford Cars in ``root``, from Hugging Face or else from Kaggle; what is there already is opened only.

    The photos are the source's own bytes; rows, photos of each class and the order of the classes are those
    of ``official``. ``root`` appears whole at the end or not at all; a broken transfer goes on at the next
    call. The boxes come from Kaggle where it answers and the photos stand in the official order, else a box
    is the whole photo, which is said. ``endpoint`` is the address of a mirror of Hugging Face; ``progress``
    is called with the bytes that have come from there and all. Gives ``root``, for ``open_dataset``.

    Raises ``LabError``: ``root`` holds something else, the disk is too small, no source gives the whole set.
    """
    root, official = as_path(root), official or layouts.official_classes()
    for library in ("kagglehub", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)  # what they say is said here, in Russian
    disable_progress_bars()
    if _occupied(root):
        return _present(root, official)
    with exclusive(root, f"Набор {root}"):
        if _occupied(root):  # by who was waited for
            return _present(root, official)
        _fill(root, endpoint, official, progress or _megabytes(Live("Скачано, МБ")))
    say(f"Готово, {_sizes(_opened(root))}: {root}")
    return root


def _megabytes(live: Live) -> Progress:
    return lambda done, total: live.count(done // 10**6, max(total // 10**6, 1))


def _opened(root: Path) -> tuple[Listing, Listing, list[str]]:
    """The parts and classes of the set in ``root``, none of whose photos is absent."""
    *parts, class_names = layouts.find_dataset(root)
    return *(layouts.without_absent(part, "error") for part in parts), class_names


def _occupied(root: Path) -> bool:
    with read_errors(root):
        return root.exists() and not (root.is_dir() and next(root.iterdir(), None) is None)


def _present(root: Path, official: Official) -> Path:
    try:
        found = _opened(root)
        _check_classes(found[2], official)
    except _Unfit as error:
        other = f"занято другим набором, не Stanford Cars ({error})"
        raise LabError(f"Место {root} {other}: укажите другое.") from None
    except LabError as error:
        other = f"занято, а целого набора там нет ({str(error).partition(':')[0]})"
        raise LabError(f"Место {root} {other}: освободите его или укажите другое.") from None
    say(f"Набор уже есть, {_sizes(found)}: {root}; ничего не скачивалось.")
    return root


def _sizes(found: tuple[Listing, Listing, list[str]]) -> str:
    train, test, class_names = found
    return f"обучающих снимков {len(train.names)}, тестовых {len(test.names)}, классов {len(class_names)}"


def _fill(root: Path, endpoint: str | None, official: Official, progress: Progress) -> None:
    """The whole set in ``root`` from the first source that gives it."""
    unfinished, packed = (root.with_name(f".{root.name}.{state}") for state in ("unfinished", "download"))
    needed, free = 2 * official.photo_bytes - _size(packed), shutil.disk_usage(root.parent).free
    if free < needed:  # for the photos once packed and once unpacked
        gigabytes = f"{needed / 1e9:.1f} ГБ, а в папке {root.parent} свободно {free / 1e9:.1f} ГБ"
        raise LabError(f"Для набора нужно {gigabytes}: освободите место или укажите другую папку.")
    hugging_face = partial(_from_huggingface, packed=packed, endpoint=endpoint, progress=progress)
    kaggle = {f"Kaggle ({handle})": partial(_from_kaggle, handle) for handle in _KAGGLE}
    try:
        _first_that_answers({"Hugging Face": hugging_face} | kaggle, unfinished, official, root)
        with write_errors(root):
            if root.is_dir():
                root.rmdir()
            os.replace(unfinished, root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(packed, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _first_that_answers(sources: dict, unfinished: Path, official: Official, root: Path) -> None:
    """Fills the folder ``unfinished`` from the first of ``sources`` that gives the whole set."""
    for name, fill in sources.items():
        say(f"Источник: {name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        with write_errors(root):
            unfinished.mkdir()
        try:
            fill(unfinished, official=official)
            _opened(unfinished)
            return
        except Exception as error:  # the clients raise whatever their transport led to
            if is_full(error):
                with write_errors(root):
                    raise
            say(f"Не вышло: {_reason(error)}")
    raise LabError(
        "Stanford Cars не скачан, целого набора не дал ни один источник (причины названы выше): повторите "
        "там, где открывается huggingface.co или kaggle.com, скачанное не пропадёт, либо скачайте архив "
        f"браузером, например с kaggle.com/datasets/{_KAGGLE[0]}, и распакуйте в {root}."
    )


def _reason(error: Exception) -> str:
    """Our own words, the server's status, a broken connection, or the start of another library's error."""
    if isinstance(error, (_Unfit, LabError)):
        return str(error).rstrip(".")
    if (response := getattr(error, "response", None)) is not None:
        return f"сервер ответил {response.status_code}"
    kind = type(error)
    if kind.__module__.startswith(("httpx", "requests", "urllib3")):
        return f"связи нет или она прервалась ({kind.__name__})"
    return f"источник негоден, {kind.__name__}: {str(error).partition(chr(10))[0][:120]}"


def _from_huggingface(
    folder: Path, official: Official, packed: Path, endpoint: str | None, progress: Progress
) -> None:
    files = _fetch(packed, endpoint, progress)
    try:
        labels = {part: _labels(files[part], part, official) for part in files}
        sizes = {part: _unpack(files[part], folder / f"cars_{part}") for part in files}
    except OSError:  # the disk's doing
        raise
    except Exception:  # the files are not what they should be: fetched anew next time
        shutil.rmtree(packed, ignore_errors=True)
        raise
    boxes = _official_boxes(labels, sizes) or {part: _whole(sizes[part]) for part in sizes}
    names = {part: [_number(index) for index in range(len(labels[part]))] for part in files}
    parts = {part: (names[part], labels[part], boxes[part]) for part in files}
    layouts.write_annotations(folder, parts, official.class_names)


def _fetch(packed: Path, endpoint: str | None, progress: Progress) -> dict[str, list[Path]]:
    """The parquet files of each part in the folder ``packed``; those already whole there are not asked for.

    Not by ``hf_hub_download``: from huggingface_hub 1.19 on it forgets an interrupted file with the process.
    """
    files = {part: [packed / name for name in names] for part, names in _PARQUET.items()}
    address = partial(hf_hub_url, _REPOSITORY, repo_type="dataset", revision=_REVISION, endpoint=endpoint)
    addresses = {packed / name: address(name) for names in _PARQUET.values() for name in names}
    absent = [path for path in addresses if not path.exists()]
    remote = {path: get_hf_file_metadata(addresses[path], endpoint=endpoint) for path in absent}
    total = sum(remote[path].size if path in remote else path.stat().st_size for path in addresses)
    for path, metadata in remote.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.part")
        with _Counted(io.FileIO(unfinished, "ab"), lambda: progress(_size(packed), total)) as file:
            if (start := file.seek(0, os.SEEK_END)) < metadata.size:
                http_get(addresses[path], file, resume_size=start)  # not metadata.location, which expires
        try:
            _check_file(unfinished, metadata)
        except _Unfit:
            unfinished.unlink()
            raise
        os.replace(unfinished, path)
    return files


def _check_file(file: Path, metadata: HfFileMetadata) -> None:
    if (size := file.stat().st_size) != metadata.size:
        raise _Unfit(f"файл {file.stem} пришёл размером {size} байт вместо {metadata.size}")
    if re.fullmatch("[0-9a-f]{64}", metadata.etag or ""):  # the SHA-256 of a large file
        with open(file, "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != metadata.etag:
                raise _Unfit(f"файл {file.stem} пришёл с другой контрольной суммой")


class _Counted(io.BufferedWriter):
    """A file that calls ``report`` after each write."""

    def __init__(self, raw: io.RawIOBase, report: Callable[[], None]):
        super().__init__(raw)
        self._report = report

    def write(self, data) -> int:
        written = super().write(data)
        self._report()
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


def _unpack(files: Sequence[Path], folder: Path) -> np.ndarray:
    """Writes the pictures in ``files`` into ``folder`` as they are; their widths and heights, ``(n, 2)``."""
    folder.mkdir()
    sizes = []
    for path in files:
        for content in _pictures(path):
            try:
                sizes.append(upright_size(io.BytesIO(content)))
            except (OSError, TypeError) as error:
                raise _Unfit(f"снимок {len(sizes) + 1} в {path.name} не читается: {error}") from None
            (folder / _number(len(sizes) - 1)).write_bytes(content)
    say(f"Распаковано снимков в {folder.name}: {len(sizes)}")
    return np.array(sizes)


def _pictures(file: Path) -> Iterator[bytes]:
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=64, columns=["image"]):
            yield from batch.column("image").field("bytes").to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _Unfit(f"файл {file.name} не читается: {type(error).__name__}") from None


def _official_boxes(labels: _Arrays, sizes: _Arrays) -> _Arrays | None:
    """The official boxes, if they can be had and the photos stand in their order, labels and boxes agree."""
    boxes = {}
    try:
        for part in _PARTS:
            file = kagglehub.dataset_download(_BOXES_OF, path=_BOXES.format(part=part))
            boxes[part], classes = layouts.read_boxes(Path(file))
            inside = (boxes[part][:, 2:] <= sizes[part]).all(axis=1).mean()
            if (classes is not None and not np.array_equal(classes, labels[part])) or inside < 0.99:
                raise _Unfit("снимки стоят в другом порядке")
    except Exception as error:  # whatever the transport led to
        say(f"Рамки из Kaggle не взяты ({_reason(error)}): рамкой будет весь снимок.")
        return None
    return boxes


def _from_kaggle(handle: str, folder: Path, official: Official) -> None:
    *listings, class_names = layouts.find_dataset(Path(kagglehub.dataset_download(handle)))
    _check_classes(class_names, official)
    parts = {}
    for part, listing in zip(_PARTS, listings, strict=True):
        _check_counts(listing.labels, part, official)
        photos = folder / f"cars_{part}"
        photos.mkdir()
        names = [_number(index) if "/" in name else name for index, name in enumerate(listing.names)]
        for source, name in zip(listing.names, names, strict=True):
            _link(listing.images_dir / source, photos / name)
        boxes = listing.boxes
        if boxes is None:
            boxes = _whole(np.array([upright_size(photos / name) for name in names]))
        parts[part] = (names, listing.labels, boxes)
    layouts.write_annotations(folder, parts, official.class_names)


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
    counts = np.bincount(labels, minlength=len(expected))[: len(expected)]
    if (wrong := np.flatnonzero(counts != expected)).size:  # also with labels beyond: the totals agree
        name, count, right = official.class_names[wrong[0]], counts[wrong[0]], expected[wrong[0]]
        raise _Unfit(f"в части {part} у класса «{name}» снимков {count}, а должно быть {right}")


def _number(index: int) -> str:
    return f"{index + 1:05d}.jpg"


def _whole(sizes: np.ndarray) -> np.ndarray:
    """Boxes ``(n, 4)`` that hold whole pictures of ``sizes`` ``(n, 2)``."""
    return np.concatenate([np.ones_like(sizes), sizes], axis=1)


def _link(source: Path, target: Path) -> None:
    """The same file at ``target`` without its bytes twice, where the disk can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
