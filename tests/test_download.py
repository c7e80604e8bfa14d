"""Stanford Cars comes whole and checked, or not at all; the real clients talk to a local server."""

import contextlib
import io
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torchvision
from conftest import MINICARS, PROJECT, write_annotations
from kagglesdk import kaggle_env
from mirrors import Mirror
from PIL import Image

from labnn.__main__ import main
from labnn.cars.download import download
from labnn.cars.layouts import Official, official_classes
from labnn.data import open_dataset
from labnn.kit.errors import LabError

NAMES = ["Acura RL Sedan 2012", "Acura Integra Type R 2001", "Ram C/V Cargo Van Minivan 2012"]
OFFICIAL = Official(NAMES, [3, 2, 2], [2, 1, 2], 100_000)
LABELS = {"train": [2, 0, 0, 1, 0, 1, 2], "test": [0, 0, 2, 1, 2]}
BOXES = {
    part: [(2 + index, 3, 30 + index, 20) for index in range(len(labels))] for part, labels in LABELS.items()
}
NESTED, FOLDERS = "eduardo4jesus/stanford-cars-dataset", "cyizhuo/stanford-cars-by-classes-folder"


def photo(number: int) -> bytes:
    """A JPEG that no other number gives, 40 pixels wide."""
    file = io.BytesIO()
    Image.fromarray(
        np.random.default_rng(number).integers(0, 255, (30 + number, 40, 3), dtype=np.uint8)
    ).save(file, "JPEG")
    return file.getvalue()


PHOTOS = {
    "train": [photo(number) for number in range(7)],
    "test": [photo(number) for number in range(10, 15)],
}


def parquet(photos: list[bytes], labels: list[int], names: list[str] | None = NAMES) -> bytes:
    """A file of the schema that ``datasets`` writes."""
    images = pa.array(
        [{"bytes": content, "path": None} for content in photos],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": images, "label": pa.array(labels, pa.int64())})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def parquets(photos=PHOTOS, labels=LABELS, names=NAMES) -> dict[str, bytes]:
    """The four files of the repository by path."""
    files = {}
    for part, all_labels in labels.items():
        for number, rows in enumerate((slice(0, 4), slice(4, None))):
            files[f"data/{part}-0000{number}-of-00002.parquet"] = parquet(
                photos[part][rows], all_labels[rows], names
            )
    return files


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """A server with the four files of Hugging Face, asked by both clients in place of the real ones."""
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("kagglehub.clients.CHUNK_SIZE", 1000)
    with Mirror(parquets()) as server:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, server.address)
        yield server


def fetch(mirror: Mirror, folder: Path, official: Official = OFFICIAL):
    return open_dataset(download(folder / "stanford_cars", endpoint=mirror.address, official=official))


def assert_whole(root: Path) -> None:
    """Photos are the source's bytes with their labels, in torchvision's layout; nothing else is left."""
    data = open_dataset(root)
    assert data.class_names == NAMES
    for part, dataset in (("train", data.train), ("test", data.test)):
        assert [path.read_bytes() for path in dataset.paths] == PHOTOS[part]
        assert dataset.labels.tolist() == LABELS[part]
        theirs = torchvision.datasets.StanfordCars(root.parent, split=part)
        assert [label for _, label in theirs._samples] == LABELS[part] and theirs.classes == NAMES
    assert {path.name for path in root.parent.iterdir()} <= {"stanford_cars", "locks", "kaggle"}


def test_photos_are_the_bytes_of_the_source_with_their_labels(mirror, tmp_path, capsys):
    data = fetch(mirror, tmp_path)
    assert_whole(tmp_path / "stanford_cars")
    assert data.train.boxes.tolist() == [[1, 1, 40, 30 + number] for number in range(7)]
    out = capsys.readouterr().out
    assert "рамкой будет весь снимок" in out and "обучающих снимков 7, тестовых 5, классов 3" in out


def test_progress_tells_the_bytes_that_have_come_of_all(mirror, tmp_path):
    told = []
    download(
        tmp_path / "stanford_cars",
        endpoint=mirror.address,
        official=OFFICIAL,
        progress=lambda done, total: told.append((done, total)),
    )
    total = sum(map(len, mirror.files.values()))
    assert len(told) > 40 and {all_bytes for _, all_bytes in told} == {total}
    done = [bytes_done for bytes_done, _ in told]
    assert done == sorted(done) and total - 9000 < done[-1] <= total


