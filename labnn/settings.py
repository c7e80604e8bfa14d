"""What to run: the settings of one training, and the optimizers and networks that it can name."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, lr_scheduler

from labnn.kit.errors import LabError, check
from labnn.kit.identity import definition
from labnn.kit.numbers import exact
from labnn.model import SqueezeNet, squeezenet_imagenet

OptimizerFunction = Callable[[Iterable[nn.Parameter], float, float], Optimizer]


class Method(NamedTuple):
    """An optimizer that experiments can name: its function of parameters, learning rate and weight decay, its
    name in texts and colour in figures, and the weight decay that is usual with it.
    """

    make: OptimizerFunction
    title: str
    color: str
    weight_decay: float = 0.0


def _torch(kind: type[Optimizer], **options: Any) -> OptimizerFunction:
    return lambda weights, lr, decay: kind(weights, lr, weight_decay=decay, **options)


# In the order of tables. The decay of the AdamW ones is decoupled (Loshchilov and Hutter, arXiv 1711.05101),
# that of the others is added to the gradient, as PyTorch has it. A user adds a ``Method``, or the function
# alone, by a key.
OPTIMIZERS: dict[str, Method | OptimizerFunction] = {
    "amsgrad": Method(_torch(Adam, amsgrad=True, fused=True), "AMSGrad", "#c1440e"),
    "adam": Method(_torch(Adam, fused=True), "Adam", "#1f5a96"),
    "adamw-amsgrad": Method(_torch(AdamW, amsgrad=True, fused=True), "AdamW-AMSGrad", "#c77700", 0.05),
    "adamw": Method(_torch(AdamW, fused=True), "AdamW", "#3d8bc4", 0.05),
    "nadam": Method(_torch(NAdam), "NAdam", "#2e7d4f"),
    # SqueezeNet's own, with its weight decay
    "sgd": Method(_torch(SGD, momentum=0.9, fused=True), "SGD с импульсом", "#6b4c9a", 2e-4),
}

# A name and a function of the number of classes, which may also take the settings of ``_NETWORK_SETTINGS`` by
# name.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "squeezenet": SqueezeNet,
    "squeezenet-imagenet": squeezenet_imagenet,
}
_NETWORK_SETTINGS = ("version", "batch_norm", "bypass", "dropout", "init", "logits_relu")

_SHIPPED = {id(entry) for entry in (*OPTIMIZERS.values(), *NETWORKS.values())}


def method(name: str) -> Method:
    """What ``OPTIMIZERS`` says of ``name``; one that it lacks, as records may have, cannot be made but has a
    title. Two of one title have their names in it.
    """
    found = _method(name)
    others = {_method(key).title for key in OPTIMIZERS if key != name}
    return found._replace(title=f"{found.title} ({name})") if found.title in others else found


def _method(name: str) -> Method:
    entry = OPTIMIZERS.get(name)
    return entry if isinstance(entry, Method) else Method(entry, name, f"C{sum(str(name).encode()) % 10}")


def setting(
    default: Any, allowed: tuple | None, help: str, words: Any = "", off: str = "", *, later: bool = False
) -> Any:
    """A field of ``Experiment``: what it may be (least and greatest, or names), its help in the terminal, its
    words in texts (``{}`` is the value, ``{percent}`` the value of a share; or a function) and those of a
    value 0 or False.

    ``later``: it came after the first runs were recorded, and is in the name of a run only where it is not
    the default.
    """
    about = {"allowed": allowed or (), "help": help, "words": words, "off": off, "later": later}
    return field(default=default, metadata=about)


_MANY = 10**6


@dataclass(frozen=True)
class Experiment:
    """Everything that decides how one network is trained; two equal experiments on equal data are the same
    run.

    ``optimizer`` is a key of ``OPTIMIZERS``, ``network`` one of ``NETWORKS``; ``weight_decay`` ``None``
    becomes what is usual with the optimizer. ``lr`` is the peak of the "one_cycle" ``schedule`` (Smith and
    Topin 2017, arXiv 1708.07120), or all that a "constant" one has. The pictures grow from ``start_size``
    (``batches.growing``); crops show the car larger, which a larger ``test_size`` makes up for (Touvron et
    al. 2019, arXiv 1906.06423). The rest are arguments of ``Augment``, ``Mix``, ``CosineCrossEntropy``,
    ``SqueezeNet`` and ``train_test``. Raises ``LabError`` for a value that no training can have.
    """

    optimizer: str = setting("adamw-amsgrad", None, "оптимизатор", lambda name: method(name).title)
    epochs: int = setting(100, (1, _MANY), "число эпох", "эпох: {}")
    seed: int = setting(0, (0, 2**31 - 1), "зерно генератора")
    lr: float = setting(3e-3, (1e-12, 1e6), "наибольшая скорость обучения расписания", "скорость обучения {}")
    schedule: str = setting(
        "one_cycle",
        ("one_cycle", "constant"),
        "расписание скорости обучения: one_cycle или constant",
        {"one_cycle": "разгон и спад скорости (один цикл)", "constant": "постоянная скорость"}.get,
    )
    warmup: float = setting(
        0.3, (0.001, 0.999), "доля шагов до наибольшей скорости обучения", "разгон {percent} шагов"
    )
    weight_decay: float | None = setting(
        None,
        (0, 1e3),
        "затухание весов; не задано — обычное для оптимизатора: 0.05 у adamw, 0.0002 у sgd, 0 у остальных",
        "затухание весов {}",
        "затухание весов 0",
    )
    batch_size: int = setting(32, (1, _MANY), "размер пакета", "пакет {}")
    image_size: int = setting(128, (32, 4096), "сторона снимка на входе сети, пикселей", "{} пикселей")
    start_size: int = setting(
        0,
        (0, 4096),
        "сторона снимка в первой эпохе, растёт до image_size; 0 — с начала image_size",
        "снимок растёт от {} пикселей",
        "снимок одного размера",
    )
    min_crop_area: float = setting(
        0.3,
        (0.001, 1),
        "наименьшая доля площади при случайном кадрировании",
        lambda area: (
            "без случайного кадра" if area == 1 else f"случайный кадр от {exact(100 * area)}% площади"
        ),
    )
    label_smoothing: float = setting(
        0.1, (0, 1), "сглаживание меток", "сглаживание меток {}", "без сглаживания меток"
    )
    version: str = setting(
        "1_1",
        ("1_0", "1_1"),
        "версия SqueezeNet: 1_0 или 1_1",
        lambda version: f"SqueezeNet {version.replace('_', '.')}",
    )
    batch_norm: bool = setting(
        True, None, "нормализация в модулях Fire", "пакетная нормализация", "без пакетной нормализации"
    )
    bypass: bool = setting(
        True, None, "обходные связи вокруг модулей Fire", "обходные связи", "без обходных связей"
    )
    dropout: float = setting(
        0.2, (0, 0.999), "доля отключаемых признаков перед последней свёрткой", "dropout {}", "dropout 0,0"
    )
    init: str = setting(
        "he",
        ("he", "default"),
        "начальные веса: he или default (как в PyTorch)",
        {"he": "начальные веса He", "default": "начальные веса PyTorch"}.get,
    )
    logits_relu: bool = setting(
        False, None, "ReLU на последней свёртке, как в статье", "ReLU на логитах", "без ReLU на логитах"
    )
    mirror: bool = setting(True, None, "отражать половину обучающих снимков", "отражение", "без отражения")
    colour: float = setting(
        0.3,
        (0, 1),
        "наибольшее изменение яркости и контраста, доля",
        "яркость и контраст ±{percent}",
        "без изменения яркости",
    )
    mix: float = setting(
        0.5,
        (0, 1),
        "доля пакетов, в которых снимки смешиваются (CutMix или mixup)",
        "CutMix и mixup в {percent} пакетов",
        "без CutMix и mixup",
    )
    mirror_test: bool = setting(
        True,
        None,
        "на тесте усреднять ответы на снимок и его отражение",
        "среднее с отражением на тесте",
        "без отражения на тесте",
    )
    test_size: int = setting(
        0,
        (0, 4096),
        "сторона снимка на тесте, пикселей; 0 — как при обучении",
        "{} пикселей на тесте",
        "на тесте как при обучении",
    )
    test_every: int = setting(
        1, (1, _MANY), "испытывать на тесте раз в столько эпох, в первую и последнюю всегда"
    )
    ema_decay: float = setting(
        0.0,
        (0, 0.999999),
        "экспоненциальное усреднение весов: доля старых весов на шаг, 0 — не усреднять",
        "усреднение весов {}",
        "без усреднения весов",
    )
    cosine: float = setting(
        0.0,
        (0, 1e3),
        "вес косинусной функции потерь рядом с перекрёстной энтропией",
        lambda weight: (
            "без косинусной функции потерь"
            if not weight
            else "косинусная функция потерь рядом с энтропией"
            + (f", её вес {exact(weight)}" if weight != 1 else "")
        ),
    )
    network: str = setting("squeezenet", None, "сеть", "сеть {}", later=True)
    beta2: float = setting(
        0.999, (0, 0.999999), "память Adam о квадратах градиента, доля старого на шаг", "β₂ = {}", later=True
    )

    def __post_init__(self):
        if self.weight_decay is None and isinstance(self.optimizer, str):
            object.__setattr__(self, "weight_decay", method(self.optimizer).weight_decay)
        for one in fields(self):
            value, allowed = getattr(self, one.name), one.metadata["allowed"]
            kind = float if one.default is None else type(one.default)
            limits, choices = ((), allowed) if kind is str else (allowed, ())
            check(one.name, value, kind, *limits, choices=choices)
            object.__setattr__(self, one.name, kind(value))  # 0 and 0.0, or numpy's, are one experiment
        for name, most in {"start_size": self.image_size, "test_size": 4096}.items():
            if getattr(self, name) and not 32 <= getattr(self, name) <= most:
                value = f"{name}={getattr(self, name)}"
                raise LabError(f"Значение {value} не годится: задайте 0 или от 32 до {most}.")

    def words(self, name: str) -> str:
        """How Russian texts call the value of the setting ``name``."""
        about, value = self.__dataclass_fields__[name].metadata, getattr(self, name)
        if callable(about["words"]):
            return about["words"](value)
        shown = exact(value) if isinstance(value, (int, float)) else value
        share = f"{exact(100 * value)}%" if isinstance(value, float) else ""
        return about["off"] if about["off"] and not value else about["words"].format(shown, percent=share)

    def changes(self, base: "Experiment") -> str:
        """The settings that ``base`` has otherwise, in Russian words; the seed apart."""
        different = [name for name in vars(self) if getattr(self, name) != getattr(base, name)]
        return ", ".join(filter(None, map(self.words, different)))


# The recipe of the laboratory work that this one replaces: torchvision's network and Adam with a constant
# rate.
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


def is_own(entry: Any) -> bool:
    """Whether an entry of ``OPTIMIZERS`` or ``NETWORKS`` is the user's own, not one that comes with labnn."""
    return id(entry) not in _SHIPPED


