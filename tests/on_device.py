"""What training keeps on a device that is not the host; ``test_device.py`` runs it in a process apart."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import MINICARS, handful
from standin import ASKED, FAULTS, GPU, WAITS, WITHOUT, pinned
from torch.amp import GradScaler
from torch.utils.data import DataLoader

import labnn.kit.hardware
from labnn.data import open_dataset
from labnn.experiment import OPTIMIZERS, Experiment, decode, make_batches, make_model, make_optimizer, train
from labnn.kit.average import Average
from labnn.kit.errors import LabError
from labnn.kit.files import save_tensors
from labnn.kit.hardware import usable_device
from labnn.kit.losses import CosineCrossEntropy
from labnn.model import SqueezeNet
from labnn.train import evaluate, train_epoch, train_test

EXPERIMENT = Experiment(
    "amsgrad", epochs=2, image_size=48, start_size=32, batch_size=32, ema_decay=0.9, cosine=1.0
)
quiet = lambda rows, epochs: None  # noqa: E731


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """As on CUDA: copies from pinned memory that nobody waits for."""
    monkeypatch.setattr(labnn.kit.hardware, "ASYNCHRONOUS", {"gpu"})
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    for notes in (WAITS, FAULTS, WITHOUT, ASKED):
        notes.clear()
    yield
    FAULTS.clear()
    WITHOUT.clear()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    whole = decode(EXPERIMENT, open_dataset(MINICARS, crop_to_box=True), cache, lambda done, count: None)
    return whole._replace(
        train=whole.train[:64],
        train_labels=whole.train_labels[:64],
        test=whole.test[:64],
        test_labels=whole.test_labels[:64],
    )


def parts(photos, experiment=EXPERIMENT, device=GPU):
    """Network, optimizer, schedule, training and test batches."""
    model = make_model(experiment, photos.classes, device)
    batches = make_batches(experiment, photos, device)
    return model, *make_optimizer(experiment, model, experiment.epochs * len(batches[0])), *batches


def history(run) -> pd.DataFrame:
    return run.history.drop(columns="seconds")


def interrupt(rows, epochs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_history_on_the_device_is_that_of_the_host(photos, name):
    """To the last digit, in float32: the order of photos, crops and mixtures, the mirrored test. Dropout, off
    here, draws from the device's own generator.
    """
    experiment = replace(EXPERIMENT, optimizer=name, weight_decay=None, dropout=0.0)

    def trained(device):
        model, optimizer, scheduler, *batches = parts(photos, experiment, device)
        options = {"scheduler": scheduler, "mirror_test": True, "precision": "float32", "progress": quiet}
        return train_test(model, optimizer, *batches, 2, ema_decay=0.9, **options).drop(columns="seconds")

    pd.testing.assert_frame_equal(trained(GPU), trained("cpu"), check_exact=True)


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("average", [False, True], ids=["plain", "averaged"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_step_waits_for_the_device(photos, name, average, place):
    experiment = replace(EXPERIMENT, optimizer=name, weight_decay=None)
    model, optimizer, scheduler, batches, _ = parts(photos, experiment)
    if place == "device":
        batches.images = batches.images.to(GPU)
    averaged = Average(model, 0.9) if average else None
    WAITS.clear()
    train_epoch(model, optimizer, batches, scheduler, CosineCrossEntropy(1.0, 0.1), averaged)
    assert WAITS == {("tolist", "_Sums.means"): 1}


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "nadam"])
def test_no_step_of_a_fused_optimizer_waits_for_scaled_gradients(photos, name):
    """One that is not fused does: whether the gradients are finite is decided on the host. They are float32
    here, as the stand-in has no autocast.
    """
    model, optimizer, scheduler, batches, _ = parts(photos, replace(EXPERIMENT, optimizer=name))
    scaler = GradScaler(GPU.type)
    WAITS.clear()
    train_epoch(model, optimizer, batches, scheduler, scaler=scaler, precision="float32")
    assert WAITS == {("tolist", "_Sums.means"): 1}


def test_no_step_waits_on_the_loader_of_the_original_call():
    model, loader = SqueezeNet(10).to(GPU), DataLoader(handful(), batch_size=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True)
    WAITS.clear()
    train_epoch(model, optimizer, loader)
    assert WAITS == {("tolist", "_Sums.means"): 1}


@pytest.mark.parametrize("batch_size", [48, 8])
def test_evaluation_waits_at_its_end_only(photos, batch_size):
    model, *_, test = parts(photos)
    test.batch_size = batch_size
    WAITS.clear()
    evaluate(model, test, mirror=True)
    assert sum(WAITS.values()) <= 4


def test_an_epoch_waits_ten_times_at_most_with_watchers_average_and_checkpoint(photos, tmp_path):
    told = []
    note = lambda rows, epochs: told.append(sum(WAITS.values()))  # noqa: E731
    run, _ = train(EXPERIMENT, photos, GPU, tmp_path / "checkpoint", note)
    assert run.history["maximum_share"].notna().all()
    assert all(after - before <= 10 for before, after in zip(told, told[1:], strict=False)), WAITS


@pytest.mark.parametrize("name", ["amsgrad", "sgd", "nadam"])
def test_interrupted_training_goes_on_to_the_same_history(photos, tmp_path, name):
    """The order of photos, dropout by the device's generator, the optimizer, the average."""
    experiment = replace(EXPERIMENT, optimizer=name, weight_decay=None)
    whole, weights = train(experiment, photos, GPU, None, quiet)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, photos, GPU, tmp_path / "checkpoint", interrupt)
    torch.manual_seed(7)
    resumed, same = train(experiment, photos, GPU, tmp_path / "checkpoint", quiet)
    assert history(resumed).equals(history(whole))
    assert all(torch.equal(weights[key], same[key]) for key in weights)


