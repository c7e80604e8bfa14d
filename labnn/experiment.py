"""What to run and what came out: an experiment, its run, and the run's record on disk."""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from labnn.batches import Augment, Batches, Mix, decode_images, growing
from labnn.data import CarsData
from labnn.kit.diagnose import MAXIMUM_COLUMNS
from labnn.kit.errors import LabError, check
from labnn.kit.files import alone, remove_unfinished, told
from labnn.kit.progress import Progress, print_decoding, print_progress
from labnn.model import SqueezeNet
from labnn.train import HISTORY_COLUMNS, CosineCrossEntropy, evaluate, precision, save_tensors, train_test

OptimizerFunction = Callable[[Iterable[nn.Parameter], float, float], torch.optim.Optimizer]

# A name and a function of parameters, learning rate and weight decay; a user adds another by an entry of its own. The decay of the
# AdamW ones is decoupled (Loshchilov and Hutter, arXiv 1711.05101), that of the others is added to the gradient, as PyTorch has it.
OPTIMIZERS: dict[str, OptimizerFunction] = {
    "adam": lambda weights, lr, decay: torch.optim.Adam(weights, lr, weight_decay=decay, fused=True),
    "amsgrad": lambda weights, lr, decay: torch.optim.Adam(
        weights, lr, weight_decay=decay, amsgrad=True, fused=True
    ),
    "adamw": lambda weights, lr, decay: torch.optim.AdamW(weights, lr, weight_decay=decay, fused=True),
    "adamw-amsgrad": lambda weights, lr, decay: torch.optim.AdamW(
        weights, lr, weight_decay=decay, amsgrad=True, fused=True
    ),
    "sgd": lambda weights, lr, decay: torch.optim.SGD(
        weights, lr, momentum=0.9, weight_decay=decay, fused=True
    ),  # SqueezeNet's own
    "nadam": lambda weights, lr, decay: torch.optim.NAdam(weights, lr, weight_decay=decay),
}

# What an experiment takes that names no weight decay; 0 for all others, as the papers of Adam and AMSGrad have none.
_USUAL_DECAY = {"adamw": 0.05, "adamw-amsgrad": 0.05, "sgd": 2e-4}


@dataclass(frozen=True)
class Experiment:
    """Everything that decides how one network is trained; two equal experiments on equal data are the same run.

    ``optimizer`` is a key of ``OPTIMIZERS``, ``weight_decay`` what its function gets (``None``: what is usual with it, a number
    once the experiment is made). ``lr`` is the peak of the "one_cycle" ``schedule`` (Smith and Topin 2017, arXiv 1708.07120),
    reached after ``warmup`` of all steps, or all that a "constant" one has.
    ``image_size`` is the side in pixels that the network trains at, in the first epochs smaller, from ``start_size`` on (0: the
    same; ``batches.growing``), ``test_size`` the one it is tested at (0: the same): crops show the car larger, and a larger test
    picture makes up for it (Touvron et al. 2019, arXiv 1906.06423).
    ``min_crop_area``, ``mirror`` and ``colour`` are ``Augment``'s, ``mix`` is the share of batches that ``Mix`` mixes,
    ``cosine`` the weight in ``CosineCrossEntropy``; ``version``, ``batch_norm``, ``bypass``, ``dropout``, ``init`` and
    ``logits_relu`` are ``SqueezeNet``'s, ``ema_decay``, ``mirror_test`` and ``test_every`` ``train_test``'s.
    Raises ``LabError`` for a value that no training can have.
    """

    optimizer: str = "adamw-amsgrad"
    epochs: int = 100
    seed: int = 0
    lr: float = 3e-3
    warmup: float = 0.3
    weight_decay: float | None = None
    batch_size: int = 32
    image_size: int = 128
    start_size: int = 0
    min_crop_area: float = 0.3
    label_smoothing: float = 0.1
    version: str = "1_1"
    batch_norm: bool = True
    bypass: bool = True
    dropout: float = 0.2
    init: str = "he"
    logits_relu: bool = False
    schedule: str = "one_cycle"
    mirror: bool = True
    colour: float = 0.3
    mix: float = 0.5
    mirror_test: bool = True
    test_size: int = 0
    test_every: int = 1
    ema_decay: float = 0.0
    cosine: float = 0.0

    def __post_init__(self):
        if self.weight_decay is None and isinstance(self.optimizer, str):
            object.__setattr__(self, "weight_decay", _USUAL_DECAY.get(self.optimizer, 0.0))
        for field in fields(self):
            kind, limits = (
                float if field.default is None else type(field.default),
                _LIMITS.get(field.name, (None, None)),
            )
            check(field.name, getattr(self, field.name), kind, *limits, choices=_CHOICES.get(field.name, ()))
        for name, most in {"start_size": self.image_size, "test_size": _LIMITS["test_size"][1]}.items():
            if getattr(self, name) and not 32 <= getattr(self, name) <= most:
                raise LabError(
                    f"Значение {name}={getattr(self, name)} не годится: задайте 0 или от 32 до {most}."
                )


