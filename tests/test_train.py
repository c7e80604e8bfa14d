"""``train_test`` is PyTorch's own loop: it learns, counts images, takes foreign parts and tells mistakes."""

import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import MINICARS, handful
from PIL import Image
from torch import nn
from torch.optim import SGD, Adam, lr_scheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.transforms import v2

from labnn import CarModelsDataset, LabError, SqueezeNet, evaluate, train_test
from labnn.kit.losses import CosineCrossEntropy
from labnn.train import HISTORY_COLUMNS

quiet = lambda rows, epochs: None  # noqa: E731


def interrupt_after(epoch: int):
    """A ``progress`` that stops the training there."""

    def progress(rows, epochs):
        if len(rows) == epoch:
            raise KeyboardInterrupt

    return progress


PICTURES, LABELS = handful().tensors
PICTURES = PICTURES[:, :, ::2, ::2].contiguous()  # 32 x 32


def network(classes: int = 10) -> nn.Module:
    """Two convolutions and a linear layer, always the same."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, classes))


def loader(labels=LABELS, pictures=PICTURES) -> DataLoader:
    """Three batches of four."""
    return DataLoader(TensorDataset(pictures, labels), batch_size=4)


def train(model=None, optimizer=None, train_loader=None, test_loader=None, epochs=2, **options):
    """``optimizer`` and ``schedule`` are functions: of the network, of the optimizer."""
    model = network() if model is None else model
    made = Adam(model.parameters(), 1e-2) if optimizer is None else optimizer(model)
    if "schedule" in options:
        options["scheduler"] = options.pop("schedule")(made)
    loaders = (loader() if one is None else one for one in (train_loader, test_loader))
    return train_test(model, made, *loaders, epochs, **({"progress": quiet} | options))


class Noisy(Dataset):
    """Pictures that change at each look, by the default generator of the process that reads them."""

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, index):
        return PICTURES[index] + 0.1 * torch.randn(PICTURES[index].shape), LABELS[index]


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_are_those_of_pytorchs_own_loop_to_the_bit(workers):
    """Orders, noise and dropout by the default generator; training and a test in each of three epochs."""

    def parts():
        torch.manual_seed(0)
        model = SqueezeNet(10, dropout=0.5)
        train_loader = DataLoader(Noisy(), 4, shuffle=True, num_workers=workers)
        return model, Adam(model.parameters(), 1e-3, amsgrad=True), train_loader, DataLoader(Noisy(), 4)

    model, optimizer, train_loader, test_loader = parts()
    for _ in range(3):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for images, _ in test_loader:
                model(images)
    ours, *others = parts()
    train_test(ours, *others, 3, precision="float32", progress=quiet)
    theirs = model.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.state_dict().items())


def test_a_loader_is_opened_once_an_epoch():
    class Counted(DataLoader):
        opened = 0

        def __iter__(self):
            self.opened += 1
            return super().__iter__()

    counted = Counted(handful(), 4), Counted(handful(), 4)
    train(None, None, *counted, epochs=3)
    assert [one.opened for one in counted] == [3, 3]


def test_the_original_call_prints_the_originals_lines_and_returns_the_history(capsys):
    transform = v2.Compose([v2.Resize((48, 48)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    annotations, folder = MINICARS / "cars_test_annos_withlabels.mat", MINICARS / "cars_test"
    part = Subset(CarModelsDataset(annotations, folder, transform=transform), range(10))
    model = SqueezeNet(num_classes=196)
    optimizer = SGD(model.parameters(), lr=1e-3)
    train_loader = DataLoader(part, batch_size=4, shuffle=True)
    history = train_test(model, optimizer, train_loader, DataLoader(part, batch_size=4), 2)
    lines = capsys.readouterr().out.splitlines()
    for epoch, line in enumerate(lines[:2], start=1):
        words = rf"Эпоха {epoch}, Время обучения: \d+\.\d\dc\., Потери: \d+\.\d{{4}}, Точность: \d+\.\d\d%"
        assert re.fullmatch(words, line)
    assert lines[2:] == [f"Тестовая точность: {history['test_accuracy'].iloc[-1]:.2%}"]
    columns = "epoch lr seconds train_loss train_accuracy test_loss test_accuracy test_information collapsed"
    assert list(history.columns) == columns.split() == HISTORY_COLUMNS
    assert history["epoch"].tolist() == [1, 2]


@pytest.mark.parametrize("shares", [False, True])
def test_a_handful_of_images_is_learned_by_labels_and_by_class_shares(shares):
    torch.manual_seed(0)
    model, given = SqueezeNet(10, dropout=0.0), F.one_hot(LABELS, 10).float() if shares else LABELS
    adam = lambda model: Adam(model.parameters(), 1e-3, amsgrad=not shares)  # noqa: E731
    history = train(model, adam, [(PICTURES, given)], [(PICTURES, LABELS)], 20, test_every=20)
    assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]
    assert history["train_accuracy"].iloc[-1] >= 0.9


def test_figures_are_means_over_images_of_the_plain_loss():
    """The last batch is smaller; the loss that is minimised is another."""
    model = network()
    result = evaluate(model, DataLoader(TensorDataset(PICTURES, LABELS), batch_size=5), precision="float32")
    with torch.no_grad():
        logits = model(PICTURES)
    plain = F.cross_entropy(logits, LABELS).item()
    assert result.loss == pytest.approx(plain, rel=1e-6)
    assert result.accuracy == pytest.approx((logits.argmax(1) == LABELS).float().mean().item())
    assert result.predictions.equal(logits.argmax(1)) and result.labels.equal(LABELS)
    assert result.best.equal(logits.topk(5).indices)
    smoothed = partial(F.cross_entropy, label_smoothing=0.3)
    still = train(model, lambda model: SGD(model.parameters(), 1e-12), criterion=smoothed, epochs=1)
    assert still["train_loss"].item() == pytest.approx(plain, rel=1e-2)  # as precise as bfloat16


def test_untested_epochs_have_no_test_figures_and_the_first_and_last_are_tested():
    history = train(epochs=5, test_every=2)
    assert history["test_loss"].notna().tolist() == [True, True, False, True, True]
    assert history["train_loss"].equals(train(epochs=5)["train_loss"])  # a test changes no training


def test_averaged_weights_are_tested_and_left_in_the_model():
    plain = train(epochs=3)
    at_once = train(epochs=3, ema_decay=1e-12)  # an average that forgets at once is the plain training
    np.testing.assert_allclose(at_once["test_loss"], plain["test_loss"], rtol=1e-4)
    model = network()
    history = train(model, epochs=3, ema_decay=0.5)
    assert not np.allclose(history["test_loss"], plain["test_loss"], rtol=1e-3)
    assert evaluate(model, loader()).loss == history["test_loss"].iloc[-1]


def test_mirrored_test_answers_alike_for_a_picture_and_its_mirror_image():
    model, both = network(), [[(PICTURES, LABELS)], [(PICTURES.flip(3), LABELS)]]
    here, mirrored = (evaluate(model, part, mirror=True, precision="float32").loss for part in both)
    assert here == pytest.approx(mirrored, rel=1e-5)
    assert evaluate(model, both[0]).loss != pytest.approx(evaluate(model, both[1]).loss, rel=1e-5)


def test_cosine_loss_adds_what_is_missing_to_a_right_direction():
    logits, labels = torch.tensor([[4.0, 0.0], [0.0, 3.0], [1.0, 1.0]]), torch.tensor([0, 0, 1])
    expected = F.cross_entropy(logits, labels) + 0.5 * (0 + 1 + (1 - 0.5**0.5)) / 3
    torch.testing.assert_close(CosineCrossEntropy(0.5)(logits, labels), expected)


class Averaging(SGD):
    """As schedule-free optimizers are: steps in train mode, tested with other weights in eval mode."""

    mode = "train"

    def train(self):
        self._turn("train")

    def eval(self):
        self._turn("eval")

    @torch.no_grad()
    def _turn(self, mode):
        if mode != self.mode:
            for weight in self.param_groups[0]["params"]:
                kept = self.state[weight].get("kept", torch.zeros_like(weight))
                self.state[weight]["kept"] = weight.clone()
                weight.copy_(kept)
        self.mode = mode

    def step(self, closure=None):
        assert self.mode == "train"
        return super().step(closure)


def test_optimizer_with_modes_trains_in_one_and_is_tested_in_the_other():
    history = train(optimizer=lambda model: Averaging(model.parameters(), 0.1), epochs=3)
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]  # what it steps is kept
    assert history["test_loss"].tolist() == [pytest.approx(np.log(10), abs=1e-3)] * 3  # zeros were tested


class Wrapper:
    """As apex's LARC: no ``Optimizer``, and so a schedule can be made for the optimizer inside only."""

    def __init__(self, inner):
        self.inner, self.param_groups, self.zero_grad = inner, inner.param_groups, inner.zero_grad
        self.state_dict, self.load_state_dict = inner.state_dict, inner.load_state_dict

    def step(self):
        self.inner.step()