def with_boxes(mirror, tmp_path, boxes=BOXES, labels=LABELS) -> None:
    """Gives the mirror the official annotations, as Kaggle has them; the test part's need no labels."""
    for part in ("train", "test"):
        names = [f"{index + 1:05d}.jpg" for index in range(len(labels[part]))]
        write_annotations(tmp_path / "boxes.mat", names, np.array(labels[part]) + 1, boxes[part])
        mirror.single[NESTED, f"car_devkit/devkit/cars_{part}_annos.mat"] = (
            tmp_path / "boxes.mat"
        ).read_bytes()
    (tmp_path / "boxes.mat").unlink()


def test_official_boxes_are_taken_where_the_order_agrees(mirror, tmp_path):
    with_boxes(mirror, tmp_path)
    data = fetch(mirror, tmp_path)
    assert_whole(tmp_path / "stanford_cars")
    assert data.train.boxes.tolist() == [
        list(box) for box in BOXES["train"]
    ] and data.test.boxes.tolist() == [list(box) for box in BOXES["test"]]


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": LABELS | {"train": LABELS["train"][::-1][1:] + [2]}},
        {"boxes": BOXES | {"test": [(1, 1, 900, 9)] * 5}},
    ],
)
def test_boxes_of_another_order_are_not_taken(changed, mirror, tmp_path, capsys):
    with_boxes(mirror, tmp_path, **changed)
    data = fetch(mirror, tmp_path)
    assert "снимки стоят в другом порядке" in capsys.readouterr().out
    assert data.train.boxes.tolist() == [[1, 1, 40, 30 + number] for number in range(7)]


def test_a_photo_turned_by_its_camera_has_a_box_that_holds_it_upright(mirror, tmp_path):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(PHOTOS["train"][0])).save(file, "JPEG", exif=exif)
    mirror.files = parquets(PHOTOS | {"train": [file.getvalue(), *PHOTOS["train"][1:]]})
    data = fetch(mirror, tmp_path)
    assert data.train.boxes[0].tolist() == [1, 1, 30, 40] and data.train.image(0).size == (30, 40)


def test_what_is_there_is_not_fetched_again(mirror, tmp_path, capsys):
    fetch(mirror, tmp_path)
    mirror.asked.clear()
    fetch(mirror, tmp_path)
    assert not mirror.asked and "ничего не скачивалось" in capsys.readouterr().out


def test_a_folder_with_something_else_is_left_alone(mirror, tmp_path):
    (tmp_path / "stanford_cars").mkdir()
    (tmp_path / "stanford_cars" / "diary.txt").write_text("mine")
    with pytest.raises(LabError, match="занято, а целого набора там нет .*укажите другое"):
        fetch(mirror, tmp_path)
    assert not mirror.asked and [path.name for path in (tmp_path / "stanford_cars").iterdir()] == [
        "diary.txt"
    ]
    assert not (tmp_path / "locks").exists()


def test_another_data_set_is_not_taken_for_it(tiny_root, tmp_path):
    with pytest.raises(LabError, match="tiny занято другим набором, не Stanford Cars .*: укажите другое"):
        download(tiny_root)


def test_an_empty_folder_is_filled(mirror, tmp_path):
    (tmp_path / "stanford_cars").mkdir()
    fetch(mirror, tmp_path)
    assert_whole(tmp_path / "stanford_cars")


def test_a_dropped_connection_goes_on_from_where_it_broke(mirror, tmp_path):
    mirror.drop_after = 7000
    fetch(mirror, tmp_path)
    assert_whole(tmp_path / "stanford_cars")
    assert sum(asked.startswith("GET /storage") and "bytes=7000-" in asked for asked in mirror.asked) == 4
    assert mirror.sent == sum(map(len, mirror.files.values()))


def test_a_network_that_dies_leaves_what_came_for_the_next_call(mirror, tmp_path, capsys):
    mirror.dead_after = 20_500
    with pytest.raises(LabError, match="скачанное не пропадёт"):
        fetch(mirror, tmp_path)
    assert "Источник: Hugging Face\nНе вышло: связи нет или она прервалась" in capsys.readouterr().out
    assert not (tmp_path / "stanford_cars").exists()
    mirror.dead_after = None
    fetch(mirror, tmp_path)
    assert_whole(tmp_path / "stanford_cars")
    assert mirror.sent < sum(map(len, mirror.files.values())) + 1000  # no more than a chunk came twice


def swapped(names):
    return [names[1], names[0], *names[2:]]


