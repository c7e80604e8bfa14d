"""What came out: a run, its record on disk, and the one call that trains it or reads it back."""

import csv
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
import pandas as pd
import torch

from labnn.batches import Augment, Batches, Mix, growing
from labnn.data import CarsData
from labnn.kit.checkpoint import saved_environments
from labnn.kit.decoding import decode_images
from labnn.kit.errors import Diverged, LabError, check, explained
from labnn.kit.files import digest, exclusive, save_tensors, scratch, write_text
from labnn.kit.hardware import environment, usable_device
from labnn.kit.losses import CosineCrossEntropy
from labnn.kit.progress import Progress, print_progress, say
from labnn.layouts import official_classes
from labnn.settings import (
    FIRST_SETTINGS,
    Experiment,
    check_names,
    make_model,
    make_optimizer,
    own_definitions,
)
from labnn.train import FIGURES, HISTORY_COLUMNS, evaluate, train_test


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its experiment, data set, history (the columns of ``train_test``), test predictions and
    environment.

    ``data``: what ``describe`` gave. ``predictions``: one row a test image, in the order of the annotations:
    ``label``, ``prediction``, in newer records the next best, ``second`` to ``fifth``. ``environment``:
    ``hardware.environment``, and ``earlier``, the same of the epochs before it was resumed elsewhere.
    ``definitions``: what the user's own functions were that the experiment names (``identity.definition``).
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
        return Order(self.experiment, self.data, self.definitions).name

    def save(self, folder: str | Path) -> None:
        """Writes ``run.json``, ``history.csv`` and ``predictions.csv`` into a new ``folder``, all or nothing.

        Raises ``LabError`` where a folder of that name exists: a finished run is never overwritten.
        """
        folder = Path(folder)
        if folder.exists():
            way_out = "готовый прогон не перезаписывается: переименуйте её"
            raise LabError(f"Папка прогона {folder} уже есть, {way_out}.")
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        last = self.history.iloc[-1].drop(["epoch", "lr", "seconds"]).to_dict()
        final = {name: None if value != value else value for name, value in last.items()}  # JSON lacks NaN
        final["training_seconds"] = round(self.history["seconds"].sum(), 2)
        record = {"experiment": asdict(self.experiment), "data": self.data, "environment": self.environment}
        record |= {"final": final} | ({"definitions": self.definitions} if self.definitions else {})
        write_text(unfinished / "run.json", json.dumps(record, ensure_ascii=False, indent=2) + "\n")
        for table in ("history", "predictions"):
            text = getattr(self, table).to_csv(index=False, lineterminator="\n")
            write_text(unfinished / f"{table}.csv", text)
        os.rename(unfinished, folder)

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Reads a record back, figures to the last digit, columns that it does not know as they are.

        Raises ``LabError`` for one that is damaged, contradicts itself or was made by a newer version.
        """
        folder = Path(folder)
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8-sig"))
            settings, data, final = record["experiment"], record["data"], record["final"]
            if newer := set(settings) - {one.name for one in fields(Experiment)}:
                raise ValueError(f"её записала более новая версия: настроек {', '.join(newer)} здесь нет")
            with open(folder / "history.csv", encoding="utf-8-sig", newline="") as file:
                columns = zip(*csv.reader(file), strict=True)
                history = pd.DataFrame({name: [*map(_value, cells)] for name, *cells in columns})
            answers, own = pd.read_csv(folder / "predictions.csv"), record.get("definitions", {})
            run = cls(Experiment(**settings), data, history, answers, record["environment"], own)
            right = (answers["label"] == answers["prediction"]).sum()
            last = history[HISTORY_COLUMNS].astype(float).iloc[-1]  # a spreadsheet may have left words
            fits = history["epoch"].tolist() == list(range(1, run.experiment.epochs + 1))
            fits &= all(last[name] == final[name] for name in FIGURES) and len(answers) == data["test"]
            # Machines round otherwise: an answer or two may differ from the test after the last epoch.
            fits &= abs(right - len(answers) * last["test_accuracy"]) <= len(answers) // 100 + 0.5
            if not (fits and answers[["label", "prediction"]].isin(range(data["classes"])).all(axis=None)):
                raise ValueError("run.json, history.csv и predictions.csv противоречат друг другу")
            return run
        except (OSError, ValueError, TypeError, LookupError, AttributeError, LabError) as error:
            way_out = "восстановите её из git, обновите labnn или перенесите в другое место"
            raise LabError(
                f"Запись прогона {folder} не читается ({str(error).rstrip('.')}): {way_out}."
            ) from error


def _value(text: str) -> int | float | bool | str:
    """What a cell of a history says, to the last digit in every version of pandas."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"True": True, "False": False, "": math.nan}.get(text, text)


