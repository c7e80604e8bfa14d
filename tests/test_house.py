"""The house: a front door for what a user types, arrows that go one way, each change made in one place."""

import ast
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from conftest import PROJECT
from test_train import quiet
from torch import nn

import labnn
from labnn import NETWORKS, OPTIMIZERS, Experiment, LabError, Run, open_dataset, run_or_load
from labnn.experiment import load_runs, order
from labnn.kit.identity import definition
from labnn.settings import Method, make_model, make_optimizer, method, setting

SMALL = Experiment("adam", epochs=1, image_size=32, batch_size=8, mix=0.0, mirror_test=False)

# From the ground up: a file imports only from places that stand before its own.
FLOORS = [
    "kit",
    "model",
    "layouts",
    "download",
    "data",
    "batches",
    "train",
    "settings",
    "experiment",
    "runner",
]
FLOORS += ["theory", "report", "predict", "protocol", "__main__"]


@pytest.fixture
def run(tiny_root, tmp_path):
    """A short run of an experiment, recorded in ``runs``."""

    def go(experiment=SMALL):
        places = {"cache_dir": tmp_path / "cache", "device": "cpu", "progress": quiet}
        return run_or_load(experiment, open_dataset(tiny_root), tmp_path / "runs", **places)

    return go


def test_imports_go_one_way():
    wrong = []
    for path in sorted((PROJECT / "labnn").rglob("*.py")):
        own = path.relative_to(PROJECT / "labnn").with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if own == "__init__" or not isinstance(node, ast.ImportFrom):
                continue
            module = node.module or ""
            names = [one.name for one in node.names] if module == "labnn" else module.split(".")[1:2]
            used = names if module.split(".")[0] == "labnn" else []
            if any(one != own and FLOORS.index(one) > FLOORS.index(own) for one in used):
                wrong.append(f"{path.name} imports {module}")
    assert not wrong


def test_front_door_gives_what_a_user_types():
    names = "FireModule SqueezeNet CarModelsDataset open_dataset chance_levels train_test evaluate Experiment"
    names += " OPTIMIZERS NETWORKS Run run_or_load LabError"
    assert labnn.__all__ == names.split()
    assert all(getattr(labnn, name).__doc__ for name in labnn.__all__)


def test_nothing_heavy_comes_through_the_front_door():
    heavy = {"matplotlib", "huggingface_hub", "kagglehub", "scipy", "IPython", "distributed", "torchvision"}
    script = f"import sys, labnn; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_run_needs_no_folder_named(tiny_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_or_load(SMALL, open_dataset(tiny_root), device="cpu", progress=quiet)
    assert (tmp_path / "data" / "runs" / run.name / "run.json").is_file()


def test_a_later_setting_that_is_off_renames_no_record(tiny_root):
    """The settings as they will be when somebody has added one more, in one line."""

    @dataclass(frozen=True)
    class Later(Experiment):
        gamma: float = setting(0.0, "гамма {}", 0, 1)

    data, today = open_dataset(tiny_root), vars(SMALL)
    assert order(Later(**today), data).name == order(SMALL, data).name
    assert order(Later(**today, gamma=0.5), data).name != order(SMALL, data).name
    assert Later(**today, gamma=0.5).changes(Later(**today)) == "гамма 0,5"


def test_a_record_without_a_later_setting_reads_as_off_and_keeps_unknown_columns(run, tmp_path):
    made = run()
    folder = tmp_path / "runs" / made.name
    text = (folder / "run.json").read_text(encoding="utf-8").replace(',\n    "network": "squeezenet"', "")
    assert "network" not in text
    (folder / "run.json").write_text(text, encoding="utf-8")
    for table in ("history", "predictions"):
        frame = pd.read_csv(folder / f"{table}.csv", dtype=str)
        frame.assign(mood="good", grade="0.5").to_csv(folder / f"{table}.csv", index=False)
    loaded = Run.load(folder)
    assert loaded.experiment.network == "squeezenet" and loaded.name == made.name
    assert loaded.history["mood"].tolist() == ["good"] and loaded.history["grade"].tolist() == [0.5]
    assert {"mood", "grade"} <= set(loaded.predictions)