def test_wrapper_of_an_optimizer_trains_by_the_schedule_of_what_is_inside(tmp_path):
    options = {"optimizer": lambda model: Wrapper(SGD(model.parameters(), 0.1)), "checkpoint": tmp_path / "a"}
    halved = lambda wrapper: lr_scheduler.StepLR(wrapper.inner, 3, 0.5)  # noqa: E731
    assert train(**options, schedule=halved)["lr"].tolist() == [0.1, 0.05]


class Scaled(nn.Module):
    """A loss that learns a factor, as ArcFace learns its centres."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))

    def forward(self, logits, labels):
        return F.cross_entropy(self.factor * logits, labels)


def test_weights_of_a_loss_that_no_optimizer_holds_are_told(capsys):
    train(criterion=Scaled())
    assert "не меняет веса factor (всего таких 1)" in capsys.readouterr().out


class Keeping(nn.Module):
    """Keeps a tensor of its first look at pictures, as a table of positions is kept."""

    def __init__(self):
        super().__init__()
        self.net, self.kept = network(), None

    def forward(self, images):
        self.kept = torch.ones(1, 10) if self.kept is None else self.kept
        return self.net(images) * self.kept


def test_network_that_was_tested_first_trains_alike():
    model = Keeping()
    evaluate(model, loader())
    assert train(model)["train_loss"].equals(train()["train_loss"])


def test_an_answer_without_weights_can_be_tested():
    constant = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert evaluate(constant, [(PICTURES, LABELS % 3)]).loss > 0


def test_what_workers_that_stay_do_not_learn_is_told(capsys, tmp_path):
    lasting = DataLoader(handful(), 4, num_workers=1, persistent_workers=True)
    train(train_loader=lasting, epochs=1)
    assert capsys.readouterr().out == ""
    train(train_loader=lasting, epochs=1, checkpoint=tmp_path / "a")
    assert "С persistent_workers набор не узнает номера эпохи" in capsys.readouterr().out


class Viewing(torch.optim.Optimizer):
    """As Muon and AdamP, which view a kernel as a matrix; as A2Grad, without ``lr`` in its groups."""

    def __init__(self, parameters):
        super().__init__(parameters, {"beta": 10.0})

    @torch.no_grad()
    def step(self, closure=None):
        for weight in self.param_groups[0]["params"]:
            weight.add_(weight.grad.view(len(weight), -1).view(weight.shape), alpha=-1e-2)


def test_optimizer_that_views_kernels_and_has_no_rate_trains():
    history = train(optimizer=lambda model: Viewing(model.parameters()))
    assert history["train_loss"].is_monotonic_decreasing and history["lr"].isna().all()


def test_learning_rate_in_a_tensor_is_recorded_as_it_was():
    fall = {"schedule": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 6)}
    rates = (
        train(optimizer=lambda model, lr=lr: Adam(model.parameters(), lr, amsgrad=True), **fall)["lr"]
        for lr in (0.1, torch.tensor(0.1))
    )
    plain, in_tensor = rates
    np.testing.assert_allclose(in_tensor, plain, rtol=1e-6)


def test_network_of_bfloat16_trains_with_every_watcher():
    batches = [(PICTURES.bfloat16(), LABELS)]
    amsgrad = lambda model: Adam(model.parameters(), 1e-2, amsgrad=True)  # noqa: E731
    assert train(network().bfloat16(), amsgrad, batches, batches)["maximum_share"].notna().all()


@pytest.mark.parametrize("subset", [True, False])
def test_optimizer_of_some_weights_is_told_and_frozen_ones_are_no_mistake(subset, capsys):
    model = network()
    if not subset:
        model[6].bias.requires_grad_(False)
    train(model, lambda model: SGD([model[6].weight] if subset else model.parameters(), 0.1))
    told = "Внимание: оптимизатор не меняет веса 0.weight, 0.bias, 2.weight (всего таких 5).\n"
    assert capsys.readouterr().out == (told if subset else "")


def test_head_replaced_after_the_optimizer_was_made_is_told(capsys):
    model = network(7)
    optimizer = Adam(model.parameters(), 1e-2)
    model[6] = nn.Linear(64, 10)
    train(model, lambda _: optimizer)
    assert "не меняет веса 6.weight, 6.bias" in capsys.readouterr().out


SCHEDULES = {
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 5),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 2),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer), lr_scheduler.PolynomialLR(optimizer, 2)], [1]
    ),
    "OneCycleLR of other steps": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, 7),
    "OneCycleLR of these steps": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, 6),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_is_told_when_it_steps_unless_it_was_made_for_just_that(name, capsys):
    train(schedule=SCHEDULES[name])
    told = "Расписание делает шаг после каждого пакета, пакетов в эпохе: 3.\n"
    assert capsys.readouterr().out == ("" if "these" in name else told)


def test_parts_of_a_loader_are_told_the_epoch():
    told = []

    class Sampler(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch):
            told.append(epoch)

    class Batched(torch.utils.data.BatchSampler):
        set_epoch = Sampler.set_epoch

    class Own(TensorDataset):
        set_epoch = Sampler.set_epoch

    data = Own(PICTURES, LABELS)
    train(train_loader=DataLoader(data, batch_sampler=Batched(Sampler(data), 4, False)))
    assert told == [0, 0, 0, 1, 1, 1]


def test_a_stream_of_unknown_length_trains_and_goes_on(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(handful())

    options = {"train_loader": DataLoader(Stream(), batch_size=4), "checkpoint": tmp_path / "a.pt"}
    train(**options, epochs=1)
    assert len(train(**options, epochs=2)) == 2


class Own(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.item(index)


def fail_as_in_a_worker(index):
    """A real worker that failed keeps its parent waiting for five seconds."""
    try:
        Image.open("no.jpg")
    except FileNotFoundError:
        torch._utils.ExceptionWrapper(where="in DataLoader worker process 0").reraise()


class Sharp(SGD):
    """As SAM, which takes two steps."""

    def step(self, closure=None):
        assert closure is not None, "Sharpness Aware Minimization requires closure, but it was not provided"


class Tupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, images):
        return self.net(images), images


TAKES = "загрузчик даёт пары — снимки float .* сеть отвечает логитами"  # what the one mechanism says
# What is given, and what the sentence says.
MISTAKES = {
    "pictures without ToTensor": (
        lambda: train(train_loader=DataLoader(Own(lambda index: (Image.new("RGB", (8, 8)), 0)), 4)),
        f"PIL.*{TAKES}",
    ),
    "pictures of different sizes": (
        lambda: train(train_loader=DataLoader(Own(lambda index: (torch.zeros(3, 8 + index, 8), 0)), 4)),
        f"stack expects each tensor to be equal size.*{TAKES}",
    ),
    "None for an unreadable picture": (
        lambda: train(train_loader=DataLoader(Own(lambda index: (PICTURES[0], 0) if index else None), 4)),
        f"NoneType.*{TAKES}",
    ),
    "a picture that a loader's worker does not find": (
        lambda: train(train_loader=DataLoader(Own(fail_as_in_a_worker), 4)),
        r"FileNotFoundError: .*no\.jpg.*проверьте названный файл",
    ),
    "a mistake in one's own transform": (
        lambda: train(train_loader=DataLoader(Own(lambda index: 1 / 0), 4)),
        "ZeroDivisionError: division by zero",
    ),
    "one channel": (lambda: train(train_loader=loader(pictures=PICTURES[:, :1])), f"channels.*{TAKES}"),
    "a Dataset in the loader's place": (lambda: train(train_loader=handful()), TAKES),
    "batches that are dictionaries": (lambda: train(train_loader=[{"image": 1, "label": 2}]), TAKES),
    "labels that are a list": (lambda: train(train_loader=[(PICTURES, LABELS.tolist())]), f"list.*{TAKES}"),
    "labels that are floats": (lambda: train(train_loader=loader(LABELS.float())), TAKES),
    "labels in a column": (lambda: train(train_loader=loader(LABELS[:, None])), TAKES),
    "label beyond the classes": (lambda: train(network(2)), f"out of bounds.*{TAKES}"),
    "class shares in the test": (lambda: train(test_loader=loader(F.one_hot(LABELS, 10).float())), TAKES),
    "pictures of whole numbers": (lambda: train(train_loader=loader(pictures=PICTURES.byte())), TAKES),
    "network of doubles": (lambda: train(network().double()), TAKES),
    "network that answers a tuple": (lambda: train(Tupled()), TAKES),
    "network that answers a picture": (lambda: train(nn.Conv2d(3, 10, 1)), TAKES),
    "loss that is not averaged": (
        lambda: train(criterion=nn.CrossEntropyLoss(reduction="none")),
        f"scalar outputs.*{TAKES}",
    ),
    "network that answers probabilities": (
        lambda: train(nn.Sequential(network(), nn.Softmax(1))),
        "вероятностями.*уберите Softmax",
    ),
    "optimizer of another network": (
        lambda: train(optimizer=lambda model: Adam(network().parameters())),
        "нет ни одного незамороженного веса",
    ),
    "network that is frozen as a whole": (
        lambda: train(network().requires_grad_(False)),
        "нет ни одного незамороженного веса",
    ),
    "network that cannot be copied for its average": (
        lambda: train(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), ema_decay=0.9),
        "uninitialized parameter",
    ),
    "weights of half precision": (
        lambda: train(network().half(), precision="float16"),
        "unscale FP16.*оставьте веса float32",
    ),
    "optimizer that needs a closure": (
        lambda: train(optimizer=lambda model: torch.optim.LBFGS(model.parameters())),
        r"closure.*step\(\) без аргументов",
    ),
    "optimizer that asks for a closure": (
        lambda: train(optimizer=lambda model: Sharp(model.parameters(), 0.1)),
        r"requires closure.*step\(\) без аргументов",
    ),
    "schedule of another optimizer": (
        lambda: train(schedule=lambda _: lr_scheduler.StepLR(SGD(network().parameters(), 0.1), 1)),
        "для другого оптимизатора",
    ),
    "schedule that waits for a loss": (
        lambda: train(schedule=lr_scheduler.ReduceLROnPlateau),
        r"metrics.*step\(\) без аргументов",
    ),
    "empty test": (lambda: train(test_loader=loader(LABELS[:0], PICTURES[:0])), "ни одного снимка"),
    "less than a batch to train on": (
        lambda: train(train_loader=DataLoader(handful(), 100, drop_last=True)),
        "ни одного снимка",
    ),
    "pictures that are no numbers": (
        lambda: train(train_loader=[(PICTURES, LABELS), (PICTURES * torch.inf, LABELS)]),
        "В обучающих снимках есть значения, которые не числа",
    ),
    "a precision that there is none of": (lambda: train(precision="half"), "precision"),
    "memory for no such batch": (
        lambda: train(train_loader=[(torch.zeros(1).expand(10**7, 3, 2000, 2000), LABELS)]),
        "не хватило памяти: уменьшите batch_size",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_in_the_parts_of_a_training_is_one_sentence(case):
    call, words = MISTAKES[case]
    with pytest.raises(LabError, match=words) as told:
        call()
    assert "\n" not in str(told.value)
    if str(told.value).startswith("Обучение остановилось ("):
        assert told.value.__cause__ is not None  # the library's own error
