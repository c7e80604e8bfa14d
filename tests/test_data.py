"""The data set on disk is read as annotated, and every way it can be broken is told in one sentence."""

import math
import os
import shutil
from collections import Counter

import numpy as np
import pytest
import scipy.io
import torchvision
from conftest import MINICARS, write_annotations

from labnn.cars.layouts import official_classes
from labnn.data import CarModelsDataset, chance_levels, open_dataset
from labnn.kit.errors import LabError


def official_records(file):
    return scipy.io.loadmat(file)["annotations"][0]


def test_original_call_gives_transformed_images_and_labels_from_zero():
    dataset = CarModelsDataset(
        MINICARS / "devkit/cars_train_annos.mat", MINICARS / "cars_train", transform=lambda image: image.size
    )
    size, label = dataset[0]
    assert size == dataset.image(0).size
    assert label == int(official_records(MINICARS / "devkit/cars_train_annos.mat")[0]["class"].item()) - 1


@pytest.mark.parametrize(
    "part, file", [("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")]
)
def test_labels_and_boxes_are_those_of_the_records(minicars, part, file):
    dataset = getattr(minicars, part)
    records = official_records(MINICARS / file)
    assert len(dataset) == len(records)
    for path, label, box, record in zip(dataset.paths, dataset.labels, dataset.boxes, records, strict=True):
        assert path.name == record["fname"].item()
        assert label == record["class"].item() - 1
        assert box.tolist() == [record[f"bbox_{name}"].item() for name in ("x1", "y1", "x2", "y2")]


@pytest.mark.parametrize("split", ["train", "test"])
def test_torchvision_reads_the_embedded_set_and_agrees(minicars, tmp_path, split):
    (tmp_path / "stanford_cars").symlink_to(MINICARS, target_is_directory=True)
    theirs = torchvision.datasets.StanfordCars(tmp_path, split=split)
    ours = getattr(minicars, split)
    assert theirs.classes == minicars.class_names
    assert [label for _, label in theirs._samples] == ours.labels.tolist()
    assert theirs[5][0].tobytes() == ours[5][0].tobytes()


def test_embedded_set_has_every_class_unequally_in_both_parts(minicars):
    for part in (minicars.train, minicars.test):
        sizes = Counter(part.labels.tolist())
        assert sorted(sizes) == list(range(len(minicars.class_names)))
        assert max(sizes.values()) > 1.5 * min(sizes.values())


def test_boxes_lie_on_their_images_and_cropping_follows_them(minicars):
    cropped = open_dataset(MINICARS, crop_to_box=True).train
    for index in range(0, len(cropped), 40):
        left, top, right, bottom = minicars.train.boxes[index]
        whole = minicars.train.image(index)
        assert 1 <= left < right <= whole.width and 1 <= top < bottom <= whole.height
        expected = whole.crop((left - 1, top - 1, right, bottom))
        assert cropped.image(index).tobytes() == expected.tobytes()


def test_a_data_set_is_its_two_parts_and_class_names(tiny_root):
    train, test, class_names = data = open_dataset(tiny_root)
    assert (len(train), len(test), len(class_names)) == (16, 8, 10)
    assert data.name == "tiny"


def test_parent_folder_in_torchvisions_sense_is_accepted(tiny_root, tmp_path):
    tiny_root.rename(tmp_path / "stanford_cars")
    assert len(open_dataset(tmp_path).train) == 16


def test_chance_levels_of_the_official_training_labels():
    levels = chance_levels(np.repeat(np.arange(196), official_classes().train))
    assert [f"{level:.5f}" for level in levels] == ["0.00510", "0.00835", "5.27811", "5.27263"]


def test_chance_levels_of_a_fair_coin_and_a_biased_one():
    assert chance_levels([0, 1, 1, 0]) == pytest.approx((0.5, 0.5, math.log(2), math.log(2)))
    assert chance_levels([0, 1, 1, 1]) == pytest.approx(
        (0.5, 0.75, math.log(2), 2 * math.log(2) - 0.75 * math.log(3))
    )


def test_missing_root_is_named(tmp_path):
    with pytest.raises(LabError, match=r"nowhere.*укажите"):
        open_dataset(tmp_path / "nowhere")


