"""Many runs at once: every experiment of a list trained or found, several processes side by side."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice, repeat
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import torch

from labnn.data import CarsData
from labnn.experiment import (
    NETWORKS,
    OPTIMIZERS,
    Experiment,
    Photos,
    Run,
    decode,
    make_batches,
    make_model,
    make_optimizer,
    run_folder,
    run_name,
    run_or_load,
)
from labnn.kit.errors import Diverged, LabError, check
from labnn.kit.hardware import prepare
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
    threads: int | None = None,
    progress: Callable[[Standing], None] | None = None,
    skip_diverged: bool = False,
) -> list[Run]:
    """``run_or_load`` of every experiment, ``processes`` at a time, each on one of ``devices`` in turn; in
    the order given.

    Small networks fill neither many cores nor a GPU, so that several at once may finish sooner than one after
    another (``fastest_processes`` measures it); the CPU's threads are shared out, or each gets ``threads``.
    What is recorded already is read, and an interrupted call goes on where it stopped. ``progress`` is called
    after each epoch and each run. With ``skip_diverged`` a training that diverges is told and left out;
    otherwise it ends the call. Raises ``LabError`` for less than one process, for one that died, and for an
    added optimizer whose function several processes cannot import.
    """
    check("processes", processes, int, 1, 1024)
    for experiment in {replace(e, seed=0, optimizer="", lr=1.0) for e in experiments}:
        decode(experiment, data, cache_dir)  # once, before the processes could all begin to
    recorded = {
        index
        for index, experiment in enumerate(experiments)
        if run_folder(experiment, data, runs_dir).exists()
    }
    tally = _Tally([experiment.epochs for experiment in experiments], recorded, progress or Live().standing)
    places = {"runs_dir": runs_dir, "cache_dir": cache_dir, "threads": threads}
    runs: dict[int, Run] = {}

    def end(index: int, result: Callable[[], Run]) -> None:
        try:
            runs[index] = result()
        except Diverged as error:
            if not skip_diverged:
                raise
            say(f"Прогон {run_name(experiments[index], data)} пропущен. {error}")
        tally.ended(index, runs.get(index))

    if processes == 1:
        for index, experiment in enumerate(experiments):
            reached = partial(tally.reached, index)
            end(index, partial(_run, experiment, data, reached, device=devices[0], **places))
    else:
        with _pool(processes, devices) as (pool, events):
            waiting = {
                pool.submit(_run_in_pool, index, experiment, data, **places): index
                for index, experiment in enumerate(experiments)
            }
            while waiting:
                ended, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                while not events.empty():
                    tally.reached(*events.get())
                for future in ended:
                    end(waiting.pop(future), future.result)
    return [runs[index] for index in sorted(runs)]


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
    bring less than 5 %.

    Each of them takes ``steps`` real steps of ``experiment`` at the same time. Returns the number and the
    images a second of every number tried. ``most`` is by default the number of cores, or eight a GPU.
    """
    decode(experiment, data, cache_dir)
    most = most or (torch.get_num_threads() if devices[0] == "cpu" else 8 * len(devices))
    rates: dict[int, float] = {}
    best, processes = 1, 1
    while processes <= most:
        with _pool(processes, devices) as (pool, _):
            probes = [pool.submit(_time_steps, experiment, data, cache_dir, steps) for _ in range(processes)]
            rates[processes] = (
                processes * steps * experiment.batch_size / max(probe.result() for probe in probes)
            )
        if rates[processes] < 1.05 * rates[best] and processes > 1:
            break
        best, processes = processes, 2 * processes
    return best, rates


class _Tally:
    """Counts epochs and runs and foretells the end from the epochs trained since the start."""

    def __init__(self, epochs: list[int], recorded: set[int], progress: Callable[[Standing], None]):
        self.epochs, self.recorded, self.progress = epochs, recorded, progress
        self.done = [0] * len(epochs)
        self.runs = self.trained = 0
        self.start = time.perf_counter()

    def reached(self, index: int, epoch: int, finished: Run | None = None) -> None:
        if epoch > self.done[index] and index not in self.recorded:
            self.trained += 1  # one that goes on from a checkpoint comes in at a later epoch: it trained one
        self.done[index] = max(self.done[index], epoch)
        left = sum(self.epochs) - sum(self.done)
        seconds = (time.perf_counter() - self.start) / self.trained * left if self.trained else None
        self.progress(
            Standing(self.runs, len(self.epochs), sum(self.done), sum(self.epochs), seconds, finished)
        )

    def ended(self, index: int, run: Run | None) -> None:
        self.runs += 1
        self.reached(index, self.epochs[index], run)


