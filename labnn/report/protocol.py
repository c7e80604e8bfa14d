"""How optimizers are compared: learning rates tuned on validation, then paired runs with the best ones.

The protocol is that of Schneider et al. (DeepOBS, 2019, arXiv 1903.05499) and Schmidt et al. (2021, arXiv
2007.01547): every optimizer is tuned with the same budget, the best setting is repeated with several seeds,
the test part is looked at once.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from labnn.batches import growing
from labnn.data import CarsData
from labnn.experiment import Run, decode, make_batches
from labnn.kit.errors import LabError, check
from labnn.kit.hardware import limited_threads
from labnn.kit.progress import Live, Standing
from labnn.report import records
from labnn.report.statistics import MARGIN
from labnn.runner import run_all, time_steps
from labnn.settings import Experiment, check_names, make_model
from labnn.train import evaluate

# Two points in each power of ten.
GRID = (1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2, 1e-1)


class Cost(NamedTuple):
    """How many trainings, the seconds of each with its share of the threads, and how many run at once."""

    trainings: int
    seconds: float
    processes: int


@dataclass(frozen=True)
class Protocol:
    """Compares ``optimizers`` on ``base``, whose own optimizer, rate, decay and seed do not matter.

    Each optimizer trains with every learning rate of ``grid`` on the training part without its validation
    share, where its accuracy chooses the rate; then with that rate and every one of ``seeds`` seeds on the
    whole training part. Runs that share a seed share the initial weights, the order of the batches and their
    augmentation: they are pairs. ``weight_decay`` is for all, or ``None``: for each what is usual with it.
    ``margin``, a share, is for ``words.verdict``: optimizers whose accuracies differ by less are equal for
    whoever has to choose one. 1.5 points are what another seed alone moves a run by; it is set here, before
    the runs, since a margin chosen after them proves nothing.
    Raises ``LabError`` for a protocol that could compare nothing.
    """

    base: Experiment
    optimizers: tuple[str, ...] = ("amsgrad", "adam")
    grid: tuple[float, ...] = GRID
    seeds: int = 6  # the fewest that can prove a difference of two optimizers (``pairs_needed``)
    weight_decay: float | None = None
    margin: float = MARGIN

    def __post_init__(self):
        for name in self.optimizers:
            check_names(replace(self.base, optimizer=name))
        if len(set(self.optimizers)) != len(self.optimizers) or len(self.optimizers) < 2:
            names = ", ".join(self.optimizers)
            raise LabError(f"Сравнивать нечего: оптимизаторы {names}; назовите два разных или больше.")
        check("seeds", self.seeds, int, 1, 10**6)
        check("margin", self.margin, float, 0, 1)
        if not self.grid or len(set(self.grid)) < len(self.grid):
            way_out = "задайте одну или больше, все разные"
            raise LabError(f"Сетка скоростей обучения {list(self.grid)} не годится: {way_out}.")
        for lr in self.grid:
            self._experiment(self.optimizers[0], lr, 0)  # refuses what no training can have

    def tuning(self) -> list[Experiment]:
        """A run for every rate and optimizer, from the middle of the grid outwards: the first say most."""
        outwards = sorted(self.grid, key=lambda lr: abs(np.log(lr / np.median(self.grid))))
        return [self._experiment(name, lr, 0) for lr in outwards for name in self.optimizers]

    def finals(self, rates: dict[str, float]) -> list[Experiment]:
        """A run for every seed and optimizer, pair by pair."""
        seeds = range(self.seeds)
        return [self._experiment(name, rates[name], seed) for seed in seeds for name in self.optimizers]

    def _experiment(self, optimizer: str, lr: float, seed: int) -> Experiment:
        return replace(self.base, optimizer=optimizer, lr=lr, seed=seed, weight_decay=self.weight_decay)

    def cost(
        self,
        data: CarsData,
        cache_dir: str | Path,
        *,
        device: str | torch.device = "cpu",
        processes: int = 1,
        steps: int = 5,
    ) -> "Cost":
        """What all trainings will take, foretold from ``steps`` real steps and some batches of a test, with
        the CPU's threads that one of ``processes`` has.
        """
        experiment, photos = self.base, decode(self.base, data, cache_dir)
        full = experiment.epochs - 1  # the pass with pictures of the full size
        train, test = make_batches(experiment, photos, device)
        model, tests = make_model(experiment, photos.classes, device), list(islice(test, 2))
        with limited_threads(max(torch.get_num_threads() // processes, 1)):
            step = time_steps(experiment, photos, device, steps, epoch=full) / steps
            start = time.perf_counter()
            evaluate(model, tests, mirror=experiment.mirror_test)
            tested = time.perf_counter() - start
        tested *= len(photos.test_labels) / sum(len(labels) for _, labels in tests)
        size = experiment.image_size
        side = growing(experiment.start_size or size, size, experiment.epochs)
        sides = np.array([side(epoch) for epoch in range(experiment.epochs)]) / size
        tests_made = experiment.epochs // experiment.test_every + 2
        seconds = step * len(train) * float((sides**2).sum()) + tested * tests_made
        return Cost(len(self.tuning()) + self.seeds * len(self.optimizers), seconds, processes)

    def tune(self, data: CarsData, runs_dir: str | Path, **options) -> list[Run]:
        """Trains or reads the tuning runs, in ``runs_dir``/tuning; ``options`` are those of ``run_all``.

        Rates that diverge are left out. Raises ``LabError`` if an optimizer diverges with all.
        """
        part, show = data.validation(), options.pop("progress", None) or Live("Подбор").standing
        # The final runs follow, on more photos: the time left says so.
        final = self.seeds * len(self.optimizers) * self.base.epochs * len(data.train) / len(part.train)

        def progress(standing: Standing) -> None:
            show(standing.before(final))

        folder = Path(runs_dir) / "tuning"
        runs = run_all(self.tuning(), part, folder, skip_diverged=True, progress=progress, **options)
        if lost := set(self.optimizers) - {run.experiment.optimizer for run in runs}:
            names = ", ".join(sorted(lost))
            raise LabError(f"Обучение расходится со всеми скоростями сетки ({names}): добавьте меньшие.")
        return runs

    def compare(self, tuning: Sequence[Run], data: CarsData, runs_dir: str | Path, **options) -> list[Run]:
        """Then the final runs, in ``runs_dir``/final, with the rates that were best in ``tuning``; those that
        diverge are told and left out.
        """
        folder = Path(runs_dir) / "final"
        return run_all(
            self.finals(records.best_rates(records.table(tuning))),
            data,
            folder,
            skip_diverged=True,
            **options,
        )