class Order(NamedTuple):
    """A training that is asked for, by all that its name depends on: settings, what its data is
    (``describe``) and what the user's own functions are (``own_definitions``).
    """

    experiment: Experiment
    data: dict
    definitions: dict

    @property
    def name(self) -> str:
        """Readable in front, and at the end 10 digits that name experiment and data exactly."""
        experiment, data = self.experiment, self.data
        settings = {
            name: value
            for name, value in asdict(experiment).items()
            if name in FIRST_SETTINGS or value != getattr(type(experiment), name)
        }
        known = filter(None, [self.definitions, data.get("content")])  # parts that came later
        identity = json.dumps([settings, data["fingerprint"], *known], sort_keys=True)
        shown = f"{data['name']}-{experiment.optimizer}-seed{experiment.seed}"
        return f"{shown}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"

    def folder(self, runs_dir: str | Path) -> Path:
        """Where in ``runs_dir`` the run is recorded, or will be; older records' names know no content of
        photos.
        """
        older = Path(runs_dir).expanduser() / self._replace(data=self.data | {"content": ""}).name
        return older if older.exists() else older.with_name(self.name)


_say_once = cache(say)


def describe(data: CarsData) -> dict:
    """What a record says of its data: name, digests of files and photos, sizes, whether boxes were cropped
    to, and class names that are not the official ones. Reads each photo once in a process.
    """
    listed = [data.class_names]
    for part in (data.train, data.test):
        files = [(path.name, path.stat().st_size) for path in part.paths]
        listed.append([files, part.labels.tolist(), part.boxes.tolist() if part.crop_to_box else None])
    photos = [[digest(path) for path in part.paths] for part in (data.train, data.test)]
    content = hashlib.sha256(b"".join(photos[0] + photos[1]))
    if twice := sum(map(set(photos[0]).__contains__, photos[1])):
        _say_once(f"Среди тестовых снимков {data.name} есть и обучающие: {twice} из {len(data.test)}.")
    about = {"name": data.name, "fingerprint": hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]}
    about |= {"content": content.hexdigest()[:16], "train": len(data.train), "test": len(data.test)}
    about |= {"classes": len(data.class_names), "crop_to_box": data.train.crop_to_box}
    official = data.class_names == official_classes()["class"].tolist()
    return about | ({} if official else {"class_names": data.class_names})


def order(experiment: Experiment, data: CarsData) -> Order:
    """``experiment`` on ``data``, asked for."""
    return Order(experiment, describe(data), own_definitions(experiment))


def load_runs(runs_dir: str | Path) -> list[Run]:
    """Every run recorded in ``runs_dir`` itself, by optimizer and seed; studies have folders of their own.

    A folder that is not named as its run, such as a copy, is told and not counted.
    """
    runs = []
    for path in sorted(Path(runs_dir).expanduser().glob("[!.]*/run.json")):
        run = Run.load(path.parent)
        if _is_named(run, path.parent):
            runs.append(run)
        else:
            say(f"Папка {path.parent} названа не как её прогон {run.name} и не учтена.")
    return sorted(runs, key=lambda run: (run.data["name"], run.experiment.optimizer, run.experiment.seed))


def _is_named(run: Run, folder: Path) -> bool:
    return normalize("NFC", folder.name) == normalize("NFC", run.name)


