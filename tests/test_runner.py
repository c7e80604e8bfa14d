"""Many experiments at once, none twice: in place, on this machine's workers, on a cluster that loses some."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from labnn.kit.cluster import open_workers
from torch import nn

from labnn.__main__ import main
from labnn.data import open_dataset
from labnn.experiment import Run, load_runs, run_name
from labnn.kit.errors import LabError
from labnn.runner import fastest_processes, run_all
from labnn.settings import NETWORKS, OPTIMIZERS, Experiment

SMALL = Experiment(epochs=1, image_size=32, batch_size=8, test_size=0)
LONG = replace(SMALL, epochs=3000)


@pytest.fixture(autouse=True)
def one_thread():
    """As each worker has, so that the same run has the same figures anywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tiny_root):
    return open_dataset(tiny_root, crop_to_box=True)


def seeds(experiment: Experiment, count: int) -> list[Experiment]:
    return [replace(experiment, seed=seed) for seed in range(count)]


def assert_same_records(folder: Path, other: Path) -> None:
    """Every figure of every run, the seconds apart."""
    runs, others = load_runs(folder), load_runs(other)
    assert len(runs) == len(others) > 0
    for one, two in zip(runs, others, strict=True):
        assert one.name == two.name and one.environment == two.environment and one.data == two.data
        assert one.history.drop(columns="seconds").equals(two.history.drop(columns="seconds"))
        assert one.predictions.equals(two.predictions)


def test_runs_come_in_the_order_asked_for_and_are_trained_once(data, tmp_path):
    experiments = [replace(SMALL, seed=seed) for seed in (2, 0, 1)]
    first = run_all(experiments, data, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=2)
    assert [run.experiment for run in first] == experiments
    again = run_all(experiments, data, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=1)
    assert all(
        a.history.equals(b.history) for a, b in zip(first, again, strict=True)
    )  # seconds too: nothing was trained
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 3


def test_equal_experiments_are_trained_once_and_given_each_time(data, tmp_path):
    told: list = []
    options = {"cache_dir": tmp_path / "cache", "progress": told.append, "processes": 2}
    first, other, again = run_all([SMALL, replace(SMALL, seed=1), SMALL], data, tmp_path / "runs", **options)
    assert again is first and other.experiment.seed == 1
    assert (told[-1].all_runs, told[-1].all_epochs) == (2, 2)


@pytest.mark.parametrize("processes", [1, 2])
def test_progress_counts_epochs_of_all_runs_and_foretells_the_end(data, tmp_path, processes):
    experiments = seeds(replace(SMALL, epochs=2), 3)
    options = {"cache_dir": tmp_path / "cache", "processes": processes}
    run_all(experiments[:1], data, tmp_path / "runs", **options)
    told = []
    run_all(experiments, data, tmp_path / "runs", progress=told.append, **options)
    assert [standing.runs for standing in told if standing.finished] == [1, 2, 3]
    assert [standing.epochs for standing in told] == sorted(standing.epochs for standing in told)
    assert (told[-1].epochs, told[-1].all_epochs, told[-1].seconds_left) == (6, 6, 0)
    assert (
        told[0].seconds_left is None or told[0].epochs > 2
    )  # no pace before a first epoch of our own: the recorded run took no time
    assert not any(standing.all_read for standing in told)
    run_all(experiments, data, tmp_path / "runs", progress=told.append, **options)
    assert told[-1].all_read


