"""The house: a front door for what a user types, arrows that go one way, each change made in one place."""

import ast
import subprocess
import sys
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
from conftest import PROJECT, handful
from torch import nn
from torch.utils.data import DataLoader

import labnn
from labnn import (
    NETWORKS,
    OPTIMIZERS,
    Experiment,
    LabError,
    Run,
    SqueezeNet,
    open_dataset,
    run_or_load,
    train_test,
)
from labnn.experiment import run_name
from labnn.kit.identity import definition
from labnn.settings import Method, make_model, method, setting

SMALL = Experiment("adam", epochs=1, image_size=32, batch_size=8)
quiet = lambda rows, epochs: None  # noqa: E731

# From the ground up: a file imports only from places that stand before its own.
FLOORS = [
    "kit",
    "cars",
    "model",
    "data",
    "batches",
    "train",
    "settings",
    "experiment",
    "runner",
    "report",
    "__main__",
]


def place(module: str) -> str:
    return module.split(".")[1]


def test_imports_go_one_way():
    wrong = []
    for path in sorted((PROJECT / "labnn").rglob("*.py")):
        own = path.relative_to(PROJECT / "labnn").with_suffix("").parts[0]
        if own == "__init__":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("labnn."):
                used = place(node.module)
                if used != own and FLOORS.index(used) > FLOORS.index(own):
                    wrong.append(f"{path.name} imports {node.module}")
    assert not wrong


def test_front_door_gives_what_a_user_types():
    names = [
        "FireModule",
        "SqueezeNet",
        "CarModelsDataset",
        "open_dataset",
        "chance_levels",
        "train_test",
        "evaluate",
        "Experiment",
        "OPTIMIZERS",
        "NETWORKS",
        "Run",
        "run_or_load",
        "LabError",
    ]
    assert labnn.__all__ == names
    assert all(getattr(labnn, name).__doc__ for name in names)


def test_nothing_heavy_comes_through_the_front_door():
    heavy = {"matplotlib", "huggingface_hub", "kagglehub", "scipy", "IPython", "distributed", "torchvision"}
    script = f"import sys, labnn; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_run_needs_no_folder_named(tiny_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_or_load(SMALL, open_dataset(tiny_root), device="cpu", progress=quiet)
    assert (tmp_path / "data" / "runs" / run.name / "run.json").is_file()


def later_experiment():
    """The settings as they will be when somebody has added one more."""

    @dataclass(frozen=True)
    class Experiment(labnn.Experiment):
        gamma: float = setting(0.0, (0, 1), "выдуманная настройка", "гамма {}", later=True)

    return Experiment


def test_a_later_setting_that_is_off_renames_no_record(tiny_root):
    data, later = open_dataset(tiny_root), later_experiment()
    today = {name: value for name, value in vars(SMALL).items()}
    assert run_name(later(**today), data) == run_name(SMALL, data)
    assert run_name(later(**today, gamma=0.5), data) != run_name(SMALL, data)


def test_network_is_such_a_setting(tiny_root):
    data = open_dataset(tiny_root)
    assert run_name(replace(SMALL, network="squeezenet"), data) == run_name(SMALL, data)
    assert run_name(replace(SMALL, network="other"), data) != run_name(SMALL, data)


def test_a_record_without_a_later_setting_reads_as_off_and_keeps_unknown_columns(tiny_root, tmp_path):
    run = run_or_load(
        SMALL, open_dataset(tiny_root), tmp_path / "runs", cache_dir=tmp_path, device="cpu", progress=quiet
    )
    folder = tmp_path / "runs" / run.name
    text = (folder / "run.json").read_text(encoding="utf-8").replace(',\n    "network": "squeezenet"', "")
    assert "network" not in text
    (folder / "run.json").write_text(text, encoding="utf-8")
    for table in ("history", "predictions"):
        frame = pd.read_csv(folder / f"{table}.csv", dtype=str)
        frame.assign(mood="good", grade="0.5").to_csv(folder / f"{table}.csv", index=False)
    loaded = Run.load(folder)
    assert loaded.experiment.network == "squeezenet" and loaded.name == run.name
    assert loaded.history["mood"].tolist() == ["good"] and loaded.history["grade"].tolist() == [0.5]
    assert {"mood", "grade"} <= set(loaded.predictions)


