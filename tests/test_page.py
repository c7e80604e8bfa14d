"""The report that is handed in: one HTML file that needs no other and fits every screen, a PDF on A4."""

import base64
import io
import re
import shutil

import nbformat
import pytest
from conftest import PROJECT
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from labnn import LabError
from labnn.__main__ import main
from labnn.report.page import BROWSERS, write_html, write_pdf

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def page(tmp_path, *cells, code=True) -> str:
    """The HTML of a notebook of these cells; a string is a text cell."""
    cells = [new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    nbformat.write(new_notebook(cells=cells), tmp_path / "own.ipynb")
    return write_html(tmp_path / "own.ipynb", tmp_path / "own.html", code).read_text(encoding="utf-8")


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(file, "PNG")
    return file.getvalue()


TOO_WIDE = """() => [...document.querySelectorAll("body *")]
    .filter(element => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(element => element.outerHTML.slice(0, 200))"""

BROKEN_WORDS = """() => [...document.querySelectorAll("td, th")].flatMap(cell => {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), broken = [];
    for (let text; (text = texts.nextNode());)
        for (const word of text.data.matchAll(/[^ \\n\\u00ad…-]+/g)) {
            const range = document.createRange();
            range.setStart(text, word.index);
            range.setEnd(text, word.index + word[0].length);
            if (new Set([...range.getClientRects()].map(line => line.top)).size > 1) broken.push(word[0]);
        }
    return broken;
})"""


@needs_chromium
def test_page_fits_every_screen_and_asks_the_network_for_nothing(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    html, said, asked = write_html(PROJECT / "lab1.ipynb", tmp_path / "report.html"), [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        shown = browser.new_page()
        shown.on("console", lambda message: said.append(message.text))
        shown.on("request", lambda request: asked.append(request.url))
        for width in (1280, 390):
            shown.set_viewport_size({"width": width, "height": 900})
            shown.goto(html.as_uri())
            assert shown.evaluate(TOO_WIDE) == []
        assert shown.evaluate(BROKEN_WORDS) == []
        assert shown.locator("math").count() > 10 and "$$" not in shown.inner_text("body")
        texts = shown.locator("img").evaluate_all("images => images.map(image => image.alt)")
        assert len(texts) > 5 and all(re.search("[а-яё]", text) for text in texts)
        browser.close()
    assert said == [] and {url.split(":")[0] for url in asked} <= {"file", "data"}


@needs_chromium
def test_pdf_is_a4_in_as_many_pages_as_a_teacher_reads(tmp_path):
    html = write_html(PROJECT / "lab1.ipynb", tmp_path / "report.html")
    pdf = write_pdf(html, tmp_path / "report.pdf").read_bytes()
    [(width, height)] = set(re.findall(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", pdf))
    assert [round(float(side) / 72 * 25.4) for side in (width, height)] == [210, 297]
    assert len(re.findall(rb"/Type ?/Page\b", pdf)) <= 18


def test_page_bears_the_title_of_the_lab_and_lists_its_sections(tmp_path):
    cells = [new_markdown_cell("# Лабораторная 1 & 2\nдля экрана", metadata={"tags": ["screen"]})]
    cells += ["## Начало", new_markdown_cell("титул", metadata={"tags": ["title"]}), "# Вторая часть"]
    html = page(tmp_path, *cells)
    assert "<title>Лабораторная 1 &amp; 2</title>" in html and "для экрана" not in html
    assert html.index("титул") < html.index('href="#начало"') < html.index('id="начало"')


def test_without_code_there_is_no_source_and_no_line_of_an_epoch(tmp_path):
    log = "Эпоха 1, Время обучения: 1.00c., Потери: 2.3, Точность: 9.00%\nТестовая точность: 9.00%\n"
    source = {"text/markdown": "```python\nclass Fire\n```"}
    outputs = [new_output("stream", text=log), new_output("display_data", {"text/plain": "прогонов 1 из 2"})]
    outputs.append(new_output("display_data", source, metadata={"source": True}))
    cell = new_code_cell("train = 1", execution_count=1, outputs=outputs)
    work = ("Эпоха 1", "прогонов 1", "Fire", "train")
    full, short = page(tmp_path, cell), page(tmp_path, cell, code=False)
    assert all(word in full for word in work) and not any(word in short for word in work)
    assert "Тестовая точность: 9.00%" in short


def test_code_before_the_title_is_folded_and_what_it_printed_is_left_out(tmp_path):
    printed = [new_output("stream", text="Устройство: процессор")]
    before = new_code_cell("setup = 1", execution_count=1, outputs=printed)
    title = new_markdown_cell("титул", metadata={"tags": ["title"]})
    html = page(tmp_path, before, title, new_code_cell("after = 2", execution_count=2))
    folded = [code.split(">")[0] for code in html.split("<details")[1:]]
    assert folded == [' class="code"', ' class="code" open=""'] and "Устройство" not in html


def test_pictures_pasted_and_beside_the_notebook_are_in_the_page(tmp_path):
    for name in ("снимок.png", "Screenshot 1.png"):
        (tmp_path / name).write_bytes(picture())
    pasted = new_markdown_cell("![a](attachment:image%201.png)")
    pasted["attachments"] = {"image 1.png": {"image/png": base64.b64encode(picture()).decode()}}
    html = page(tmp_path, pasted, "![a](снимок.png)", "![a](Screenshot%201.png)", '<img src="снимок.png">')
    assert html.count('src="data:image/png;base64,') == 4


MATH = [r"$$x = 0{,}9 \tag{3}$$", r"\begin{equation}x\end{equation}", r"$\begin{cases}1\\2\end{cases}$"]
MATH += [rf"\begin{{{name}}} a &= b \\ c &= d \end{{{name}}}" for name in ("align", "aligned", "matrix")]


def test_formulas_of_every_kind_are_mathml(tmp_path):
    html = page(tmp_path, *MATH)
    assert html.count("<math") == 6 and html.count("<mtable") == 4
    assert "(3)" in html and "(1)" not in html and "begin" not in html


@pytest.mark.parametrize("text", ["![a]({})", "![a](attachment:{})", r"$\{} x$", r"\begin{{{}}}a\end{{{}}}"])
def test_a_picture_that_is_missing_and_a_formula_that_cannot_be_read_are_named(text, tmp_path):
    with pytest.raises(LabError, match="missing"):
        page(tmp_path, text.format("missing", "missing"))


def test_a_widget_without_its_state_is_shown_by_its_text(tmp_path):
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}, "text/plain": "100 %"}
    output = new_output("display_data", widget)
    assert "100 %" in page(tmp_path, new_code_cell("bar", execution_count=1, outputs=[output]))


def test_what_is_no_executed_notebook_is_told_with_status_2(tmp_path, capsys):
    nbformat.write(new_notebook(cells=[new_code_cell("1 + 1")]), tmp_path / "new.ipynb")
    (tmp_path / "text.ipynb").write_text("текст", encoding="utf-8")
    wrong = {"new.ipynb": "не выполнен", "absent.ipynb": "не читается", "text.ipynb": "не читается"}
    for name, words in wrong.items():
        files = ["--html", str(tmp_path / "report.html"), "--notebook", str(tmp_path / name)]
        assert main(["report", *files]) == 2
        told = capsys.readouterr()
        assert f"{name} {words}" in told.err and len(told.err.splitlines()) == 1 and told.out == ""


def test_without_chromium_html_is_written_and_pdf_is_explained(tmp_path, monkeypatch, capsys):
    page(tmp_path, "текст")
    monkeypatch.setenv("PATH", str(tmp_path))
    html, pdf = tmp_path / "report.html", tmp_path / "report.pdf"
    files = ["--notebook", str(tmp_path / "own.ipynb"), "--html", str(html), "--pdf", str(pdf)]
    assert main(["report", *files]) == 2
    assert "нужен Chromium" in capsys.readouterr().err and html.is_file() and not pdf.exists()


SHOWN = """
import matplotlib.pyplot as plt
import pandas as pd
from labnn import SqueezeNet
from labnn.report import show
show.stop_in_one_line()
for caption in ("Первая", "Вторая", "Первая"):
    show.table(pd.DataFrame({"Слой": ["Conv2d"], "Параметров": ["1792"]}), caption)
show.figure(plt.subplots()[0], "Первый")
SqueezeNet(0)
"""


def test_captions_are_numbered_once_and_are_the_texts_of_images_and_a_mistake_is_one_line():
    written = new_notebook(cells=[new_code_cell(SHOWN)])
    resources = {"metadata": {"path": str(PROJECT)}}
    NotebookClient(written, resources=resources, allow_errors=True).execute()
    *tables, image, caption, mistake = written.cells[0].outputs
    numbers = [re.search(r"Таблица \d — [а-яА-Я]*", table.data["text/plain"])[0] for table in tables]
    assert numbers == ["Таблица 1 — Первая", "Таблица 2 — Вторая", "Таблица 1 — Первая"]
    assert image.metadata["image/png"]["alt"] == image.data["text/plain"] == "Первый"
    assert caption.data["text/plain"] == "*Рисунок 1 — Первый*"
    assert mistake.traceback == [mistake.evalue] and "num_classes" in mistake.evalue
