"""Trainings that ``test_interruption.py`` starts in processes of their own, and stops; light to import."""

import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from labnn import NETWORKS, Experiment, LabError, open_dataset, run_or_load


def small(num_classes: int) -> nn.Module:
    """A network whose epochs and checkpoints take little time, with buffers and random numbers."""
    features = nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 64, 3, 2), nn.ReLU()
    last = nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes)
    return nn.Sequential(*features, *last)


NETWORKS["small"] = small
EXPERIMENT = Experiment(
    epochs=10, image_size=32, batch_size=8, ema_decay=0.9, mirror_test=False, network="small"
)
SHORT = replace(EXPERIMENT, epochs=3)
ENDLESS = replace(EXPERIMENT, epochs=3000)


def train(root: Path, folder: Path, experiment: Experiment = EXPERIMENT) -> None:
    """A training in a process of its own; what it prints, and its error, goes to a file."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins deaf to it
    with open(folder.with_suffix(".txt"), "a", encoding="utf-8") as told:
        os.dup2(told.fileno(), 1)
        os.dup2(told.fileno(), 2)
        data, places = open_dataset(root, crop_to_box=True), {"cache_dir": folder / "cache"}
        run_or_load(experiment, data, folder / "runs", **places)


def train_and_die(root: Path, folder: Path, end: str, nth: int, half: bool) -> None:
    """A training that is killed as its ``nth`` file or folder whose name has this ``end`` is to appear: half
    written, or just there.
    """
    left = nth

    def dying(move):
        def moved(source, target):
            nonlocal left
            left -= str(target).endswith(end)
            if left == 0 and str(target).endswith(end):
                if not half:
                    move(source, target)
                elif os.path.isdir(source):
                    os.remove(os.path.join(source, "history.csv"))
                else:
                    os.truncate(source, os.path.getsize(source) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            move(source, target)

        return moved

    os.replace, os.rename = dying(os.replace), dying(os.rename)
    train(root, folder, SHORT)


def fill_disk(root: Path, folder: Path, size: int) -> None:
    """As ``train``, on a disk where a file of that ``size`` does not fit."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        train(root, folder, SHORT)
    except LabError as error:
        folder.with_suffix(".error").write_text(str(error), encoding="utf-8")
