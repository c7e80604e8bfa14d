"""Every layout in which people have Stanford Cars is read as it lies, with the official labels."""

import os
import shutil
import unicodedata

import numpy as np
import pytest
import scipy.io
from conftest import MINICARS
from labnn.cars.layouts import official_classes
from PIL import Image
from torchvision.datasets import ImageFolder

from labnn.__main__ import main
from labnn.data import open_dataset
from labnn.kit.errors import LabError

TEST_FILE = "cars_test_annos_withlabels.mat"


def torchvision(root):
    """The layout that the fixture has."""


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


def single_file(root):
    """``cars_annos.mat`` lists both parts, all photos lie in ``car_ims``."""
    (root / "car_ims").mkdir()
    records, number = [], 0
    for file, folder, in_test in (
        (root / "devkit/cars_train_annos.mat", "cars_train", 0),
        (root / TEST_FILE, "cars_test", 1),
    ):
        for record in scipy.io.loadmat(file)["annotations"][0]:
            number += 1
            (root / folder / record["fname"].item()).rename(root / "car_ims" / f"{number:06d}.jpg")
            box = [int(record[f"bbox_{edge}"].item()) for edge in ("x1", "y1", "x2", "y2")]
            records.append((f"car_ims/{number:06d}.jpg", *box, int(record["class"].item()), in_test))
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    annotations = np.empty((1, len(records)), dtype=[(field, object) for field in fields])
    for index, record in enumerate(records):
        annotations[0, index] = record
    names = scipy.io.loadmat(root / "devkit/cars_meta.mat")["class_names"]
    shutil.rmtree(root / "devkit")
    scipy.io.savemat(root / "cars_annos.mat", {"annotations": annotations, "class_names": names})


@pytest.mark.parametrize("arrange", [torchvision, kaggle_nested, labels_in_devkit, single_file])
def test_the_same_photos_labels_and_boxes_come_out_of_every_layout(arrange, tiny_root):
    expected = open_dataset(tiny_root, crop_to_box=True)
    pictures = [[part.image(index).tobytes() for index in range(len(part))] for part in expected[:2]]
    arrange(tiny_root)
    found = open_dataset(tiny_root, crop_to_box=True)
    assert found.class_names == expected.class_names and found.name == "tiny"
    for part, before, images in zip(found[:2], expected[:2], pictures, strict=True):
        assert part.labels.tolist() == before.labels.tolist() and part.boxes.tolist() == before.boxes.tolist()
        assert [part.image(index).tobytes() for index in range(len(part))] == images
    assert found.validation(0.5).name == "tiny-validation"


@pytest.mark.parametrize("around", ["stanford_cars", "archive", "versions/1"])
def test_a_folder_around_the_data_set_is_looked_into(around, tiny_root, tmp_path):
    place = tmp_path / "outer" / around
    place.parent.mkdir(parents=True)
    tiny_root.rename(place)
    assert open_dataset(tmp_path / "outer").fingerprint() == open_dataset(place).fingerprint()


def class_folders(root, train: dict[str, int], test: dict[str, int] | None = None):
    """Copies so many embedded photos into a folder of each class."""
    photos = iter(sorted((MINICARS / "cars_train").iterdir()))
    for part, counts in (("train", train), ("test", test or train)):
        for name, count in counts.items():
            (root / part / name).mkdir(parents=True)
            for _ in range(count):
                shutil.copy(next(photos), root / part / name)
    return root


