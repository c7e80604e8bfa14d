"""A study is a study.toml and its records; the report writes what they say, and nothing else."""

from dataclasses import replace

import pytest
from conftest import PROJECT
from made_runs import finished

from labnn.kit.errors import LabError
from labnn.report.studies import Study, recorded, studies
from labnn.report.write import rewrite_blocks, write_report
from labnn.settings import Experiment

SMALL = Experiment(epochs=1, image_size=32, batch_size=8)
PAIRS = 'kind = "pairs"\nseeds = 3\nbase = { optimizer = "adam", epochs = 1 }\ncondition = "коротко"\n'


def write(folder, text: str) -> Study:
    """The study of a folder with the study.toml ``text``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return Study.read(folder / "study.toml")


def record(folder, *experiments: Experiment) -> None:
    """A run of each, recorded in ``folder``."""
    for one in experiments:
        run = finished(0.5, (0, 1, 2, 2), **vars(one))
        run.save(folder / run.name)


def test_study_is_the_base_and_every_change_with_every_seed(tmp_path):
    study = write(
        tmp_path / "own",
        'kind = "changes"\nseeds = 2\nbase = { epochs = 1, image_size = 32, batch_size = 8 }\n'
        "changes = [{ lr = 1e-3 }, { mix = 0.0, mirror = false }]\n",
    )
    both = replace(SMALL, mix=0.0, mirror=False)
    assert study.experiments()[:3] == [SMALL, replace(SMALL, lr=1e-3), both]  # a whole seed before the next
    assert study.experiments()[3:] == [replace(one, seed=1) for one in study.experiments()[:3]]


@pytest.mark.parametrize("text", ["kind = 1", 'kind = "cell"', "sedes = 3", "base = { epocs = 1 }", "a = "])
def test_a_mistake_in_a_study_is_one_sentence_that_names_the_file(tmp_path, text):
    with pytest.raises(LabError, match="study.toml"):
        write(tmp_path / "own", text)


@pytest.mark.parametrize("name", ["recipe", "recipe_pairs", "levers", "causes", "beta2"])
def test_recorded_runs_are_those_that_the_command_trains(name):
    study = studies()[name]
    known = study.load(PROJECT / "data" / "runs")
    assert len(known) and {run.experiment for run in known["run"]} <= set(study.experiments())


def test_a_study_of_ones_own_needs_no_python(tmp_path):
    text = 'kind = "changes"\nseeds = 2\ntitle = "с отражением"\nbase = { epochs = 1 }\n'
    study = write(tmp_path / "runs" / "mirrors", text + "changes = [{ mirror = false }]\n")
    record(tmp_path / "runs" / "mirrors", *study.experiments())
    paths = write_report(tmp_path / "runs", tmp_path / "out")
    assert {path.name for path in paths} == {"table.csv", "REPORT.md"}
    report = (tmp_path / "out" / "REPORT.md").read_text(encoding="utf-8")
    assert "Опыт «mirrors»" in report
    assert "| без отражения  |          2 |    50,0 ± 0,0" in report


def test_a_study_of_pairs_has_no_verdict_interval_or_mean_before_the_last_pair(tmp_path):
    study = write(tmp_path / "thirds", PAIRS)
    for new, ready in ((slice(0, 5), 2), (slice(5, 6), 3)):
        record(tmp_path / "thirds", *study.experiments()[new])
        known = study.tell(tmp_path)
        ticks = [tick.get_text() for tick in known.figures["answer"]().axes[0].get_xticklabels()]
        assert known.texts["verdict"].startswith("Готово пар: 2 из 3") == (ready < 3) == ("все" not in ticks)
        [answer] = recorded(tmp_path)["answers"].tables["table"]["Разность, п. п. [95 %]"]
        assert (answer == "готово пар: 2 из 3") == (ready < 3)


def test_a_study_may_speak_of_runs_of_another_folder(tmp_path):
    record(tmp_path / "old", *write(tmp_path / "old", PAIRS).experiments())
    study = write(tmp_path / "new", PAIRS + 'runs = ["old"]\n')
    assert len(study.load(tmp_path)) == 6


def test_a_comparison_of_ones_own_is_found(tmp_path):
    """As the command compare leaves it; a stopped one, without final runs, and other folders are not."""
    final = [replace(SMALL, optimizer=name, seed=seed) for name in ("adam", "sgd") for seed in (0, 1)]
    record(tmp_path / "mine" / "final", *final)
    record(tmp_path / "mine" / "tuning", *(replace(one, lr=1e-2) for one in final[::2]))
    record(tmp_path / "stopped" / "tuning", final[0])
    record(tmp_path / "other" / "deep" / "folder", final[0])
    paths = write_report(tmp_path, tmp_path / "out")
    assert {path.parent.name for path in paths[:-1]} == {"mine"}
    assert {"answer.png", "summary.csv", "rates.csv"} <= {path.name for path in paths}
    report = (tmp_path / "out" / "REPORT.md").read_text(encoding="utf-8")
    assert "(mine/answer.png)" in report and "Adam и SGD с импульсом: разница не доказана" in report


def test_runs_of_two_protocols_in_one_folder_are_not_mixed(tmp_path):
    """The larger comparison is shown, at the rates that its own tuning chose."""
    short = [replace(SMALL, optimizer=name, seed=seed) for name in ("adam", "sgd") for seed in (0, 1)]
    widened = [replace(one, lr=1e-2) for one in short[:2]]  # Adam's best rate before the grid was widened
    record(tmp_path / "mine" / "final", *short, *widened, replace(SMALL, optimizer="adam", epochs=2))
    tuning = [replace(SMALL, optimizer=name, epochs=epochs) for name in ("adam", "sgd") for epochs in (1, 2)]
    record(tmp_path / "mine" / "tuning", *tuning)
    shown = recorded(tmp_path)["mine"].tables
    assert shown["summary"]["Прогонов"].tolist() == [2, 2] and shown["summary"]["Эпох"].tolist() == [1, 1]
    assert shown["summary"]["Скорость обучения"].tolist() == ["0,003", "0,003"]


def test_ones_own_runs_are_told_by_data_set_and_apart_from_others_that_do_not_compare(tmp_path):
    record(tmp_path, *(replace(SMALL, optimizer=name) for name in ("adam", "sgd")), replace(SMALL, epochs=2))
    known = recorded(tmp_path)
    assert list(known) == ["cars-1", "cars-2"]
    assert known["cars-1"].texts["verdict"].startswith("Adam и SGD с импульсом: разница не доказана.")
    assert known["cars-2"].texts["verdict"].startswith("Прогоны есть только для одного оптимизатора")
    assert "answer.png" in {path.name for path in write_report(tmp_path, tmp_path / "out")}


def test_report_of_nothing_says_what_to_do(tmp_path):
    with pytest.raises(LabError, match="python -m labnn train"):
        write_report(tmp_path, tmp_path / "out")


def test_only_the_readme_that_is_asked_for_is_touched(tmp_path):
    block = "<!-- thirds.conditions: begin -->\nold\n<!-- thirds.conditions: end -->\n"
    for name in ("README.md", "asked.md"):
        (tmp_path / name).write_text(block, encoding="utf-8")
    record(tmp_path / "thirds", *write(tmp_path / "thirds", PAIRS).experiments())
    write_report(tmp_path, tmp_path / "out")
    assert (tmp_path / "asked.md").read_text(encoding="utf-8") == block
    write_report(tmp_path, tmp_path / "out", tmp_path / "asked.md")
    assert "эпох: 1" in (tmp_path / "asked.md").read_text(encoding="utf-8")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == block


def test_blocks_are_rewritten_and_the_rest_stays(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- x.y: begin -->\n1\n2\n<!-- x.y: end -->\n<!-- z: begin -->\n<!-- z: end -->\n")
    rewrite_blocks(path, {"x.y": "\\1", "unknown": "3"})
    assert path.read_text() == (
        "a\n<!-- x.y: begin -->\n\\1\n<!-- x.y: end -->\n<!-- z: begin -->\n<!-- z: end -->\n"
    )
