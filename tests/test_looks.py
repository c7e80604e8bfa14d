"""A mistake in the parts of a training is told before the first step; a checkpoint knows its own training."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import handful
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from labnn import LabError, train_test

quiet = lambda rows, epochs: None  # noqa: E731


def network(classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, classes))


def loader(labels=None, pictures=None) -> DataLoader:
    own = handful().tensors
    given = (own[0] if pictures is None else pictures, own[1] if labels is None else labels)
    return DataLoader(TensorDataset(*given), batch_size=4)


def train(model=None, optimizer=None, train_loader=None, test_loader=None, epochs=2, **options):
    model = network() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), 1e-3) if optimizer is None else optimizer(model)
    options = {"progress": quiet} | options
    if "schedule" in options:
        options["scheduler"] = options.pop("schedule")(optimizer)
    loaders = (loader() if one is None else one for one in (train_loader, test_loader))
    return train_test(model, optimizer, *loaders, epochs, **options)


PICTURES, LABELS = handful().tensors


class Tupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x), x


# What is given, and what the sentence says.
MISTAKES = {
    "optimizer of another network": (
        lambda: train(optimizer=lambda model: torch.optim.Adam(network().parameters(), 1e-3)),
        "не держит ни одного веса",
    ),
    "optimizer that needs a closure": (
        lambda: train(optimizer=lambda model: torch.optim.LBFGS(model.parameters())),
        "LBFGS.*closure",
    ),
    "schedule of another optimizer": (
        lambda: train(
            schedule=lambda _: lr_scheduler.StepLR(torch.optim.SGD(network().parameters(), 0.1), 1)
        ),
        "для другого оптимизатора",
    ),
    "schedule that waits for a loss": (
        lambda: train(schedule=lr_scheduler.ReduceLROnPlateau),
        "ReduceLROnPlateau",
    ),
    "schedule too short": (
        lambda: train(schedule=lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)),
        "шагов 4, а в эпохах их 6.*total_steps=6",
    ),
    "network that answers a tuple": (lambda: train(model=Tupled()), "отвечает не таблицей.*tuple"),
    "network that answers a picture": (lambda: train(model=nn.Conv2d(3, 10, 1)), "отвечает не таблицей"),
    "network that answers probabilities": (
        lambda: train(model=nn.Sequential(network(), nn.Softmax(1))),
        "вероятностями.*уберите Softmax",
    ),
    "labels that are floats": (lambda: train(train_loader=loader(LABELS.float())), "float32.*int64"),
    "labels in a column": (lambda: train(train_loader=loader(LABELS[:, None])), r"\(4, 1\).*int64 \(4,\)"),
    "label beyond the classes": (lambda: train(model=network(2)), "Метка . вне классов сети 0…1"),
    "label below zero": (lambda: train(train_loader=loader(LABELS - 100)), "Метка -.* вне классов"),
    "class shares in the test": (
        lambda: train(test_loader=loader(F.one_hot(LABELS, 10).float())),
        "На тесте вместо меток доли классов",
    ),
    "labels that are a list": (
        lambda: train(train_loader=[(PICTURES, LABELS.tolist())]),
        "Tensor, list.*пара",
    ),
    "batches that are dictionaries": (
        lambda: train(train_loader=[{"image": PICTURES, "label": LABELS}]),
        "даёт dict, а нужна пара",
    ),
    "pictures of whole numbers": (
        lambda: train(train_loader=[((255 * PICTURES).byte(), LABELS)]),
        "uint8, а веса сети float32.*/ 255",
    ),
    "network of doubles": (lambda: train(network().double()), "float32, а веса сети float64.*model.float"),
    "network of halves": (  # where autocast does not turn them into bfloat16
        lambda: train(network().half(), precision="float32"),
        "float32, а веса сети float16.*model.float",
    ),
    "empty test": (
        lambda: train(test_loader=loader(LABELS[:0], PICTURES[:0])),
        "для теста нет ни одного пакета",
    ),
    "less than a batch to train on": (
        lambda: train(train_loader=DataLoader(handful(), 100, drop_last=True)),
        "для обучения нет ни одного пакета.*drop_last",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_in_the_parts_is_told_before_a_step_is_wasted(case):
    call, words = MISTAKES[case]
    with pytest.raises(LabError, match=words):
        call()


def test_pictures_that_are_no_numbers_are_named_and_not_the_learning_rate():
    with pytest.raises(LabError, match="пакета 2 есть значения, которые не числа"):
        train(train_loader=[(PICTURES, LABELS), (PICTURES * torch.inf, LABELS)])


def test_a_stream_of_unknown_length_trains_and_goes_on(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(handful())

    options = {"train_loader": DataLoader(Stream(), batch_size=4), "checkpoint": tmp_path / "a.pt"}
    train(**options, epochs=1)
    assert len(train(**options, epochs=2)) == 2


def test_schedule_by_epochs_is_noticed(capsys):
    train(schedule=lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=2))
    assert "умножьте его на число пакетов (3)" in capsys.readouterr().out


@pytest.mark.parametrize("subset", [True, False])
def test_optimizer_of_some_weights_and_frozen_others_train(subset):
    model = network()
    if not subset:
        model[2].bias.requires_grad_(False)
    train(model, lambda model: torch.optim.SGD([model[2].weight] if subset else model.parameters(), 0.1))


# A second training with the first one's checkpoint: what is different, and the word for it in the sentence.
OTHERS = {
    "optimizer": ({"optimizer": lambda model: torch.optim.SGD(model.parameters(), 1e-3)}, "оптимизатор"),
    "amsgrad": (
        {"optimizer": lambda model: torch.optim.Adam(model.parameters(), 1e-3, amsgrad=True)},
        "оптимизатор",
    ),
    "rate": ({"optimizer": lambda model: torch.optim.Adam(model.parameters(), 1e-4)}, "оптимизатор"),
    "schedule": ({"schedule": lambda optimizer: lr_scheduler.StepLR(optimizer, 100)}, "расписание"),
    "loss": ({"criterion": partial(F.cross_entropy, label_smoothing=0.1)}, "функция потерь"),
    "weighted loss": ({"criterion": nn.CrossEntropyLoss(torch.ones(10))}, "функция потерь"),
    "network": ({"model": nn.Sequential(nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(48, 10))}, "сеть"),
    "average": ({"ema_decay": 0.5}, "усреднение весов"),
    "photos": ({"train_loader": DataLoader(TensorDataset(*handful(8).tensors), 4)}, "данные"),
    "other photos": ({"train_loader": loader(LABELS.roll(1))}, "содержание данных"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_checkpoint_of_another_training_is_refused_with_what_differs(case, tmp_path):
    train(checkpoint=tmp_path / "c", precision="float32")
    changes, word = OTHERS[case]
    with pytest.raises(LabError, match=f"от другого обучения \\({word}: было «.*», стало «"):
        train(**({"checkpoint": tmp_path / "c", "precision": "float32"} | changes), epochs=4)


def test_checkpoint_with_more_epochs_than_asked_for_is_told(tmp_path):
    train(checkpoint=tmp_path / "c", epochs=3)
    with pytest.raises(LabError, match="уже 3 эпох, а нужно 2"):
        train(checkpoint=tmp_path / "c", epochs=2)


def test_schedule_with_more_steps_than_the_checkpoints_is_another_training(tmp_path):
    """More epochs than the schedule of the checkpoint has ended in PyTorch's ValueError."""
    cycle = {"schedule": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6)}
    longer = {"schedule": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12)}
    train(checkpoint=tmp_path / "c", **cycle)
    with pytest.raises(LabError, match="от другого обучения"):
        train(checkpoint=tmp_path / "c", epochs=4, **longer)


def test_a_samplers_order_is_told_its_epoch():
    epochs = []

    class Sampler(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch):
            epochs.append(epoch)

    data = handful()
    train(train_loader=DataLoader(data, 4, sampler=Sampler(data)))
    assert epochs == [0, 1]


def test_learning_rate_in_a_tensor_is_recorded_as_it_was():
    history = train(
        optimizer=lambda model: torch.optim.SGD(model.parameters(), torch.tensor(0.1), foreach=False),
        schedule=lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.5),
    )
    assert (
        history["lr"].dtype == float
        and history["lr"].is_monotonic_decreasing
        and history["lr"].nunique() == 2
    )
