"""Images per second of one training, side by side: the original's loop, labnn, the bare step, other loops.

Every variant works in a process of its own, because labnn's memory setting holds for a whole process, and
they take turns, so that a drift of the machine meets them all; the first steps of each are not timed.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import islice
from math import isnan
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms

from labnn.batches import Augment, Batches, Mix
from labnn.data import open_dataset
from labnn.kit.decoding import decode_images
from labnn.kit.errors import LabError
from labnn.kit.hardware import autocast, keep_freed_memory, precision
from labnn.model import SqueezeNet
from labnn.settings import Experiment
from labnn.train import train_epoch

CLASSES = 196  # the official data set's, so that any data set is trained with the same network
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def train_part(options):
    """The training part of the data set, repeated or cut to ``--images`` photos."""
    dataset = open_dataset(options.data, crop_to_box=True).train
    return dataset.subset(np.arange(options.images) % len(dataset))


def transformed(dataset, size):
    """``dataset`` with the original's transforms."""
    steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    dataset.transform = transforms.Compose(steps)
    return dataset


def reference_model(options):
    return getattr(torchvision.models, f"squeezenet{options.version}")(num_classes=CLASSES).to(options.device)


def plain_model(options):
    """labnn's network without batch norm: the same as torchvision's."""
    model = SqueezeNet(CLASSES, options.version, batch_norm=False)
    return model.to(options.device, memory_format=torch.channels_last)


def amsgrad(model, **options):
    return torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True, **options)


def wait(options) -> None:
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds(options, work) -> float:
    """The time of ``work()``, all of the device's work included."""
    wait(options)
    start = time.perf_counter()
    work()
    wait(options)
    return time.perf_counter() - start


def original(options) -> float:
    """The student's loop: float32, a plain Adam, numbers read from the device at every step."""
    model, criterion = reference_model(options), nn.CrossEntropyLoss()
    optimizer = amsgrad(model)
    dataset = transformed(train_part(options), options.image_size)

    def epoch(part):
        total_loss = correct = 0
        model.train()
        for images, labels in DataLoader(part, batch_size=options.batch_size, shuffle=True, num_workers=2):
            images, labels = images.to(options.device), labels.to(options.device)
            optimizer.zero_grad()
            outputs = model(images)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            total_loss += loss.item()
            correct += (outputs.argmax(1) == labels).sum().item()

    epoch(Subset(dataset, range(min(2 * options.batch_size, options.images))))
    return options.images / seconds(options, lambda: epoch(dataset))


