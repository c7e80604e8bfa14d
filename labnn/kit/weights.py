"""Weights that torchvision publishes, fetched once and believed only whole."""

import hashlib
from contextlib import redirect_stdout
from http.client import HTTPException
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor

from labnn.kit.errors import LabError


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """The ``state_dict`` that torchvision publishes as ``name`` ("SqueezeNet1_1_Weights"), of ImageNet.

    The file lies in torch.hub's folder, fetched where it is not there yet; its name holds the beginning of
    its SHA-256. Raises ``LabError`` where it cannot be fetched, or comes damaged.
    """
    from torchvision import models  # here: only who asks for weights waits for it

    weights = models.get_weight(f"{name}.IMAGENET1K_V1")
    file = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
    try:
        if file.exists() and not _digest(file).startswith(file.stem.rpartition("-")[2]):
            file.unlink()  # torch.hub would believe it
        with redirect_stdout(StringIO()):  # torch.hub's English
            return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, HTTPException, RuntimeError) as error:  # the last: another SHA-256 than the name's
        reason = "пришёл повреждённым" if isinstance(error, RuntimeError) else error
        raise LabError(
            f"Нет файла весов ImageNet {file} ({reason}): дайте связь с сетью или положите его туда, "
            f"взяв с {weights.url}."
        ) from None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
