"""Many experiments at once, none twice: in place, on this machine's workers, on a cluster that loses some."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from torch import nn

from labnn import NETWORKS, OPTIMIZERS, Experiment, LabError, open_dataset
from labnn.experiment import load_runs, order
from labnn.runner import run_all

SMALL = Experiment(epochs=1, image_size=32, batch_size=8, mix=0.0, mirror_test=False)


@pytest.fixture
def data(tiny_root):
    return open_dataset(tiny_root, crop_to_box=True)


@pytest.fixture
def go(data, tmp_path):
    """``run_all`` with records in a folder of that name."""

    def run(experiments, folder="runs", **options):
        options = {"cache_dir": tmp_path / f"{folder}-cache", "threads": 1} | options
        return run_all(experiments, data, tmp_path / folder, **options)

    return run


def seeds(experiment: Experiment, count: int) -> list[Experiment]:
    return [replace(experiment, seed=seed) for seed in range(count)]


def assert_same_records(folder: Path, other: Path) -> None:
    """Every figure of every run, the seconds apart, and the weights to the bit."""
    runs, others = load_runs(folder), load_runs(other)
    assert len(runs) == len(others) > 0
    for one, two in zip(runs, others, strict=True):
        assert one.name == two.name and one.environment == two.environment and one.data == two.data
        assert one.history.drop(columns="seconds").equals(two.history.drop(columns="seconds"))
        assert one.predictions.equals(two.predictions)
        caches = (place.with_name(f"{place.name}-cache") for place in (folder, other))
        here, there = (torch.load(cache / f"{one.name}.pt", weights_only=True) for cache in caches)
        assert all(torch.equal(weight, there[name]) for name, weight in here.items())


def test_runs_come_in_the_order_asked_for_and_equal_ones_are_trained_once(go, tmp_path, capsys):
    experiments = [replace(SMALL, seed=seed) for seed in (1, 0, 1)]
    first = go(experiments, title="Сравнение")
    assert [run.experiment for run in first] == experiments and first[0] is first[2]
    assert re.search(r"Сравнение: эпох 2 из 2, заняло .*, прогонов 2 из 2\n$", capsys.readouterr().out)
    again = go(experiments, processes=2)  # all is recorded: no process is started
    for one, two in zip(first, again, strict=True):
        assert one.history.equals(two.history)  # seconds too
    assert len(list((tmp_path / "runs-cache").glob("*.pt"))) == 2


def test_mistakes_in_experiments_are_told_before_anything_starts(go, tmp_path):
    for options, words in (({"processes": 0}, "processes=0"), ({}, "optimizer='lion'")):
        with pytest.raises(LabError, match=words):
            go([SMALL, replace(SMALL, optimizer="lion")] if not options else [SMALL], **options)
    assert not list(tmp_path.glob("runs*"))


def test_diverging_run_ends_the_call_or_is_told_and_left_out(go, data, capsys):
    experiments = [replace(SMALL, optimizer="sgd", lr=lr, epochs=2) for lr in (1e6, 1e-3)]
    with pytest.raises(LabError, match="потери стали"):
        go(experiments[:1])
    [run] = go(experiments, skip_diverged=True)
    assert run.experiment == experiments[1]
    assert f"Прогон {order(experiments[0], data).name} пропущен. В эпоху" in capsys.readouterr().out


# As a notebook has it: torch imported first, then %cd, and functions that no other process could import.
CELLS = """
import os, sys
import torch
sys.path.insert(0, {project!r})
os.chdir({folder!r})
sys.path.insert(0, {folder!r})
import mine
from labnn import NETWORKS, OPTIMIZERS, Experiment, open_dataset
from labnn.runner import run_all
momentum = 0.5
OPTIMIZERS["own"] = lambda weights, lr, weight_decay: torch.optim.SGD(weights, lr, momentum=momentum)
NETWORKS["own"] = mine.tiny
own = dict(optimizer="own", network="own", epochs=2, image_size=32, batch_size=8)
experiments = [Experiment(**own, seed=seed) for seed in (0, 1)]
for folder, processes in (("here", 1), ("there", 2)):
    options = dict(cache_dir=folder + "-cache", processes=processes, threads=1)
    run_all(experiments, open_dataset({root!r}), folder, **options)
    assert ("distributed" in sys.modules) == (processes > 1)  # alone it needs no engine
"""
MINE = """
from torch import nn
def tiny(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes))
"""


def test_functions_of_a_notebook_and_of_a_module_of_ones_own_reach_the_workers(tiny_root, tmp_path):
    """And a script needs no guard of ``__main__``."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "cells.py").write_text(
        CELLS.format(project=str(PROJECT), folder=str(tmp_path), root=str(tiny_root))
    )
    subprocess.run([sys.executable, "-c", (tmp_path / "cells.py").read_text()], cwd="/", check=True)
    assert_same_records(tmp_path / "there", tmp_path / "here")
    assert all(set(run.definitions) == {"optimizer", "network"} for run in load_runs(tmp_path / "there"))


