"""What came out: a run, its record on disk, and the one call that trains it or reads it back."""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import pandas as pd
import torch

from labnn.batches import Augment, Batches, Mix, decode_images, growing
from labnn.data import CarsData
from labnn.kit.checkpoint import saved_threads
from labnn.kit.errors import Diverged, LabError, check
from labnn.kit.files import exclusive, remove_unfinished, save_tensors, write_errors
from labnn.kit.hardware import environment, fastest_threads, limited_threads, prepare, usable_device
from labnn.kit.losses import CosineCrossEntropy
from labnn.kit.messages import memory_errors
from labnn.kit.progress import Progress, print_progress, say
from labnn.settings import (  # noqa: F401  the tables too: what to run is asked for here
    NETWORKS,
    OPTIMIZERS,
    ORIGINAL,
    Experiment,
    check_names,
    make_model,
    make_optimizer,
    method,
    own_definitions,
)
from labnn.train import FIGURES, HISTORY_COLUMNS, evaluate, train_test


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its experiment, data set, history (the columns of ``train_test``), test predictions and
    environment.

    ``data``: what ``CarsData.describe`` gave. ``predictions``: one row a test image, in the order of the
    annotations, with ``label`` and ``prediction``, and in newer records the four next best, ``second`` to
    ``fifth``. ``environment``: versions, processor, device, threads,
    precision. ``definitions``: what the user's own functions were that the experiment names
    (``identity.definition``).
    """

    experiment: Experiment
    data: dict
    history: pd.DataFrame
    predictions: pd.DataFrame
    environment: dict
    definitions: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the run's folder, from its experiment and data."""
        return _name(self.experiment, self.data, self.definitions)

    def save(self, folder: str | Path) -> None:
        """Writes ``run.json``, ``history.csv`` and ``predictions.csv`` into a new ``folder``, all or nothing.

        Raises ``LabError`` where a folder of that name exists: a finished run is never overwritten.
        """
        folder = Path(folder)
        if folder.exists():
            way_out = "переименуйте или удалите её, готовый прогон не перезаписывается"
            raise LabError(f"Папка прогона {folder} уже есть: {way_out}.")
        unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
        last = self.history.iloc[-1].drop(["epoch", "lr", "seconds"]).to_dict()
        final = {name: _strict(value) for name, value in last.items()}
        final["training_seconds"] = round(self.history["seconds"].sum(), 2)
        record = {"experiment": asdict(self.experiment), "data": self.data, "environment": self.environment}
        record |= {"final": final} | ({"definitions": self.definitions} if self.definitions else {})
        with write_errors(folder):
            remove_unfinished(folder)
            unfinished.mkdir(parents=True)
            try:
                text = json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False)
                (unfinished / "run.json").write_text(text + "\n", encoding="utf-8")
                for table in ("history", "predictions"):
                    path = unfinished / f"{table}.csv"
                    getattr(self, table).to_csv(path, index=False, lineterminator="\n")
                os.rename(unfinished, folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Reads a record back, figures to the last digit, columns that it does not know as they are.

        Raises ``LabError`` for one that is not whole or contradicts itself.
        """
        folder = Path(folder)
        try:
            names = ("run.json", "history.csv", "predictions.csv")
            texts = [(folder / name).read_text(encoding="utf-8-sig") for name in names]
            if any(re.search("^(<{7}|>{7}) ", text, re.MULTILINE) for text in texts):
                raise ValueError("в ней метки неразрешённого слияния git")
            record = json.loads(texts[0], parse_constant=_refuse)
            required = {one.name for one in fields(Experiment) if not one.metadata["later"]}
            if missing := required - set(record["experiment"]):  # a default would be a guess
                raise KeyError(*missing)
            experiment, own = Experiment(**record["experiment"]), dict(record.get("definitions", {}))
            history, answers = _read_history(texts[1]), pd.read_csv(io.StringIO(texts[2]))
            made_by = dict(record["environment"])
            run = cls(experiment, dict(record["data"]), history, answers, made_by, own)
            if fault := _fault(run, record["final"]):
                raise ValueError(fault)
            return run
        except KeyError as error:
            reason = f"нет {', '.join(sorted(map(str, error.args)))}"
        except (OSError, ValueError, TypeError, AttributeError, LabError) as error:
            reason = str(error).rstrip(".")
        way_out = "восстановите её из git или удалите папку"
        raise LabError(f"Запись прогона {folder} не читается ({reason}): {way_out}.")


_ANSWERS = ("label", "prediction")


def _strict(value: Any) -> Any:
    """``value``, or None for a float that JSON lacks."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refuse(constant: str) -> None:
    raise ValueError(f"в run.json не число, а {constant}")


def _read_history(text: str) -> pd.DataFrame:
    # As text first: Python's own float() gives back every digit in all versions of pandas.
    cells = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    history = pd.DataFrame(index=cells.index)
    for name in cells.columns:
        column = cells[name].replace({"False": "0", "True": "1", "": "nan"})
        with contextlib.suppress(ValueError):  # a watcher's words stay words
            column = column.astype(float)
        history[name] = column
    if missing := set(HISTORY_COLUMNS) - set(history):
        raise KeyError(*missing)
    if history["epoch"].tolist() != list(range(1, len(history) + 1)):
        raise ValueError("в history.csv эпохи идут не подряд от первой, каждая один раз")
    return history.astype({"epoch": int, "collapsed": bool})


def _fault(run: Run, final: dict) -> str:
    """What of a record cannot be or contradicts another part of it, in Russian; nothing if it is whole."""
    experiment, history, answers = run.experiment, run.history, run.predictions
    known = {*run.data, *answers}
    if missing := {"name", "fingerprint", "train", "test", "classes", "crop_to_box", *_ANSWERS} - known:
        raise KeyError(*missing)
    if len(history) != experiment.epochs:
        return f"эпох в history.csv {len(history)}, а в run.json {experiment.epochs}"
    tested = history["epoch"] % experiment.test_every == 0
    tested.iloc[[0, -1]] = True
    for name in ("lr", "seconds", *FIGURES):
        column = history[name].dropna() if name.startswith("test") else history[name]
        most = 1 if name.endswith("accuracy") else math.inf  # the loss of a test on the way may burst
        if not column.between(0, most).all():
            return f"в history.csv {name} не всегда от 0 до {'1' if most == 1 else '∞'}"
    if history.loc[tested, "test_accuracy"].isna().any():
        return "в history.csv нет точности испытанных эпох"
    last = history.iloc[-1]
    if not np.isfinite(last[FIGURES].astype(float)).all():
        return "последние величины в history.csv не числа"
    for name in (*FIGURES, *final):
        if name != "training_seconds" and _strict(last[name]) != final[name]:
            return f"{name} последней эпохи в history.csv не то, что в run.json"
    if (images := len(answers)) != run.data["test"]:
        return f"ответов в predictions.csv {images}, а снимков на тесте {run.data['test']}"
    label, answer = (answers[name] for name in _ANSWERS)
    whole = label.dtype == answer.dtype == np.int64
    if not whole or not label.between(0, run.data["classes"] - 1).all() or answer.min() < 0:
        return "в predictions.csv не только номера классов"
    right = int((label == answer).sum())
    if abs(right - images * last["test_accuracy"]) > images // 100 + 0.5:  # machines round otherwise
        return f"верных ответов в predictions.csv {right}, а точность {last['test_accuracy']}"
    return ""


def load_runs(runs_dir: str | Path) -> list[Run]:
    """Every run recorded in ``runs_dir`` itself, by optimizer and seed; studies have folders of their own.

    A copy of a run's folder is told and not counted. Raises ``LabError`` for another folder that is not named
    as its run.
    """
    runs = []
    for path in sorted(Path(runs_dir).glob("*/run.json")):  # a folder's own order is another on every disk
        folder = path.parent
        if ".unfinished" in folder.name:
            continue
        run = Run.load(folder)
        if folder.name != run.name and folder.with_name(run.name).exists():
            say(f"Папка {folder} — копия прогона {run.name}, она не учтена.")
        else:
            _check_name(run, folder)
            runs.append(run)
    return sorted(runs, key=lambda run: (run.data["name"], run.experiment.optimizer, run.experiment.seed))


def _check_name(run: Run, folder: Path) -> None:
    if normalize("NFC", folder.name) != normalize("NFC", run.name):
        way_out = "переименуйте её или восстановите из git"
        raise LabError(f"Запись в папке {folder} — прогона {run.name}: {way_out}.")


def run_or_load(
    experiment: Experiment,
    data: CarsData,
    runs_dir: str | Path = "data/runs",
    *,
    cache_dir: str | Path = "data/cache",
    device: str | torch.device | None = None,
    progress: Progress = print_progress,
    threads: int | None = None,
) -> Run:
    """The run of ``experiment`` on ``data``: read from ``runs_dir`` if it is recorded there, else trained and
    recorded.

    Two calls for the same run, in two processes, do not disturb each other: the second waits and reads what
    the first recorded. ``progress`` is called after each epoch, and once with the whole history of a run that
    was found. ``cache_dir`` holds the decoded images, the checkpoint of an interrupted training, from which
    the next call goes on, and the weights of finished ones (``.pt``, a ``state_dict``). ``device``: by
    default a GPU where there is one. The same experiment on the same machine gives the same history
    (``seconds`` apart), to the last digit on a CPU with the same number of threads; on a GPU the order of
    sums in the backward pass varies, and the last digits with it.
    """
    device = usable_device(device)

    def training(checkpoint: Path) -> tuple[Run, dict]:
        photos = decode(experiment, data, cache_dir)
        return train(experiment, photos, device, checkpoint, progress, threads)

    return record_once(experiment, data, runs_dir, cache_dir, device.type, training, progress)


def record_once(
    experiment: Experiment,
    data: CarsData,
    runs_dir: str | Path,
    cache_dir: str | Path,
    device_type: str,
    training: Callable[[Path], tuple[Run, dict]],
    progress: Progress = lambda rows, epochs: None,
) -> Run:
    """``run_or_load`` by any ``training``, on "cpu" or "cuda": given the file of the checkpoint, it gives the
    run and the ``state_dict``.
    """
    folder = run_folder(experiment, data, runs_dir)
    checkpoint = Path(cache_dir) / f"{folder.name}-{device_type}.checkpoint"
    if not folder.exists():
        check_names(experiment)
        with exclusive(checkpoint, f"Прогон {folder.name}"):
            if not folder.exists():  # nobody has trained it meanwhile
                remove_unfinished(checkpoint.with_suffix(".pt"))
                run, weights = training(checkpoint)
                save_tensors(weights, checkpoint.with_suffix(".pt"))
                run.save(folder)
                checkpoint.unlink(missing_ok=True)  # a run of one's last epoch may come home before it
                return run
    run = Run.load(folder)
    _check_name(run, folder)
    progress(run.history.to_dict("records"), experiment.epochs)
    return run


def run_name(experiment: Experiment, data: CarsData) -> str:
    """The folder name of a run: readable in front, and at the end 10 digits that name experiment and data
    exactly.
    """
    return _name(experiment, data.describe(), own_definitions(experiment))


def run_folder(experiment: Experiment, data: CarsData, runs_dir: str | Path) -> Path:
    """Where in ``runs_dir`` a run is recorded, or will be; records that do not know the content of their
    photos have names without it.
    """
    now, definitions = data.describe(), own_definitions(experiment)
    names = [_name(experiment, known, definitions) for known in (now | {"content": ""}, now)]
    folders = [Path(runs_dir) / name for name in names]
    return folders[0] if folders[0].exists() else folders[1]


def _name(experiment: Experiment, data: dict, definitions: dict) -> str:
    later = {one.name for one in fields(experiment) if one.metadata["later"]}
    settings = {
        name: value
        for name, value in asdict(experiment).items()
        if name not in later or value != getattr(type(experiment), name)
    }
    known = filter(None, [definitions, data.get("content")])  # parts that came later
    identity = json.dumps([settings, data["fingerprint"], *known], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return f"{data['name']}-{experiment.optimizer}-seed{experiment.seed}-{digest}"


class Photos(NamedTuple):
    """What a training needs of a data set: decoded photos, uint8 ``(n, side, side, 3)``, and their labels,
    int64 ``(n,)``, of both parts, the number of classes, and what the record says of the data
    (``CarsData.describe``).
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    classes: int
    description: dict


def decode(
    experiment: Experiment,
    data: CarsData,
    cache_dir: str | Path = "data/cache",
    progress: Callable[[int, int], None] | None = None,
) -> Photos:
    """Decodes ``data`` for ``experiment``, once; pictures to crop from are kept a quarter larger, so that
    crops stay sharp.
    """
    size = experiment.image_size
    train_size = size * 5 // 4 if experiment.min_crop_area < 1 else size
    train_images = decode_images(data.train, train_size, cache_dir, progress)
    test_images = decode_images(data.test, experiment.test_size or size, cache_dir, progress)
    return Photos(
        train_images, data.train.labels, test_images, data.test.labels, len(data.class_names), data.describe()
    )


def make_batches(
    experiment: Experiment, photos: Photos, device: str | torch.device = "cpu"
) -> tuple[Batches, Batches]:
    """Training and test batches of ``experiment``."""
    size, augment, mix = experiment.image_size, None, None
    side = growing(experiment.start_size, size, experiment.epochs) if experiment.start_size else size
    if experiment.min_crop_area < 1 or experiment.mirror or experiment.colour or experiment.start_size:
        augment = Augment(side, experiment.min_crop_area, experiment.mirror, experiment.colour)
    if experiment.mix:
        mix = Mix(photos.classes, experiment.mix)
    options = {"device": device, "shuffle": True, "seed": experiment.seed, "augment": augment, "mix": mix}
    train_batches = Batches(photos.train, photos.train_labels, experiment.batch_size, **options)
    return train_batches, Batches(photos.test, photos.test_labels, 128, device=device)


@memory_errors()
def train(
    experiment: Experiment,
    photos: Photos,
    device: torch.device,
    checkpoint: str | Path | None = None,
    progress: Progress = print_progress,
    threads: int | None = None,
) -> tuple[Run, dict]:
    """Trains ``experiment`` on ``photos`` and tests it: the run and the network's ``state_dict``, tensors on
    the CPU.

    ``threads`` of the CPU, by default those of the checkpoint or the number that is fastest now.
    """
    if threads is not None:
        check("threads", threads, int, 1, 1024)
    model = make_model(experiment, photos.classes, device)
    prepare(model)
    batch = torch.zeros(experiment.batch_size, 3, experiment.image_size, experiment.image_size, device=device)
    threads = threads or saved_threads(checkpoint) or fastest_threads(model, batch)
    train_batches, test_batches = make_batches(experiment, photos, device)
    optimizer, scheduler = make_optimizer(experiment, model, experiment.epochs * len(train_batches))
    with limited_threads(threads):
        history = train_test(
            model,
            optimizer,
            train_batches,
            test_batches,
            experiment.epochs,
            scheduler=scheduler,
            criterion=CosineCrossEntropy(experiment.cosine, experiment.label_smoothing),
            ema_decay=experiment.ema_decay,
            mirror_test=experiment.mirror_test,
            test_every=experiment.test_every,
            checkpoint=checkpoint,
            progress=progress,
        )
        tested = evaluate(model, test_batches, mirror=experiment.mirror_test)
        made_by = environment(device)
    if not math.isfinite(history["test_loss"].iloc[-1]):
        way_out = f"уменьшите lr (сейчас {experiment.lr:.2g}) или удлините warmup"
        raise Diverged(f"После последней эпохи потери на тесте не число, прогон не записан: {way_out}.")
    predictions = pd.DataFrame({"label": photos.test_labels, "prediction": tested.predictions.numpy()})
    for name, classes in zip(("second", "third", "fourth", "fifth"), tested.best.T[1:], strict=False):
        predictions[name] = classes.numpy()
    run = Run(experiment, photos.description, history, predictions, made_by, own_definitions(experiment))
    return run, {name: tensor.cpu() for name, tensor in model.state_dict().items()}
