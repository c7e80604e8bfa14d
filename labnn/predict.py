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
from torch import Tensor, nn

from labnn.batches import Batches
from labnn.data import open_dataset
from labnn.experiment import Run, describe
from labnn.kit.errors import LabError
from labnn.kit.hardware import device_of, usable_device
from labnn.kit.pictures import read_picture
from labnn.kit.progress import say
from labnn.layouts import list_photos, official_classes
from labnn.model import SqueezeNet
from labnn.report.maps import class_maps, draw_map
from labnn.report.plots import WIDTH
from labnn.settings import check_names, make_model

# The network that comes with the project: trained on the embedded set, its weights in half precision.
EXAMPLE = Path(__file__).parents[1] / "data" / "minicars_network"
_MOST_DRAWN = 24  # photos in one figure; Matplotlib cannot draw hundreds below one another


class Trained(NamedTuple):
    """A network ready to answer: the model, the side of its pictures in pixels, and its classes' names."""

    model: nn.Module
    size: int
    class_names: Sequence[str]


def open_network(
    run_dir: str | Path = EXAMPLE,
    weights: str | Path | None = None,
    data_root: str | Path | None = None,
    cache_dir: str | Path = "data/cache",
) -> Trained:
    """The network of the run recorded in ``run_dir``, on a GPU where there is one.

    ``weights``, a ``state_dict`` in a file: by default the .pt file beside the record, or the run's own in
    ``cache_dir``. The classes are named by the record, or by the data set in ``data_root``, which must be the
    run's own. Raises ``LabError`` for names or weights that are absent, and for those of another data set or
    network.
    """
    run, folder = Run.load(run_dir), Path(run_dir)
    names = _class_names(run, folder, data_root)
    check_names(run.experiment)
    model = make_model(run.experiment, run.data["classes"], usable_device())
    places = [*folder.glob("*.pt"), *Path(cache_dir).expanduser().glob(f"{run.name}*.pt")]
    weights = weights or next(iter(places), None)
    if weights is None:
        way_out = f"укажите --weights или --cache, папку с файлом {run.name}.pt"
        raise LabError(f"Весов прогона {folder} нет ни рядом с ним, ни в {cache_dir}: {way_out}.")
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # the unpickler raises whatever broken bytes led it to
        reason, way_out = type(error).__name__, "укажите файл .pt этого прогона"
        raise LabError(f"Веса {weights} не читаются или от другой сети ({reason}): {way_out}.") from error
    return Trained(model.eval(), run.experiment.test_size or run.experiment.image_size, names)


def _class_names(run: Run, folder: Path, data_root: str | Path | None) -> Sequence[str]:
    """See ``open_network``; a record without names is of Stanford Cars, or older than names in records."""
    if data_root is not None:
        data = open_dataset(data_root, crop_to_box=run.data["crop_to_box"])
        data = data.validation() if run.data["name"] == f"{data.name}-validation" else data
        if describe(data)["fingerprint"] != run.data["fingerprint"]:
            raise LabError(f"Прогон {folder} сделан на другом наборе, чем {data_root}: укажите его набор.")
        return data.class_names
    names = run.data.get("class_names", official_classes()["class"].tolist())
    if len(names) != run.data["classes"]:
        way_out = "укажите ключом --data набор, на котором он сделан"
        raise LabError(f"Имён классов прогона {folder} в его записи нет: {way_out}.")
    return names


def find_photos(places: Sequence[str | Path]) -> list[Path]:
    """Files as they are given; of a folder all photos below it that training would read.

    Raises ``LabError`` for a place that does not exist and where no photo is found.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if not place.exists():
            raise LabError(f"Нет ни файла, ни папки {place}: проверьте имя.")
        found += [place / name for name in list_photos(place)] if place.is_dir() else [place]
    if not found:
        raise LabError(f"Снимков нет в {', '.join(map(str, places))}: назовите файлы или папку с ними.")
    return found


def predict(trained: Trained, photos: Sequence[str | Path], count: int = 5) -> pd.DataFrame:
    """A row for each of the ``count`` best answers of each photo: ``photo``, ``place`` from 1, ``class`` and
    ``probability`` 0..1, the mean over the photo and its mirrored self.

    A photo that cannot be read is told in a line and left out. Raises ``LabError`` where none can be read.
    """
    rows = []
    for path in photos:
        try:
            images = _prepared(trained, path)
        except LabError as error:
            say(str(error))
            continue
        with torch.no_grad():
            shares = trained.model(torch.cat([images, images.flip(3)])).softmax(1).mean(0).cpu()
        best = shares.topk(min(count, len(shares)))
        for place, (share, index) in enumerate(zip(*best, strict=True), start=1):
            rows.append([str(path), place, trained.class_names[index], float(share)])
    if not rows:
        raise LabError(f"Ни один снимок не прочитан (всего {len(photos)}): дайте снимки JPEG или PNG.")
    return pd.DataFrame(rows, columns=["photo", "place", "class", "probability"])


def plot_answers(trained: Trained, answers: pd.DataFrame) -> Figure:
    """Photos of ``answers``, at most 24, each with the map of its best answer where the network is
    SqueezeNet, and the probabilities in percent.
    """
    photos = answers["photo"].unique()[:_MOST_DRAWN]
    if len(photos) < answers["photo"].nunique():
        say(f"На рисунке первые {len(photos)} снимка, ответы на все — в таблице.")
    size, columns = (WIDTH, 0.4 + 1.2 * len(photos)), 2 + isinstance(trained.model, SqueezeNet)
    figure, axes = plt.subplots(len(photos), columns, figsize=size, squeeze=False)
    for (first, *middle, last), path in zip(axes, photos, strict=True):
        own = answers[answers["photo"] == path].iloc[::-1]
        first.imshow(read_picture(Path(path)))
        first.axis("off")
        for ax in middle:
            image = _prepared(trained, path)
            maps = class_maps(trained.model, image)[0]
            draw_map(ax, image[0], maps[maps.mean((1, 2)).argmax()])
        last.barh(own["class"], 100 * own["probability"], color="0.55")
        last.set_xlim(0, 100)
    axes[-1, -1].set_xlabel("вероятность, %")
    return figure


def check_figure_path(path: str | Path) -> None:
    """Raises ``LabError`` where the suffix of ``path`` is that of no figure."""
    if Path(path).suffix.lower() not in (".png", ".jpg", ".svg", ".pdf"):
        raise LabError(f"Рисунок {path} не записать: окончание имени — .png, .jpg, .svg или .pdf.")


def _prepared(trained: Trained, path: str | Path) -> Tensor:
    """A photo as ``Batches`` gives it to the network, ``(1, 3, side, side)``, on its device."""
    side = (trained.size, trained.size)
    pixels = np.array(read_picture(Path(path)).resize(side, Image.Resampling.BICUBIC, reducing_gap=3.0))
    [(images, _)] = Batches(pixels[None], [0], 1, device=device_of(trained.model))
    return images
