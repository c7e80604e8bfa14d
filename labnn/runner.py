"""Many runs at once: every experiment of a list trained or found, here or by workers of this machine or of a
cluster.
"""

import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import torch

from labnn.data import CarsData
from labnn.experiment import (
    NETWORKS,
    OPTIMIZERS,
    Experiment,
    Photos,
    Run,
    check_names,
    decode,
    make_batches,
    make_model,
    make_optimizer,
    own_definitions,
    record_once,
    run_folder,
    run_name,
    run_or_load,
    train,
)
from labnn.kit.cluster import Lost, Workers, open_workers, packed
from labnn.kit.errors import Diverged, check
from labnn.kit.files import atomic_write
from labnn.kit.hardware import prepare, usable_device
from labnn.kit.messages import is_out_of_memory, stopped
from labnn.kit.progress import Live, Standing, say
from labnn.settings import is_own
from labnn.train import train_epoch


def run_all(
    experiments: Sequence[Experiment],
    data: CarsData,
    runs_dir: str | Path,
    *,
    cache_dir: str | Path,
    devices: Sequence[str] = ("cpu",),
    processes: int = 1,
    cluster: str | None = None,
    threads: int | None = None,
    progress: Callable[[Standing], None] | None = None,
    skip_diverged: bool = False,
) -> list[Run]:
    """``run_or_load`` of every experiment, equal ones once; in the order given.

    One after another on the first of ``devices``; or ``processes`` at a time on ``devices`` in turn; or one
    on each worker of the Dask ``cluster``, "tcp://HOST:8786", on the worker's own device. Small networks fill
    neither many cores nor a GPU: several at once may finish sooner (``fastest_processes`` measures it). This
    machine's threads are shared out, or each run gets ``threads``. Workers need PyTorch, but no photos and no
    labnn: both are sent, checkpoints come home after each epoch, and records are written here. What is
    recorded already is read, and an interrupted call goes on where it stopped. ``progress`` is called after
    epochs and runs. With ``skip_diverged`` a training that diverges is told and left out; otherwise it ends
    the call. Raises ``LabError`` also for less than one process, a cluster that is not there or does not fit,
    an own function that cannot be sent, and a run whose worker dies three times.
    """
    check("processes", processes, int, 1, 1024)
    for experiment in {replace(e, seed=0, optimizer="", lr=1.0) for e in experiments}:
        decode(experiment, data, cache_dir)  # once, before several could want it
    once = list(dict.fromkeys(experiments))
    recorded = [experiment for experiment in once if run_folder(experiment, data, runs_dir).exists()]
    left = [experiment for experiment in once if experiment not in recorded]
    tally = _Tally(once, recorded, progress or Live().standing)
    runs: dict[Experiment, Run] = {}

    def end(experiment: Experiment, run: Run | Diverged) -> None:
        if isinstance(run, Run):
            runs[experiment] = run
        elif skip_diverged:
            say(f"Прогон {run_name(experiment, data)} пропущен. {run}")
        else:
            raise run
        tally.ended(experiment, runs.get(experiment))

    def here(experiment: Experiment) -> None:
        options = {"device": devices[0], "cache_dir": cache_dir, "threads": threads}
        options["progress"] = lambda rows, epochs: tally.reached(experiment, len(rows))
        end(experiment, _ended(run_or_load, experiment, data, runs_dir, **options))

    def there(workers: Workers, experiment: Experiment, worker: str, later: Callable) -> None:
        def training(checkpoint: Path) -> tuple[Run, dict]:
            order = _Order(experiment, _own(experiment), devices, workers.threads, threads)
            photos = decode(experiment, data, cache_dir)
            reached = partial(later, tally.reached, experiment)
            return _train_on(worker, workers, order, photos, checkpoint, reached)

        device_type = workers.result(workers.submit(worker, _device_type, devices), worker)
        places = runs_dir, cache_dir, device_type
        later(end, experiment, _ended(record_once, experiment, data, *places, training))

    alone = processes == 1 and cluster is None
    for experiment in once if alone else recorded:
        here(experiment)
    if left and not alone:
        devices = devices if cluster is None else ()  # a worker of a cluster has its own
        with open_workers(processes, cluster) as workers, tally.told_when_stopped():
            workers.share_out(left, lambda experiment: run_name(experiment, data), partial(there, workers))
    return [runs[experiment] for experiment in experiments if experiment in runs]


def _ended(run: Callable[..., Run], *given: Any, **options: Any) -> Run | Diverged:
    try:
        return run(*given, **options)
    except Diverged as error:
        return error