def test_one_process_needs_no_engine(tiny_root, tmp_path):
    script = f"""
import sys
from labnn.data import open_dataset
from labnn.experiment import Experiment
from labnn.runner import run_all
folder = {str(tmp_path)!r}
run_all([{SMALL!r}], open_dataset({str(tiny_root)!r}), folder + "/runs", cache_dir=folder)
assert "distributed" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=True)


def test_stopped_call_ends_its_runs_after_their_epoch_and_goes_on_later(data, tmp_path, capsys):
    """Runs that would take minutes; the next call finds their checkpoints."""

    def stop(standing):
        if standing.epochs >= 2:
            raise KeyboardInterrupt

    options = {"cache_dir": tmp_path / "cache", "processes": 2}
    with pytest.raises(KeyboardInterrupt):
        run_all(seeds(LONG, 3), data, tmp_path / "runs", progress=stop, **options)
    assert not (tmp_path / "runs").exists()
    checkpoints = list((tmp_path / "cache").glob("*.checkpoint"))
    assert checkpoints
    for checkpoint in checkpoints:
        assert 1 <= len(torch.load(checkpoint, weights_only=True)["rows"]) < 1000
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Остановлено")]
    assert "прогонов 0 из 3, эпох" in line and "тот же вызов продолжит с них" in line


def test_processes_are_chosen_by_what_they_measure(data, tmp_path):
    best, rates = fastest_processes(SMALL, data, cache_dir=tmp_path / "cache", most=2, steps=2)
    assert list(rates) == [1, 2] and min(rates.values()) > 0
    assert best == (2 if rates[2] >= 1.05 * rates[1] else 1)


def test_measuring_that_kills_a_worker_ends_with_what_was_measured(data, tmp_path, monkeypatch):
    """As when the memory of a GPU takes one training and not two."""

    def second_dies(weights, lr, decay):
        from distributed import get_worker

        if get_worker().name == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.optim.SGD(weights, lr)

    monkeypatch.setitem(OPTIMIZERS, "mine", second_dies)
    options = {"cache_dir": tmp_path / "cache", "most": 4, "steps": 2}
    best, rates = fastest_processes(replace(SMALL, optimizer="mine"), data, **options)
    assert best == 1 and list(rates) == [1]


def test_death_of_a_process_is_told(data, tmp_path):
    """As when memory runs out: the system kills a worker between two epochs, and again the next ones."""

    def kill_one(standing):
        if standing.epochs >= 2:
            multiprocessing.active_children()[0].kill()

    with pytest.raises(LabError, match="не хватило памяти") as told:
        run_all(
            seeds(LONG, 2),
            data,
            tmp_path / "runs",
            cache_dir=tmp_path / "cache",
            processes=2,
            progress=kill_one,
        )
    assert any(run_name(experiment, data) in str(told.value) for experiment in seeds(LONG, 2))


def test_worker_that_dies_while_it_is_looked_at_is_not_taken_for_the_scheduler():
    """Dask tells both by an OSError; what has come of the work is the same as with no such worker."""
    with open_workers(2, None) as workers:
        first = sorted(workers.present())
        workers._seen, workers._asked = {first[0]}, 0.0
        look, workers._look_at = workers._look_at, lambda new: (_ for _ in ()).throw(OSError("closed"))
        assert workers.present() == {first[0]}
        workers._look_at, workers._asked = look, 0.0
        assert sorted(workers.present()) == first


def test_function_that_cannot_be_sent_is_told(data, tmp_path, monkeypatch):
    lock = threading.Lock()
    monkeypatch.setitem(
        OPTIMIZERS, "mine", lambda weights, lr, decay: lock and torch.optim.RMSprop(weights, lr)
    )
    with pytest.raises(LabError, match="«mine»"):
        options = {"cache_dir": tmp_path / "cache", "processes": 2}
        run_all([replace(SMALL, optimizer="mine")], data, tmp_path / "runs", **options)


def test_added_optimizer_enters_by_name_and_function(tiny_root, tmp_path, monkeypatch):
    monkeypatch.setitem(
        OPTIMIZERS, "rmsprop", lambda weights, lr, decay: torch.optim.RMSprop(weights, lr, weight_decay=decay)
    )
    [run] = run_all(
        [replace(SMALL, optimizer="rmsprop")],
        open_dataset(tiny_root),
        tmp_path / "runs",
        cache_dir=tmp_path / "cache",
    )
    monkeypatch.delitem(OPTIMIZERS, "rmsprop")
    assert load_runs(tmp_path / "runs")[0].history.equals(run.history)  # its record needs no function
    with pytest.raises(LabError, match="rmsprop"):
        run_all(
            [replace(SMALL, optimizer="rmsprop", seed=1)],
            open_dataset(tiny_root),
            tmp_path / "runs",
            cache_dir=tmp_path / "cache",
        )


def test_mistake_in_an_experiment_is_told_as_such_from_another_process(data, tmp_path):
    options = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(LabError, match="processes=0"):
        run_all([SMALL], data, tmp_path / "runs", processes=0, **options)
    with pytest.raises(LabError, match="«lion»"):
        run_all([replace(SMALL, optimizer="lion")], data, tmp_path / "runs", processes=2, **options)
    norm_of_one = replace(SMALL, batch_size=1, optimizer="sgd")
    with pytest.raises(LabError, match="увеличьте batch_size"):
        run_all([norm_of_one], data, tmp_path / "runs", processes=2, **options)


def test_diverging_run_is_told_and_left_out(data, tmp_path, capsys):
    experiments = [replace(SMALL, optimizer="sgd", lr=lr, epochs=3) for lr in (1e6, 1e-3)]
    options = {"cache_dir": tmp_path / "cache", "processes": 2}
    with pytest.raises(LabError, match="потери стали"):
        run_all(experiments[:1], data, tmp_path / "runs", **options)
    [run] = run_all(experiments, data, tmp_path / "runs", skip_diverged=True, **options)
    assert run.experiment == experiments[1]
    assert f"Прогон {run_name(experiments[0], data)} пропущен. В эпоху" in capsys.readouterr().out


# As a notebook has it: torch imported first, then %cd, and functions that no other process could import.
CELLS = """
import os, sys
import torch
sys.path.insert(0, {project!r})
os.chdir({folder!r})
sys.path.insert(0, {folder!r})
import mine
from torch import nn
from labnn import NETWORKS, OPTIMIZERS, Experiment, open_dataset
from labnn.runner import run_all
momentum = 0.5
OPTIMIZERS["own"] = lambda weights, lr, decay: torch.optim.SGD(weights, lr, momentum=momentum)
NETWORKS["own"] = mine.tiny
own = dict(optimizer="own", network="own", epochs=2, image_size=32, batch_size=8)
experiments = [Experiment(**own, seed=seed) for seed in (0, 1)]
torch.set_num_threads(1)
for folder, processes in (("here", 1), ("there", 2)):
    run_all(experiments, open_dataset({root!r}), folder, cache_dir=folder + "-cache", processes=processes)
