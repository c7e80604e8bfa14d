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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from labnn.kit.checkpoint import Checkpoint, length, set_epoch
from labnn.kit.errors import Diverged, LabError, check, explained
from labnn.kit.hardware import autocast, device_of, gradient_scaler, sent
from labnn.kit.progress import Progress, print_progress, say, told_when_stopped
from labnn.kit.watchers import COLLAPSE_COLUMNS, Epoch, watch_collapse, watch_maximum

FIGURES = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"]
HISTORY_COLUMNS = ["epoch", "lr", "seconds", *FIGURES, *COLLAPSE_COLUMNS]

Loader = Iterable[tuple[Tensor, Tensor]]
Criterion = Callable[[Tensor, Tensor], Tensor]
Watcher = Callable[[Epoch], dict]


class Evaluation(NamedTuple):
    """Of all images of a loader: mean cross-entropy in nats, accuracy 0..1, the classes predicted and true,
    int64 ``(n,)``, the information that an answer gives of its picture, in nats
    (``watchers.watch_collapse``), and the five most probable classes or fewer, int64 ``(n, 5)``, the best
    first.
    """

    loss: float
    accuracy: float
    predictions: Tensor
    labels: Tensor
    information: float
    best: Tensor


@explained()
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

    Minimises ``criterion(logits, labels)``; steps ``scheduler`` after every batch; computes in
    ``precision``, "float32", "bfloat16" or "float16", by default what the hardware is fast at: the same
    steps as PyTorch's own loop. A loader gives ``(images, labels)``: float ``(batch, 3, H, W)`` and int64
    ``(batch,)``, or for mixed pictures class shares, float ``(batch, classes)``; its parts that have
    ``set_epoch`` are told the pass's number from 0. An optimizer with ``train()`` and ``eval()`` is
    switched. With ``ema_decay`` the network that is tested, and left in ``model``,
    is the exponential moving average of the weights. Tests after the first epoch, every ``test_every`` and
    the last (``mirror_test``: see ``evaluate``). With ``checkpoint``, a file, the state is written there
    after every epoch, and a later call with the same arguments goes on from it to the same history.

    Returns the history, a row an epoch: ``epoch`` from 1, ``lr`` of its last step, ``seconds`` of training
    only, ``train_loss`` and ``train_accuracy`` as met on the way, ``test_loss`` and ``test_accuracy`` after
    it, NaN between tests; losses are means over images of the plain cross-entropy, in nats, accuracies
    0..1, for a mixed picture by its larger share. The columns of ``watchers`` follow. Raises ``LabError``,
    its cause PyTorch's error, and ``Diverged`` when the loss of an epoch is no number.
    """
    check("epochs", epochs, int, 1, 10**6)
    _look_at(model, criterion, optimizer, scheduler, epochs, train_loader)
    scaler, averaged = gradient_scaler(model, optimizer, precision), None
    if ema_decay:
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=True)
    tested = averaged.module if averaged else model
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "averaged": averaged}
    parts, loaders = parts | {"scaler": scaler}, (train_loader, test_loader)
    saved = Checkpoint(checkpoint, parts, loaders, criterion, ema_decay, precision)
    rows = saved.load(epochs)
    if len(rows) == epochs:  # stopped after the last epoch, before anyone saw the result
        progress(rows, epochs)
    with told_when_stopped(rows, epochs, checkpoint):
        for epoch in range(len(rows), epochs):
            set_epoch(train_loader, epoch)
            steps, figures = train_epoch(
                model, optimizer, train_loader, scheduler, criterion, averaged, scaler, precision
            )
            row = {"epoch": epoch + 1} | figures | {"test_loss": math.nan, "test_accuracy": math.nan}
            if not math.isfinite(row["train_loss"]):
                raise _diverged(row, islice(train_loader, steps), checkpoint)
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
    averaged: AveragedModel | None = None,
    scaler: GradScaler | None = None,
    precision: str | None = None,
) -> tuple[int, dict[str, float]]:
    """One pass of ``train_test`` over ``loader``: its steps, and of its row ``lr``, ``seconds`` and
    ``train_*``.
    """
    device, start, steps, lr = device_of(model), time.perf_counter(), 0, math.nan
    sums, scaler = _Sums(device), scaler or GradScaler(device.type, enabled=False)  # then it changes nothing
    model.train()
    getattr(optimizer, "train", int)()
    for images, labels in _on_device(loader, device):
        with autocast(device, precision):
            logits = model(images)
            loss = criterion(logits, labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if averaged is not None:
            averaged.update_parameters(model)
        sums.add(logits.detach(), labels)
        steps, lr = steps + 1, float(optimizer.param_groups[0].get("lr", math.nan))
        if scheduler is not None:
            scheduler.step()
    getattr(optimizer, "eval", int)()
    loss, accuracy = sums.means()
    seconds = time.perf_counter() - start
    return steps, {"lr": lr, "seconds": seconds, "train_loss": loss, "train_accuracy": accuracy}


@explained()
@torch.no_grad()  # not inference_mode: what a network caches in a test, it may train with afterwards
def evaluate(
    model: nn.Module, loader: Loader, *, mirror: bool = False, precision: str | None = None
) -> Evaluation:
    """Tests ``model`` in eval mode on every batch ``(images, labels)`` of ``loader``, on the device that
    holds it.

    With ``mirror`` an image's probabilities are the mean over the image and its mirrored self. Raises
    ``LabError`` for probabilities in place of logits, its cause PyTorch's error for what PyTorch refuses.
    """
    device = device_of(model)
    sums, answers, mean_answer, certainty = _Sums(device), [], 0, 0
    model.eval()
    for images, labels in _on_device(loader, device):
        with autocast(device, precision):
            logits = model(images)
            if not answers and (logits.min() >= 0) & ((logits.sum(1) - 1).abs().max() < 1e-3):
                raise LabError("Сеть отвечает вероятностями, а потери считаются от логитов: уберите Softmax.")
            logs = logits.float().log_softmax(1)
            if mirror:
                logs = torch.logaddexp(logs, model(images.flip(3)).float().log_softmax(1)) - math.log(2)
        best = logs.sort(dim=1, descending=True, stable=True).indices[:, :5]
        answers.append(torch.cat([torch.stack([sums.add(logs, labels), labels], dim=1), best], dim=1))
        mean_answer = mean_answer + logs.exp().sum(0, dtype=torch.float64)
        # A class that is ruled out by -inf adds nothing.
        certainty = certainty + (logs.exp() * logs.clamp(min=-1e30)).sum(dtype=torch.float64)
    loss, accuracy = sums.means()
    mean_answer = mean_answer / sums.images
    information = certainty / sums.images - torch.special.xlogy(mean_answer, mean_answer).sum()
    found = torch.cat(answers).cpu()  # one wait for all
    return Evaluation(loss, accuracy, found[:, 0], found[:, 1], information.item(), found[:, 2:])


class _Sums:
    """Loss and correct answers summed where the network is: only the epoch's end waits for the device."""

    def __init__(self, device: torch.device):
        self.loss, self.correct = torch.zeros(2, device=device, dtype=torch.float64)
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


