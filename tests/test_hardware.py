"""Arithmetic, device and threads: the fast ones are chosen, others can be asked for, what fails is named."""

import functools
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROJECT
from test_train import LABELS, PICTURES, interrupt_after, network, quiet
from torch import nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from labnn import NETWORKS, Experiment, LabError, open_dataset, run_or_load, train_test
from labnn.kit.hardware import default_device, describe_device, precision, usable_device

KINDS = ["float32", "bfloat16", "float16"]
FUSED = functools.partial(Adam, lr=1e-2, fused=True)
FUSED_SGD = functools.partial(SGD, lr=1e-6, momentum=0.9, fused=True)
PLAIN = functools.partial(SGD, lr=1e-6)


def learned(kind, epochs, folder=None, progress=quiet, optimizer=FUSED, **options):
    """A network, and the history of its training in arithmetic of that kind, two steps an epoch."""
    torch.manual_seed(0)
    kernels = nn.Conv2d(3, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2)
    model = nn.Sequential(*kernels, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10))
    loader = DataLoader(TensorDataset(PICTURES, LABELS), batch_size=6)
    made = optimizer(model.parameters())
    rate = made.param_groups[0]["lr"]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(made, rate, 2 * epochs, cycle_momentum=False)
    options |= {"checkpoint": folder and folder / "checkpoint", "progress": progress, "precision": kind}
    history = train_test(model, made, loader, loader, epochs, scheduler=scheduler, **options)
    return model, history.drop(columns="seconds")


@pytest.mark.parametrize("kind", KINDS)
def test_every_precision_learns_in_its_own_arithmetic(kind):
    met = set()
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, answer: met.add(answer.dtype) if isinstance(module, nn.Conv2d) else None
    )
    try:
        model, history = learned(kind, 15, test_every=15)
    finally:
        hook.remove()
    assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]
    assert met == {getattr(torch, kind)} and {one.dtype for one in model.parameters()} == {torch.float32}


def steep(logits, labels):
    """Its gradients, scaled by 65,536 as at the start, are beyond float16's 65,504."""
    return 1e4 * torch.nn.functional.cross_entropy(logits, labels)


@pytest.mark.parametrize("kind, criterion", [(KINDS[0], None), (KINDS[1], None), (KINDS[2], steep)])
def test_interrupted_training_goes_on_to_the_same_history_in_every_precision(kind, criterion, tmp_path):
    (tmp_path / "whole").mkdir()
    options = {"criterion": criterion or torch.nn.functional.cross_entropy, "ema_decay": 0.9}
    model, whole = learned(kind, 4, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        learned(kind, 4, tmp_path, interrupt_after(2), **options)
    same, resumed = learned(kind, 4, tmp_path, **options)
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), same.parameters(), strict=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("optimizer", [FUSED, FUSED_SGD, PLAIN], ids=["adam", "fused sgd", "plain sgd"])
def test_overflow_of_float16_is_skipped_and_ends_nothing(optimizer, tmp_path):
    """Fused SGD left its momentum unset where the very first step was skipped."""
    _, history = learned("float16", 12, tmp_path, criterion=steep, optimizer=optimizer, test_every=12)
    assert np.isfinite(history["train_loss"]).all()
    state = torch.load(tmp_path / "checkpoint", weights_only=True)
    assert state["scaler"]["scale"] < 65536  # halved at each overflow
    if optimizer is FUSED:
        assert all(moments["step"] < 24 for moments in state["optimizer"]["state"].values())


CAPABILITIES = {(6, 1): "float32", (7, 5): "float16", (8, 0): "bfloat16", (9, 0): "bfloat16"}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_precision_is_that_of_the_device_named(capability, monkeypatch):
    """Not of the current one: another card of the same machine may be newer."""
    capabilities = {3: capability}
    asked = lambda device=None: capabilities.get(torch.device(device or "cuda:0").index, (8, 0))  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_capability", asked)
    precision.cache_clear()
    try:
        assert precision(torch.device("cuda:3")) == CAPABILITIES[capability]
        assert precision(torch.device("cuda:0")) == "bfloat16"
    finally:
        precision.cache_clear()


@pytest.mark.parametrize("name", ["meta", "cuda:7", "xpu", "tpu"])
def test_device_that_computes_nothing_here_is_told(name):
    """ "meta" can be named, and tensors made there; only a computation shows that there are no numbers."""
    with pytest.raises(LabError, match=f"«{name}» недоступно .*укажите --device cpu"):
        usable_device(name)


OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update"


@pytest.mark.parametrize("warning", [OLD, ""])
def test_driver_that_is_too_old_is_named_and_no_card_is_none(warning, monkeypatch, capsys):
    def absent():
        if warning:
            warnings.warn(
                f"{warning} your GPU driver (Triggered internally at CUDAFunctions.cpp:119.)", stacklevel=1
            )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", absent)
    default_device.cache_clear()
    try:
        assert usable_device().type == usable_device().type == "cpu"
    finally:
        default_device.cache_clear()
    told = capsys.readouterr().out.splitlines()
    assert len(told) == bool(warning)
    assert not warning or told[0].startswith(f"Видеокарта есть, но не работает ({warning}")


def test_device_is_described_by_what_limits_it():
    told = describe_device(torch.device("cpu"))
    assert "потоков: 1, точность чисел" in told and "часы" in told and "видеокарт" not in told
    assert describe_device(torch.device("xpu")).startswith("Устройство: xpu, точность чисел float32.")


@pytest.mark.parametrize("given, seen", [(None, "3000"), ("7", "7")])
def test_openmp_is_told_how_to_wait_before_pytorch_loads(given, seen):
    """Later it no longer reads it; a user's own choice stays."""
    code = """
import os, sys
class Finder:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Finder())
import labnn
"""
    own = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    own |= {"GOMP_SPINCOUNT": given} if given else {}
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=own, capture_output=True, text=True)
    assert done.stdout.split() == [seen], done.stderr


def test_threads_can_be_set_and_a_resumed_run_keeps_those_it_began_with(
    tiny_root, tmp_path, monkeypatch, capsys
):
    """And says, in its record too, if it is asked for others."""

    def run(folder, seed=0, progress=quiet, **threads):
        data = open_dataset(tiny_root, crop_to_box=True)
        places = {"cache_dir": tmp_path / "cache", "device": "cpu", "progress": progress}
        return run_or_load(replace(experiment, seed=seed), data, tmp_path / folder, **places, **threads)

    monkeypatch.setitem(NETWORKS, "small", lambda num_classes: network(num_classes))
    experiment = Experiment(epochs=3, image_size=32, batch_size=16, network="small", mirror_test=False)
    whole = run("whole", threads=2)
    assert whole.environment["threads"] == 2 and torch.get_num_threads() == 1
    for seed in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            run("parts", seed, interrupt_after(2), threads=2)
    resumed = run("parts")
    assert resumed.environment == whole.environment
    assert "других условиях" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(
        resumed.history.drop(columns="seconds"), whole.history.drop(columns="seconds"), check_exact=True
    )
    others = run("parts", 1, threads=1)
    assert "других условиях (threads: 2 → 1)" in capsys.readouterr().out
    assert others.environment["threads"] == 1
    assert [place["threads"] for place in others.environment["earlier"]] == [2]
