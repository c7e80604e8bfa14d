"""The repository keeps what the README promises."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

from labnn import OPTIMIZERS, open_dataset
from labnn.experiment import load_runs
from labnn.report import words
from labnn.report.studies import STUDIES
from labnn.report.write import write_report

RUNS, RECORDED = PROJECT / "data" / "runs", PROJECT / "figures" / "recorded"
REPORT = (RECORDED / "REPORT.md").read_text(encoding="utf-8")
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


@pytest.fixture(scope="module")
def blocks() -> dict[str, str]:
    """What the recorded studies say, and what was measured, by name."""
    found = {name: (RUNS / f"{name}.md").read_text(encoding="utf-8").strip() for name in MEASURED}
    for study in STUDIES.values():
        if not (record := study.load(RUNS)):
            continue
        tables = {name: words.markdown(frame) for name, frame in study.tables(record).items()}
        found = tables | study.texts(record) | found
    return found


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """The report written anew beside a copy of the README, and the paths that it names below that folder."""
    folder = tmp_path_factory.mktemp("rebuilt")
    shutil.copy(PROJECT / "README.md", folder)
    paths = write_report(RUNS, folder / "figures" / "recorded", folder / "README.md")
    return folder, {path.relative_to(folder).as_posix() for path in paths}


MEASURED = ["throughput", "memory"]
TABLES = ["headline", "ladder", "collapse", "signal", "causes", "settings", "variants", "levers"]
TABLES += ["recipe_spread"]
PAIRS = ["recipe_pairs", "recipe_pairs_summary", "recipe_pairs_verdict"]
PAIRS += ["short_memory", "short_memory_rates", "short_memory_verdict"]
COMPARISON = ["verdict", "rates", "summary", "milestones", "pairs", "statistics", "other", "maximum"]


@pytest.mark.parametrize("name", [*TABLES, *PAIRS, *COMPARISON, *MEASURED])
def test_report_states_the_figures_of_the_recorded_runs(name, blocks):
    assert blocks[name] and blocks[name] in REPORT


def test_readme_states_the_figures_of_the_recorded_runs(blocks):
    stated = dict(re.findall(r"<!-- (\w+): begin -->\n(.*?)\n<!-- \1: end -->", README, re.S))
    assert {"verdict_brief", "recipe_pairs_verdict", "short_memory_brief"} <= set(stated)
    assert stated == {name: blocks[name] for name in stated}


def content(path) -> bytes:
    """A file's bytes; of an SVG without the names of its clip paths: matplotlib hashes corners that it has
    not rounded, whose last digits are the processor's.
    """
    found = path.read_bytes()
    return re.sub(rb"\bp[0-9a-f]{10}\b", b"clip", found) if path.suffix == ".svg" else found


def test_report_leaves_every_committed_file_as_it_is(rebuilt):
    """Bytes; of figures the pixels, nearly, where another matplotlib has drawn them."""
    folder, written = rebuilt
    committed = [path for path in RECORDED.rglob("*") if path.is_file()] + [PROJECT / "README.md"]
    assert written == {path.relative_to(PROJECT).as_posix() for path in committed}
    for path in committed:
        again = folder / path.relative_to(PROJECT)
        pictures = [one.with_suffix(".png") for one in (path, again)]
        if path.suffix == ".svg" and pictures[0].read_bytes() != pictures[1].read_bytes():
            continue  # drawn by another matplotlib: its PNG is compared
        if path.suffix != ".png" or path.read_bytes() == again.read_bytes():
            assert content(path) == content(again), path
        else:
            drawn, before = (np.asarray(Image.open(one).convert("L"), dtype=float) for one in (again, path))
            assert drawn.shape == before.shape and np.abs(drawn - before).mean() < 5, path


def test_every_promise_names_tests_that_exist():
    promises = (PROJECT / "tests" / "README.md").read_text(encoding="utf-8").split("\n\n")[1]
    named = re.findall(r"`(test_\w+)`", promises)
    written = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "tests").glob("test_*.py"))
    assert len(named) >= 10 and not [name for name in named if f"def {name}(" not in written]
    assert all("`test_" in row for row in promises.splitlines()[2:] if row.startswith("|"))


def test_report_draws_the_story_that_it_shows(rebuilt):
    drawn = {path.removeprefix("figures/recorded/") for path in rebuilt[1] if path.endswith(".png")}
    comparison = {f"comparison/{name}.png" for name in ("curves", "answer", "maximum")}
    story = {"collapse.png", "signal.png", "causes.png", "ladder.png", "levers.png", "beta2.png"}
    story |= {"recipe_pairs.png"}
    assert drawn == story | comparison | {"stanford_cars/curves.png"}
    assert drawn == set(re.findall(r"!\[.*?\]\((.*?)\)", REPORT))


def test_pictures_exist():
    for text, folder in ((README, PROJECT), (REPORT, RECORDED)):
        pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
        assert pictures and all((folder / picture).is_file() for picture in pictures)


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


def test_ten_lines_of_the_readme_train_own_photos_with_an_own_optimizer(
    tiny_root, tmp_path, monkeypatch, capsys
):
    [example] = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
    assert len(example.strip().splitlines()) <= 10
    data = open_dataset(tiny_root)
    for part in ("train", "test"):
        dataset = getattr(data, part)
        for path, label in zip(dataset.paths, dataset.labels, strict=True):
            folder = tmp_path / "мои_снимки" / part / data.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    photos = tmp_path / "мои_снимки"
    shutil.copytree(photos / "train", photos / "test", dirs_exist_ok=True)  # no class without training photos
    shutil.copytree(photos / "test", photos / "train", dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    try:
        exec(example, {})
    finally:
        OPTIMIZERS.pop("radam", None)
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told if line.startswith(("radam", "adam"))] == ["radam", "adam"]
    assert len(list((tmp_path / "data" / "runs").glob("*/run.json"))) == 2