def _on_device(loader: Loader, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
    for images, labels in loader:
        yield sent(images, device), sent(labels, device)


def _look_at(model, criterion, optimizer, scheduler, epochs: int, loader: Loader) -> None:
    """Tells what PyTorch would train on in silence: parts of different trainings, weights that nothing
    changes.
    """
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    parts = [part for part in (model, criterion) if isinstance(part, nn.Module)]
    learned = [one for part in parts for one in part.named_parameters() if one[1].requires_grad]
    left = [name for name, weight in learned if id(weight) not in held]
    if len(left) == len(learned):
        raise LabError("У оптимизатора нет ни одного незамороженного веса этой сети: дайте ему такие веса.")
    if left:
        say(f"Внимание: оптимизатор не меняет веса {', '.join(left[:3])} (всего таких {len(left)}).")
    if scheduler is None:
        return
    if getattr(scheduler, "optimizer", optimizer).param_groups is not optimizer.param_groups:
        raise LabError("Расписание создано для другого оптимизатора: создайте его заново для этого.")
    batches = length(loader)
    if batches is None or getattr(scheduler, "total_steps", None) != epochs * batches:
        say(f"Расписание делает шаг после каждого пакета, пакетов в эпохе: {batches or 'неизвестно'}.")


def _diverged(row: dict, batches: Iterable[tuple[Tensor, Tensor]], checkpoint: str | Path | None) -> LabError:
    """The cause of a loss that is no number: pictures of ``batches`` that hold none, or the settings."""
    if any(not images.isfinite().all() for images, _ in batches):
        return LabError("В обучающих снимках есть значения, которые не числа: исправьте преобразование.")
    kept = "; контрольная точка прошлой эпохи цела" if checkpoint and row["epoch"] > 1 else ""
    way_out = f"уменьшите lr (сейчас {row['lr']:.2g}) или удлините warmup"
    return Diverged(f"В эпоху {row['epoch']} потери стали {row['train_loss']}: {way_out}{kept}.")
