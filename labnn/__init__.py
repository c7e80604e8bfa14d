"""SqueezeNet with AMSGrad and Adam on Stanford Cars: the laboratory work's module.

    from labnn import CarModelsDataset, SqueezeNet, train_test    # the lab's own three
    from labnn import Experiment, open_dataset, run_or_load       # recorded, resumable, comparable runs

    data = open_dataset("data/minicars", crop_to_box=True)
    run = run_or_load(Experiment("amsgrad", epochs=10, image_size=64), data)

The lab is ``model``, ``data``, ``batches`` and ``train``; ``settings`` and ``experiment`` make it repeatable.
The rooms: ``cars`` (where photos come from), ``kit`` (what serves), ``report`` (statistics, tables, figures).
"""

from labnn.data import CarModelsDataset, chance_levels, open_dataset
from labnn.experiment import Run, run_or_load
from labnn.kit.errors import LabError
from labnn.model import FireModule, SqueezeNet
from labnn.settings import NETWORKS, OPTIMIZERS, Experiment
from labnn.train import evaluate, train_test

__all__ = [
    "FireModule",
    "SqueezeNet",
    "CarModelsDataset",
    "open_dataset",
    "chance_levels",
    "train_test",
    "evaluate",
    "Experiment",
    "OPTIMIZERS",
    "NETWORKS",
    "Run",
    "run_or_load",
    "LabError",
]
