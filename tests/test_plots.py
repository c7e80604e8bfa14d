"""Figures show what the tables say, in the same order and colours."""

import matplotlib

matplotlib.use("agg")

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROJECT
from matplotlib.colors import to_rgba
from matplotlib.text import Text
from PIL import Image

from labnn.model import FireModule, SqueezeNet
from labnn.report import plots, theory, words
from labnn.report.drawings import draw_fire, draw_network, network_layers
from labnn.report.plots import color, look, plot_changes, show_batch
from labnn.report.studies import STUDIES
from labnn.report.write import inline, save_figure
from labnn.settings import OPTIMIZERS

LADDER = pd.DataFrame(
    {
        "change": ["", "пакетная нормализация", "эпох: 200"],
        "epochs": [10, 10, 200],
        "runs": [1, 1, 1],
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


def test_an_optimizer_that_never_wins_has_its_colour_in_the_legend_all_the_same():
    _, runs = STUDIES["comparison"].load(PROJECT / "data" / "runs")
    ax = plots.plot_differences([run for run in runs if run.experiment.seed == 0])
    handles, titles = ax.get_legend_handles_labels()
    shown = {name: bars.patches[0].get_facecolor() for bars, name in zip(handles, titles, strict=True)}
    assert shown == {words.title(key): to_rgba(color(key)) for key in ("amsgrad", "adam")}


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
    drawings = [path.with_suffix(".svg").read_bytes() for path in (first, second)]
    assert drawings[0] == drawings[1] and b"<svg" in drawings[0] and b"dc:date" not in drawings[0]


def luminance(shade: str) -> float:
    """WCAG 2's relative luminance."""
    values = np.array(matplotlib.colors.to_rgb(shade))
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("key", OPTIMIZERS)
def test_colour_of_an_optimizer_stands_out_on_white(key):
    assert 1.05 / (luminance(color(key)) + 0.05) >= 3


@pytest.mark.parametrize("pair", [("amsgrad", "adam"), ("adamw-amsgrad", "adamw")])
def test_optimizers_are_told_apart_without_colour(pair):
    """By the marker and whether it is hollow, on other points where a line has many."""
    first, second = (look(key, 40) for key in pair)
    assert first["marker"] != second["marker"] and first["markevery"] != second["markevery"]
    assert [line["markerfacecolor"] == "white" for line in (first, second)] == [False, True]


def paths(steps: int) -> pd.DataFrame:
    return theory.counter_example(theory.online_gradients(steps), 0.003)


def test_counter_example_says_what_its_frame_cuts_off():
    figure = plots.plot_counter_example({"по порядку": paths(5000)})
    assert figure.axes[1].get_title() == "начало вне рамки: от 0,2 до 1010,0"


def test_what_has_diverged_ends_and_is_not_drawn_on():
    history = pd.DataFrame({"epoch": [1, 2, 3, 4], "train_loss": [5.0, 4.0, 3.0, float("nan")]})
    history["test_loss"] = [5.0, float("nan"), 3.0, float("nan")]  # epoch 2 was not tested
    test, train = plots.plot_metric({"adam": [history]}, 10, "loss").lines[:2]
    assert test.get_ydata()[:3].tolist() == [5.0, 4.0, 3.0] and np.isnan(test.get_ydata()[3])
    assert np.isnan(train.get_ydata()[3])


def test_long_changes_are_numbered_as_in_their_table_and_cut():
    long = LADDER.assign(change=["", "скорость обучения 0,003, начальные веса He, " + 3 * "отражение, ", "б"])
    labels = [label.get_text() for label in plot_changes(long, 0.0084).get_yticklabels()]
    assert labels[0] == "1. рецепт исходной работы" and labels[1].startswith("2. α = 0,003, веса He")
    assert max(map(len, labels)) <= words.LONG
    cells = [line.split("|")[1].strip() for line in words.markdown(long).splitlines()[2:]]
    assert [cell[:3] for cell in cells] == ["1. ", "2. ", "3. "]


def drawn() -> dict:
    """Every figure of the recorded studies, and those that have no record."""
    runs = PROJECT / "data" / "runs"
    records = ((study, study.load(runs)) for study in STUDIES.values())
    figures = {
        f"{study.name} {name}": figure
        for study, record in records
        if record
        for name, figure in study.figures(record).items()
    }
    figures["counter example"] = plots.plot_counter_example({"по порядку": paths(5000)})
    figures["network"] = draw_network(SqueezeNet(196, "1_0"), 224)
    figures["fire"] = draw_fire(FireModule(512, 64, 256, 256, True, True), 512, 109)
    return figures


def test_no_text_leaves_its_figure():
    for name, figure in drawn().items():
        figure.canvas.draw()
        drawn_in, (width, height) = figure.get_tightbbox(), figure.get_size_inches()  # inches
        low, high = drawn_in.min.min(), drawn_in.max - (width, height)
        assert low >= -0.02 and high.max() <= 0.02, name


@pytest.mark.parametrize("version, bypass", [("1_0", False), ("1_1", False), ("1_1", True)])
def test_network_is_drawn_with_the_shapes_of_a_forward_pass(version, bypass):
    model = SqueezeNet(10, version, bypass=bypass).train()
    x, shapes = torch.zeros(2, 3, 64, 64), []
    parts = (*model.features, *model.classifier)
    with torch.no_grad():
        for part in parts:
            x = part(x)
            shapes.append((part, tuple(x.shape[1:])))
    layers = network_layers(model, 64)
    assert model.training and [pair for pair in shapes if pair in layers] == layers
    assert sum(isinstance(part, FireModule) for part, _ in layers) == 8
    texts = [text.get_text() for text in draw_network(model, 64).findobj(Text)]
    assert {" × ".join(map(str, shape)) for _, shape in layers} <= set(texts)
    assert len([text for text in texts if text == "10 × 1 × 1"]) == 1


def test_fire_module_is_drawn_with_its_shapes():
    texts = "\n".join(text.get_text() for text in draw_fire(FireModule(96, 16, 64, 32), 96, 54).findobj(Text))
    for shape in ("96 × 54 × 54", "16 × 54 × 54", "64 × 54 × 54", "32 × 54 × 54"):
        assert shape in texts
    assert "вход, ReLU" not in texts and "BN" not in texts


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_picture_in_a_notebook_is_sharp_and_told_to_the_blind(kind):
    shown, about = inline(plot_changes(LADDER, 0.1).figure, "Точность растёт", kind)
    picture = Image.open(io.BytesIO(base64.b64decode(shown[f"image/{kind}"])))
    assert about[f"image/{kind}"]["alt"] == "Точность растёт" and not plt.get_fignums()
    assert picture.width == 2 * about[f"image/{kind}"]["width"] == pytest.approx(2 * 72 * plots.WIDTH, abs=2)
