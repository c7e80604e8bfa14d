"""The repository keeps what the README promises."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import PROJECT

from labnn.experiment import load_runs
from labnn.report.tables import maximum_words, other_differences, to_markdown, verdict
from labnn.report.write import recorded_studies, recorded_tables, write_studies

README = (PROJECT / "README.md").read_text(encoding="utf-8")
SHELL_BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.S | re.M)


def test_readme_opens_with_one_command_to_run_and_one_to_test():
    run, test = (block.strip() for block in SHELL_BLOCKS)
    assert "\n" not in run and "\n" not in test
    assert "--execute" in run and "lab1.ipynb" in run
    assert "pytest --nbval-lax" in test


def test_ci_runs_the_second_shell_block_of_the_readme(tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(PROJECT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "README.md").write_text(
        "```sh\necho first\n```\ntext\n```sh\necho second && echo third\n```\n", encoding="utf-8"
    )
    result = subprocess.run(["bash", str(tmp_path / ".ci" / "run")], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.splitlines()[1:] == ["second", "third"]


def test_ci_fails_when_the_tests_fail(tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(PROJECT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "README.md").write_text(
        "```sh\necho first\n```\n```sh\nfalse && echo second\n```\n", encoding="utf-8"
    )
    assert subprocess.run(["bash", str(tmp_path / ".ci" / "run")], capture_output=True).returncode != 0


def readme_tables() -> dict[str, str]:
    studies = recorded_studies(PROJECT / "data" / "runs")
    tables = {name: to_markdown(table) for name, table in recorded_tables(studies).items()}
    tables |= {
        "verdict": verdict(studies.final),
        "maximum": maximum_words(studies.final),
        "other": other_differences(studies.final),
    }
    measured = {
        name: (PROJECT / "data" / "runs" / f"{name}.md").read_text(encoding="utf-8").strip()
        for name in ("throughput", "memory")
    }
    return tables | measured


STUDIES = ["ladder", "collapse", "causes", "settings", "variants", "levers"]
COMPARISON = ["verdict", "rates", "summary", "milestones", "pairs", "statistics", "other", "maximum"]


@pytest.mark.parametrize("name", [*STUDIES, *COMPARISON, "throughput", "memory"])
def test_readme_states_the_figures_of_the_recorded_runs(name):
    stated = re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", README, re.S)[1]
    assert stated.strip() == readme_tables()[name]


def test_every_promise_names_tests_that_exist():
    promises = README.split("## Что обещано")[1].split("\n## ")[0]
    named = re.findall(r"`(test_\w+)`", promises)
    written = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "tests").glob("test_*.py"))
    assert len(named) >= 10 and not [name for name in named if f"def {name}(" not in written]
    assert all("`test_" in row for row in promises.splitlines()[4:] if row.startswith("|"))


def test_report_draws_the_story_that_the_readme_shows(tmp_path):
    drawn = {
        path.relative_to(tmp_path).as_posix()
        for path in write_studies(PROJECT / "data" / "runs", tmp_path)
        if path.suffix == ".png"
    }
    comparison = {f"comparison/{name}.png" for name in ("curves", "answer", "maximum")}
    assert drawn == {"collapse.png", "signal.png", "causes.png", "ladder.png"} | comparison
    assert drawn <= set(re.findall(r"\(figures/recorded/(.*?)\)", README))


def test_readme_pictures_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures and all((PROJECT / picture).is_file() for picture in pictures)


@pytest.mark.parametrize(
    "folder, least, optimizers",
    [(".", 0.5, {"adamw", "adamw-amsgrad"}), ("comparison/final", 0.15, {"adam", "amsgrad"})],
)
def test_recorded_runs_learned_on_real_photos(folder, least, optimizers):
    recorded = load_runs(PROJECT / "data" / "runs" / folder)
    assert {run.experiment.optimizer for run in recorded} == optimizers
    for run in recorded:
        assert run.data["classes"] == 196
        assert (
            (run.predictions["label"] == run.predictions["prediction"]).mean()
            == run.history["test_accuracy"].iloc[-1]
            > least
        )


def test_notebook_is_committed_executed_top_to_bottom():
    book = json.loads((PROJECT / "lab1.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert 40 <= len(book["cells"]) <= 60
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    assert "widgets" not in book["metadata"]
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert max(len("".join(cell["source"]).splitlines()) for cell in code) <= 20


@pytest.mark.parametrize("part", ["train", "test"])
def test_drawing_again_gives_the_embedded_pictures(part, minicars, draw_picture):
    dataset = getattr(minicars, part)
    for number in (1, 57, 180):
        image, box, label = draw_picture(part, number)
        committed = dataset.image(number - 1)
        assert dataset.paths[number - 1].name == f"{number:05d}.jpg"
        assert (list(box), label - 1) == (dataset.boxes[number - 1].tolist(), dataset.labels[number - 1])
        assert image.size == committed.size
        assert (
            np.abs(np.asarray(image, dtype=float) - np.asarray(committed, dtype=float)).mean() < 6
        )  # JPEG's loss