# The slash of the last class cannot stand in a folder's name: it is replaced, dropped, or makes two folders.
@pytest.mark.parametrize(
    "ram",
    [
        "Ram C-V Cargo Van Minivan 2012",
        "Ram C_V Cargo Van Minivan 2012",
        "Ram CV Cargo Van Minivan 2012",
        "Ram C/V Cargo Van Minivan 2012",
    ],
)
def test_class_folders_get_the_official_order(ram, tmp_path):
    names = ["Acura Integra Type R 2001", "Acura RL Sedan 2012", "AM General Hummer SUV 2000", ram]
    data = open_dataset(class_folders(tmp_path, dict.fromkeys(names, 2)))
    assert data.class_names == [
        "AM General Hummer SUV 2000",
        "Acura RL Sedan 2012",
        "Acura Integra Type R 2001",
        "Ram C/V Cargo Van Minivan 2012",
    ]
    for path, label in zip(data.train.paths, data.train.labels, strict=True):
        folder = path.relative_to(tmp_path / "train").parent.as_posix()
        assert names.index(folder) == [2, 1, 0, 3][label]


def test_folders_of_all_official_classes_give_the_official_labels(tmp_path):
    names = official_classes().class_names
    photo = (MINICARS / "cars_train" / "00001.jpg").read_bytes()
    for part in ("train", "test"):
        for name in names:
            (tmp_path / part / name.replace("/", "-")).mkdir(parents=True)
            (tmp_path / part / name.replace("/", "-") / "1.jpg").write_bytes(photo)
    data = open_dataset(tmp_path)
    assert data.class_names == names and len(names) == 196
    for path, label in zip(data.test.paths, data.test.labels, strict=True):
        assert path.parent.name == names[label].replace("/", "-")


def test_folders_of_other_classes_are_taken_by_name(tmp_path):
    data = open_dataset(class_folders(tmp_path / "pets", {"кошки": 3, "dogs and puppies": 2}))
    assert data.class_names == ["dogs and puppies", "кошки"] and data.name == "pets"
    assert np.bincount(data.train.labels).tolist() == [2, 3]


def test_class_folders_have_no_boxes_and_say_so(tmp_path, capsys):
    data = open_dataset(class_folders(tmp_path, {"a": 2, "b": 2}), crop_to_box=True)
    assert "Рамок в наборе" in capsys.readouterr().out
    assert data.train.boxes is None and not data.describe()["crop_to_box"]
    assert data.train.image(0).size == open_dataset(MINICARS).train.image(0).size


def test_a_network_trains_on_class_folders(tmp_path, capsys):
    root = class_folders(tmp_path / "set", {"a": 8, "b": 8}, {"a": 2, "b": 2})
    small = ["--epochs", "1", "--image-size", "32", "--batch-size", "8", "--device", "cpu"]
    assert (
        main(
            [
                "train",
                "--data",
                str(root),
                "--out",
                str(tmp_path / "runs"),
                "--cache",
                str(tmp_path / "cache"),
                *small,
            ]
        )
        == 0
    )
    assert "Тестовая точность: " in capsys.readouterr().out


def damaged(root, how: str):
    class_folders(root, {"Acura RL Sedan 2012": 2, "Acura TL Sedan 2012": 2})
    extra = {"twice": ("train", "Acura-RL Sedan 2012"), "only in test": ("test", "Acura TSX Sedan 2012")}
    if how in extra:
        part, name = extra[how]
        class_folders(root / "more", {name: 1})
        (root / "more" / "train" / name).rename(root / part / name)
        shutil.rmtree(root / "more")
    elif how == "empty test":
        shutil.rmtree(root / "test")
        (root / "test").mkdir()
    elif how == "no photos":
        for path in root.rglob("*.jpg"):
            path.unlink()


@pytest.mark.parametrize(
    "how, words",
    {
        "twice": "«Acura RL Sedan 2012» лежит в двух папках: объедините",
        "only in test": "нет снимков класса «Acura TSX Sedan 2012».*доложите",
        "empty test": "test нет ни одного снимка.*положите",
        "no photos": "нет набора данных",
    }.items(),
)
def test_damaged_class_folders_are_told(how, words, tmp_path):
    damaged(tmp_path, how)
    with pytest.raises(LabError, match=words):
        open_dataset(tmp_path)


