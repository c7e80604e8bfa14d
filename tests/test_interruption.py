"""Nothing is lost: a training killed at any moment goes on to exactly the end that it would have had."""

import multiprocessing
import os
import random
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from interrupted import ENDLESS, EXPERIMENT, SHORT, fill_disk, train, train_and_die
from jupyter_client.manager import start_new_kernel

from labnn import LabError, Run, open_dataset, run_or_load
from labnn.experiment import order
from labnn.kit.files import exclusive

forkserver = multiprocessing.get_context("forkserver")  # starts in milliseconds what takes seconds to import
forkserver.set_forkserver_preload(["labnn.experiment", "torch._dynamo"])


def start(root: Path, folder: Path, function=train, *words):
    process = forkserver.Process(target=function, args=(root, folder, *words))
    process.start()
    return process


def wait_for_epoch(process, folder: Path) -> None:
    """Until a checkpoint is written anew, or the process ends."""
    seen = lambda: [one.stat().st_mtime_ns for one in (folder / "cache").glob("*.checkpoint")]  # noqa: E731
    before = seen()
    while process.is_alive() and seen() == before:
        time.sleep(0.01)


def finished(folder: Path) -> tuple[Run, dict]:
    """The record and the weights; there is one of each."""
    [record], [weights] = (folder / "runs").glob("*/run.json"), (folder / "cache").glob("*.pt")
    return Run.load(record.parent), torch.load(weights, weights_only=True)


def assert_same_end(first: tuple[Run, dict], second: tuple[Run, dict]) -> None:
    (run, weights), (other, other_weights) = first, second
    assert other.history.drop(columns="seconds").equals(run.history.drop(columns="seconds"))
    assert other.predictions.equals(run.predictions) and other.environment == run.environment
    assert list(weights) == list(other_weights)
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def test_training_killed_at_random_moments_ends_as_if_it_had_not_been(tiny_root, tmp_path):
    whole, moments, kills = start(tiny_root, tmp_path / "whole"), random.Random(0), []
    for _ in range(5):
        process = start(tiny_root, tmp_path / "killed")
        wait_for_epoch(process, tmp_path / "killed")
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        kills.append(process.exitcode)
    assert kills.count(-signal.SIGKILL) >= 3  # of the others the training had ended before
    last = start(tiny_root, tmp_path / "killed")
    for process in (last, whole):
        process.join()
        assert process.exitcode == 0
    assert_same_end(finished(tmp_path / "killed"), finished(tmp_path / "whole"))


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """What ``SHORT`` ends as when nothing disturbs it."""
    ends = []

    def end(root: Path):
        if not ends:
            folder = tmp_path_factory.mktemp("whole")
            data = open_dataset(root, crop_to_box=True)
            run_or_load(SHORT, data, folder / "runs", cache_dir=folder / "cache")
            ends.append(finished(folder))
        return ends[0]

    return end


WRITES = [(".npy", 2, True), (".checkpoint", 1, True), (".checkpoint", 2, False), (".pt", 1, True)]
WRITES += [(".pt", 1, False), ("record", 1, True), ("record", 1, False)]


@pytest.mark.parametrize("end, nth, half", WRITES)
def test_a_kill_in_the_middle_of_a_write_loses_nothing(end, nth, half, tiny_root, tmp_path, short_run):
    """Of the decoded photos, of a checkpoint, of the weights, of the record: half written, or just there."""
    folder, data = tmp_path / "killed", open_dataset(tiny_root, crop_to_box=True)
    process = start(
        tiny_root, folder, train_and_die, order(SHORT, data).name if end == "record" else end, nth, half
    )
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run_or_load(SHORT, data, folder / "runs", cache_dir=folder / "cache")
    assert_same_end(finished(folder), short_run(tiny_root))
    assert not [path for path in folder.rglob("*") if "unfinished" in path.name]


def test_two_processes_on_one_run_train_it_once(tiny_root, tmp_path):
    folder, told = tmp_path / "shared", tmp_path / "shared.txt"
    checkpoint = f"{order(SHORT, open_dataset(tiny_root, crop_to_box=True)).name}.checkpoint"
    with exclusive(folder / "cache" / checkpoint):  # both have come when it is free
        both = [start(tiny_root, folder, train, SHORT) for _ in range(2)]
        while not (told.exists() and told.read_text(encoding="utf-8").count("жду его") == 2):
            assert all(process.is_alive() for process in both)
            time.sleep(0.01)
    for process in both:
        process.join()
        assert process.exitcode == 0
    printed = told.read_text(encoding="utf-8")
    assert len(finished(folder)[0].history) == SHORT.epochs
    assert printed.count("Эпоха 1,") == 1 and printed.count("Тестовая точность") == 2  # one read the record