"""
MINE = """
from helpers import flat
from torch import nn
def tiny(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), flat(), nn.Linear(48, num_classes))
"""


def test_functions_of_a_notebook_and_of_a_module_of_ones_own_reach_the_workers(tiny_root, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "helpers.py").write_text("from torch import nn\ndef flat():\n    return nn.Flatten()\n")
    cells = CELLS.format(project=str(PROJECT), folder=str(tmp_path), root=str(tiny_root))
    subprocess.run([sys.executable, "-c", cells], cwd="/", check=True, timeout=300)
    assert_same_records(tmp_path / "there", tmp_path / "here")
    assert all(set(run.definitions) == {"optimizer", "network"} for run in load_runs(tmp_path / "there"))


SCRIPT = """
import signal, sys
from labnn.data import open_dataset
from labnn.experiment import Experiment
from labnn.kit.errors import LabError
from labnn.runner import run_all

def main():
    experiments = [Experiment(epochs=3000, image_size=32, batch_size=8, seed=seed) for seed in (0, 1)]
    tell = lambda standing: print(standing, flush=True)
    try:
        root, folder, cluster = sys.argv[1:]
        options = {"processes": 2, "cluster": cluster or None, "progress": tell}
        data = open_dataset(root, crop_to_box=True)
        run_all(experiments, data, folder + "/runs", cache_dir=folder, **options)
    except LabError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)

