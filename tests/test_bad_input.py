"""Every wrong input is told in one Russian sentence with the way out; odd but readable pictures are read."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import scipy.io
from conftest import MINICARS, PROJECT, write_annotations
from labnn.cars.download import download
from labnn.cars.pictures import read_picture, to_rgb
from PIL import Image

from labnn.__main__ import main
from labnn.batches import Batches, decode_images
from labnn.data import CarModelsDataset, open_dataset
from labnn.experiment import Experiment, run_or_load
from labnn.kit.errors import LabError
from labnn.model import SqueezeNet
from labnn.report.protocol import Protocol
from labnn.runner import run_all
from labnn.train import train_test

TRAIN, TEST, META = "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat", "devkit/cars_meta.mat"
BOX = (1, 1, 40, 30)


def picture(root) -> os.PathLike:
    return min((root / "cars_train").iterdir())


def photo(mode: str = "RGB", size=(120, 90)) -> Image.Image:
    """A smooth picture, red growing to the right and green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], axis=2).astype(np.uint8)).convert(mode)


def annotations(file: str = TRAIN, names=("00001.jpg",), classes=(1,), boxes=(BOX,)):
    return lambda root: write_annotations(root / file, list(names), list(classes), list(boxes))


def content(file: str, data: bytes):
    return lambda root: (root / file).write_bytes(data)


def truncated(file: str, share: float):
    return lambda root: (root / file).write_bytes(
        (root / file).read_bytes()[: int((root / file).stat().st_size * share)]
    )


def saved(file: str, **variables):
    return lambda root: scipy.io.savemat(root / file, variables)


def without_labels(root) -> None:
    """The official test annotations as they were first published: boxes and names only."""
    records = np.empty(
        (1, 1), dtype=[(field, object) for field in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "fname")]
    )
    records[0, 0] = (*BOX, "00001.jpg")
    scipy.io.savemat(root / TEST, {"annotations": records})


def folder_in_place_of_picture(root) -> None:
    picture(root).unlink()
    (root / "cars_train" / "00001.jpg").mkdir()


def three_broken_pictures(root) -> None:
    for path in sorted((root / "cars_train").iterdir())[:3]:
        path.write_bytes(b"broken")


V73 = (
    b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124)
    + b"\x00\x02IM"
    + bytes(384)
    + b"\x89HDF\r\n\x1a\n"
    + bytes(99)
)

