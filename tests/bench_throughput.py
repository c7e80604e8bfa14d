"""Images per second of one training, side by side: the original's loop, labnn, the bare step, and other loops where installed.

Run by hand: ``python tests/bench_throughput.py``. Every variant works in a process of its own, because labnn's memory setting
holds for a whole process, and the variants take turns, so that a drift of the machine meets them all; the first steps of each
are not timed. ``--memory`` measures instead how time and memory grow with the number of photos.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from math import isnan, nan
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parent.parent))

from labnn.batches import Augment, Batches, Mix, decode_images
from labnn.cars.layouts import write_annotations
from labnn.data import open_dataset
from labnn.experiment import Experiment
from labnn.model import SqueezeNet
from labnn.report.tables import number
from labnn.train import autocast, keep_freed_memory, precision, train_epoch

CLASSES = 196  # the official data set's, so that any data set is trained with the same network
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def train_part(options):
    """The training part of the data set, repeated or cut to ``--images`` photos."""
    dataset = open_dataset(options.data, crop_to_box=True).train
    return dataset.subset(np.arange(options.images) % len(dataset))


def transformed(dataset, size):
    dataset.transform = transforms.Compose(
        [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    return dataset


def reference_model(options):
    return getattr(torchvision.models, f"squeezenet{options.version}")(num_classes=CLASSES).to(options.device)


def plain_model(options):
    """labnn's network without batch norm: the same as torchvision's."""
    return SqueezeNet(CLASSES, options.version, batch_norm=False).to(
        options.device, memory_format=torch.channels_last
    )


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
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True)
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
    """An epoch of ``train_epoch`` over ``Batches``, with the augmentation of the default recipe or none; decoded before."""
    size, dataset, recipe = options.image_size, train_part(options), Experiment()
    images = decode_images(dataset, size * 5 // 4 if augmented else size, options.cache)
    tools = {"device": options.device, "shuffle": True}
    if augmented:
        tools |= {
            "augment": Augment(size, recipe.min_crop_area, recipe.mirror, recipe.colour),
            "mix": Mix(CLASSES, recipe.mix),
        }
    first = 3 * options.batch_size
    warm_up = Batches(images[:first], dataset.labels[:first], options.batch_size, **tools)
    batches = Batches(images, dataset.labels, options.batch_size, **tools)
    keep_freed_memory()
    model = plain_model(options)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True, fused=True)
    train_epoch(model, optimizer, warm_up)
    return options.images / seconds(options, lambda: train_epoch(model, optimizer, batches))


def one_batch(options, model) -> float:
    """Steps of ``model`` on one batch that is on the device already, with autocast, channels-last memory and a fused Adam."""
    device, size, batch = torch.device(options.device), options.image_size, options.batch_size
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True, fused=True)
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=device)

    def steps(count):
        for _ in range(count):
            with autocast(device):
                loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    steps(3)
    count = max(options.images // batch, 1)
    return count * batch / seconds(options, lambda: steps(count))


def ceiling(options) -> float:
    keep_freed_memory()
    return one_batch(options, plain_model(options))


def with_timm(options) -> float:
    """timm's loader over the same photos, and the usual bf16 loop without reads from the device."""
    from timm.data import create_loader

    device, shape = torch.device(options.device), (3, options.image_size, options.image_size)
    workers = {"use_prefetcher": False, "num_workers": 2, "persistent_workers": False}
    loader = create_loader(
        train_part(options), shape, options.batch_size, is_training=True, no_aug=True, **workers
    )
    model = reference_model(options).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True, fused=True)

    def epoch(batches):
        for images, labels in islice(loader, batches):
            images = images.to(device, memory_format=torch.channels_last)
            with autocast(device):
                loss = nn.functional.cross_entropy(model(images), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    epoch(2)
    return len(loader) * options.batch_size / seconds(options, lambda: epoch(None))


def lightning_package() -> str | None:
    return next((name for name in ("lightning", "pytorch_lightning") if importlib.util.find_spec(name)), None)


def with_lightning(options) -> float:
    """Lightning's ``Trainer`` over the original's loader; timed from the end of the first epoch to that of the second."""
    lightning = importlib.import_module(lightning_package())
    ends = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = reference_model(options)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-4, amsgrad=True)

        def on_train_epoch_end(self):
            wait(options)
            ends.append(time.perf_counter())

    loader = DataLoader(
        transformed(train_part(options), options.image_size), options.batch_size, shuffle=True, num_workers=2
    )
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    numbers = "bf16-mixed" if precision(torch.device(options.device)) == "bfloat16" else "32-true"
    accelerator = "gpu" if options.device.startswith("cuda") else "cpu"
    lightning.Trainer(max_epochs=2, precision=numbers, accelerator=accelerator, devices=1, **quiet).fit(
        Module(), loader
    )
    return options.images / (ends[1] - ends[0])