class Cluster:
    """A scheduler and workers as a user starts them, each in its own folder; none has labnn."""

    def __init__(self, folder: Path, **options: str):
        folder.mkdir()
        self.folder, self.processes, self.options = folder, [], options
        address = folder / "address"
        self.scheduler = self.start("scheduler", "scheduler", "--port", "0", "--scheduler-file", address)
        deadline = time.monotonic() + 120
        while not address.exists() or not address.read_text().endswith("}"):
            assert time.monotonic() < deadline and self.scheduler.poll() is None
            time.sleep(0.05)
        self.address = json.loads(address.read_text())["address"]

    def worker(self, name: str, words: tuple = ()) -> subprocess.Popen:
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--name", name]
        return self.start(name, "worker", self.address, *options, words=words)

    def start(self, name: str, *command, words: tuple = ()) -> subprocess.Popen:
        own = self.folder / name
        own.mkdir()
        line = [*words, sys.executable, "-m", "dask", *command, "--host", "127.0.0.1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""} | self.options
        with open(own / "log", "w") as log:
            line = [str(word) for word in line]
            process = subprocess.Popen(line, cwd=own, env=environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path, request):
    """With the environment variables that the test names."""
    cluster = Cluster(tmp_path / "cluster", **getattr(request, "param", {}))
    yield cluster
    cluster.close()


def when(condition, act) -> threading.Thread:
    """Does ``act`` as soon as ``condition`` holds."""

    def wait():
        deadline = time.monotonic() + 300
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.1)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def epochs_saved(folder: Path) -> int:
    """Of the runs that are under way."""
    checkpoints = list(folder.glob("*.checkpoint"))
    return sum(len(torch.load(one, weights_only=True)["rows"]) for one in checkpoints)


def test_worker_killed_in_the_middle_of_an_epoch_changes_no_record(cluster, go, tmp_path, capsys):
    """The first worker comes late, and is waited for; another takes its run over from its checkpoint. Of a
    run that diverges nobody is hurt. Then the scheduler dies: that is told, and what was saved is kept.
    """
    first_seed, other = seeds(replace(SMALL, epochs=6, ema_decay=0.9), 2)
    experiments = [first_seed, replace(other, test_size=48)]  # other photos of the same files
    first: list[subprocess.Popen] = []
    cache = tmp_path / "far-cache"
    come = when(lambda: any(cache.glob("*.npy")), lambda: first.append(cluster.worker("first")))

    def replace_first():
        first[0].kill()
        cluster.worker("second")

    killed = when(lambda: epochs_saved(cache) >= 2, replace_first)
    diverging = replace(SMALL, optimizer="sgd", lr=1e6, epochs=2)
    runs = go([*experiments, diverging], "far", cluster=cluster.address, skip_diverged=True)
    assert [run.experiment for run in runs] == experiments
    come.join()
    killed.join()
    assert first[0].wait() == -signal.SIGKILL
    assert "В кластере Dask нет рабочих, жду их." in capsys.readouterr().out
    go(experiments, "here")
    assert_same_records(tmp_path / "far", tmp_path / "here")

    endless = replace(SMALL, epochs=3000)
    before = epochs_saved(cache)
    gone = when(lambda: epochs_saved(cache) >= before + 2, cluster.scheduler.kill)
    with pytest.raises(LabError, match="Планировщик Dask пропал.*готовое сохранено"):
        go([endless], "far", cluster=cluster.address)
    gone.join()
    assert epochs_saved(cache) >= before + 2


ONCE = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}  # by itself Dask tries three times more


def deadly(num_classes: int) -> nn.Module:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("cluster", [ONCE], indirect=True)
def test_what_a_cluster_cannot_do_is_told(cluster, go, data, tmp_path, monkeypatch):
    """Take a function that cannot be sent; train what kills its worker; train on a worker that does not see
    the folder, as on another machine.
    """
    lock = threading.Lock()
    own = lambda weights, lr, weight_decay: lock and torch.optim.SGD(weights, lr)  # noqa: E731
    monkeypatch.setitem(OPTIMIZERS, "mine", own)
    with pytest.raises(LabError, match="cannot pickle .* свою функцию другим процессам не передать"):
        go([replace(SMALL, optimizer="mine")], "far", cluster=cluster.address)

    monkeypatch.setitem(NETWORKS, "deadly", deadly)
    experiment = replace(SMALL, network="deadly")
    cluster.worker("mortal")
    with pytest.raises(LabError, match=f"На прогоне {order(experiment, data).name} гибнут рабочие процессы"):
        go([experiment], "far", cluster=cluster.address)

    hidden = f'mount -t tmpfs tmpfs "{tmp_path.parent}" && exec "$@"'
    words = ("unshare", "--mount", "--map-root-user", "sh", "-c", hidden, "sh")
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("needs a process with folders of its own")
    cluster.worker("blind", words)
    with pytest.raises(LabError, match="не видит папку .*far-cache: подключите её"):
        go([SMALL], "far", cluster=cluster.address)


def test_address_with_nobody_is_told(go):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        for one in (address, "127.0.0.1"):
            with pytest.raises(LabError, match=f"Кластер {one} недоступен .*запустите dask scheduler"):
                go([SMALL], cluster=one)