def own_definitions(experiment: Experiment) -> dict[str, str]:
    """What the user's own functions do that ``experiment`` names, by setting; those of labnn are known by
    name.
    """
    named = {"optimizer": OPTIMIZERS.get(experiment.optimizer), "network": NETWORKS.get(experiment.network)}
    own = {name: entry for name, entry in named.items() if entry is not None and is_own(entry)}
    return {name: definition(getattr(entry, "make", entry)) for name, entry in own.items()}


def check_names(experiment: Experiment) -> None:
    """Raises ``LabError`` for an optimizer or a network that is in no table, and for an optimizer that can be
    in no folder's name. Records of such runs can still be read.
    """
    named = [("оптимизатора", experiment.optimizer, OPTIMIZERS), ("сети", experiment.network, NETWORKS)]
    for word, name, table in named:
        if name not in table:
            title = "OPTIMIZERS" if table is OPTIMIZERS else "NETWORKS"
            known = f"выберите из {', '.join(table)} или добавьте свой пункт в {title}"
            raise LabError(f"Нет {word} «{name}»: {known}.")
    if set(experiment.optimizer) & set('/\\:*?"<>|\n'):
        raise LabError(
            f"Имя оптимизатора «{experiment.optimizer}» не годится для папки: уберите / и подобное."
        )


