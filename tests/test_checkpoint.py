"""A training goes on from its checkpoint to the same end, in whatever place; no other one does."""

import random
from collections import deque
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from test_train import LABELS, PICTURES, Scaled, interrupt_after, loader, network, quiet, train
from torch import nn
from torch.optim import SGD, Adam, lr_scheduler
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Subset, TensorDataset

from labnn import LabError, SqueezeNet


def assert_resumed_is_whole(go, folder) -> None:
    """``go(checkpoint, progress)`` trains four epochs from the same start."""
    whole = go(folder / "whole", quiet)
    with pytest.raises(KeyboardInterrupt):
        go(folder / "parts", interrupt_after(2))
    told = []
    resumed = go(folder / "parts", lambda rows, epochs: told.append(len(rows)))
    assert told == [3, 4]
    tables = (table.drop(columns="seconds") for table in (resumed, whole))
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_interrupted_training_goes_on_to_the_same_history(tmp_path):
    """Optimizer, schedule, average, dropout, the order by the default generator, epochs without a test."""
    options = {"schedule": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1e-2, 12), "ema_decay": 0.9}

    def go(checkpoint, progress):
        torch.manual_seed(0)
        model = SqueezeNet(10, dropout=0.5)
        shuffled = DataLoader(TensorDataset(PICTURES, LABELS), 4, shuffle=True)
        amsgrad = lambda model: Adam(model.parameters(), 1e-3, amsgrad=True, fused=True)  # noqa: E731
        places = {"checkpoint": checkpoint, "progress": progress, "test_every": 3, "epochs": 4}
        return train(model, amsgrad, shuffled, **places, **options)

    assert_resumed_is_whole(go, tmp_path)


class Drawn(Dataset):
    """Pictures brighter by what ``draw`` gives."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, index):
        return PICTURES[index] + float(self.draw()), LABELS[index]


def own() -> torch.Generator:
    return torch.Generator().manual_seed(7)


class Noisy(TensorDataset):
    """Noise from a generator of its own."""

    def __init__(self):
        super().__init__(PICTURES, LABELS)
        self.generator = own()

    def __getitem__(self, index):
        return PICTURES[index] + torch.randn(1, generator=self.generator), LABELS[index]


DATA = TensorDataset(PICTURES, LABELS)
RANDOM = {
    "the loader's generator": lambda: DataLoader(DATA, 4, shuffle=True, generator=own()),
    "a sampler's": lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, generator=own())),
    "of own batches": lambda: DataLoader(
        DATA, batch_sampler=BatchSampler(RandomSampler(DATA, generator=own()), 4, False)
    ),
    "of a data set in a part": lambda: DataLoader(Subset(Noisy(), range(12)), 4),
    "Python's": lambda: DataLoader(Drawn(random.random), 4),
    "numpy's": lambda: DataLoader(Drawn(np.random.rand), 4),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_go_on_where_they_were(name, tmp_path):
    def go(checkpoint, progress):
        random.seed(0)
        np.random.seed(0)
        return train(train_loader=RANDOM[name](), epochs=4, checkpoint=checkpoint, progress=progress)

    assert_resumed_is_whole(go, tmp_path)


def test_loss_that_learns_goes_on_where_it_was(tmp_path):
    def go(checkpoint, progress):
        loss = Scaled()
        both = lambda model: SGD([*model.parameters(), *loss.parameters()], 0.5)  # noqa: E731
        places = {"checkpoint": checkpoint, "progress": progress}
        return train(optimizer=both, criterion=loss, epochs=4, **places)

    assert_resumed_is_whole(go, tmp_path)


def test_training_stopped_after_its_last_epoch_still_tells_the_result(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=tmp_path / "c", progress=interrupt_after(2))
    told = []
    train(checkpoint=tmp_path / "c", progress=lambda rows, epochs: told.append(len(rows)))
    assert told == [2]


def test_broken_checkpoint_is_told_and_neither_unpickled_nor_deleted(tmp_path):
    (tmp_path / "c").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(LabError, match="Контрольная точка .* не подходит") as told:
        train(checkpoint=tmp_path / "c")
    assert "удалите" not in str(told.value) and (tmp_path / "c").exists()


# A second training with the first one's checkpoint: what is different, and the word for it in the sentence.
OTHERS = {
    "optimizer": ({"optimizer": lambda model: SGD(model.parameters(), 1e-2)}, "оптимизатор"),
    "amsgrad": ({"optimizer": lambda model: Adam(model.parameters(), 1e-2, amsgrad=True)}, "оптимизатор"),
    "rate": ({"optimizer": lambda model: Adam(model.parameters(), 1e-4)}, "оптимизатор"),
    "schedule": ({"schedule": lambda optimizer: lr_scheduler.StepLR(optimizer, 100)}, "расписание"),
    "loss": ({"criterion": partial(F.cross_entropy, label_smoothing=0.1)}, "функция потерь"),
    "weighted loss": ({"criterion": nn.CrossEntropyLoss(torch.ones(10))}, "функция потерь"),
    "network": ({"model": nn.Sequential(network(), nn.Identity())}, "сеть"),
    "average": ({"ema_decay": 0.5}, "усреднение весов"),
    "photos": ({"train_loader": loader(LABELS[:8], PICTURES[:8])}, "пакетов и снимков"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_checkpoint_of_another_training_is_refused_with_what_differs(case, tmp_path):
    train(checkpoint=tmp_path / "c")
    changes, word = OTHERS[case]
    with pytest.raises(LabError, match=f"не подходит к этому обучению \\({word}: было .*, стало "):
        train(checkpoint=tmp_path / "c", epochs=4, **changes)


def test_of_another_network_the_first_line_that_differs_is_told(tmp_path):
    train(SqueezeNet(10), checkpoint=tmp_path / "c")
    with pytest.raises(LabError, match=r"\(сеть: было .*p=0.5.*, стало .*p=0.2.*\): ") as told:
        train(SqueezeNet(10, dropout=0.2), checkpoint=tmp_path / "c")
    assert len(str(told.value).replace(str(tmp_path), "")) < 250


def test_more_epochs_than_asked_for_and_a_longer_schedule_are_told(tmp_path):
    cycle = lambda steps: {"schedule": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, steps)}  # noqa: E731
    train(checkpoint=tmp_path / "c", **cycle(6))
    with pytest.raises(LabError, match="уже 2 эпох, а нужно 1"):
        train(checkpoint=tmp_path / "c", epochs=1, **cycle(6))
    with pytest.raises(LabError, match="расписание: было OneCycleLR 6, стало OneCycleLR 12"):
        train(checkpoint=tmp_path / "c", epochs=4, **cycle(12))


def test_numpys_numbers_are_saved_as_plain_ones(tmp_path):
    """As scikit-learn's figures and a rate of ``np.logspace`` are."""
    options = {
        "optimizer": lambda model: Adam(model.parameters(), np.float64(1e-2)),
        "watchers": (lambda epoch: {"f1": np.float64(0.5), "best": np.int64(3)},),
        "checkpoint": tmp_path / "c",
    }
    train(**options)
    assert train(**options, epochs=3)["f1"].tolist() == [0.5] * 3


