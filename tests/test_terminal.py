"""``python -m labnn`` does the work from a terminal and tells mistakes in one line."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import PROJECT, own_photos, write_annotations
from made_runs import finished

from labnn import OPTIMIZERS
from labnn.__main__ import main


@pytest.fixture
def train_small(tiny_root, tmp_path):
    """Arguments of a small training on the tiny data set."""
    small = ["--epochs", 2, "--image-size", 32, "--batch-size", 8, "--device", "cpu"]
    places = ["--data", tiny_root, "--out", tmp_path / "runs", "--cache", tmp_path / "cache"]
    return ["train", *places, *small]


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
    first, last = (line for line in lines if line.startswith("Эпоха "))
    assert re.fullmatch(
        r"Эпоха 1 из 2: .*, точность на обучении .* %, на тесте .* %; осталось около 0:\d\d", first
    )
    assert last.startswith("Эпоха 2 из 2: ") and last.endswith(" %")
    assert lines[-1].startswith("Тестовая точность: ") and lines[-1].endswith("%")
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 1


def test_a_mistake_outside_a_training_is_not_explained_by_its_contract(labnn, tiny_root, tmp_path):
    run = finished(0.5, (0, 1, 2, 2), epochs=1)
    run.save(tmp_path / "runs" / run.name)
    unforeseen = ("report", "--runs", tmp_path / "runs", "--out", tmp_path / "a\0b")
    misspelt = ("train", "--data", tiny_root, "--optimizer", "own=math:nope")
    for command, words in ((unforeseen, "null byte"), (misspelt, "пишется ИМЯ=МОДУЛЬ:ФУНКЦИЯ")):
        status, _, told = labnn(*command)
        assert status == 2 and words in told and "загрузчик" not in told


def test_second_call_finds_the_run_and_report_tells_it(labnn, train_small, tmp_path):
    _, first, _ = labnn(*train_small)
    _, again, _ = labnn(*train_small)
    assert again.splitlines()[-1] == first.splitlines()[-1]
    assert "уже записан" in again
    status, told, _ = labnn("report", "--runs", tmp_path / "runs", "--out", tmp_path / "figures")
    assert status == 0
    for name in ("tiny-1/summary.csv", "REPORT.md"):
        path = tmp_path / "figures" / name
        assert path.stat().st_size > 0 and str(path) in told


def remove_image(root):
    min((root / "cars_train").iterdir()).unlink()


def mislabel(root):
    write_annotations(root / "devkit/cars_train_annos.mat", ["00001.jpg"], [77], [(1, 1, 9, 9)])


@pytest.mark.parametrize("damage, told", [(remove_image, "00001.jpg"), (mislabel, "77")])
def test_broken_data_is_told_in_one_line_with_status_2(labnn, train_small, tiny_root, damage, told):
    damage(tiny_root)
    status, _, error = labnn(*train_small)
    assert status == 2
    assert told in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["train", "--data", "nowhere"], "nowhere"),
        (["train", "--data", "nowhere", "--optimizer", "lion"], "'lion'"),
        (["train", "--data", "nowhere", "--epochs", "many"], "many"),
        (["train", "--data", "nowhere", "--version", "3"], "'3'"),
        (["train", "--data", "nowhere", "--device", "abacus"], "abacus"),
        (["train"], "--data"),
        (["fly"], "fly"),
        (["study", "ladder", "--data", "nowhere"], "ничего не обучает"),
        (["report", "--runs", "nowhere"], "nowhere"),
        (["predict", "nowhere.jpg"], "nowhere.jpg"),
        (["predict", "nowhere.jpg", "--figure", "answers"], "answers"),
    ],
)
def test_mistakes_in_arguments_are_told_in_one_line_with_status_2(labnn, arguments, told):
    status, _, error = labnn(*arguments)
    assert status == 2
    assert told in error and error.count("\n") == 1


def test_mistake_in_a_shell_exits_with_2_and_no_traceback():
    result = in_a_shell("train", "--data", "nowhere")
    assert result.returncode == 2
    assert "nowhere" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["download", "train", "compare", "study", "predict", "report"])
def test_help_is_russian_with_an_example(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = capsys.readouterr().out
    assert f"Например: python -m labnn {command}" in " ".join(told.split())
    assert told.startswith("Вызов: ") and not {"options:", "usage:"} & set(told.split())


def test_a_number_may_have_a_comma_as_in_the_report(labnn, train_small, tmp_path):
    assert labnn(*train_small, "--lr", "0,002")[0] == 0
    assert '"lr": 0.002' in next((tmp_path / "runs").glob("*/run.json")).read_text(encoding="utf-8")


def test_missing_images_can_be_skipped(labnn, train_small, tiny_root):
    remove_image(tiny_root)
    status, told, error = labnn(*train_small, "--skip-missing")
    assert status == 0, error
    assert "пропущены" in told


@pytest.fixture
def compare_small(tmp_path):
    """Arguments of a short comparison on three classes: two learning rates, two seeds."""
    own_photos(tmp_path / "own")
    small = ["--epochs", 1, "--image-size", 32, "--batch-size", 16, "--grid", 0.001, 0.01, "--seeds", 2]
    small += ["--devices", "cpu", "--processes", 1]
    places = ["--out", tmp_path / "runs", "--figures", tmp_path / "figures", "--cache", tmp_path / "cache"]
    return ["compare", "--data", tmp_path / "own", *small, *places]


def test_comparison_plans_tells_the_verdict_leaves_a_report_and_goes_on_where_it_stopped(
    labnn, compare_small, tmp_path
):
    """With a run of each part lost and a seed more, only these are trained."""
    status, told, _ = labnn(*compare_small)
    assert status == 0
    assert "Прогонов: 4 для подбора скорости обучения и 4 для ответа" in told
    assert told.splitlines()[-1].startswith("AMSGrad и Adam: разница не доказана.")
    assert {"answer.png", "verdict.md"} <= {path.name for path in (tmp_path / "figures").iterdir()}
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*/run.json")}
    lost = [next((tmp_path / "runs" / part).glob("*amsgrad-seed0*")) for part in ("tuning", "final")]
    for folder in lost:
        shutil.rmtree(folder)
    assert labnn(*compare_small, "--seeds", 3)[0] == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*/run.json")}
    kept = {path: time for path, time in times.items() if path.parent not in lost}
    assert kept.items() <= after.items() and len(after) == len(times) + 2


def test_too_few_pairs_to_conclude_are_told_before_the_training(labnn, compare_small):
    _, told, _ = labnn(*compare_small)
    assert told.index("никакая разница не будет доказана") < told.index("Подбор скорости")


def test_optimizer_of_the_users_own_is_compared_by_name_and_function(
    labnn, compare_small, tmp_path, monkeypatch
):
    (tmp_path / "mine.py").write_text("from torch.optim import RMSprop as make\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    status, told, _ = labnn(*compare_small, "--optimizers", "adam", "rms=mine:make")
    del OPTIMIZERS["rms"]
    assert status == 0 and "Adam и rms: разница не доказана" in told
    assert labnn(*compare_small, "--optimizers", "adam", "rms=mine:made")[0] == 2
    for wrong in ("lion", "../lion=mine:make"):
        status, _, error = labnn(*compare_small, "--optimizers", "adam", wrong)
        assert status == 2 and wrong.partition("=")[0] in error
        OPTIMIZERS.pop("../lion", None)
