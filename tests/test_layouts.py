"""Every layout in which people have Stanford Cars, and folders of their own classes, are read as they lie."""

import os
import shutil
import unicodedata
import zlib

import numpy as np
import pytest
import scipy.io
from conftest import MINICARS
from PIL import Image
from torchvision.datasets import ImageFolder

from labnn import Experiment, LabError, open_dataset, run_or_load
from labnn.experiment import describe, load_runs
from labnn.layouts import list_photos, official_classes

TEST_FILE = "cars_test_annos_withlabels.mat"


def kaggle_nested(root):
    """As ``eduardo4jesus/stanford-cars-dataset`` unpacks."""
    for part in ("cars_train", "cars_test"):
        (root / part).rename(root / "photos")
        (root / part).mkdir()
        (root / "photos").rename(root / part / part)
    (root / "car_devkit").mkdir()
    (root / "devkit").rename(root / "car_devkit" / "devkit")
    (root / TEST_FILE).rename(root / "cars_test_annos_withlabels (1).mat")


def labels_in_devkit(root):
    (root / TEST_FILE).rename(root / "devkit" / TEST_FILE)
    (root / "devkit").rename(root / "car_devkit")


def one_folder_around(root):
    root.rename(root.with_name("inner"))
    (root / "archive").mkdir(parents=True)
    root.with_name("inner").rename(root / "archive" / "stanford_cars")
    (root / "archive" / "__MACOSX").mkdir()


def single_file(root):
    """``cars_annos.mat`` lists both parts, all photos lie in ``car_ims``."""
    (root / "car_ims").mkdir()
    records, places = [], (("devkit/cars_train_annos.mat", "cars_train"), (TEST_FILE, "cars_test"))
    for in_test, (file, folder) in enumerate(places):
        for record in scipy.io.loadmat(root / file)["annotations"][0]:
            name = f"car_ims/{len(records) + 1:06d}.jpg"
            (root / folder / record["fname"].item()).rename(root / name)
            box = [int(record[f"bbox_{edge}"].item()) for edge in ("x1", "y1", "x2", "y2")]
            records.append((name, *box, int(record["class"].item()), in_test))
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    annotations = np.empty((1, len(records)), dtype=[(field, object) for field in fields])
    annotations[0] = records
    names = scipy.io.loadmat(root / "devkit/cars_meta.mat")["class_names"]
    shutil.rmtree(root / "devkit")
    scipy.io.savemat(root / "cars_annos.mat", {"annotations": annotations, "class_names": names})


@pytest.mark.parametrize("arrange", [kaggle_nested, labels_in_devkit, one_folder_around, single_file])
def test_the_same_photos_labels_and_boxes_come_out_of_every_layout(arrange, tiny_root):
    expected = open_dataset(tiny_root, crop_to_box=True)
    pictures = [[image.tobytes() for image, _ in part] for part in expected[:2]]
    arrange(tiny_root)
    found = open_dataset(tiny_root, crop_to_box=True)
    assert found.class_names == expected.class_names and found.validation(0.5).name.endswith("-validation")
    for part, before, images in zip(found[:2], expected[:2], pictures, strict=True):
        assert part.labels.tolist() == before.labels.tolist() and part.boxes.tolist() == before.boxes.tolist()
        assert [image.tobytes() for image, _ in part] == images


