"""In JupyterLab itself, in a browser: cells run, run again the same, stop in one line, open unchanged."""

import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import MINICARS, PROJECT

from labnn.report.paper import BROWSERS

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

SETUP = f"""
import torch
from labnn import Experiment, SqueezeNet, open_dataset, run_or_load, train_test
from labnn.experiment import decode, make_batches
from labnn.kit.progress import Live
from labnn.runner import run_all
experiment = Experiment(epochs=2, image_size=32)
data = open_dataset({str(MINICARS)!r})
train_loader, test_loader = make_batches(experiment, decode(experiment, data, "cache"), "cpu")
"""
TRAIN = """
torch.manual_seed(0)
model = SqueezeNet(10, batch_norm=True)
history = train_test(model, torch.optim.Adam(model.parameters()), train_loader, test_loader, epochs={epochs})
"""
RECORD = 'run_or_load(experiment, data, "runs", cache_dir="cache", progress=Live("Прогон").epochs).name'
MANY = """
runs = [Experiment(seed=seed, epochs=3000, image_size=32) for seed in (0, 1)]
run_all(runs, data, "runs", cache_dir="cache", processes=2)
"""
OWN = """
print("Эпоха", "3, как в обучении")
while True:
    pass
"""
CELLS = {
    "small.ipynb": [SETUP, TRAIN.format(epochs=2), RECORD],
    "long.ipynb": [SETUP, TRAIN.format(epochs=3000)],
    "many.ipynb": [SETUP, MANY],
    "own.ipynb": ["from labnn.report import show\nshow.stop_in_one_line()", OWN],
}
STATUS = "globalThis.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"

COUNTS = "jupyterapp.shell.currentWidget.content.model.toJSON().cells.map(cell => cell.execution_count)"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab's address up to a notebook's name; its notebooks and settings lie in a temporary folder."""
    folder = tmp_path_factory.mktemp("jupyterlab")
    root, runtime = folder / "root", folder / "runtime"
    root.mkdir()
    lab = nbformat.read(PROJECT / "lab1.ipynb", 4)
    # JupyterLab writes the version of Python anew, which marks a notebook that was run by another version.
    lab.metadata.language_info.version = platform.python_version()
    nbformat.write(lab, root / "lab1.ipynb")
    for name, cells in CELLS.items():
        cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=lab.metadata), root / name)
    places = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    own = {name: str(folder / name) for name in places} | {"JUPYTER_RUNTIME_DIR": str(runtime)}
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += ["--ServerApp.port=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"]
    command += ["--LabApp.expose_app_in_browser=True"]  # its commands, without a search through its menus
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        environment = os.environ | own | {"PYTHONPATH": str(PROJECT)}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not (found := list(runtime.glob("jpserver-*.json"))):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log.txt").read_text()
            time.sleep(0.2)
        yield json.loads(found[0].read_text())["url"] + "lab/tree/{}?reset&token=" + token
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def lab(server):
    """Opens a notebook of the server's by its name; gives the browser's page once the kernel is ready."""
    sync_api = pytest.importorskip("playwright.sync_api")

    def open_notebook(name):
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(server.format(name))
        page.wait_for_function(f"{STATUS} === 'idle'")
        return page

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield open_notebook
        browser.close()


def execute(page, command: str) -> None:
    """Starts a command of JupyterLab's without waiting for its end."""
    page.evaluate(f"() => {{ jupyterapp.commands.execute('{command}') }}")


def printed(page) -> str:
    """What stands below the cells."""
    return "\n".join(page.locator(".jp-OutputArea-output").all_inner_texts())


def ended(page) -> str:
    """What stands below the cells once all have run, but for times and the decoding, done once."""
    page.wait_for_function(f"{STATUS} === 'idle' && {COUNTS}.every(count => count)")
    return re.sub(r"\d+\.\d+c|\d+:\d+|Декодирование.*\n", "", printed(page))


def test_all_cells_run_and_after_a_restart_print_the_same(lab):
    page = lab("small.ipynb")
    execute(page, "runmenu:run-all")
    first = ended(page)
    assert "Эпоха 2," in first and "Тестовая точность: " in first and "Прогон: эпоха 2 из 2" in first
    execute(page, "runmenu:restart-and-run-all")
    page.get_by_role("dialog").get_by_role("button", name="Confirm Kernel Restart").click()
    page.wait_for_function(COUNTS + ".some(count => !count)")
    again = ended(page)
    assert "прочитано из записи" in again and "прочитано из записи" not in first
    assert again.replace("прочитано из записи, обучено за", "готово за") == first


@pytest.mark.skipif(os.name == "nt", reason="interrupts a kernel by a signal")
@pytest.mark.parametrize("name", ["long.ipynb", "many.ipynb", "own.ipynb"])
def test_an_interrupt_leaves_one_line_and_no_traceback(name, lab):
    page = lab(name)
    execute(page, "runmenu:run-all")
    page.wait_for_function(r"/Эпоха 3,|эпох ([3-9]|\d\d+) из/.test(document.body.innerText)")
    execute(page, "kernelmenu:interrupt")
    page.wait_for_function(f"{STATUS} === 'idle'")
    left = [line for line in printed(page).splitlines() if line.strip()]
    [line] = [line for line in left if not line.startswith(("Декодирование", "Эпоха ", "прогонов "))]
    assert line.startswith("Остановлено: ")


@pytest.mark.parametrize("name", ["lab1.ipynb", "small.ipynb"])
def test_opening_does_not_mark_the_notebook_as_changed(name, lab):
    page = lab(name)
    page.wait_for_timeout(2000)  # what the kernel says of itself has come
    assert not page.evaluate("jupyterapp.shell.currentWidget.context.model.dirty")