"""
GUARD = 'if __name__ == "__main__":\n    '


def call(folder: Path, guard: str, root: Path, cluster: str = "") -> subprocess.Popen:
    """The script as a user starts it, in a process group of its own, as a terminal does."""
    (folder / "script.py").write_text(f"{SCRIPT}{guard}main()\n", encoding="utf-8")
    command = [sys.executable, folder / "script.py", root, folder, cluster]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    listens = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    return subprocess.Popen(
        [str(word) for word in command], env=environment, start_new_session=True, preexec_fn=listens, **output
    )


def epochs_told(process: subprocess.Popen, least: int) -> int:
    """Reads what the script prints until it tells of ``least`` epochs."""
    text = ""
    while line := process.stdout.readline():
        text += line
        if (found := re.search(r"эпох (\d+) из", line)) and int(found[1]) >= least:
            return int(found[1])
    raise AssertionError(text)


def test_script_without_a_main_guard_is_named_before_processes_start(tiny_root, tmp_path):
    script = tmp_path / "compare_two.py"
    script.write_text(
        "from labnn import Experiment, open_dataset\n"
        "from labnn.runner import run_all\n"
        "runs = [Experiment(epochs=1, image_size=32, batch_size=8, seed=seed) for seed in (0, 1)]\n"
        f"run_all(runs, open_dataset({str(tiny_root)!r}), 'runs', cache_dir='cache', processes=2)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1].startswith("labnn.kit.errors.LabError: Скрипт ")
    assert (
        "compare_two.py выполнился бы в каждом процессе заново: поставьте запуск под if __name__"
        in done.stderr
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_threads_asked_for_are_those_of_every_run(tiny_root, tmp_path, processes):
    options = {"cache_dir": tmp_path / "cache", "processes": processes, "threads": 2}
    [run] = run_all([SMALL], open_dataset(tiny_root), tmp_path / "runs", **options)
    assert run.environment["threads"] == 2


def test_ctrl_c_in_a_terminal_is_one_line(tiny_root, tmp_path):
    process = call(tmp_path, GUARD, tiny_root)
    epochs_told(process, 3)
    os.killpg(process.pid, signal.SIGINT)
    told, _ = process.communicate(timeout=120)
    lines = [line for line in told.splitlines() if not line.startswith("прогонов")]
    assert process.returncode == 130 and len(lines) == 1 and lines[0].startswith("Остановлено: сохранено")
    assert list(tmp_path.glob("*.checkpoint"))


class Cluster:
    """A scheduler and workers as a user starts them, each in its own folder; none has labnn or photos."""

    def __init__(self, folder: Path):
        self.folder, self.processes = folder, []
        self.scheduler = self.start(
            "scheduler", "scheduler", "--port", "0", "--scheduler-file", folder / "address"
        )
        deadline = time.monotonic() + 60
        while not (folder / "address").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.2)
        self.address = json.loads((folder / "address").read_text())["address"]

    def worker(self, name: str, path: str = "") -> subprocess.Popen:
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--name", name]
        return self.start(name, "worker", self.address, *options, path=path)

    def start(self, name: str, *words, path: str = "") -> subprocess.Popen:
        own = self.folder / name
        own.mkdir()
        # The module and its data are hidden where the system allows it, so that neither is read by mistake;
        # not the whole project, whose folder may hold the Python that runs here.
        parts = " && ".join(f'mount -t tmpfs tmpfs "{PROJECT / name}"' for name in ("labnn", "data"))
        hide = f'{{ {parts}; }} 2>/dev/null; exec "$@"'
        hidden = ["unshare", "--mount", "--map-root-user", "sh", "-c", hide, "sh"]
        if (
            shutil.which("unshare") is None
            or subprocess.run([*hidden, "true"], capture_output=True).returncode
        ):
            hidden = []
        command = [*hidden, sys.executable, "-m", "dask", *words, "--host", "127.0.0.1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        with open(own / "log", "w") as log:
            process = subprocess.Popen(
                [str(word) for word in command], cwd=own, env=environment, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster")
    yield cluster
    cluster.close()


def far(cluster: Cluster, tmp_path: Path) -> dict:
    return {"cluster": cluster.address, "cache_dir": tmp_path / "far-cache"}


@pytest.mark.parametrize("workers, killed", [(2, 1), (3, 2)])
def test_killed_workers_change_no_record(workers, killed, cluster, data, tmp_path):
    """kill -9 in the middle of an epoch: runs go on from the epochs that came home, on whoever is left."""
    experiments = seeds(replace(SMALL, epochs=8, ema_decay=0.9), 4)
    experiments[3] = replace(experiments[3], test_size=48)  # other photos of the same files
    started = [cluster.worker(f"worker{number}") for number in range(workers)]

    def kill(standing):
        if standing.epochs >= 6:
            for process in started[:killed]:
                process.kill()

    run_all(experiments, data, tmp_path / "far", progress=kill, **far(cluster, tmp_path))
    run_all(experiments, data, tmp_path / "here", cache_dir=tmp_path / "here-cache")
    assert [process.poll() is None for process in started] == [False] * killed + [True] * (workers - killed)
    assert_same_records(tmp_path / "far", tmp_path / "here")
    for weights in (tmp_path / "far-cache").glob("*.pt"):
        one, two = (torch.load(folder / weights.name) for folder in (weights.parent, tmp_path / "here-cache"))
        assert list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)
    assert not list((tmp_path / "far-cache").glob("*.checkpoint"))


def test_worker_that_joins_later_takes_work(cluster, data, tmp_path, capsys):
    """The first one to come is killed, and nobody is there until another comes."""
    first, joined = [], threading.Timer(3, lambda: first.append(cluster.worker("first")))
    joined.start()

    def replace_first(standing):
        if standing.epochs >= 3 and first[0].poll() is None:
            first[0].kill()
            first[0].wait()
            cluster.worker("second")

    [run] = run_all(
        [replace(SMALL, epochs=16)], data, tmp_path, progress=replace_first, **far(cluster, tmp_path)
    )
    assert len(run.history) == 16
    assert "В кластере Dask нет рабочих, жду их." in capsys.readouterr().out


def test_scheduler_that_dies_is_told_and_its_runs_go_on_later(cluster, data, tmp_path):
    worker = cluster.worker("worker")

    def kill(standing):
        if standing.epochs >= 3:
            cluster.scheduler.kill()

    with pytest.raises(LabError, match="Планировщик Dask пропал"):
        run_all([LONG], data, tmp_path / "far", progress=kill, **far(cluster, tmp_path))
    [checkpoint] = (tmp_path / "far-cache").glob("*.checkpoint")
    assert len(torch.load(checkpoint, weights_only=True)["rows"]) >= 3
    worker.wait(timeout=120)  # it does not train on for nobody


def test_caller_that_is_killed_goes_on_from_what_came_home(cluster, tiny_root, tmp_path, data):
    """Its runs leave the workers, and the scheduler keeps nothing of them."""
    from distributed import Client

    for number in range(2):
        cluster.worker(f"worker{number}")
    (tmp_path / "caller").mkdir()
    process = call(tmp_path / "caller", GUARD, tiny_root, cluster.address)
    epochs_told(process, 8)
    process.kill()
    process.communicate(timeout=60)
    checkpoints = list((tmp_path / "caller").glob("*.checkpoint"))
    saved = sum(len(torch.load(checkpoint, weights_only=True)["rows"]) for checkpoint in checkpoints)
    process = call(tmp_path / "caller", GUARD, tiny_root, cluster.address)
    epochs = epochs_told(process, 1)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert saved >= 6 and epochs > saved / 2 - 3  # the first to tell an epoch is one of the two
    with Client(cluster.address) as client:
        deadline = time.monotonic() + 60
        kept = lambda dask_scheduler: len(dask_scheduler.tasks)  # noqa: E731
        while client.run_on_scheduler(kept) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert client.run_on_scheduler(kept) == 0


def test_two_callers_on_one_record_train_it_once(cluster, data, tmp_path, capsys):
    cluster.worker("worker")
    runs: list[Run] = []

    def caller():
        runs.extend(
            run_all(seeds(replace(SMALL, epochs=3), 2), data, tmp_path / "runs", **far(cluster, tmp_path))
        )

    callers = [threading.Thread(target=caller) for _ in range(2)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(timeout=300)
    assert len(runs) == 4 and len(load_runs(tmp_path / "runs")) == 2
    for run in runs:
        assert run.history.equals(next(r for r in runs if r.name == run.name).history)  # the seconds as well


def test_study_from_a_terminal_is_trained_on_the_cluster(cluster, tiny_root, tmp_path, capsys):
    cluster.worker("worker")
    places = ["--data", tiny_root, "--out", tmp_path / "runs", "--cache", tmp_path / "cache"]
    words = ["study", "collapse", *places, "--cluster", cluster.address, "--processes", "auto"]
    assert main([str(word) for word in words]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("прогонов")]
    assert len(told) == len(load_runs(tmp_path / "runs" / "collapse")) == 3


def test_address_with_nobody_or_with_something_else_is_told(data, tmp_path):
    with socket.socket() as held, socket.socket() as free:
        for one in (held, free):
            one.bind(("127.0.0.1", 0))
        held.listen()
        numbers = [one.getsockname()[1] for one in (held, free)]
        addresses = [*(f"tcp://127.0.0.1:{number}" for number in numbers), "127.0.0.1", ""]

        def told(address: str) -> str:
            with pytest.raises(LabError) as error:
                run_all([SMALL], data, tmp_path, cache_dir=tmp_path, cluster=address)
            return str(error.value)

        began = time.monotonic()
        with ThreadPoolExecutor() as together:
            for address, sentence in zip(addresses, together.map(told, addresses), strict=True):
                assert re.match(f"Кластер ?{address} недоступен .*запустите dask scheduler", sentence)
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("version, told", [("Version: 1.13", "PyTorch 1.13, а здесь"), ("", "PyTorch нет")])
def test_worker_with_another_pytorch_or_none_is_told(version, told, cluster, data, tmp_path):
    """Whose installed packages say so."""
    (tmp_path / "packages" / "torch-1.13.dist-info").mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: torch\n{version}\n"
    (tmp_path / "packages" / "torch-1.13.dist-info" / "METADATA").write_text(metadata)
    cluster.worker("worker", path=str(tmp_path / "packages"))
    with pytest.raises(LabError, match=told):
        run_all([SMALL], data, tmp_path / "runs", **far(cluster, tmp_path))


def test_worker_that_dies_of_a_run_names_it(cluster, data, tmp_path, monkeypatch):
    def deadly(num_classes: int) -> nn.Module:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setitem(NETWORKS, "deadly", deadly)
    for number in range(3):
        cluster.worker(f"worker{number}")
    experiment = replace(SMALL, network="deadly")
    with pytest.raises(LabError, match=f"{run_name(experiment, data)} трижды погиб рабочий"):
        run_all([experiment], data, tmp_path / "runs", **far(cluster, tmp_path))
