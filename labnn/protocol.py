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
from labnn.report.statistics import pairs_needed
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
        raise LabError(f"Настройки сравнения не бывает: {unknown}; {own}, возможны {', '.join(names)}.")
    return Experiment(**settings)


@dataclass(frozen=True)
class Protocol:
    """Compares ``optimizers`` on ``base``, whose own optimizer, rate, decay and seed do not matter.

    Each optimizer trains with every learning rate of ``grid`` on the training part without its validation
    share, where its accuracy chooses the rate; then with that rate and every one of ``seeds`` seeds on the
    whole training part. Runs that share a seed share the initial weights, the order of the batches and their
    augmentation: they are pairs. ``weight_decay`` is for all, or ``None``: for each what is usual with it.
    Raises ``LabError`` for a protocol that could compare nothing.
    """

    base: Experiment
    optimizers: tuple[str, ...] = ("amsgrad", "adam")
    grid: tuple[float, ...] = GRID
    seeds: int = 6  # the fewest that can prove a difference of two optimizers (``pairs_needed``)
    weight_decay: float | None = None

    def __post_init__(self):
        check("seeds", self.seeds, int, 1, 10**6)
        for what, chosen, least in (("оптимизаторы", self.optimizers, 2), ("скорости", self.grid, 1)):
            if len(set(chosen)) < max(len(chosen), least):
                told = ", ".join(map(str, chosen)) or "не заданы"
                raise LabError(f"Сравнивать нечего, {what}: {told}; назовите разные, не меньше {least}.")
        for experiment in self.tuning():  # refuses what no training can have
            check_names(experiment)

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
        few = (
            f"При стольких зёрнах ({self.seeds}) никакая разница не будет доказана: нужно не меньше {needed}."
        )
        return few if self.seeds < needed else ""

    def cost(
        self, data: CarsData, cache_dir: str | Path, *, device: str | torch.device = "cpu", processes: int = 1
    ) -> str:
        """A sentence on what all trainings will take, foretold from a few steps with the CPU's threads that
        one of ``processes`` has.
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
        options |= {"title": "Подбор скорости", "skip_diverged": True}
        runs = run_all(self.tuning(), data.validation(), Path(runs_dir) / "tuning", **options)
        if lost := ", ".join(set(self.optimizers) - {run.experiment.optimizer for run in runs}):
            raise LabError(f"Обучение расходится со всеми скоростями сетки ({lost}): добавьте меньшие.")
        return runs

    def compare(
        self, tuning: Sequence[Run], data: CarsData, runs_dir: str | Path, **options: Any
    ) -> list[Run]:
        """Then the final runs, in ``runs_dir``/final, with the rates that were best in ``tuning``; those that
        diverge are told and left out. Raises ``LabError`` where fewer than two optimizers are left.
        """
        rates = records.best_rates(records.table(tuning))
        options |= {"title": "Итоговые прогоны", "skip_diverged": True}
        runs = run_all(self.finals(rates), data, Path(runs_dir) / "final", **options)
        if len({run.experiment.optimizer for run in runs}) < 2:
            found = f"Итоговые прогоны расходятся со скоростями, выбранными на проверочной части ({rates})"
            raise LabError(f"{found}: оставьте в сетке меньшие скорости или удлините warmup.")
        return runs


def training_seconds(
    experiment: Experiment, data: CarsData, cache_dir: str | Path, device: str | torch.device
) -> float:
    """Seconds of one training with its tests, from four steps on its smallest and on its largest pictures,
    between which the time of a step grows as their area, and from a batch of its test.
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

    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        evaluate(model, islice(test, 1), mirror=experiment.mirror_test)
        one_test = len(test) * (time.perf_counter() - start)
    size, last = experiment.image_size, experiment.epochs - 1
    side = growing(experiment.start_size or size, size, experiment.epochs)
    areas = [side(epoch) ** 2 for epoch in range(experiment.epochs)]
    steps = np.interp(areas, [areas[0], areas[-1]], [step(0), step(last)]).sum()
    tests = experiment.epochs // experiment.test_every + 2  # after the first epoch, and at the end once more
    return float(len(train) * steps + tests * one_test)
