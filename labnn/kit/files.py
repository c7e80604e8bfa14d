"""Files appear whole or not at all, and two processes do not write one."""

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import torch
from filelock import FileLock, Timeout

from labnn.kit.progress import say


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A path to write to that becomes ``path`` when the block ends well, and vanishes when it does not."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield unfinished
        with open(unfinished, "r+b") as file:
            os.fsync(file.fileno())  # else a power cut may leave the new name with the old disk's zeros
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Writes ``text`` in UTF-8, whole or not at all; bytes of a file's name that are none stand as JSON has
    them, ``\\udcaf``. Gives the path.
    """
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return Path(path)


def save_tensors(state: dict, path: str | Path) -> None:
    """``torch.save``, whole or not at all; PyTorch's own writer reports a full disk as a fault of its own."""
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content.getbuffer())


@contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Holds a block that one process at a time is in for ``path``; says so if it has to wait.

    The lock is the system's, on a file in the folder "locks" beside ``path``: a process that is killed
    gives it back.
    """
    path = Path(path)
    locks = path.parent / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{path.name}.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        say(f"Файл {path.name} готовит другой процесс, жду его.")
        held = lock.acquire()
    with held:
        yield


def scratch(folder: str | Path) -> Path:
    """Where to keep of ``folder`` what this machine alone needs: there, or for a folder on Google Drive, as
    Colab mounts it, on the local disk: the Drive is no place for files that are mapped into memory, and its
    bin keeps each version of a checkpoint.
    """
    folder = Path(folder).expanduser()
    disks = psutil.disk_partitions(all=True)
    drives = [disk.mountpoint for disk in disks if (disk.device, disk.fstype) == ("drive", "fuse")]
    on_drive = any(folder.resolve().is_relative_to(drive) for drive in drives)
    return Path(tempfile.gettempdir()) / "labnn" if on_drive else folder


def digest(path: Path) -> bytes:
    """SHA-256 of a file, read once in a process unless its size or one of its times changes."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@cache
def _digest(path: Path, *seen: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
