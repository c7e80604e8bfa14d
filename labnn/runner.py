"""Many runs at once: Dask's workers, of this machine or of a cluster, each train or read one."""

import pickle
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import psutil
import torch

from labnn.data import CarsData
from labnn.experiment import Order, Photos, Run, decode, describe, train_once
from labnn.kit.errors import Diverged, LabError, check, explained
from labnn.kit.hardware import default_device
from labnn.kit.progress import Live, say
from labnn.settings import NETWORKS, OPTIMIZERS, Experiment, check_names, own_definitions, own_functions

# Dask's watching of itself, each 10 to 500 ms by default: 4 % of two cores that train.
_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
}


@explained()
def run_all(
    experiments: Sequence[Experiment],
    data: CarsData,
    runs_dir: str | Path,
    *,
    cache_dir: str | Path,
    devices: Sequence[str] = (),
    processes: int | None = 1,
    cluster: str | None = None,
    threads: int | None = None,
    title: str = "Обучение",
    skip_diverged: bool = False,
) -> list[Run]:
    """``run_or_load`` of every experiment, equal ones once; in the order given.

    One after another on the first of ``devices``; or in ``processes`` of this machine (``None``:
    ``usual_processes``), on ``devices`` in turn; or on the workers of the Dask ``cluster``,
    "tcp://HOST:8786", each with its own device, which see the folders of runs and cache under the same
    paths. This machine's threads are shared out, or each run gets ``threads``. What a worker did that died
    goes on elsewhere from its checkpoint, and an interrupted call where it stopped. One line called
    ``title`` tells how far it is. With ``skip_diverged`` a training that diverges is told and left out.
    Raises ``LabError`` also for a cluster that is not there and for a run whose workers die four times.
    """
    known, once = describe(data), list(dict.fromkeys(experiments))
    for experiment in once:
        check_names(experiment)
    orders = [Order(experiment, known, own_definitions(experiment)) for experiment in once]
    left = [asked for asked in orders if not asked.folder(runs_dir).exists()]
    processes = usual_processes(devices) if processes is None else processes
    check("processes", processes, int, 1, 1024)
    tally, folders = _Tally(orders, title, skip_diverged), {"runs_dir": runs_dir, "cache_dir": cache_dir}
    places = {name: Path(folder).expanduser().resolve() for name, folder in folders.items()}
    if (processes == 1 and not cluster) or not left:
        options = places | {"device": next(iter(devices), None), "threads": threads}
        for asked in orders:
            photos = partial(decode, asked.experiment, data, cache_dir)
            reached = lambda rows, epochs, name=asked.name: tally.reached(name, len(rows))  # noqa: E731
            tally.ended(asked, partial(train_once, asked, photos, progress=reached, **options))
    else:
        threads = threads or (None if cluster else max(torch.get_num_threads() // processes, 1))
        options = places | {"devices": () if cluster else devices, "threads": threads}
        try:
            with _client(processes, cluster) as client:
                _on_workers(client, orders, data, tally, options)
        except KeyboardInterrupt:
            done = f"готово прогонов {len(tally.runs)} из {len(once)}"
            say(f"Остановлено: {done}, тот же вызов продолжит с сохранённого.")
            raise
    return [tally.runs[experiment] for experiment in experiments if experiment in tally.runs]


def usual_processes(devices: Sequence[str] = ()) -> int:
    """How many trainings to run at once: one a core on a processor, two on a GPU, as the memory permits."""
    on_gpu = any(torch.device(name).type != "cpu" for name in devices or [default_device()])
    wanted = 2 * max(len(devices), 1) if on_gpu else torch.get_num_threads()
    gigabytes = psutil.virtual_memory().available / 2**30
    return max(min(wanted, int(gigabytes / 2.5)), 1)  # a process with CUDA takes 2 to 2.5 GB


class _Tally:
    """The runs that have ended, and the epochs of all of them in one living line."""

    def __init__(self, orders: Sequence[Order], title: str, skip_diverged: bool):
        self.epochs = {asked.name: asked.experiment.epochs for asked in orders}
        self.done, self.runs = dict.fromkeys(self.epochs, 0), {}
        self.live, self.skip_diverged = Live(title), skip_diverged

    def reached(self, name: str, epoch: int) -> None:
        if epoch == self.done[name]:  # told by its worker before its record came
            return
        self.done[name] = epoch
        ended = sum(self.done[one] == epochs for one, epochs in self.epochs.items())
        total, runs = sum(self.epochs.values()), f", прогонов {ended} из {len(self.done)}"
        self.live.show(sum(self.done.values()), total, "эпох", runs)

    def ended(self, asked: Order, result: Callable[[], Run]) -> None:
        try:
            self.runs[asked.experiment] = result()
        except Diverged as error:
            if not self.skip_diverged:
                raise
            say(f"Прогон {asked.name} пропущен. {error}")
        self.reached(asked.name, asked.experiment.epochs)


def _on_workers(
    client: Any, orders: Sequence[Order], data: CarsData, tally: _Tally, options: dict[str, Any]
) -> None:
    from distributed import CancelledError, KilledWorker, as_completed

    client.subscribe_topic("labnn", lambda event: tally.reached(*event[1]))
    photos: dict[tuple, Photos] = {}
    asked_of = {}
    for asked in orders:
        experiment = asked.experiment
        sizes = experiment.image_size, experiment.min_crop_area < 1, experiment.test_size
        if sizes not in photos:
            photos[sizes] = decode(experiment, data, options["cache_dir"])
        own = _packed(experiment)
        asked_of[client.submit(_on_worker, asked, own, photos[sizes], pure=False, **options)] = asked
    for future in as_completed(asked_of):
        asked = asked_of[future]
        try:
            tally.ended(asked, future.result)
        except CancelledError as error:
            way_out = "запустите его снова и повторите, готовое сохранено"
            raise LabError(f"Планировщик Dask пропал: {way_out}.") from error
        except KilledWorker as error:
            way_out = "обычно не хватает памяти, уменьшите processes или batch_size и повторите"
            raise LabError(f"На прогоне {asked.name} гибнут рабочие процессы: {way_out}.") from error


def _packed(experiment: Experiment) -> bytes:
    """The user's own functions that ``experiment`` names, with the code of their own modules, which workers
    may lack; those of installed packages by name.
    """
    import cloudpickle

    own = own_functions(experiment)
    for one in own.values():
        function = getattr(one, "make", one)
        module = sys.modules.get(getattr(getattr(function, "func", function), "__module__", ""))
        if module is not None and "-packages" not in str(getattr(module, "__file__", "")):
            cloudpickle.register_pickle_by_value(module)
    return cloudpickle.dumps(own)


@contextmanager
def _client(processes: int, cluster: str | None) -> Iterator[Any]:
    """A client of ``processes`` new workers of this machine, one training each, or of the scheduler at
    ``cluster``, whose workers get labnn.
    """
    import dask
    from distributed import Client, LocalCluster
    from distributed.diagnostics.plugin import SchedulerUploadFile, UploadFile

    if cluster is None:
        options = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": None, "silence_logs": 50}
        method = {"distributed.worker.multiprocessing-method": "spawn"}
        with (
            dask.config.set(_QUIET | method),
            LocalCluster(processes, host="127.0.0.1", **options) as local,
            Client(local) as client,
        ):
            client.run(_ignore_ctrl_c)  # in a terminal it goes to all, and the caller ends the others
            yield client
        return
    try:
        client = Client(cluster, timeout=10)
    except (OSError, ValueError) as error:
        way_out = "запустите dask scheduler той же версии или исправьте адрес, например tcp://127.0.0.1:8786"
        raise LabError(f"Кластер {cluster} недоступен ({error}): {way_out}.") from error
    with client, tempfile.TemporaryDirectory() as folder:
        package = Path(__file__).parent
        archive = shutil.make_archive(f"{folder}/labnn", "zip", package.parent, package.name)
        for plugin in (SchedulerUploadFile(archive), UploadFile(archive)):
            client.register_plugin(plugin, name="labnn")  # in place of an earlier call's: they share a file
        if not client.nthreads():
            say("В кластере Dask нет рабочих, жду их.")
        yield client


# What follows runs on the workers.
_alone = Lock()  # one run at a time: a process has one random generator


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _on_worker(
    asked: Order,
    own: bytes,
    photos: Photos,
    devices: Sequence[str],
    runs_dir: Path,
    cache_dir: Path,
    threads: int | None,
) -> Run:
    from distributed import get_worker

    worker = get_worker()
    if not photos.train.exists():
        way_out = "подключите её и папку записей на всех машинах под одними путями"
        raise LabError(f"Рабочий {worker.address} не видит папку {cache_dir}: {way_out}.")
    mine = pickle.loads(own)
    for name, table in (("optimizer", OPTIMIZERS), ("network", NETWORKS)):
        if name in mine:
            table[getattr(asked.experiment, name)] = mine[name]
    device = devices[worker.name % len(devices)] if devices else None

    def progress(rows: list[dict], epochs: int) -> None:
        worker.log_event("labnn", (asked.name, len(rows)))

    with _alone:
        return train_once(asked, lambda: photos, runs_dir, cache_dir, device, progress, threads)