def fastest_processes(
    experiment: Experiment,
    data: CarsData,
    *,
    cache_dir: str | Path,
    devices: Sequence[str] = ("cpu",),
    most: int | None = None,
    steps: int = 20,
) -> tuple[int, dict[int, float]]:
    """How many runs at once train most images a second, measured: 1, 2, 4, ... ``most`` processes until more
    bring less than 5 % or there is no memory for them.

    Each of them takes ``steps`` real steps of ``experiment`` at the same time. Returns the number and the
    images a second of every number tried. ``most`` is by default the number of cores, or eight a GPU.
    """
    check_names(experiment)
    photos = decode(experiment, data, cache_dir)
    most = most or (torch.get_num_threads() if devices[0] == "cpu" else 8 * len(devices))
    rates: dict[int, float] = {}
    best, processes = 1, 1
    with open_workers(1) as workers:
        while processes <= most:
            try:
                there = workers.scale(processes)
                order = _Order(experiment, _own(experiment), devices, workers.threads, None)
                _time_on(there, workers, order, photos, 1)  # all are ready for the measured steps
                seconds = _time_on(there, workers, order, photos, steps)
            except (Lost, OSError, CancelledError, MemoryError, RuntimeError) as error:
                if processes == 1 or isinstance(error, RuntimeError) and not is_out_of_memory(error):
                    raise
                break
            rates[processes] = processes * steps * experiment.batch_size / seconds
            if rates[processes] < 1.05 * rates[best] and processes > 1:
                break
            best, processes = processes, 2 * processes
    return best, rates


def time_steps(
    experiment: Experiment, photos: Photos, device: str | torch.device, steps: int, *, epoch: int = 0
) -> float:
    """Seconds of ``steps`` training steps, the first of the pass number ``epoch``."""
    model = make_model(experiment, photos.classes, device)
    prepare(model)
    optimizer, _ = make_optimizer(experiment, model, steps)
    batches, _ = make_batches(experiment, photos, device)
    batches.set_epoch(epoch)
    endless = chain.from_iterable(repeat(batches))  # epoch after epoch
    train_epoch(model, optimizer, islice(endless, 3))
    return train_epoch(model, optimizer, islice(endless, steps))[1]["seconds"]


