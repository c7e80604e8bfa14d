"""Photos decoded once, by all cores, into one array on the disk."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from labnn.kit.errors import LabError
from labnn.kit.files import atomic_write, digest, exclusive, scratch
from labnn.kit.progress import Live

# Changes when pictures are decoded otherwise: what an older version left in the cache is not used.
DECODER = 2

_BLOCK = 256  # photos handed out for decoding at once


def decode_images(dataset: Any, size: int, cache_dir: str | Path) -> Path:
    """The file of every image of ``dataset``, a ``CarModelsDataset``, squashed to a square: an array uint8
    ``(n, size, size, 3)``, for ``np.load``.

    Decodes once and keeps the array in ``cache_dir`` under a name made of all that its content depends on:
    photos, boxes, size. Raises ``LabError`` for broken images, all of them named at once.
    """
    photos = [digest(path).hex() for path in dataset.paths]
    key = json.dumps([DECODER, photos, dataset.boxes.tolist() if dataset.crop_to_box else None])
    file = scratch(cache_dir) / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{size}.npy"
    if not _is_array(file, len(dataset)):
        with exclusive(file):
            if not _is_array(file, len(dataset)):  # nobody has decoded it meanwhile
                with atomic_write(file) as unfinished, open(unfinished, "wb") as out:
                    _decode(dataset, size, out)
    return file


def _is_array(file: Path, length: int) -> bool:
    """Whether ``file`` is there and whole; copying a cache may leave a part."""
    try:
        return len(np.load(file, mmap_mode="r")) == length
    except (OSError, ValueError, EOFError):
        return False


def _decode(dataset: Any, size: int, out: BinaryIO) -> None:
    count, broken, live = len(dataset), {}, Live("Декодирование")
    about = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(out, about)

    def squashed(index: int) -> bytes:
        try:
            image = dataset.image(index).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
            return np.asarray(image).tobytes()
        except LabError as error:
            broken[index] = error
            return b""

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow works outside the interpreter's lock
        for start in range(0, count, _BLOCK):
            block = range(start, min(start + _BLOCK, count))
            out.writelines(pool.map(squashed, block))
            live.show(block.stop, count, "снимков")
    if broken:
        (_, first), *others = sorted(broken.items())
        names = ", ".join(dataset.paths[index].name for index, _ in others[:20])
        more = f" Не читаются и другие ({len(others)}): {names}." if others else ""
        raise LabError(f"{first}{more}") from first
