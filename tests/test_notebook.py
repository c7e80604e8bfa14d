"""The notebook is right on any data set, forgives slips in its first cell, and can be read in one go."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
from conftest import PROJECT, own_photos

from labnn import LabError
from labnn.report import show

SMALL = """
SETTINGS = {"epochs": 2, "image_size": 32, "start_size": 0, "test_size": 0, "test_every": 1}
EPOCHS, GRID, SEEDS, PROCESSES = 2, (1e-3,), 2, 1
DATA = "дворы"  # relative to the notebook
TITLE = {"Вуз": "Университет"}
"""


@pytest.fixture
def notebook():
    return nbformat.read(PROJECT / "lab1.ipynb", 4)


def code_of(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell) -> str:
    """What a reader sees below the cell."""
    outputs = cell.get("outputs", ())
    parts = [output.get("text", "") or output.get("data", {}).get("text/markdown", "") for output in outputs]
    return "\n".join(parts)


def test_notebook_runs_to_its_end_in_another_folder_and_speaks_of_the_readers_own_photos(
    notebook, tmp_path, monkeypatch, capsys
):
    """Its cells, one after another; on the drawn set a real kernel executes it."""
    own_photos(tmp_path / "дворы")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LABNN_OUTPUT")
    shown = lambda content, **_: print(content.get("text/html", content["text/plain"]))  # noqa: E731
    monkeypatch.setattr(show, "display", shown)
    first, *others = code_of(notebook)
    names, told = {"__name__": "__main__"}, []
    for source in (first + SMALL, *others):
        exec(source, names)
        told.append(capsys.readouterr().out)
    mine, recorded = told[-1].split("**Записано на фотографиях")
    assert "набор дворы" in mine and "minicars" not in mine and "сеть научилась" not in mine
    assert "полный 81,84" in recorded
    trained = [text for source, text in zip((first, *others), told, strict=True) if "train_test(" in source]
    assert len(trained) == 3
    for text in trained:
        assert "Эпоха 2, Время обучения: " in text and "Тестовая точность: " in text
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells if cell.cell_type == "code"]
    [title] = [text for own, text in zip(tags, told, strict=True) if "title" in own]
    assert "Университет" in title and "Выполнил: ____" in title


SLIPS = {
    'SETTINGS = {"epoch": 3}': "epoch",
    'SETTINGS = {"optimizer": "sgd"}': "optimizer",
    'SETTINGS = {"epochs": -1}': "epochs=-1",
    "GRID = ()": "скорости: не заданы",
    'COMPARED = ("adam", "adamm")': "adamm",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_the_first_cell_is_one_sentence(slip, notebook):
    first, *others = code_of(notebook)
    names = {}
    exec(f"{first}\n{slip}", names)
    with pytest.raises(LabError, match=SLIPS[slip]):
        for source in others[:4]:
            exec(source, names)


def test_a_repository_that_is_not_there_is_one_sentence(notebook, tmp_path):
    first, fetch, *_ = code_of(notebook)
    script = first + f"\nREPOSITORY = {str(tmp_path / 'nowhere')!r}\n" + fetch
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    if "distributed" in done.stdout or done.returncode == 0:
        pytest.skip("labnn is installed")
    assert "проверьте адрес REPOSITORY" in done.stderr and "Traceback" not in done.stderr


def test_train_test_is_called_for_both_optimizers_on_plain_loaders_before_the_comparison(notebook):
    code = "\n".join(code_of(notebook))
    calls = [match.start() for match in re.finditer(r"= train_test\(\w+, optimizer, train_loader", code)]
    before = code[: calls[1]]
    assert "amsgrad=True" in before and "amsgrad=False" in before and "DataLoader(" in before
    assert calls[1] < code.index("comparison.tune(")


def test_every_figure_and_table_is_referred_to(notebook):
    told = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    shown = "\n".join(map(text_of, notebook.cells))
    for word, short in (("Рисунок", "рис."), ("Таблица", "табл.")):
        numbers = re.findall(rf"\*{word} (\d+) — ", shown)
        assert numbers == [str(place) for place in range(1, len(numbers) + 1)] and numbers
        assert sorted(set(re.findall(rf"(?i){short} (\d+)", told)), key=int) == numbers


def test_the_committed_notebook_is_executed_short_and_without_traces_of_its_machine(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) <= 36 and len(code) <= 20
    assert max(len(cell.source.splitlines()) for cell in code) <= 16
    assert all(cell.execution_count for cell in code)
    assert not any("execution" in cell.metadata for cell in code) and "widgets" not in notebook.metadata
    assert (PROJECT / "lab1.ipynb").stat().st_size < 1_400_000
    assert os.environ.get("HOME", "/root") + "/" not in "\n".join(map(text_of, code))
