"""What must not change: the recorded runs, their names by their settings, the history of a short training."""

import json

import pytest
import torch
from conftest import PROJECT

from labnn.data import open_dataset
from labnn.experiment import Experiment, Run, environment, run_or_load

FROZEN = json.loads((PROJECT / "tests" / "frozen.json").read_text(encoding="utf-8"))
RUNS = PROJECT / "data" / "runs"


@pytest.mark.parametrize("place", FROZEN["records"])
def test_recorded_run_keeps_its_name_and_its_last_figures(place):
    run = Run.load(RUNS / place)
    assert run.name == (RUNS / place).name
    assert {name: run.history[name].iloc[-1] for name in FROZEN["records"][place]} == FROZEN["records"][place]


def test_short_training_gives_the_history_that_it_always_gave(tiny_root, tmp_path):
    """To the last digit on the machine where it was frozen; elsewhere arithmetic differs, and the first loss
    is near.
    """
    experiment = Experiment(
        "amsgrad", epochs=3, image_size=32, start_size=0, batch_size=4, ema_decay=0.9, seed=1
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = open_dataset(tiny_root, crop_to_box=True)
        quiet = lambda rows, epochs: None  # noqa: E731
        run = run_or_load(experiment, data, tmp_path / "runs", cache_dir=tmp_path, progress=quiet)
        here = environment(torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    history = run.history.drop(columns=["seconds"]).to_dict("list")
    frozen = FROZEN["training"]
    if here == frozen["environment"]:
        assert {name: history[name] for name in frozen["history"]} == frozen["history"]
    assert history["train_loss"][0] == pytest.approx(frozen["history"]["train_loss"][0], rel=0.02)