def test_checkpoint_of_the_device_goes_on_without_one(photos, tmp_path):
    """Where the device has gone, its generator's state is left aside."""
    with pytest.raises(KeyboardInterrupt):
        train(EXPERIMENT, photos, GPU, tmp_path / "checkpoint", interrupt)
    kept = torch.load(tmp_path / "checkpoint", weights_only=True)["rows"]
    run, _ = train(EXPERIMENT, photos, torch.device("cpu"), tmp_path / "checkpoint", quiet)
    assert run.history[:1].to_dict("records") == kept
    assert len(run.history) == EXPERIMENT.epochs


def test_checkpoint_asks_the_models_device_alone_for_its_generator(photos, tmp_path):
    train(replace(EXPERIMENT, epochs=1), photos, GPU, tmp_path / "checkpoint", quiet)
    assert set(ASKED) == {"gpu:0"}


def test_weights_and_checkpoint_are_files_of_host_tensors(photos, tmp_path):
    """A tensor of the stand-in raises where it is to be written."""
    run, weights = train(replace(EXPERIMENT, epochs=1), photos, GPU, tmp_path / "checkpoint", quiet)
    save_tensors(weights, tmp_path / "weights.pt")
    for file in ("checkpoint", "weights.pt"):
        state = torch.load(tmp_path / file, weights_only=True)
        found = [leaf for leaf in torch.utils._pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)]
        assert found and {leaf.device.type for leaf in found} == {"cpu"}


def test_dead_network_is_told_with_its_causes(capsys):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 10),
        torch.nn.ReLU(),
    ).to(GPU)
    torch.nn.init.zeros_(model[3].weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
    loader = DataLoader(handful(), batch_size=4)
    table = train_test(model, optimizer, loader, loader, 34, test_every=40, progress=quiet)
    assert table["collapsed"].tolist() == [False] * 33 + [True]
    told = capsys.readouterr().out
    assert "сеть не учится" in told and "сигнал гаснет" in told and "ReLU на выходных логитах" in told


def test_original_call_learns_on_the_device(capsys):
    torch.manual_seed(0)
    model = SqueezeNet(10, dropout=0.0).to(GPU)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True)
    loader = DataLoader(handful(), batch_size=12, shuffle=True)
    table = train_test(model, optimizer, loader, loader, 12)
    assert table["train_loss"].iloc[-1] < 0.5 * table["train_loss"].iloc[0]
    assert capsys.readouterr().out.splitlines()[-1].startswith("Тестовая точность: ")


def test_device_without_float64_and_without_copies_in_the_background_trains_the_same(photos, monkeypatch):
    """As Apple's, "mps"."""
    whole, _ = train(EXPERIMENT, photos, GPU, None, quiet)
    monkeypatch.setattr(labnn.kit.hardware, "ASYNCHRONOUS", set())
    monkeypatch.setattr(labnn.kit.hardware, "WITHOUT_FLOAT64", {"gpu"})
    WITHOUT.add(torch.float64)
    poorer, _ = train(EXPERIMENT, photos, GPU, None, quiet)
    pd.testing.assert_frame_equal(history(poorer), history(whole), rtol=1e-5, atol=1e-6)


NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"


@pytest.mark.parametrize("call", ["add", "_local_scalar_dense"])
def test_device_that_can_be_named_but_not_used_is_told(call):
    assert usable_device("gpu").type == "gpu"
    FAULTS[call] = torch.AcceleratorError(NO_KERNEL)
    with pytest.raises(LabError, match="«gpu» недоступно: укажите --device cpu"):
        usable_device("gpu")


MEMORY = {
    "PyTorch's": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CUDA's": torch.AcceleratorError("CUDA error: out of memory"),
    "cuDNN's": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuBLAS's": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


@pytest.mark.parametrize("error", MEMORY.values(), ids=MEMORY)
@pytest.mark.parametrize("call", ["_to_copy", "clone", "convolution", "argmax"])
def test_memory_that_runs_out_is_told_wherever_it_does(photos, call, error):
    """On the way to the device, in the copy to average, in a step, in the sums."""
    FAULTS[call] = error
    with pytest.raises(LabError, match="Не хватило памяти: уменьшите batch_size"):
        train(EXPERIMENT, photos, GPU, None, quiet)


def test_full_device_is_not_a_useless_one():
    FAULTS["add"] = MEMORY["CUDA's"]
    with pytest.raises(LabError, match="Не хватило памяти"):
        usable_device("gpu")


def test_memory_that_runs_out_on_the_way_back_does_not_ask_to_delete_the_checkpoint(photos, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(EXPERIMENT, photos, GPU, tmp_path / "checkpoint", interrupt)
    FAULTS["copy_"] = MEMORY["PyTorch's"]
    with pytest.raises(LabError, match="Не хватило памяти"):
        train(EXPERIMENT, photos, GPU, tmp_path / "checkpoint", quiet)