def paint(path, size=(8, 6)):
    """A small picture of a colour of its own at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, tuple(path.name.encode()[-3:])).save(path, "PNG")


def paint_set(root, classes=("buggy", "sedan", "truck"), parts=("train", "test")):
    for part in parts:
        for name in classes:
            paint(root / part / name / "1.png")
            paint(root / part / name / "2.png")
    return root


def assert_as_image_folder(root):
    """Photos, labels and class names are those that torchvision's ``ImageFolder`` reads."""
    data = open_dataset(root)
    for part, dataset in (("train", data.train), ("test", data.test)):
        theirs = ImageFolder(root / part)
        assert data.class_names == theirs.classes
        ours = [
            (str(path), label) for path, label in zip(dataset.paths, dataset.labels.tolist(), strict=True)
        ]
        assert sorted(ours) == sorted(theirs.samples)


def test_a_class_is_a_folder_of_the_first_level_with_all_below_it_as_for_image_folder(tmp_path):
    root = paint_set(tmp_path)
    paint(root / "train" / "sedan" / "front" / "near" / "3.png")
    paint(root / "train" / "sedan" / "rear" / "3.PNG")
    paint(root / "test" / "truck" / "ё 車" / "4.JPeG")
    paint(tmp_path / "elsewhere" / "5.png")
    (root / "train" / "truck" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert_as_image_folder(root)


def test_a_class_folder_that_is_a_link_is_read_and_a_link_to_above_is_not_followed(tmp_path, capsys):
    root = paint_set(tmp_path / "set")
    (root / "train" / "truck").rename(tmp_path / "trucks")
    (root / "train" / "truck").symlink_to(tmp_path / "trucks", target_is_directory=True)
    (root / "train" / "sedan" / "again").symlink_to(root / "train", target_is_directory=True)
    assert np.bincount(open_dataset(root).train.labels).tolist() == [2, 2, 2]
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "litter",
    [
        "train/.ipynb_checkpoints/1-checkpoint.png",
        "train/sedan/.ipynb_checkpoints/1-checkpoint.png",
        "train/sedan/@eaDir/1.png/SYNOPHOTO_THUMB_M.png",
        "train/@eaDir/1.png",
        "train/__MACOSX/sedan/1.png",
        "test/sedan/._1.png",
        "test/sedan/.DS_Store",
        "test/sedan/Thumbs.db",
        "test/$RECYCLE.BIN/1.png",
        ".git/x/1.png",
        "__MACOSX/train/sedan/._1.png",
    ],
)
def test_hidden_and_system_entries_are_neither_classes_nor_photos(litter, tmp_path, capsys):
    root = paint_set(tmp_path / "set")
    before = open_dataset(root).fingerprint()
    paint(root / litter)
    assert open_dataset(root).fingerprint() == before and not capsys.readouterr().out


def test_system_folders_beside_the_only_folder_of_an_archive_are_no_other_folder(tmp_path):
    paint_set(tmp_path / "cars")
    paint(tmp_path / "__MACOSX" / "cars" / "._1.png")
    assert open_dataset(tmp_path).name == "cars"


