"""The data set on disk is read as annotated; what is wrong in it is told, with the way out."""

import math
import shutil

import numpy as np
import pytest
import torchvision
from conftest import MINICARS, write_annotations

from labnn import CarModelsDataset, LabError, chance_levels, open_dataset
from labnn.experiment import describe
from labnn.layouts import official_classes

TRAIN = "devkit/cars_train_annos.mat"


def test_original_call_gives_transformed_images_and_labels_from_zero(minicars):
    size = lambda image: image.size  # noqa: E731
    dataset = CarModelsDataset(MINICARS / TRAIN, MINICARS / "cars_train", transform=size)
    assert len(dataset) == len(minicars.train)
    for index in (0, 100):
        assert dataset[index] == (minicars.train[index][0].size, minicars.train.labels[index])


@pytest.mark.parametrize("split", ["train", "test"])
def test_torchvision_reads_the_embedded_set_and_agrees(minicars, tmp_path, split):
    (tmp_path / "stanford_cars").symlink_to(MINICARS, target_is_directory=True)
    theirs = torchvision.datasets.StanfordCars(tmp_path, split=split)
    ours = getattr(minicars, split)
    assert theirs.classes == minicars.class_names
    assert [label for _, label in theirs._samples] == ours.labels.tolist()
    assert [path.rpartition("/")[2] for path, _ in theirs._samples] == [path.name for path in ours.paths]
    assert theirs[5][0].tobytes() == ours[5][0].tobytes()


def test_cropping_follows_the_boxes(minicars):
    cropped = open_dataset(MINICARS, crop_to_box=True).train
    for index in range(0, len(cropped), 40):
        left, top, right, bottom = minicars.train.boxes[index]
        whole = minicars.train.image(index)
        assert 1 <= left < right <= whole.width and 1 <= top < bottom <= whole.height
        expected = whole.crop((left - 1, top - 1, right, bottom))
        assert cropped.image(index).tobytes() == expected.tobytes()


def test_chance_levels_of_the_official_training_labels_and_of_a_biased_coin():
    official = official_classes()
    assert (len(official), official.train.sum(), official.test.sum()) == (196, 8144, 8041)
    levels = chance_levels(np.repeat(np.arange(196), official.train))
    assert [f"{level:.5f}" for level in levels] == ["0.00510", "0.00835", "5.27811", "5.27263"]
    biased = (0.5, 0.75, math.log(2), 2 * math.log(2) - 0.75 * math.log(3))
    assert chance_levels([0, 1, 1, 1]) == pytest.approx(biased)


def test_missing_photos_are_counted_and_can_be_skipped(tiny_root, capsys):
    whole = open_dataset(tiny_root).train
    whole.paths[3].unlink()
    with pytest.raises(LabError, match=f"1 из 16.*{whole.paths[3].name}.*--skip-missing"):
        open_dataset(tiny_root)
    skipped = open_dataset(tiny_root, missing="skip").train
    assert skipped.labels.tolist() == np.delete(whole.labels, 3).tolist()
    assert skipped.boxes.tolist() == np.delete(whole.boxes, 3, axis=0).tolist()
    assert whole.paths[3].name in capsys.readouterr().out


def test_validation_part_is_cut_from_training_alone_the_same_each_time(minicars):
    cut = minicars.validation(0.2, seed=3)
    kept, held = (set(part.paths) for part in (cut.train, cut.test))
    assert not kept & held and kept | held == set(minicars.train.paths)
    shares = np.round(0.2 * np.bincount(minicars.train.labels)).astype(int)
    assert np.bincount(cut.test.labels).tolist() == shares.tolist()
    assert minicars.validation(0.2, seed=3).test.paths == cut.test.paths
    assert cut.name == "minicars-validation" and describe(cut) != describe(minicars)


def test_even_the_smallest_class_is_validated_on(tiny_root):
    data = open_dataset(tiny_root)
    held = data.validation(0.01).test.labels
    counts = np.bincount(data.train.labels)
    assert sorted(held) == np.flatnonzero(counts > 1).tolist()
    with pytest.raises(LabError, match="Проверочная часть пуста"):
        data._replace(train=data.train.subset([0])).validation()


def test_other_pictures_under_the_same_names_are_other_data(tiny_root, tmp_path):
    """The content counts, not only names, sizes and times: else an old run would be given again."""
    before, path = describe(open_dataset(tiny_root)), open_dataset(tiny_root).test.paths[2]
    shutil.copytree(tiny_root, tmp_path / "elsewhere" / "tiny")
    assert describe(open_dataset(tmp_path / "elsewhere" / "tiny")) == before
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    after = describe(open_dataset(tiny_root))
    assert after["content"] != before["content"] and after["fingerprint"] == before["fingerprint"]


# What is in a row of the annotations, and words of what is told.
ROWS = {
    "class 0": (("00001.jpg", 0, (1, 1, 9, 9)), "'class': 0.*от 1 до 10"),
    "class beyond the list": (("00001.jpg", 11, (1, 1, 9, 9)), "'class': 11.*от 1 до 10"),
    "class is half": (("00001.jpg", 1.5, (1, 1, 9, 9)), "'class': 1.5.*целым"),
    "class is a word": (("00001.jpg", "Audi", (1, 1, 9, 9)), "Audi.*официальный файл"),
    "box is no number": (("00001.jpg", 1, (float("nan"), 1, 9, 9)), "nan.*исправьте"),
    "box is infinite": (("00001.jpg", 1, (1, 1, float("inf"), 9)), "inf.*исправьте"),
}
ROWS |= {
    f"name {name!r}": ((name, 1, (1, 1, 9, 9)), "без папок.*исправьте")
    for name in ("../secret.jpg", "/etc/passwd", "a/b.jpg", "..", "..\\secret.jpg")
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_of_the_annotations_that_cannot_be_is_told(case, tiny_root):
    row, words = ROWS[case]
    names, classes, boxes = zip(row, ("00002.jpg", 2, (1, 1, 9, 9)), strict=True)
    write_annotations(tiny_root / TRAIN, names, classes, boxes)
    with pytest.raises(LabError, match=f"cars_train_annos.mat.*{words}"):
        open_dataset(tiny_root)


def test_a_photo_listed_twice_is_told(tiny_root):
    write_annotations(tiny_root / TRAIN, ["00001.jpg"] * 2, [1, 2], [(1, 1, 9, 9)] * 2)
    with pytest.raises(LabError, match="00001.jpg.*одно на снимок"):
        open_dataset(tiny_root)


@pytest.mark.parametrize("box", [(5000, 1, 5100, 9), (40, 30, 1, 1)])
def test_a_box_off_its_photo_or_inside_out_is_told(box, tiny_root):
    write_annotations(tiny_root / TRAIN, ["00001.jpg"], [1], [box])
    with pytest.raises(LabError, match=r"00001.jpg.*рамка \[.*проверьте"):
        open_dataset(tiny_root, crop_to_box=True).train.image(0)


@pytest.mark.parametrize("name", ["фото машины.jpg", "a b (1).jpg", "naïve-車.jpg"])
def test_names_in_any_language_and_with_spaces_are_read(name, tiny_root, tmp_path):
    root = tiny_root.rename(tmp_path / "мои снимки 1")
    (root / "cars_train" / "00001.jpg").rename(root / "cars_train" / name)
    write_annotations(root / TRAIN, [name], [1], [(1, 1, 40, 30)])
    assert open_dataset(root, crop_to_box=True).train.image(0).size == (40, 30)