# What each number may be, both ends included; other words than these are refused, too.
_LIMITS = {
    "epochs": (1, 10**6),
    "seed": (0, 2**31 - 1),
    "lr": (1e-12, 1e6),
    "warmup": (0.001, 0.999),
    "weight_decay": (0, 1e3),
    "batch_size": (1, 10**6),
    "image_size": (32, 4096),
    "start_size": (0, 4096),
    "min_crop_area": (0.001, 1),
    "label_smoothing": (0, 1),
    "dropout": (0, 0.999),
    "colour": (0, 1),
    "mix": (0, 1),
    "test_size": (0, 4096),
    "test_every": (1, 10**6),
    "ema_decay": (0, 0.999999),
    "cosine": (0, 1e3),
}
_CHOICES = {"init": ("he", "default"), "schedule": ("one_cycle", "constant"), "version": ("1_0", "1_1")}


# The recipe of the laboratory work that this one replaces: torchvision's network and Adam with a constant rate, nothing else.
ORIGINAL = Experiment(
    optimizer="adam",
    epochs=10,
    lr=1e-4,
    weight_decay=0.0,
    image_size=224,
    min_crop_area=1.0,
    label_smoothing=0.0,
    version="1_0",
    batch_norm=False,
    bypass=False,
    dropout=0.5,
    init="default",
    logits_relu=True,
    schedule="constant",
    mirror=False,
    colour=0.0,
    mix=0.0,
    mirror_test=False,
    test_size=0,
)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its experiment, data set, history (the columns of ``train_test``), test predictions and environment.

    ``data``: what ``CarsData.describe`` gave. ``predictions``: one row a test image, in the order of the
    annotations, with ``label`` and ``prediction``. ``environment``: versions, processor, device, threads, precision.
    """

    experiment: Experiment
    data: dict
    history: pd.DataFrame
    predictions: pd.DataFrame
    environment: dict

    @property
    def name(self) -> str:
        """The name of the run's folder, from its experiment and data."""
        return _name(self.experiment, self.data["name"], self.data["fingerprint"])

    def save(self, folder: str | Path) -> None:
        """Writes ``run.json``, ``history.csv`` and ``predictions.csv`` into a new ``folder``, all or nothing.

        Raises ``LabError`` where a folder of that name exists: a finished run is never overwritten.
        """
        folder = Path(folder)
        if folder.exists():
            raise LabError(
                f"Папка прогона {folder} уже есть: переименуйте или удалите её, готовый прогон не перезаписывается."
            )
        unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
        with told(folder):
            self._write(unfinished, folder)

    def _write(self, unfinished: Path, folder: Path) -> None:
        remove_unfinished(folder)
        unfinished.mkdir(parents=True)
        try:
            final = self.history.iloc[-1].drop(["epoch", "lr", "seconds"]).to_dict() | {
                "training_seconds": round(self.history["seconds"].sum(), 2)
            }
            record = {
                "experiment": asdict(self.experiment),
                "data": self.data,
                "environment": self.environment,
                "final": final,
            }
            text = json.dumps(record, ensure_ascii=False, indent=2)
            (unfinished / "run.json").write_text(text + "\n", encoding="utf-8")
            self.history.to_csv(unfinished / "history.csv", index=False, lineterminator="\n")
            self.predictions.to_csv(unfinished / "predictions.csv", index=False, lineterminator="\n")
            os.rename(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Reads a record back, figures to the last digit. Raises ``LabError`` for one that is not whole."""
        folder = Path(folder)
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            # As text first: Python's own float() gives back every digit in all versions of pandas.
            history = pd.read_csv(folder / "history.csv", dtype=str)
            columns = HISTORY_COLUMNS + [name for name in MAXIMUM_COLUMNS if name in history]
            history = (
                history[columns]
                .replace({"False": 0, "True": 1})
                .astype(float)
                .astype({"epoch": int, "collapsed": bool})
            )
            predictions = pd.read_csv(folder / "predictions.csv")[["label", "prediction"]]
            if missing := {field.name for field in fields(Experiment)} - set(
                record["experiment"]
            ):  # a default would be a guess
                raise KeyError(*missing)
            return cls(
                Experiment(**record["experiment"]),
                record["data"],
                history,
                predictions,
                record["environment"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise LabError(
                f"Запись прогона {folder} не читается ({reason}): восстановите её из git или удалите папку."
            ) from None


def load_runs(runs_dir: str | Path) -> list[Run]:
    """Every run recorded in ``runs_dir`` itself, by optimizer and seed; each study has a folder of its own."""
    paths = sorted(Path(runs_dir).glob("*/run.json"))  # a folder's own order is another on every disk
    runs = [Run.load(path.parent) for path in paths if ".unfinished" not in path.parent.name]
    return sorted(runs, key=lambda run: (run.data["name"], run.experiment.optimizer, run.experiment.seed))


def run_or_load(
    experiment: Experiment,
    data: CarsData,
    runs_dir: str | Path,
    *,
    cache_dir: str | Path,
    device: str | torch.device = "cpu",
    progress: Progress = print_progress,
) -> Run:
    """The run of ``experiment`` on ``data``: read from ``runs_dir`` if it is recorded there, else trained and recorded.

    Two calls for the same run, in two processes, do not disturb each other: the second waits and reads what the first recorded.
    ``progress`` is called after each epoch, and once with the whole history of a run that was found. ``cache_dir`` holds the
    decoded images, the checkpoint of an interrupted training, from which the next call goes on, and the weights of finished
    ones (``.pt``, a ``state_dict``). The same experiment on the same machine gives the same history (``seconds`` apart), to
    the last digit on a CPU with the same number of threads; on a GPU the order of sums in the backward pass varies, and the
    last digits with it.
    """
    folder = Path(runs_dir) / run_name(experiment, data)
    device = usable_device(device)
    checkpoint = Path(cache_dir) / f"{folder.name}-{device.type}.checkpoint"
    if not folder.exists():
        check_optimizer(experiment.optimizer)
        with alone(checkpoint, f"Прогон {folder.name}"):
            if not folder.exists():  # nobody has trained it meanwhile
                remove_unfinished(checkpoint.with_suffix(".pt"))
                run = _train(experiment, data, Path(cache_dir), device, checkpoint, progress)
                run.save(folder)
                checkpoint.unlink()
                return run
    run = Run.load(folder)
    progress(run.history.to_dict("records"), experiment.epochs)
    return run


def usable_device(name: str | torch.device) -> torch.device:
    """The device of that name. Raises ``LabError`` where the machine or this PyTorch has none."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError, TypeError):
        raise LabError(
            f"Устройство «{name}» недоступно: укажите --device cpu или установите PyTorch с его поддержкой."
        ) from None


def evaluate_variants(
    experiment: Experiment,
    data: CarsData,
    weights: str | Path,
    *,
    cache_dir: str | Path,
    device: str | torch.device = "cpu",
) -> pd.DataFrame:
    """The trained network, its ``state_dict`` in the file ``weights``, tested at ``image_size`` and at a quarter more, without and
    with the mean over the mirrored picture: columns ``test_size`` (pixels), ``mirror``, ``test_loss`` (nats), ``test_accuracy``.

    Raises ``LabError`` for weights that are absent or of another network.
    """
    model = make_model(experiment, len(data.class_names), device)
    try:
        model.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
    except Exception as error:  # the unpickler raises whatever broken bytes led it to
        raise LabError(
            f"Веса {weights} не читаются или от другой сети ({type(error).__name__}): укажите файл .pt этого прогона."
        ) from None
    rows = []
    for size in (experiment.image_size, experiment.image_size * 5 // 4):
        batches = Batches(decode_images(data.test, size, cache_dir), data.test.labels, 128, device=device)
        for mirror in (False, True):
            result = evaluate(model, batches, mirror=mirror)
            rows.append([size, mirror, result.loss, result.accuracy])
    return pd.DataFrame(rows, columns=["test_size", "mirror", "test_loss", "test_accuracy"])


def run_name(experiment: Experiment, data: CarsData) -> str:
    """The folder name of a run: readable in front, and at the end 10 digits that name experiment and data exactly."""
    return _name(experiment, data.name, data.fingerprint())


def _name(experiment: Experiment, data_name: str, fingerprint: str) -> str:
    identity = json.dumps([asdict(experiment), fingerprint], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return f"{data_name}-{experiment.optimizer}-seed{experiment.seed}-{digest}"


def make_batches(
    experiment: Experiment,
    data: CarsData,
    cache_dir: str | Path,
    device: str | torch.device = "cpu",
    decoding: Callable[[int, int], None] = print_decoding,
) -> tuple[Batches, Batches]:
    """Training and test batches of ``experiment``; pictures to crop from are kept a quarter larger, so that crops stay sharp."""
    size, crops = experiment.image_size, experiment.min_crop_area < 1
    augment = mix = None
    side = growing(experiment.start_size, size, experiment.epochs) if experiment.start_size else size
    if crops or experiment.mirror or experiment.colour or experiment.start_size:
        augment = Augment(side, experiment.min_crop_area, experiment.mirror, experiment.colour)
    if experiment.mix:
        mix = Mix(len(data.class_names), experiment.mix)
    train_images = decode_images(data.train, size * 5 // 4 if crops else size, cache_dir, decoding)
    test_images = decode_images(data.test, experiment.test_size or size, cache_dir, decoding)
    options = {"device": device, "shuffle": True, "seed": experiment.seed}
    train = Batches(
        train_images, data.train.labels, experiment.batch_size, augment=augment, mix=mix, **options
    )
    return train, Batches(test_images, data.test.labels, 128, device=device)


def make_model(experiment: Experiment, num_classes: int, device: str | torch.device = "cpu") -> SqueezeNet:
    """The network of ``experiment`` with the weights that its seed draws."""
    torch.manual_seed(experiment.seed)
    model = SqueezeNet(
        num_classes,
        experiment.version,
        experiment.batch_norm,
        experiment.bypass,
        experiment.dropout,
        logits_relu=experiment.logits_relu,
        init=experiment.init,
    )
    return model.to(device)


def check_optimizer(name: str) -> None:
    """Raises ``LabError`` for a ``name`` that ``OPTIMIZERS`` lacks. Records of such runs can still be read."""
    if name not in OPTIMIZERS:
        raise LabError(
            f"Нет оптимизатора «{name}»: выберите один из {', '.join(OPTIMIZERS)} или добавьте свой в OPTIMIZERS."
        )


def make_optimizer(
    experiment: Experiment, model: nn.Module, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimizer of ``experiment`` over ``model`` and its schedule of ``steps`` steps."""
    optimizer = OPTIMIZERS[experiment.optimizer](model.parameters(), experiment.lr, experiment.weight_decay)
    if experiment.schedule == "constant":
        return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    # Without cycling momentum: beta1 stays what the two papers have.
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(
        optimizer, experiment.lr, steps, pct_start=experiment.warmup, cycle_momentum=False
    )


def _train(
    experiment: Experiment,
    data: CarsData,
    cache_dir: Path,
    device: torch.device,
    checkpoint: Path,
    progress: Progress,
) -> Run:
    model = make_model(experiment, len(data.class_names), device)
    train, test = make_batches(experiment, data, cache_dir, device)
    optimizer, scheduler = make_optimizer(experiment, model, experiment.epochs * len(train))
    history = train_test(
        model,
        optimizer,
        train,
        test,
        experiment.epochs,
        scheduler=scheduler,
        criterion=CosineCrossEntropy(experiment.cosine, experiment.label_smoothing),
        ema_decay=experiment.ema_decay,
        mirror_test=experiment.mirror_test,
        test_every=experiment.test_every,
        checkpoint=checkpoint,
        progress=progress,
    )
    save_tensors(model.state_dict(), checkpoint.with_suffix(".pt"))
    predictions = pd.DataFrame(
        {
            "label": data.test.labels,
            "prediction": evaluate(model, test, mirror=experiment.mirror_test).predictions,
        }
    )
    return Run(experiment, data.describe(), history, predictions, environment(device))


def environment(device: torch.device) -> dict:
    """What the figures of a run can depend on beside the experiment: versions, processor, device, threads, precision."""
    processor = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": processor,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": precision(device),
    }
