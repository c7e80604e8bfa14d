"""Stanford Cars comes whole and checked, or not at all; the real clients talk to a local server."""

import io
import multiprocessing
import os
import time
import zipfile
from contextlib import redirect_stdout
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torchvision
from conftest import write_annotations
from kagglesdk import kaggle_env
from mirrors import Mirror
from PIL import Image

from labnn.data import open_dataset
from labnn.download import download
from labnn.kit.errors import LabError

NAMES = ["Acura RL Sedan 2012", "Acura Integra Type R 2001", "Ram C/V Cargo Van Minivan 2012"]
OFFICIAL = pd.DataFrame({"class": NAMES, "train": [3, 2, 2], "test": [2, 1, 2]})
LABELS = {"train": [2, 0, 0, 1, 0, 1, 2], "test": [0, 0, 2, 1, 2]}
BOXES = {part: [[2 + i, 3, 30 + i, 20] for i in range(len(labels))] for part, labels in LABELS.items()}
WHOLE = "rickyyyyyyy/torchvision-stanford-cars"
ONLY_BOXES = "eduardo4jesus/stanford-cars-dataset/car_devkit/devkit/cars_{part}_annos.mat"


def photo(number: int, **options) -> bytes:
    """A JPEG that no other number gives, 40 pixels wide."""
    pixels = np.random.default_rng(number).integers(0, 255, (30 + number, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


PHOTOS = {"train": list(map(photo, range(7))), "test": list(map(photo, range(10, 15)))}


def parquets(photos=PHOTOS, labels=LABELS) -> dict[str, bytes]:
    """Hugging Face's four files by path, of the schema that ``datasets`` writes."""
    files, kind = {}, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for part in labels:
        for number, rows in enumerate((slice(0, 4), slice(4, None))):
            images = pa.array([{"bytes": content, "path": None} for content in photos[part][rows]], kind)
            file = io.BytesIO()
            pq.write_table(pa.table({"image": images, "label": labels[part][rows]}), file)
            files[f"data/{part}-0000{number}-of-00002.parquet"] = file.getvalue()
    return files


def annotations(folder: Path, part: str, boxes=BOXES) -> bytes:
    names = [f"{index + 1:05d}.jpg" for index in range(len(LABELS[part]))]
    write_annotations(folder / "annos.mat", names, np.array(LABELS[part]) + 1, boxes[part])
    return (folder / "annos.mat").read_bytes()


def only_boxes(folder: Path, boxes=BOXES) -> dict[str, bytes]:
    """The files of official boxes, as Kaggle has them."""
    return {ONLY_BOXES.format(part=part): annotations(folder, part, boxes) for part in LABELS}


def archive(folder: Path, **more: bytes) -> bytes:
    """The whole set zipped, one folder around it."""
    files = {f"{part}/{i + 1:05d}.jpg": content for part in PHOTOS for i, content in enumerate(PHOTOS[part])}
    files = {f"stanford_cars/cars_{name}": content for name, content in files.items()}
    files["stanford_cars/devkit/cars_train_annos.mat"] = annotations(folder, "train")
    files["stanford_cars/cars_test_annos_withlabels.mat"] = annotations(folder, "test")
    scipy.io.savemat(folder / "meta.mat", {"class_names": np.array([NAMES], dtype=object)})
    files["stanford_cars/devkit/cars_meta.mat"] = (folder / "meta.mat").read_bytes()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in (files | more).items():
            packed.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """A server with the four files of Hugging Face, asked by both clients in place of the real ones."""
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    # It looks for its callers' libraries in the sources of the whole stack, which is deep in a test.
    monkeypatch.setattr("kagglehub.clients.get_user_agent", lambda: "kagglehub")
    with Mirror(parquets()) as server:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, server.address)
        yield server


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "set").mkdir()
    return tmp_path / "set" / "stanford_cars"


def fetch(mirror: Mirror, root: Path, official: pd.DataFrame | None = OFFICIAL):
    return open_dataset(download(root, endpoint=mirror.address, official=official))


def assert_whole(root: Path) -> None:
    """Photos are the source's bytes with their labels, in torchvision's layout; nothing else is left."""
    data = open_dataset(root)
    for part, dataset in (("train", data.train), ("test", data.test)):
        assert [path.read_bytes() for path in dataset.paths] == PHOTOS[part]
        theirs = torchvision.datasets.StanfordCars(root.parent, split=part)
        assert [label for _, label in theirs._samples] == dataset.labels.tolist() == LABELS[part]
        assert theirs.classes == data.class_names == NAMES
    assert {path.name for path in root.parent.iterdir()} <= {"stanford_cars", "locks"}


def test_the_whole_set_comes_with_its_labels_and_boxes_once(mirror, root, tmp_path):
    mirror.kaggle = only_boxes(tmp_path)
    data = fetch(mirror, root)
    assert_whole(root)
    assert (data.train.boxes.tolist(), data.test.boxes.tolist()) == (BOXES["train"], BOXES["test"])
    mirror.asked.clear()
    fetch(mirror, root)
    assert not mirror.asked