# What is done to a good data set, and words that the sentence must hold: file or value, and the way out.
DATA = {
    "no root": (lambda root: shutil.rmtree(root), ["devkit", "укажите"]),
    "no devkit": (lambda root: shutil.rmtree(root / "devkit"), ["devkit", "укажите"]),
    "no photo folder": (lambda root: shutil.rmtree(root / "cars_train"), ["cars_train", "распакуйте"]),
    "no class list": (lambda root: (root / META).unlink(), ["cars_meta.mat", "докачайте"]),
    "no annotations": (lambda root: (root / TRAIN).unlink(), ["cars_train_annos.mat", "докачайте"]),
    "no test annotations": (
        lambda root: (root / TEST).unlink(),
        ["cars_test_annos_withlabels.mat", "докачайте"],
    ),
    "missing photo": (lambda root: picture(root).unlink(), ["00001.jpg", "1 из 16", "--skip-missing"]),
    "truncated photo": (truncated("cars_train/00001.jpg", 0.5), ["00001.jpg", "замените"]),
    "photo cut in its header": (truncated("cars_train/00001.jpg", 0.02), ["00001.jpg", "замените"]),
    "zero-byte photo": (content("cars_train/00001.jpg", b""), ["00001.jpg", "замените"]),
    "text named .jpg": (
        content("cars_train/00001.jpg", b"<html>404 Not Found</html>"),
        ["00001.jpg", "замените"],
    ),
    "decompression bomb": (
        lambda root: Image.new("1", (20_000, 20_000)).save(picture(root), "PNG"),
        ["00001.jpg", "bomb", "замените"],
    ),
    "folder in place of a photo": (folder_in_place_of_picture, ["00001.jpg", "замените"]),
    "several broken photos, all at once": (
        three_broken_pictures,
        ["(3)", "00001.jpg, 00002.jpg, 00003.jpg", "замените"],
    ),
    "1x1 photo under a larger box": (
        lambda root: photo(size=(1, 1)).save(picture(root)),
        ["Рамка", "00001.jpg", "исправьте"],
    ),
    "empty annotations": (
        annotations(names=(), classes=(), boxes=()),
        ["cars_train_annos.mat", "ни одного", "скачайте"],
    ),
    "truncated annotations": (truncated(TRAIN, 0.5), ["cars_train_annos.mat", "скачайте"]),
    "zero-byte annotations": (content(TRAIN, b""), ["cars_train_annos.mat", "скачайте"]),
    "annotations are not .mat": (content(TRAIN, b"PK\x03\x04 zip"), ["cars_train_annos.mat", "скачайте"]),
    "annotations of MATLAB 7.3": (content(TRAIN, V73), ["cars_train_annos.mat", "v7.3", "-v7"]),
    "other variable": (saved(TRAIN, annos=np.arange(3)), ["cars_train_annos.mat", "annotations", "скачайте"]),
    "numbers in place of records": (
        saved(TRAIN, annotations=np.arange(3)),
        ["cars_train_annos.mat", "fname", "возьмите"],
    ),
    "test annotations without labels": (
        without_labels,
        ["cars_test_annos_withlabels.mat", "class", "возьмите"],
    ),
    "class beyond the list": (annotations(classes=(11,)), ["00001.jpg", "класс 11", "от 1 до 10"]),
    "class 0": (annotations(classes=(0,)), ["00001.jpg", "класс 0", "от 1 до 10"]),
    "class is half": (annotations(classes=(1.5,)), ["class = 1.5", "исправьте"]),
    "class is a word": (annotations(classes=("Audi",)), ["cars_train_annos.mat", "не целое", "исправьте"]),
    "box is not a number": (annotations(boxes=((float("nan"), 1, 40, 30),)), ["bbox_x1 = nan", "исправьте"]),
    "box is infinite": (
        annotations(boxes=((1, 1, float("inf"), 30),)),
        ["cars_train_annos.mat", "не целое", "исправьте"],
    ),
    "box outside the photo": (
        annotations(boxes=((5000, 5000, 6000, 6000),)),
        ["[5000, 5000, 6000, 6000]", "00001.jpg", "исправьте"],
    ),
    "box turned inside out": (
        annotations(boxes=((40, 30, 1, 1),)),
        ["[40, 30, 1, 1]", "00001.jpg", "исправьте"],
    ),
    "photo listed twice": (
        annotations(names=["00001.jpg"] * 2, classes=(1, 2), boxes=(BOX, BOX)),
        ["00001.jpg", "дважды", "оставьте"],
    ),
    "name with ../": (annotations(names=["../secret.jpg"]), ["../secret.jpg", "за пределы", "исправьте"]),
    "absolute name": (annotations(names=["/etc/passwd"]), ["/etc/passwd", "за пределы", "исправьте"]),
    "name with a backslash": (
        annotations(names=["..\\secret.jpg"]),
        ["secret.jpg", "за пределы", "исправьте"],
    ),
    "empty name": (annotations(names=[""]), ["за пределы", "исправьте"]),
    "name is a number": (annotations(names=[7]), ["7", "за пределы", "исправьте"]),
    "class names are numbers": (
        saved(META, class_names=np.arange(10)),
        ["cars_meta.mat", "строками", "скачайте"],
    ),
    "two classes of one name": (
        saved(META, class_names=np.array(["Audi"] * 10, dtype=object)),
        ["cars_meta.mat", "разными", "скачайте"],
    ),
    "class list too short": (
        saved(META, class_names=np.array(["Audi", "BMW"], dtype=object)),
        ["от 1 до 2", "исправьте"],
    ),
    "one photo, too small for batch norm": (annotations(), ["одного снимка", "увеличьте"]),
    "class list without its variable": (
        saved(META, names=np.arange(3)),
        ["cars_meta.mat", "class_names", "скачайте"],
    ),
}


SMALL = ["--epochs", "1", "--image-size", "32", "--batch-size", "8", "--device", "cpu"]


def train(root, tmp_path, *more) -> int:
    return main(
        [
            "train",
            "--data",
            str(root),
            "--out",
            str(tmp_path / "runs"),
            "--cache",
            str(tmp_path / "cache"),
            *SMALL,
            *map(str, more),
        ]
    )


