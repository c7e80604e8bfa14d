"""Training learns, is deterministic, goes on when interrupted, and keeps the original's calls and words."""

import functools
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MINICARS, handful
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from labnn.data import CarModelsDataset
from labnn.kit.errors import LabError
from labnn.kit.losses import CosineCrossEntropy
from labnn.model import SqueezeNet
from labnn.train import HISTORY_COLUMNS, evaluate, train_test

COLUMNS = [
    "epoch",
    "lr",
    "seconds",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "test_information",
    "collapsed",
]


def train(epochs: int, optimizer=torch.optim.Adam, batch_size: int = 4, **options) -> pd.DataFrame:
    torch.manual_seed(0)
    model = SqueezeNet(10, dropout=0.0)
    loader = DataLoader(handful(), batch_size, shuffle=True, generator=torch.Generator().manual_seed(0))
    return train_test(
        model,
        optimizer(model.parameters(), lr=1e-3),
        loader,
        DataLoader(handful(), batch_size=5),
        epochs,
        **options,
    )


def test_original_call_prints_the_originals_lines_and_returns_the_history(capsys):
    transform = v2.Compose([v2.Resize((48, 48)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    dataset = CarModelsDataset(
        MINICARS / "cars_test_annos_withlabels.mat", MINICARS / "cars_test", transform=transform
    )
    part = torch.utils.data.Subset(dataset, range(10))
    model = SqueezeNet(num_classes=196)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    history = train_test(
        model, optimizer, DataLoader(part, batch_size=4, shuffle=True), DataLoader(part, batch_size=4), 2
    )
    lines = capsys.readouterr().out.splitlines()
    for epoch, line in enumerate(lines[:2], start=1):
        assert re.fullmatch(
            rf"Эпоха {epoch}, Время обучения: \d+\.\d\dc\., Потери: \d+\.\d{{4}}, Точность: \d+\.\d\d%", line
        )
    assert lines[2:] == [f"Тестовая точность: {history['test_accuracy'].iloc[-1]:.2%}"]
    assert list(history.columns) == COLUMNS == HISTORY_COLUMNS
    assert history["epoch"].tolist() == [1, 2]


@pytest.mark.parametrize("amsgrad", [False, True])
def test_loss_falls_and_a_handful_of_images_is_learned(amsgrad):
    history = train(
        20, lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, amsgrad=amsgrad), batch_size=12
    )
    assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]
    assert history["train_accuracy"].iloc[-1] >= 0.9


def test_any_module_is_trained():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 10))
    loader = DataLoader(handful(), batch_size=4)
    history = train_test(
        model,
        torch.optim.SGD(model.parameters(), lr=1e-4),
        loader,
        loader,
        3,
        progress=lambda rows, epochs: None,
    )
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_same_seed_gives_the_same_history_to_the_last_digit():
    first, again = train(3), train(3)
    pd.testing.assert_frame_equal(
        first.drop(columns="seconds"), again.drop(columns="seconds"), check_exact=True
    )


def test_history_counts_images_not_batches():
    """The last batch is smaller: means over batches would differ from means over images."""
    torch.manual_seed(0)
    model, data = SqueezeNet(10), handful()
    result = evaluate(model, DataLoader(data, batch_size=5))
    with torch.no_grad():
        logits = model.eval()(data.tensors[0])
    assert result.loss == pytest.approx(
        torch.nn.functional.cross_entropy(logits, data.tensors[1]).item(), rel=1e-2
    )
    assert result.accuracy == pytest.approx(
        (logits.argmax(1) == data.tensors[1]).float().mean().item(), abs=0.1
    )
    assert result.predictions.shape == (12,)


def test_loss_is_without_smoothing():
    plain, smoothed = (
        train(1),
        train(1, criterion=functools.partial(torch.nn.functional.cross_entropy, label_smoothing=0.3)),
    )
    assert smoothed["train_loss"].iloc[0] == pytest.approx(plain["train_loss"].iloc[0], rel=0.2)


def test_untested_epochs_have_no_test_figures_and_the_first_and_last_are_tested():
    history = train(5, test_every=2)
    assert history["test_loss"].notna().tolist() == [True, True, False, True, True]
    every = train(5)
    assert history["train_loss"].equals(every["train_loss"])  # testing changes nothing in the training


def test_class_shares_of_mixed_pictures_are_learned_like_labels():
    torch.manual_seed(0)
    model, (images, labels) = SqueezeNet(10, dropout=0.0), handful().tensors
    shares = torch.nn.functional.one_hot(labels, 10).float()
    history = train_test(
        model, torch.optim.Adam(model.parameters(), lr=1e-3), [(images, shares)], [(images, labels)], 20
    )
    assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]
    assert history["train_accuracy"].iloc[-1] >= 0.9


def test_average_that_forgets_at_once_is_the_plain_training():
    plain, averaged = train(3), train(3, ema_decay=1e-12)
    torch.testing.assert_close(
        torch.tensor(averaged["test_loss"]), torch.tensor(plain["test_loss"]), rtol=1e-4, atol=1e-4
    )
    assert not np.allclose(train(3, ema_decay=0.9)["test_loss"], plain["test_loss"], rtol=1e-2)


def test_averaged_weights_are_the_ones_left_in_the_model():
    torch.manual_seed(0)
    model, loader = SqueezeNet(10, dropout=0.0), DataLoader(handful(), batch_size=4)
    history = train_test(
        model, torch.optim.Adam(model.parameters(), lr=1e-3), loader, loader, 2, ema_decay=0.5
    )
    assert evaluate(model, loader).loss == history["test_loss"].iloc[-1]


