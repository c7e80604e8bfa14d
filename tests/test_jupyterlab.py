"""In JupyterLab itself, in a browser."""

import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import MINICARS, PROJECT
from nbformat.v4 import new_code_cell, new_notebook

from labnn.report.page import BROWSERS

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.skipif(os.name == "nt", reason="interrupts a kernel by a signal"),
]

SETUP = f"""
import torch
from labnn import Experiment, open_dataset, train_test
from labnn.experiment import decode, make_batches
from labnn.report import show
show.stop_in_one_line()
experiment = Experiment(image_size=32)
data = open_dataset({str(MINICARS)!r})
train_loader, test_loader = make_batches(experiment, decode(experiment, data, "cache"), "cpu")
model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 10))
"""
TRAIN = "train_test(model, torch.optim.Adam(model.parameters()), train_loader, test_loader, epochs=3000)"
KERNEL_IS_IDLE = (
    "globalThis.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
)


@pytest.fixture
def address(tmp_path):
    """JupyterLab's address up to a notebook's name: lab1.ipynb, and long.ipynb, which trains for long."""
    root, runtime = tmp_path / "root", tmp_path / "runtime"
    root.mkdir()
    lab = nbformat.read(PROJECT / "lab1.ipynb", 4)
    # JupyterLab writes the version of Python anew, which marks a notebook that was run by another version.
    lab.metadata.language_info.version = platform.python_version()
    long = new_notebook(cells=[new_code_cell(SETUP), new_code_cell(TRAIN)], metadata=lab.metadata)
    for name, book in (("lab1.ipynb", lab), ("long.ipynb", long)):
        nbformat.write(book, root / name)
    places = ("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    own = {name: str(tmp_path / name) for name in places} | {"JUPYTER_RUNTIME_DIR": str(runtime)}
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += ["--ServerApp.port=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"]
    command += ["--LabApp.expose_app_in_browser=True"]  # its commands, without a search through its menus
    with open(tmp_path / "log.txt", "w", encoding="utf-8") as log:
        environment = os.environ | own | {"PYTHONPATH": str(PROJECT)}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        while not (found := list(runtime.glob("jpserver-*.json"))):
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            time.sleep(0.2)
        yield json.loads(found[0].read_text())["url"] + "lab/tree/{}?reset&token=" + token
    finally:
        process.terminate()
        process.wait(60)


def test_the_lab_opens_unchanged_and_an_interrupt_leaves_one_line_and_no_traceback(address):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(address.format("lab1.ipynb"))
        page.wait_for_function(KERNEL_IS_IDLE)
        assert not page.evaluate("jupyterapp.shell.currentWidget.context.model.dirty")
        page.goto(address.format("long.ipynb"))
        page.wait_for_function(KERNEL_IS_IDLE)
        page.evaluate("() => { jupyterapp.commands.execute('runmenu:run-all') }")
        page.wait_for_function("/Эпоха 3,/.test(document.body.innerText)")
        page.evaluate("() => { jupyterapp.commands.execute('kernelmenu:interrupt') }")
        page.wait_for_function(KERNEL_IS_IDLE)
        left = "\n".join(page.locator(".jp-OutputArea-output").all_inner_texts()).splitlines()
        [line] = [line for line in left if line.strip() and not line.startswith(("Декодирование", "Эпоха "))]
        assert line.startswith("Остановлено: ")
        browser.close()
