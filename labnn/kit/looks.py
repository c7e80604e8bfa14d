"""What is looked at before the first step, so that a mistake is told then and not trained on in silence."""

import hashlib
import inspect
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from labnn.kit.errors import LabError, check
from labnn.kit.identity import definition
from labnn.kit.progress import say

# What a schedule changes as it goes.
_STATE = {
    "T_cur",
    "T_i",
    "last_epoch",
    "_step_count",
    "_last_lr",
    "_get_lr_called_within_step",
    "_is_initial",
}


def look_at_settings(epochs: int, test_every: int, ema_decay: float, precision: str | None) -> None:
    """Raises ``LabError`` for numbers and words that no training can have."""
    check("epochs", epochs, int, 1, 10**6)
    check("test_every", test_every, int, 1, 10**6)
    check("ema_decay", ema_decay, float, 0, 0.999999)
    check("precision", precision or "float32", str, choices=("float32", "bfloat16", "float16"))


def look_at_parts(
    model: nn.Module, optimizer: Optimizer, scheduler: Any, loaders: tuple[Iterable, Iterable], epochs: int
) -> None:
    """Raises ``LabError`` for parts that belong to different trainings, or that cannot be stepped, and for a
    loader for training or for the test that will give nothing.
    """
    for loader, what in zip(loaders, ("обучения", "теста"), strict=True):
        if length(loader) == 0:
            way_out = "проверьте, что выборка не пуста и, если задан drop_last, не меньше одного пакета"
            raise LabError(f"В загрузчике для {what} нет ни одного пакета: {way_out}.")
    loader = loaders[0]
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    if not any(id(weight) in held for weight in learned):
        raise LabError(
            "Оптимизатор не держит ни одного веса этой сети: создайте его заново от model.parameters()."
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        name = type(optimizer).__name__
        raise LabError(
            f"Шагу {name} нужна функция потерь (closure), train_test её не даёт: возьмите другой оптимизатор."
        )
    if scheduler is None:
        return
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise LabError("Расписание создано для другого оптимизатора: создайте его заново для этого.")
    if "metrics" in inspect.signature(scheduler.step).parameters:
        name = type(scheduler).__name__
        raise LabError(
            f"Расписание {name} ждёт потерь, а train_test делает его шаг после пакета: возьмите другое."
        )
    steps = epochs * (length(loader) or 0)
    planned = getattr(scheduler, "total_steps", None)
    if planned is not None and scheduler.last_epoch + 1 < planned < steps:
        way_out = f"задайте total_steps={steps}"
        raise LabError(f"Расписание рассчитано на шагов {planned}, а в эпохах их {steps}: {way_out}.")
    period = getattr(scheduler, "T_max", None) or getattr(scheduler, "step_size", None)
    if period is not None and period <= epochs < steps:
        say(
            f"Шаг расписания делается после каждого пакета, а его период {period} похож на число эпох: "
            f"для эпох умножьте его на число пакетов ({len(loader)})."
        )


def length(place: Any) -> int | None:
    """How many batches or photos there are, ``None`` where nobody can know, as in an ``IterableDataset``."""
    try:
        return len(place)
    except (TypeError, NotImplementedError):
        return None


def as_pair(batch: Any) -> tuple[Tensor, Tensor]:
    """The pictures and labels of what a loader gives. Raises ``LabError`` if it is no pair of them."""
    parts = [type(part).__name__ for part in batch] if isinstance(batch, (tuple, list)) else []
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in batch):
        found = ", ".join(parts) or type(batch).__name__
        raise LabError(f"Загрузчик даёт {found}, а нужна пара: тензор снимков и тензор меток.")
    return tuple(batch)