@explained()
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
    recorded; of two processes that ask for the same run the second waits and reads.

    ``progress`` is called after each epoch, and once with the whole history of a run that was found.
    ``cache_dir`` holds the decoded images, the checkpoint of an interrupted training, from which the next
    call goes on, and the weights of finished ones, a ``state_dict`` in ``NAME.pt``; of one on Google Drive
    only the weights lie there (``files.scratch``). ``device``: by default a GPU where there is one. The same
    experiment gives the same history (``seconds`` apart), to the last digit on one machine's CPU with the
    same number of ``threads``; a GPU's sums vary in theirs. Raises ``LabError``, its cause the library's.
    """
    asked, photos = order(experiment, data), partial(decode, experiment, data, cache_dir)
    return train_once(asked, photos, runs_dir, cache_dir, device, progress, threads)


def train_once(
    asked: Order,
    photos: Callable[[], "Photos"],
    runs_dir: str | Path,
    cache_dir: str | Path,
    device: str | torch.device | None,
    progress: Progress,
    threads: int | None,
) -> Run:
    """``run_or_load`` of what is ``asked``, on ``photos``, which are not needed where it is recorded."""
    folder = asked.folder(runs_dir)
    if not folder.exists():
        check_names(asked.experiment)
        checkpoint = scratch(cache_dir) / f"{folder.name}.checkpoint"
        with exclusive(checkpoint):
            if not folder.exists():  # nobody has trained it meanwhile
                device = usable_device(device)
                folder.parent.mkdir(parents=True, exist_ok=True)  # no training for a place that cannot be
                run, weights = train(asked, photos(), device, checkpoint, progress, threads)
                save_tensors(weights, Path(cache_dir).expanduser() / f"{folder.name}.pt")
                run.save(folder)
                checkpoint.unlink()
                return run
    run = Run.load(folder)
    if not _is_named(run, folder):
        way_out = "переименуйте папку или верните свою"
        raise LabError(f"В папке {folder} запись другого прогона, {run.name}: {way_out}.")
    progress(run.history.to_dict("records"), asked.experiment.epochs)
    return run


class Photos(NamedTuple):
    """What a training needs of a data set: the files of decoded photos, arrays uint8 ``(n, side, side,
    3)``, and their labels, int64 ``(n,)``, of both parts, and the number of classes.
    """

    train: Path
    train_labels: np.ndarray
    test: Path
    test_labels: np.ndarray
    classes: int


def decode(experiment: Experiment, data: CarsData, cache_dir: str | Path = "data/cache") -> Photos:
    """Decodes ``data`` for ``experiment``, once; for sharp crops, pictures to crop from a quarter larger."""
    size = experiment.image_size
    train_size = size * 5 // 4 if experiment.min_crop_area < 1 else size
    train_file = decode_images(data.train, train_size, cache_dir)
    test_file = decode_images(data.test, experiment.test_size or size, cache_dir)
    return Photos(train_file, data.train.labels, test_file, data.test.labels, len(data.class_names))


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
    # Copy-on-write: PyTorch takes writable memory only.
    train_images, test_images = (np.load(file, mmap_mode="c") for file in (photos.train, photos.test))
    options = {"device": device, "shuffle": True, "seed": experiment.seed, "augment": augment, "mix": mix}
    train_batches = Batches(train_images, photos.train_labels, experiment.batch_size, **options)
    return train_batches, Batches(test_images, photos.test_labels, 128, device=device)


def train(
    asked: Order,
    photos: Photos,
    device: torch.device,
    checkpoint: str | Path | None = None,
    progress: Progress = print_progress,
    threads: int | None = None,
) -> tuple[Run, dict]:
    """Trains what is ``asked`` on ``photos``: the run and the network's ``state_dict``, tensors on the CPU.

    ``threads`` of the CPU: by default those of the checkpoint, or as many as PyTorch has.
    """
    experiment, before, saved = asked.experiment, torch.get_num_threads(), saved_environments(checkpoint)
    check("threads", threads or 1, int, 1, 1024)
    torch.set_num_threads(threads or (saved[-1]["threads"] if saved else before))
    try:
        model = make_model(experiment, photos.classes, device).to(memory_format=torch.channels_last)
        train_batches, test_batches = make_batches(experiment, photos, device)
        optimizer, scheduler = make_optimizer(experiment, model, experiment.epochs * len(train_batches))
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
        *earlier, made_by = saved_environments(checkpoint) or [environment(device)]
    finally:
        torch.set_num_threads(before)
    if not math.isfinite(history["test_loss"].iloc[-1]):
        way_out = f"уменьшите lr (сейчас {experiment.lr:.2g}) или удлините warmup"
        raise Diverged(f"После последней эпохи потери на тесте не число, прогон не записан: {way_out}.")
    predictions = pd.DataFrame({"label": photos.test_labels, "prediction": tested.predictions.numpy()})
    for name, classes in zip(("second", "third", "fourth", "fifth"), tested.best.T[1:], strict=False):
        predictions[name] = classes.numpy()
    made_by |= {"earlier": earlier} if earlier else {}
    run = Run(experiment, asked.data, history, predictions, made_by, asked.definitions)
    return run, {name: tensor.cpu() for name, tensor in model.state_dict().items()}
