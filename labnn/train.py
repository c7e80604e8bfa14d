"""One training: epochs of steps over batches, a test after each, and the history of both."""

import ctypes
import io
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from labnn.kit.diagnose import explain_collapse, find_collapse, maximum_binding
from labnn.kit.errors import Diverged, LabError, check
from labnn.kit.files import written_whole
from labnn.kit.progress import Progress, print_progress

_UNTESTED = [math.nan, math.nan, math.nan, False]
HISTORY_COLUMNS = [
    "epoch",
    "lr",
    "seconds",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "test_information",
    "collapsed",
]

# Before that many steps an answer that is the same for every image is no sign of anything.
_STEPS_TO_LEARN = 100

Loader = Iterable[tuple[Tensor, Tensor]]
Criterion = Callable[[Tensor, Tensor], Tensor]


class Evaluation(NamedTuple):
    """Mean cross-entropy over images in nats, accuracy 0..1, classes predicted and true, int64 ``(n,)``, in the loader's order,
    and the information that an answer gives of its picture, in nats (``diagnose.find_collapse``)."""

    loss: float
    accuracy: float
    predictions: Tensor
    labels: Tensor
    information: float


def evaluate(model: nn.Module, loader: Loader, *, mirror: bool = False) -> Evaluation:
    """Tests ``model`` in eval mode on every batch ``(images, labels)`` of ``loader``, on the device that holds the model.

    With ``mirror`` an image's probabilities are the mean over the image and its mirrored self.
    """
    device = _device(model)
    sums = _Sums(device)
    predictions, truth, mean_answer, certainty = [], [], 0, 0
    model.eval()
    with torch.inference_mode():
        for images, labels in _on_device(loader, device):
            with autocast(device):
                logs = model(images).float().log_softmax(1)
                if mirror:
                    logs = torch.logaddexp(logs, model(images.flip(3)).float().log_softmax(1)) - math.log(2)
            predictions.append(sums.add(logs, labels))
            truth.append(labels)
            mean_answer = mean_answer + logs.exp().sum(0, dtype=torch.float64)
            certainty = certainty + (logs.exp() * logs).sum(dtype=torch.float64)
    loss, accuracy = sums.means()
    mean_answer = mean_answer / sums.images
    information = certainty / sums.images - torch.special.xlogy(mean_answer, mean_answer).sum()
    return Evaluation(
        loss, accuracy, torch.cat(predictions).cpu(), torch.cat(truth).cpu(), information.item()
    )


