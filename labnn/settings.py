"""What to run: the settings of one training, and the optimizers and networks that it can name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, lr_scheduler

from labnn.kit.errors import LabError, check
from labnn.kit.identity import definition
from labnn.kit.numbers import exact
from labnn.model import SqueezeNet


class Method(NamedTuple):
    """An optimizer that experiments can name: ``make(parameters, lr=..., weight_decay=...)``, as PyTorch's
    own are called, its name in texts, its colour in figures, and the weight decay that is usual with it.
    """

    make: Callable[..., Optimizer]
    title: str
    color: str
    weight_decay: float = 0.0


# In the order of tables. The decay of the AdamW ones is decoupled (Loshchilov and Hutter, arXiv 1711.05101),
# that of the others is added to the gradient. A user adds a ``Method``, or its ``make`` alone, by a key.
OPTIMIZERS: dict[str, Method | Callable[..., Optimizer]] = {
    "amsgrad": Method(partial(Adam, amsgrad=True, fused=True), "AMSGrad", "#c1440e"),
    "adam": Method(partial(Adam, fused=True), "Adam", "#1f5a96"),
    "adamw-amsgrad": Method(partial(AdamW, amsgrad=True, fused=True), "AdamW-AMSGrad", "#c77700", 0.05),
    "adamw": Method(partial(AdamW, fused=True), "AdamW", "#3d8bc4", 0.05),
    "nadam": Method(NAdam, "NAdam", "#2e7d4f"),
    # As in SqueezeNet's paper.
    "sgd": Method(partial(SGD, momentum=0.9, fused=True), "SGD с импульсом", "#6b4c9a", 2e-4),
}

# A network is made by ``make(num_classes=...)``, as torchvision's own are, and by the settings of
# ``Experiment`` that it takes by name.
NETWORKS: dict[str, Callable[..., nn.Module]] = {"squeezenet": SqueezeNet}

_SHIPPED = {id(entry) for entry in (*OPTIMIZERS.values(), *NETWORKS.values())}


def method(name: str) -> Method:
    """What ``OPTIMIZERS`` says of ``name``; one that it lacks, as records may have, has its name as title."""
    entry = OPTIMIZERS.get(name)
    return entry if isinstance(entry, Method) else Method(entry, name, f"C{sum(str(name).encode()) % 10}")


def setting(default: Any, words: str | dict[str, str], low=None, high=None) -> Any:
    """A field of ``Experiment``: its words in texts and in the terminal's help, its least and greatest value.

    In the words ``{}`` is the value and ``{percent}`` that of a share; what follows a "|" is said of a
    value 0 or False. A setting with a few values has the words of each.
    """
    return field(default=default, metadata={"words": words, "limits": (low, high)})


@dataclass(frozen=True)
class Experiment:
    """Everything that decides how one network is trained; equal experiments on equal data are the same run.

    ``optimizer`` is a key of ``OPTIMIZERS``, ``network`` one of ``NETWORKS``; ``weight_decay`` ``None``
    becomes what is usual with the optimizer. ``lr`` is the peak of the "one_cycle" ``schedule`` (Smith and
    Topin 2017, arXiv 1708.07120), or all that a "constant" one has. The pictures grow from ``start_size``
    (``batches.growing``); crops show the car larger, which a larger ``test_size`` makes up for (Touvron et
    al. 2019, arXiv 1906.06423). The rest are arguments of ``Augment``, ``Mix``, ``CosineCrossEntropy``,
    ``SqueezeNet`` and ``train_test``. Raises ``LabError`` for a value that no training can have.
    """

    optimizer: str = setting("adamw-amsgrad", "оптимизатор {}")
    epochs: int = setting(100, "эпох: {}", 1, 10**6)
    seed: int = setting(0, "зерно {}", 0, 2**31 - 1)
    lr: float = setting(3e-3, "скорость обучения {}", 1e-12, 1e6)
    schedule: str = setting(
        "one_cycle", {"one_cycle": "разгон и спад скорости (один цикл)", "constant": "постоянная скорость"}
    )
    warmup: float = setting(0.3, "разгон {percent} шагов", 0.001, 0.999)
    weight_decay: float | None = setting(None, "затухание весов {}", 0, 1e3)
    batch_size: int = setting(32, "пакет {}", 1, 10**6)
    image_size: int = setting(128, "{} пикселей", 32, 4096)
    start_size: int = setting(0, "снимок растёт от {} пикселей|снимок одного размера", 0, 4096)
    min_crop_area: float = setting(0.3, "случайный кадр от {percent} площади", 0.001, 1)
    label_smoothing: float = setting(0.1, "сглаживание меток {}|без сглаживания меток", 0, 1)
    version: str = setting("1_1", {"1_0": "SqueezeNet 1.0", "1_1": "SqueezeNet 1.1"})
    batch_norm: bool = setting(True, "пакетная нормализация|без пакетной нормализации")
    bypass: bool = setting(True, "обходные связи|без обходных связей")
    dropout: float = setting(0.2, "dropout {}", 0, 0.999)
    init: str = setting("he", {"he": "начальные веса He", "default": "начальные веса PyTorch"})
    logits_relu: bool = setting(False, "ReLU на логитах|без ReLU на логитах")
    mirror: bool = setting(True, "отражение|без отражения")
    colour: float = setting(0.3, "яркость и контраст ±{percent}|без изменения яркости", 0, 1)
    mix: float = setting(0.5, "CutMix и mixup в {percent} пакетов|без CutMix и mixup", 0, 1)
    mirror_test: bool = setting(True, "среднее с отражением на тесте|без отражения на тесте")
    test_size: int = setting(0, "{} пикселей на тесте|на тесте как при обучении", 0, 4096)
    test_every: int = setting(1, "тест раз в {} эпох", 1, 10**6)
    ema_decay: float = setting(0.0, "усреднение весов {}|без усреднения весов", 0, 0.999999)
    cosine: float = setting(0.0, "косинусная функция потерь с весом {}|без косинусной функции потерь", 0, 1e3)
    network: str = setting("squeezenet", "сеть {}")
    beta2: float = setting(0.999, "β₂ = {}", 0, 0.999999)

    def __post_init__(self):
        if self.weight_decay is None and isinstance(self.optimizer, str):
            object.__setattr__(self, "weight_decay", method(self.optimizer).weight_decay)
        for one in fields(self):
            value, kind = getattr(self, one.name), float if one.default is None else type(one.default)
            words, limits = one.metadata["words"], one.metadata["limits"]
            check(one.name, value, kind, *limits, choices=words if isinstance(words, dict) else ())
            object.__setattr__(self, one.name, kind(value))  # 0 and 0.0, or numpy's, are one experiment

    def words(self, name: str) -> str:
        """How Russian texts call the value of the setting ``name``."""
        words, value = self.__dataclass_fields__[name].metadata["words"], getattr(self, name)
        if isinstance(words, dict):
            return words[value]
        said, _, off = words.partition("|")
        if name == "optimizer":
            return method(value).title
        shown = exact(value) if isinstance(value, (int, float)) else value
        share = f"{exact(100 * value)} %" if isinstance(value, float) else ""
        return off if off and not value else said.format(shown, percent=share)

    def changes(self, base: "Experiment") -> str:
        """The settings that ``base`` has otherwise, in Russian words; those of seed and tests apart."""
        different = [name for name in vars(self) if getattr(self, name) != getattr(base, name)]
        return ", ".join(self.words(name) for name in different if name not in ("seed", "test_every"))


# The settings of the first records. A later one is in the name of a run only where it is not the default, so
# that it renames no record.
FIRST_SETTINGS = {one.name for one in fields(Experiment)[:26]}

# The recipe of the laboratory work that this one replaces: torchvision's network, Adam with a constant rate.
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
)


def own_functions(experiment: Experiment) -> dict[str, Any]:
    """The user's own entries of ``OPTIMIZERS`` and ``NETWORKS`` that ``experiment`` names, by setting."""
    named = {"optimizer": OPTIMIZERS.get(experiment.optimizer), "network": NETWORKS.get(experiment.network)}
    return {name: one for name, one in named.items() if one is not None and id(one) not in _SHIPPED}


