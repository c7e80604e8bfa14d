"""A study is its base and its changes with every seed; many experiments are run at once, none twice."""

from dataclasses import replace

import pytest

from labnn.__main__ import main
from labnn.data import open_dataset
from labnn.errors import LabError
from labnn.experiment import Experiment, load_runs
from labnn.studies import STUDIES, Study, run_all
from labnn.tables import changes

SMALL = Experiment(epochs=1, image_size=32, batch_size=8, test_size=0)


def test_study_is_the_base_and_every_change_with_every_seed():
    study = Study(SMALL, [{"lr": 1e-3}, {"mix": 0.0, "mirror": False}], 2, False)
    both = replace(SMALL, mix=0.0, mirror=False)
    assert study.experiments()[:3] == [SMALL, replace(SMALL, lr=1e-3), both]  # a whole seed before the next
    assert study.experiments()[3:] == [replace(experiment, seed=1) for experiment in study.experiments()[:3]]


@pytest.mark.parametrize("name", STUDIES)
def test_changes_of_a_study_are_real_and_different(name):
    study = STUDIES[name]
    words = [changes(replace(study.base, **change), study.base) for change in study.changes]
    assert all(words) and len(set(words)) == len(words)


def test_runs_come_in_the_order_asked_for_and_are_trained_once(tiny_root, tmp_path):
    data, experiments = open_dataset(tiny_root, crop_to_box=True), [replace(SMALL, seed=seed) for seed in (2, 0, 1)]
    told = []
    options = {"cache_dir": tmp_path / "cache", "processes": 2, "progress": lambda run, done, total, seconds: told.append((done, total))}
    first = run_all(experiments, data, tmp_path / "runs", **options)
    assert [run.experiment for run in first] == experiments and told == [(1, 3), (2, 3), (3, 3)]
    again = run_all(experiments, data, tmp_path / "runs", **options)
    assert all(a.history.equals(b.history) for a, b in zip(first, again, strict=True))  # seconds too: nothing was trained


def test_mistake_in_an_experiment_is_told_as_such_from_another_process(tiny_root, tmp_path):
    data = open_dataset(tiny_root, crop_to_box=True)
    with pytest.raises(LabError, match="processes=0"):
        run_all([SMALL], data, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=0)
    with pytest.raises(LabError, match="SqueezeNet «3»"):
        run_all([replace(SMALL, version="3")], data, tmp_path / "runs", cache_dir=tmp_path / "cache")


def test_study_from_a_terminal_tells_each_run_and_the_time_left(tiny_root, tmp_path, capsys):
    arguments = ["study", "collapse", "--data", tiny_root, "--out", tmp_path, "--cache", tmp_path / "cache", "--device", "cpu", "--processes", 2]
    assert main([str(argument) for argument in arguments]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Готово")]
    assert len(told) == len(load_runs(tmp_path / "collapse")) == 3
    assert told[-1].startswith("Готово 3 из 3, осталось около 0 мин: ")