def make_model(experiment: Experiment, num_classes: int, device: str | torch.device = "cpu") -> nn.Module:
    """The network of ``experiment``, by the settings that it takes, with the weights that its seed draws."""
    torch.manual_seed(experiment.seed)
    make = NETWORKS[experiment.network]
    takes = inspect.signature(make).parameters
    settings = {name: getattr(experiment, name) for name in _NETWORK_SETTINGS if name in takes}
    return make(num_classes, **settings).to(device)


def make_optimizer(
    experiment: Experiment, model: nn.Module, steps: int
) -> tuple[Optimizer, lr_scheduler.LRScheduler]:
    """The optimizer of ``experiment`` over ``model`` and its schedule of ``steps`` steps.

    Raises ``LabError`` for a ``beta2`` that the optimizer has no place for.
    """
    optimizer = method(experiment.optimizer).make(model.parameters(), experiment.lr, experiment.weight_decay)
    if experiment.beta2 != Experiment.beta2:  # else an own optimizer keeps the betas that it was made with
        for group in optimizer.param_groups:
            if "betas" not in group:
                name = f"оптимизатор {experiment.optimizer}"
                raise LabError(f"Значение beta2={experiment.beta2} не годится: {name} его не имеет.")
            group["betas"] = (group["betas"][0], experiment.beta2)
    if experiment.schedule == "constant":
        return optimizer, lr_scheduler.ConstantLR(optimizer, factor=1)
    # Without cycling momentum: beta1 stays what the two papers have.
    options = {"pct_start": experiment.warmup, "cycle_momentum": False}
    if experiment.warmup * steps == 1:
        options["pct_start"] *= 1 - 1e-9  # a warm-up of exactly one step is divided by its length less one
    return optimizer, lr_scheduler.OneCycleLR(optimizer, experiment.lr, steps, **options)