def test_mirrored_test_answers_alike_for_a_picture_and_its_mirror_image():
    torch.manual_seed(0)
    model, (images, labels) = SqueezeNet(10), handful().tensors
    mirrored = [(images.flip(3), labels)]
    assert evaluate(model, mirrored, mirror=True).loss == pytest.approx(
        evaluate(model, [(images, labels)], mirror=True).loss, rel=1e-5
    )
    assert evaluate(model, mirrored).loss != pytest.approx(evaluate(model, [(images, labels)]).loss, rel=1e-5)


def test_cosine_loss_adds_what_is_missing_to_a_right_direction():
    logits, labels = torch.tensor([[4.0, 0.0], [0.0, 3.0], [1.0, 1.0]]), torch.tensor([0, 0, 1])
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels)
    expected = cross_entropy + 0.5 * (0 + 1 + (1 - 0.5**0.5)) / 3
    torch.testing.assert_close(CosineCrossEntropy(0.5)(logits, labels), expected)


class Interrupted(Exception):
    pass


def interrupt_after(epoch: int):
    def progress(rows, epochs):
        if len(rows) == epoch:
            raise Interrupted

    return progress


def resumable(tmp_path, progress) -> pd.DataFrame:
    """A training whose order of images depends on the pass only, as with ``Batches``, and which draws
    dropout.
    """
    torch.manual_seed(0)
    model = SqueezeNet(10, dropout=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True, fused=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=12, cycle_momentum=False)
    loader = DataLoader(handful(), batch_size=4)
    checkpoint = tmp_path / "checkpoint"
    options = {
        "scheduler": scheduler,
        "ema_decay": 0.9,
        "test_every": 3,
        "checkpoint": checkpoint,
        "progress": progress,
    }
    return train_test(model, optimizer, loader, loader, 4, **options)


def test_interrupted_training_goes_on_to_the_same_history(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = resumable(tmp_path / "whole", lambda rows, epochs: None)
    with pytest.raises(Interrupted):
        resumable(tmp_path, interrupt_after(2))
    told = []
    resumed = resumable(tmp_path, lambda rows, epochs: told.append(len(rows)))
    assert told == [3, 4]
    pd.testing.assert_frame_equal(
        resumed.drop(columns="seconds"), whole.drop(columns="seconds"), check_exact=True
    )


def test_training_stopped_after_its_last_epoch_still_tells_the_result(tmp_path):
    with pytest.raises(Interrupted):
        resumable(tmp_path, interrupt_after(4))
    told = []
    resumable(tmp_path, lambda rows, epochs: told.append(len(rows)))
    assert told == [4]


def test_broken_checkpoint_is_told_and_not_unpickled(tmp_path):
    (tmp_path / "checkpoint").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(LabError, match="checkpoint.*удалите"):
        resumable(tmp_path, interrupt_after(1))


def test_empty_loader_is_told():
    model = SqueezeNet(10)
    with pytest.raises(LabError, match="ни одного снимка"):
        evaluate(model, [])


@pytest.mark.parametrize("place", ["loader", "sampler"])
def test_order_of_a_loaders_own_generator_goes_on_where_it_was(tmp_path, place):
    """``DataLoader(generator=...)`` draws the order of every pass from a state that only it has."""

    def go(folder, progress):
        torch.manual_seed(0)
        model, data, generator = SqueezeNet(10, dropout=0.0), handful(), torch.Generator().manual_seed(7)
        own = {"shuffle": True, "generator": generator}
        if place == "sampler":
            own = {"sampler": torch.utils.data.RandomSampler(data, generator=generator)}
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        loaders = DataLoader(data, batch_size=4, **own), DataLoader(data, batch_size=4)
        return train_test(model, optimizer, *loaders, 4, checkpoint=folder / "checkpoint", progress=progress)

    (tmp_path / "whole").mkdir()
    whole = go(tmp_path / "whole", lambda rows, epochs: None)
    with pytest.raises(Interrupted):
        go(tmp_path, interrupt_after(2))
    resumed = go(tmp_path, lambda rows, epochs: None)
    pd.testing.assert_frame_equal(
        resumed.drop(columns="seconds"), whole.drop(columns="seconds"), check_exact=True
    )


class Averaging(torch.optim.SGD):
    """As schedule-free optimizers are: steps in train mode, tested with other weights in eval mode."""

    mode = "eval"

    def train(self):
        self._turn("train")

    def eval(self):
        self._turn("eval")

    @torch.no_grad()
    def _turn(self, mode):
        factor = {"train": 1.0, "eval": 0.0}[mode]
        if mode != self.mode:
            for weight in self.param_groups[0]["params"]:
                kept = self.state[weight].setdefault("kept", torch.zeros_like(weight))
                now = weight.clone()
                weight.copy_(kept if factor else torch.zeros_like(weight))
                kept.copy_(now)
        self.mode = mode

    def step(self, closure=None):
        assert self.mode == "train"
        return super().step(closure)


def test_optimizer_with_modes_trains_in_one_and_is_tested_in_the_other():
    torch.manual_seed(0)
    model, loader = SqueezeNet(10, dropout=0.0), DataLoader(handful(), batch_size=4)
    optimizer = Averaging(model.parameters(), lr=1e-2)
    optimizer.mode = "train"
    history = train_test(model, optimizer, loader, loader, 3, progress=lambda rows, epochs: None)
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]  # what it steps is kept
    assert (
        history["test_loss"].tolist() == [pytest.approx(np.log(10), abs=1e-3)] * 3
    )  # zero weights were tested
    assert optimizer.mode == "eval"
