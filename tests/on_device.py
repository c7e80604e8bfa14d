"""What training keeps on a device that is not the host; ``test_device.py`` runs it in a process apart."""

from dataclasses import replace

import pandas as pd
import pytest
import standin
import torch
from conftest import MINICARS
from standin import FAULTS, GPU, WAITS, pinned
from test_train import interrupt_after, loader, network, quiet
from torch import nn
from torch.amp import GradScaler
from torch.optim import Adam

from labnn import NETWORKS, OPTIMIZERS, Experiment, LabError, evaluate, open_dataset, train_test
from labnn.experiment import Order, decode, describe, make_batches, train
from labnn.kit.files import save_tensors
from labnn.kit.hardware import describe_device, usable_device
from labnn.kit.losses import CosineCrossEntropy
from labnn.settings import make_model, make_optimizer
from labnn.train import train_epoch

EXPERIMENT = Experiment("amsgrad", epochs=2, image_size=48, start_size=32, batch_size=8, ema_decay=0.9)
CPU = torch.device("cpu")
AT_THE_END = {("tolist", "_Sums.means"): 1}  # the only wait of an epoch of steps


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """As on CUDA: copies from pinned memory that nobody waits for."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    small = lambda num_classes: nn.Sequential(network(num_classes), nn.Dropout())  # noqa: E731
    monkeypatch.setitem(NETWORKS, "small", small)
    WAITS.clear()
    yield
    FAULTS.clear()
    standin.FREE = 2**30


@pytest.fixture(scope="module")
def cars():
    whole = open_dataset(MINICARS, crop_to_box=True)
    return whole._replace(train=whole.train.subset(range(16)), test=whole.test.subset(range(10)))


@pytest.fixture(scope="module")
def photos(cars, tmp_path_factory):
    return decode(EXPERIMENT, cars, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def trained(cars, photos, tmp_path):
    """A run of the small network and its weights; the checkpoint is always the same file."""

    def go(device=GPU, progress=quiet, checkpoint=tmp_path / "checkpoint", **changes):
        asked = Order(replace(EXPERIMENT, network="small", **changes), describe(cars), {})
        return train(asked, photos, device, checkpoint, progress)

    return go


def parts(photos, experiment=EXPERIMENT, device=GPU):
    """Network, optimizer, schedule, training and test batches."""
    model = make_model(experiment, photos.classes, device)
    batches = make_batches(experiment, photos, device)
    return model, *make_optimizer(experiment, model, experiment.epochs * len(batches[0])), *batches


@pytest.mark.parametrize("name", ["amsgrad", "sgd"])
def test_history_on_the_device_is_that_of_the_host(photos, name):
    """To the last digit, in float32: the order of photos, crops and mixtures, the mirrored test. Dropout, off
    here, draws from the device's own generator.
    """
    experiment = replace(EXPERIMENT, optimizer=name, weight_decay=None, dropout=0.0)

    def history(device):
        model, optimizer, scheduler, *batches = parts(photos, experiment, device)
        options = {"scheduler": scheduler, "mirror_test": True, "precision": "float32", "progress": quiet}
        return train_test(model, optimizer, *batches, 2, ema_decay=0.9, **options).drop(columns="seconds")

    pd.testing.assert_frame_equal(history(GPU), history(CPU), check_exact=True)


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_step_waits_for_the_device(photos, name, scaled):
    """Nor do the crops, the mixtures, the loss. Whether scaled gradients are finite is decided on the host
    for an optimizer that is not fused.
    """
    experiment = replace(EXPERIMENT, optimizer=name, weight_decay=None, network="small")
    model, optimizer, scheduler, batches, _ = parts(photos, experiment)
    options = {"scaler": GradScaler(GPU.type) if scaled else None, "precision": "float32"}
    WAITS.clear()
    train_epoch(model, optimizer, batches, scheduler, CosineCrossEntropy(1.0, 0.1), **options)
    assert WAITS == AT_THE_END or (scaled and name == "nadam")


def test_no_step_waits_on_a_plain_loader():
    model = network().to(GPU)
    optimizer = Adam(model.parameters(), lr=1e-3, amsgrad=True)
    WAITS.clear()
    train_epoch(model, optimizer, loader())
    assert WAITS == AT_THE_END


@pytest.mark.parametrize("free, place", [(2**30, "gpu"), (1000, "cpu")])
def test_photos_lie_on_the_device_where_they_take_half_of_its_free_memory(photos, free, place):
    standin.FREE = free
    model, optimizer, scheduler, batches, test = parts(photos, replace(EXPERIMENT, network="small"))
    assert batches.images.device.type == test.images.device.type == place
    WAITS.clear()
    train_epoch(model, optimizer, batches, scheduler)
    assert WAITS == AT_THE_END


def test_a_test_waits_at_its_ends_and_not_in_its_batches(photos):
    model, *_, test = parts(photos, replace(EXPERIMENT, network="small"))
    waits = []
    for test.batch_size in (10, 2):
        WAITS.clear()
        evaluate(model, test, mirror=True)
        waits.append(sum(WAITS.values()))
    assert waits[0] == waits[1] <= 4


def test_an_epoch_with_its_test_and_watchers_waits_ten_times_at_most(trained):
    told = []
    note = lambda rows, epochs: told.append(sum(WAITS.values()))  # noqa: E731
    run, _ = trained(progress=note, checkpoint=None, epochs=3, ema_decay=0.0)
    assert run.history["maximum_share"].notna().all()
    assert told[2] - told[1] <= 10, WAITS


def test_interrupted_training_goes_on_to_the_same_history_from_files_of_host_tensors(trained, tmp_path):
    """The order of photos, dropout by the device's generator, the optimizer, the average."""
    whole, weights = trained(checkpoint=None)
    with pytest.raises(KeyboardInterrupt):
        trained(progress=interrupt_after(1))
    torch.manual_seed(7)
    resumed, same = trained()
    assert resumed.history.drop(columns="seconds").equals(whole.history.drop(columns="seconds"))
    assert all(torch.equal(weights[key], same[key]) for key in weights)
    save_tensors(weights, tmp_path / "weights.pt")
    for file in ("checkpoint", "weights.pt"):  # a tensor of the stand-in raises where it is to be written
        state = torch.load(tmp_path / file, weights_only=True)
        found = [leaf for leaf in torch.utils._pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)]
        assert found and {leaf.device.type for leaf in found} == {"cpu"}


