"""The studies behind the report: the experiments that each is made of."""

from dataclasses import replace
from typing import NamedTuple

from labnn.experiment import ORIGINAL, Experiment


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
        return [
            replace(self.base, **change, seed=seed)
            for seed in range(self.seeds)
            for change in ({}, *self.changes)
        ]


_CROPS = {"min_crop_area": 0.5, "mirror": True, "colour": 0.3}
_CYCLE = {"lr": 3e-3, "schedule": "one_cycle"}
_PLAIN = {"init": "he", "logits_relu": False}

STUDIES = {
    # The laboratory work that this one replaces, on smaller photos; and the same ten epochs with batch norm.
    "collapse": Study(
        replace(ORIGINAL, image_size=96),
        [{"optimizer": "amsgrad"}, {"optimizer": "amsgrad", "batch_norm": True}],
        1,
        False,
    ),
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