def train_test(
    model: nn.Module,
    optimizer: Optimizer,
    train_loader: Loader,
    test_loader: Loader,
    epochs: int,
    *,
    scheduler: LRScheduler | None = None,
    criterion: Criterion = F.cross_entropy,
    ema_decay: float = 0.0,
    mirror_test: bool = False,
    test_every: int = 1,
    checkpoint: str | Path | None = None,
    progress: Progress = print_progress,
) -> pd.DataFrame:
    """Trains ``model`` where it lies for ``epochs`` passes over ``train_loader`` and tests it on the way.

    Minimises ``criterion(logits, labels)``; steps ``scheduler`` after every batch; uses bf16 where the hardware has it and
    channels-last memory. A loader gives ``(images, labels)``: float ``(batch, 3, H, W)`` and int64 ``(batch,)``, or for mixed
    pictures class shares, float ``(batch, classes)``; if it has ``set_epoch``, that is called with the pass's number from 0.
    With ``ema_decay`` the network that is tested, and left in ``model``, is the exponential moving average of the weights.
    ``mirror_test``: see ``evaluate``. With ``checkpoint``, a file, the state is written there after every epoch, and a later
    call with the same arguments goes on from it to the same history.

    Tests after the first epoch, every ``test_every`` epochs and after the last; between, ``test_*`` are NaN. A network that
    has collapsed to one answer (``diagnose.find_collapse``) is told of at once, with the likely causes; so is its recovery.

    Returns the history, a row an epoch: ``epoch`` from 1, ``lr`` of its last step, ``seconds`` of training only, ``train_loss``
    and ``train_accuracy`` as met on the way, ``test_loss`` and ``test_accuracy`` after it; losses are means over images of the
    plain cross-entropy, in nats, accuracies 0..1, for a mixed picture by its larger share; ``test_information`` (nats) and
    ``collapsed`` are what ``find_collapse`` goes by and says. With AMSGrad the columns of ``diagnose.maximum_binding`` follow.
    Raises ``LabError`` for values out of range, an empty loader, a broken checkpoint and too little memory, ``Diverged`` when the loss of an epoch is
    no number; the checkpoint is then that of the epoch before.
    """
    _check_arguments(epochs, test_every, ema_decay)
    device = _prepare(model)
    averaged = (
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=True)
        if ema_decay
        else None
    )
    named = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "averaged": averaged}
    parts = {name: part for name, part in named.items() if part is not None}
    tested = averaged.module if averaged else model
    rows = _load_checkpoint(checkpoint, parts, device) if checkpoint and Path(checkpoint).exists() else []
    if len(rows) == epochs:  # stopped after the last epoch, before anyone saw the result
        progress(rows, epochs)
    with _ends_told(rows, epochs, checkpoint):
        for epoch in range(len(rows), epochs):
            steps, row = _train_row(
                epoch, checkpoint, model, optimizer, train_loader, scheduler, criterion, averaged
            )
            if epoch == 0 or (epoch + 1) % test_every == 0 or epoch + 1 == epochs:
                test = evaluate(tested, test_loader, mirror=mirror_test)
                row |= {
                    "test_loss": test.loss,
                    "test_accuracy": test.accuracy,
                    "test_information": test.information,
                }
                if steps * (epoch + 1) >= _STEPS_TO_LEARN:
                    row["collapsed"] = _guard(tested, test_loader, test, row["lr"], rows)
            row |= maximum_binding(optimizer)
            if checkpoint:
                _save_checkpoint(checkpoint, parts, [*rows, row])
            rows.append(row)
            progress(rows, epochs)
    if averaged:
        model.load_state_dict(averaged.module.state_dict())
    return pd.DataFrame(rows)


def _check_arguments(epochs: int, test_every: int, ema_decay: float) -> None:
    check("epochs", epochs, int, 1, 10**6)
    check("test_every", test_every, int, 1, 10**6)
    check("ema_decay", ema_decay, float, 0, 0.999999)


def _prepare(model: nn.Module) -> torch.device:
    """Makes ``model`` and the process fast where it lies, and gives that device."""
    device = _device(model)
    if device.type == "cpu":
        keep_freed_memory()
    model.to(memory_format=torch.channels_last)
    return device


def _train_row(
    epoch: int, checkpoint: str | Path | None, model: nn.Module, optimizer: Optimizer, loader: Loader, *rest
) -> tuple[int, dict]:
    """Steps of ``train_epoch`` number ``epoch``, from 0, and its row of the history, not yet tested."""
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    start = time.perf_counter()
    steps, lr, loss, accuracy = train_epoch(model, optimizer, loader, *rest)
    if not math.isfinite(loss):
        kept = f"контрольная точка эпохи {epoch} цела" if checkpoint and epoch else "сохранять было нечего"
        raise Diverged(
            f"В эпоху {epoch + 1} потери стали {loss}: уменьшите lr (сейчас {lr:.2g}) или удлините warmup; {kept}."
        )
    return steps, dict(
        zip(
            HISTORY_COLUMNS,
            [epoch + 1, lr, time.perf_counter() - start, loss, accuracy, *_UNTESTED],
            strict=True,
        )
    )


