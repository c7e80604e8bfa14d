"""What a training says when it ends before its time."""

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from labnn.kit.errors import Diverged, LabError, StoppedByKeyboardInterrupt
from labnn.kit.progress import in_notebook, say


def refuse_divergence(row: dict, checkpoint: str | Path | None, batches: Iterable) -> None:
    """Raises ``Diverged`` where the training loss of the epoch in ``row`` is no number; ``LabError`` if it is
    the pictures of ``batches``, looked through for it, that hold what is no number.
    """
    if not math.isfinite(row["train_loss"]):
        for number, (images, _) in enumerate(batches, 1):
            if not images.isfinite().all():
                where = f"В снимках пакета {number} есть значения, которые не числа"
                raise LabError(f"{where}: исправьте набор или преобразование снимков.")
        before = row["epoch"] - 1
        kept = f"контрольная точка эпохи {before} цела" if checkpoint and before else "сохранять было нечего"
        raise Diverged(
            f"В эпоху {row['epoch']} потери стали {row['train_loss']}: "
            f"уменьшите lr (сейчас {row['lr']:.2g}) или удлините warmup; {kept}."
        )


def stopped(words: str) -> StoppedByKeyboardInterrupt:
    """What to raise for Ctrl-C: ``words`` are said here or, in a notebook, stand in the traceback's place."""
    if not in_notebook():
        say(words)
    return StoppedByKeyboardInterrupt(words)


@contextmanager
def explain_types(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Tells a network's error by the type of ``images``, where that is not the type of its weights."""
    try:
        yield
    except RuntimeError as error:
        own = {weight.dtype for weight in model.parameters()}
        if not own or images.dtype in own or is_out_of_memory(error):
            raise
        kinds = f"{images.dtype}, а веса сети {', '.join(map(str, own))}".replace("torch.", "")
        way_out = "images.float() и model.float()" if images.is_floating_point() else "images.float() / 255"
        raise LabError(f"Снимки имеют тип {kinds}: приведите их к одному, например {way_out}.") from None


@contextmanager
def explain_end(rows: list[dict], epochs: int, checkpoint: str | Path | None) -> Iterator[None]:
    """Says in one line what Ctrl-C leaves and how to go on, and what to raise for batch norm."""
    try:
        yield
    except KeyboardInterrupt:
        saved = f"сохранено эпох {len(rows)} из {epochs}, тот же вызов продолжит с них"
        raise stopped(f"Остановлено: {saved if checkpoint and rows else 'сохранённых эпох нет'}.") from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise LabError(
            "Пакетной нормализации мало одного снимка в пакете: увеличьте batch_size или image_size."
        ) from None


@contextmanager
def skipped_steps() -> Iterator[None]:
    """Keeps PyTorch from warning of the schedule, which goes on where float16's overflow skips a step."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        yield


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns what Python, PyTorch or the GPU says of memory that has run out into our sentence, a
    ``LabError``.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise LabError(
            "Не хватило памяти: уменьшите batch_size, затем image_size, или обучайте меньше сетей сразу."
        ) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python or PyTorch says by ``error`` that memory has run out."""
    # The CPU's, that of CUDA (also as an AcceleratorError) and MPS, that of cuDNN and cuBLAS.
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or any(word in str(error) for word in words)
