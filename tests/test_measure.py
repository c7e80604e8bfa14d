"""The scripts of ``data/measure`` find what they look for, from any folder, and tell mistakes in one line."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT, write_annotations

from labnn.data import open_dataset

SCRIPTS = PROJECT / "data" / "measure"


@pytest.fixture
def measure(tmp_path):
    """Runs a script of the folder from elsewhere, as a newcomer would: the project is not on the path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(script, *arguments) -> subprocess.CompletedProcess:
        command = [sys.executable, str(SCRIPTS / f"{script}.py"), *map(str, arguments)]
        options = {"cwd": tmp_path, "env": environment | {"PYTHONIOENCODING": "utf-8"}}
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **options)

    return run


@pytest.fixture(scope="module")
def near_duplicates():
    spec = importlib.util.spec_from_file_location("duplicates", SCRIPTS / "duplicates.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.near_duplicates


def test_a_copy_in_the_other_part_is_found_also_mirrored_and_brightened(minicars, near_duplicates):
    pictures = np.stack([np.asarray(minicars.train.image(index).resize((64, 64))) for index in range(40)])
    first, second = pictures[:20], pictures[20:].copy()
    assert near_duplicates(first, second).empty
    second[3] = first[7, :, ::-1]
    second[11] = (first[15] * 0.8 + 20).astype(np.uint8)
    found = near_duplicates(first, second)
    assert {(row.first, row.second) for row in found.itertuples()} == {(7, 3), (15, 11)}


def test_picture_in_both_parts_is_listed(measure, tiny_root, tmp_path):
    (tiny_root / "cars_test" / "00003.jpg").write_bytes((tiny_root / "cars_train" / "00005.jpg").read_bytes())
    data = open_dataset(tiny_root)
    boxes = data.test.boxes.copy()
    boxes[2] = data.train.boxes[4]
    names = [path.name for path in data.test.paths]
    write_annotations(tiny_root / "cars_test_annos_withlabels.mat", names, data.test.labels + 1, boxes)
    places = ["--out", tmp_path / "pairs.csv", "--cache", tmp_path / "cache"]
    result = measure("duplicates", "--data", tiny_root, *places)
    assert result.returncode == 0 and result.stdout.splitlines()[-1].startswith("Пар: 1,"), result.stderr
    pairs = pd.read_csv(tmp_path / "pairs.csv", dtype=str)[["train_file", "test_file"]]
    assert pairs.values.tolist() == [["00005.jpg", "00003.jpg"]]


def test_signal_at_the_start_is_written_for_every_convolution_of_three_networks(measure, tiny_root, tmp_path):
    places = ["--out", tmp_path / "signal.csv", "--cache", tmp_path / "cache"]
    result = measure("start_signal", "--data", tiny_root, *places)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "signal.csv")
    assert table.groupby("network").size().tolist() == [26, 26, 26]
    assert list(table.columns) == ["network", "layer", "spread", "gradient"] and (table["gradient"] > 0).all()


def test_throughput_of_two_loops_and_their_ratio_are_printed(measure, tiny_root):
    small = ["--image-size", 32, "--batch-size", 8, "--images", 16, "--rounds", 1, "--device", "cpu"]
    result = measure("throughput", "--data", tiny_root, *small, "--variants", "labnn", "ceiling")
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith("| (")]
    assert [row[2:6] for row in rows] == ["(b1)", "(c) "]
    assert "Отношения, медианы по повторам: b1/c = " in result.stdout


def test_absent_data_set_is_told_in_one_line_with_status_2(measure):
    result = measure("duplicates", "--data", "nowhere", "--out", "out.csv")
    assert result.returncode == 2
    assert "nowhere" in result.stderr and result.stderr.count("\n") == 1
