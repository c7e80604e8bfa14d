"""The report as it is handed in: HTML and PDF made of the executed notebook."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from html import escape
from pathlib import Path
from urllib.parse import unquote

from labnn.kit.errors import LabError
from labnn.kit.files import atomic_write, write_text

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
_EPOCH_LINE = re.compile(r"^Эпоха \d+, Время обучения: .*\n?", re.M)


def write_html(notebook: str | Path, path: str | Path, code: bool = True) -> Path:
    """Writes the executed ``notebook`` as one HTML file that needs no other; gives its path.

    Images are embedded, formulas become MathML. A cell tagged "title" comes first, then a list of contents;
    those tagged "screen" are left out. Code folds; of code before the title paper shows neither source nor
    output. Without ``code`` there is no source, no line of an epoch and no line of progress.
    Raises ``LabError`` where the notebook cannot be read or is not executed, a picture is missing or a
    formula cannot be read.
    """
    notebook = Path(notebook)
    book = _read(notebook)
    titles = _headings(book.cells, "#")
    book.cells = _on_paper(book.cells, code)
    from nbconvert import HTMLExporter  # _read has said what to do where it is missing

    exporter = HTMLExporter(
        template_name="html",
        extra_template_basedirs=[str(Path(__file__).parent)],
        filters={"markdown2html": partial(_markdown, notebook.parent)},
        exclude_input=not code,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    contents = [(_anchor(heading), escape(heading)) for heading in _headings(book.cells, "##")]
    resources = {"title": escape(titles[0] if titles else notebook.stem), "contents": contents}
    return write_text(path, exporter.from_notebook_node(book, resources)[0])


def write_pdf(html: str | Path, path: str | Path) -> Path:
    """Prints the HTML file of ``write_html`` as PDF, A4 with page numbers; gives its path.

    Raises ``LabError`` where no Chromium, Chrome or Edge (131 or later for the numbers) is installed and
    where it fails.
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
        with suppress(subprocess.TimeoutExpired):
            subprocess.run([*command, Path(html).resolve().as_uri()], capture_output=True, timeout=300)
        if not unfinished.is_file():
            raise LabError(f"{browser} не напечатал {html}: напечатайте HTML из любого браузера.")
    return Path(path)


def _read(path: Path):
    """The notebook in ``path``, executed, without what only a living kernel shows. Raises ``LabError``."""
    try:
        import nbconvert  # noqa: F401  JupyterLab brings it, the module alone does not
        import nbformat

        book = nbformat.read(path, 4)
    except Exception as error:  # nbformat's have no base in common
        way_out = "укажите ключом --notebook блокнот Jupyter; читает его библиотека nbconvert"
        raise LabError(f"Блокнот {path} не читается ({error!r:.200}): {way_out}.") from error
    cells = [cell for cell in book.cells if cell.cell_type == "code" and cell.source.strip()]
    if any(cell.execution_count is None for cell in cells):
        raise LabError(f"Блокнот {path} не выполнен: выполните все его ячейки и сохраните.")
    outputs = [output for cell in cells for output in cell.outputs]
    if any(output.output_type == "error" for output in outputs):
        raise LabError(f"В блокноте {path} ячейка кончилась ошибкой: исправьте её и выполните все ячейки.")
    book.metadata.pop("widgets", None)
    for output in outputs:  # the text beside a widget stays
        output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return book


def _headings(cells: list, level: str) -> list[str]:
    """The headings of that level, "#" or "##", in the text cells."""
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    return [heading.strip() for text in texts for heading in re.findall(rf"^{level} (.+)", text, re.M)]


def _on_paper(cells: list, code: bool) -> list:
    """The cells of the paper, the title first; code that stood before it, the set-up, is closed and mute."""
    tags = [cell.metadata.setdefault("tags", []) for cell in cells]
    title = next((place for place, own in enumerate(tags) if "title" in own), 0)
    for place, cell in enumerate(cells):
        if cell.cell_type == "code" and place < title:
            cell.metadata.tags.append("setup")
            cell.outputs = []
        elif cell.cell_type == "code" and not code:
            cell.outputs = list(_results(cell.outputs))
    shown = [cell for cell in cells if "screen" not in cell.metadata.tags]
    return sorted(shown, key=lambda cell: "title" not in cell.metadata.tags)


def _results(outputs: list) -> Iterator:
    """``outputs`` without source, lines of epochs, and living lines, which are text alone."""
    for output in outputs:
        if output.output_type == "stream":
            output.text = _EPOCH_LINE.sub("", output.text)
        living = output.output_type == "display_data" and set(output.data) == {"text/plain"}
        if not (living or output.get("metadata", {}).get("source") or output.get("text") == ""):
            yield output


def _anchor(heading: str) -> str:
    return re.sub(r"\W+", "-", heading).strip("-").lower()


def _markdown(folder: Path, source: str, pasted: dict | None = None) -> str:
    """Markdown to HTML: formulas to MathML, pictures embedded, those of ``folder`` and those ``pasted`` into
    the cell.
    """
    from nbconvert.filters.markdown_mistune import InvalidNotebook, IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def heading(self, text: str, level: int, **attributes) -> str:
            return f'<h{level} id="{_anchor(text)}">{text}</h{level}>\n'

        def block_math(self, body: str) -> str:
            body, *number = re.split(r"\\tag\{(.*?)\}", body)[:2]
            parts = [_formula(part, "block") for part in body.split(r"\qquad")]
            last = f"<span>({number[0]})</span>" if number else ""
            return f'<div class="formula">{" ".join(parts)}{last}</div>'  # a phone has a line for each part

        def latex_environment(self, name: str, body: str) -> str:
            return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")

        def inline_math(self, body: str) -> str:
            return _formula(body, "inline")

        def _embed_image_or_attachment(self, src: str) -> str:  # of Markdown
            with suppress(InvalidNotebook):
                return super()._embed_image_or_attachment(unquote(src))
            return src

    renderer = Renderer(escape=False, embed_images=True, path=str(folder), attachments=pasted)
    told = MarkdownWithMath(renderer=renderer).render(source)
    if missing := re.search(r'<img [^>]*src="(?!data:|https?:)(.*?)"', told):
        way_out = f"положите её в папку {folder}, вставьте снова или уберите из блокнота"
        raise LabError(f"Картинки {unquote(missing[1])} нет: {way_out}.")
    return told


def _formula(body: str, display: str) -> str:
    """LaTeX to MathML. Raises ``LabError`` for what latex2mathml cannot read or would silently misprint."""
    from latex2mathml.commands import MATRICES
    from latex2mathml.converter import convert

    body = re.sub(r"\\(begin|end)\{equation\*?\}", "", body)
    body = body.replace("{aligned}", "{split}").replace("{align}", "{align*}")  # which numbers nothing
    try:
        told = convert(body.replace("{,}", r"\text{,}"), display=display)  # no space in 0,9
    except Exception as error:  # latex2mathml's have no base in common
        raise LabError(f"Формула ${body}$ не читается ({error!r}): исправьте её.") from error
    known = {matrix[1:] for matrix in MATRICES}
    unknown = {*re.findall(r"\\begin\{(.*?)\}", body)} - known or re.findall(r">(\\\w+)<", told)
    if unknown:
        way_out = "исправьте её; из окружений есть align, cases и matrix"
        raise LabError(f"В формуле ${body}$ не известно {', '.join(unknown)}: {way_out}.")
    return told
