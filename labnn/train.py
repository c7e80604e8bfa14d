"""One training: epochs of steps over batches, a test after each, and the history of both."""

import math
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from labnn.kit.average import Average
from labnn.kit.checkpoint import Checkpoint
from labnn.kit.errors import LabError
from labnn.kit.hardware import autocast, device_of, prepare, sent, sum_dtype
from labnn.kit.hardware import precision as fast_precision
from labnn.kit.looks import as_pair, describe_training, look_at_batch, look_at_parts, look_at_settings
from labnn.kit.messages import explain_end, explain_types, memory_errors, refuse_divergence, skipped_steps
from labnn.kit.progress import Progress, print_progress
from labnn.kit.watchers import COLLAPSE_COLUMNS, Epoch, watch_collapse, watch_maximum

FIGURES = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"]
HISTORY_COLUMNS = ["epoch", "lr", "seconds", *FIGURES, *COLLAPSE_COLUMNS]

Loader = Iterable[tuple[Tensor, Tensor]]
Criterion = Callable[[Tensor, Tensor], Tensor]
Watcher = Callable[[Epoch], dict]


class Evaluation(NamedTuple):
    """Of all images of a loader: mean cross-entropy in nats, accuracy 0..1, the classes predicted and true,
    int64 ``(n,)``, the information that an answer gives of its picture, in nats (``watchers.find_collapse``),
    and the five most probable classes or fewer, int64 ``(n, 5)``, the best first.
    """

    loss: float
    accuracy: float
    predictions: Tensor
    labels: Tensor
    information: float
    best: Tensor