@contextmanager
def _ends_told(rows: list[dict], epochs: int, checkpoint: str | Path | None) -> Iterator[None]:
    """Says in one line what Ctrl-C leaves and how to go on; what to lower when memory has run out, or to raise for batch norm."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (
            f"сохранено эпох {len(rows)} из {epochs}, тот же вызов продолжит с них"
            if checkpoint and rows
            else "сохранённых эпох нет"
        )
        print(f"Остановлено: {kept}.", flush=True)
        raise
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise LabError(
            "Пакетной нормализации мало одного снимка в пакете: увеличьте batch_size или image_size."
        ) from None
    except (MemoryError, RuntimeError) as error:
        full = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
        if not full:
            raise
        raise LabError(
            "Не хватило памяти: уменьшите batch_size, затем image_size, или обучайте меньше сетей сразу."
        ) from None


def _guard(model: nn.Module, loader: Loader, test: Evaluation, lr: float, rows: list[dict]) -> bool:
    """Whether ``test`` shows a collapsed network; says so the first time, and when one that was so in ``rows`` comes to life."""
    before = [row["collapsed"] for row in rows if not math.isnan(row["test_loss"])]
    collapse = find_collapse(test.predictions, test.labels, test.information, test.loss)
    if collapse and not any(before):
        images = next(_on_device(loader, _device(model)))[0]
        print(explain_collapse(collapse, model, images[:32], lr), flush=True)
    if not collapse and any(before[-1:]):
        print(
            f"Сеть начала учиться: её ответ теперь зависит от снимка (взаимная информация {test.information:.2g} нат).",
            flush=True,
        )
    return collapse is not None


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    loader: Loader,
    scheduler: LRScheduler | None = None,
    criterion: Criterion = F.cross_entropy,
    averaged: AveragedModel | None = None,
) -> tuple[int, float, float, float]:
    """One pass of ``train_test`` over ``loader``: its steps, the last one's learning rate, mean loss and accuracy on the way."""
    device = _device(model)
    sums = _Sums(device)
    steps, lr = 0, optimizer.param_groups[0]["lr"]
    model.train()
    for images, labels in _on_device(loader, device):
        with autocast(device):
            logits = model(images)
            loss = criterion(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if averaged is not None:
            averaged.update_parameters(model)
        sums.add(logits.detach(), labels)
        steps, lr = steps + 1, optimizer.param_groups[0]["lr"]
        if scheduler is not None:
            scheduler.step()
    return steps, lr, *sums.means()


class CosineCrossEntropy:
    """Cross-entropy plus ``weight`` times one minus the cosine between logits and label, a mean over the batch.

    The two losses of Barz and Denzler (2020, arXiv 1901.09054, section 3), here both on the logits.
    """

    def __init__(self, weight: float, label_smoothing: float = 0.0):
        self.weight = weight
        self.label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = labels if labels.ndim == 2 else F.one_hot(labels, logits.shape[1]).float()
        cosine = F.cosine_similarity(logits.float(), targets, dim=1)
        return (
            F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
            + self.weight * (1 - cosine).mean()
        )


class _Sums:
    """Loss and correct answers summed where the network is, so that only the epoch's end waits for the device."""

    def __init__(self, device: torch.device):
        self.loss = torch.zeros(
            (), device=device, dtype=torch.float64 if device.type != "mps" else torch.float32
        )
        self.correct = torch.zeros((), device=device, dtype=torch.int64)
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor) -> Tensor:
        predictions = logits.argmax(dim=1)
        self.loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        self.correct += (predictions == (labels if labels.ndim == 1 else labels.argmax(dim=1))).sum()
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
    """ "bfloat16" where ``device`` has instructions for it (AVX512-BF16 or AMX, NVIDIA since Ampere), else "float32".

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


def _save_checkpoint(path: str | Path, parts: dict, rows: list[dict]) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    state["cpu_rng"] = torch.get_rng_state()
    state["cuda_rng"] = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    state["rows"] = rows
    save_tensors(state, path)


def save_tensors(state: dict, path: str | Path) -> None:
    """``torch.save``, whole or not at all; by way of memory, as PyTorch's own writer tells a full disk as a fault of its own."""
    content = io.BytesIO()
    torch.save(state, content)
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content.getbuffer())


def _load_checkpoint(path: str | Path, parts: dict, device: torch.device) -> list[dict]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["cpu_rng"].cpu())
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])
    except Exception as error:  # the unpickler raises whatever broken bytes led it to
        reason = type(error).__name__
        raise LabError(
            f"Контрольная точка {path} не подходит к обучению ({reason}): удалите её, и оно начнётся сначала."
        ) from None
    return state["rows"]