def test_another_optimizer_is_one_entry_and_its_record_needs_no_function(run, tmp_path, monkeypatch):
    rms = Method(torch.optim.RMSprop, "RMSProp", "#123456", weight_decay=0.01)
    monkeypatch.setitem(OPTIMIZERS, "rms", rms)
    experiment = replace(SMALL, optimizer="rms", weight_decay=None)
    assert experiment.weight_decay == 0.01 and experiment.changes(SMALL).startswith("RMSProp")
    made = run(experiment)
    assert made.history["train_loss"].notna().all() and method("rms").color == "#123456"
    monkeypatch.delitem(OPTIMIZERS, "rms")
    assert load_runs(tmp_path / "runs")[0].history.equals(made.history)


OWN = {
    "RMSprop": {"alpha": 0.99},
    "SGD": {"momentum": 0},
    "Adagrad": {"lr_decay": 0},
    "Adadelta": {"rho": 0.9},
}


@pytest.mark.parametrize("name", [*OWN, "RAdam", "Adamax"])
def test_classes_of_torch_are_optimizers_as_they_are(name, monkeypatch):
    """Called by name, so that the decay of weights is nothing else."""
    monkeypatch.setitem(OPTIMIZERS, "mine", getattr(torch.optim, name))
    experiment = replace(SMALL, optimizer="mine", lr=1e-3, weight_decay=0.05, schedule="constant")
    optimizer, _ = make_optimizer(experiment, nn.Linear(3, 2), 10)
    expected = {"lr": 1e-3, "weight_decay": 0.05} | OWN.get(name, {})
    assert {key: optimizer.defaults[key] for key in expected} == expected


def two_rates(parameters, lr, weight_decay):
    body, head = parameters
    return torch.optim.Adam([{"params": body, "lr": lr / 10}, {"params": head, "lr": lr}], lr)


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_groups_of_an_own_optimizer_keep_the_ratio_of_their_rates(schedule, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "two", two_rates)
    experiment = replace(SMALL, optimizer="two", schedule=schedule)
    optimizer, scheduler = make_optimizer(experiment, nn.Linear(3, 2), 10)
    for _ in range(10 * (scheduler is not None)):
        body, head = (group["lr"] for group in optimizer.param_groups)
        assert head == pytest.approx(10 * body)
        optimizer.step()
        scheduler.step()
    if scheduler is None:
        assert [group["lr"] for group in optimizer.param_groups] == [experiment.lr / 10, experiment.lr]


def test_another_network_is_one_entry(run, monkeypatch):
    """Made by the settings that it takes by name; torchvision's own are networks as they are."""

    def tiny(num_classes: int, dropout: float) -> nn.Module:
        pooled = nn.AdaptiveAvgPool2d(4), nn.Flatten()
        return nn.Sequential(*pooled, nn.Dropout(dropout), nn.Linear(48, num_classes))

    monkeypatch.setitem(NETWORKS, "tiny", tiny)
    monkeypatch.setitem(NETWORKS, "resnet18", torchvision.models.resnet18)
    experiment = replace(SMALL, network="tiny", dropout=0.25)
    assert make_model(experiment, 10)[2].p == 0.25
    assert make_model(replace(SMALL, network="resnet18"), 7).fc.out_features == 7
    assert len(run(experiment).predictions) == 8


@pytest.mark.parametrize(
    "name, words", [("network", "network='no'.*squeezenet"), ("optimizer", "optimizer='no'.*adam")]
)
def test_unknown_name_is_told_with_what_there_is_before_anything_is_read(name, words, run, tmp_path):
    with pytest.raises(LabError, match=words):
        run(replace(SMALL, **{name: "no"}))
    assert not (tmp_path / "cache").exists()


def test_another_function_under_an_old_name_is_another_run(tiny_root, monkeypatch):
    data, names = open_dataset(tiny_root), []
    for optimizer in (
        lambda weights, lr, weight_decay: torch.optim.SGD(weights, lr),
        lambda weights, lr, weight_decay: torch.optim.Adam(weights, lr),
    ):
        monkeypatch.setitem(OPTIMIZERS, "mine", optimizer)
        names.append(order(replace(SMALL, optimizer="mine", weight_decay=0.0), data).name)
    assert len(set(names)) == 2


def momentum(beta):
    return lambda weights, lr, weight_decay: torch.optim.SGD(weights, lr, momentum=beta)


def test_a_definition_is_the_source_and_what_it_closes_over():
    assert definition(momentum(0.9)) == definition(momentum(0.9)) != definition(momentum(0.5))
    assert definition(momentum) != definition(definition)


def test_equal_settings_of_other_types_are_one_experiment():
    given = Experiment(mix=0, dropout=np.float64(0), lr=1, epochs=np.int64(5))
    assert given == Experiment(mix=0.0, dropout=0.0, lr=1.0, epochs=5)
