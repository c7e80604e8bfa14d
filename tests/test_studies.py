"""A study is its base and its changes with every seed; many experiments are run at once, none twice."""

from dataclasses import replace

import pandas as pd
import pytest
from conftest import PROJECT

from labnn.__main__ import main
from labnn.experiment import Experiment, Run, load_runs
from labnn.report.studies import STUDIES, Pairs, Study, Tuned, recorded
from labnn.report.write import rewrite_blocks, write_report
from labnn.train import HISTORY_COLUMNS

SMALL = Experiment(epochs=1, image_size=32, batch_size=8, test_size=0)


def test_study_is_the_base_and_every_change_with_every_seed():
    study = Study("small", SMALL, [{"lr": 1e-3}, {"mix": 0.0, "mirror": False}], seeds=2)
    both = replace(SMALL, mix=0.0, mirror=False)
    assert study.experiments()[:3] == [SMALL, replace(SMALL, lr=1e-3), both]  # a whole seed before the next
    assert study.experiments()[3:] == [replace(experiment, seed=1) for experiment in study.experiments()[:3]]


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.experiments()])
def test_changes_of_a_study_are_real_and_different(name):
    study = STUDIES[name]
    words = [replace(study.base, **change).changes(study.base) for change in study.changes]
    assert all(words) and len(set(words)) == len(words)


@pytest.mark.parametrize("name", ["recipe", "recipe_pairs", "levers", "causes", "beta2"])
def test_recorded_runs_are_those_that_the_command_trains(name):
    recorded = load_runs(PROJECT / "data" / "runs" / name)
    assert recorded and {run.experiment for run in recorded} <= set(STUDIES[name].experiments())


def record(folder, *experiments) -> None:
    """Runs of ``experiments`` on eight pictures, recorded in ``folder`` as a training would leave them."""
    rows = [[1, 1e-3, 1.0, 2.0, 0.1, 2.0, 0.25, 0.1, False], [2, 1e-3, 1.0, 1.5, 0.4, 1.5, 0.5, 0.1, False]]
    history = pd.DataFrame(rows, columns=HISTORY_COLUMNS)
    data = {"name": "own", "fingerprint": "0", "train": 16, "test": 8, "classes": 4, "crop_to_box": False}
    answers = pd.DataFrame({"label": [0, 1, 2, 3] * 2, "prediction": [0, 1, 2, 3, 3, 2, 1, 0]})
    machine = {"processor": "CPU", "device": "cpu", "threads": 1, "precision": "float32", "torch": "2.0"}
    for experiment in experiments:
        epochs = range(1, experiment.epochs + 1)
        run = Run(experiment, data, history.tail(len(epochs)).assign(epoch=epochs), answers, machine)
        run.save(folder / run.name)


def test_a_study_of_ones_own_is_one_object(tmp_path, monkeypatch):
    study = Study("mirrors", SMALL, [{"mirror": False}], seeds=2, title="с отражением")
    monkeypatch.setitem(STUDIES, "mirrors", study)
    record(tmp_path / "runs" / "mirrors", *study.experiments())
    paths = write_report(tmp_path / "runs", tmp_path / "out")
    written = {path.name for path in paths}
    assert written == {"mirrors.png", "mirrors.svg", "mirrors.csv", "mirrors.md", "REPORT.md"}
    text = (tmp_path / "out" / "REPORT.md").read_text(encoding="utf-8")
    assert "«mirrors»" in text and "(mirrors.png)" in text
    assert "| без отражения  |          2 |    50,0 ± 0,0" in text


def test_a_study_of_pairs_counts_whole_pairs_only(tmp_path):
    study = Pairs("halves", replace(SMALL, optimizer="adam"), seeds=3)
    record(tmp_path / "halves", *study.experiments()[:3])  # one pair and AMSGrad's half of the next
    runs = study.load(tmp_path)
    assert [(run.experiment.optimizer, run.experiment.seed) for run in runs] == [("amsgrad", 0), ("adam", 0)]
    assert "Готово пар: 1 из 3" in study.texts(runs)["halves_verdict"]
    assert study.load(tmp_path / "halves") == []