def test_another_optimizer_is_one_entry(tiny_root, tmp_path, monkeypatch):
    rms = Method(
        lambda weights, lr, decay: torch.optim.RMSprop(weights, lr), "RMSProp", "#123456", weight_decay=0.01
    )
    monkeypatch.setitem(OPTIMIZERS, "rms", rms)
    experiment = replace(SMALL, optimizer="rms", weight_decay=None)
    assert experiment.weight_decay == 0.01 and experiment.changes(SMALL).startswith("RMSProp")
    run = run_or_load(
        experiment,
        open_dataset(tiny_root),
        tmp_path / "runs",
        cache_dir=tmp_path,
        device="cpu",
        progress=quiet,
    )
    assert run.history["train_loss"].notna().all() and method("rms").color == "#123456"


def test_another_network_is_one_entry(tiny_root, tmp_path, monkeypatch):
    def tiny(num_classes: int, dropout: float) -> nn.Module:
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(dropout), nn.Linear(48, num_classes)
        )

    monkeypatch.setitem(NETWORKS, "tiny", tiny)
    experiment = replace(SMALL, network="tiny", dropout=0.25)
    assert make_model(experiment, 10)[2].p == 0.25
    run = run_or_load(
        experiment,
        open_dataset(tiny_root),
        tmp_path / "runs",
        cache_dir=tmp_path,
        device="cpu",
        progress=quiet,
    )
    assert len(run.predictions) == 8


def test_unknown_network_is_named_with_what_there_is(tiny_root, tmp_path):
    with pytest.raises(LabError, match="«resnet».*squeezenet"):
        run_or_load(
            replace(SMALL, network="resnet"),
            open_dataset(tiny_root),
            tmp_path,
            cache_dir=tmp_path,
            device="cpu",
        )


def test_another_function_under_an_old_name_is_another_run(tiny_root, monkeypatch):
    data, experiment = open_dataset(tiny_root), replace(SMALL, optimizer="mine", weight_decay=0.0)
    monkeypatch.setitem(OPTIMIZERS, "mine", lambda weights, lr, decay: torch.optim.SGD(weights, lr))
    first = run_name(experiment, data)
    monkeypatch.setitem(OPTIMIZERS, "mine", lambda weights, lr, decay: torch.optim.Adam(weights, lr))
    assert run_name(experiment, data) != first


def momentum(beta):
    return lambda weights, lr, decay: torch.optim.SGD(weights, lr, momentum=beta)


def test_a_definition_is_the_source_and_what_it_closes_over():
    assert definition(momentum(0.9)) == definition(momentum(0.9)) != definition(momentum(0.5))
    assert definition(momentum) != definition(definition)


def test_every_setting_has_its_limits_help_and_words_beside_it():
    for field in Experiment.__dataclass_fields__.values():
        assert field.metadata["help"], field.name
        assert field.metadata["words"] or field.name in ("seed", "test_every"), field.name
        assert (
            isinstance(field.default, bool)
            or field.metadata["allowed"]
            or field.name in ("optimizer", "network")
        )


@pytest.mark.parametrize(
    "given, same", [({"mix": 0, "dropout": 0, "lr": 1}, {"mix": 0.0, "dropout": 0.0, "lr": 1.0})]
)
def test_equal_settings_of_other_types_are_one_experiment(given, same, tiny_root):
    data = open_dataset(tiny_root)
    assert run_name(Experiment(**given), data) == run_name(Experiment(**same), data)


def test_a_watcher_of_ones_own_adds_its_columns():
    """It sees each epoch's row, network and test; an epoch without a test has none."""
    model = SqueezeNet(10)
    loader = DataLoader(handful(), batch_size=4)

    def weigh(epoch):
        norm = sum(weight.norm().item() for weight in epoch.model.parameters())
        return {"weight_norm": norm, "tested": epoch.test is not None, "before": len(epoch.rows)}

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    history = train_test(model, optimizer, loader, loader, 3, test_every=3, watchers=(weigh,), progress=quiet)
    assert list(history.columns[-3:]) == ["weight_norm", "tested", "before"]
    assert history["tested"].tolist() == [True, False, True] and history["before"].tolist() == [0, 1, 2]
