"""Images per second of one training, side by side: the original's loop, labnn, the bare step, and other loops where installed.

Run by hand: ``python tests/bench_throughput.py``. Every variant works in a process of its own, because labnn's memory setting
holds for a whole process, and the variants take turns, so that a drift of the machine meets them all. ``--memory`` measures
instead how time and memory grow with the number of photos.
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
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import scipy.io
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parent.parent))

from labnn.batches import Augment, Batches, Mix, decode_images
from labnn.data import open_dataset
from labnn.model import SqueezeNet
from labnn.tables import number
from labnn.train import autocast, keep_freed_memory, precision, train_epoch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VARIANTS = {
    "original": "(a) цикл исходной работы: Pillow, Resize, DataLoader, `.item()` на каждом шаге",
    "plain": "(p) обычный шаг сети torchvision, один и тот же пакет",
    "ceiling": "(c) предел: шаг labnn, один и тот же пакет",
    "labnn": "(b) labnn, предобработка исходной работы",
    "recipe": "(b′) labnn, искажения рецепта",
    "timm": "(d) загрузчик timm и обычный цикл bf16 channels_last",
    "lightning": "(d) Lightning, bf16-mixed",
}


def train_part(options):
    """The training part of the data set, repeated or cut to ``--images`` photos."""
    dataset = open_dataset(options.data, crop_to_box=True).train
    return dataset.subset(np.arange(options.images) % len(dataset))


def transformed(dataset, size):
    dataset.transform = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    return dataset


def reference_model(options):
    name = f"squeezenet{options.version}"
    return getattr(torchvision.models, name)(num_classes=196).to(options.device)


def seconds(options, work) -> float:
    """The time of ``work()``, all of the device's work included."""
    if options.device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if options.device == "cuda":
        torch.cuda.synchronize()
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

    epoch(Subset(dataset, range(2 * options.batch_size)))
    return options.images / seconds(options, lambda: epoch(dataset))


def with_labnn(options, augmented: bool) -> float:
    """An epoch of ``train_epoch`` over ``Batches``; the photos are decoded before."""
    size, dataset = options.image_size, train_part(options)
    images = decode_images(dataset, size * 5 // 4 if augmented else size, options.cache)
    tools = {"augment": Augment(size, 0.3, True, 0.3), "mix": Mix(196, 0.5)} if augmented else {}
    model = SqueezeNet(196, options.version, batch_norm=False).to(options.device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True, fused=True)
    keep_freed_memory()

    def epoch(count):
        batches = Batches(images[:count], dataset.labels[:count], options.batch_size, device=options.device, shuffle=True, **tools)
        train_epoch(model, optimizer, batches)

    epoch(3 * options.batch_size)
    return options.images / seconds(options, lambda: epoch(options.images))


def one_batch(options, model) -> float:
    """Steps of ``model`` on one batch that is on the device already, with autocast, channels-last memory and a fused Adam."""
    device, size, batch = torch.device(options.device), options.image_size, options.batch_size
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True, fused=True)
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(196, (batch,), device=device)

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
    return one_batch(options, SqueezeNet(196, options.version, batch_norm=False).to(options.device))