def test_ctrl_c_says_what_is_saved_and_how_to_go_on(tiny_root, tmp_path):
    process = start(tiny_root, tmp_path / "run", train, ENDLESS)
    wait_for_epoch(process, tmp_path / "run")
    os.kill(process.pid, signal.SIGINT)
    process.join()
    [checkpoint] = (tmp_path / "run" / "cache").glob("*.checkpoint")
    saved = len(torch.load(checkpoint, weights_only=True)["rows"])
    told = (tmp_path / "run.txt").read_text(encoding="utf-8")
    assert f"Остановлено: сохранено эпох {saved} из 3000, тот же вызов продолжит с них.\n" in told


@pytest.mark.skipif(os.name == "nt", reason="interrupts a kernel by a signal")
def test_a_stopped_cell_goes_on_from_the_last_epoch(tiny_root, tmp_path):
    """In a real kernel."""
    experiment = replace(ENDLESS, network="squeezenet")  # the kernel knows no other
    cell = f"""
from labnn import Experiment, open_dataset, run_or_load
data, runs, cache = open_dataset({str(tiny_root)!r}), {str(tmp_path / "runs")!r}, {str(tmp_path)!r}
run_or_load({experiment!r}, data, runs, cache_dir=cache)
"""
    manager, client = start_new_kernel(cwd=PROJECT)

    def printed(until: str) -> str:
        """What the running cell prints up to the word ``until``."""
        text = ""
        while until not in text:
            content = client.get_iopub_msg(timeout=120)["content"]
            text += content.get("text", "") + content.get("execution_state", "")
        return text

    try:
        client.execute(cell)
        printed("Эпоха 2,")
        manager.interrupt_kernel()
        told = printed("idle")
        saved = int(re.search(r"Остановлено: сохранено эпох (\d+) из 3000, тот же вызов", told)[1])
        client.execute(cell)
        assert int(re.search(r"Эпоха (\d+),", printed("Потери"))[1]) == saved + 1
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("size", [10**4, 10**5], ids=["decoded photos", "checkpoint"])
def test_full_disk_is_told_and_leaves_no_half_of_a_file(size, tiny_root, tmp_path, short_run):
    process = start(tiny_root, tmp_path / "full", fill_disk, size)
    process.join()
    told = (tmp_path / "full.error").read_text(encoding="utf-8")
    assert "File too large" in told and "освободите место на диске и повторите" in told
    left = {path.suffix for path in (tmp_path / "full").rglob("*") if path.is_file()} - {".lock"}
    assert left == ({".npy"} if size == 10**5 else set())
    data = open_dataset(tiny_root, crop_to_box=True)
    run_or_load(SHORT, data, tmp_path / "full" / "runs", cache_dir=tmp_path / "full" / "cache")
    assert_same_end(finished(tmp_path / "full"), short_run(tiny_root))


def test_diverged_training_keeps_the_last_good_checkpoint(tiny_root, tmp_path):
    """Two epochs that are well, then weights spoilt from outside, as by a learning rate too high."""
    data, options = open_dataset(tiny_root), {"cache_dir": tmp_path / "cache"}

    def spoil(rows, epochs):
        [checkpoint] = (tmp_path / "cache").glob("*.checkpoint")
        state = torch.load(checkpoint, weights_only=True)
        if len(rows) == 2:
            state["model"]["8.bias"].fill_(float("nan"))
            torch.save(state, checkpoint)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_or_load(EXPERIMENT, data, tmp_path / "runs", progress=spoil, **options)
    with pytest.raises(LabError, match="В эпоху 3 потери стали nan: уменьшите lr .*прошлой эпохи цела"):
        run_or_load(EXPERIMENT, data, tmp_path / "runs", **options)
    [checkpoint] = (tmp_path / "cache").glob("*.checkpoint")
    assert len(torch.load(checkpoint, weights_only=True)["rows"]) == 2
