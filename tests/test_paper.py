"""The report that is handed in: HTML that fits every screen, a PDF on A4, sentences where it cannot be."""

import re
import shutil
import zlib

import nbformat
import pytest
from conftest import PROJECT
from nbclient import NotebookClient

from labnn.__main__ import main
from labnn.kit.errors import LabError
from labnn.report.paper import BROWSERS, write_html, write_pdf

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return write_html(PROJECT / "lab1.ipynb", tmp_path_factory.mktemp("paper") / "report.html")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


TOO_WIDE = """() => [...document.querySelectorAll("body *")]
    .filter(element => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(element => element.outerHTML.slice(0, 200))"""


@needs_chromium
@pytest.mark.parametrize("width", [1280, 768, 390])
def test_nothing_is_wider_than_the_page_and_the_browser_has_nothing_to_say(width, html, browser):
    page, said, asked = browser.new_page(viewport={"width": width, "height": 900}), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(html.as_uri())
    assert page.evaluate(TOO_WIDE) == [] and said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.locator("math").count() > 10 and "$$" not in page.inner_text("body")
    page.close()


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
def test_tables_on_a_phone_break_no_word_and_no_number(html, browser):
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(html.as_uri())
    assert page.locator("td").count() > 100 and page.evaluate(BROKEN_WORDS) == []
    page.close()


def test_every_image_has_a_text(html):
    images = re.findall(r"<img[^>]*>", html.read_text(encoding="utf-8"))
    texts = [re.search(r'alt="([^"]*)"', image) for image in images]
    assert images and all(text and re.search("[а-яё]", text[1]) for text in texts)


def test_code_folds_and_can_be_left_out(html, tmp_path):
    without = write_html(PROJECT / "lab1.ipynb", tmp_path / "report.html", code=False)
    assert '<details class="code"' in html.read_text(encoding="utf-8")
    assert '<details class="code"' not in without.read_text(encoding="utf-8")