@pytest.mark.parametrize(
    "train, test",
    [
        ("train", "val"),
        ("train", "valid"),
        ("Train", "Test"),
        ("training", "testing"),
        ("training", "validation"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("training_set/training_set", "test_set/test_set"),
    ],
)
def test_parts_of_other_names_are_found_and_told(train, test, tmp_path, capsys):
    data = open_dataset(paint_set(tmp_path, parts=(train, test)))
    assert data.class_names == ["buggy", "sedan", "truck"] and len(data.train) == len(data.test) == 6
    assert data.test.paths[0].is_relative_to(tmp_path / test)
    taken = train.partition("/")[0], test.partition("/")[0]
    assert f"обучающая часть — {taken[0]}, тестовая — {taken[1]}." in capsys.readouterr().out


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_nested_in_itself_is_no_class(part, tmp_path):
    paint_set(tmp_path, parts=("train", "test"))
    (tmp_path / part).rename(tmp_path / "inner")
    (tmp_path / part).mkdir()
    (tmp_path / "inner").rename(tmp_path / part / part)
    assert open_dataset(tmp_path).class_names == ["buggy", "sedan", "truck"]


def test_test_is_the_test_part_where_val_lies_beside_it_which_is_told(tmp_path, capsys):
    data = open_dataset(paint_set(tmp_path, parts=("train", "val", "test")))
    assert data.test.paths[0].is_relative_to(tmp_path / "test")
    assert "тестовая — test, не взято: val." in capsys.readouterr().out


def test_own_classes_come_after_the_official_ones_which_is_told(tmp_path, capsys):
    names = ["Aurus Senat 2020", "Lada Niva 2012", "Audi A5 Coupe 2012", "AM General Hummer SUV 2000"]
    data = open_dataset(paint_set(tmp_path, names))
    assert data.class_names == names[:1:-1] + names[:2]
    for path, label in zip(data.train.paths, data.train.labels, strict=True):
        assert path.parent.name == data.class_names[label]
    assert "стоят после официальных: Aurus Senat 2020, Lada Niva 2012." in capsys.readouterr().out


def test_folders_inside_of_an_official_class_are_no_classes(tmp_path):
    root = paint_set(tmp_path, ["Audi A5 Coupe 2012/front", "Ram C/V Cargo Van Minivan 2012/rear"])
    assert open_dataset(root).class_names == ["Audi A5 Coupe 2012", "Ram C/V Cargo Van Minivan 2012"]


def test_one_name_composed_in_two_ways_is_one_class(tmp_path):
    """Files from a Mac have "й" as two characters, those from elsewhere as one."""
    paint_set(tmp_path, ["трамвай", "авто"], parts=["train"])
    paint_set(tmp_path, [unicodedata.normalize("NFD", "трамвай"), "авто"], parts=["test"])
    data = open_dataset(tmp_path)
    assert data.class_names == ["авто", "трамвай"] and data.test.labels.tolist() == [0, 0, 1, 1]


def test_class_names_are_text_where_folders_have_broken_names(tmp_path):
    """As archives of a Russian Windows unpack elsewhere: bytes of cp866."""
    paint_set(tmp_path, [os.fsdecode("пикап".encode("cp866")), "a\nb"])
    names = open_dataset(tmp_path).class_names
    assert names == ["\\xaf\\xa8\\xaa\\xa0\\xaf", "a\\nb"]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda root: (root / "train" / "coupe").mkdir(), "train не взяты папки без снимков: coupe."),
        (lambda root: paint(root / "train" / "sedan" / "3.jfif"), "классов: sedan/3.jfif."),
        (lambda root: paint(root / "test" / "sedan" / "3.HEIC"), "классов: sedan/3.HEIC."),
        (lambda root: paint(root / "train" / "3.png"), "train не взяты файлы, что не снимки в папках"),
    ],
)
def test_what_is_left_out_is_told_in_a_line(change, words, tmp_path, capsys):
    change(paint_set(tmp_path))
    data = open_dataset(tmp_path)
    assert data.class_names == ["buggy", "sedan", "truck"] and len(data.train) == len(data.test) == 6
    out = capsys.readouterr().out
    assert words in out and out.count("\n") == 1


def test_a_class_that_the_test_lacks_is_told(tmp_path, capsys):
    shutil.rmtree(paint_set(tmp_path) / "test" / "sedan")
    assert open_dataset(tmp_path).class_names == ["buggy", "sedan", "truck"]
    assert "нет снимков классов, на тесте их не будет: sedan." in capsys.readouterr().out


