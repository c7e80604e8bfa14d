"""What the notebook shows: figures and tables numbered, with captions (ГОСТ 7.32), text and source."""

import inspect
from collections import defaultdict
from textwrap import dedent
from traceback import walk_tb
from typing import Any

import pandas as pd
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from labnn.kit.errors import LabError
from labnn.report.tables import markdown
from labnn.report.write import inline

_SAY_IT_THEMSELVES = {"train_test", "run_all"}  # what was saved, and how to go on

_numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)


def stop_in_one_line() -> None:
    """From now on a stopped cell leaves one line in the notebook, a mistake of the user's its sentence."""

    def told(shell, kind, stop, trace, tb_offset=None) -> None:
        if isinstance(stop, LabError):
            stop._render_traceback_ = lambda: [str(stop)]  # all that IPython shows of it
            shell.showtraceback((kind, stop, trace), tb_offset=tb_offset)
        elif not _SAY_IT_THEMSELVES & {frame.f_code.co_name for frame, _ in walk_tb(trace)}:
            print("Остановлено: выполните эту ячейку снова, когда понадобится её результат.")

    if (shell := get_ipython()) is not None:
        shell.set_custom_exc((KeyboardInterrupt, LabError), told)


def figure(drawn: Figure, caption: str, *, photos: bool = False) -> None:
    """Shows ``drawn``, ``photos`` as JPEG, above its caption, which is its alternative text; closes it."""
    content, about = inline(drawn, caption, "jpeg" if photos else "png")
    display(content | {"text/plain": caption}, metadata=about, raw=True)
    text(_caption("Рисунок", caption))


def table(frame: pd.DataFrame, caption: str) -> None:
    """Shows ``frame`` as a reader sees it, its caption above; nothing of one without rows."""
    if len(frame):
        text(f"{_caption('Таблица', caption)}\n\n{markdown(frame)}")


def text(written: str) -> None:
    """Shows ``written``, Markdown, as it is where Markdown is not rendered."""
    display({"text/markdown": written, "text/plain": written}, raw=True)


def source(*things: Any) -> None:
    """Shows the source of functions or classes; the page that is asked for no code leaves it out."""
    code = "\n\n".join(dedent(inspect.getsource(thing)) for thing in things).strip()
    shown = {"text/markdown": f"```python\n{code}\n```", "text/plain": code}
    display(shown, metadata={"source": True}, raw=True)


def title_page(lines: dict[str, str], topic: str) -> None:
    """Shows a title page of named ``lines``; one that is missing or empty is left to be written by hand."""
    written = defaultdict(lambda: "_" * 24, {name: value for name, value in lines.items() if value})
    people = "".join(f"<p>{name}: {written[name]}</p>" for name in ("Вариант", "Выполнил", "Проверил"))
    page = (
        f"<div style='text-align:center'><p>{written['Вуз']}<br>Кафедра: {written['Кафедра']}"
        f"<br>Дисциплина: {written['Дисциплина']}</p><p><b>ОТЧЁТ ПО ЛАБОРАТОРНОЙ РАБОТЕ № 1</b><br>{topic}"
        f"</p><div style='text-align:right'>{people}</div><p>{written['Город и год']}</p></div>"
    )
    display({"text/html": page, "text/plain": topic}, raw=True)


def _caption(word: str, caption: str) -> str:
    """«Рисунок 1 — …»: a caption keeps its number when a cell is executed again."""
    known = _numbers[word]
    return f"*{word} {known.setdefault(caption, len(known) + 1)} — {caption}*"
