"""Half precision learns and resumes, the device's own choice is right, threads are chosen by measurement."""

import functools
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROJECT, handful
from torch.utils.data import DataLoader, TensorDataset

from labnn.data import open_dataset
from labnn.experiment import NETWORKS, Experiment, run_or_load
from labnn.kit.average import Average
from labnn.kit.errors import LabError
from labnn.kit.hardware import fastest_threads, limited_threads, precision, usable_device
from labnn.kit.messages import is_out_of_memory
from labnn.model import SqueezeNet
from labnn.train import train_test

quiet = lambda rows, epochs: None  # noqa: E731


KINDS = ["float32", "bfloat16", "float16"]
FUSED = functools.partial(torch.optim.Adam, lr=1e-3, fused=True)
PLAIN = functools.partial(torch.optim.SGD, lr=1e-6)


def small() -> TensorDataset:
    """Float16 is slow on a CPU."""
    images, labels = handful().tensors
    return TensorDataset(images[:, :, ::2, ::2], labels)


def learned(kind, epochs, folder=None, progress=quiet, optimizer=FUSED, **options):
    """A network, and the history of its training in arithmetic of that kind, two steps an epoch."""
    torch.manual_seed(0)
    model, loader = SqueezeNet(10, dropout=0.2), DataLoader(small(), batch_size=6)
    made = optimizer(model.parameters())
    rate = made.param_groups[0]["lr"]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(made, rate, 2 * epochs, cycle_momentum=False)
    options |= {"checkpoint": folder and folder / "checkpoint", "progress": progress, "precision": kind}
    history = train_test(model, made, loader, loader, epochs, scheduler=scheduler, **options)
    return model, history.drop(columns="seconds")


def interrupt(rows, epochs):
    if len(rows) == 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", KINDS)
def test_every_precision_learns(kind):
    _, history = learned(kind, 20)
    assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]


@pytest.mark.parametrize("kind", KINDS)
def test_network_computes_in_the_precision_asked_for(kind):
    torch.manual_seed(0)
    model, loader, met = SqueezeNet(10), DataLoader(small(), batch_size=6), set()
    model.classifier[1].register_forward_hook(lambda module, inputs, output: met.add(output.dtype))
    optimizer = PLAIN(model.parameters())
    train_test(model, optimizer, loader, loader, 1, precision=kind, progress=quiet)
    assert met == {getattr(torch, kind)}  # in training and in the test
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def steep(logits, labels):
    """Its gradients, scaled by 65,536 as at the start, are beyond float16's 65,504."""
    return 1e4 * torch.nn.functional.cross_entropy(logits, labels)


@pytest.mark.parametrize("criterion", [torch.nn.functional.cross_entropy, steep], ids=["usual", "overflow"])
@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_training_goes_on_to_the_same_history_in_every_precision(kind, criterion, tmp_path):
    (tmp_path / "whole").mkdir()
    options = {"criterion": criterion, "ema_decay": 0.9}
    model, whole = learned(kind, 5, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        learned(kind, 5, tmp_path, interrupt, **options)
    same, resumed = learned(kind, 5, tmp_path, **options)
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), same.parameters(), strict=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("optimizer", [FUSED, PLAIN], ids=["fused", "plain"])
def test_overflow_of_float16_is_skipped_and_ends_nothing(optimizer, tmp_path):
    _, history = learned("float16", 30, tmp_path, criterion=steep, optimizer=optimizer)
    assert np.isfinite(history["train_loss"]).all()
    state = torch.load(tmp_path / "checkpoint", weights_only=True)
    assert state["scaler"]["scale"] < 65536  # halved at each overflow
    if optimizer is FUSED:
        assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]
        assert all(moments["step"] < 60 for moments in state["optimizer"]["state"].values())


def test_checkpoint_of_a_precision_without_scaler_goes_on_in_float16(tmp_path):
    """As on the next day's GPU, an older one."""
    with pytest.raises(KeyboardInterrupt):
        learned("bfloat16", 4, tmp_path, interrupt)
    _, history = learned("float16", 4, tmp_path)
    assert len(history) == 4


@pytest.mark.parametrize(
    "capability, name",
    [
        ((6, 1), "float32"),
        ((7, 0), "float16"),
        ((7, 5), "float16"),
        ((8, 0), "bfloat16"),
        ((9, 0), "bfloat16"),
    ],
)
def test_precision_is_that_of_the_device_named(capability, name, monkeypatch):
    """Not of the current one: another card of the same machine may be newer."""
    capabilities = {3: capability}
    asked = lambda device=None: capabilities.get(torch.device(device or "cuda:0").index, (8, 0))  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_capability", asked)
    precision.cache_clear()
    try:
        assert precision(torch.device("cuda:3")) == name
        assert precision(torch.device("cuda:0")) == "bfloat16"
    finally:
        precision.cache_clear()


def test_unknown_precision_is_told():
    with pytest.raises(LabError, match="precision=half"):
        learned("half", 1)


@pytest.mark.parametrize("name", ["meta", "cuda:7", "mps", "xpu", "tpu", "hpu"])
def test_device_that_computes_nothing_here_is_told(name):
    """ "meta" can be named, and tensors made there; only a computation shows that there are no numbers."""
    with pytest.raises(LabError, match=f"«{name}» недоступно: укажите --device cpu"):
        usable_device(name)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1.0 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_every_way_to_say_that_memory_has_run_out_is_known(error):
    assert is_out_of_memory(error)


