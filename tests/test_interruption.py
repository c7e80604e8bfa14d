"""Nothing is lost: a training killed at any moment goes on to exactly the end that it would have had."""

import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import MINICARS, PROJECT
from jupyter_client.manager import start_new_kernel

from labnn.data import open_dataset
from labnn.experiment import Experiment, Run, run_name, run_or_load
from labnn.kit.errors import LabError

EXPERIMENT = Experiment(epochs=60, image_size=32, batch_size=8, ema_decay=0.9)

forkserver = multiprocessing.get_context(
    "forkserver"
)  # starts in a few milliseconds what takes seconds to import
forkserver.set_forkserver_preload(["labnn.experiment"])


def train(root: Path, folder: Path) -> None:
    """A training in a process of its own; what it prints goes to a file."""
    torch.set_num_threads(1)
    with open(folder.with_suffix(".txt"), "a", encoding="utf-8") as told:
        os.dup2(told.fileno(), 1)
        run_or_load(
            EXPERIMENT, open_dataset(root, crop_to_box=True), folder / "runs", cache_dir=folder / "cache"
        )


def start(root: Path, folder: Path):
    process = forkserver.Process(target=train, args=(root, folder))
    process.start()
    return process


def finished(folder: Path) -> tuple[Run, dict]:
    """The record and the weights; there is one of each."""
    [record], [weights] = (folder / "runs").glob("*/run.json"), (folder / "cache").glob("*.pt")
    return Run.load(record.parent), torch.load(weights, weights_only=True)


def assert_same_end(first: tuple[Run, dict], second: tuple[Run, dict]) -> None:
    (run, weights), (other, other_weights) = first, second
    assert other.history.drop(columns="seconds").equals(run.history.drop(columns="seconds"))
    assert other.predictions.equals(run.predictions)
    assert list(weights) == list(other_weights) and all(
        torch.equal(weights[name], other_weights[name]) for name in weights
    )


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
    assert_same_end(finished(tmp_path / "killed"), finished(tmp_path / "whole"))


SHORT = replace(EXPERIMENT, epochs=4)