def test_no_mean_and_no_interval_is_drawn_before_the_last_pair_that_was_planned(tmp_path):
    study = Pairs("thirds", replace(SMALL, optimizer="adam"), seeds=3)
    for new, drawn in ((slice(0, 4), False), (slice(4, 6), True)):
        record(tmp_path / "thirds", *study.experiments()[new])
        [figure] = study.figures(study.load(tmp_path)).values()
        assert ("среднее" in [tick.get_text() for tick in figure.axes[0].get_xticklabels()]) == drawn


def test_a_comparison_of_ones_own_is_found(tmp_path):
    """As the command compare leaves it; a stopped one, without final runs, and other folders are not."""
    final = [replace(SMALL, optimizer=key, seed=seed) for key in ("adam", "sgd") for seed in (0, 1)]
    record(tmp_path / "runs" / "mine" / "final", *final)
    record(tmp_path / "runs" / "mine" / "tuning", *(replace(one, lr=1e-2) for one in final[::2]))
    record(tmp_path / "runs" / "stopped" / "tuning", final[0])
    record(tmp_path / "runs" / "other" / "deep" / "folder", final[0])
    readme = tmp_path / "README.md"
    readme.write_text("<!-- verdict: begin -->\nold\n<!-- verdict: end -->\n", encoding="utf-8")
    paths = write_report(tmp_path / "runs", tmp_path / "out", readme)
    assert {path.parent.name for path in paths[:-2]} == {"mine"}
    assert {"answer.png", "summary.csv", "rates.md", "verdict.md"} <= {path.name for path in paths}
    text = (tmp_path / "out" / "REPORT.md").read_text(encoding="utf-8")
    assert "(mine/answer.png)" in text and "Adam и SGD с импульсом: разница не доказана" in text
    assert "old" in readme.read_text(encoding="utf-8")  # the README speaks of the recorded comparison only


def test_runs_of_two_protocols_in_one_folder_are_not_mixed(tmp_path):
    """The larger comparison is shown."""
    short = [replace(SMALL, optimizer=key, seed=seed) for key in ("adam", "sgd") for seed in (0, 1)]
    record(tmp_path / "mine" / "final", *short, replace(SMALL, optimizer="adam", epochs=2))
    record(tmp_path / "mine" / "tuning", *(replace(SMALL, lr=1e-2, epochs=epochs) for epochs in (1, 2)))
    [(study, (tuning, final))] = recorded(tmp_path)
    assert study.name == "mine" and len(final) == 4
    assert [run.experiment.epochs for run in tuning] == [1]


def test_pairs_with_tuned_rates_answer_when_the_last_is_there(tmp_path):
    study, names = Tuned("short", seeds=2), ("amsgrad", "adam")
    record(tmp_path / "short" / "tuning", *(replace(SMALL, optimizer=name) for name in names))
    told = []
    for seed in range(2):
        record(tmp_path / "short" / "final", *(replace(SMALL, optimizer=name, seed=seed) for name in names))
        told.append(study.texts(study.load(tmp_path))["short_verdict"])
    assert told[0].startswith("Готово пар: 1 из 2") and "лучше" not in told[0]
    assert told[1].startswith("AMSGrad и Adam: разница не доказана")
    assert list(study.tables(study.load(tmp_path))) == ["short", "short_rates"]


def test_blocks_are_rewritten_and_the_rest_stays(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- x: begin -->\n1\n2\n<!-- x: end -->\n<!-- y: begin -->\n<!-- y: end -->\n")
    rewrite_blocks(path, {"x": "\\1", "z": "3"})
    assert (
        path.read_text() == "a\n<!-- x: begin -->\n\\1\n<!-- x: end -->\n<!-- y: begin -->\n<!-- y: end -->\n"
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
