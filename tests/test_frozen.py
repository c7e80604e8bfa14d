"""What must not change: the recorded runs, their names by their settings, histories of short trainings.

``python tests/test_frozen.py`` freezes anew: records that were added, and trainings on this machine.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from conftest import MINICARS, PROJECT

from labnn import OPTIMIZERS
from labnn.data import open_dataset
from labnn.experiment import Run, run_or_load
from labnn.kit.hardware import environment
from labnn.settings import Experiment

FILE = PROJECT / "tests" / "frozen.json"
RUNS = PROJECT / "data" / "runs"
FROZEN = json.loads(FILE.read_text(encoding="utf-8"))

SHORT = {"epochs": 3, "image_size": 32, "batch_size": 4, "seed": 1}
PLAIN = {"mix": 0.0, "min_crop_area": 1.0, "mirror": False, "colour": 0.0, "mirror_test": False}
TRAININGS = {
    "amsgrad": {"optimizer": "amsgrad"},
    "adam": {"optimizer": "adam"},
    "adamw-amsgrad": {},
    "adamw": {"optimizer": "adamw"},
    "nadam": {"optimizer": "nadam"},
    "sgd": {"optimizer": "sgd", "lr": 0.01},
    "own optimizer": {"optimizer": "frozen-radam"},
    "later fields": {"optimizer": "adam", "beta2": 0.9},
    "every batch mixed": {"mix": 1.0},
    "nothing mixed or cropped": PLAIN,
    "growing pictures": {"epochs": 5, "image_size": 64, "start_size": 32, "test_size": 80, "test_every": 2},
    "averaged weights": {"optimizer": "amsgrad", "ema_decay": 0.9},
    "cosine loss": {"optimizer": "amsgrad", "cosine": 1.0, "label_smoothing": 0.0, "mix": 0.0},
    "version 1.0 without batch norm": {"version": "1_0", "batch_norm": False, "bypass": False, "dropout": 0.5}
    | {"init": "default", "logits_relu": True, "schedule": "constant", "optimizer": "adam", "lr": 1e-4},
}


def radam(weights, lr, weight_decay):
    """A user's own function: its source is part of the names of its runs."""
    return torch.optim.RAdam(weights, lr, weight_decay=weight_decay)


def places() -> list[str]:
    return sorted(path.parent.relative_to(RUNS).as_posix() for path in RUNS.rglob("run.json"))


def digest(run: Run) -> str:
    """Of all of the history that does not depend on the clock, and of the answers, to the last digit."""
    tables = run.history.drop(columns="seconds").to_csv(index=False), run.predictions.to_csv(index=False)
    return hashlib.sha256("\n".join(tables).encode()).hexdigest()[:16]


def train(name: str, folder: Path) -> tuple[str, dict, dict]:
    """The name of a short training's run, its history but for the seconds, and where it was made."""
    OPTIMIZERS["frozen-radam"] = radam
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cars = open_dataset(MINICARS, crop_to_box=True)
        cars = cars._replace(train=cars.train.subset(range(16)), test=cars.test.subset(range(8)))
        experiment = Experiment(**(SHORT | TRAININGS[name]))
        quiet = lambda rows, epochs: None  # noqa: E731
        run = run_or_load(experiment, cars, folder / "runs", cache_dir=folder, progress=quiet)
        here = environment(torch.device("cpu")) | {"capability": torch.backends.cpu.get_cpu_capability()}
    finally:
        torch.set_num_threads(threads)
        del OPTIMIZERS["frozen-radam"]
    history = run.history.drop(columns="seconds").to_dict("list")
    missing = {column: [None if value != value else value for value in history[column]] for column in history}
    return run.name, missing, here


def test_no_recorded_run_is_left_out():
    assert set(FROZEN["records"]) == set(places())


@pytest.mark.parametrize("place", FROZEN["records"])
def test_recorded_run_keeps_its_name_and_its_figures(place):
    run = Run.load(RUNS / place)
    assert run.name == (RUNS / place).name
    assert digest(run) == FROZEN["records"][place]


@pytest.mark.parametrize("name", TRAININGS)
def test_short_training_gives_the_history_that_it_always_gave(name, tmp_path):
    """To the last digit on the machine where it was frozen; elsewhere arithmetic differs, and the first loss
    is near.
    """
    frozen = FROZEN["trainings"][name]
    run_name, history, here = train(name, tmp_path)
    assert run_name == frozen["name"]
    if here == FROZEN["environment"]:
        assert history == frozen["history"]
    assert history["train_loss"][0] == pytest.approx(frozen["history"]["train_loss"][0], rel=0.05)


if __name__ == "__main__":
    import tempfile

    made = {"records": {place: digest(Run.load(RUNS / place)) for place in places()}, "trainings": {}}
    for name in TRAININGS:
        with tempfile.TemporaryDirectory() as folder:
            run_name, history, made["environment"] = train(name, Path(folder))
        made["trainings"][name] = {"name": run_name, "history": history}
    FILE.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