def paint(path):
    """A small picture of a colour of its own at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), tuple(zlib.crc32(os.fsencode(path)).to_bytes(4, "big")[1:])).save(path, "PNG")


def paint_set(root, classes=("buggy", "sedan", "truck"), parts=("train", "test")):
    for part in parts:
        for name in classes:
            paint(root / part / name / "1.png")
            paint(root / part / name / "2.png")
    return root


def test_a_class_is_a_folder_of_the_first_level_with_all_below_it_as_for_image_folder(tmp_path):
    root = paint_set(tmp_path / "set")
    paint(root / "train" / "sedan" / "front" / "near" / "3.png")
    paint(root / "train" / "sedan" / "rear" / "3.PNG")
    paint(root / "test" / "truck" / "ё 車" / "4.JPeG")
    paint(tmp_path / "elsewhere" / "5.png")
    (root / "train" / "truck" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "train" / "sedan").rename(tmp_path / "sedans")
    (root / "train" / "sedan").symlink_to(tmp_path / "sedans", target_is_directory=True)
    data = open_dataset(root)
    assert data.name == "set" and data.train.boxes is None
    for part, dataset in (("train", data.train), ("test", data.test)):
        theirs, labels = ImageFolder(root / part), dataset.labels.tolist()
        assert data.class_names == theirs.classes
        assert sorted(zip(map(str, dataset.paths), labels, strict=True)) == sorted(theirs.samples)
        assert {f"{root / part}/{name}" for name in list_photos(root / part)} == set(map(str, dataset.paths))


def test_class_folders_have_no_boxes_which_is_told(tmp_path, capsys):
    data = open_dataset(paint_set(tmp_path), crop_to_box=True)
    assert "Рамок в наборе" in capsys.readouterr().out
    assert not describe(data)["crop_to_box"] and data.train.image(0).size == (8, 6)


# The slash of the last class cannot stand in a folder's name: it is replaced or dropped.
@pytest.mark.parametrize("ram", ["Ram C-V Cargo Van", "Ram C_V Cargo Van", "Ram CV Cargo Van"])
def test_official_classes_stand_in_the_official_order_and_own_ones_after_them(ram, tmp_path):
    official = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura Integra Type R 2001"]
    ram = f"{ram} Minivan 2012"
    data = open_dataset(paint_set(tmp_path, ["Lada Niva 2012", *official[::-1], ram, "Aurus Senat 2020"]))
    last = ["Ram C/V Cargo Van Minivan 2012", "Aurus Senat 2020", "Lada Niva 2012"]
    assert data.class_names == official + last
    for path, label in zip(data.train.paths, data.train.labels, strict=True):
        folder = path.relative_to(tmp_path / "train").parent.as_posix()
        assert folder == ram if label == 3 else folder == data.class_names[label]


def test_folders_of_all_official_classes_give_the_official_labels(tmp_path):
    names = official_classes()["class"].tolist()
    photo = MINICARS / "cars_train" / "00001.jpg"
    for part in ("train", "test"):
        for name in names:
            (tmp_path / part / name.replace("/", "-")).mkdir(parents=True)
            shutil.copy(photo, tmp_path / part / name.replace("/", "-") / "1.jpg")
    data = open_dataset(tmp_path)
    assert data.class_names == names and len(names) == 196
    for path, label in zip(data.test.paths, data.test.labels, strict=True):
        assert path.parent.name == names[label].replace("/", "-")


@pytest.mark.parametrize(
    "litter",
    [
        "train/.ipynb_checkpoints/1-checkpoint.png",
        "train/sedan/.ipynb_checkpoints/1-checkpoint.png",
        "train/sedan/@eaDir/1.png/SYNOPHOTO_THUMB_M.png",
        "train/__MACOSX/sedan/1.png",
        "test/sedan/._1.png",
        "test/sedan/Thumbs.db",
        "test/$RECYCLE.BIN/1.png",
        "__MACOSX/train/sedan/._1.png",
    ],
)
def test_hidden_and_system_entries_are_neither_classes_nor_photos(litter, tmp_path, capsys):
    before = describe(open_dataset(paint_set(tmp_path / "set")))
    paint(tmp_path / "set" / litter)
    assert describe(open_dataset(tmp_path / "set")) == before and not capsys.readouterr().out


@pytest.mark.parametrize(
    "train, test",
    [
        ("train", "val"),
        ("Train", "valid"),
        ("training", "validation"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("training_set/training_set", "test_set/test_set"),
    ],
)
def test_parts_of_other_names_are_found_and_told(train, test, tmp_path, capsys):
    data = open_dataset(paint_set(tmp_path, parts=(train, test)))
    assert data.class_names == ["buggy", "sedan", "truck"] and len(data.train) == len(data.test) == 6
    assert data.test.paths[0].is_relative_to(tmp_path / test)
    told = f"обучающая часть — {train.partition('/')[0]}, тестовая — {test.partition('/')[0]}."
    assert told in capsys.readouterr().out


def test_test_is_the_test_part_where_val_lies_beside_it(tmp_path):
    data = open_dataset(paint_set(tmp_path, parts=("train", "val", "test")))
    assert data.test.paths[0].is_relative_to(tmp_path / "test")


def test_a_class_called_train_is_a_class(tmp_path):
    assert open_dataset(paint_set(tmp_path, ["bus", "train"])).class_names == ["bus", "train"]


def test_one_name_composed_in_two_ways_is_one_class(tmp_path):
    """Files from a Mac have "й" as two characters, those from elsewhere as one."""
    paint_set(tmp_path, ["трамвай", "авто"], parts=["train"])
    paint_set(tmp_path, [unicodedata.normalize("NFD", "трамвай"), "авто"], parts=["test"])
    data = open_dataset(tmp_path)
    assert data.class_names == ["авто", "трамвай"] and data.test.labels.tolist() == [0, 0, 1, 1]


def test_class_names_that_differ_in_letters_case_or_space_only_are_told(tmp_path, capsys):
    assert open_dataset(paint_set(tmp_path, ("Cat", "cat ", "dog"))).class_names == ["Cat", "cat ", "dog"]
    assert "различаются только регистром или пробелом: Cat, cat" in capsys.readouterr().out


def test_test_photos_that_are_trained_on_are_told(tmp_path, capsys):
    root = paint_set(tmp_path / "copied", parts=("train",))
    shutil.copytree(root / "train", root / "test")
    describe(open_dataset(root))
    assert capsys.readouterr().out == "Среди тестовых снимков copied есть и обучающие: 6 из 6.\n"


def test_a_set_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    paint_set(tmp_path / "set")
    assert len(open_dataset("~/set").train) == 6


def test_links_that_form_a_circle_bring_no_photo_twice_which_is_told(tmp_path, capsys):
    train = paint_set(tmp_path / "set") / "train"
    links = {"buggy/more": train / "sedan", "sedan/more": train / "buggy", "sedan/up": train}
    links |= {"truck/set": tmp_path / "set", "truck/self": train / "truck" / "self"}
    for name, target in links.items():
        (train / name).symlink_to(target, target_is_directory=True)
    assert np.bincount(open_dataset(tmp_path / "set").train.labels).tolist() == [2, 2, 2]
    assert "не взяты" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda root: paint(root / "train" / "sedan" / "3.HEIC"), "классов: sedan/3.HEIC."),
        (lambda root: paint(root / "train" / "3.png"), "классов: 3.png."),
        (lambda root: shutil.rmtree(root / "test" / "sedan"), "test нет снимков классов: sedan."),
    ],
)
def test_what_is_left_out_is_told_in_a_line(change, words, tmp_path, capsys):
    change(paint_set(tmp_path))
    assert open_dataset(tmp_path).class_names == ["buggy", "sedan", "truck"]
    out = capsys.readouterr().out
    assert words in out and out.count("\n") == 1


def test_a_link_to_nothing_is_an_absent_photo(tmp_path):
    (paint_set(tmp_path) / "train" / "sedan" / "3.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(LabError, match="1 из 7, первый — sedan/3.png: доложите"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, missing="skip").train) == 6


def emptied_test(root):
    shutil.rmtree(paint_set(root) / "test")
    (root / "test").mkdir()


@pytest.mark.parametrize(
    "arrange, words",
    [
        (lambda root: None, "там пусто.*python -m labnn download --data .*set"),
        (lambda root: paint_set(root, parts=["."]), "buggy, sedan, truck.*train/КЛАСС и test/КЛАСС"),
        (lambda root: paint_set(root, parts=["train"]), "там есть: train.*test/КЛАСС"),
        (lambda root: paint_set(root, ["documents/2024"], parts=["home"]), "нет набора данных"),
        (lambda root: paint_set(root, parts=["train/images", "test/images"]), "только один класс, images"),
        (emptied_test, "test нет снимков в папках классов: положите"),
        (lambda root: paint(paint_set(root) / "test" / "Sedan" / "1.png"), "нет в .*train: Sedan"),
    ],
)
def test_folders_that_are_no_data_set_are_told_with_the_way_out(arrange, words, tmp_path):
    arrange(tmp_path / "set")
    with pytest.raises(LabError, match=words):
        open_dataset(tmp_path / "set")


def test_a_folder_with_a_name_that_is_no_text_trains_and_is_recorded(tmp_path):
    """As archives of a Russian Windows unpack elsewhere: bytes of cp866."""
    name = os.fsdecode("пикап".encode("cp866"))
    root = paint_set(tmp_path / name, [name, "a\nb"])
    paint(root / "test" / name / f"{name}.png")
    data = open_dataset(root)
    assert data.class_names == ["\\xaf\\xa8\\xaa\\xa0\\xaf", "a\nb"]
    experiment = Experiment("adam", epochs=1, image_size=32, batch_size=4, mix=0.0, mirror_test=False)
    run = run_or_load(experiment, data, tmp_path / "runs", cache_dir=tmp_path / "cache")
    assert [read.name for read in load_runs(tmp_path / "runs")] == [run.name]
