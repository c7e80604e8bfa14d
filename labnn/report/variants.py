"""A trained network tested in other ways: other sizes of the picture, with its mirrored self."""

from pathlib import Path

import pandas as pd
import torch
from torch import nn

from labnn.batches import Batches, decode_images
from labnn.data import CarsData
from labnn.experiment import Run
from labnn.kit.errors import LabError
from labnn.settings import make_model
from labnn.train import evaluate


def load_network(run: Run, weights: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The network of ``run`` with its trained ``weights``, a ``state_dict`` in a file.

    Raises ``LabError`` for weights that are absent or of another network.
    """
    model = make_model(run.experiment, run.data["classes"], device)
    try:
        model.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
    except Exception as error:  # the unpickler raises whatever broken bytes led it to
        reason = type(error).__name__
        raise LabError(
            f"Веса {weights} не читаются или от другой сети ({reason}): укажите файл .pt этого прогона."
        ) from None
    return model


def evaluate_variants(run: Run, data: CarsData, model: nn.Module, cache_dir: str | Path) -> pd.DataFrame:
    """``model`` tested at ``image_size`` and at a quarter more, without and with the mean over the mirrored
    picture.

    Columns ``test_size`` (pixels), ``mirror``, ``test_loss`` (nats), ``test_accuracy`` (0..1).
    """
    rows, device = [], next(model.parameters()).device
    for size in (run.experiment.image_size, run.experiment.image_size * 5 // 4):
        images = decode_images(data.test, size, cache_dir)
        batches = Batches(images, data.test.labels, 128, device=device)
        for mirror in (False, True):
            result = evaluate(model, batches, mirror=mirror)
            rows.append([size, mirror, result.loss, result.accuracy])
    return pd.DataFrame(rows, columns=["test_size", "mirror", "test_loss", "test_accuracy"])