def train_and_die(root: Path, folder: Path, end: str, nth: int, half: bool) -> None:
    """A training that is killed as its ``nth`` file or folder whose name has this ``end`` is to appear: half
    written, or just there.
    """
    left = nth

    def dying(move):
        def moved(source, target):
            nonlocal left
            left -= str(target).endswith(end)
            if left == 0 and str(target).endswith(end):
                if not half:
                    move(source, target)
                elif os.path.isdir(source):
                    os.remove(os.path.join(source, "history.csv"))
                else:
                    os.truncate(source, os.path.getsize(source) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            move(source, target)

        return moved

    os.replace, os.rename = dying(os.replace), dying(os.rename)
    run_or_load(SHORT, open_dataset(root, crop_to_box=True), folder / "runs", cache_dir=folder / "cache")


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """What ``SHORT`` ends as when nothing disturbs it, by the root of its data."""
    ends = {}

    def end(root: Path):
        data = open_dataset(root, crop_to_box=True)
        if data.fingerprint() not in ends:
            folder = tmp_path_factory.mktemp("whole")
            run_or_load(SHORT, data, folder / "runs", cache_dir=folder / "cache")
            ends[data.fingerprint()] = finished(folder)
        return ends[data.fingerprint()]

    return end


@pytest.mark.parametrize("half", [True, False], ids=["half written", "just there"])
@pytest.mark.parametrize(
    "end, nth", [(".npy", 1), (".npy", 2), (".checkpoint", 1), (".checkpoint", 3), (".pt", 1), ("record", 1)]
)
def test_a_kill_in_the_middle_of_a_write_loses_nothing(end, nth, half, tiny_root, tmp_path, short_run):
    """Of the decoded photos, of a checkpoint, of the weights, of the record."""
    if end == "record":
        end = run_name(SHORT, open_dataset(tiny_root, crop_to_box=True))
    process = forkserver.Process(target=train_and_die, args=(tiny_root, tmp_path / "killed", end, nth, half))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert half or [path for path in (tmp_path / "killed").rglob("*") if path.name.endswith(end)]
    run_or_load(
        SHORT,
        open_dataset(tiny_root, crop_to_box=True),
        tmp_path / "killed" / "runs",
        cache_dir=tmp_path / "killed" / "cache",
    )
    assert_same_end(finished(tmp_path / "killed"), short_run(tiny_root))
    assert not [path for path in (tmp_path / "killed").rglob("*") if "unfinished" in path.name]


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
    command = [
        sys.executable,
        "-m",
        "labnn",
        "train",
        "--data",
        tiny_root,
        "--out",
        tmp_path / "runs",
        "--cache",
        tmp_path / "cache",
        *small,
    ]
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


class Notebook:
    """A real kernel that runs one cell and can be stopped in the middle of it."""

    def __init__(self):
        self.manager, self.client = start_new_kernel(cwd=PROJECT)

    def printed(self, until: str | None = None) -> str:
        """What the running cell prints up to the word ``until``, or to its end."""
        text = ""
        while until is None or until not in text:
            message = self.client.get_iopub_msg(timeout=60)
            text += message["content"].get("text", "")
            if message["msg_type"] == "error":
                text += "\n".join([*message["content"]["traceback"], message["content"]["ename"], ""])
            if (
                message["msg_type"] == "status"
                and message["content"]["execution_state"] == "idle"
                and until is None
            ):
                return text
        return text

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.mark.skipif(os.name == "nt", reason="interrupts a kernel by a signal")
def test_a_stopped_cell_and_a_stopped_kernel_go_on_from_the_last_epoch(tiny_root, tmp_path):
    cell = f"""
from labnn.data import open_dataset
from labnn.experiment import Experiment, run_or_load
experiment = Experiment(epochs=3000, image_size=32, batch_size=8)
data, runs, cache = open_dataset({str(tiny_root)!r}), {str(tmp_path / "runs")!r}, {str(tmp_path)!r}
run_or_load(experiment, data, runs, cache_dir=cache)
"""

    def first_epoch() -> int:
        notebook.client.execute(cell)
        return int(re.search(r"Эпоха (\d+),", notebook.printed(until="Потери"))[1])

    notebook = Notebook()
    try:
        notebook.client.execute(cell)
        notebook.printed(until="Эпоха 3,")
        notebook.manager.interrupt_kernel()
        told = notebook.printed()
        saved = int(
            re.search(r"Остановлено: сохранено эпох (\d+) из 3000, тот же вызов продолжит с них\.", told)[1]
        )
        assert saved >= 3 and told.endswith("KeyboardInterrupt\n")
        assert first_epoch() == saved + 1
    finally:
        notebook.close()  # in the middle of an epoch
    [checkpoint] = tmp_path.glob("*.checkpoint")
    saved = len(torch.load(checkpoint, weights_only=True)["rows"])
    notebook = Notebook()
    try:
        assert first_epoch() == saved + 1
    finally:
        notebook.close()


def fill_disk(root: Path, folder: Path) -> None:
    """As ``train``, on a disk where a file of a megabyte does not fit: decoded photos do, a checkpoint does
    not.
    """
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
    assert not [
        path
        for path in (tmp_path / "full").rglob("*")
        if path.suffix in (".checkpoint", ".unfinished", ".pt")
    ]
    start(tiny_root, tmp_path / "full").join()
    assert len(finished(tmp_path / "full")[0].history) == EXPERIMENT.epochs


SMALL_DISK = """
import sys
from labnn.batches import decode_images
from labnn.data import open_dataset
decode_images(open_dataset(sys.argv[1]).train, 96, sys.argv[2])
"""


def test_decoding_on_a_disk_really_full_is_told(tmp_path):
    """On a disk of three megabytes; without room set aside beforehand the memory-mapped file killed the
    process by a bus error.
    """
    (tmp_path / "disk").mkdir()
    script = f'mount -t tmpfs -o size=3m tmpfs "{tmp_path}/disk" && '
    script += f'"{sys.executable}" -c "$0" "{MINICARS}" "{tmp_path}/disk"'
    own = ["unshare", "--mount", "--map-root-user"]
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            [*own, "mount", "-t", "tmpfs", "tmpfs", tmp_path / "disk"], capture_output=True
        ).returncode
    ):
        pytest.skip("needs a disk of its own to fill")
    done = subprocess.run(
        [*own, "sh", "-c", script, SMALL_DISK], cwd=PROJECT, capture_output=True, text=True, encoding="utf-8"
    )
    assert (
        done.returncode == 1
        and ".npy не помещается на диск: освободите место" in done.stderr.splitlines()[-1]
    )


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
    with pytest.raises(
        LabError, match="В эпоху 3 потери стали nan: уменьшите lr .*контрольная точка эпохи 2 цела"
    ):
        run_or_load(EXPERIMENT, open_dataset(tiny_root), tmp_path / "runs", **options)
    [checkpoint] = (tmp_path / "cache").glob("*.checkpoint")
    assert len(torch.load(checkpoint, weights_only=True)["rows"]) == 2
