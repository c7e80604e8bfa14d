"""Wrong input is told in one Russian sentence with the way out; odd but readable pictures are read.

Broken bytes, senseless values and odd names are also drawn at random: read, or told.
"""

import io
import re
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from conftest import MINICARS, PROJECT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from labnn import Experiment, LabError, SqueezeNet, open_dataset
from labnn.__main__ import main
from labnn.batches import Batches
from labnn.kit.hardware import usable_device
from labnn.kit.pictures import read_picture

TRAIN, TEST, META = "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat", "devkit/cars_meta.mat"
PHOTO = "cars_train/00001.jpg"
SMALL = ["--epochs", "1", "--image-size", "32", "--batch-size", "8", "--device", "cpu"]


def one_sentence(text: str, *words: str) -> None:
    assert text.endswith(".") and "\n" not in text and re.search("[а-я]", text), text
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"


def photo(mode: str = "RGB", size=(120, 90)) -> Image.Image:
    """A smooth picture, red growing to the right and green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], axis=2).astype(np.uint8)).convert(mode)


def removed(place: str):
    return lambda root: shutil.rmtree(root / place) if (root / place).is_dir() else (root / place).unlink()


def content(file: str, data: bytes):
    return lambda root: (root / file).write_bytes(data)


def cut(file: str, share: float):
    return lambda root: content(
        file, (root / file).read_bytes()[: int((root / file).stat().st_size * share)]
    )(root)


def saved(file: str, **variables):
    return lambda root: scipy.io.savemat(root / file, variables)


def without_labels(root: Path) -> None:
    """The official test annotations as they were first published: boxes and names only."""
    records = scipy.io.loadmat(root / TEST, simplify_cells=True)["annotations"]
    rows = np.array([{name: row[name] for name in row if name != "class"} for row in records])
    scipy.io.savemat(root / TEST, {"annotations": rows})


def folder_for_a_photo(root: Path) -> None:
    (root / PHOTO).unlink()
    (root / PHOTO).mkdir()


def bomb(root: Path) -> None:
    """A picture of 20,000 x 20,000 pixels, by its head."""
    Image.new("RGB", (1, 1)).save(root / PHOTO, "BMP")
    head = (root / PHOTO).read_bytes()
    (root / PHOTO).write_bytes(head[:18] + (20_000).to_bytes(4, "little") * 2 + head[26:])


def three_broken_photos(root: Path) -> None:
    for number in (1, 2, 3):
        (root / f"cars_train/0000{number}.jpg").write_bytes(b"broken")


# What is done to a good data set, and what the sentence has to hold: the file, and what to do.
DATA = {
    "no devkit": (removed("devkit"), ["нет набора данных", "python -m labnn download"]),
    "no photos": (removed("cars_train"), ["cars_train", "16 из 16", "доложите"]),
    "no class list": (removed(META), ["cars_meta.mat", "официальный файл"]),
    "no annotations": (removed(TRAIN), ["cars_train_annos.mat", "официальный файл"]),
    "a photo too few": (removed(PHOTO), ["00001.jpg", "1 из 16", "--skip-missing"]),
    "half a photo": (cut(PHOTO, 0.5), ["00001.jpg", "замените"]),
    "a photo cut in its header": (cut(PHOTO, 0.02), ["00001.jpg", "замените"]),
    "zero-byte photo": (content(PHOTO, b""), ["00001.jpg", "замените"]),
    "a page for a photo": (content(PHOTO, b"<html>404 Not Found</html>"), ["00001.jpg", "замените"]),
    "a folder for a photo": (folder_for_a_photo, ["00001.jpg", "проверьте"]),
    "decompression bomb": (bomb, ["00001.jpg", "bomb", "замените"]),
    "broken photos are told all at once": (three_broken_photos, ["00001.jpg", "(2)", "00002.jpg, 00003.jpg"]),
    "half of the annotations": (cut(TRAIN, 0.5), ["cars_train_annos.mat", "официальный файл"]),
    "zero-byte annotations": (content(TRAIN, b""), ["cars_train_annos.mat", "официальный файл"]),
    "annotations are no .mat": (
        content(TRAIN, b"PK\x03\x04 zip"),
        ["cars_train_annos.mat", "официальный файл"],
    ),
    "annotations of MATLAB 7.3": (
        content(TRAIN, b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n"),
        ["cars_train_annos.mat", "до v7.2"],
    ),
    "another variable": (saved(TRAIN, annos=np.arange(3)), ["cars_train_annos.mat", "annotations"]),
    "numbers for records": (
        saved(TRAIN, annotations=np.arange(3)),
        ["cars_train_annos.mat", "официальный файл"],
    ),
    "no records": (saved(TRAIN, annotations=[]), ["cars_train_annos.mat", "официальный файл"]),
    "test annotations without labels": (without_labels, [TEST, "class", "с метками"]),
    "class list too short": (saved(META, class_names=np.array(["Audi", "BMW"], dtype=object)), ["от 1 до 2"]),
}


@pytest.mark.parametrize("case", DATA)
def test_bad_data_is_told_in_one_sentence_with_status_2(case, tiny_root, tmp_path, capsys):
    damage, words = DATA[case]
    damage(tiny_root)
    folders = ["--out", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    assert main(["train", "--data", str(tiny_root), *folders, *SMALL]) == 2
    one_sentence(capsys.readouterr().err.rstrip("\n"), *words)
    assert not list(tmp_path.glob("runs/*/run.json")) and not list(tmp_path.glob("cache/*.npy"))


# Arguments of the terminal, and what the sentence has to hold.
ARGUMENTS = {
    "unknown command": (["fly"], "fly"),
    "no such data": (["train", "--data", "nowhere"], "nowhere"),
    "a word for a number": (["train", "--data", "x", "--epochs", "many"], "many"),
    "unknown optimizer": (["train", "--data", str(MINICARS), "--optimizer", "lion"], "lion"),
    "unknown network": (["train", "--data", "x", "--version", "3"], "1_0, 1_1"),
    "no data": (["train"], "--data"),
    "a file for the data set": (["train", "--data", str(PROJECT / "README.md")], "README.md"),
    "a name too long": (["train", "--data", "x" * 300], "xxx"),
    "unknown device": (["train", "--data", str(MINICARS), "--device", "tpu"], "tpu"),
    "a file for the records": (
        ["train", "--data", str(MINICARS), "--out", __file__, *SMALL],
        Path(__file__).name,
    ),
    "download onto a file": (["download", "--data", str(PROJECT / "README.md")], "README.md"),
    "download among other things": (["download", "--data", str(PROJECT / "tests")], "укажите другую папку"),
    "no processes": (["compare", "--data", str(MINICARS), "--processes", "0"], "processes=0"),
    "no runs to report": (["report", "--runs", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_are_told_in_one_sentence_with_status_2(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, word = ARGUMENTS[case]
    assert main(arguments) == 2
    one_sentence(capsys.readouterr().err.rstrip("\n"), word)


# A setting, a value that it cannot have, and what the sentence offers.
SETTINGS = [
    ("epochs", 0, "от 1"),
    ("epochs", 2.5, "целое"),
    ("epochs", True, "целое"),
    ("lr", 0.0, "от 1e-12"),
    ("lr", float("nan"), "от 1e-12"),
    ("lr", float("inf"), "до 1e+06"),
    ("version", "2_0", "1_0, 1_1"),
    ("batch_norm", "yes", "True или False"),
    ("schedule", "cosine", "one_cycle, constant"),
    ("optimizer", None, "строку"),
] + [(field.name, [], "задайте") for field in fields(Experiment)]


@pytest.mark.parametrize("name, value, way_out", SETTINGS)
def test_settings_of_wrong_type_or_range_are_told(name, value, way_out):
    with pytest.raises(LabError, match=re.escape(f"{name}={value!r} ")) as told:
        Experiment(**{name: value})
    one_sentence(str(told.value), way_out)


# Calls in Python with an argument of the wrong type or out of range, and what the sentence names.
CALLS = {
    "data set is no path": (lambda: open_dataset(5), "Набор 5"),
    "missing in other words": (lambda: open_dataset(MINICARS, missing="ignore"), "missing='ignore'"),
    "labels missing": (
        lambda: Batches(np.zeros((8, 32, 32, 3), np.uint8), [0] * 5, 4),
        "Снимков 8, а меток 5",
    ),
    "classes in words": (lambda: SqueezeNet("196"), "num_classes='196'"),
    "device in words": (lambda: usable_device("tpu"), "tpu"),
}


@pytest.mark.parametrize("case", CALLS)
def test_arguments_in_python_are_told_by_our_exception(case):
    call, words = CALLS[case]
    with pytest.raises(LabError, match=re.escape(words)) as told:
        call()
    one_sentence(str(told.value))


@pytest.mark.parametrize(
    "mode, suffix",
    [
        ("RGB", "JPEG"),
        ("CMYK", "JPEG"),
        ("L", "JPEG"),
        ("RGBA", "PNG"),
        ("P", "PNG"),
        ("LA", "PNG"),
        ("1", "PNG"),
    ],
)
def test_colour_of_any_mode_is_read_as_rgb(mode, suffix, tmp_path):
    photo(mode).save(tmp_path / "x", suffix)
    read = np.asarray(read_picture(tmp_path / "x"), dtype=float)
    assert read.shape == (90, 120, 3)
    assert np.abs(read - np.asarray(photo(mode).convert("RGB"), dtype=float)).mean() < 3


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80"])
def test_a_palette_gives_its_colours_whatever_is_transparent(transparency, tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "x.png", **({} if transparency is None else {"transparency": transparency}))
    read = read_picture(tmp_path / "x.png")
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (200, 100, 50)]


@pytest.mark.parametrize(
    "dtype, suffix", [("uint16", "png"), ("uint16", "pgm"), ("int32", "tif"), ("float32", "tif")]
)
def test_over_8_bits_a_colour_are_refused_instead_of_cut_off_to_white(dtype, suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.array([[0, 0x4000, 0xFFFF]], dtype=dtype)).save(path)
    with pytest.raises(LabError, match=f"x.{suffix} .*больше 8 бит"):
        read_picture(path)


def test_photo_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    photo().save(tmp_path / "x.jpg", exif=exif)
    read = np.asarray(read_picture(tmp_path / "x.jpg"), dtype=float)
    assert read.shape == (120, 90, 3)
    assert np.abs(read - np.asarray(photo().rotate(-90, expand=True), dtype=float)).mean() < 3


@pytest.mark.parametrize("exif", [b"Exif\0\0Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"])
def test_a_photo_with_broken_exif_is_read_as_it_lies(exif, tmp_path):
    photo().save(tmp_path / "x.jpg", exif=exif)
    assert read_picture(tmp_path / "x.jpg").size == (120, 90)


def test_an_animation_gives_its_first_picture_and_one_pixel_is_a_picture(tmp_path):
    first, second = (Image.new("L", (1, 1), grey) for grey in (255, 0))
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second])
    assert read_picture(tmp_path / "x.gif").getpixel((0, 0)) == (255, 255, 255)


DRAWN = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read_or_told(read) -> None:
    try:
        read()
    except LabError as error:
        one_sentence(str(error))


@DRAWN
@given(st.floats(0, 0.9999), st.binary(max_size=200), st.sampled_from([TEST, META]))
def test_annotations_cut_anywhere_with_anything_after(tiny_root, share, tail, file):
    whole = (MINICARS / file).read_bytes()
    (tiny_root / file).write_bytes(whole[: int(share * len(whole))] + tail)
    read_or_told(lambda: open_dataset(tiny_root))


PICTURE = io.BytesIO()
photo().save(PICTURE, "JPEG")
PLACES = st.integers(0, len(PICTURE.getvalue()) - 1)


@DRAWN
@given(st.dictionaries(PLACES, st.integers(0, 255), min_size=1, max_size=8), PLACES, PLACES)
def test_damaged_picture(tmp_path, changes, start, end):
    damaged = bytes(changes.get(index, byte) for index, byte in enumerate(PICTURE.getvalue()))
    for data in (damaged, damaged[:start] + damaged[end:]):
        (tmp_path / "x.jpg").write_bytes(data)
        read_or_told(lambda: read_picture(tmp_path / "x.jpg"))


FOLDER_NAMES = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=90) | st.sampled_from(
    [
        " ",
        "...",
        "a.",
        "-",
        "~",
        "CON",
        "x" * 255,
        "ё" * 127,
        "a\u0301",
        "\udce1\udca5",
        "a\nb",
        "{0}",
        "%s",
        "train",
    ]
)


@DRAWN
@given(st.lists(FOLDER_NAMES, min_size=1, max_size=3, unique=True), st.sampled_from(["train", "test"]))
def test_class_folders_of_any_name(names, alone):
    """Names that a disk can hold; the last of several stands in one part only."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in names:
            for part in (alone,) if name == names[-1] and len(names) > 1 else ("train", "test"):
                try:
                    (root / part / name).mkdir(parents=True)
                except (OSError, UnicodeEncodeError):
                    return  # "." and "..", names too long, characters that are none
                (root / part / name / "1.jpg").write_bytes(PICTURE.getvalue())

        def read() -> None:
            data = open_dataset(root)
            assert len(set(data.class_names)) == len(data.class_names)
            assert all(name.encode() for name in data.class_names)
            assert [label for _, label in data.train] == data.train.labels.tolist()

        read_or_told(read)
