"""Photos decoded once, by all cores, into one array on the disk."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from labnn.kit.errors import LabError
from labnn.kit.files import atomic_write, exclusive, reserve

Progress = Callable[[int, int], None]  # called with the images decoded and all


def decoded(
    path: Path, names: Sequence[str], image: Callable[[int], Image.Image], size: int, progress: Progress
) -> np.ndarray:
    """The array in the file ``path``, uint8 ``(n, size, size, 3)``, memory-mapped; made if it is not there.

    It holds ``image(index)``, squashed, for each of the ``names``. Whoever else wants the same file waits; it
    appears whole or not at all. Raises ``LabError``: images that are broken, all at once, or a full disk.
    """
    shape = (len(names), size, size, 3)
    if _opened(path, shape) is None:
        with exclusive(path, f"Декодирование снимков в {path.name}"):
            if _opened(path, shape) is None:  # nobody has done it meanwhile
                with atomic_write(path) as unfinished:
                    _decode_to(unfinished, names, image, size, progress)
    return _opened(path, shape)


def _opened(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in ``path``; None where there is none, or a part or something else, as copying may leave."""
    try:
        array = np.load(path, mmap_mode="c")  # copy-on-write: PyTorch takes writable memory only
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _decode_to(
    path: Path, names: Sequence[str], image: Callable[[int], Image.Image], size: int, progress: Progress
) -> None:
    count = len(names)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
    reserve(path)

    def fill(index: int) -> LabError | None:
        try:
            array[index] = image(index).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
            return None
        except LabError as error:
            return error

    broken: list[tuple[str, LabError]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow works outside the interpreter's lock
        for done, error in enumerate(pool.map(fill, range(count)), start=1):
            if error is not None:
                broken.append((names[done - 1], error))
            if done % 100 == 0 or done == count:
                progress(done, count)
    if len(broken) == 1:
        raise broken[0][1]
    if broken:
        listed = ", ".join(name for name, _ in broken[:20])
        more = f" и ещё {len(broken) - 20}" if len(broken) > 20 else ""
        raise LabError(f"Не годятся снимки ({len(broken)}): {listed}{more}. Первый: {broken[0][1]}")
    array.flush()
