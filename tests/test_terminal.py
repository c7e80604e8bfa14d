"""``python -m labnn`` does the work from a terminal and tells mistakes in one line."""

import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import MINICARS, PROJECT, write_annotations

from labnn.__main__ import main
from labnn.experiment import OPTIMIZERS, Run


@pytest.fixture
def train_small(tiny_root, tmp_path):
    """Arguments of a small training on the tiny data set."""
    small = [
        "--epochs",
        2,
        "--image-size",
        32,
        "--batch-size",
        8,
        "--device",
        "cpu",
        "--cache",
        tmp_path / "cache",
    ]
    return ["train", "--data", tiny_root, "--out", tmp_path / "runs", *small]


@pytest.fixture
def labnn(capsys):
    """Runs a command in this process; gives its exit status, stdout and stderr."""

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def in_a_shell(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "labnn", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, encoding="utf-8")


def test_training_ends_with_the_test_accuracy_and_leaves_one_record(train_small, tmp_path):
    result = in_a_shell(*train_small, "--optimizer", "amsgrad", "--seed", 0)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-2].startswith("Эпоха 2, ")
    assert lines[-1].startswith("Тестовая точность: ") and lines[-1].endswith("%")
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 1


def test_second_call_finds_the_run_and_report_rebuilds_its_figures(labnn, train_small, tmp_path):
    _, first, _ = labnn(*train_small)
    _, again, _ = labnn(*train_small)
    assert again.splitlines()[-2:] == first.splitlines()[-2:]  # seconds too: nothing was trained
    assert "уже записан" in again
    status, told, _ = labnn("report", "--runs", tmp_path / "runs", "--out", tmp_path / "figures")
    assert status == 0
    for name in ("curves.png", "summary.csv", "summary.md", "epochs-adamw-amsgrad.csv"):
        path = tmp_path / "figures" / "tiny" / name
        assert path.stat().st_size > 0 and str(path) in told


def test_trained_network_is_tested_again_in_other_ways(labnn, train_small, tiny_root, tmp_path):
    labnn(*train_small, "--no-mirror-test", "--test-size", 0)
    [folder] = (tmp_path / "runs").iterdir()
    status, told, _ = labnn("variants", "--data", tiny_root, "--run", folder, "--cache", tmp_path / "cache")
    variants = pd.read_csv(folder / "variants.csv")
    assert status == 0 and "среднее с отражением" in told
    assert variants[["test_size", "mirror"]].values.tolist() == [
        [32, False],
        [32, True],
        [40, False],
        [40, True],
    ]
    assert variants["test_loss"].iloc[0] == Run.load(folder).history["test_loss"].iloc[-1]