def test_without_boxes_in_the_photos_order_a_box_is_the_whole_upright_photo(mirror, root, tmp_path, capsys):
    turned = Image.Exif()
    turned[0x0112] = 6
    mirror.files = parquets(PHOTOS | {"train": [photo(0, exif=turned), *PHOTOS["train"][1:]]})
    mirror.kaggle = only_boxes(tmp_path, {"train": BOXES["train"], "test": [[1, 1, 900, 9]] * 5})
    del mirror.kaggle[ONLY_BOXES.format(part="train")]
    data = fetch(mirror, root)
    for dataset in data[:2]:
        assert [tuple(box[2:]) for box in dataset.boxes.tolist()] == [image.size for image, _ in dataset]
    assert data.train.boxes[0].tolist() == [1, 1, 30, 40]
    assert capsys.readouterr().out.count("рамкой будет весь снимок") == 2


def test_a_dropped_connection_goes_on_from_where_it_broke(mirror, root):
    mirror.drop_after = 11_000  # two of the four files are larger
    fetch(mirror, root)
    assert_whole(root)
    assert mirror.sent == sum(map(len, mirror.files.values()))


def test_kaggle_answers_where_hugging_face_does_not(mirror, root, tmp_path):
    mirror.files, mirror.kaggle = {}, {WHOLE: archive(tmp_path)}
    assert fetch(mirror, root).train.boxes.tolist() == BOXES["train"]
    assert_whole(root)


def test_an_archive_cannot_write_outside_its_folder(mirror, root, tmp_path):
    outside = {"../../../../../../evil.jpg": b"evil", f"{tmp_path}/evil.jpg": b"evil"}
    mirror.files, mirror.kaggle = {}, {WHOLE: archive(tmp_path, **outside)}
    fetch(mirror, root)
    caught = [path for path in tmp_path.parent.rglob("evil.jpg") if path.is_file()]
    assert all(path.is_relative_to(tmp_path / "kaggle") or path.is_relative_to(root) for path in caught)


def test_a_folder_with_something_else_is_left_alone(mirror, root, tiny_root):
    root.mkdir()
    (root / "diary.txt").write_text("mine")
    for place in (root, tiny_root):
        before = sorted(place.parent.rglob("*"))
        with pytest.raises(LabError, match=f"{place} занято, укажите другую"):
            fetch(mirror, place)
        assert sorted(place.parent.rglob("*")) == before and not mirror.asked


@pytest.mark.parametrize(
    "labels, photos, reason",
    [
        (LABELS | {"train": [1, 0, 0, 1, 0, 1, 2]}, PHOTOS, "классы не официальные"),
        (LABELS, PHOTOS | {"test": [b"<html>", *PHOTOS["test"][1:]]}, "UnidentifiedImageError"),
    ],
    ids=["a label", "no photo"],
)
def test_what_is_not_the_whole_official_set_is_refused(labels, photos, reason, mirror, root):
    mirror.files = parquets(photos, labels)
    with pytest.raises(LabError, match=reason):
        fetch(mirror, root)
    assert not root.exists()


def test_a_small_set_is_not_the_official_one(mirror, root):
    with pytest.raises(LabError, match="снимков 7 из 8144"):
        fetch(mirror, root, official=None)


def fetch_alone(address: str, root: Path, kaggle: Path) -> None:
    """``download`` in a process of its own."""
    os.environ |= {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "KAGGLEHUB_CACHE": str(kaggle)}
    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = address
    download(root, endpoint=address, official=OFFICIAL)


def wait_for(met) -> None:
    deadline = time.monotonic() + 120
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_of_two_processes_the_second_waits_and_takes_the_files_of_the_first_that_was_killed(
    mirror, root, tmp_path
):
    mirror.hold = "storage/data/train-00001"
    forkserver = multiprocessing.get_context("forkserver")
    first = forkserver.Process(target=fetch_alone, args=(mirror.address, root, tmp_path / "first"))
    first.start()
    wait_for(lambda: any(mirror.hold in asked for asked in mirror.asked))
    said = io.StringIO()

    def kill_the_first() -> None:
        wait_for(lambda: "жду его" in said.getvalue())
        first.kill()
        mirror.hold = "nothing"

    Thread(target=kill_the_first, daemon=True).start()
    with redirect_stdout(said):
        fetch(mirror, root)
    assert_whole(root)
    assert sum(asked.startswith("GET /storage/data/train-00000") for asked in mirror.asked) == 1


def test_without_a_source_the_ways_are_named(mirror, root, monkeypatch):
    mirror.files = {}
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, "http://127.0.0.1:9")
    with pytest.raises(LabError, match=r"huggingface.co или kaggle.com.*распакуйте архив .*stanford_cars"):
        fetch(mirror, root)
    assert not root.exists()
