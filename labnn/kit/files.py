"""Files appear whole or not at all, and what the disk refuses is said in a sentence."""

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from glob import escape
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from labnn.kit.errors import LabError
from labnn.kit.progress import say


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A path to write to that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises ``LabError`` for a full disk and for a folder that cannot be written to.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            with open(unfinished, "r+b") as file:
                os.fsync(file.fileno())  # else a power cut may leave the new name with the old disk's zeros
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Writes ``text`` in UTF-8 to ``path``, whole or not at all; gives the path."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def save_tensors(state: dict, path: str | Path) -> None:
    """``torch.save``, whole or not at all; by way of memory, as PyTorch's own writer reports a full disk as a
    fault of its own.
    """
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content.getbuffer())


@contextmanager
def exclusive(path: str | Path, title: str) -> Iterator[None]:
    """Holds the block while another process is in the same one for ``path``; prints ``title`` and that it
    waits.

    The lock is the system's, on an empty file in the folder "locks" beside ``path``: a process that is killed
    gives it back. What such a process left unfinished of ``path`` is removed.
    """
    path = Path(path)
    with write_errors(path):
        locks = path.parent / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{path.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{title}: этим занят другой процесс, жду его.")
            lock.acquire()
        remove_unfinished(path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Turns what the system says of writing ``path`` into our sentence, a ``LabError``."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            message = (
                f"Файл {path} не помещается на диск: освободите место и повторите, записанное раньше цело."
            )
        else:
            reason = error.strerror or error
            message = f"Нельзя записать {path} ({reason}): укажите другую папку или разрешите в неё запись."
        raise LabError(message) from None


@contextmanager
def read_errors(path: str | Path) -> Iterator[None]:
    """Turns what the system says of reading in ``path`` into our sentence, a ``LabError``."""
    try:
        yield
    except OSError as error:
        place, reason = error.filename or path, error.strerror or error
        message = f"Нельзя прочитать {place} ({reason}): разрешите чтение или укажите другую папку."
        raise LabError(message) from None


def remove_unfinished(path: Path) -> None:
    """Removes what killed processes left of the file or folder ``path``; nobody else may be writing it."""
    for left in path.parent.glob(f".{escape(path.name)}.[0-9]*.unfinished"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def reserve(path: Path) -> None:
    """Makes the disk set aside what the sparse file ``path`` may hold, or raises ``OSError``.

    A memory-mapped file that finds the disk full later kills the process by a bus error.
    """
    size = path.stat().st_size
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def is_full(error: Exception) -> bool:
    """Whether the system says by ``error`` that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def digest(path: Path) -> bytes:
    """SHA-256 of a file, read once in a process unless its size or one of its times changes."""
    if not path.is_file():
        return b""  # what is no file is told where it is decoded
    with read_errors(path):
        stat = path.stat()
        return _digest(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@cache
def _digest(path: Path, *seen: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