def own_definitions(experiment: Experiment) -> dict[str, str]:
    """``identity.definition`` of the user's own functions that ``experiment`` names, by setting."""
    return {name: definition(getattr(one, "make", one)) for name, one in own_functions(experiment).items()}


def check_names(experiment: Experiment) -> None:
    """Raises ``LabError`` for an optimizer or a network that is in no table, or in no folder's name; their
    records can still be read.
    """
    check("optimizer", experiment.optimizer, str, choices=OPTIMIZERS)
    check("network", experiment.network, str, choices=NETWORKS)
    if set(experiment.optimizer) & set('/\\:*?"<>|\n'):
        name = f"Имя оптимизатора {experiment.optimizer!r}"
        raise LabError(f"{name} не годится для папки: уберите / и подобное.")


def make_model(experiment: Experiment, num_classes: int, device: str | torch.device = "cpu") -> nn.Module:
    """The network of ``experiment``, by the settings that it takes, with the weights that its seed draws."""
    torch.manual_seed(experiment.seed)
    make = NETWORKS[experiment.network]
    takes = inspect.signature(make).parameters
    settings = {name: value for name, value in vars(experiment).items() if name in takes}
    return make(num_classes=num_classes, **settings).to(device)


def make_optimizer(
    experiment: Experiment, model: nn.Module, steps: int
) -> tuple[Optimizer, lr_scheduler.LRScheduler | None]:
    """The optimizer of ``experiment`` over ``model`` and its schedule of ``steps`` steps, None for a constant
    rate; groups of weights keep the rates, or their ratios, that they were made with.

    Raises ``LabError`` for a ``beta2`` that the optimizer has no place for.
    """
    make = method(experiment.optimizer).make
    optimizer = make(model.parameters(), lr=experiment.lr, weight_decay=experiment.weight_decay)
    if experiment.beta2 != Experiment.beta2:  # else an own optimizer keeps the betas that it was made with
        for group in optimizer.param_groups:
            if "betas" not in group:
                raise LabError(f"Значение beta2 не годится: оптимизатор {experiment.optimizer} его не имеет.")
            group["betas"] = (group["betas"][0], experiment.beta2)
    if experiment.schedule == "constant":
        return optimizer, None
    # A warm-up of exactly one step is divided by its length less one.
    warmup = experiment.warmup * (1 - 1e-9 if experiment.warmup * steps == 1 else 1)
    peaks = [group["lr"] for group in optimizer.param_groups]
    # Without cycling momentum: beta1 stays what the two papers have.
    schedule = lr_scheduler.OneCycleLR(optimizer, peaks, steps, pct_start=warmup, cycle_momentum=False)
    return optimizer, schedule
