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
from urllib.parse import unquote

from labnn.kit.errors import LabError
from labnn.kit.files import atomic_write, write_text
from labnn.kit.progress import say

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
_IMAGES = ("image/png", "image/jpeg", "image/svg+xml")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_EPOCH_LINE = re.compile(r"^Эпоха \d+, Время обучения: .*\n?", re.M)

# LaTeX environments by those that latex2mathml knows under a name; formulas are not numbered by themselves,
# as in Jupyter.
_ENVIRONMENTS = {"aligned": "align*", "align": "align*", "split": "align*", "equation*": "equation"}
_ENVIRONMENTS |= dict.fromkeys(("gather", "gather*", "gathered"), "matrix")
_ENVIRONMENTS |= {name: name for name in ("align*", "equation", "cases", "array", "smallmatrix", "substack")}
_ENVIRONMENTS |= {f"{kind}matrix": f"{kind}matrix" for kind in ("", "p", "b", "v", "B", "V")}


def write_html(notebook: str | Path, path: str | Path, code: bool = True) -> Path:
    """Writes the executed ``notebook`` as one HTML file that needs no other and no network; gives its path.

    Images are embedded, formulas become MathML. A cell tagged "title" comes first, then a list of contents;
    those tagged "screen" are left out. Code folds; what stood before the title is on no paper, and what it
    printed is left out. Without ``code`` there is no source, neither of cells nor shown by ``show.source``,
    no epochs' line and no line of progress. Raises ``LabError`` where the notebook is missing, damaged or not
    executed, a picture is missing or a formula cannot be read.
    """
    notebook = Path(notebook)
    book = _read(notebook)
    titles = _headings(book, "#")
    book.cells = list(_in_order(book.cells))
    if not code:
        _leave_out_code(book)
    for image, text in _nameless(book):
        image.setdefault("alt", text)
    from nbconvert import HTMLExporter  # _read has said what to do where it is missing

    exporter = HTMLExporter(
        template_name="html",
        extra_template_basedirs=[str(Path(__file__).parent)],
        filters={"markdown2html": partial(_markdown, notebook.parent)},
        exclude_input=not code,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    resources = {"title": escape(titles[0] if titles else notebook.stem)}
    resources["contents"] = [(_anchor(heading), escape(heading)) for heading in _headings(book, "##")]
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
        try:
            done = subprocess.run([*command, Path(html).resolve().as_uri()], capture_output=True, timeout=300)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{browser} за пять минут не напечатал {html}: повторите.") from error
        if not unfinished.is_file():
            told = (done.stderr.decode(errors="replace").strip().splitlines() or ["причины он не назвал"])[-1]
            raise LabError(f"{browser} не напечатал {html} ({told}): напечатайте HTML из любого браузера.")
    return Path(path)


def _read(path: Path):
    """The notebook in ``path``, executed, without what only a living kernel shows. Raises ``LabError``."""
    try:
        import nbconvert  # noqa: F401  JupyterLab brings it, the module alone does not
        import nbformat
    except ImportError as error:
        raise LabError("Для отчёта нужна библиотека nbconvert: pip install nbconvert.") from error
    if not path.is_file():
        raise LabError(f"Блокнота {path} нет: укажите его ключом --notebook.")
    try:
        book = nbformat.reads(path.read_text(encoding="utf-8", errors="replace"), 4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError, KeyError) as error:
        raise LabError(f"Файл {path} — не блокнот Jupyter: укажите блокнот ключом --notebook.") from error
    cells = [cell for cell in book.cells if cell.cell_type == "code" and cell.source.strip()]
    if any(cell.execution_count is None for cell in cells):
        raise LabError(f"Блокнот {path} не выполнен: выполните все его ячейки и сохраните.")
    outputs = [output for cell in cells for output in cell.outputs]
    if any(output.output_type == "error" for output in outputs):
        raise LabError(f"В блокноте {path} ячейка кончилась ошибкой: исправьте её и выполните все ячейки.")
    book.metadata.pop("widgets", None)
    for output in outputs:
        output.get("data", {}).pop(_WIDGET, None)  # the text beside it stays
    return book


def _headings(book, level: str) -> list[str]:
    """The headings of that level, "#" or "##", in the text cells of ``book``."""
    texts = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    return [heading.strip() for text in texts for heading in re.findall(rf"^{level} (.+)", text, re.M)]


def _in_order(cells: list) -> Iterator:
    """The cells of the paper, the title first; code that stood before it, the set-up, is closed and mute."""
    for cell in cells:
        cell.metadata.setdefault("tags", [])
    title = next((place for place, cell in enumerate(cells) if "title" in cell.metadata.tags), 0)
    for cell in cells[:title]:
        if cell.cell_type == "code":
            cell.metadata.tags.append("setup")
            cell.outputs = []
    shown = [cell for cell in cells if "screen" not in cell.metadata.tags]
    yield from sorted(shown, key=lambda cell: "title" not in cell.metadata.tags)


def _leave_out_code(book) -> None:
    """Takes from the outputs what is source, a line of an epoch or a line of progress."""
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = _EPOCH_LINE.sub("", output.text)
        cell.outputs = [output for output in cell.get("outputs", ()) if not _is_work(output)]


def _is_work(output) -> bool:
    """Whether an output shows how the work is done: source, or a living line, which is text alone."""
    living = output.output_type == "display_data" and set(output.data) == {"text/plain"}
    return living or bool(output.get("metadata", {}).get("source")) or output.get("text") == ""


def _nameless(book) -> Iterator[tuple[dict, str]]:
    """The metadata of each image of ``book``, and the section that it stands in as its description."""
    section = ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            section = (re.findall(r"^#+ (.+)", cell.source, re.M) or [section])[-1]
        for output in cell.get("outputs", ()):
            for kind in set(_IMAGES) & set(output.get("data", ())):
                yield output.metadata.setdefault(kind, {}), f"Рисунок к разделу «{section}»"


def _anchor(heading: str) -> str:
    return re.sub(r"\W+", "-", heading).strip("-").lower()


def _markdown(folder: Path, source: str, pasted: dict | None = None) -> str:
    """Markdown to HTML: formulas to MathML, pictures embedded, those of ``folder`` and those ``pasted`` into
    the cell.
    """
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

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

        def _embed_image_or_attachment(self, src: str) -> str:
            if src.startswith("attachment:"):
                src = unquote(src)
                if src.removeprefix("attachment:") not in self.attachments:
                    raise LabError(f"Вставленной картинки {src} в блокноте нет: вставьте её снова.")
            return super()._embed_image_or_attachment(src)

        def _src_to_base64(self, src: str) -> str | None:
            if re.match("(?i)data:|attachment:", src):
                return None if src.lower().startswith("data:") else self._embed_image_or_attachment(src)
            if re.match("(?i)https?:", src):
                say(f"Картинка {src} лежит в сети, без неё на странице её не будет.")
                return None
            path = folder / unquote(src)
            if not path.is_file():
                raise LabError(f"Картинки {path} нет: положите её туда или уберите ссылку из блокнота.")
            self.path = str(path.parent)  # nbconvert embeds from one folder only
            return super()._src_to_base64(path.name)

    options = {"escape": False, "embed_images": True, "attachments": pasted}
    return MarkdownWithMath(renderer=Renderer(**options)).render(source)


def _formula(body: str, display: str) -> str:
    """LaTeX to MathML. Raises ``LabError`` for what latex2mathml cannot read or would print as it is."""
    from latex2mathml.converter import convert

    names = set(re.findall(r"\\begin\{(.*?)\}", body))
    for name in names - set(_ENVIRONMENTS):
        raise LabError(f"Окружение {name} в формуле ${body}$ не поддерживается: возьмите align или cases.")
    for name in names:
        body = re.sub(rf"\\(begin|end)\{{{re.escape(name)}\}}", rf"\\\1{{{_ENVIRONMENTS[name]}}}", body)
    try:
        told = convert(body.replace("{,}", r"\text{,}"), display=display)  # no space in 0,9
        if unknown := re.search(r">(\\\w+)<", told):
            raise ValueError(f"команда {unknown[1]} не известна")
    except Exception as error:  # latex2mathml's have no base in common
        raise LabError(f"Формула ${body}$ не читается ({error!r}): исправьте её.") from error
    return told
