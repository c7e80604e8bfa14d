"""One training: epochs of steps over batches, a test after each, and the history of both."""

import ctypes
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from labnn.errors import LabError
from labnn.files import written_whole
from labnn.progress import Progress, print_progress

HISTORY_COLUMNS = ["epoch", "lr", "seconds", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]

Loader = Iterable[tuple[Tensor, Tensor]]


class Evaluation(NamedTuple):
    """Mean cross-entropy over images in nats, accuracy 0..1, and the predicted classes, int64 ``(n,)``, in the loader's order."""

    loss: float
    accuracy: float
    predictions: Tensor


def evaluate(model: nn.Module, loader: Loader) -> Evaluation:
    """Tests ``model`` in eval mode on every batch ``(images, labels)`` of ``loader``, on the device that holds the model."""
    device = _device(model)
    sums = _Sums(device)
    predictions = []
    model.eval()
    with torch.inference_mode():
        for images, labels in _on_device(loader, device):
            with autocast(device):
                logits = model(images)
            predictions.append(sums.add(logits, labels))
    loss, accuracy = sums.means()
    return Evaluation(loss, accuracy, torch.cat(predictions).cpu())


def train_test(
    model: nn.Module,
    optimizer: Optimizer,
    train_loader: Loader,
    test_loader: Loader,
    epochs: int,
    *,
    scheduler: LRScheduler | None = None,
    label_smoothing: float = 0.0,
    checkpoint: str | Path | None = None,
    progress: Progress = print_progress,
) -> pd.DataFrame:
    """Trains ``model`` where it lies for ``epochs`` passes over ``train_loader`` and tests it after each.

    Minimises cross-entropy with ``label_smoothing``; steps ``scheduler`` after every batch; uses bf16 where the hardware has
    it and channels-last memory. A loader gives ``(images, labels)``: float ``(batch, 3, H, W)`` and int64 ``(batch,)``; if it
    has ``set_epoch``, that is called with the pass's number from 0. With ``checkpoint``, a file, the state is written there
    after every epoch, and a later call with the same arguments goes on from it to the same history.

    Returns the history, one row an epoch: ``epoch`` from 1, ``lr`` of the epoch's last step, ``seconds`` of training only,
    ``train_loss`` and ``train_accuracy`` as met on the way through the epoch, ``test_loss`` and ``test_accuracy`` after it.
    Losses are means over images of the cross-entropy without smoothing, in nats; accuracies are 0..1.

    Raises ``LabError`` for an empty loader or a checkpoint that cannot be read.
    """
    device = _device(model)
    if device.type == "cpu":
        keep_freed_memory()
    model.to(memory_format=torch.channels_last)
    rows = _load_checkpoint(checkpoint, model, optimizer, scheduler) if checkpoint and Path(checkpoint).exists() else []
    if len(rows) == epochs:  # stopped after the last epoch, before anyone saw the result
        progress(rows, epochs)
    for epoch in range(len(rows), epochs):
        if hasattr(train_loader, "set_epoch"):
            train_loader.set_epoch(epoch)
        start = time.perf_counter()
        lr, train_loss, train_accuracy = train_epoch(model, optimizer, train_loader, scheduler, label_smoothing)
        seconds = time.perf_counter() - start
        test = evaluate(model, test_loader)
        values = [epoch + 1, lr, seconds, train_loss, train_accuracy, test.loss, test.accuracy]
        rows.append(dict(zip(HISTORY_COLUMNS, values, strict=True)))
        if checkpoint:
            _save_checkpoint(checkpoint, model, optimizer, scheduler, rows)
        progress(rows, epochs)
    return pd.DataFrame(rows, columns=HISTORY_COLUMNS)


def train_epoch(
    model: nn.Module, optimizer: Optimizer, loader: Loader, scheduler: LRScheduler | None, label_smoothing: float
) -> tuple[float, float, float]:
    """One pass of ``train_test`` over ``loader``: the last step's learning rate, mean loss and accuracy on the way."""
    device = _device(model)
    sums = _Sums(device)
    lr = optimizer.param_groups[0]["lr"]
    model.train()
    for images, labels in _on_device(loader, device):
        with autocast(device):
            logits = model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sums.add(logits.detach(), labels)
        lr = optimizer.param_groups[0]["lr"]
        if scheduler is not None:
            scheduler.step()
    return lr, *sums.means()


class _Sums:
    """Loss and correct answers summed where the network is, so that only the epoch's end waits for the device."""

    def __init__(self, device: torch.device):
        self.loss = torch.zeros((), device=device, dtype=torch.float64 if device.type != "mps" else torch.float32)
        self.correct = torch.zeros((), device=device, dtype=torch.int64)
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor) -> Tensor:
        predictions = logits.argmax(dim=1)
        self.loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        self.correct += (predictions == labels).sum()
        self.images += len(labels)
        return predictions

    def means(self) -> tuple[float, float]:
        if not self.images:
            raise LabError("Загрузчик не дал ни одного снимка: проверьте, что выборка не пуста.")
        return self.loss.item() / self.images, self.correct.item() / self.images


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _on_device(loader: Loader, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
    for images, labels in loader:
        images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        yield images, labels.to(device, non_blocking=True)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 arithmetic where ``precision`` says so; otherwise a context that changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision(device) == "bfloat16")


@cache
def precision(device: torch.device) -> str:
    """"bfloat16" where ``device`` has instructions for it (AVX512-BF16 or AMX, NVIDIA since Ampere), else "float32".

    A CPU without them would emulate bf16, slower than float32.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
    return "bfloat16" if fast else "float32"


@cache
def keep_freed_memory() -> None:
    """Asks glibc to keep large freed blocks for the next step instead of returning them to the system.

    Every training step frees and takes again hundreds of megabytes of activations; the page faults of that cost a third of
    the step. A process-wide setting; on other systems nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def _save_checkpoint(path: str | Path, model, optimizer, scheduler, rows: list[dict]) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict() if scheduler is not None else None,
        "cpu_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "rows": rows,
    }
    with written_whole(path) as unfinished:
        torch.save(state, unfinished)


def _load_checkpoint(path: str | Path, model, optimizer, scheduler) -> list[dict]:
    try:
        state = torch.load(path, map_location=_device(model), weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if scheduler is not None:
            scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["cpu_rng"].cpu())
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])
    except Exception as error:  # the unpickler raises whatever broken bytes led it to
        reason = type(error).__name__
        raise LabError(f"Контрольная точка {path} не подходит к обучению ({reason}): удалите её, и оно начнётся сначала.") from None
    return state["rows"]