def with_labnn(options, augmented: bool) -> float:
    """An epoch of ``train_epoch`` over decoded photos, with the default recipe's augmentation or none."""
    size, dataset, recipe = options.image_size, train_part(options), Experiment()
    file = decode_images(dataset, size * 5 // 4 if augmented else size, options.cache)
    images = np.load(file, mmap_mode="r")
    tools = {"device": options.device, "shuffle": True}
    if augmented:
        tools["augment"] = Augment(size, recipe.min_crop_area, recipe.mirror, recipe.colour)
        tools["mix"] = Mix(CLASSES, recipe.mix)
    first = 3 * options.batch_size
    warm_up = Batches(images[:first], dataset.labels[:first], options.batch_size, **tools)
    batches = Batches(images, dataset.labels, options.batch_size, **tools)
    keep_freed_memory()
    model = plain_model(options)
    optimizer = amsgrad(model, fused=True)
    train_epoch(model, optimizer, warm_up)
    return options.images / seconds(options, lambda: train_epoch(model, optimizer, batches))


def bf16_step(device, model, optimizer, images, labels) -> None:
    with autocast(device):
        loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def one_batch(options, model) -> float:
    """Steps of ``model`` on one batch that lies on the device: autocast, channels last, a fused Adam."""
    device, size, batch = torch.device(options.device), options.image_size, options.batch_size
    model.to(memory_format=torch.channels_last).train()
    optimizer = amsgrad(model, fused=True)
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=device)

    def steps(count):
        for _ in range(count):
            bf16_step(device, model, optimizer, images, labels)

    steps(3)
    count = max(options.images // batch, 1)
    return count * batch / seconds(options, lambda: steps(count))


def ceiling(options) -> float:
    keep_freed_memory()
    return one_batch(options, plain_model(options))


def plain_step(options) -> float:
    return one_batch(options, reference_model(options))


def with_timm(options) -> float:
    """timm's loader over the same photos, and the usual bf16 loop without reads from the device."""
    from timm.data import create_loader

    device, shape = torch.device(options.device), (3, options.image_size, options.image_size)
    workers = {"use_prefetcher": False, "num_workers": 2, "persistent_workers": False}
    photos = train_part(options)
    loader = create_loader(photos, shape, options.batch_size, is_training=True, no_aug=True, **workers)
    model = reference_model(options).to(memory_format=torch.channels_last).train()
    optimizer = amsgrad(model, fused=True)

    def epoch(batches):
        for images, labels in islice(loader, batches):
            images = images.to(device, memory_format=torch.channels_last)
            bf16_step(device, model, optimizer, images, labels.to(device))

    epoch(2)
    return len(loader) * options.batch_size / seconds(options, lambda: epoch(None))


def lightning_package() -> str | None:
    return next((name for name in ("lightning", "pytorch_lightning") if importlib.util.find_spec(name)), None)


def with_lightning(options) -> float:
    """Lightning's ``Trainer`` over the original's loader, timed from the end of the first epoch."""
    lightning = importlib.import_module(lightning_package())
    ends = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = reference_model(options)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return amsgrad(self)

        def on_train_epoch_end(self):
            wait(options)
            ends.append(time.perf_counter())

    dataset = transformed(train_part(options), options.image_size)
    loader = DataLoader(dataset, options.batch_size, shuffle=True, num_workers=2)
    trainer = lightning.Trainer(
        max_epochs=2,
        precision="bf16-mixed" if precision(torch.device(options.device)) == "bfloat16" else "32-true",
        accelerator="gpu" if options.device.startswith("cuda") else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader)
    return options.images / (ends[1] - ends[0])


def decode(options) -> float:
    """Photos decoded a second; leaves both decoded arrays in the cache for the other variants."""
    dataset = train_part(options)
    spent = seconds(options, lambda: decode_images(dataset, options.image_size, options.cache))
    decode_images(dataset, options.image_size * 5 // 4, options.cache)
    return options.images / spent


# Title, whose network, and what measures images per second.
VARIANTS = {
    "original": (
        "(a) исходный цикл: Pillow, Resize, DataLoader, `.item()` на каждом шаге",
        "torchvision",
        original,
    ),
    "labnn": ("(b1) labnn, предобработка исходной работы", "labnn", partial(with_labnn, augmented=False)),
    "recipe": ("(b2) labnn, искажения рецепта", "labnn", partial(with_labnn, augmented=True)),
    "ceiling": ("(c) предел: шаг labnn, один и тот же пакет", "labnn", ceiling),
    "plain": ("(p) обычный шаг, один и тот же пакет", "torchvision", plain_step),
    "timm": ("(d) загрузчик timm, обычный цикл", "torchvision", with_timm),
    "lightning": ("(d) Lightning, загрузчик исходного цикла", "torchvision", with_lightning),
}
RATIOS = {
    "b1/a": ("labnn", "original"),
    "b1/c": ("labnn", "ceiling"),
    "b2/c": ("recipe", "ceiling"),
    "c/p": ("ceiling", "plain"),
}


def in_own_process(options, part: str) -> dict:
    """What this script prints as ``--only part``, called anew with the same options."""
    names = ("data", "version", "image_size", "batch_size", "images", "device", "cache")
    same = [text for name in names for text in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    command = [sys.executable, __file__, *same, "--only", part]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.stderr.write(result.stderr)
        raise SystemExit(result.returncode)
    return json.loads(result.stdout.splitlines()[-1])


def compare(options) -> None:
    """Prints the table of the variants and their ratios."""
    packages = {"timm": importlib.util.find_spec("timm"), "lightning": lightning_package()}
    absent = [name for name, found in packages.items() if not found and name in options.variants]
    names = [name for name in options.variants if name not in absent]
    decoding = in_own_process(options, "decode")["rate"]
    rates = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            rates[name].append(in_own_process(options, name)["rate"])
    repeats = f"медиана и размах, повторов: {options.rounds}"
    print(f"{machine(options)}; снимков в эпохе {options.images}; {repeats}.\n")
    print_row(
        "Цикл", "Сеть, сторона снимка, пакет, устройство, точность чисел", "Снимков в секунду", "Размах"
    )
    print("|:--|:--|--:|--:|")
    for name in names:
        spread = f"{number(min(rates[name]), 1)}–{number(max(rates[name]), 1)}"
        middle = number(statistics.median(rates[name]), 1)
        print_row(VARIANTS[name][0], conditions(options, name), middle, spread)
    ratios = [
        f"{title} = {number(statistics.median(np.divide(rates[a], rates[b])), 2)}"
        for title, (a, b) in RATIOS.items()
        if a in rates and b in rates
    ]
    print(f"\nОтношения, медианы по повторам: {'; '.join(ratios)}.\n")
    print(
        "Декодирование, один раз до обучения, в (b1) и (b2) не входит: "
        f"{number(decoding, 0)} снимков в секунду, {number(options.images / decoding, 2)} с, "
        f"ядер: {os.cpu_count()}."
    )
    if absent:
        print(f"\nНе установлены и не измерены: {', '.join(absent)}.")


def print_row(*cells) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def number(value: float, digits: int) -> str:
    return "—" if isnan(value) else f"{value:.{digits}f}".replace(".", ",")


def machine(options) -> str:
    device = torch.device(options.device)
    if device.type == "cuda":
        chip = torch.cuda.get_device_name(device)
    else:
        chip = torch.cpu.get_capabilities().get("cpu_name", "процессор")
    return f"{chip}, ядер: {os.cpu_count()}, потоков: {torch.get_num_threads()}, PyTorch {torch.__version__}"


def conditions(options, name: str) -> str:
    numbers = "float32" if name == "original" else precision(torch.device(options.device))
    network = f"SqueezeNet {options.version.replace('_', '.')} ({VARIANTS[name][1]})"
    return f"{network}, {options.image_size}, {options.batch_size}, {options.device}, {numbers}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Снимков в секунду: исходный цикл, labnn, голый шаг и чужие циклы, по очереди.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    minicars = PROJECT / "data" / "minicars"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--data", type=Path, default=minicars, help="корень набора данных")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS], help="что измерить")
    parser.add_argument("--version", default="1_0", choices=("1_0", "1_1"), help="версия SqueezeNet")
    parser.add_argument("--image-size", type=int, default=224, help="сторона снимка, пикселей")
    parser.add_argument("--batch-size", type=int, default=32, help="размер пакета")
    parser.add_argument("--images", type=int, default=640, help="снимков в эпохе")
    parser.add_argument("--rounds", type=int, default=3, help="сколько раз измерить каждый цикл")
    parser.add_argument("--device", default=device, help="устройство: cpu, cuda, cuda:1")
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=[*VARIANTS, "decode"], help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        options.cache = options.cache or Path(folder)
        if options.only:
            measure = decode if options.only == "decode" else VARIANTS[options.only][2]
            print(json.dumps({"rate": measure(options)}))
        else:
            compare(options)


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