class _Tally:
    """Counts epochs and runs and foretells the end from the epochs trained since the start."""

    def __init__(
        self, experiments: list[Experiment], recorded: list[Experiment], progress: Callable[[Standing], None]
    ):
        self.recorded, self.progress = recorded, progress
        self.done = dict.fromkeys(experiments, 0)
        self.epochs = sum(experiment.epochs for experiment in experiments)
        self.runs = self.trained = 0
        self.start = time.perf_counter()

    def reached(self, experiment: Experiment, epoch: int, finished: Run | None = None) -> None:
        if epoch > self.done[experiment] and experiment not in self.recorded:
            self.trained += 1  # one that goes on from a checkpoint comes in at a later epoch: it trained one
        self.done[experiment] = max(self.done[experiment], epoch)
        done = sum(self.done.values())
        pace = (time.perf_counter() - self.start) / self.trained if self.trained else None
        seconds = None if pace is None else pace * (self.epochs - done)
        standing = Standing(self.runs, len(self.done), done, self.epochs, seconds, finished)
        self.progress(standing._replace(all_read=len(self.recorded) == len(self.done)))

    def ended(self, experiment: Experiment, run: Run | None) -> None:
        self.runs += 1
        self.reached(experiment, experiment.epochs, run)

    @contextmanager
    def told_when_stopped(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            epochs = f"эпох {sum(self.done.values())} из {self.epochs}"
            done = f"прогонов {self.runs} из {len(self.done)}, {epochs}"
            raise stopped(f"Остановлено: сохранено {done}, тот же вызов продолжит с них.") from None


class _Order(NamedTuple):
    """What a worker is asked to train: the user's own functions (``_own``), the devices that workers of this
    machine share, the CPU's threads of the worker and those asked for each run.
    """

    experiment: Experiment
    own: bytes
    devices: Sequence[str]
    worker_threads: int
    threads: int | None


def _own(experiment: Experiment) -> bytes:
    """The entries that ``experiment`` names of the tables and that are the user's own, to be sent."""
    named = ((OPTIMIZERS, experiment.optimizer), (NETWORKS, experiment.network))
    return packed([{name: table[name]} if is_own(table[name]) else {} for table, name in named])


def _send_photos(photos: Photos, worker: str, workers: Workers) -> Any:
    """Decoded photos once a worker; here all map one file."""
    files = {"train": str(photos.train.filename), "test": str(photos.test.filename)}

    def content() -> tuple:
        copies = {name: np.array(getattr(photos, name)) for name in files if not workers.local}
        return tuple(photos._replace(**(copies or files)))

    return workers.share(tuple(files.values()), content, worker)


def _train_on(
    worker: str,
    workers: Workers,
    order: _Order,
    photos: Photos,
    checkpoint: Path,
    reached: Callable[[int], None],
) -> tuple[Run, dict]:
    """``experiment.train`` on ``worker``; ``reached`` is told each epoch whose checkpoint has come."""
    ticket, seen, away = uuid4().hex, 0, workers.local is None
    path = checkpoint.name if away else str(checkpoint.resolve())
    state = workers.send(checkpoint.read_bytes(), worker) if away and checkpoint.exists() else None
    sent = _send_photos(photos, worker, workers), state
    future = workers.submit(worker, _train, ticket, order, path, sent=sent)
    while not workers.over(future, worker):
        found = workers.client.run(_newest, ticket, seen, away, workers=[worker], on_error="ignore")
        if newest := found.get(worker):
            seen, content = newest
            if away:
                with atomic_write(checkpoint) as unfinished:
                    unfinished.write_bytes(content)
            if seen < order.experiment.epochs:  # the last counts when the run is recorded
                reached(seen)
        if workers.stopped.is_set():
            future.cancel()
            raise Lost
    run, weights = workers.result(future, worker)
    # What an own function does is known here, where its source is.
    return replace(run, definitions=own_definitions(order.experiment)), weights


def _time_on(there: set[str], workers: Workers, order: _Order, photos: Photos, steps: int) -> float:
    """``time_steps`` on all workers of ``there`` together: the slowest."""
    futures = {}
    for worker in there:
        sent = [_send_photos(photos, worker, workers)]
        futures[worker] = workers.submit(worker, _time_steps, order, steps, sent=sent)
    return max(workers.result(future, worker) for worker, future in futures.items())


# What follows runs on the workers. One run at a time: a process has one random generator.
_alone = Lock()
_states: dict[str, tuple[int, Path]] = {}


def _device(devices: Sequence[str]) -> torch.device:
    from distributed import get_worker

    return usable_device(devices[get_worker().name % len(devices)] if devices else None)


def _device_type(devices: Sequence[str]) -> str:
    return _device(devices).type


def _begin(order: _Order, sent: tuple) -> tuple[torch.device, Photos]:
    """Makes the worker what ``order`` needs; its device and the photos that were sent."""
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to photos
    for table, entries in zip((OPTIMIZERS, NETWORKS), pickle.loads(order.own), strict=True):
        table.update(entries)
    if order.worker_threads:
        torch.set_num_threads(order.worker_threads)
    photos = Photos(*sent)
    if isinstance(photos.train, str):
        mapped = {name: np.load(getattr(photos, name), mmap_mode="c") for name in ("train", "test")}
        photos = photos._replace(**mapped)
    return _device(order.devices), photos


def _train(
    ticket: str, order: _Order, checkpoint: str, photos: tuple, state: bytes | None
) -> tuple[Run, dict]:
    """A run from ``state`` on; ends after an epoch where nobody waits for it any more."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    with _alone, TemporaryDirectory(dir=worker.local_directory) as folder:
        path = Path(folder, checkpoint)  # on the caller's machine the whole path of the caller's file
        if state is not None:
            path.write_bytes(state)

        def progress(rows: list[dict], epochs: int) -> None:
            _states[ticket] = len(rows), path
            task = worker.state.tasks.get(key)
            if task is None or task.state != "executing":
                raise Lost

        try:
            device, photos = _begin(order, photos)
            return train(order.experiment, photos, device, path, progress, order.threads)
        finally:
            _states.pop(ticket, None)


def _newest(ticket: str, seen: int, away: bool) -> tuple[int, bytes] | None:
    """The epochs of a run, if they are more than ``seen``, and its checkpoint where it lies ``away``."""
    epochs, path = _states.get(ticket, (0, None))
    with suppress(FileNotFoundError):  # the run has just ended
        return (epochs, path.read_bytes() if away else b"") if epochs > seen else None


def _time_steps(order: _Order, steps: int, photos: tuple) -> float:
    device, photos = _begin(order, photos)
    return time_steps(order.experiment, photos, device, steps)
