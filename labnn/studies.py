"""The studies behind the report: the experiments that each is made of, and running many experiments at once."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from labnn.data import CarsData
from labnn.errors import LabError
from labnn.experiment import ORIGINAL, Experiment, Run, make_batches, run_or_load


class Study(NamedTuple):
    """Changes from a ``base``, each alone in its dictionary or several together, for every one of ``seeds``.

    With ``validation`` the networks are tested on a part cut from the training one (``CarsData.validation``).
    """

    base: Experiment
    changes: list[dict]
    seeds: int
    validation: bool

    def experiments(self) -> list[Experiment]:
        """All of them, the base first; seed by seed, so that a study cut short has every change at least once."""
        return [replace(self.base, **change, seed=seed) for seed in range(self.seeds) for change in ({}, *self.changes)]


_CROPS = {"min_crop_area": 0.5, "mirror": True, "colour": 0.3}
_CYCLE = {"lr": 3e-3, "schedule": "one_cycle"}
_PLAIN = {"init": "he", "logits_relu": False}

STUDIES = {
    # The laboratory work that this one replaces, on smaller photos; and the same ten epochs with batch norm.
    "collapse": Study(replace(ORIGINAL, image_size=96), [{"optimizer": "amsgrad"}, {"optimizer": "amsgrad", "batch_norm": True}], 1, False),
    # Why it did not learn: one cause at a time, then together.
    "causes": Study(
        replace(ORIGINAL, optimizer="amsgrad", image_size=64, epochs=8),
        [
            {"init": "he"},
            {"logits_relu": False},
            {"batch_norm": True},
            {"lr": 1e-3},
            {"schedule": "one_cycle", "lr": 1e-3},
            _CROPS,
            _PLAIN,
            {"init": "he", "lr": 1e-3},
            {"init": "he", "schedule": "one_cycle", "lr": 1e-3},
            _PLAIN | {"schedule": "one_cycle", "lr": 1e-3},
            {"batch_norm": True, "logits_relu": False},
            _PLAIN | _CYCLE | {"batch_norm": True},
            _PLAIN | _CYCLE | _CROPS | {"batch_norm": True},
        ],
        2,
        True,
    ),
    # What a longer recipe is made of: one part added or taken away.
    "levers": Study(
        replace(Experiment(), image_size=64, test_size=0, epochs=14),
        [
            {"mix": 0.0},
            {"label_smoothing": 0.0},
            {"min_crop_area": 1.0},
            {"bypass": False},
            {"cosine": 1.0},
            {"ema_decay": 0.998},
            {"start_size": 32},
        ],
        3,
        True,
    ),
}


def run_all(
    experiments: Sequence[Experiment],
    data: CarsData,
    runs_dir: str | Path,
    *,
    cache_dir: str | Path,
    device: str | torch.device = "cpu",
    processes: int = 1,
    progress: Callable[[Run, int, int, float], None] = lambda run, done, total, seconds: None,
) -> list[Run]:
    """``run_or_load`` of every experiment, ``processes`` at a time, with the CPU's threads shared out; in the order given.

    Small networks fill neither many cores nor a GPU, so that several at once finish sooner than one after another. What is
    recorded already is read, and an interrupted call goes on where it stopped. ``progress`` gets each run as it ends, how many
    have ended, their number in all and the seconds since the start. Raises ``LabError`` for less than one process.
    """
    if processes < 1:
        raise LabError(f"Значение processes={processes} не годится: задайте 1 или больше.")
    for experiment in {replace(e, seed=0, optimizer="adam") for e in experiments}:
        make_batches(experiment, data, cache_dir)  # decoded once, before the processes could all begin to
    options = {"cache_dir": cache_dir, "device": device, "progress": _silent}
    start, runs = time.perf_counter(), {}
    with _pool(processes) as pool:
        waiting = {pool.submit(run_or_load, experiment, data, runs_dir, **options): experiment for experiment in experiments}
        for future in as_completed(waiting):
            runs[waiting[future]] = future.result()
            progress(future.result(), len(runs), len(experiments), time.perf_counter() - start)
    return [runs[experiment] for experiment in experiments]


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose waiting work is given up, and whose processes end, when an error or Ctrl-C leaves the block."""
    threads = max(torch.get_num_threads() // processes, 1)
    spawn = multiprocessing.get_context("spawn")  # a forked process could hang in the parent's OpenMP or CUDA state
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=torch.set_num_threads, initargs=(threads,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _silent(rows: list[dict], epochs: int) -> None:
    """Several trainings at once would print into one another."""