@memory_errors()
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
    watchers: tuple[Watcher, ...] = (watch_collapse, watch_maximum),
    precision: str | None = None,
    progress: Progress = print_progress,
) -> pd.DataFrame:
    """Trains ``model`` where it lies for ``epochs`` passes over ``train_loader`` and tests it on the way.

    Minimises ``criterion(logits, labels)``; steps ``scheduler`` after every batch; computes in ``precision``,
    by default bf16 or fp16 where the hardware is fast at it. A loader gives ``(images, labels)``: float
    ``(batch, 3, H, W)`` and int64 ``(batch,)``, or for mixed pictures class shares, float ``(batch,
    classes)``; if it has ``set_epoch``, that is called with the pass's number from 0. An optimizer with
    ``train()`` and ``eval()``, as schedule-free ones, is switched. With ``ema_decay`` the network that is
    tested, and left in ``model``, is the exponential moving average of the weights. Tests after the first
    epoch, every ``test_every`` and the last (``mirror_test``: see ``evaluate``); between, ``test_*`` are NaN.
    With ``checkpoint``, a file, the state is written there after every epoch, and a later call with the same
    arguments goes on from it to the same history.

    Returns the history, a row an epoch: ``epoch`` from 1, ``lr`` of its last step, ``seconds`` of training
    only, ``train_loss`` and ``train_accuracy`` as met on the way, ``test_loss`` and ``test_accuracy`` after
    it; losses are means over images of the plain cross-entropy, in nats, accuracies 0..1, for a mixed picture
    by its larger share. The columns of ``watchers`` follow. Raises ``LabError`` for values out of range, an
    empty loader, a checkpoint that does not fit and too little memory, ``Diverged`` when the loss of an epoch
    is no number.
    """
    look_at_settings(epochs, test_every, ema_decay, precision)
    loaders = train_loader, test_loader
    look_at_parts(model, optimizer, scheduler, loaders, epochs)
    device = prepare(model)
    precision = precision or fast_precision(device)
    averaged = Average(model, ema_decay) if ema_decay else None
    tested = averaged.module if averaged else model
    scaler = GradScaler(device.type) if precision == "float16" else None
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    about = describe_training(parts, criterion, loaders, ema_decay) if checkpoint else {}
    parts |= {"averaged": averaged, "scaler": scaler}
    saved = Checkpoint(checkpoint, parts, loaders, device, about)
    rows = saved.load(epochs)
    if len(rows) == epochs:  # stopped after the last epoch, before anyone saw the result
        progress(rows, epochs)

    with explain_end(rows, epochs, checkpoint), skipped_steps():
        for epoch in range(len(rows), epochs):
            _set_epoch(train_loader, epoch)
            steps, figures = train_epoch(
                model, optimizer, train_loader, scheduler, criterion, averaged, scaler, precision
            )
            row = {"epoch": epoch + 1} | figures | {"test_loss": math.nan, "test_accuracy": math.nan}
            refuse_divergence(row, checkpoint, map(as_pair, islice(train_loader, steps)))
            test = None
            if epoch == 0 or (epoch + 1) % test_every == 0 or epoch + 1 == epochs:
                test = evaluate(tested, test_loader, mirror=mirror_test, precision=precision)
                row |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
            for watch in watchers:
                row |= watch(Epoch(row, rows, steps * (epoch + 1), tested, optimizer, test, test_loader))
            saved.save([*rows, row])
            rows.append(row)
            progress(rows, epochs)

    if averaged:
        model.load_state_dict(tested.state_dict())
    return pd.DataFrame(rows)


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    loader: Loader,
    scheduler: LRScheduler | None = None,
    criterion: Criterion = F.cross_entropy,
    averaged: Average | None = None,
    scaler: GradScaler | None = None,
    precision: str | None = None,
) -> tuple[int, dict[str, float]]:
    """One pass of ``train_test`` over ``loader``: its steps, and of its row ``lr``, ``seconds`` and
    ``train_*``.
    """
    device, start, steps = device_of(model), time.perf_counter(), 0
    sums, lr = _Sums(device), optimizer.param_groups[0]["lr"]
    model.train()
    _switch(optimizer, "train")
    scaler = scaler or GradScaler(device.type, enabled=False)  # then it changes nothing
    for images, labels in _on_device(loader, device):
        with autocast(device, precision), explain_types(model, images):
            logits = model(images)
            if not steps:
                look_at_batch(logits, labels, training=True)
            loss = criterion(logits, labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if averaged is not None:
            averaged.update_parameters(model)
        sums.add(logits.detach(), labels)
        steps, lr = steps + 1, optimizer.param_groups[0]["lr"]
        if scheduler is not None:
            scheduler.step()
    _switch(optimizer, "eval")
    loss, accuracy = sums.means()
    seconds = time.perf_counter() - start
    return steps, {"lr": float(lr), "seconds": seconds, "train_loss": loss, "train_accuracy": accuracy}


@memory_errors()
def evaluate(
    model: nn.Module, loader: Loader, *, mirror: bool = False, precision: str | None = None
) -> Evaluation:
    """Tests ``model`` in eval mode on every batch ``(images, labels)`` of ``loader``, on the device that
    holds it.

    With ``mirror`` an image's probabilities are the mean over the image and its mirrored self.
    """
    device = device_of(model)
    sums = _Sums(device)
    answers, mean_answer, certainty = [], 0, 0
    model.eval()
    with torch.inference_mode():
        for images, labels in _on_device(loader, device):
            with autocast(device, precision), explain_types(model, images):
                logits = model(images)
                if not answers:
                    look_at_batch(logits, labels, training=False)
                logs = logits.float().log_softmax(1)
                if mirror:
                    logs = torch.logaddexp(logs, model(images.flip(3)).float().log_softmax(1)) - math.log(2)
            best = logs.sort(dim=1, descending=True, stable=True).indices[:, :5]
            answers.append(torch.cat([torch.stack([sums.add(logs, labels), labels], dim=1), best], dim=1))
            mean_answer = mean_answer + logs.exp().sum(0, dtype=sums.loss.dtype)
            certainty = certainty + (logs.exp() * logs).sum(dtype=sums.loss.dtype)
    loss, accuracy = sums.means()
    mean_answer = mean_answer / sums.images
    information = certainty / sums.images - torch.special.xlogy(mean_answer, mean_answer).sum()
    found = torch.cat(answers).cpu()  # one wait for all
    return Evaluation(loss, accuracy, found[:, 0], found[:, 1], information.item(), found[:, 2:])


class _Sums:
    """Loss and correct answers summed where the network is, so that only the epoch's end waits for the
    device.
    """

    def __init__(self, device: torch.device):
        self.loss, self.correct = torch.zeros(2, device=device, dtype=sum_dtype(device))
        self.images = 0

    def add(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Counts a batch in and gives its predicted classes, int64 ``(batch,)``."""
        predictions = logits.argmax(dim=1)
        self.loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        self.correct += (predictions == (labels if labels.ndim == 1 else labels.argmax(dim=1))).sum()
        self.images += len(labels)
        return predictions

    def means(self) -> tuple[float, float]:
        """Loss in nats and accuracy 0..1, means over images."""
        if not self.images:
            raise LabError("Загрузчик не дал ни одного снимка: проверьте, что выборка не пуста.")
        loss, correct = torch.stack([self.loss, self.correct]).tolist()
        return loss / self.images, correct / self.images


def _set_epoch(loader: Loader, epoch: int) -> None:
    """Tells the number of the pass, from 0, to a loader or sampler whose order depends on it."""
    for place in (loader, getattr(loader, "sampler", None)):
        if hasattr(place, "set_epoch"):
            place.set_epoch(epoch)


def _switch(optimizer: Optimizer, mode: str) -> None:
    """Calls ``train()`` or ``eval()`` of an optimizer that has both, as schedule-free ones do."""
    if hasattr(optimizer, "train") and hasattr(optimizer, "eval"):
        getattr(optimizer, mode)()


def _on_device(loader: Loader, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
    for images, labels in map(as_pair, loader):
        yield sent(images, device, torch.channels_last), sent(labels, device)
