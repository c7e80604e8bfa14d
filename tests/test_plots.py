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
from made_runs import finished, found
from matplotlib.colors import to_rgba
from PIL import Image

from labnn.report import plots
from labnn.report.studies import recorded
from labnn.report.write import inline, save_figure
from labnn.settings import OPTIMIZERS, method


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_an_optimizer_that_never_wins_has_its_colour_in_the_legend_all_the_same():
    [ax] = plots.plot_answer(found()[:0], found(amsgrad=[0.4, 0.5], adam=[0.5, 0.6])).axes
    bars = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    for name in ("amsgrad", "adam"):
        shown = bars[f"точнее {method(name).title}"].patches[0].get_facecolor()
        assert shown == to_rgba(method(name).color)


def test_one_spike_does_not_flatten_a_curve_and_is_told():
    history = pd.DataFrame({"epoch": range(1, 9), "train_loss": 2.0, "train_accuracy": 0.5})
    history = history.assign(test_loss=[2.0, 71.2, 2.0, 2.0, 1.9, 1.8, 1.8, 1.8], test_accuracy=0.4)
    loss, accuracy = plots.plot_histories({"adam": history}, 10).axes
    assert loss.get_ylim()[1] < 4 and loss.get_title() == "выше рамки: до 71,2" and not accuracy.get_title()


def test_what_has_diverged_ends_and_is_not_drawn_on():
    history = pd.DataFrame({"epoch": [1, 2, 3, 4], "train_loss": [5.0, 4.0, 3.0, np.nan]})
    history["test_loss"] = [5.0, None, 3.0, None]  # epoch 2 was not tested
    history = history.assign(train_accuracy=0.5, test_accuracy=0.5)
    test, train = plots.plot_histories({"adam": history}, 10).axes[0].lines[:2]
    assert test.get_ydata()[:3].tolist() == [5.0, 4.0, 3.0] and np.isnan(test.get_ydata()[3])
    assert np.isnan(train.get_ydata()[3])


def test_numbers_on_axes_are_written_the_russian_way():
    figure = plots.plot_histories({"adam": finished(0.5).history}, 10)
    figure.canvas.draw()
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert any("," in tick for tick in ticks) and not any("." in tick for tick in ticks)


def test_batch_of_mixed_pictures_is_shown_with_the_largest_share():
    shares = torch.tensor([[0.2, 0.8], [0.9, 0.1]])
    figure = plots.show_batch(torch.rand(2, 3, 8, 8), shares, ["Audi", "BMW"], columns=2)
    assert [ax.get_title() for ax in figure.axes] == ["BMW", "Audi"]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_figure_is_the_same_bytes_each_time(tmp_path, suffix):
    histories = {"adam": finished(0.5).history}
    paths = [save_figure(plots.plot_histories(histories, 10), tmp_path / f"{name}{suffix}") for name in "ab"]
    first, second = (path.read_bytes() for path in paths)
    assert first == second and b"Software" not in first and b"dc:date" not in first


def luminance(shade: str) -> float:
    """WCAG 2's relative luminance."""
    values = np.array(matplotlib.colors.to_rgb(shade))
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_colours_of_optimizers_differ_and_stand_out_on_white():
    colours = {method(name).color for name in OPTIMIZERS}
    assert len(colours) == len(OPTIMIZERS)
    assert all(1.05 / (luminance(colour) + 0.05) >= 3 for colour in colours)


@pytest.mark.parametrize("pair", [("amsgrad", "adam"), ("adamw-amsgrad", "adamw")])
def test_optimizers_are_told_apart_without_colour(pair):
    """By the marker and whether it is hollow, on other points where a line has many."""
    first, second = (plots.look(name, 40) for name in pair)
    assert first["marker"] != second["marker"] and first["markevery"] != second["markevery"]
    assert [line["markerfacecolor"] == "white" for line in (first, second)] == [False, True]


def test_nothing_leaves_the_figures_of_the_recorded_studies():
    known = recorded()
    for name in ("answers", "comparison", "recipe_pairs"):
        for draw in known[name].figures.values():
            figure = draw()
            figure.canvas.draw()
            inside, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert inside.min.min() >= -0.02 and (inside.max - (width, height)).max() <= 0.02


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_picture_in_a_notebook_is_sharp_and_told_to_the_blind(kind):
    shown, about = inline(plots.plot_histories({"adam": finished(0.5).history}, 10), "Точность растёт", kind)
    picture = Image.open(io.BytesIO(base64.b64decode(shown[f"image/{kind}"])))
    assert about[f"image/{kind}"]["alt"] == "Точность растёт" and not plt.get_fignums()
    assert picture.width == 2 * about[f"image/{kind}"]["width"] == pytest.approx(2 * 72 * plots.WIDTH, abs=2)