@pytest.mark.parametrize("first, then", [(GPU, CPU), (CPU, GPU)], ids=["gone", "come"])
def test_training_goes_on_where_the_device_has_gone_or_come(trained, tmp_path, first, then, capsys):
    """It says so, and its record tells of both."""
    with pytest.raises(KeyboardInterrupt):
        trained(first, interrupt_after(1))
    kept = torch.load(tmp_path / "checkpoint", weights_only=True)["rows"]
    run, _ = trained(then)
    assert run.history[:1].to_dict("records") == kept and len(run.history) == 2
    assert f"в других условиях (device: {first.type} → {then.type}" in capsys.readouterr().out
    assert run.environment["device"] == then.type
    assert [place["device"] for place in run.environment["earlier"]] == [first.type]


@pytest.mark.parametrize("call", ["add", "_local_scalar_dense"])
def test_device_that_can_be_named_but_not_used_is_told(call):
    assert usable_device("gpu").type == "gpu"
    assert describe_device(GPU) == "Устройство: gpu, точность чисел float32."
    words = "CUDA error: no kernel image is available for execution on the device"
    FAULTS["sum" if call == "add" else call] = torch.AcceleratorError(words)
    with pytest.raises(LabError, match=f"«gpu» недоступно .*{words}.*укажите --device cpu"):
        usable_device("gpu")


MEMORY = {
    "_to_copy": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "clone": torch.AcceleratorError("CUDA error: out of memory"),
    "convolution": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "argmax": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


@pytest.mark.parametrize("call", MEMORY)
def test_memory_that_runs_out_is_told_wherever_it_does(photos, call):
    """On the way to the device, in the copy to average, in a step, in the sums."""
    model, optimizer, scheduler, *batches = parts(photos, replace(EXPERIMENT, network="small"))
    FAULTS[call] = MEMORY[call]
    standin.FREE = 0
    with pytest.raises(LabError, match="не хватило памяти: уменьшите batch_size"):
        train_test(model, optimizer, *batches, 2, scheduler=scheduler, ema_decay=0.9, progress=quiet)
