"""The notebook is right on any data set, and shows the lab's own call before it compares."""

import os
import shutil

import nbformat
import pytest
from conftest import PROJECT
from nbclient import NotebookClient

SMALL = """
SETTINGS = {"epochs": 2, "image_size": 32, "start_size": 0, "test_size": 0, "test_every": 1}
EPOCHS, GRID, SEEDS, PROCESSES = 2, (1e-3,), 2, 1
"""


@pytest.fixture
def notebook():
    return nbformat.read(PROJECT / "lab1.ipynb", 4)


@pytest.fixture
def own_photos(minicars, tmp_path):
    """Three classes in folders, as users keep their own photos."""
    root = tmp_path / "дворы"
    for part, dataset, count in (("train", minicars.train, 16), ("test", minicars.test, 8)):
        for label in range(3):
            folder = root / part / minicars.class_names[label]
            folder.mkdir(parents=True)
            chosen = [path for path, own in zip(dataset.paths, dataset.labels, strict=True) if own == label]
            for path in chosen[:count]:
                shutil.copy(path, folder)
    return root


def text_of(cell) -> str:
    """What a reader sees below the cell."""
    parts = [
        output.get("text", "") or output.get("data", {}).get("text/markdown", "") for output in cell.outputs
    ]
    return "\n".join(parts)


def test_notebook_runs_to_its_end_on_class_folders_and_names_them(
    notebook, own_photos, tmp_path, monkeypatch
):
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(SMALL))
    monkeypatch.setitem(os.environ, "LABNN_DATA", str(own_photos))
    monkeypatch.setitem(os.environ, "LABNN_OUTPUT", str(tmp_path / "out"))
    resources = {"metadata": {"path": str(PROJECT)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    heading = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## Вывод"))
    conclusion = text_of(notebook.cells[heading + 1])
    assert "Набор дворы (48 / 24 снимков)" in conclusion
    assert "Рисованный набор" not in conclusion and "minicars" not in conclusion
    trained = [text_of(cell) for cell in notebook.cells if "= train_test(" in cell.source]
    for told in trained:
        assert "Эпоха 2, Время обучения: " in told and "Тестовая точность: " in told


def test_train_test_is_called_for_both_optimizers_before_the_comparison(notebook):
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    calls = [index for index, source in enumerate(sources) if "= train_test(model, optimizer," in source]
    assert (
        len(calls) == 2
        and "amsgrad=True" in sources[calls[0]]
        and "amsgrad" not in sources[calls[1]].split("adam =")[0]
    )
    assert max(calls) < next(index for index, source in enumerate(sources) if "comparison.tune(" in source)
    assert any("DataLoader(" in source for source in sources[: calls[0]])