class Keeping(SGD):
    """Keeps of every weight what ``keep`` makes of its gradient."""

    keep: dict = {}

    def step(self, closure=None):
        super().step(closure)
        for weight in self.param_groups[0]["params"]:
            self.state[weight].update({name: make(weight.grad) for name, make in self.keep.items()})


class Queued(Keeping):
    """As AdaShift."""

    keep = {"gradients": lambda gradient: deque([gradient.clone()])}


class Counting(Keeping):
    """As AdaPNM, AMSGrad's maximum without a count of steps."""

    keep = {"exp_avg_sq": torch.square, "max_exp_avg_sq": torch.square}

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)
        self.param_groups[0].update(betas=(0.9, 0.999), eps=1e-8)


def test_state_that_could_not_be_read_back_is_told_before_anything_depends_on_it(tmp_path):
    queued = lambda model: Queued(model.parameters(), 1e-3)  # noqa: E731
    told = []
    with pytest.raises(LabError, match="не сохранить так, чтобы прочесть .*deque"):
        train(optimizer=queued, checkpoint=tmp_path / "c", progress=lambda *now: told.append(now))
    assert not told and not list(tmp_path.iterdir())
    assert len(train(optimizer=queued)) == 2  # without a checkpoint it trains


def test_state_without_a_count_of_steps_trains_and_goes_on(tmp_path):
    counting = lambda model: Counting(model.parameters(), 1e-3)  # noqa: E731
    train(optimizer=counting, checkpoint=tmp_path / "c")
    history = train(optimizer=counting, checkpoint=tmp_path / "c", epochs=3)
    assert history["maximum_share"].tolist() == [0.0] * 3


@pytest.mark.parametrize("before, after", [("bfloat16", "float16"), ("float16", "float32")])
def test_a_change_of_precision_goes_on_and_is_told(before, after, tmp_path, capsys):
    """As on the next day's GPU, an older one."""
    train(checkpoint=tmp_path / "c", precision=before)
    assert capsys.readouterr().out == ""
    assert len(train(checkpoint=tmp_path / "c", precision=after, epochs=3)) == 3
    told = f"Обучение продолжается в других условиях (precision: {before} → {after}).\n"
    assert capsys.readouterr().out == told
    made_by = torch.load(tmp_path / "c", weights_only=True)["made_by"]
    assert [place["precision"] for place in made_by] == [before, after]
