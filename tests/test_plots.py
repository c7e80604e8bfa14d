"""Figures show what the tables say, in the same order and colours."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from labnn.report import plots, words
from labnn.report.plots import color, plot_changes, show_batch
from labnn.report.write import save_figure
from labnn.settings import OPTIMIZERS

LADDER = pd.DataFrame(
    {
        "change": ["", "пакетная нормализация", "эпох: 200"],
        "epochs": [10, 10, 200],
        "minutes": [1.0, 1.0, 20.0],
        "test_loss": [5.0, 4.0, 1.0],
        "test_accuracy": [0.0084, 0.0444, 0.8199],
    }
)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_bars_stand_in_the_order_of_the_table_and_are_its_numbers():
    ax = plot_changes(LADDER, 0.0084)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == words.table(LADDER)["Что изменено"].tolist()
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(100 * LADDER["test_accuracy"])
    assert ax.yaxis_inverted()  # the first row on top
    assert [text.get_text() for text in ax.texts] == ["0,84", "4,44", "81,99"]


def test_an_optimizer_has_one_colour_and_one_of_ones_own_has_one_too(monkeypatch):
    assert len({color(key) for key in OPTIMIZERS}) == len(OPTIMIZERS)
    monkeypatch.setitem(OPTIMIZERS, "lion", lambda weights, lr, decay: None)
    assert color("lion") == color("lion") and words.title("lion") == "lion"


def test_numbers_on_axes_are_written_the_russian_way():
    ax = plots.plot_step_sizes(
        pd.DataFrame({"step": [1, 2], "paper": [1.0, 2.0], "torch": 1.0, "corrected_first": 1})
    )
    ax.figure.canvas.draw()
    ticks = [label.get_text() for label in ax.get_yticklabels()]
    assert "1,4" in ticks and not any("." in tick for tick in ticks)


def test_batch_of_mixed_pictures_is_shown_with_the_largest_share():
    shares = torch.tensor([[0.2, 0.8], [0.9, 0.1]])
    figure = show_batch(torch.rand(2, 3, 8, 8), shares, ["Audi", "BMW"], columns=2)
    assert [ax.get_title() for ax in figure.axes] == ["BMW", "Audi"]


def test_a_figure_is_the_same_bytes_each_time(tmp_path):
    first, second = (save_figure(plot_changes(LADDER, 0.1).figure, tmp_path / f"{name}.png") for name in "ab")
    assert first.read_bytes() == second.read_bytes() and b"Software" not in first.read_bytes()
