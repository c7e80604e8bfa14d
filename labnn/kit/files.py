"""Files appear whole or not at all, and what the disk refuses is told."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from filelock import FileLock, Timeout

from labnn.kit.errors import LabError


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path to write to that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises ``LabError`` for a full disk and for a folder that cannot be written to.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def alone(path: str | Path, words: str) -> Iterator[None]:
    """Holds the block while another process is in the same one for ``path``; says so in ``words`` before it waits.

    The lock is the system's, on an empty file in the folder "locks" beside ``path``: a process that is killed gives it back. What such
    a process left unfinished of ``path`` is removed.
    """
    path = Path(path)
    with told(path):
        locks = path.parent / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{path.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{words}: этим занят другой процесс, жду его.", flush=True)
            lock.acquire()
        remove_unfinished(path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def told(path: str | Path) -> Iterator[None]:
    """Turns what the system says of writing ``path`` into our sentence, a ``LabError``."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise LabError(
                f"Файл {path} не помещается на диск: освободите место и повторите, записанное раньше цело."
            ) from None
        raise LabError(
            f"Нельзя записать {path} ({error.strerror or error}): укажите другую папку или разрешите в неё запись."
        ) from None


def remove_unfinished(path: Path) -> None:
    """Removes what processes that were killed have left of the file or folder ``path``; nobody else may be writing it."""
    for left in path.parent.glob(f".{escape(path.name)}.[0-9]*.unfinished"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def reserve(path: Path) -> None:
    """Makes the disk set aside what the sparse file ``path`` may hold, or raises ``OSError``: a memory-mapped file that finds the disk full
    later kills the process by a bus error."""
    size = path.stat().st_size
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def is_full(error: Exception) -> bool:
    """Whether the system says by ``error`` that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turns what the system says of reading in ``path`` into our sentence, a ``LabError``."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise LabError(
            f"Нельзя прочитать {place} ({error.strerror or error}): разрешите чтение или укажите другую папку."
        ) from None
