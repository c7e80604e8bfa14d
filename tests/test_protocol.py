"""A comparison says before the training what it cannot say after it, and what it will take."""

import pytest
import torch

from labnn import OPTIMIZERS, Experiment, LabError, open_dataset
from labnn.protocol import Protocol, experiment_of, training_seconds


@pytest.mark.parametrize(
    "optimizers, seeds, told",
    [
        (("amsgrad", "adam"), 6, ""),
        (("amsgrad", "adam"), 5, "не меньше 6"),
        (("amsgrad", "adam", "sgd"), 6, "не меньше 7"),
    ],
)
def test_too_few_seeds_to_conclude_are_told_with_how_many_it_takes(optimizers, seeds, told):
    warning = Protocol(Experiment("adam"), optimizers, seeds=seeds).warning()
    assert bool(warning) == bool(told) and told in warning


def test_a_setting_that_the_protocol_sets_itself_is_refused():
    for name in ("optimizer", "lr", "seed", "epoch"):
        with pytest.raises(LabError, match=name):
            experiment_of({name: 1})


def test_final_runs_that_all_diverge_are_told_in_a_sentence(tiny_root, tmp_path, monkeypatch):
    class Bursts(torch.optim.SGD):
        steps = 0

        def step(self, closure=None):
            super().step(closure)
            self.steps += 1
            if self.steps > 3:  # the tuning part has fewer photos
                self.param_groups[0]["params"][0].data.fill_(float("nan"))

    for name in ("one", "two"):
        make = lambda parameters, lr, weight_decay: Bursts(parameters, lr)  # noqa: E731
        monkeypatch.setitem(OPTIMIZERS, name, make)
    data, base = open_dataset(tiny_root), experiment_of({"epochs": 1, "image_size": 32, "batch_size": 4})
    protocol = Protocol(base, ("one", "two"), (1e-3,), 2)
    tuning = protocol.tune(data, tmp_path / "runs", cache_dir=tmp_path)
    with pytest.raises(LabError, match="расходятся"):
        protocol.compare(tuning, data, tmp_path / "runs", cache_dir=tmp_path)


def test_foretold_cost_counts_all_trainings_and_grows_with_the_epochs(minicars, tmp_path):
    data = minicars._replace(train=minicars.train.subset(range(32)), test=minicars.test.subset(range(8)))
    short, long = (experiment_of({"epochs": count, "image_size": 64, "start_size": 32}) for count in (2, 40))
    assert "Обучений: 6," in Protocol(short, grid=(1e-3,), seeds=2).cost(data, tmp_path)
    seconds = [training_seconds(one, data, tmp_path, "cpu") for one in (short, long)]
    assert 0 < seconds[0] < seconds[1]
