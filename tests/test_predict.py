"""A trained network names photos of one's own, shows why, and goes to other programs."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MINICARS

from labnn import LabError, evaluate, open_dataset
from labnn.__main__ import main
from labnn.batches import Batches, decode_images
from labnn.experiment import Run
from labnn.report.maps import class_maps, plot_class_maps, plot_confused
from labnn.report.predict import EXAMPLE, list_photos, open_network, predict, write_onnx

PHOTO = MINICARS / "cars_test" / "00002.jpg"


@pytest.fixture(scope="module")
def network():
    return open_network(EXAMPLE)


def test_committed_weights_give_the_recorded_accuracy_within_their_half_precision(network, tmp_path):
    run = Run.load(EXAMPLE)
    data = open_dataset(MINICARS, crop_to_box=True)
    batches = Batches(decode_images(data.test, network.size, tmp_path), data.test.labels, 128)
    tested = evaluate(network.model, batches, mirror=run.experiment.mirror_test)
    recorded = torch.tensor(run.predictions["prediction"].tolist())
    assert (tested.predictions != recorded).sum() <= 2
    assert (EXAMPLE / "weights.pt").stat().st_size < 4_000_000


def test_five_best_answers_of_a_photo_are_shares_best_first(network):
    answers = predict(network, [PHOTO])
    assert answers["place"].tolist() == [1, 2, 3, 4, 5] and set(answers["class"]) <= set(network.class_names)
    assert answers["probability"].is_monotonic_decreasing and answers["probability"].sum() <= 1


def test_mean_of_a_classs_map_is_its_logit(network):
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = network.model(images)
    assert torch.allclose(class_maps(network.model, images).mean((2, 3)), logits, atol=1e-5)


@pytest.mark.parametrize("answers", ["right", "wrong"])
def test_maps_are_drawn_where_all_answers_are_right_or_all_wrong(network, answers):
    images = torch.rand(3, 3, 64, 64)
    labels = class_maps(network.model, images).mean((2, 3)).argmax(1)
    labels = labels if answers == "right" else (labels + 1) % 10
    figure = plot_class_maps(network.model, [(images, labels)], network.class_names)
    shown = [bool(ax.images) for ax in figure.axes]
    assert shown == (
        [True] * 3 + [False] * 7 if answers == "right" else [False] * 5 + [True] * 3 + [False] * 2
    )


def test_confused_classes_are_shown_by_pictures(network, tmp_path):
    data = open_dataset(MINICARS, crop_to_box=True)
    batches = Batches(decode_images(data.test, 64, tmp_path), data.test.labels, 128)
    figure = plot_confused(evaluate(network.model, batches), data)
    assert all(ax.images for ax in figure.axes) and "ошибок" in figure.axes[0].get_title()


def test_predict_writes_table_and_figure_for_a_folder(tmp_path, capsys):
    for number in (1, 2):
        shutil.copy(MINICARS / "cars_test" / f"0000{number}.jpg", tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    out = [tmp_path / "out" / name for name in ("answers.csv", "answers.jpg")]
    assert main(["predict", str(tmp_path), "--csv", str(out[0]), "--figure", str(out[1])]) == 0
    assert len(pd.read_csv(out[0])) == 10 and out[1].stat().st_size > 0
    assert "00001.jpg: " in capsys.readouterr().out


MISTAKES = {
    "no photo": (lambda folder: list_photos([folder]), "Снимков нет в"),
    "no picture": (lambda folder: predict(open_network(EXAMPLE), [_text(folder)]), "не читается"),
    "run without weights": (lambda folder: open_network(_without_weights(folder)), "нет весов"),
    "weights of another network": (lambda folder: open_network(EXAMPLE, _other(folder)), "от другой сети"),
    "names of other classes": (lambda folder: open_network(EXAMPLE, names=["седан"]), "Имён классов 1"),
}


def _text(folder):
    (folder / "a.jpg").write_text("no picture")
    return folder / "a.jpg"


def _without_weights(folder):
    return shutil.copytree(EXAMPLE, folder / "run", ignore=shutil.ignore_patterns("weights.pt"))


def _other(folder):
    torch.save({"a": torch.zeros(1)}, folder / "other.pt")
    return folder / "other.pt"


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_in_what_is_asked_is_one_sentence(case, tmp_path):
    call, words = MISTAKES[case]
    with pytest.raises(LabError, match=words):
        call(tmp_path)


def test_onnx_file_answers_as_the_network(network, tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = runtime.InferenceSession(write_onnx(network, tmp_path / "network.onnx"))
    images = torch.rand(3, 3, network.size, network.size)
    [logits] = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        assert np.allclose(logits, network.model(images).numpy(), atol=1e-3)
