"""Nothing is lost: a training killed at any moment goes on to exactly the end that it would have had."""

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import PROJECT

from labnn.data import open_dataset
from labnn.errors import LabError
from labnn.experiment import Experiment, Run, run_or_load

EXPERIMENT = Experiment(epochs=60, image_size=32, batch_size=8, ema_decay=0.9)

forkserver = multiprocessing.get_context("forkserver")  # starts in a few milliseconds what takes seconds to import
forkserver.set_forkserver_preload(["labnn.experiment"])


def train(root: Path, folder: Path) -> None:
    """A training in a process of its own; what it prints goes to a file."""
    torch.set_num_threads(1)
    with open(folder.with_suffix(".txt"), "a", encoding="utf-8") as told:
        os.dup2(told.fileno(), 1)
        run_or_load(EXPERIMENT, open_dataset(root, crop_to_box=True), folder / "runs", cache_dir=folder / "cache")


def start(root: Path, folder: Path):
    process = forkserver.Process(target=train, args=(root, folder))
    process.start()
    return process


def finished(folder: Path) -> tuple[Run, dict]:
    """The record and the weights; there is one of each."""
    [record], [weights] = (folder / "runs").glob("*/run.json"), (folder / "cache").glob("*.pt")
    return Run.load(record.parent), torch.load(weights, weights_only=True)


def test_training_killed_at_20_moments_ends_as_if_it_had_not_been(tiny_root, tmp_path):
    began = time.perf_counter()
    start(tiny_root, tmp_path / "whole").join()
    whole, moments, kills = time.perf_counter() - began, random.Random(0), []
    for _ in range(20):
        process = start(tiny_root, tmp_path / "killed")
        time.sleep(moments.uniform(0, whole / 6))
        process.kill()
        process.join()
        kills.append(process.exitcode)
    assert kills.count(-signal.SIGKILL) >= 5  # of the others the training had ended before
    process = start(tiny_root, tmp_path / "killed")
    process.join()
    assert process.exitcode == 0
    (run, weights), (killed, killed_weights) = finished(tmp_path / "whole"), finished(tmp_path / "killed")
    assert killed.history.drop(columns="seconds").equals(run.history.drop(columns="seconds"))
    assert killed.predictions.equals(run.predictions)
    assert list(weights) == list(killed_weights) and all(torch.equal(weights[name], killed_weights[name]) for name in weights)


def test_two_processes_on_one_run_train_it_once(tiny_root, tmp_path):
    both = [start(tiny_root, tmp_path / "shared") for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    run, _ = finished(tmp_path / "shared")
    assert len(run.history) == EXPERIMENT.epochs
    assert "этим занят другой процесс, жду его" in (tmp_path / "shared.txt").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_says_what_is_saved_and_how_to_go_on(tiny_root, tmp_path):
    small = ["--epochs", "3000", "--image-size", "32", "--batch-size", "8", "--device", "cpu"]
    command = [sys.executable, "-m", "labnn", "train", "--data", tiny_root, "--out", tmp_path / "runs", "--cache", tmp_path / "cache", *small]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
    listens = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  a background job begins deaf to it
    process = subprocess.Popen([str(word) for word in command], cwd=PROJECT, preexec_fn=listens, **output)
    while "Эпоха 3," not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in told
    [line] = [line for line in told.splitlines() if line.startswith("Остановлено: сохранено эпох")]
    [checkpoint] = (tmp_path / "cache").glob("*.checkpoint")
    saved = len(torch.load(checkpoint, weights_only=True)["rows"])
    assert line == f"Остановлено: сохранено эпох {saved} из 3000, тот же вызов продолжит с них."


def fill_disk(root: Path, folder: Path) -> None:
    """As ``train``, on a disk where a file of a megabyte does not fit: decoded photos do, a checkpoint does not."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    try:
        train(root, folder)
    except LabError as error:
        folder.with_suffix(".error").write_text(str(error), encoding="utf-8")


def test_full_disk_is_told_and_leaves_no_half_of_a_file(tiny_root, tmp_path):
    process = forkserver.Process(target=fill_disk, args=(tiny_root, tmp_path / "full"))
    process.start()
    process.join()
    told = (tmp_path / "full.error").read_text(encoding="utf-8")
    assert ".checkpoint не помещается на диск: освободите место" in told
    assert not [path for path in (tmp_path / "full").rglob("*") if path.suffix in (".checkpoint", ".unfinished", ".pt")]
    start(tiny_root, tmp_path / "full").join()
    assert len(finished(tmp_path / "full")[0].history) == EXPERIMENT.epochs


def test_diverged_training_keeps_the_last_good_checkpoint(tiny_root, tmp_path):
    """A first epoch that is well, then weights spoilt from outside, as by a learning rate too high."""

    def spoil(rows, epochs):
        [checkpoint] = (tmp_path / "cache").glob("*.checkpoint")
        state = torch.load(checkpoint, weights_only=True)
        if len(rows) == 2:
            state["model"]["classifier.1.bias"].fill_(float("nan"))
            torch.save(state, checkpoint)
            raise KeyboardInterrupt

    options = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(KeyboardInterrupt):
        run_or_load(EXPERIMENT, open_dataset(tiny_root), tmp_path / "runs", progress=spoil, **options)
    with pytest.raises(LabError, match="В эпоху 3 потери стали nan: уменьшите lr .*контрольная точка эпохи 2 цела"):
        run_or_load(EXPERIMENT, open_dataset(tiny_root), tmp_path / "runs", **options)
    [checkpoint] = (tmp_path / "cache").glob("*.checkpoint")
    assert len(torch.load(checkpoint, weights_only=True)["rows"]) == 2
