"""The report as it is handed in: HTML and PDF made of the executed notebook."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from html import escape
from pathlib import Path

from labnn.kit.errors import LabError
from labnn.kit.files import atomic_write, read_errors, write_text

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
_IMAGES = ("image/png", "image/jpeg", "image/svg+xml")


def write_html(notebook: str | Path, path: str | Path, code: bool = True) -> Path:
    """Writes the executed ``notebook`` as one HTML file that needs no other and no network; gives its path.

    Images are embedded, formulas become MathML, code folds, or is left out without ``code``. A cell tagged
    "title" comes first, those tagged "screen" are left out; code before the title is folded and on no paper,
    and what it printed is left out. Raises ``LabError`` where the notebook is missing, damaged or not
    executed, and where ``path`` cannot be written.
    """
    notebook = Path(notebook)
    book = _read(notebook)
    from nbconvert import HTMLExporter  # _read has said what to do where it is missing

    exporter = HTMLExporter(
        template_name="page",
        extra_template_basedirs=[str(Path(__file__).parent)],
        filters={"markdown2html": partial(_markdown, folder=str(notebook.parent))},
        exclude_input=not code,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    headings = re.findall(r"^# (.+)", "\n".join(cell.source for cell in book.cells), re.M)
    resources = {"title": escape(headings[0] if headings else notebook.stem)}
    return write_text(path, exporter.from_notebook_node(book, resources)[0])


def write_pdf(html: str | Path, path: str | Path) -> Path:
    """Prints the HTML file of ``write_html`` as PDF, A4 with page numbers; gives its path.

    Raises ``LabError`` where no Chromium, Chrome or Edge (131 or later for the numbers) is installed, where
    it fails and where ``path`` cannot be written.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise LabError("Для PDF нужен Chromium: установите его или напечатайте HTML из любого браузера.")
    with atomic_write(path) as unfinished, tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--disable-gpu", "--disable-background-networking"]
        command += ["--no-first-run", f"--user-data-dir={profile}", "--generate-pdf-document-outline"]
        command += ["--no-pdf-header-footer", f"--print-to-pdf={unfinished.resolve()}"]
        if getattr(os, "geteuid", lambda: 1)() == 0:  # root, as in a container, has no sandbox
            command.append("--no-sandbox")
        try:
            done = subprocess.run([*command, Path(html).resolve().as_uri()], capture_output=True, timeout=300)
        except subprocess.TimeoutExpired:
            raise LabError(f"{browser} за пять минут не напечатал {html}: повторите.") from None
        if not unfinished.is_file():
            told = (done.stderr.decode(errors="replace").strip().splitlines() or ["причины он не назвал"])[-1]
            raise LabError(f"{browser} не напечатал {html} ({told}): напечатайте HTML из любого браузера.")
    return Path(path)


def _read(path: Path):
    """The notebook, its images with alternative texts. Raises ``LabError``."""
    try:
        import nbconvert  # noqa: F401  JupyterLab brings it, the module alone does not
        import nbformat
    except ImportError:
        raise LabError("Для отчёта нужна библиотека nbconvert: выполните pip install nbconvert.") from None
    if not path.is_file():
        raise LabError(f"Блокнота {path} нет: укажите его ключом --notebook.")
    with read_errors(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        book = nbformat.reads(text, 4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError, KeyError):
        raise LabError(f"Файл {path} — не блокнот Jupyter: укажите блокнот ключом --notebook.") from None
    cells = [cell for cell in book.cells if cell.cell_type == "code" and cell.source.strip()]
    if any(cell.execution_count is None for cell in cells):
        raise LabError(f"Блокнот {path} не выполнен: выполните все его ячейки и сохраните.")
    if any(output.output_type == "error" for cell in cells for output in cell.outputs):
        raise LabError(f"В блокноте {path} ячейка кончилась ошибкой: исправьте её и выполните все ячейки.")
    book.cells = _in_order(book.cells)
    for image, text in _nameless(book):
        image.setdefault("alt", text)
    return book


def _in_order(cells: list) -> list:
    """The cells of the paper, the title first; code that stood before it, the set-up, is closed and mute."""
    for cell in cells:
        cell.metadata.setdefault("tags", [])
    title = next((place for place, cell in enumerate(cells) if "title" in cell.metadata.tags), 0)
    for cell in cells[:title]:
        if cell.cell_type == "code":
            cell.metadata.tags.append("setup")
            cell.outputs = []
    left = [cell for cell in cells if "screen" not in cell.metadata.tags]
    return sorted(left, key=lambda cell: "title" not in cell.metadata.tags)


def _nameless(book) -> Iterator[tuple[dict, str]]:
    """The metadata of each image of ``book``, and the section that it stands in as its description."""
    section = ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            section = (re.findall(r"^#+ (.+)", cell.source, re.M) or [section])[-1]
        for output in cell.get("outputs", ()):
            for kind in set(_IMAGES) & set(output.get("data", ())):
                yield output.metadata.setdefault(kind, {}), f"Рисунок к разделу «{section}»"


def _markdown(source: str, folder: str) -> str:
    """Markdown to HTML: formulas to MathML, pictures of ``folder`` embedded."""
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            parts = [self.inline_math(part, "block") for part in body.split(r"\qquad")]
            return f'<div class="formula">{" ".join(parts)}</div>'  # a phone has a line for each

        def inline_math(self, body: str, display: str = "inline") -> str:
            try:
                return convert(body.replace("{,}", r"\text{,}"), display=display)  # no space in 0,9
            except Exception as error:  # latex2mathml's have no base in common
                raise LabError(f"Формула ${body}$ не читается ({error!r}): исправьте её.") from None

    renderer = Renderer(escape=False, embed_images=True, path=folder, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(source)
