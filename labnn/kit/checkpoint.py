"""A training's state in a file: the parts that learn, the random generators, the history so far."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labnn.kit.errors import LabError
from labnn.kit.files import save_tensors
from labnn.kit.hardware import on_host
from labnn.kit.messages import is_out_of_memory


class Checkpoint:
    """The state of a training, saved in ``path`` after every epoch, whole or not at all; without a path in no
    file.

    ``parts`` have a ``state_dict``, those that are None are left out. Of ``loaders`` the generators of their
    own are kept, as ``DataLoader(generator=...)`` and its sampler have them, beside the global ones of the
    host and of ``device``.
    """

    def __init__(
        self,
        path: str | Path | None,
        parts: dict[str, Any],
        loaders: Iterable[Any] = (),
        device: torch.device | None = None,
        about: dict[str, str] | None = None,
    ):
        self.path = path and Path(path)
        self.parts = {name: part for name, part in parts.items() if part is not None}
        places = [place for loader in loaders for place in (loader, getattr(loader, "sampler", None))]
        found = [getattr(place, "generator", None) for place in places]
        self.generators = list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())
        self.device = device or torch.device("cpu")
        self.about = about or {}

    def save(self, rows: list[dict]) -> None:
        """Writes the state with the history ``rows``, a dict an epoch."""
        if self.path:
            state = {name: part.state_dict() for name, part in self.parts.items()}
            state["rows"], state["threads"], state["about"] = rows, torch.get_num_threads(), self.about
            state["generators"] = [generator.get_state() for generator in self.generators]
            state["cpu_rng"] = torch.get_rng_state()
            state["device_rng"] = self._device_rng("get")
            save_tensors(on_host(state, self.device), self.path)

    def load(self, epochs: int) -> list[dict]:
        """Puts the saved state back and gives its rows, at most ``epochs``; none where nothing is saved.

        Raises ``LabError`` for a file that is broken or of another training.
        """
        if not (self.path and self.path.exists()):
            return []
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            self._compare(state.get("about", {}), len(state["rows"]), epochs)
            for name, part in self.parts.items():
                if name != "scaler" or name in state:  # made where gradients need no scaling
                    part.load_state_dict(state[name])
            for generator, saved in zip(self.generators, state["generators"], strict=True):
                generator.set_state(saved)
            torch.set_rng_state(state["cpu_rng"])
            if state.get("device_rng") is not None:  # else made on a machine with no such device
                self._device_rng("set", state["device_rng"])
        except LabError:
            raise
        except Exception as error:  # the unpickler raises whatever broken bytes led it to
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            reason = type(error).__name__
            message = f"Контрольная точка {self.path} не подходит к обучению ({reason})"
            raise LabError(f"{message}: удалите её, и оно начнётся сначала.") from None
        return state["rows"]

    def _compare(self, saved: dict[str, str], done: int, epochs: int) -> None:
        if done > epochs:
            way_out = "задайте столько же или укажите другой файл"
            raise LabError(f"В контрольной точке {self.path} уже {done} эпох, а нужно {epochs}: {way_out}.")
        for name, now in self.about.items():
            if (before := saved.get(name, now)) != now:
                raise LabError(
                    f"Контрольная точка {self.path} от другого обучения ({name}: {_differing(before, now)}): "
                    "укажите другой файл или удалите её, и обучение начнётся сначала."
                )

    def _device_rng(self, action: str, *state: Tensor) -> Tensor | None:
        """Gets or sets the state of the generator of the device; there is none beside the host's on a CPU."""
        if self.device.type == "cpu":
            return None
        place = () if self.device.type == "mps" else (self.device,)
        return getattr(torch.get_device_module(self.device), f"{action}_rng_state")(*state, *place)


def saved_threads(path: str | Path | None) -> int | None:
    """The number of threads of the training saved in ``path``, which its history is exact for; None where
    none is.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True).get("threads") if path else None
    except Exception:  # absent, or broken: ``Checkpoint.load`` says so
        return None


def _differing(before: str, now: str, around: int = 40) -> str:
    """Where two descriptions part."""
    start = max(
        next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), 0) - around // 2, 0
    )
    return f"было «{before[start : start + around]}», стало «{now[start : start + around]}»"
