"""An experiment decides its run, a run is recorded whole and found again."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from test_train import interrupt_after, quiet

from labnn import OPTIMIZERS, Experiment, LabError, Run, open_dataset, run_or_load
from labnn.experiment import load_runs, order
from labnn.settings import make_model, make_optimizer

SMALL = Experiment(epochs=2, image_size=32, batch_size=8)


@pytest.fixture
def run_small(tiny_root, tmp_path):
    """Runs small experiments on the tiny data set."""

    def run(experiment=SMALL, runs_dir=tmp_path / "runs", progress=quiet):
        data = open_dataset(tiny_root, crop_to_box=True)
        return run_or_load(experiment, data, runs_dir, cache_dir=tmp_path / "cache", progress=progress)

    return run


def histories_equal(first: Run, second: Run) -> bool:
    return first.history.drop(columns="seconds").equals(second.history.drop(columns="seconds"))


def test_same_experiment_gives_the_same_history_and_another_seed_another(run_small, tmp_path):
    first, again = run_small(), run_small(runs_dir=tmp_path / "elsewhere")
    assert histories_equal(first, again) and first.predictions.equals(again.predictions)
    assert not histories_equal(first, run_small(replace(SMALL, seed=1)))


def test_optimizers_start_from_the_same_network():
    adam, amsgrad = (make_model(replace(SMALL, optimizer=name), 10) for name in ("adam", "amsgrad"))
    assert all(torch.equal(a, b) for a, b in zip(adam.parameters(), amsgrad.parameters(), strict=True))


def test_finished_run_is_read_to_the_last_digit_and_neither_trained_again_nor_overwritten(
    run_small, tmp_path
):
    first, told = run_small(), []
    again = run_small(progress=lambda rows, epochs: told.append(len(rows)))
    assert told == [2]  # once, with the whole history
    pd.testing.assert_frame_equal(first.history, again.history, check_exact=True)  # seconds too
    assert again.predictions.equals(first.predictions)
    assert (again.experiment, again.data, again.environment) == (SMALL, first.data, first.environment)
    with pytest.raises(LabError, match="уже есть, готовый прогон не перезаписывается"):
        again.save(tmp_path / "runs" / first.name)


def test_record_is_readable_text_with_final_figures_beside_the_weights(run_small, tmp_path):
    run = run_small()
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["history.csv", "predictions.csv", "run.json"]
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["final"]["test_accuracy"] == run.history["test_accuracy"].iloc[-1]
    assert {"torch", "processor", "device", "threads", "precision"} == set(record["environment"]) - {"python"}
    right = (run.predictions["label"] == run.predictions["prediction"]).mean()
    assert right == run.history["test_accuracy"].iloc[-1]
    weights = torch.load(tmp_path / "cache" / f"{run.name}.pt", weights_only=True)
    make_model(SMALL, run.data["classes"]).load_state_dict(weights)


def test_of_a_cache_on_google_drive_only_the_weights_lie_there(run_small, tmp_path, monkeypatch):
    local = tmp_path / "local"
    monkeypatch.setattr("tempfile.tempdir", str(local))
    drive = SimpleNamespace(device="drive", fstype="fuse", mountpoint=str(tmp_path / "cache"))
    monkeypatch.setattr("psutil.disk_partitions", lambda all: [drive])
    with pytest.raises(KeyboardInterrupt):
        run_small(progress=interrupt_after(1))
    assert list(local.glob("labnn/*.checkpoint")) and list(local.glob("labnn/*.npy"))
    run = run_small()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{run.name}.pt"]


def test_interrupted_run_leaves_no_record_and_goes_on(run_small, tmp_path):
    whole, told = run_small(runs_dir=tmp_path / "whole"), []
    with pytest.raises(KeyboardInterrupt):
        run_small(progress=interrupt_after(1))
    assert not list((tmp_path / "runs").glob("*"))
    resumed = run_small(progress=lambda rows, epochs: told.append(len(rows)))
    assert told == [2] and histories_equal(resumed, whole)
    assert not list((tmp_path / "cache").glob("*checkpoint*"))


def test_records_of_the_home_folder_are_there_and_not_in_one_called_by_a_tilde(
    tiny_root, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run = run_or_load(SMALL, open_dataset(tiny_root), "~/runs", cache_dir="~/cache", progress=quiet)
    assert [one.name for one in load_runs("~/runs")] == [run.name]
    assert (tmp_path / "home" / "runs" / run.name).exists() and not (tmp_path / "~").exists()


def test_run_name_follows_every_setting_and_the_photos(tiny_root):
    data = open_dataset(tiny_root)
    names = {order(replace(SMALL, **one), data).name for one in ({}, {"lr": 1e-3}, {"dropout": 0.5})}
    names.add(order(SMALL, open_dataset(tiny_root, crop_to_box=True)).name)
    data.train.paths[0].write_bytes(data.train.paths[0].read_bytes() + b"\0")
    names.add(order(SMALL, open_dataset(tiny_root)).name)
    assert len(names) == 5


ADAM, ADAMW = torch.optim.Adam, torch.optim.AdamW
REFERENCES = {
    "adam": lambda weights, **options: ADAM(weights, fused=False, **options),
    "amsgrad": lambda weights, **options: ADAM(weights, amsgrad=True, fused=False, **options),
    "adamw": lambda weights, **options: ADAMW(weights, fused=False, **options),
    "adamw-amsgrad": lambda weights, **options: ADAMW(weights, amsgrad=True, fused=False, **options),
    "sgd": lambda weights, **options: torch.optim.SGD(weights, momentum=0.9, fused=False, **options),
    "nadam": lambda weights, **options: torch.optim.NAdam(weights, foreach=False, **options),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_pytorchs_plain_ones(name):
    """Three steps of the experiment's optimizer, with a large decay, against PyTorch's unfused one."""
    experiment = replace(SMALL, optimizer=name, weight_decay=0.5)
    ours, plain = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    plain.load_state_dict(ours.state_dict())
    optimizer, _ = make_optimizer(experiment, ours, 10)
    rate = optimizer.param_groups[0]["lr"]
    reference = REFERENCES[name](plain.parameters(), lr=rate, weight_decay=0.5)
    for _ in range(3):
        x = torch.randn(4, 5)
        for model, stepper in ((ours, optimizer), (plain, reference)):
            stepper.zero_grad()
            model(x).square().mean().backward()
            stepper.step()
    torch.testing.assert_close(ours.weight, plain.weight)


def test_decay_is_the_usual_one_of_the_optimizer_unless_given():
    usual = {name: Experiment(optimizer=name).weight_decay for name in OPTIMIZERS}
    decoupled = {"adamw": 0.05, "adamw-amsgrad": 0.05}
    assert usual == {"adam": 0.0, "amsgrad": 0.0, "sgd": 2e-4, "nadam": 0.0} | decoupled
    assert Experiment(optimizer="adam", weight_decay=0.1).weight_decay == 0.1


@pytest.mark.parametrize("steps, warmup", [(10, 0.1), (2, 0.5), (1, 0.3)])
def test_warm_up_of_one_step_is_a_schedule(steps, warmup):
    model = torch.nn.Linear(5, 3)
    optimizer, schedule = make_optimizer(replace(SMALL, optimizer="sgd", warmup=warmup), model, steps)
    for _ in range(steps):
        assert 0 < optimizer.param_groups[0]["lr"] <= SMALL.lr
        optimizer.step()
        schedule.step()


def damaged_history(folder):
    (folder / "history.csv").write_text("epoch\n1\n", encoding="utf-8")


def cut_history(folder):
    lines = (folder / "history.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "history.csv").write_text("".join(lines[:-1]), encoding="utf-8")


def saved_by_a_spreadsheet(folder):
    """Which takes 5.25 for a date."""
    lines = (folder / "history.csv").read_text(encoding="utf-8").splitlines()
    lines[1] = ",".join("май.25" if place == 3 else cell for place, cell in enumerate(lines[1].split(",")))
    (folder / "history.csv").write_text("\n".join(lines), encoding="utf-8")


def cut_answers(folder):
    lines = (folder / "predictions.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "predictions.csv").write_text("".join(lines[:-1]), encoding="utf-8")


def newer_version(folder):
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record["experiment"]["nesterov"] = True
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize(
    "damage", [damaged_history, cut_history, saved_by_a_spreadsheet, cut_answers, newer_version]
)
def test_record_that_is_broken_or_newer_is_named_and_kept(damage, run_small, tmp_path):
    run_small()
    (folder,) = (tmp_path / "runs").iterdir()
    damage(folder)
    words = "более новая версия: настроек nesterov" if damage is newer_version else ""
    with pytest.raises(LabError, match=f"{folder.name} не читается .*{words}") as told:
        load_runs(tmp_path / "runs")
    assert "удалите" not in str(told.value)
