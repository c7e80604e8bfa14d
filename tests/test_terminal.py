"""``python -m labnn`` does the work from a terminal and tells mistakes in one line."""

import subprocess
import sys

import pytest
from conftest import PROJECT, write_annotations


def labnn(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "labnn", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, encoding="utf-8")


def train_small(root, tmp_path, *more):
    small = ["--epochs", 2, "--image-size", 32, "--batch-size", 8, "--device", "cpu", "--cache", tmp_path / "cache"]
    return labnn("train", "--data", root, "--out", tmp_path / "runs", *small, *more)


def test_training_ends_with_the_test_accuracy_and_leaves_one_record(tiny_root, tmp_path):
    result = train_small(tiny_root, tmp_path, "--optimizer", "amsgrad", "--seed", 0)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-2].startswith("Эпоха 2, ")
    assert lines[-1].startswith("Тестовая точность: ") and lines[-1].endswith("%")
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 1


def test_second_call_finds_the_run_and_report_rebuilds_its_figures(tiny_root, tmp_path):
    first = train_small(tiny_root, tmp_path)
    again = train_small(tiny_root, tmp_path)
    assert again.stdout.splitlines()[-2:] == first.stdout.splitlines()[-2:]  # seconds too: nothing was trained
    assert "уже записан" in again.stdout
    report = labnn("report", "--runs", tmp_path / "runs", "--out", tmp_path / "figures")
    assert report.returncode == 0, report.stderr
    for name in ("curves.png", "summary.csv", "summary.md", "epochs-amsgrad.csv"):
        assert (tmp_path / "figures" / "tiny" / name).stat().st_size > 0


def damage_image(root):
    victim = min((root / "cars_train").iterdir())
    victim.write_bytes(victim.read_bytes()[:300])


def remove_image(root):
    min((root / "cars_train").iterdir()).unlink()


def break_annotations(root):
    (root / "cars_test_annos_withlabels.mat").write_bytes(b"broken")


def mislabel(root):
    write_annotations(root / "devkit/cars_train_annos.mat", ["00001.jpg"], [77], [(1, 1, 9, 9)])


@pytest.mark.parametrize(
    "damage, told",
    [(damage_image, "00001.jpg"), (remove_image, "00001.jpg"), (break_annotations, "cars_test_annos_withlabels.mat"), (mislabel, "класс 77")],
)
def test_broken_data_is_told_in_one_line_with_status_2(tiny_root, tmp_path, damage, told):
    damage(tiny_root)
    result = train_small(tiny_root, tmp_path)
    assert result.returncode == 2
    assert told in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["train", "--data", "nowhere"], "nowhere"),
        (["train", "--data", "data/minicars", "--optimizer", "sgd"], "«sgd»"),
        (["train", "--data", "data/minicars", "--epochs", "many"], "many"),
        (["train", "--data", "data/minicars", "--version", "3"], "«3»"),
        (["train", "--data", "data/minicars", "--device", "abacus"], "«abacus»"),
        (["train"], "--data"),
        (["fly"], "fly"),
        (["report", "--runs", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_in_arguments_are_told_in_one_line_with_status_2(arguments, told):
    result = labnn(*arguments)
    assert result.returncode == 2
    assert told in result.stderr and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


def test_missing_images_can_be_skipped(tiny_root, tmp_path):
    remove_image(tiny_root)
    result = train_small(tiny_root, tmp_path, "--skip-missing")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Пропущено") == 1
