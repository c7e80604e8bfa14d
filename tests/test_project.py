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
from labnn.report.write import write_report

RUNS, RECORDED = PROJECT / "data" / "runs", PROJECT / "figures" / "recorded"
REPORT = (RECORDED / "REPORT.md").read_text(encoding="utf-8")
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def test_readme_opens_with_one_command_to_run_and_one_to_test():
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.S | re.M)
    run, test = (block.strip() for block in blocks)
    assert "\n" not in run and "\n" not in test
    assert "--execute" in run and "lab1.ipynb" in run
    assert "pytest --nbval-lax" in test


@pytest.mark.parametrize("second, code", [("echo second && echo third", 0), ("false && echo second", 1)])
def test_ci_is_the_second_shell_block_of_the_readme_and_fails_with_it(second, code, tmp_path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(PROJECT / ".ci" / "run", tmp_path / ".ci")
    text = f"```sh\necho first\n```\ntext\n```sh\n{second}\n```\n"
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    result = subprocess.run(["bash", str(tmp_path / ".ci" / "run")], capture_output=True, text=True)
    assert result.returncode == code
    assert result.stdout.splitlines()[1:] == ([] if code else ["second", "third"])


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """The report written anew beside a copy of the README, and the paths that it names below that folder."""
    folder = tmp_path_factory.mktemp("rebuilt")
    shutil.copy(PROJECT / "README.md", folder)
    paths = write_report(RUNS, folder / "figures" / "recorded", folder / "README.md")
    return folder, {path.relative_to(folder).as_posix() for path in paths}


def test_report_leaves_every_committed_file_as_it_is(rebuilt):
    """Bytes; of figures the pixels, nearly, where another matplotlib has drawn them."""
    folder, written = rebuilt
    committed = [path for path in RECORDED.rglob("*") if path.is_file()] + [PROJECT / "README.md"]
    assert written == {path.relative_to(PROJECT).as_posix() for path in committed}
    for path in committed:
        again = folder / path.relative_to(PROJECT)
        if path.suffix != ".png" or path.read_bytes() == again.read_bytes():
            assert path.read_bytes() == again.read_bytes(), path
        else:
            drawn, before = (np.asarray(Image.open(one).convert("L"), dtype=float) for one in (again, path))
            assert drawn.shape == before.shape and np.abs(drawn - before).mean() < 5, path


def test_readme_says_what_is_recorded():
    stated = dict(re.findall(r"<!-- (\S+): begin -->\n(.*?)\n<!-- \1: end -->", README, re.S))
    assert {"answers.sentence", "answers.short"} <= set(stated) and all(stated.values())


def test_pictures_exist():
    for text, folder in ((README, PROJECT), (REPORT, RECORDED)):
        pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
        assert pictures and all((folder / picture).is_file() for picture in pictures)


def test_every_promise_names_tests_that_exist():
    promises = (PROJECT / "tests" / "README.md").read_text(encoding="utf-8").split("\n\n")[1]
    named = re.findall(r"`(test_\w+)`", promises)
    written = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "tests").glob("test_*.py"))
    assert len(named) >= 10 and not [name for name in named if f"def {name}(" not in written]
    assert all("`test_" in row for row in promises.splitlines()[2:] if row.startswith("|"))


@pytest.mark.parametrize("folder, least", [("recipe", 0.8), ("comparison/final", 0.15)])
def test_recorded_runs_learned_on_real_photos(folder, least):
    for run in load_runs(RUNS / folder):
        assert run.data["classes"] == 196
        right = (run.predictions["label"] == run.predictions["prediction"]).mean()
        assert right == run.history["test_accuracy"].iloc[-1] > least


def test_notebook_is_committed_executed_top_to_bottom():
    book = json.loads((PROJECT / "lab1.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    assert "widgets" not in book["metadata"]
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1


@pytest.mark.parametrize("part", ["train", "test"])
def test_drawing_again_gives_the_embedded_pictures(part, minicars, draw_picture):
    dataset = getattr(minicars, part)
    for number in (1, 57, 180):
        image, box, label = draw_picture(part, number)
        committed = dataset.image(number - 1)
        assert dataset.paths[number - 1].name == f"{number:05d}.jpg"
        assert (list(box), label - 1) == (dataset.boxes[number - 1].tolist(), dataset.labels[number - 1])
        assert image.size == committed.size
        apart = np.abs(np.asarray(image, dtype=float) - np.asarray(committed, dtype=float))
        assert apart.mean() < 6  # JPEG's loss


def test_ten_lines_of_the_readme_train_own_photos_with_an_own_optimizer(
    tiny_root, tmp_path, monkeypatch, capsys
):
    example = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)[0].replace("epochs=40", "epochs=2")
    assert len(example.strip().splitlines()) <= 10
    data, photos = open_dataset(tiny_root), tmp_path / "мои_снимки"
    for part in (data.train, data.test):
        for path, label in zip(part.paths, part.labels, strict=True):
            for own in ("train", "test"):  # no class without training photos
                folder = photos / own / data.class_names[label]
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder)
    monkeypatch.chdir(tmp_path)
    try:
        exec(example, {})
    finally:
        OPTIMIZERS.pop("radam", None)
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told if line.startswith(("radam", "adam"))] == ["radam", "adam"]
    assert len(list((tmp_path / "data" / "runs").glob("*/run.json"))) == 2