def test_other_data_or_lost_weights_are_told(labnn, train_small, tiny_root, tmp_path):
    labnn(*train_small)
    [folder] = (tmp_path / "runs").iterdir()
    again = ["variants", "--data", tiny_root, "--run", folder, "--cache"]
    status, _, told = labnn(*again, tmp_path / "elsewhere")
    assert status == 2 and "Веса" in told and told.count("\n") == 1
    status, _, told = labnn("variants", "--data", PROJECT / "data" / "minicars", "--run", folder)
    assert status == 2 and "другом наборе" in told


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
    [
        (damage_image, "00001.jpg"),
        (remove_image, "00001.jpg"),
        (break_annotations, "cars_test_annos_withlabels.mat"),
        (mislabel, "класс 77"),
    ],
)
def test_broken_data_is_told_in_one_line_with_status_2(labnn, train_small, tiny_root, damage, told):
    damage(tiny_root)
    status, _, error = labnn(*train_small)
    assert status == 2
    assert told in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["train", "--data", "nowhere"], "nowhere"),
        (["train", "--data", "nowhere", "--optimizer", "lion"], "«lion»"),
        (["train", "--data", "nowhere", "--epochs", "many"], "many"),
        (["train"], "--data"),
        (["fly"], "fly"),
        (["report", "--runs", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_in_arguments_are_told_in_one_line_with_status_2(labnn, arguments, told):
    status, _, error = labnn(*arguments)
    assert status == 2
    assert told in error and error.count("\n") == 1


@pytest.mark.parametrize("option, value", [("--version", "3"), ("--device", "abacus")])
def test_wrong_network_and_device_are_told(labnn, train_small, option, value):
    status, _, error = labnn(*train_small, option, value)
    assert status == 2
    assert value in error and error.count("\n") == 1


def test_mistake_in_a_shell_exits_with_2_and_no_traceback():
    result = in_a_shell("train", "--data", "nowhere")
    assert result.returncode == 2
    assert "nowhere" in result.stderr and result.stderr.count("\n") == 1


def test_missing_images_can_be_skipped(labnn, train_small, tiny_root):
    remove_image(tiny_root)
    status, told, error = labnn(*train_small, "--skip-missing")
    assert status == 0, error
    assert told.count("Пропущено") == 1


@pytest.fixture
def compare_small(tmp_path):
    """Arguments of a short comparison on the embedded data set: two learning rates, two seeds."""
    small = [
        "--epochs",
        1,
        "--image-size",
        32,
        "--batch-size",
        128,
        "--grid",
        0.001,
        0.01,
        "--seeds",
        2,
        "--devices",
        "cpu",
        "--processes",
        1,
    ]
    places = ["--out", tmp_path / "runs", "--figures", tmp_path / "figures", "--cache", tmp_path / "cache"]
    return ["compare", "--data", MINICARS, *small, *places]


def test_comparison_plans_tells_the_verdict_and_leaves_a_report(labnn, compare_small, tmp_path):
    status, told, _ = labnn(*compare_small, "--optimizers", "adam", "amsgrad")
    assert status == 0
    assert "Прогонов: 4 для подбора скорости обучения и 4 для ответа" in told
    assert told.count("прогонов 4 из 4, эпох 4 из 4. ") == 2
    assert told.splitlines()[-1].startswith("AMSGrad и Adam: разница не доказана. ")
    assert {"answer.png", "verdict.md", "statistics.csv"} <= {
        path.name for path in (tmp_path / "figures").iterdir()
    }


def test_comparison_goes_on_where_it_stopped(labnn, compare_small, tmp_path):
    """With a run of each part lost, only these are trained."""
    labnn(*compare_small)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*/run.json")}
    lost = [next((tmp_path / "runs" / part).glob("*amsgrad-seed0*")) for part in ("tuning", "final")]
    for folder in lost:
        shutil.rmtree(folder)
    assert labnn(*compare_small)[0] == 0
    again = {
        path for path in (tmp_path / "runs").glob("*/*/run.json") if path.stat().st_mtime_ns != times[path]
    }
    assert {path.parent for path in again} == set(lost)


def test_more_seeds_train_the_new_pairs_alone(labnn, compare_small, tmp_path):
    labnn(*compare_small)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*/run.json")}
    assert labnn(*compare_small, "--seeds", 3, "--margin", 2)[0] == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*/run.json")}
    assert before.items() <= after.items() and len(after) == len(before) + 2


def test_optimizer_of_the_users_own_is_compared_by_name_and_function(
    labnn, compare_small, tmp_path, monkeypatch
):
    (tmp_path / "mine.py").write_text(
        "import torch\n\n"
        "def make(weights, lr, decay):\n"
        "    return torch.optim.RMSprop(weights, lr, weight_decay=decay)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    status, told, _ = labnn(*compare_small, "--optimizers", "adam", "rms=mine:make")
    del OPTIMIZERS["rms"]
    assert status == 0 and "Adam и rms: разница не доказана" in told
    assert labnn(*compare_small, "--optimizers", "adam", "rms=mine:made")[0] == 2
    for wrong in ("lion", "../lion=mine:make"):
        status, _, error = labnn(*compare_small, "--optimizers", "adam", wrong)
        assert status == 2 and "«" + wrong.partition("=")[0] + "»" in error
