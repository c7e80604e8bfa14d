"""How optimizers are compared: each is tuned on validation with the same budget, its best learning rate is
repeated with several seeds, the test part is looked at once (Schneider et al., DeepOBS, 2019, arXiv
1903.05499; Schmidt et al., 2021, arXiv 2007.01547).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from math import ceil, comb
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labnn.batches import growing
from labnn.data import CarsData
from labnn.experiment import Run, decode, make_batches
from labnn.kit.errors import LabError, check
from labnn.kit.progress import clock, say
from labnn.report import records
from labnn.report.statistics import MARGIN, pairs_needed
from labnn.runner import run_all
from labnn.settings import Experiment, check_names, make_model, make_optimizer
from labnn.train import evaluate, train_epoch

GRID = (1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2, 1e-1)  # two points in each power of ten


def experiment_of(settings: dict[str, Any]) -> Experiment:
    """The ``base`` of a protocol, from settings by their names. Raises ``LabError`` for a name that is none,
    and for those that the protocol sets itself.
    """
    names = {one.name for one in fields(Experiment)} - {"optimizer", "lr", "seed"}
    if unknown := ", ".join(settings.keys() - names):
        own = "оптимизаторы, скорости и зёрна задаются отдельно"
        raise LabError(
            f"Настройки сравнения не бывает: {unknown}; {own}, возможны {', '.join(sorted(names))}."
        )
    return Experiment(**settings)


@dataclass(frozen=True)
class Protocol:
    """Compares ``optimizers`` on ``base``, whose own optimizer, rate, decay and seed do not matter.

    Each optimizer trains with every learning rate of ``grid`` on the training part without its validation
    share, where its accuracy chooses the rate; then with that rate and every one of ``seeds`` seeds on the
    whole training part. Runs that share a seed share the initial weights, the order of the batches and their
    augmentation: they are pairs. ``weight_decay`` is for all, or ``None``: for each what is usual with it.
    ``margin``, a share, is what accuracies must differ by to matter: 1.5 points are what another seed alone
    moves a run by. It is set before the runs, since a margin chosen after them proves nothing.
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
        if len(set(self.optimizers)) < max(len(self.optimizers), 2):
            names = ", ".join(self.optimizers)
            raise LabError(f"Сравнивать нечего: оптимизаторы {names}; назовите два разных или больше.")
        check("seeds", self.seeds, int, 1, 10**6)
        check("margin", self.margin, float, 0, 1)
        if len(set(self.grid)) < max(len(self.grid), 1):
            raise LabError(
                f"Сетка скоростей {list(self.grid)} не годится: задайте одну или больше, все разные."
            )
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

    def warning(self) -> str:
        """A sentence where so few seeds can prove no difference, whatever comes out; else nothing."""
        # Of several pairs of optimizers each is asked for its share of 0.05 (Bonferroni).
        needed = pairs_needed(1 - 0.05 / comb(len(self.optimizers), 2))
        if self.seeds >= needed:
            return ""
        return (
            f"При стольких зёрнах ({self.seeds}) никакая разница не будет доказана: "
            f"для оптимизаторов числом {len(self.optimizers)} нужно не меньше {needed} зёрен."
        )

    def cost(
        self, data: CarsData, cache_dir: str | Path, *, device: str | torch.device = "cpu", processes: int = 1
    ) -> str:
        """A sentence on what all trainings will take, foretold by ``training_seconds`` with the CPU's threads
        that one of ``processes`` has.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(max(threads // processes, 1))
        try:
            seconds = training_seconds(self.tuning()[0], data, cache_dir, device)
        finally:
            torch.set_num_threads(threads)
        trainings = (len(self.grid) + self.seeds) * len(self.optimizers)
        total = clock(seconds * ceil(trainings / processes))
        each = f"каждое около {clock(seconds)}, одновременно: {processes}"
        return f"Обучений: {trainings}, {each}; всего около {total}."

    def tune(self, data: CarsData, runs_dir: str | Path, **options: Any) -> list[Run]:
        """Says ``warning``, then trains or reads the tuning runs, in ``runs_dir``/tuning; ``options`` are
        those of ``run_all``. Rates that diverge are left out. Raises ``LabError`` if an optimizer diverges
        with all.
        """
        if warning := self.warning():
            say(warning)
        options = {"title": "Подбор скорости", "skip_diverged": True} | options
        runs = run_all(self.tuning(), data.validation(), Path(runs_dir) / "tuning", **options)
        if lost := set(self.optimizers) - {run.experiment.optimizer for run in runs}:
            names = ", ".join(sorted(lost))
            raise LabError(f"Обучение расходится со всеми скоростями сетки ({names}): добавьте меньшие.")
        return runs

    def compare(
        self, tuning: Sequence[Run], data: CarsData, runs_dir: str | Path, **options: Any
    ) -> list[Run]:
        """Then the final runs, in ``runs_dir``/final, with the rates that were best in ``tuning``; those that
        diverge are told and left out. Raises ``LabError`` where fewer than two optimizers are left.
        """
        rates = records.best_rates(records.table(tuning))
        options = {"title": "Итоговые прогоны", "skip_diverged": True} | options
        runs = run_all(self.finals(rates), data, Path(runs_dir) / "final", **options)
        if len({run.experiment.optimizer for run in runs}) < 2:
            tried = ", ".join(f"{name} {lr:g}" for name, lr in rates.items())
            found = f"Итоговые прогоны расходятся со скоростями, выбранными на проверочной части ({tried})"
            raise LabError(
                f"{found}, сравнивать нечего: оставьте в сетке меньшие скорости или удлините warmup."
            )
        return runs


def training_seconds(
    experiment: Experiment, data: CarsData, cache_dir: str | Path, device: str | torch.device
) -> float:
    """Seconds of one training with its tests, from a few steps at the smallest and the largest side of its
    growing pictures: between them the time of a step grows as their area.
    """
    photos = decode(experiment, data, cache_dir)
    train, test = make_batches(experiment, photos, device)
    model = make_model(experiment, photos.classes, device)
    optimizer, _ = make_optimizer(experiment, model, experiment.epochs * len(train))

    def step(epoch: int) -> float:
        for count in (1, 4):  # the first warms up
            train.set_epoch(epoch)
            steps, figures = train_epoch(model, optimizer, islice(train, count))
        return figures["seconds"] / steps

    side = growing(experiment.start_size or experiment.image_size, experiment.image_size, experiment.epochs)
    areas = np.array([side(epoch) ** 2 for epoch in range(experiment.epochs)])
    training = len(train) * np.interp(areas, areas[[0, -1]], [step(0), step(experiment.epochs - 1)]).sum()
    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        evaluate(model, islice(test, 1), mirror=experiment.mirror_test)
        one_test = len(test) * (time.perf_counter() - start)
    tests = experiment.epochs // experiment.test_every + 2  # after the first epoch, and at the end once more
    return float(training + tests * one_test)
