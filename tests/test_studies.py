"""A study is its base and its changes with every seed; many experiments are run at once, none twice."""

import multiprocessing
from dataclasses import replace

import pytest
import torch

from labnn.__main__ import main
from labnn.data import open_dataset
from labnn.experiment import OPTIMIZERS, Experiment, load_runs
from labnn.kit.errors import LabError
from labnn.report.studies import STUDIES, Study
from labnn.report.tables import changes
from labnn.runner import fastest_processes, run_all

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
    data, experiments = (
        open_dataset(tiny_root, crop_to_box=True),
        [replace(SMALL, seed=seed) for seed in (2, 0, 1)],
    )
    first = run_all(experiments, data, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=2)
    assert [run.experiment for run in first] == experiments
    again = run_all(experiments, data, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=1)
    assert all(
        a.history.equals(b.history) for a, b in zip(first, again, strict=True)
    )  # seconds too: nothing was trained


@pytest.mark.parametrize("processes", [1, 2])
def test_progress_counts_epochs_of_all_runs_and_foretells_the_end(tiny_root, tmp_path, processes):
    data, experiments = (
        open_dataset(tiny_root, crop_to_box=True),
        [replace(SMALL, epochs=2, seed=seed) for seed in (0, 1, 2)],
    )
    options = {"cache_dir": tmp_path / "cache", "processes": processes}
    run_all(experiments[:1], data, tmp_path / "runs", **options)
    told = []
    run_all(experiments, data, tmp_path / "runs", progress=told.append, **options)
    assert [standing.runs for standing in told if standing.finished] == [1, 2, 3]
    assert [standing.epochs for standing in told] == sorted(standing.epochs for standing in told)
    assert (told[-1].epochs, told[-1].all_epochs, told[-1].seconds_left) == (6, 6, 0)
    assert (
        told[0].seconds_left is None or told[0].epochs > 2
    )  # no pace before a first epoch of our own: the recorded run took no time


def test_stopped_call_ends_its_runs_after_their_epoch_and_goes_on_later(tiny_root, tmp_path):
    """Runs that would take minutes; the next call finds their checkpoints."""
    data, experiments = (
        open_dataset(tiny_root, crop_to_box=True),
        [replace(SMALL, epochs=3000, seed=seed) for seed in (0, 1, 2)],
    )

    def stop(standing):
        if standing.epochs >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(
            experiments, data, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=2, progress=stop
        )
    assert not (tmp_path / "runs").exists()
    for checkpoint in (tmp_path / "cache").glob("*.checkpoint"):
        assert 1 <= len(torch.load(checkpoint, weights_only=True)["rows"]) < 1000


def test_processes_are_chosen_by_what_they_measure(tiny_root, tmp_path):
    data = open_dataset(tiny_root, crop_to_box=True)
    best, rates = fastest_processes(SMALL, data, cache_dir=tmp_path / "cache", most=2, steps=2)
    assert list(rates) == [1, 2] and min(rates.values()) > 0
    assert best == (2 if rates[2] >= 1.05 * rates[1] else 1)


def test_death_of_a_process_is_told(tiny_root, tmp_path):
    """As when memory runs out: the system kills a worker between two epochs."""
    data, experiments = (
        open_dataset(tiny_root, crop_to_box=True),
        [replace(SMALL, epochs=3000, seed=seed) for seed in (0, 1)],
    )

    def kill_one(standing):
        if standing.epochs >= 2:
            multiprocessing.active_children()[0].kill()

    with pytest.raises(LabError, match="не хватило памяти"):
        run_all(
            experiments, data, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=2, progress=kill_one
        )


def test_function_that_other_processes_cannot_import_is_told(tiny_root, tmp_path, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "mine", lambda weights, lr, decay: torch.optim.RMSprop(weights, lr))
    with pytest.raises(LabError, match="«mine»"):
        run_all(
            [replace(SMALL, optimizer="mine")],
            open_dataset(tiny_root),
            tmp_path / "runs",
            cache_dir=tmp_path / "cache",
            processes=2,
        )


def test_added_optimizer_enters_by_name_and_function(tiny_root, tmp_path, monkeypatch):
    monkeypatch.setitem(
        OPTIMIZERS, "rmsprop", lambda weights, lr, decay: torch.optim.RMSprop(weights, lr, weight_decay=decay)
    )
    [run] = run_all(
        [replace(SMALL, optimizer="rmsprop")],
        open_dataset(tiny_root),
        tmp_path / "runs",
        cache_dir=tmp_path / "cache",
    )
    monkeypatch.delitem(OPTIMIZERS, "rmsprop")
    assert load_runs(tmp_path / "runs")[0].history.equals(run.history)  # its record needs no function
    with pytest.raises(LabError, match="rmsprop"):
        run_all(
            [replace(SMALL, optimizer="rmsprop", seed=1)],
            open_dataset(tiny_root),
            tmp_path / "runs",
            cache_dir=tmp_path / "cache",
        )


def test_mistake_in_an_experiment_is_told_as_such_from_another_process(tiny_root, tmp_path):
    data = open_dataset(tiny_root, crop_to_box=True)
    with pytest.raises(LabError, match="processes=0"):
        run_all([SMALL], data, tmp_path / "runs", cache_dir=tmp_path / "cache", processes=0)
    with pytest.raises(LabError, match="«lion»"):
        run_all(
            [replace(SMALL, optimizer="lion")],
            data,
            tmp_path / "runs",
            cache_dir=tmp_path / "cache",
            processes=2,
        )


def test_study_from_a_terminal_tells_each_run_and_the_time_left(tiny_root, tmp_path, capsys):
    arguments = [
        "study",
        "collapse",
        "--data",
        tiny_root,
        "--out",
        tmp_path,
        "--cache",
        tmp_path / "cache",
        "--device",
        "cpu",
        "--processes",
        2,
    ]
    assert main([str(argument) for argument in arguments]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("прогонов")]
    assert len(told) == len(load_runs(tmp_path / "collapse")) == 3
    assert told[0].startswith("прогонов 1 из 3, эпох 1") and "осталось около 0:" in told[0]
    assert told[-1].startswith("прогонов 3 из 3, эпох 30 из 30. ") and "зерно 0" in told[-1]
