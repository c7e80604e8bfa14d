"""Which car is this: a trained network's five best answers for photos of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from labnn.batches import Batches
from labnn.cars.layouts import official_classes
from labnn.cars.pictures import read_picture
from labnn.experiment import Run
from labnn.kit.errors import LabError
from labnn.kit.files import atomic_write
from labnn.kit.hardware import device_of, usable_device
from labnn.report.maps import class_maps, draw_map
from labnn.report.plots import WIDTH
from labnn.report.variants import load_network

# The network that comes with the project: trained on the embedded set, its weights in half precision.
EXAMPLE = Path(__file__).parents[2] / "data" / "minicars_network"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


class Trained(NamedTuple):
    """A network ready to answer: the model, the side of its pictures in pixels, and its classes' names."""

    model: nn.Module
    size: int
    class_names: Sequence[str]


def open_network(
    run_dir: str | Path, weights: str | Path | None = None, names: Sequence[str] = ()
) -> Trained:
    """The network of the run recorded in ``run_dir``, with ``weights``, by default those beside its record.

    ``names`` of its classes are by default those in classes.txt there, or Stanford Cars' own, or numbers.
    Raises ``LabError`` for weights that are absent or do not fit, and for another number of names.
    """
    run, folder = Run.load(run_dir), Path(run_dir)
    weights = Path(weights) if weights else folder / "weights.pt"
    if not weights.is_file():
        raise LabError(f"У прогона {folder} нет весов {weights}: укажите --weights, файл .pt из data/cache.")
    classes, model = run.data["classes"], load_network(run, weights, usable_device(None))
    if not names and (folder / "classes.txt").is_file():
        names = (folder / "classes.txt").read_text(encoding="utf-8").splitlines()
    elif not names and classes == len(official := official_classes().class_names):
        names = official
    names = names or [f"класс {index}" for index in range(classes)]
    if len(names) != classes:
        raise LabError(f"Имён классов {len(names)}, а сеть различает {classes}: укажите набор этого прогона.")
    return Trained(model.eval(), run.experiment.test_size or run.experiment.image_size, names)


def list_photos(places: Sequence[str | Path]) -> list[Path]:
    """Files as they are given, and of folders the pictures in them. Raises ``LabError`` where there are
    none.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            found += sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
        else:
            found.append(place)
    if not found:
        raise LabError(f"Снимков нет в {', '.join(map(str, places))}: назовите файлы или папку с ними.")
    return found


def predict(trained: Trained, photos: Sequence[Path], count: int = 5) -> pd.DataFrame:
    """A row for each of the ``count`` best answers of each photo: ``photo``, ``place``, ``class``,
    ``probability``, the mean over the photo and its mirrored self.
    """
    rows = []
    with torch.inference_mode():
        for path in photos:
            images = _prepared(trained, path)
            shares = trained.model(torch.cat([images, images.flip(3)])).softmax(1).mean(0).cpu()
            best = shares.topk(min(count, len(shares)))
            for place, (share, index) in enumerate(zip(*best, strict=True), start=1):
                rows.append([str(path), place, trained.class_names[index], float(share)])
    return pd.DataFrame(rows, columns=["photo", "place", "class", "probability"])


def plot_answers(trained: Trained, photos: Sequence[Path], answers: pd.DataFrame) -> Figure:
    """Each photo, the map of its best answer, and the answers' probabilities in percent."""
    figure, axes = plt.subplots(len(photos), 3, figsize=(WIDTH, 2.4 * len(photos)), squeeze=False)
    for line, path in zip(axes, photos, strict=True):
        own, image = answers[answers["photo"] == str(path)], _prepared(trained, path)
        line[0].imshow(read_picture(path))
        line[0].axis("off")
        maps = class_maps(trained.model, image)[0]
        draw_map(line[1], image[0], maps[maps.mean((1, 2)).argmax()])
        line[2].barh(own["class"][::-1], 100 * own["probability"][::-1], color="0.55")
        line[2].set_xlabel("вероятность, %")
    return figure


def write_onnx(trained: Trained, path: str | Path) -> Path:
    """Writes the network to ``path`` for other programs: input "images", float32 ``(n, 3, side, side)``
    normalised as ``Batches`` does, output "logits" ``(n, classes)``. Raises ``LabError`` without onnx.
    """
    example = torch.zeros(2, 3, trained.size, trained.size)
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise LabError(f"Для ONNX не хватает пакета ({error.name}): pip install onnx onnxscript.") from None
    with atomic_write(path) as unfinished:
        torch.onnx.export(
            trained.model.cpu(),
            (example,),
            unfinished,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            external_data=False,
            verbose=False,
        )
    return Path(path)


def _prepared(trained: Trained, path: Path) -> torch.Tensor:
    """A photo as ``Batches`` gives it to the network, ``(1, 3, side, side)``, on its device."""
    side = (trained.size, trained.size)
    pixels = np.array(read_picture(path).resize(side, Image.Resampling.BICUBIC, reducing_gap=3.0))
    [(images, _)] = Batches(pixels[None], [0], 1, device=device_of(trained.model))
    return images