def test_a_link_to_nothing_is_an_absent_photo(tmp_path, capsys):
    (paint_set(tmp_path) / "train" / "sedan" / "3.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(LabError, match="sedan/3.png: доложите"):
        open_dataset(tmp_path)
    data = open_dataset(tmp_path, missing="skip")
    assert np.bincount(data.train.labels).tolist() == [2, 2, 2]
    assert "sedan/3.png" in capsys.readouterr().out


def only_classes(root):
    paint_set(root, parts=["."])


def only_train(root):
    paint_set(root, parts=["train"])


def train_in_test(root):
    paint_set(root, parts=["train"])
    (root / "test").symlink_to(root / "train", target_is_directory=True)


def classes_one_level_too_deep(root):
    paint_set(root, parts=["train/images", "test/images"])


def names_differ_by_case(root):
    paint_set(root)
    (root / "test" / "sedan").rename(root / "test" / "Sedan")


@pytest.mark.parametrize(
    "arrange, words",
    [
        (
            only_classes,
            r"классов без деления на train и test \(buggy, sedan, truck\): разложите .*train/КЛАСС",
        ),
        (only_train, "есть train, но нет test или val: разложите .*test/КЛАСС"),
        (train_in_test, "train, test — одна и та же папка: разделите"),
        (classes_one_level_too_deep, "один класс «images», а в нём папок: 3: .*на уровень выше"),
        (names_differ_by_case, "нет снимков класса «Sedan».*назовите папки класса одинаково"),
    ],
)
def test_class_folders_that_are_no_data_set_are_told_with_the_way_out(arrange, words, tmp_path):
    arrange(tmp_path / "set")
    with pytest.raises(LabError, match=words):
        open_dataset(tmp_path / "set")


def test_a_folder_of_anything_is_refused_without_a_look_into_its_depths(tmp_path):
    """As the whole disk is, when the path is mistyped."""
    paint_set(tmp_path, ["documents/2024", "pictures/2024"], parts=["home"])
    with pytest.raises(LabError, match="нет набора данных"):
        open_dataset(tmp_path)


def test_the_folder_of_one_part_sends_to_the_one_above(tmp_path):
    with pytest.raises(LabError, match="укажите папку над ней"):
        open_dataset(paint_set(tmp_path) / "train")


def single(change):
    def damage(root):
        single_file(root)
        (root / "cars_train").rmdir()
        content = scipy.io.loadmat(root / "cars_annos.mat")
        variables = {name: content[name] for name in ("annotations", "class_names")}
        change(root, variables)
        scipy.io.savemat(root / "cars_annos.mat", variables)

    return damage


def set_field(field, value):
    def change(root, variables):
        for record in variables["annotations"][0]:
            record[field] = value

    return change


@pytest.mark.parametrize(
    "damage, words",
    [
        (single(lambda root, _: shutil.rmtree(root / "car_ims")), "Нет папки снимков .*car_ims"),
        (
            single(lambda root, _: (root / "car_ims").rename(root / "cars_train")),
            "описывает снимки из папки car_ims.*доложите официальную папку devkit",
        ),
        (single(lambda root, _: os.remove(root / "car_ims" / "000003.jpg")), "000003.jpg.*доложите"),
        (single(lambda root, variables: variables.pop("class_names")), "нет переменной class_names"),
        (single(set_field("test", 0)), "часть test пуста"),
        (single(set_field("relative_im_path", "../../secret.jpg")), "ведёт за пределы"),
        (single(set_field("relative_im_path", "car_ims/../secret.jpg")), "ведёт за пределы"),
        (single(set_field("relative_im_path", "car_ims/000001.jpg")), "описан дважды"),
        (single(set_field("class", 11)), "класс 11, а должен быть от 1 до 10"),
    ],
)
def test_damaged_single_file_is_told(damage, words, tiny_root):
    damage(tiny_root)
    with pytest.raises(LabError, match=words):
        open_dataset(tiny_root)


def test_nothing_there_names_the_ways_to_get_it(tmp_path):
    with pytest.raises(
        LabError, match=r"python -m labnn download --data .*nothing, положите туда файлы.*укажите другую"
    ):
        open_dataset(tmp_path / "nothing")