def test_other_faults_of_the_device_are_not_taken_for_memory():
    assert not is_out_of_memory(
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    )
    assert not is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_memory_that_runs_out_before_the_first_step_is_told(ema_decay):
    """Of a batch larger than any memory; with averaging the network's copy is made first."""

    def loader():
        yield torch.zeros(1).expand(10**7, 3, 2000, 2000), torch.zeros(1).long().expand(10**7)

    model = SqueezeNet(10)
    optimizer = PLAIN(model.parameters())
    with pytest.raises(LabError, match="Не хватило памяти: уменьшите batch_size"):
        train_test(model, optimizer, loader(), loader(), 1, ema_decay=ema_decay, progress=quiet)


def test_checkpoint_of_a_machine_with_gpus_goes_on_on_one_without(tmp_path):
    """Of their generators' states, whatever number of them, a CPU takes none."""
    _, whole = learned("float32", 3)
    with pytest.raises(KeyboardInterrupt):
        learned("float32", 3, tmp_path, interrupt)
    state = torch.load(tmp_path / "checkpoint", weights_only=True)
    assert state["device_rng"] is None
    state["device_rng"] = torch.zeros(16, dtype=torch.uint8)  # as CUDA has it
    torch.save(state, tmp_path / "checkpoint")
    _, resumed = learned("float32", 3, tmp_path)
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)


def test_average_is_that_of_pytorch():
    """Of weights and of batch norm's averages, the first as they are."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    theirs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=averaging, use_buffers=True)
    ours = Average(model, 0.9)
    for _ in range(4):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight))
        model(torch.randn(2, 3, 8, 8))
        theirs.update_parameters(model)
        ours.update_parameters(model)
    counter = "module.1.num_batches_tracked"
    expected, met = theirs.state_dict(), ours.state_dict()
    assert met.keys() == expected.keys() and met.pop(counter) == 4
    assert all(torch.equal(met[name], expected[name]) for name in met)


class Waiting(torch.nn.Module):
    """Takes its time with ``slow`` threads; nothing in it is large enough for two to share."""

    def __init__(self, num_classes=10, slow=2):
        super().__init__()
        self.slow, self.weight = slow, torch.nn.Parameter(torch.ones(num_classes))

    def forward(self, images):
        time.sleep(0.05 if torch.get_num_threads() == self.slow else 0.002)
        return images.mean(dim=(1, 2, 3)).view(-1, 1) * self.weight


@pytest.mark.parametrize("seconds", [0.3, 0.01])
@pytest.mark.parametrize("slow, chosen", [(2, 1), (1, 2)])
def test_number_of_threads_is_the_one_measured_to_be_faster(slow, chosen, seconds):
    """Even where a single step takes longer than the measuring should."""
    with limited_threads(2):
        assert fastest_threads(Waiting(slow=slow), torch.zeros(4, 3, 8, 8), seconds) == chosen
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("given, seen", [(None, "3000"), ("7", "7")])
def test_openmp_is_told_how_to_wait_before_pytorch_loads(given, seen):
    """Later it no longer reads it; a user's own choice stays."""
    code = """
import os, sys
class Finder:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
sys.meta_path.insert(0, Finder())
import labnn
"""
    own = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    own |= {"GOMP_SPINCOUNT": given} if given else {}
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=own, capture_output=True, text=True)
    assert done.stdout.split() == [seen], done.stderr


@pytest.mark.parametrize("count", [1, 4])
def test_measuring_threads_leaves_the_network_and_the_random_state_alone(count):
    """Of one photo, too, on which batch norm alone would fail."""
    model, images = SqueezeNet(10).eval(), torch.rand(count, 3, 32, 32)
    weights, random = {name: one.clone() for name, one in model.state_dict().items()}, torch.get_rng_state()
    with limited_threads(2):
        fastest_threads(model, images, seconds=0.1)
    assert all(torch.equal(one, weights[name]) for name, one in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters()) and not model.training
    assert torch.equal(torch.get_rng_state(), random)


@pytest.fixture
def run(tiny_root, tmp_path, monkeypatch):
    """A run of the network that is slow with two threads, where PyTorch has two."""
    monkeypatch.setitem(NETWORKS, "waiting", Waiting)
    experiment = Experiment(epochs=2, image_size=32, batch_size=8, network="waiting")

    def go(folder="runs", progress=quiet, threads=None):
        data = open_dataset(tiny_root, crop_to_box=True)
        options = {"cache_dir": tmp_path / "cache", "device": "cpu", "progress": progress, "threads": threads}
        with limited_threads(2):
            return run_or_load(experiment, data, tmp_path / folder, **options)

    return go


def test_run_records_the_threads_that_were_measured_to_be_faster(run):
    assert run().environment["threads"] == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_number_of_threads_can_be_set(run, threads):
    assert run(threads=threads).environment["threads"] == threads


@pytest.mark.parametrize("threads", [1, 2])
def test_resumed_run_keeps_the_threads_that_it_began_with(run, threads):
    def interrupt(rows, epochs):
        raise KeyboardInterrupt

    whole = run("whole", threads=threads)
    with pytest.raises(KeyboardInterrupt):
        run(progress=interrupt, threads=threads)
    resumed = run()
    assert resumed.environment["threads"] == threads
    pd.testing.assert_frame_equal(
        resumed.history.drop(columns="seconds"), whole.history.drop(columns="seconds"), check_exact=True
    )
