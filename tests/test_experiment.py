"""An experiment decides its run, a run is recorded whole and found again."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from labnn.data import open_dataset
from labnn.experiment import OPTIMIZERS, Experiment, Run, load_runs, run_name, run_or_load
from labnn.kit.errors import LabError
from labnn.kit.progress import Live
from labnn.settings import make_model, make_optimizer

SMALL = Experiment(epochs=2, image_size=32, batch_size=8)


@pytest.fixture
def run_small(tiny_root, tmp_path):
    """Runs small experiments on the tiny data set; counts the epochs that were really trained."""

    def run(experiment=SMALL, runs_dir=tmp_path / "runs", progress=lambda rows, epochs: None):
        data = open_dataset(tiny_root, crop_to_box=True)
        return run_or_load(experiment, data, runs_dir, cache_dir=tmp_path / "cache", progress=progress)

    return run


def histories_equal(first: Run, second: Run) -> bool:
    return first.history.drop(columns="seconds").equals(second.history.drop(columns="seconds"))


def test_same_experiment_gives_the_same_history_and_predictions(run_small, tmp_path):
    first, again = run_small(), run_small(runs_dir=tmp_path / "elsewhere")
    assert histories_equal(first, again)
    assert first.predictions.equals(again.predictions)


def test_other_seed_gives_another_history(run_small):
    assert not histories_equal(run_small(), run_small(replace(SMALL, seed=1)))


def test_optimizers_start_from_the_same_network_and_part_later(run_small):
    adam, amsgrad = (make_model(replace(SMALL, optimizer=name), 10) for name in ("adam", "amsgrad"))
    assert all(torch.equal(a, b) for a, b in zip(adam.parameters(), amsgrad.parameters(), strict=True))
    assert not histories_equal(
        run_small(replace(SMALL, optimizer="adam")), run_small(replace(SMALL, optimizer="amsgrad"))
    )


def test_record_round_trip_keeps_every_digit(run_small, tmp_path):
    run = run_small()
    run.save(tmp_path / "copy")
    loaded = Run.load(tmp_path / "copy")
    pd.testing.assert_frame_equal(loaded.history, run.history, check_exact=True)
    assert loaded.predictions.equals(run.predictions)
    assert (loaded.experiment, loaded.data, loaded.environment) == (run.experiment, run.data, run.environment)


def test_predictions_agree_with_the_last_test_accuracy(run_small):
    run = run_small()
    assert (run.predictions["label"] == run.predictions["prediction"]).mean() == run.history[
        "test_accuracy"
    ].iloc[-1]


def test_record_is_readable_text_with_final_figures(run_small, tmp_path):
    run = run_small()
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "predictions.csv", "run.json"]
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["final"]["test_accuracy"] == run.history["test_accuracy"].iloc[-1]
    assert {"torch", "processor", "device", "threads", "precision"} <= set(record["environment"])


def test_finished_run_is_found_not_trained_again(run_small):
    first = run_small()
    told = []
    again = run_small(progress=lambda rows, epochs: told.append(len(rows)))
    assert told == [2]  # once, with the whole history
    pd.testing.assert_frame_equal(first.history, again.history, check_exact=True)  # seconds too


def test_line_of_a_run_that_was_found_says_that_it_was_read(run_small):
    class Lines(Live):
        def show(self, text, *, last=False):
            super().show(text)
            told.append(text)

    told = []
    run_small(progress=Lines().epochs)
    run_small(progress=Lines().epochs)
    trained, read = told[-2:]
    assert "; готово за " in trained
    assert "; прочитано из записи, обучено за " in read


def test_finished_run_is_never_overwritten(run_small, tmp_path):
    run = run_small()
    run.save(tmp_path / "taken")
    with pytest.raises(LabError, match="taken уже есть"):
        run.save(tmp_path / "taken")


def test_interrupted_run_leaves_no_record_and_goes_on(run_small, tmp_path):
    def interrupt(rows, epochs):
        raise KeyboardInterrupt

    whole = run_small(runs_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_small(progress=interrupt)
    assert not list((tmp_path / "runs").glob("*"))
    told = []
    resumed = run_small(progress=lambda rows, epochs: told.append(len(rows)))
    assert told == [2]
    assert histories_equal(resumed, whole)
    assert not list((tmp_path / "cache").glob("*checkpoint*"))


def test_run_name_follows_every_setting_and_the_data(tiny_root):
    data = open_dataset(tiny_root)
    names = {
        run_name(SMALL, data),
        run_name(replace(SMALL, lr=1e-3), data),
        run_name(replace(SMALL, dropout=0.5), data),
    }
    names.add(run_name(SMALL, open_dataset(tiny_root, crop_to_box=True)))
    data.train.paths[0].write_bytes(data.train.paths[0].read_bytes() + b"\0")
    names.add(run_name(SMALL, open_dataset(tiny_root)))
    assert len(names) == 5


REFERENCES = {
    "adam": lambda weights, lr, decay: torch.optim.Adam(weights, lr, weight_decay=decay, fused=False),
    "amsgrad": lambda weights, lr, decay: torch.optim.Adam(
        weights, lr, weight_decay=decay, amsgrad=True, fused=False
    ),
    "adamw": lambda weights, lr, decay: torch.optim.AdamW(weights, lr, weight_decay=decay, fused=False),
    "adamw-amsgrad": lambda weights, lr, decay: torch.optim.AdamW(
        weights, lr, weight_decay=decay, amsgrad=True, fused=False
    ),
    "sgd": lambda weights, lr, decay: torch.optim.SGD(
        weights, lr, momentum=0.9, weight_decay=decay, fused=False
    ),
    "nadam": lambda weights, lr, decay: torch.optim.NAdam(weights, lr, weight_decay=decay, foreach=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_pytorchs_plain_ones(name):
    """Three steps of the experiment's optimizer, with a large decay, against PyTorch's unfused one."""
    experiment = replace(SMALL, optimizer=name, weight_decay=0.5)
    ours, plain = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    plain.load_state_dict(ours.state_dict())
    optimizer, _ = make_optimizer(experiment, ours, 10)
    reference = REFERENCES[name](plain.parameters(), optimizer.param_groups[0]["lr"], 0.5)
    for _ in range(3):
        x = torch.randn(4, 5)
        for model, stepper in ((ours, optimizer), (plain, reference)):
            stepper.zero_grad()
            model(x).square().mean().backward()
            stepper.step()
    torch.testing.assert_close(ours.weight, plain.weight)


def test_decay_is_the_usual_one_of_the_optimizer_unless_given():
    usual = {name: Experiment(optimizer=name).weight_decay for name in OPTIMIZERS}
    assert usual == {
        "adam": 0.0,
        "amsgrad": 0.0,
        "adamw": 0.05,
        "adamw-amsgrad": 0.05,
        "sgd": 2e-4,
        "nadam": 0.0,
    }
    assert Experiment(optimizer="adam", weight_decay=0.1).weight_decay == 0.1


def test_unknown_optimizer_is_told_before_anything_is_read(run_small, tmp_path):
    with pytest.raises(LabError, match="«lion»"):
        run_small(replace(SMALL, optimizer="lion"))
    assert not (tmp_path / "cache").exists()


def test_broken_record_is_named(run_small, tmp_path):
    run_small()
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "history.csv").write_text("epoch\n1\n", encoding="utf-8")
    with pytest.raises(LabError, match=folder.name):
        load_runs(tmp_path / "runs")


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"lr": -1.0}, {"image_size": 8}, {"batch_size": 0}, {"lr": float("nan")}]
)
def test_impossible_settings_are_told(wrong):
    (value,) = wrong.values()
    with pytest.raises(LabError, match=str(value)):
        Experiment(**wrong)