def with_timm(options) -> float:
    """timm's loader over the same photos, and the usual bf16 loop without reads from the device."""
    from timm.data import create_loader

    device, size = torch.device(options.device), options.image_size
    dataset = transformed(train_part(options), size)
    loader = create_loader(
        dataset, (3, size, size), options.batch_size, is_training=True, no_aug=True, use_prefetcher=False, num_workers=2, persistent_workers=False
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


def with_lightning(options) -> float:
    """Lightning's ``Trainer`` over the original's loader; the first epoch warms up, the second is timed."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.marks = reference_model(options), []

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-4, amsgrad=True)

        def on_train_epoch_start(self):
            self.marks.append(time.perf_counter())

        def on_train_epoch_end(self):
            self.marks.append(time.perf_counter())

    module = Module()
    loader = DataLoader(transformed(train_part(options), options.image_size), options.batch_size, shuffle=True, num_workers=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=2, precision="bf16-mixed", accelerator="auto", devices=1, **quiet)
    trainer.fit(module, loader)
    return options.images / (module.marks[-1] - module.marks[-2])


MEASURES = {
    "original": original,
    "plain": lambda options: one_batch(options, reference_model(options)),
    "ceiling": ceiling,
    "labnn": lambda options: with_labnn(options, augmented=False),
    "recipe": lambda options: with_labnn(options, augmented=True),
    "timm": with_timm,
    "lightning": with_lightning,
}


def in_own_process(options, *arguments: str) -> dict:
    """What this script prints, called anew with ``arguments`` and the same options."""
    names = ("data", "version", "image_size", "batch_size", "images", "device", "cache")
    same = [text for name in names for text in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    result = subprocess.run([sys.executable, __file__, *same, *arguments], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def compare(options) -> None:
    """Prints the table of all variants and their ratios."""
    names = [name for name in MEASURES if name not in ("timm", "lightning") or importlib.util.find_spec(name)]
    decoding = in_own_process(options, "--only", "decode")
    rates = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            rates[name].append(in_own_process(options, "--only", name)["rate"])
    middle = {name: statistics.median(values) for name, values in rates.items()}
    device = torch.device(options.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.cpu.get_capabilities().get("cpu_name", "процессор")
    print(
        f"SqueezeNet {options.version.replace('_', '.')}, {options.image_size} пикселей, пакет {options.batch_size}, снимков {options.images}; "
        f"{machine}, ядер: {os.cpu_count()}, PyTorch {torch.__version__}; медиана и размах по повторам: {options.rounds}.\n"
    )
    print("| Цикл | Точность чисел | Снимков в секунду | Размах |\n|:--|:--|:--|:--|")
    for name in names:
        numbers = "float32" if name == "original" else precision(device)
        spread = f"{number(min(rates[name]), 1)}–{number(max(rates[name]), 1)}"
        print(f"| {VARIANTS[name]} | {numbers} | {number(middle[name], 1)} | {spread} |")
    pairs = {"b / a": ("labnn", "original"), "b / c": ("labnn", "ceiling"), "b′ / c": ("recipe", "ceiling"), "c / p": ("ceiling", "plain")}
    ratios = [f"{title} = {number(statistics.median(np.divide(rates[a], rates[b])), 2)}" for title, (a, b) in pairs.items()]
    print(f"\nОтношения, медианы по повторам: {'; '.join(ratios)}.")
    print(f"Декодирование первой эпохи, в (b) не входит: {decoding['rate']:.0f} снимков в секунду на всех ядрах.")
    absent = [name for name in ("timm", "lightning") if name not in names]
    print(f"Не установлены: {', '.join(absent)}." if absent else "", end="\n" if absent else "")


def decode(options) -> float:
    """Photos decoded a second; leaves both decoded arrays in the cache for the other variants."""
    dataset = train_part(options)
    time_spent = seconds(options, lambda: decode_images(dataset, options.image_size, options.cache))
    decode_images(dataset, options.image_size * 5 // 4, options.cache)
    return options.images / time_spent


def grow(options) -> None:
    """Prints time and memory for each of ``--counts`` generated photos."""
    print("| Снимков | Декодирование, с | Снимков в секунду | 200 шагов, с | Память процесса без отображённых файлов, МиБ |\n|:--|:--|:--|:--|:--|")
    for count in options.counts:
        with tempfile.TemporaryDirectory() as folder:
            root = generate(Path(folder), count)
            options.data, options.cache, options.images = root, Path(folder) / "cache", count
            told = in_own_process(options, "--only", "growth")
        cells = [count, number(told["decoding"], 1), number(count / told["decoding"], 0), number(told["steps"], 1), number(told["anonymous"], 0)]
        print(f"| {' | '.join(map(str, cells))} |")


def growth(options) -> dict:
    """One row of ``grow``: v1.1 at 64 pixels, 200 steps of 32; the largest anonymous memory met."""
    dataset = open_dataset(options.data).train
    decoding = seconds(options, lambda: decode_images(dataset, 64, options.cache))
    before = anonymous_mebibytes()
    images = decode_images(dataset, 64, options.cache)
    keep_freed_memory()
    model = SqueezeNet(196).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    batches = Batches(images, dataset.labels, 32, shuffle=True, augment=Augment(64))
    steps = islice((batch for epoch in cycle([batches]) for batch in epoch), 200)
    spent = seconds(options, lambda: train_epoch(model, optimizer, steps))
    return {"decoding": decoding, "steps": spent, "anonymous": max(before, anonymous_mebibytes())}


def anonymous_mebibytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def generate(root: Path, count: int) -> Path:
    """A data set of ``count`` photos in the official layout: 64 different noise pictures under many names."""
    for folder in ("devkit", "cars_train", "cars_test"):
        (root / folder).mkdir()
    random = np.random.default_rng(0)
    for index in range(64):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((170, 128), Image.Resampling.BICUBIC).save(root / "cars_train" / f"{index + 1:06d}.jpg")
    for index in range(64, count):
        os.link(root / "cars_train" / f"{index % 64 + 1:06d}.jpg", root / "cars_train" / f"{index + 1:06d}.jpg")
    os.link(root / "cars_train" / "000001.jpg", root / "cars_test" / "000001.jpg")
    records = np.zeros((1, count), dtype=[(field, object) for field in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")])
    for index in range(count):
        records[0, index] = (1, 1, 170, 128, index % 196 + 1, f"{index + 1:06d}.jpg")
    scipy.io.savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": records})
    scipy.io.savemat(root / "cars_test_annos_withlabels.mat", {"annotations": records[:, :1]})
    scipy.io.savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array([[f"класс {k + 1}" for k in range(196)]], dtype=object)})
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parent.parent / "data" / "minicars")
    parser.add_argument("--version", default="1_0")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory", action="store_true", help="growth of time and memory with the number of photos")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 8000, 64000])
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--only", choices=[*MEASURES, "decode", "growth"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only == "growth":
        print(json.dumps(growth(options)))
    elif options.only:
        print(json.dumps({"rate": (MEASURES | {"decode": decode})[options.only](options)}))
    elif options.memory:
        grow(options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            options.cache = options.cache or Path(folder)
            compare(options)


if __name__ == "__main__":
    main()