def look_at_batch(answer: Any, labels: Tensor, *, training: bool) -> None:
    """Raises ``LabError`` for what a network answers, or a loader gives, that no cross-entropy can be taken
    of.

    Labels on the host are looked at one by one, those on a device by their form: the host would have to wait;
    so would it for answers, which on a device are looked at in a test only.
    """
    if not isinstance(answer, Tensor) or answer.ndim != 2:
        form = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise LabError(
            f"Сеть отвечает не таблицей (снимков, классов), а {form}: верните из forward одни логиты."
        )
    looked_at = answer.device.type == "cpu" or not training
    if looked_at and len(answer) and bool((answer.min() >= 0) & ((answer.sum(1) - 1).abs().max() < 1e-3)):
        raise LabError(
            "Сеть отвечает вероятностями, а потери считаются от логитов: уберите Softmax из её конца."
        )
    shares = labels.ndim == 2 and labels.is_floating_point() and labels.shape == answer.shape
    if shares and not training:
        raise LabError("На тесте вместо меток доли классов: смешивайте снимки только при обучении.")
    if not shares and (labels.ndim != 1 or labels.dtype != torch.int64 or len(labels) != len(answer)):
        form = f"{str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}"
        raise LabError(
            f"Метки имеют вид {form}, а нужен int64 ({len(answer)},): приведите их к номерам классов."
        )
    if not shares and labels.device.type == "cpu" and len(labels):
        least, most = labels.min().item(), labels.max().item()
        if least < 0 or most >= answer.shape[1]:
            wrong = least if least < 0 else most
            raise LabError(
                f"Метка {wrong} вне классов сети 0…{answer.shape[1] - 1}: исправьте метки или число классов."
            )


def describe_training(
    parts: dict[str, Any], criterion: Any, loaders: Iterable, ema_decay: float
) -> dict[str, str]:
    """What decides a training beside its state, in words that a checkpoint keeps and compares.

    Classes and plain settings of the network, the optimizer, the schedule and the loss, and how many photos
    and batches the loaders have; nothing that changes while it trains.
    """
    optimizer, scheduler = parts["optimizer"], parts["scheduler"]
    rates = [
        [group.get("initial_lr", group["lr"]), group.get("weight_decay")] for group in optimizer.param_groups
    ]
    own = vars(scheduler) if scheduler else {}
    schedule = {name: value for name, value in own.items() if name not in _STATE}
    places = [(loader, getattr(loader, "dataset", None)) for loader in loaders]
    settings = _numbers([optimizer.defaults | {"lr": None}, rates])
    return {
        "сеть": repr(parts["model"]),
        "оптимизатор": f"{type(optimizer).__name__} {settings}",
        "расписание": f"{type(scheduler).__name__} {_numbers(schedule)}",
        "функция потерь": _plain(criterion),
        "усреднение весов": str(ema_decay),
        "данные": str([[size for size in map(length, pair) if size is not None] for pair in places]),
        "содержание данных": " ".join(_content(place) for pair in places for place in pair),
    }


def _content(place: Any) -> str:
    """A digest of the labels and of some fifty pictures that a loader or its data set has in memory."""
    held = hashlib.sha256()
    parts = [getattr(place, name, None) for name in ("labels", "targets", "images")]
    for part in (*parts, *getattr(place, "tensors", ())):
        if isinstance(part, (Tensor, np.ndarray, list)):
            part = part[:: max(len(part) // 50, 1)] if getattr(part, "ndim", 1) > 1 else part
            part = part.cpu().numpy() if isinstance(part, Tensor) else np.asarray(part)
            held.update(part.tobytes() if part.dtype != object else repr(part.tolist()).encode())
    return held.hexdigest()[:12]


def _plain(thing: Any) -> str:
    """The class or function and its plain settings."""
    if isinstance(thing, partial):
        return f"{_plain(thing.func)} {_numbers(thing.args)} {_numbers(thing.keywords)}"
    if inspect.isfunction(thing):
        return f"{thing.__qualname__} {definition(thing)}"
    settings = getattr(thing, "__dict__", {}) | (thing.state_dict() if isinstance(thing, nn.Module) else {})
    return f"{getattr(thing, '__qualname__', type(thing).__qualname__)} {_numbers(settings)}"


def _numbers(value: Any) -> str:
    """Numbers, words and their containers, in a form that is the same in every process."""
    if isinstance(value, Tensor):
        return str(value.tolist()) if value.numel() <= 1000 else str(tuple(value.shape))
    if isinstance(value, dict):
        pairs = [
            f"{key}: {_numbers(value[key])}" for key in sorted(value, key=str) if not str(key).startswith("_")
        ]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_numbers, value)) + "]"
    return repr(value) if isinstance(value, (bool, int, float, str, type(None))) else type(value).__name__