def test_missing_image_is_an_error_that_names_it(tiny_root):
    victim = sorted((tiny_root / "cars_train").iterdir())[3]
    victim.unlink()
    with pytest.raises(LabError, match=rf"1 из 16.*{victim.name}.*skip"):
        open_dataset(tiny_root)


def test_missing_image_can_be_skipped_with_one_line(tiny_root, capsys):
    whole = open_dataset(tiny_root).train
    whole.paths[3].unlink()
    skipped = open_dataset(tiny_root, missing="skip").train
    assert skipped.labels.tolist() == [label for index, label in enumerate(whole.labels) if index != 3]
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and whole.paths[3].name in out and "1 из 16" in out


def test_truncated_image_is_named(tiny_root):
    dataset = open_dataset(tiny_root).train
    content = dataset.paths[2].read_bytes()
    dataset.paths[2].write_bytes(content[: len(content) // 2])
    with pytest.raises(LabError, match=rf"{dataset.paths[2].name}.*замените"):
        dataset[2]


@pytest.mark.parametrize("content", [b"", b"not a mat file", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_broken_annotations_are_named(tiny_root, content):
    file = tiny_root / "devkit" / "cars_train_annos.mat"
    file.write_bytes(content)
    with pytest.raises(LabError, match="cars_train_annos.mat.*скачайте"):
        open_dataset(tiny_root)


def test_truncated_annotations_are_named(tiny_root):
    file = tiny_root / "devkit" / "cars_train_annos.mat"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(LabError, match="cars_train_annos.mat.*скачайте"):
        open_dataset(tiny_root)


def test_absent_annotations_are_named(tiny_root):
    os.remove(tiny_root / "cars_test_annos_withlabels.mat")
    with pytest.raises(LabError, match="cars_test_annos_withlabels.mat"):
        open_dataset(tiny_root)


def test_other_mat_file_is_refused(tiny_root):
    shutil.copy(tiny_root / "devkit/cars_meta.mat", tiny_root / "devkit/cars_train_annos.mat")
    with pytest.raises(LabError, match="cars_train_annos.mat нет переменной annotations"):
        open_dataset(tiny_root)


@pytest.mark.parametrize("label", [0, 11])
def test_label_outside_the_class_list_is_named(tiny_root, label):
    write_annotations(tiny_root / "devkit/cars_train_annos.mat", ["00001.jpg"], [label], [(1, 1, 9, 9)])
    with pytest.raises(LabError, match=f"00001.jpg класс {label}.*от 1 до 10"):
        open_dataset(tiny_root)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/b.jpg", "..", "", "..\\secret.jpg"])
def test_file_names_never_leave_the_image_folder(tiny_root, name):
    write_annotations(tiny_root / "devkit/cars_train_annos.mat", [name], [1], [(1, 1, 9, 9)])
    with pytest.raises(LabError, match="за пределы папки"):
        open_dataset(tiny_root)


def test_box_off_the_image_is_told(tiny_root):
    write_annotations(tiny_root / "devkit/cars_train_annos.mat", ["00001.jpg"], [1], [(5000, 1, 5100, 9)])
    with pytest.raises(LabError, match="Рамка .*00001.jpg"):
        open_dataset(tiny_root, crop_to_box=True).train.image(0)


def test_validation_part_is_cut_from_training_alone_the_same_each_time(minicars):
    cut = minicars.validation(0.2, seed=3)
    kept, held = ({path.name for path in part.paths} for part in (cut.train, cut.test))
    assert not kept & held and kept | held == {path.name for path in minicars.train.paths}
    assert np.bincount(cut.test.labels).tolist() == [
        round(0.2 * count) for count in np.bincount(minicars.train.labels)
    ]
    assert [path.name for path in minicars.validation(0.2, seed=3).test.paths] == [
        path.name for path in cut.test.paths
    ]
    assert cut.name == "minicars-validation" and cut.fingerprint() != minicars.fingerprint()
    image, label = cut.test[5]
    assert (
        label == cut.test.labels[5]
        and image.tobytes() == minicars.train.image(minicars.train.paths.index(cut.test.paths[5])).tobytes()
    )


def test_validation_part_of_nothing_is_refused(tiny_root):
    with pytest.raises(LabError, match="увеличьте"):
        open_dataset(tiny_root).validation(0.01)
