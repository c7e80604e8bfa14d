"""Stanford Cars from public mirrors in torchvision's layout; the official site is dead."""

import io
import os
import shutil
from functools import partial
from pathlib import Path

import kagglehub
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import scipy.io
from huggingface_hub import hf_hub_download
from PIL import Image, ImageOps

from labnn.kit.errors import LabError
from labnn.kit.files import exclusive
from labnn.kit.progress import say
from labnn.layouts import BOX, TEST_FILE, find_dataset, load_mat, official_classes, same_name

_REPOSITORY, _REVISION = "tanganke/stanford_cars", "9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40"
_KAGGLE = "rickyyyyyyy/torchvision-stanford-cars"  # the whole set, torchvision's layout
_BOXES = "eduardo4jesus/stanford-cars-dataset", "car_devkit/devkit/cars_{part}_annos.mat"
_ANNOTATIONS = {"train": "devkit/cars_train_annos.mat", "test": TEST_FILE}


def download(root: str | Path, *, official: pd.DataFrame | None = None, endpoint: str | None = None) -> Path:
    """Stanford Cars in ``root``, from Hugging Face or else from Kaggle, whose clients go on where they were
    cut off; what is there already is looked at only. Gives ``root``.

    The folder appears whole, with the ``official`` classes and numbers of photos, or not at all. The boxes
    of the first source come from Kaggle; where it does not answer, a box is the whole photo, which is said.
    ``endpoint`` is the address of a mirror of Hugging Face. Raises ``LabError`` where ``root`` holds
    something else and where no source gives the whole set, with each one's reason.
    """
    root, official = Path(root), official_classes() if official is None else official
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished, packed = (root.with_name(f".{root.name}.{state}") for state in ("unfinished", "download"))
    reasons = []
    if _is_there(root, official):
        return root
    with exclusive(root):
        if _is_there(root, official):  # another process has brought it meanwhile
            return root
        for fill in (partial(_from_huggingface, packed=packed, endpoint=endpoint), _from_kaggle):
            shutil.rmtree(unfinished, ignore_errors=True)
            try:
                fill(unfinished, official)
                _check(unfinished, official)
                if root.is_dir():
                    root.rmdir()
                os.replace(unfinished, root)
                shutil.rmtree(packed, ignore_errors=True)
                return root
            except Exception as error:  # the clients raise whatever their transport led to
                reasons.append(_reason(error))
    raise LabError(
        f"Stanford Cars не скачан ({'; '.join(reasons)}): повторите там, где открывается huggingface.co или "
        "kaggle.com и есть 4 ГБ места, скачанное не пропадёт, либо распакуйте архив "
        f"kaggle.com/datasets/{_KAGGLE} в {root}."
    )


def _is_there(root: Path, official: pd.DataFrame) -> bool:
    """Whether the whole set is in ``root``; raises ``LabError`` where something else is."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        _check(root, official)
        return True
    except LabError as error:
        raise LabError(f"Место {root} занято, укажите другую папку ({error}).") from error


def _check(root: Path, official: pd.DataFrame) -> None:
    """Raises ``LabError`` where not the whole official set is."""
    *parts, class_names = find_dataset(root)
    names = [list(map(same_name, some)) for some in (class_names, official["class"])]
    for part, listing in zip(_ANNOTATIONS, parts, strict=True):
        counts = np.bincount(listing.labels, minlength=len(official)).tolist()
        absent = [name for name in listing.names if not (listing.images_dir / name).is_file()]
        if names[0] != names[1] or counts != official[part].tolist() or absent:
            there = f"снимков {len(listing.names) - len(absent)} из {official[part].sum()}"
            raise LabError(
                f"В {root} не целый Stanford Cars: в части {part} {there}, или классы не официальные."
            )


def _reason(error: Exception) -> str:
    """The first line of what a client says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _from_huggingface(root: Path, official: pd.DataFrame, packed: Path, endpoint: str | None) -> None:
    (root / "devkit").mkdir(parents=True)
    options = {"repo_type": "dataset", "revision": _REVISION, "local_dir": packed, "endpoint": endpoint}
    for part, annotations in _ANNOTATIONS.items():
        (root / f"cars_{part}").mkdir()
        rows = []
        for shard in range(2):
            file = hf_hub_download(_REPOSITORY, f"data/{part}-0000{shard}-of-00002.parquet", **options)
            for batch in pq.ParquetFile(file).iter_batches(64, columns=["image", "label"]):
                for row in batch.to_pylist():
                    content, name = row["image"]["bytes"], f"{len(rows) + 1:05d}.jpg"
                    (root / f"cars_{part}" / name).write_bytes(content)
                    size = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).size
                    rows.append((1, 1, *size, row["label"] + 1, name))
        table = pd.DataFrame(rows, columns=[*BOX, "class", "fname"])
        _take_boxes(table, part)
        scipy.io.savemat(root / annotations, {"annotations": table.to_records(index=False)[None]})
    class_names = {"class_names": np.array([official["class"]], dtype=object)}
    scipy.io.savemat(root / "devkit" / "cars_meta.mat", class_names)


def _take_boxes(table: pd.DataFrame, part: str) -> None:
    """Puts the official boxes into ``table`` if they can be had and fit the photos; the test part's have no
    labels there.
    """
    try:
        file = kagglehub.dataset_download(_BOXES[0], path=_BOXES[1].format(part=part))
        boxes = load_mat(Path(file), "annotations")
        same = "class" not in boxes or boxes["class"].tolist() == table["class"].tolist()
        inside = (boxes[BOX[2:]].to_numpy() <= table[BOX[2:]].to_numpy()).all(axis=1).mean()
        if not same or inside < 0.99:
            raise ValueError("снимки стоят в другом порядке")
        table[BOX] = boxes[BOX].astype(int)
    except Exception as error:  # whatever the transport led to
        say(f"Рамки части {part} из Kaggle не взяты ({_reason(error)}): рамкой будет весь снимок.")


def _from_kaggle(root: Path, official: pd.DataFrame) -> None:
    train, *_ = find_dataset(Path(kagglehub.dataset_download(_KAGGLE)))
    shutil.copytree(train.images_dir.parent, root)
