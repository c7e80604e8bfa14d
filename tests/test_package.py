"""What ``pip install .`` installs works by itself, and the code keeps the form that its settings ask for."""

import os
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import PROJECT

MODULES = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "labnn").rglob("*.py")}
PAGE = {f"labnn/report/html/{name}" for name in ("conf.json", "index.html.j2", "page.css")}
DATA = {"labnn/stanford_cars.csv", "labnn/report/report.md", "labnn/report/phrases.j2", *PAGE}


def python(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", **options)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of what is packed, because building leaves files beside it."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE", *DATA, *MODULES):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((PROJECT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def installed(sources, tmp_path_factory):
    """The folder that the wheel unpacks to."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    built = python("-m", "pip", "wheel", *offline, "--wheel-dir", folder, sources)
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_wheel_holds_every_module_and_the_class_list_and_nothing_else(installed):
    held = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert {name for name in held if ".dist-info/" not in name} == MODULES | DATA


def test_installed_package_asks_for_what_the_requirements_name(installed):
    metadata = next(installed.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    asked = [
        line.split("#")[0].strip() for line in (PROJECT / "requirements.txt").read_text("utf-8").splitlines()
    ]
    assert [line[15:] for line in metadata.splitlines() if line.startswith("Requires-Dist: ")] == asked


def test_installed_package_works_from_another_folder(installed, tmp_path):
    code = (
        "import labnn; from labnn.layouts import official_classes;"
        "print(labnn.__file__, len(official_classes()))"
    )
    result = python("-c", code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(installed)})
    assert result.stdout.split() == [str(installed / "labnn" / "__init__.py"), "196"], result.stderr


def test_source_archive_builds_by_itself(sources, tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    built = python("-c", code, tmp_path, cwd=sources)
    assert built.returncode == 0, built.stderr
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    assert held >= MODULES | DATA | {"requirements.txt", "LICENSE", "README.md", "pyproject.toml"}


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_code_is_formatted_and_clean(command):
    result = python("-m", "ruff", *command, ".", cwd=PROJECT)
    assert result.returncode == 0, result.stdout + result.stderr