def one_sentence(text: str, words: list[str]) -> None:
    assert text.count("\n") == 1 and text.endswith(".\n"), text
    assert "Traceback" not in text and any("а" <= letter <= "я" for letter in text)
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"


@pytest.mark.parametrize("case", DATA)
def test_bad_data_is_told_in_one_sentence_with_status_2(case, tiny_root, tmp_path, capsys):
    damage, words = DATA[case]
    damage(tiny_root)
    assert train(tiny_root, tmp_path) == 2
    one_sentence(capsys.readouterr().err, words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("case", DATA)
def test_bad_data_raises_our_exception_in_python(case, tiny_root, tmp_path):
    DATA[case][0](tiny_root)
    with pytest.raises(LabError):
        data = open_dataset(tiny_root, crop_to_box=True)
        experiment = Experiment(epochs=1, image_size=32, batch_size=8)
        run_or_load(experiment, data, tmp_path / "runs", cache_dir=tmp_path / "cache")


# A setting, a value that it cannot have, and what the sentence offers.
SETTINGS = [
    ("epochs", 0, "от 1"),
    ("epochs", 2.5, "целое"),
    ("epochs", "ten", "целое"),
    ("epochs", True, "целое"),
    ("seed", -1, "от 0"),
    ("lr", 0.0, "от 1e-12"),
    ("lr", -1e-3, "от 1e-12"),
    ("lr", float("nan"), "от 1e-12"),
    ("lr", float("inf"), "до 1e+06"),
    ("lr", "fast", "число"),
    ("warmup", 1.0, "до 0.999"),
    ("weight_decay", -0.1, "от 0"),
    ("batch_size", 0, "от 1"),
    ("image_size", 31, "от 32"),
    ("image_size", 10**6, "до 4096"),
    ("start_size", 200, "от 32 до 128"),
    ("test_size", 16, "от 32"),
    ("min_crop_area", 0.0, "от 0.001"),
    ("label_smoothing", 1.5, "до 1"),
    ("version", "2_0", "1_0, 1_1"),
    ("batch_norm", "yes", "True или False"),
    ("dropout", 1.0, "до 0.999"),
    ("init", "glorot", "he, default"),
    ("schedule", "cosine", "one_cycle, constant"),
    ("colour", 2.0, "до 1"),
    ("mix", -0.5, "от 0"),
    ("test_every", 0, "от 1"),
    ("ema_decay", 1.0, "до 0.999999"),
    ("cosine", -1.0, "от 0"),
    ("optimizer", None, "строку"),
]


@pytest.mark.parametrize("name, value, way_out", SETTINGS)
def test_settings_of_wrong_type_or_range_are_told(name, value, way_out):
    with pytest.raises(LabError, match=f"{name}={value}|{name}={value!r}") as told:
        Experiment(**{name: value})
    assert way_out in str(told.value) and str(told.value).endswith(".")


@pytest.mark.parametrize("name", [field.name for field in fields(Experiment)])
def test_every_setting_refuses_what_is_no_value_of_it(name):
    with pytest.raises(LabError, match=rf"{name}=\[\]"):
        Experiment(**{name: []})


GREY = np.full((8, 32, 32, 3), 128, dtype=np.uint8)  # eight decoded photos

# Calls in Python with an argument of the wrong type or out of range, and what the sentence names.
CALLS = {
    "data set is no path": (lambda: open_dataset(5), "5: задайте строку"),
    "annotations are no path": (lambda: CarModelsDataset(None, "x"), "None: задайте строку"),
    "download to no path": (lambda: download(3.5), "3.5: задайте строку"),
    "missing in other words": (lambda: open_dataset(MINICARS, missing="ignore"), "missing='ignore'"),
    "share in words": (lambda: open_dataset(MINICARS).validation("half"), "share='half'"),
    "share above one": (lambda: open_dataset(MINICARS).validation(1.5), "share=1.5"),
    "seed of the cut": (lambda: open_dataset(MINICARS).validation(0.2, -1), "seed=-1"),
    "no size": (lambda: decode_images(open_dataset(MINICARS).test, 0, "x"), "size=0"),
    "size in words": (lambda: decode_images(open_dataset(MINICARS).test, "64", "x"), "size='64'"),
    "no batch": (lambda: Batches(GREY, [0] * 8, 0), "batch_size=0"),
    "labels missing": (lambda: Batches(GREY, [0] * 5, 4), "Снимков 8, а меток 5"),
    "no classes": (lambda: SqueezeNet(0), "num_classes=0"),
    "classes in words": (lambda: SqueezeNet("196"), "num_classes='196'"),
    "version of the network": (lambda: SqueezeNet(10, "2_0"), "version=2_0"),
    "all dropped": (lambda: SqueezeNet(10, dropout=1.5), "dropout=1.5"),
    "start of the weights": (lambda: SqueezeNet(10, init="glorot"), "init=glorot"),
    "no epochs": (lambda: train_test(SqueezeNet(2), None, [], [], 0), "epochs=0"),
    "seeds in words": (lambda: Protocol(Experiment(), seeds="5"), "seeds='5'"),
    "no rates": (lambda: Protocol(Experiment(), grid=()), "[]"),
    "one rate twice": (lambda: Protocol(Experiment(), grid=(0.1, 0.1)), "[0.1, 0.1]"),
    "half a process": (
        lambda: run_all([], open_dataset(MINICARS), "x", cache_dir="x", processes=1.5),
        "processes=1.5",
    ),
    "device": (
        lambda: run_or_load(Experiment(), open_dataset(MINICARS), "x", cache_dir="x", device="tpu"),
        "«tpu»",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_arguments_in_python_are_told_by_our_exception(case):
    call, words = CALLS[case]
    with pytest.raises(LabError, match=re.escape(words)):
        call()


# Arguments that the terminal refuses before it trains.
ARGUMENTS = {
    "word for a number": (["train", "--data", "x", "--epochs", "ten"], "ten"),
    "out of range": (["train", "--data", "x", "--lr", "-1"], "lr=-1.0"),
    "unknown optimizer": (["train", "--data", "x", "--optimizer", "lion"], "«lion»"),
    "unknown command": (["trane"], "trane"),
    "unknown flag": (["train", "--data", "x", "--epoch-count", "3"], "epoch-count"),
    "unknown study": (["study", "luck", "--data", "x"], "luck"),
    "no data": (["train"], "--data"),
    "one optimizer to compare": (["compare", "--data", "x", "--optimizers", "adam"], "adam"),
    "no seeds": (["compare", "--data", "x", "--seeds", "0"], "seeds=0"),
    "negative rate in the grid": (["compare", "--data", "x", "--grid", "-0.1", "0.1"], "-0.1"),
    "infinite rate in the grid": (["compare", "--data", "x", "--grid", "inf"], "lr=inf"),
    "one optimizer twice": (["compare", "--data", "x", "--optimizers", "adam", "adam"], "adam, adam"),
    "optimizer of no module": (
        ["compare", "--data", "x", "--optimizers", "adam", "mine=nowhere:make"],
        "mine=nowhere:make",
    ),
    "optimizer's name is a path": (
        ["compare", "--data", "x", "--optimizers", "adam", "../mine=os:getcwd"],
        "../mine",
    ),
    "no processes": (["compare", "--data", str(MINICARS), "--processes", "0"], "processes=0"),
    "processes in words": (["compare", "--data", str(MINICARS), "--processes", "many"], "processes=many"),
    "no threads": (["train", "--data", str(MINICARS), "--threads", "0", *SMALL], "threads=0"),
    "no processes for a study": (
        ["study", "causes", "--data", str(MINICARS), "--processes", "0"],
        "processes=0",
    ),
    "unknown device": (["train", "--data", str(MINICARS), "--device", "tpu"], "«tpu»"),
    "absent device": (
        ["compare", "--data", str(MINICARS), "--devices", "cuda:7", "--processes", "1"],
        "«cuda:7»",
    ),
    "data set is a file": (["train", "--data", str(PROJECT / "README.md")], "README.md"),
    "data set's name too long": (["train", "--data", "x" * 300], "xxx"),
    "no such run": (["variants", "--data", str(MINICARS), "--run", "nowhere"], "nowhere"),
    "download onto a file": (["download", "--data", str(PROJECT / "README.md")], "README.md"),
    "download into a folder of other things": (["download", "--data", str(PROJECT / "tests")], "tests"),
    "no runs to report": (["report", "--runs", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_are_told_in_one_sentence_with_status_2(case, capsys):
    arguments, word = ARGUMENTS[case]
    assert main(arguments) == 2
    one_sentence(capsys.readouterr().err, [word])


@pytest.mark.parametrize("flag", ["--out", "--cache"])
def test_file_in_place_of_a_folder_is_told(flag, tiny_root, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert train(tiny_root, tmp_path, flag, tmp_path / "taken") == 2
    one_sentence(capsys.readouterr().err, ["taken"])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes of folders")
def test_folders_that_may_not_be_written_or_read_are_told(tiny_root, tmp_path):
    """In a process without the administrator's right to write anywhere, which CI has."""
    (tmp_path / "locked").mkdir(mode=0o500)
    (tiny_root / "cars_train").chmod(0o300)
    (tmp_path / "other").mkdir()
    shutil.copytree(MINICARS, tmp_path / "other" / "set")
    (tmp_path / "other" / "set" / "devkit").chmod(0)
    for part in ("train", "test"):
        shutil.copytree(MINICARS / "cars_test", tmp_path / "classes" / part / "sedan")
    (tmp_path / "classes" / "train" / "closed").mkdir(mode=0)
    calls = [
        [
            "train",
            "--data",
            str(MINICARS),
            "--out",
            str(tmp_path / "locked"),
            "--cache",
            str(tmp_path / "cache"),
            *SMALL,
        ],
        [
            "train",
            "--data",
            str(MINICARS),
            "--out",
            str(tmp_path / "runs"),
            "--cache",
            str(tmp_path / "locked"),
            *SMALL,
        ],
        ["download", "--data", str(tmp_path / "locked" / "set")],
        ["train", "--data", str(tiny_root)],
        ["train", "--data", str(tmp_path / "other" / "set")],
        ["train", "--data", str(tmp_path / "classes")],
    ]
    plain = (
        []
        if os.geteuid()
        else [
            "setpriv",
            "--bounding-set=-dac_override,-dac_read_search",
            "--inh-caps=-dac_override,-dac_read_search",
        ]
    )
    script = """
import json, sys
from labnn.__main__ import main
print([main(call) for call in json.loads(sys.argv[1])])
"""
    done = subprocess.run(
        [*plain, sys.executable, "-c", script, json.dumps(calls)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    (tiny_root / "cars_train").chmod(0o700)
    (tmp_path / "other" / "set" / "devkit").chmod(0o700)
    (tmp_path / "classes" / "train" / "closed").chmod(0o700)
    assert done.stdout.splitlines()[-1] == "[2, 2, 2, 2, 2, 2]", done.stderr
    for line, word in zip(
        done.stderr.splitlines(),
        ["locked", "locked", "locked", "cars_train", "devkit", "closed"],
        strict=True,
    ):
        one_sentence(line + "\n", [word, "разрешите"])


@pytest.mark.parametrize("mode, suffix", [("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG")])
def test_colour_of_any_mode_is_read_as_rgb(mode, suffix, tiny_root):
    photo(mode).save(picture(tiny_root), suffix)
    read = np.asarray(open_dataset(tiny_root).train.image(0), dtype=float)
    assert read.shape == (90, 120, 3)
    assert np.abs(read - np.asarray(photo(mode).convert("RGB"), dtype=float)).mean() < 3


@pytest.mark.parametrize("mode", ["L", "I;16", "LA", "1"])
def test_grey_of_any_depth_is_read_as_grey(mode, tiny_root):
    grey = photo("L")
    stored = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) << 8) if mode == "I;16" else grey.convert(mode)
    )
    stored.save(picture(tiny_root), "PNG")
    read = np.asarray(open_dataset(tiny_root).train.image(0))
    assert (read == read[..., :1]).all()
    expected = grey if mode != "1" else grey.convert("1").convert("L")
    assert np.abs(read[..., 0].astype(float) - np.asarray(expected, dtype=float)).max() <= 1


def test_photo_is_turned_as_its_exif_says(tiny_root):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    photo().save(picture(tiny_root), "JPEG", exif=exif)
    read = np.asarray(open_dataset(tiny_root).train.image(0), dtype=float)
    assert read.shape == (120, 90, 3)
    assert np.abs(read - np.asarray(photo().rotate(-90, expand=True), dtype=float)).mean() < 3


# A pixel of each of Pillow's modes and its colour; what is transparent keeps the colour beneath.
MODES = {
    "1": (1, (255, 255, 255)),
    "L": (100, (100, 100, 100)),
    "LA": ((100, 50), (100, 100, 100)),
    "La": ((50, 128), (99, 99, 99)),
    "RGB": ((10, 20, 30), (10, 20, 30)),
    "RGBA": ((10, 20, 30, 0), (10, 20, 30)),
    "RGBa": ((50, 25, 0, 128), (99, 49, 0)),
    "RGBX": ((10, 20, 30, 40), (10, 20, 30)),
    "CMYK": ((255, 0, 0, 0), (0, 255, 255)),
    "YCbCr": ((76, 85, 255), (254, 0, 0)),
    "HSV": ((85, 255, 255), (0, 255, 0)),
    "LAB": ((136, 208, 195), (250, 3, 11)),
    "I;16": (0x8000, (128, 128, 128)),
    "I;16L": (0x8000, (128, 128, 128)),
    "I;16B": (0x8000, (128, 128, 128)),
    "I;16N": (0x8000, (128, 128, 128)),
    "F": (0.2, (51, 51, 51)),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_pixel_of_any_mode_has_its_colour(mode):
    value, colour = MODES[mode]
    read = to_rgb(Image.new(mode, (1, 1), value))
    assert read.mode == "RGB"
    assert np.abs(np.subtract(read.getpixel((0, 0)), colour)).max() <= 1


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80"])
@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_gives_its_colours_whatever_is_transparent(transparency, suffix, tmp_path):
    if suffix == "gif" and isinstance(transparency, bytes):
        return  # GIF has none
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / f"x.{suffix}", **({} if transparency is None else {"transparency": transparency}))
    read = read_picture(tmp_path / f"x.{suffix}")
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (200, 100, 50)]


def test_a_palette_with_transparent_pixels_gives_its_colours():
    image = Image.new("LA", (1, 1), (70, 9)).convert("PA")
    assert to_rgb(image).getpixel((0, 0)) == (70, 70, 70)


RAMP = np.array([[0, 0x4000, 0x8000, 0xFFFF]], dtype=np.uint16)


def tiff(data: bytes, bits: int, photometric: int = 1, sample_format: int = 1, limits=()) -> bytes:
    """A TIFF of four pixels of grey in a row, by the tags of its specification."""
    tags = [(256, 4), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 200), (277, 1), (278, 1)]
    tags += [(279, len(data)), (339, sample_format)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries += [
        struct.pack("<HHIf", tag, 11, 1, value) for tag, value in zip((340, 341), limits, strict=False)
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries)
    return head.ljust(200, b"\0") + data


def saved_as(suffix: str, pixels: np.ndarray, **options):
    return lambda path: Image.fromarray(pixels).save(path.with_suffix("." + suffix), **options)


def written_as(suffix: str, data: bytes):
    return lambda path: path.with_suffix("." + suffix).write_bytes(data)


DEEP = {
    "PNG of 16 bits": saved_as("png", RAMP),
    "PGM of 16 bits": saved_as("pgm", RAMP),
    "PGM of 12 bits": written_as("pgm", b"P5 4 1 4095\n" + (RAMP >> 4).astype(">u2").tobytes()),
    "PGM of 12 bits in words": written_as("pgm", b"P2 4 1 4095\n0 1024 2048 4095\n"),
    "PPM of 16 bits": written_as("ppm", b"P6 4 1 65535\n" + RAMP[0].repeat(3).astype(">u2").tobytes()),
    "TIFF of 16 bits": saved_as("tif", RAMP),
    "TIFF of 16 bits, packed": saved_as("tif", RAMP, compression="tiff_lzw"),
    "TIFF of 16 bits, white is zero": written_as("tif", tiff((0xFFFF - RAMP).tobytes(), 16, photometric=0)),
    "TIFF of 12 bits": written_as("tif", tiff(bytes.fromhex("000400800fff"), 12)),
    "TIFF of floats from 0 to 1": saved_as("tif", (RAMP / 65535).astype(np.float32)),
    "TIFF of floats with limits": written_as("tif", tiff(RAMP.astype("f4").tobytes(), 32, 1, 3, (0, 65535))),
    "TIFF of 32 bits with limits": written_as("tif", tiff(RAMP.astype("i4").tobytes(), 32, 1, 2, (0, 65535))),
    "PFM of floats from 0 to 1": written_as(
        "pfm", b"Pf\n4 1\n-1.0\n" + (RAMP / 65535).astype("f4").tobytes()
    ),
    "the first of many pages": saved_as("tif", RAMP, save_all=True, append_images=[Image.new("L", (9, 9))]),
    "the first of many frames": saved_as(
        "gif", (RAMP >> 8).astype(np.uint8), save_all=True, append_images=[Image.new("L", (4, 1), 9)]
    ),
}


@pytest.mark.parametrize("case", DEEP)
def test_grey_of_any_depth_is_scaled_by_its_range(case, tmp_path):
    DEEP[case](tmp_path / "x")
    [path] = tmp_path.iterdir()
    read = np.asarray(read_picture(path), dtype=int)
    assert read.shape == (1, 4, 3) and (read == read[..., :1]).all()
    assert np.abs(read[0, :, 0] - [0, 64, 128, 255]).max() <= 1


UNKNOWN = {
    "32 bits": saved_as("tif", RAMP.astype(np.int32)),
    "16 bits with a sign": written_as("tif", tiff(RAMP.tobytes(), 16, sample_format=2)),
    "floats beyond 1": saved_as("tif", (RAMP / 257).astype(np.float32)),
    "not a number": saved_as("tif", np.array([[0, 1, np.nan]], dtype=np.float32)),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_grey_of_unknown_range_is_told(case, tmp_path):
    UNKNOWN[case](tmp_path / "x")
    with pytest.raises(LabError, match=r"x.tif .*с неизвестным пределом: сохраните его с 8 или 16 битами"):
        read_picture(tmp_path / "x.tif")


@pytest.mark.parametrize("exif", [b"Exif\0\0Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"])
def test_a_photo_with_broken_exif_is_read_as_it_lies(exif, tiny_root):
    photo().save(picture(tiny_root), "JPEG", exif=exif)
    assert open_dataset(tiny_root).train.image(0).size == (120, 90)


def test_a_photo_is_turned_though_the_rest_of_its_exif_is_broken(tiny_root):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    broken = exif.tobytes().replace(b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02")  # a word for the width
    photo().save(picture(tiny_root), "JPEG", exif=broken)
    assert open_dataset(tiny_root).train.image(0).size == (90, 120)


def test_smallest_photo_is_read(tiny_root):
    photo(size=(1, 1)).save(picture(tiny_root))
    assert open_dataset(tiny_root).train.image(0).size == (1, 1)


@pytest.mark.parametrize("name", ["фото машины.jpg", "a b (1).jpg", "naïve-車.jpg"])
def test_names_in_any_language_and_with_spaces_are_read(name, tiny_root, tmp_path):
    root = tiny_root.rename(tmp_path / "мои снимки 1")
    picture(root).rename(root / "cars_train" / name)
    annotations(names=[name, "00002.jpg"], classes=(1, 2), boxes=(BOX, BOX))(root)
    assert train(root, tmp_path) == 0


def test_class_without_photos_and_class_of_one_are_no_mistakes(tiny_root, tmp_path):
    names = [path.name for path in sorted((tiny_root / "cars_train").iterdir())[:3]]
    annotations(names=names, classes=(1, 2, 10), boxes=[BOX] * 3)(tiny_root)
    assert train(tiny_root, tmp_path) == 0


def test_one_photo_alone_trains_where_the_network_can(tiny_root, tmp_path):
    annotations()(tiny_root)
    assert train(tiny_root, tmp_path, "--image-size", 64) == 0


@pytest.mark.parametrize("batch_size", [5, 15])
def test_no_photo_is_left_alone_in_its_batch(tiny_root, tmp_path, batch_size):
    """16 photos: three batches of 5 or one of 15, and one more photo, which goes with the last batch."""
    assert train(tiny_root, tmp_path, "--batch-size", batch_size) == 0


def test_annotations_and_folder_alone_are_enough(tiny_root):
    assert len(CarModelsDataset(tiny_root / TRAIN, tiny_root / "cars_train")) == 16
