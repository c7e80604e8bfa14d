"""A training's state in a file: the parts that learn, the random generators, the history so far."""

import copy
import io
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from labnn.kit.errors import LabError
from labnn.kit.files import save_tensors
from labnn.kit.hardware import device_of, environment
from labnn.kit.progress import say


class Checkpoint:
    """The state of a training in the file ``path``, whole or not at all; without a path nothing is kept.

    ``parts`` have a ``state_dict``; those that are None are left out. The generators of ``loaders``' own
    parts are kept, beside the global ones of PyTorch, numpy and Python. Where it goes on and in which
    ``precision`` may change, which is told and kept; all else must be the same training.
    """

    def __init__(
        self,
        path: str | Path | None,
        parts: dict[str, Any],
        loaders: Sequence[Any],
        criterion: Any,
        ema_decay: float,
        precision: str | None,
    ):
        self.path, self.about = path and Path(path).expanduser(), _about(parts, loaders, criterion, ema_decay)
        self.parts = {name: part for name, part in parts.items() if part is not None}
        if isinstance(criterion, nn.Module):
            self.parts["criterion"] = criterion
        self.device = device_of(parts["model"])
        on_cpu = self.device.type == "cpu"  # then there is no generator beside the host's
        self._module = None if on_cpu else torch.get_device_module(self.device)
        found = [getattr(place, "generator", None) for loader in loaders for place in places(loader)]
        self.generators = list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())
        self.made_by, self._readable = [environment(self.device, precision)], False
        lasting = getattr(loaders[0], "persistent_workers", False)  # with copies of data set and generators
        if lasting and (path or hasattr(loaders[0].dataset, "set_epoch")):
            say("С persistent_workers набор не узнает номера эпохи, а прерванное обучение продолжится иначе.")

    def save(self, rows: list[dict]) -> None:
        """Writes the state with the history ``rows``, a dict an epoch.

        Raises ``LabError``, before a file is written, for a state that could not be read back.
        """
        if not self.path:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"rows": rows, "about": self.about, "made_by": self.made_by}
        state["generators"] = [generator.get_state() for generator in self.generators]
        state |= {"python_rng": random.getstate(), "numpy_rng": np.random.get_state(legacy=False)}
        state |= {"cpu_rng": torch.get_rng_state()}
        state["device_rng"] = self._module and self._module.get_rng_state(self.device)
        state = _plain(state)
        if not self._readable:
            content = io.BytesIO()
            try:
                torch.save(state, content)
                torch.load(io.BytesIO(content.getvalue()), weights_only=True)
            except Exception as error:  # whatever the pickler of a foreign object raises
                reason = (str(error).partition("GLOBAL ")[2] or str(error)).partition(". ")[0]
                raise LabError(
                    f"Состояние обучения не сохранить так, чтобы прочесть ({reason}): обучайте "
                    "без checkpoint или держите в оптимизаторе только тензоры, числа и списки."
                ) from error
            self._readable = True
        save_tensors(state, self.path)

    def load(self, epochs: int) -> list[dict]:
        """Puts the saved state back and gives its rows; none where nothing is saved. Says where it goes on
        otherwise than it was made.

        Raises ``LabError`` for a file that is broken, of more than ``epochs`` or of another training, with
        what differs.
        """
        if not (self.path and self.path.exists()):
            return []
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if len(state["rows"]) > epochs:
                raise ValueError(f"в ней уже {len(state['rows'])} эпох, а нужно {epochs}")
            for name, now in self.about.items():
                if (before := state["about"].get(name, now)) != now:
                    lines = zip(before.splitlines(), now.splitlines(), strict=False)
                    old, new = next((pair for pair in lines if pair[0] != pair[1]), (before, now))
                    raise ValueError(f"{name}: было {old.strip()}, стало {new.strip()}")
            for name, part in self.parts.items():
                if state.get(name):  # a scaler that was not needed has none
                    part.load_state_dict(state[name])
            for generator, saved in zip(self.generators, state["generators"], strict=True):
                generator.set_state(saved)
            torch.set_rng_state(state["cpu_rng"])
            random.setstate(state["python_rng"])
            np.random.set_state(state["numpy_rng"])
            if self._module and state["device_rng"] is not None:
                self._module.set_rng_state(state["device_rng"], self.device)
        except Exception as error:  # the unpickler raises whatever broken bytes led it to
            raise LabError(
                f"Контрольная точка {self.path} не подходит к этому обучению ({error}): "
                "укажите другой файл или верните прежние настройки."
            ) from error
        [now], self.made_by = self.made_by, state["made_by"]
        if changed := {name: old for name, old in self.made_by[-1].items() if old != now.get(name)}:
            told = ", ".join(f"{name}: {old} → {now.get(name)}" for name, old in changed.items())
            say(f"Обучение продолжается в других условиях ({told}).")
            self.made_by.append(now)
        return state["rows"]


def _about(parts: dict, loaders: Iterable, criterion: Any, ema_decay: float) -> dict[str, str]:
    """What decides a training beside the state of its ``parts``, in words."""
    optimizer, scheduler = parts["optimizer"], parts["scheduler"]
    plain = (bool, int, float, str, tuple, type(None))
    defaults, groups = getattr(optimizer, "defaults", {}), optimizer.param_groups  # a wrapper has none
    settings = {name: value for name, value in defaults.items() if isinstance(value, plain)}
    settings["lr"] = [float(group.get("initial_lr", group.get("lr", 0))) for group in groups]
    loss = repr(criterion) if isinstance(criterion, nn.Module) else getattr(criterion, "__qualname__", "")
    sized = [part for loader in loaders for part in (loader, getattr(loader, "dataset", None))]
    return {
        "сеть": repr(parts["model"]),
        "оптимизатор": f"{type(optimizer).__name__} {settings}",
        "расписание": f"{type(scheduler).__name__} {getattr(scheduler, 'total_steps', '')}",
        "функция потерь": loss or type(criterion).__name__,
        "усреднение весов": str(ema_decay),
        "пакетов и снимков": str([length(part) for part in sized]),
    }


def length(place: Any) -> int | None:
    """How many batches or photos there are; None where nobody can know, as in an ``IterableDataset``."""
    try:
        return len(place)
    except (TypeError, NotImplementedError):
        return None


def set_epoch(loader: Any, epoch: int) -> None:
    """Tells the number of the pass, from 0, to what of ``loader`` has ``set_epoch``."""
    for place in places(loader):
        getattr(place, "set_epoch", int)(epoch)


def places(loader: Any) -> list[Any]:
    """``loader`` and the parts of it that may draw random numbers or depend on the epoch."""
    batches = getattr(loader, "batch_sampler", None)
    found = [loader, batches, *(getattr(one, "sampler", None) for one in (loader, batches))]
    while (loader := getattr(loader, "dataset", None)) is not None:  # a ``Subset`` has one in it
        found.append(loader)
    return list({id(one): one for one in found if one is not None}.values())


def saved_environments(path: str | Path | None) -> list[dict[str, Any]]:
    """Where the training saved in ``path`` was made (``hardware.environment``), the last place last."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)["made_by"] if path else []
    except Exception:  # absent, or broken: ``Checkpoint.load`` says so
        return []


def _plain(value: Any) -> Any:
    """A ``state_dict``, or dicts and lists of such, with tensors of the host, which every machine can read,
    and Python's numbers and lists in place of numpy's.
    """
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        made = copy.copy(value)  # with the versions that PyTorch notes on a ``state_dict``
        made.update((name, _plain(part)) for name, part in value.items())
        return made
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value