# Title, whose network, and what measures images per second.
VARIANTS = {
    "original": (
        "(a) исходный цикл: Pillow, Resize, DataLoader, `.item()` на каждом шаге",
        "torchvision",
        original,
    ),
    "labnn": (
        "(b1) labnn, предобработка исходной работы",
        "labnn",
        lambda options: with_labnn(options, augmented=False),
    ),
    "recipe": ("(b2) labnn, искажения рецепта", "labnn", lambda options: with_labnn(options, augmented=True)),
    "ceiling": ("(c) предел: шаг labnn, один и тот же пакет", "labnn", ceiling),
    "plain": (
        "(p) обычный шаг, один и тот же пакет",
        "torchvision",
        lambda options: one_batch(options, reference_model(options)),
    ),
    "timm": ("(d) загрузчик timm, обычный цикл", "torchvision", with_timm),
    "lightning": ("(d) Lightning, загрузчик исходного цикла", "torchvision", with_lightning),
}
RATIOS = {
    "b1/a": ("labnn", "original"),
    "b1/c": ("labnn", "ceiling"),
    "b2/c": ("recipe", "ceiling"),
    "c/p": ("ceiling", "plain"),
}


def in_own_process(options, *arguments: str) -> dict:
    """What this script prints, called anew with ``arguments`` and the same options."""
    names = ("data", "version", "image_size", "batch_size", "images", "device", "cache", "steps")
    same = [text for name in names for text in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    result = subprocess.run([sys.executable, __file__, *same, *arguments], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def compare(options) -> None:
    """Prints the table of all variants and their ratios."""
    absent = [
        name
        for name, there in {
            "timm": importlib.util.find_spec("timm"),
            "lightning": lightning_package(),
        }.items()
        if not there
    ]
    names = [name for name in VARIANTS if name not in absent]
    decoding = in_own_process(options, "--only", "decode")["rate"]
    rates = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            rates[name].append(in_own_process(options, "--only", name)["rate"])
    print(
        f"{machine(options)}; снимков в эпохе {options.images}; медиана и размах, повторов: {options.rounds}.\n"
    )
    print(
        "| Цикл | Сеть, сторона снимка, пакет, устройство, точность чисел | Снимков в секунду | Размах |\n|:--|:--|--:|--:|"
    )
    for name in names:
        spread = f"{number(min(rates[name]), 1)}–{number(max(rates[name]), 1)}"
        print(
            f"| {VARIANTS[name][0]} | {conditions(options, name)} | {number(statistics.median(rates[name]), 1)} | {spread} |"
        )
    ratios = [
        f"{title} = {number(statistics.median(np.divide(rates[a], rates[b])), 2)}"
        for title, (a, b) in RATIOS.items()
    ]
    print(f"\nОтношения, медианы по повторам: {'; '.join(ratios)}.\n")
    print(
        f"Декодирование, один раз до обучения, в (b1) и (b2) не входит: {number(decoding, 0)} снимков в секунду, "
        f"{number(options.images / decoding, 2)} с, ядер: {os.cpu_count()}."
    )
    if absent:
        print(f"\nНе установлены и не измерены: {', '.join(absent)}.")


def machine(options) -> str:
    device = torch.device(options.device)
    chip = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.cpu.get_capabilities().get("cpu_name", "процессор")
    )
    return f"{chip}, ядер: {os.cpu_count()}, потоков: {torch.get_num_threads()}, PyTorch {torch.__version__}"


def conditions(options, name: str) -> str:
    numbers = "float32" if name == "original" else precision(torch.device(options.device))
    network = f"SqueezeNet {options.version.replace('_', '.')} ({VARIANTS[name][1]})"
    return f"{network}, {options.image_size}, {options.batch_size}, {options.device}, {numbers}"


def decode(options) -> float:
    """Photos decoded a second; leaves both decoded arrays in the cache for the other variants."""
    dataset = train_part(options)
    time_spent = seconds(options, lambda: decode_images(dataset, options.image_size, options.cache))
    decode_images(dataset, options.image_size * 5 // 4, options.cache)
    return options.images / time_spent


def grow(options) -> None:
    """Prints time and memory for each of ``--counts`` generated photos."""
    memory = ["анонимная после открытия набора", "анонимная, наибольшая", "вся, наибольшая (VmHWM)"]
    titles = [
        "Снимков",
        "Декодирование, с",
        "Снимков в секунду",
        f"Шагов: {options.steps}, с",
        *(f"Память, МиБ: {kind}" for kind in memory),
    ]
    print(f"{machine(options)}; SqueezeNet 1.1, 64 пикселя, пакет 32, {options.device}.\n")
    print(f"| {' | '.join(titles)} |\n|{'--:|' * len(titles)}")
    for count in options.counts:
        with tempfile.TemporaryDirectory() as folder:
            options.data, options.cache = generate(Path(folder), count), Path(folder) / "cache"
            told = in_own_process(options, "--only", "growth")
        times = [number(told["decoding"], 1), number(count / told["decoding"], 0), number(told["steps"], 1)]
        sizes = [
            "—" if isnan(told[key]) else number(told[key], 0) for key in ("opened", "anonymous", "resident")
        ]
        print(f"| {' | '.join([str(count), *times, *sizes])} |", flush=True)


def growth(options) -> dict:
    """One row of ``grow``: the training of v1.1 at 64 pixels by batches of 32. Seconds and mebibytes."""
    with peak_anonymous() as seen:
        dataset = open_dataset(options.data).train
        opened = mebibytes("RssAnon")
        decoding = seconds(options, lambda: decode_images(dataset, 64, options.cache))
        keep_freed_memory()
        model = SqueezeNet(CLASSES).to(options.device, memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True, fused=True)
        images = decode_images(dataset, 64, options.cache)
        batches = Batches(
            images, dataset.labels, 32, device=options.device, shuffle=True, augment=Augment(64)
        )
        train_epoch(model, optimizer, islice(batches, 3))
        steps = islice((batch for epoch in cycle([batches]) for batch in epoch), options.steps)
        spent = seconds(options, lambda: train_epoch(model, optimizer, steps))
    return {
        "decoding": decoding,
        "steps": spent,
        "opened": opened,
        "anonymous": max(seen),
        "resident": mebibytes("VmHWM"),
    }


@contextmanager
def peak_anonymous() -> Iterator[list[float]]:
    """Anonymous memory, read every 20 ms: mapped files, which the system may drop at any time, are not in it."""
    seen, done = [mebibytes("RssAnon")], threading.Event()

    def watch():
        while not done.wait(0.02):
            seen.append(mebibytes("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def mebibytes(field: str) -> float:
    """A field of ``/proc/self/status``, NaN on systems without it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), nan)


def generate(root: Path, count: int) -> Path:
    """A data set of ``count`` photos in the official layout: 64 different noise pictures under many names."""
    for folder in ("cars_train", "cars_test"):
        (root / folder).mkdir()
    random = np.random.default_rng(0)
    for index in range(64):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((170, 128), Image.Resampling.BICUBIC).save(root / "cars_train" / f"{index + 1:06d}.jpg")
    for index in range(64, count):
        os.link(
            root / "cars_train" / f"{index % 64 + 1:06d}.jpg", root / "cars_train" / f"{index + 1:06d}.jpg"
        )
    os.link(root / "cars_train" / "000001.jpg", root / "cars_test" / "000001.jpg")
    names, labels, boxes = (
        [f"{index + 1:06d}.jpg" for index in range(count)],
        np.arange(count) % 196,
        np.tile((1, 1, 170, 128), (count, 1)),
    )
    parts = {"train": (names, labels, boxes), "test": (names[:1], labels[:1], boxes[:1])}
    write_annotations(root, parts, [f"класс {index + 1}" for index in range(196)])
    return root


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).parent.parent / "data" / "minicars")
    parser.add_argument("--version", default="1_0")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--memory", action="store_true", help="growth of time and memory with the number of photos"
    )
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1000, 8000, 64000], help="numbers of photos for --memory"
    )
    parser.add_argument("--steps", type=int, default=200, help="timed training steps for --memory")
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=[*VARIANTS, "decode", "growth"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.cache = options.cache or Path(folder)
        if options.only == "growth":
            print(json.dumps(growth(options)))
        elif options.only:
            measure = decode if options.only == "decode" else VARIANTS[options.only][2]
            print(json.dumps({"rate": measure(options)}))
        elif options.memory:
            grow(options)
        else:
            compare(options)


if __name__ == "__main__":
    main()
