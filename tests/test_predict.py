"""A trained network names photos of one's own and shows why."""

import json
import shutil

import pandas as pd
import pytest
import torch
from conftest import MINICARS

from labnn import Experiment, LabError, evaluate, open_dataset, run_or_load
from labnn.__main__ import main
from labnn.experiment import Run, decode, make_batches
from labnn.predict import EXAMPLE, find_photos, open_network, plot_answers, predict
from labnn.report.maps import class_maps, plot_class_maps

PHOTO = MINICARS / "cars_test" / "00002.jpg"


@pytest.fixture(scope="module")
def network():
    return open_network()


def test_committed_weights_give_the_recorded_accuracy_within_their_half_precision(network, tmp_path):
    run = Run.load(EXAMPLE)
    data = open_dataset(MINICARS, crop_to_box=True)
    _, batches = make_batches(run.experiment, decode(run.experiment, data, tmp_path))
    tested = evaluate(network.model, batches, mirror=run.experiment.mirror_test)
    recorded = torch.tensor(run.predictions["prediction"].tolist())
    assert (tested.predictions != recorded).sum() <= 2


def test_five_best_answers_of_a_photo_are_shares_best_first(network):
    answers = predict(network, [PHOTO])
    assert answers["place"].tolist() == [1, 2, 3, 4, 5] and set(answers["class"]) <= set(network.class_names)
    assert answers["probability"].is_monotonic_decreasing and answers["probability"].sum() <= 1


def test_mean_of_a_classs_map_is_its_logit(network):
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = network.model(images)
    assert torch.allclose(class_maps(network.model, images).mean((2, 3)), logits, atol=1e-5)


def test_maps_are_drawn_where_all_answers_are_right_or_all_wrong(network):
    images = torch.rand(3, 3, 64, 64)
    answers = class_maps(network.model, images).mean((2, 3)).argmax(1)
    for labels in (answers, (answers + 1) % 10):
        figure = plot_class_maps(network.model, [(images, labels)], network.class_names)
        assert sum(bool(ax.images) for ax in figure.axes) == 3


def test_a_folder_is_answered_but_for_what_is_broken_which_is_told(tmp_path, capsys):
    photos = tmp_path / "двор" / "вчера"
    photos.mkdir(parents=True)
    shutil.copy(PHOTO, photos)
    (photos / "broken.jpg").write_bytes(b"\0\5" + bytes(99))
    (photos / "._00002.jpg").write_bytes(b"\0\5")  # what a Mac leaves beside a photo
    out = [tmp_path / "out" / name for name in ("answers.csv", "answers.PNG")]
    assert main(["predict", str(tmp_path), "--csv", str(out[0]), "--figure", str(out[1])]) == 0
    told = capsys.readouterr()
    assert "broken.jpg не читается" in told.out and "._00002" not in told.out + told.err
    assert pd.read_csv(out[0])["photo"].unique().tolist() == [str(photos / "00002.jpg")]
    assert out[1].stat().st_size > 0


def test_a_network_of_ones_own_is_drawn_without_maps(network):
    layers = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 10)
    own = network._replace(model=torch.nn.Sequential(*layers))
    assert len(plot_answers(own, predict(own, [PHOTO])).axes) == 2


def test_ones_own_run_is_named_by_its_record_or_by_its_own_data_and_by_no_other(tiny_root, tmp_path):
    data, cache = open_dataset(tiny_root), tmp_path / "cache"
    experiment = Experiment("adam", epochs=1, image_size=32, batch_size=8, test_size=0)
    run = run_or_load(experiment, data, tmp_path / "runs", cache_dir=cache)
    folder = tmp_path / "runs" / run.name
    assert list(open_network(folder, cache_dir=cache).class_names) == data.class_names
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    del record["data"]["class_names"]  # older records have none
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(LabError, match="--data"):
        open_network(folder, cache_dir=cache)
    assert len(open_network(folder, data_root=tiny_root, cache_dir=cache).class_names) == 10
    with pytest.raises(LabError, match="на другом наборе"):
        open_network(folder, data_root=MINICARS, cache_dir=cache)


def test_mistake_in_what_is_asked_is_one_sentence(tmp_path):
    record = shutil.copytree(EXAMPLE, tmp_path / "run", ignore=shutil.ignore_patterns("*.pt"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    mistakes = {
        "Снимков нет в": lambda: find_photos([tmp_path]),
        "Нет ни файла, ни папки": lambda: find_photos([tmp_path / "нет.jpg"]),
        "Весов прогона": lambda: open_network(record, cache_dir=tmp_path),
        "от другой сети": lambda: open_network(weights=tmp_path / "other.pt"),
    }
    for words, call in mistakes.items():
        with pytest.raises(LabError, match=words):
            call()


def test_a_figures_name_is_looked_at_before_any_work(tmp_path, capsys):
    assert main(["predict", str(PHOTO), "--figure", str(tmp_path / "answers")]) == 2
    told = capsys.readouterr()
    assert ".png" in told.err and told.out == ""