@needs_chromium
def test_pdf_is_a4_and_its_pages_are_numbered(html, tmp_path):
    pdf = write_pdf(html, tmp_path / "report.pdf").read_bytes()
    sizes = set(re.findall(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", pdf))
    assert len(sizes) == 1
    assert [round(float(side) / 72 * 25.4) for side in sizes.pop()] == [210, 297]


def pdf_of(cells, tmp_path) -> tuple[list[bytes], bytes]:
    """The pages' objects of a notebook's PDF, and its streams, unpacked."""
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "own.ipynb")
    html = write_html(tmp_path / "own.ipynb", tmp_path / "own.html")
    pdf = write_pdf(html, tmp_path / "own.pdf").read_bytes()
    streams = re.findall(rb"FlateDecode[^>]*>>\s*stream\r?\n(.*?)\r?\nendstream", pdf, re.S)
    return re.findall(rb"/Type ?/Page\b", pdf), b"".join(map(zlib.decompress, streams))


@needs_chromium
def test_pages_after_the_first_bear_their_numbers(tmp_path):
    text = nbformat.v4.new_markdown_cell("\n\n".join(["Строка без цифр."] * 60))
    pages, content = pdf_of([text], tmp_path)
    assert len(pages) == 2
    digits = re.search(rb"<0032>|<0031> <0032>", content)  # what the glyphs of a font mean: "2"
    assert digits and b"<0031>" not in content


# What must not end a page: headings, a table's caption, an image whose caption follows.
LEADS = """() => [...document.querySelectorAll("h1, h2, h3, h4, p:has(+ table), .output_area:has(img)")]
    .filter(element => element.matches("h1, h2, h3, h4, p") || /^Рисунок/.test(
        element.nextElementSibling?.innerText ?? ""))
    .map(element => [element.tagName, getComputedStyle(element).breakAfter])"""


@needs_chromium
def test_no_heading_or_caption_is_left_alone_at_a_pages_foot(html, browser):
    page = browser.new_page()
    page.emulate_media(media="print")
    page.goto(html.as_uri())
    leads = page.evaluate(LEADS)
    assert {tag for tag, _ in leads} >= {"H2", "P", "DIV"} and {after for _, after in leads} == {"avoid"}
    page.close()


def book(tmp_path, **cell):
    path = tmp_path / "own.ipynb"
    cells = [nbformat.v4.new_code_cell("1 + 1", **cell)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_what_is_no_executed_notebook_is_told_with_status_2(tmp_path, capsys):
    wrong = {"не выполнен": book(tmp_path), "нет": tmp_path / "absent.ipynb"}
    wrong["не блокнот"] = tmp_path / "text.ipynb"
    wrong["не блокнот"].write_text("текст", encoding="utf-8")
    for words, path in wrong.items():
        assert main(["report", "--html", str(tmp_path / "report.html"), "--notebook", str(path)]) == 2
        told = capsys.readouterr()
        assert words in told.err and len(told.err.splitlines()) == 1 and told.out == ""


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(LabError, match="Нельзя записать"):
        write_html(book(tmp_path, execution_count=1), tmp_path / "taken" / "report.html")


def test_without_chromium_html_is_written_and_pdf_is_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    html, pdf = tmp_path / "report.html", tmp_path / "report.pdf"
    files = ["--notebook", str(book(tmp_path, execution_count=1)), "--html", str(html), "--pdf", str(pdf)]
    assert main(["report", *files]) == 2
    told = capsys.readouterr()
    assert "нужен Chromium" in told.err and html.is_file() and not pdf.exists()


SHOWN = """
import matplotlib.pyplot as plt
import pandas as pd
from labnn.report import show
for caption in ("Первая", "Вторая", "Первая"):
    show.table(pd.DataFrame({"Слой": ["Conv2d"], "Параметров": ["1792"]}), caption)
show.figure(plt.subplots()[0], "Первый")
"""


def test_captions_are_numbered_once_and_are_the_alternative_texts(tmp_path):
    written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SHOWN)])
    NotebookClient(written, resources={"metadata": {"path": str(PROJECT)}}).execute()
    *tables, image, caption = written.cells[0].outputs
    numbers = [re.search(r"Таблица \d — [а-яА-Я]*", table.data["text/plain"])[0] for table in tables]
    assert numbers == ["Таблица 1 — Первая", "Таблица 2 — Вторая", "Таблица 1 — Первая"]
    assert all("Conv2d" in table.data["text/plain"] for table in tables)
    assert image.metadata["image/png"]["alt"] == image.data["text/plain"] == "Первый"
    assert caption.data["text/plain"] == "*Рисунок 1 — Первый*"
    nbformat.write(written, tmp_path / "own.ipynb")
    html = write_html(tmp_path / "own.ipynb", tmp_path / "own.html").read_text(encoding="utf-8")
    assert 'alt="Первый"' in html and "<td" in html and "1792" in html


def test_title_comes_first_and_what_is_for_the_screen_is_left_out(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell(text, metadata={"tags": tags})
        for text, tags in (("для экрана", ["screen"]), ("начало", []), ("титул", ["title"]))
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "own.ipynb")
    html = write_html(tmp_path / "own.ipynb", tmp_path / "own.html").read_text(encoding="utf-8")
    assert "для экрана" not in html and html.index("титул") < html.index("начало")


def test_code_before_the_title_is_folded_and_what_it_printed_is_left_out(tmp_path):
    printed = nbformat.v4.new_output("stream", text="Устройство: процессор")
    cells = [
        nbformat.v4.new_code_cell("setup = 1", execution_count=1, outputs=[printed]),
        nbformat.v4.new_markdown_cell("титул", metadata={"tags": ["title"]}),
        nbformat.v4.new_code_cell("after = 2", execution_count=2),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "own.ipynb")
    html = write_html(tmp_path / "own.ipynb", tmp_path / "own.html").read_text(encoding="utf-8")
    folded = [code.split(">")[0] for code in html.split("<details")[1:]]
    assert folded == [' class="code"', ' class="code" open=""'] and "Устройство" not in html


def test_a_formula_that_cannot_be_read_is_named(tmp_path):
    cells = [nbformat.v4.new_markdown_cell(r"Здесь $\left(1$.")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "own.ipynb")
    with pytest.raises(LabError, match=r"Формула .*left"):
        write_html(tmp_path / "own.ipynb", tmp_path / "own.html")