def fewer_rows():
    return parquets(
        labels=LABELS | {"test": LABELS["test"][:-1]}, photos=PHOTOS | {"test": PHOTOS["test"][:-1]}
    )


WRONG = {
    "classes in another order": (
        lambda: parquets(names=swapped(NAMES)),
        "класс 1 должен быть «Acura RL Sedan 2012», а стоит «Acura Integra",
    ),
    "fewer classes": (lambda: parquets(names=NAMES[:2]), "класс 3 должен быть «Ram C/V"),
    "labels mean other classes": (
        lambda: parquets(
            labels={part: [(label + 1) % 3 for label in labels] for part, labels in LABELS.items()}
        ),
        "в части train у класса «Acura RL Sedan 2012» снимков 2, а должно быть 3",
    ),
    "the same without names of classes": (
        lambda: parquets(
            labels={part: [2 - label for label in labels] for part, labels in LABELS.items()}, names=None
        ),
        "в части train у класса «Acura RL Sedan 2012» снимков 2",
    ),
    "a row too few": (fewer_rows, "в части test строк 4, а должно быть 5"),
    "a label beyond the list": (
        lambda: parquets(labels=LABELS | {"train": [3, 0, 0, 1, 0, 1, 2]}),
        "«Ram C/V Cargo Van Minivan 2012» снимков 1",
    ),
    "a label below zero": (
        lambda: parquets(labels=LABELS | {"train": [-1, 0, 0, 1, 0, 1, 2]}),
        "в части train есть метка -1",
    ),
    "a photo that is none": (
        lambda: parquets(PHOTOS | {"test": [b"<html>", *PHOTOS["test"][1:]]}),
        "снимок 1 в test-00000-of-00002.parquet не читается",
    ),
    "not parquet": (
        lambda: parquets() | {"data/test-00001-of-00002.parquet": b"<html>404</html>"},
        "test-00001-of-00002.parquet не читается",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_the_official_set_is_refused_and_fetched_anew(case, mirror, tmp_path, capsys):
    spoil, reason = WRONG[case]
    mirror.files = spoil()
    with pytest.raises(LabError):
        fetch(mirror, tmp_path)
    assert reason in capsys.readouterr().out
    assert not (tmp_path / "stanford_cars").exists()
    mirror.files = parquets()
    fetch(mirror, tmp_path)
    assert_whole(tmp_path / "stanford_cars")


@pytest.mark.parametrize("lie", [7, -7])
def test_a_file_of_another_size_than_promised_is_refused(lie, mirror, tmp_path, capsys):
    mirror.lie = lie
    with pytest.raises(LabError):
        fetch(mirror, tmp_path)
    size = len(mirror.files["data/train-00000-of-00002.parquet"])
    assert (
        f"train-00000-of-00002.parquet пришёл размером {size} байт вместо {size + lie}"
        in capsys.readouterr().out
    )
    mirror.lie = 0
    fetch(mirror, tmp_path)
    assert_whole(tmp_path / "stanford_cars")


def test_a_byte_that_changed_on_the_way_is_noticed(mirror, tmp_path, capsys):
    mirror.flip = 2000  # in a picture
    with pytest.raises(LabError):
        fetch(mirror, tmp_path)
    assert "train-00000-of-00002.parquet пришёл с другой контрольной суммой" in capsys.readouterr().out
    mirror.flip = None
    fetch(mirror, tmp_path)
    assert_whole(tmp_path / "stanford_cars")


def test_too_small_a_disk_is_told_before_anything_is_fetched(mirror, tmp_path):
    with pytest.raises(LabError, match=r"нужно 2000000.0 ГБ, а в папке .* свободно .*освободите место"):
        fetch(mirror, tmp_path, OFFICIAL._replace(photo_bytes=10**15))
    assert not mirror.asked


forkserver = multiprocessing.get_context("forkserver")


def fetch_alone(address: str, folder: Path, limit: int | None = None) -> None:
    """``fetch`` in a process of its own, where no file may outgrow ``limit`` bytes, as on a full disk."""
    os.environ |= {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "KAGGLEHUB_CACHE": str(folder / "kaggle")}
    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = address
    words = folder.with_suffix(f".{os.getpid()}.txt")
    sys.stdout = open(words, "w", encoding="utf-8")  # noqa: SIM115  closed with the process
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        download(folder / "stanford_cars", endpoint=address, official=OFFICIAL)
    except LabError as error:
        folder.with_suffix(".error").write_text(str(error), encoding="utf-8")


def in_process(*arguments) -> multiprocessing.Process:
    process = forkserver.Process(target=fetch_alone, args=arguments)
    process.start()
    return process


@pytest.mark.parametrize("limit, packed", [(5000, False), (1000, True)])
def test_a_full_disk_is_told_and_nothing_half_done_is_left(limit, packed, mirror, tmp_path):
    """The disk fills while the files come, or, where they have come, while the photos are unpacked."""
    folder = tmp_path / "full"
    folder.mkdir()
    if packed:
        for name, content in mirror.files.items():
            (folder / ".stanford_cars.download" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / ".stanford_cars.download" / name).write_bytes(content)
    in_process(mirror.address, folder, limit).join()
    assert "не помещается на диск: освободите место" in folder.with_suffix(".error").read_text(
        encoding="utf-8"
    )
    assert {path.name for path in folder.iterdir()} == {".stanford_cars.download", "locks"}
    fetch(mirror, folder)
    assert_whole(folder / "stanford_cars")
    assert not packed or not [asked for asked in mirror.asked if asked.startswith("GET")]


def test_a_killed_download_goes_on(mirror, tmp_path):
    folder = tmp_path / "killed"
    folder.mkdir()
    mirror.pause = 0.02
    kills = 0
    for wanted in np.random.default_rng(0).integers(1000, 47_000, 4):
        process = in_process(mirror.address, folder)
        while process.is_alive() and mirror.sent < wanted:
            time.sleep(0.002)
        kills += process.is_alive()
        process.kill()
        process.join()
        assert not (folder / "stanford_cars").exists() or process.exitcode == 0
    assert kills >= 2
    fetch(mirror, folder)
    assert_whole(folder / "stanford_cars")


def test_of_two_processes_one_downloads_and_the_other_waits(mirror, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    mirror.pause = 0.5  # until the second has come, however long it takes to start
    both = [in_process(mirror.address, folder) for _ in range(2)]
    while all(process.is_alive() for process in both) and not any(
        "жду его" in path.read_text(encoding="utf-8") for path in tmp_path.glob("shared.*.txt")
    ):
        time.sleep(0.02)
    mirror.pause = 0
    for process in both:
        process.join()
    assert_whole(folder / "stanford_cars")
    assert sum(asked.startswith("GET /storage") for asked in mirror.asked) == 4
    words = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("shared.*.txt"))
    assert "этим занят другой процесс, жду его" in words and "ничего не скачивалось" in words


def archive(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return file.getvalue()


def annotated(tmp_path, devkit: str, photos: str, test_file: str) -> dict[str, bytes]:
    """The files of a data set whose folders are called so, by path."""
    files = {
        f"{photos.format(part=part)}/{index + 1:05d}.jpg": content
        for part in PHOTOS
        for index, content in enumerate(PHOTOS[part])
    }
    for part, name in (("train", f"{devkit}/cars_train_annos.mat"), ("test", test_file)):
        names = [f"{index + 1:05d}.jpg" for index in range(len(LABELS[part]))]
        write_annotations(tmp_path / "annos.mat", names, np.array(LABELS[part]) + 1, BOXES[part])
        files[name] = (tmp_path / "annos.mat").read_bytes()
    scipy.io.savemat(tmp_path / "annos.mat", {"class_names": np.array([NAMES], dtype=object)})
    files[f"{devkit}/cars_meta.mat"] = (tmp_path / "annos.mat").read_bytes()
    (tmp_path / "annos.mat").unlink()
    return files


def in_class_folders() -> dict[str, bytes]:
    return {
        f"{part}/{NAMES[label].replace('/', '-')}/{index:06d}.jpg": PHOTOS[part][index]
        for part in PHOTOS
        for index, label in enumerate(LABELS[part])
    }


def test_kaggle_answers_where_hugging_face_does_not(mirror, tmp_path, capsys):
    mirror.files = {}
    nested = annotated(
        tmp_path, "car_devkit/devkit", "cars_{part}/cars_{part}", "cars_test_annos_withlabels (1).mat"
    )
    mirror.archives = {NESTED: archive(nested)}
    data = fetch(mirror, tmp_path)
    assert_whole(tmp_path / "stanford_cars")
    assert data.train.boxes.tolist() == [list(box) for box in BOXES["train"]]
    assert capsys.readouterr().out.count("сервер ответил 404") == 2


def test_the_first_of_kaggles_sets_is_taken_in_torchvisions_layout(mirror, tmp_path):
    mirror.files = {}
    plain = annotated(
        tmp_path,
        "stanford_cars/devkit",
        "stanford_cars/cars_{part}",
        "stanford_cars/cars_test_annos_withlabels.mat",
    )
    mirror.archives = {
        "rickyyyyyyy/torchvision-stanford-cars": archive(plain),
        FOLDERS: archive(in_class_folders()),
    }
    fetch(mirror, tmp_path)
    assert_whole(tmp_path / "stanford_cars")


def test_kaggles_class_folders_become_the_official_labels(mirror, tmp_path):
    mirror.files, mirror.archives = {}, {FOLDERS: archive(in_class_folders())}
    data = fetch(mirror, tmp_path)
    assert data.class_names == NAMES
    for part, dataset in (("train", data.train), ("test", data.test)):
        expected = {content: label for content, label in zip(PHOTOS[part], LABELS[part], strict=True)}
        assert {
            path.read_bytes(): label
            for path, label in zip(dataset.paths, dataset.labels.tolist(), strict=True)
        } == expected
        assert [box[2:] for box in dataset.boxes.tolist()] == [
            list(dataset.image(index).size) for index in range(len(dataset))
        ]


def test_kaggles_dropped_archive_goes_on_at_the_next_call(mirror, tmp_path):
    mirror.files, mirror.archives = {}, {FOLDERS: archive(in_class_folders())}
    mirror.drop_after = 9000
    with pytest.raises(LabError):
        fetch(mirror, tmp_path)
    [part] = [path for path in (tmp_path / "kaggle").rglob("*.archive") if path.stat().st_size]
    came, mirror.drop_after = part.stat().st_size, None
    fetch(mirror, tmp_path)
    assert len(open_dataset(tmp_path / "stanford_cars").train) == 7
    assert [asked for asked in mirror.asked if asked.endswith(f"bytes={came}-")]


def test_an_archive_cannot_write_outside_its_folder(mirror, tmp_path):
    mirror.files = {}
    outside = {"../../../../../evil.jpg": b"evil", f"{tmp_path}/absolute.jpg": b"evil"}
    mirror.archives = {FOLDERS: archive(in_class_folders() | outside)}
    with contextlib.suppress(LabError):
        fetch(mirror, tmp_path)
    caught = [
        path for path in tmp_path.parent.rglob("*.jpg") if path.is_file() and path.read_bytes() == b"evil"
    ]
    assert all(path.is_relative_to(tmp_path / "kaggle") for path in caught)


def test_offline_names_the_three_ways(mirror, tmp_path, capsys):
    gone = Mirror()
    with gone:
        pass
    mirror.__exit__()
    started = time.perf_counter()
    with pytest.raises(
        LabError, match=r"huggingface.co или kaggle.com.*браузером.*распакуйте в .*stanford_cars"
    ):
        fetch(gone, tmp_path)
    assert capsys.readouterr().out.count("связи нет или она прервалась") == 4
    assert not (tmp_path / "stanford_cars").exists()
    assert time.perf_counter() - started < 30


def test_the_terminal_checks_the_official_counts(tmp_path):
    """All 16,185 rows with the official labels in a random order, small pictures, by the README's command."""
    official, picture = official_classes(), (MINICARS / "cars_test" / "00001.jpg").read_bytes()
    small = io.BytesIO()
    Image.open(io.BytesIO(picture)).resize((8, 8)).save(small, "JPEG")
    files = {}
    for part in ("train", "test"):
        labels = np.random.default_rng(0).permutation(np.repeat(np.arange(196), getattr(official, part)))
        for number, some in enumerate(np.array_split(labels, 2)):
            files[f"data/{part}-0000{number}-of-00002.parquet"] = parquet(
                [small.getvalue()] * len(some), some.tolist(), official.class_names
            )
    root = tmp_path / "stanford_cars"
    with Mirror(files) as mirror:
        environment = os.environ | {
            "HF_ENDPOINT": mirror.address,
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLEHUB_CACHE": str(tmp_path / "kaggle"),
        }
        command = [sys.executable, "-m", "labnn", "download", "--data", str(root)]
        done = subprocess.run(
            command, cwd=PROJECT, env=environment, capture_output=True, text=True, encoding="utf-8"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Готово, обучающих снимков 8144, тестовых 8041, классов 196: {root}" in done.stdout
    assert main(["train", "--data", str(root), "--epochs", "0"]) == 2  # the set opens; the setting is refused
    assert open_dataset(root).class_names == official.class_names