# What a worker process was given at its start: its device, the queue for its epochs, the barrier and the stop
# sign of all workers.
_worker: dict = {}


@contextmanager
def _pool(processes: int, devices: Sequence[str]) -> Iterator[tuple[ProcessPoolExecutor, SimpleQueue]]:
    """A pool and its events; an error or Ctrl-C that leaves the block ends the runs in work after the epoch
    that they are in.
    """
    _refuse_unguarded_script()
    threads = max(torch.get_num_threads() // processes, 1)
    # Spawned: a forked process could hang in the parent's OpenMP or CUDA state.
    spawn = multiprocessing.get_context("spawn")
    places, events = spawn.SimpleQueue(), spawn.SimpleQueue()
    for index in range(processes):
        places.put(devices[index % len(devices)])
    added = [
        {name: entry for name, entry in table.items() if is_own(entry)} for table in (OPTIMIZERS, NETWORKS)
    ]
    for name, entry in (added[0] | added[1]).items():
        function = getattr(entry, "make", entry)
        # No other process could import such a one.
        if function.__module__ == "__main__" or "<" in function.__qualname__:
            way_out = "положите её в свой модуль .py или задайте processes=1"
            raise LabError(f"Функция «{name}» другим процессам не видна: {way_out}.")
    stop = spawn.Event()
    start = (threads, places, events, spawn.Barrier(processes), stop, added)
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start_worker, initargs=start)
    try:
        yield pool, events
    except BrokenProcessPool:
        reason = "Процесс обучения погиб, возможно, не хватило памяти"
        raise LabError(
            f"{reason}: повторите с меньшим processes или batch_size, готовое сохранено."
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _refuse_unguarded_script() -> None:
    """Every process of a pool runs the user's script anew: without a guard it would begin the work itself."""
    script = sys.modules["__main__"]
    path = getattr(script, "__file__", None) if script.__spec__ is None else None
    if path and "__main__" not in Path(path).read_text(encoding="utf-8", errors="replace"):
        way_out = 'поставьте запуск под if __name__ == "__main__":'
        raise LabError(f"Скрипт {path} выполнился бы в каждом процессе заново: {way_out}")


def _start_worker(
    threads: int, places: SimpleQueue, events: SimpleQueue, barrier: Barrier, stop: Event, added: list[dict]
) -> None:
    torch.set_num_threads(threads)
    OPTIMIZERS.update(added[0])
    NETWORKS.update(added[1])
    _worker.update(device=places.get(), events=events, barrier=barrier, stop=stop)


def _run_in_pool(index: int, experiment: Experiment, data: CarsData, **places) -> Run:
    def reached(epoch: int) -> None:
        if _worker["stop"].is_set():
            raise KeyboardInterrupt  # the epoch's checkpoint is written: the next call goes on from it
        _worker["events"].put((index, epoch))

    reached(0)  # a pool hands out work ahead: some may begin after the stop
    return _run(experiment, data, reached, device=_worker["device"], **places)


def _run(experiment: Experiment, data: CarsData, reached: Callable[[int], None], **options) -> Run:
    """``run_or_load`` that tells only the epochs it has reached: several would print into one another."""

    def progress(rows: list[dict], epochs: int) -> None:
        reached(len(rows))

    return run_or_load(experiment, data, progress=progress, **options)


def time_steps(
    experiment: Experiment,
    photos: Photos,
    device: str | torch.device,
    steps: int,
    *,
    epoch: int = 0,
    wait: Callable[[], object] = lambda: None,
) -> float:
    """Seconds of ``steps`` training steps, the first of the pass number ``epoch``, after ``wait``."""
    model = make_model(experiment, photos.classes, device)
    prepare(model)
    optimizer, _ = make_optimizer(experiment, model, steps)
    batches, _ = make_batches(experiment, photos, device)
    batches.set_epoch(epoch)
    endless = chain.from_iterable(repeat(batches))  # epoch after epoch
    train_epoch(model, optimizer, islice(endless, 3))
    wait()
    return train_epoch(model, optimizer, islice(endless, steps))[1]["seconds"]


def _time_steps(experiment: Experiment, data: CarsData, cache_dir: Path, steps: int) -> float:
    """``time_steps``, begun by all workers together."""
    photos = decode(experiment, data, cache_dir)
    return time_steps(experiment, photos, _worker["device"], steps, wait=_worker["barrier"].wait)
