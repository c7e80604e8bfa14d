"""What the tests share: the embedded data set, and small real data sets cut from it."""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torch.utils.data import TensorDataset

from labnn.data import CarModelsDataset, open_dataset

# One thread, here and in the processes that tests start: histories to the last digit.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# The notebook, re-executed by the tests, trains anew and leaves the project's files alone.
os.environ["LABNN_OUTPUT"] = tempfile.mkdtemp(prefix="labnn-")
os.environ.pop("LABNN_DATA", None)

PROJECT = Path(__file__).parent.parent
MINICARS = PROJECT / "data" / "minicars"


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["LABNN_OUTPUT"], ignore_errors=True)


def handful(count: int = 12) -> TensorDataset:
    """Real images and labels: a few of the embedded set, 64 x 64, from -2 to 2."""
    dataset = open_dataset(MINICARS, crop_to_box=True).train
    pictures = np.stack([np.asarray(dataset.image(index).resize((64, 64))) for index in range(count)])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 63.75 - 2
    return TensorDataset(images, torch.from_numpy(dataset.labels[:count]))


@pytest.fixture(scope="session")
def minicars():
    return open_dataset(MINICARS)


@pytest.fixture
def tiny_root(minicars, tmp_path) -> Path:
    """A data set on disk in the official layout: 16 training and 8 test images of the embedded one."""
    root = tmp_path / "tiny"
    (root / "devkit").mkdir(parents=True)
    shutil.copy(MINICARS / "devkit" / "cars_meta.mat", root / "devkit")
    copy_part(minicars.train, 16, root / "devkit" / "cars_train_annos.mat", root / "cars_train")
    copy_part(minicars.test, 8, root / "cars_test_annos_withlabels.mat", root / "cars_test")
    return root


def own_photos(root: Path) -> None:
    """Three classes in folders, as users keep their own photos: 48 to train on, 24 to test."""
    cars = open_dataset(MINICARS)
    for part, dataset, count in (("train", cars.train, 16), ("test", cars.test, 8)):
        for label in range(3):
            folder = root / part / cars.class_names[label]
            folder.mkdir(parents=True)
            for index in np.flatnonzero(dataset.labels == label)[:count]:
                shutil.copy(dataset.paths[index], folder)


def copy_part(part: CarModelsDataset, count: int, annotations_file: Path, images_dir: Path) -> None:
    images_dir.mkdir()
    for path in part.paths[:count]:
        shutil.copy(path, images_dir)
    names = [path.name for path in part.paths[:count]]
    write_annotations(annotations_file, names, part.labels[:count] + 1, part.boxes[:count])


def write_annotations(file: Path, names, classes, boxes) -> None:
    """Writes a ``.mat`` file with the structure of the official ones; ``classes`` from 1."""
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    records = np.empty((1, len(names)), dtype=[(field, object) for field in fields])
    for index, (name, label, box) in enumerate(zip(names, classes, boxes, strict=True)):
        records[0, index] = (*box, label, name)
    scipy.io.savemat(file, {"annotations": records})


@pytest.fixture(scope="session")
def draw_picture():
    """``draw_picture`` of the script that drew the embedded set."""
    spec = importlib.util.spec_from_file_location("draw_minicars", MINICARS.with_name("draw_minicars.py"))
    script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.draw_picture
