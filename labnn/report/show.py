"""What the notebook shows: figures and tables numbered, with captions (ГОСТ 7.32), text that every reader can
show.
"""

import re
from collections import defaultdict
from pathlib import Path

import pandas as pd
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from labnn.kit.errors import StoppedByKeyboardInterrupt
from labnn.report.tables import markdown
from labnn.report.write import inline, save_figure

_ADVICE = "Остановлено: выполните эту ячейку снова, когда понадобится её результат."

_numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)


def stop_in_one_line() -> None:
    """From now on a stopped cell leaves one line in the notebook and no traceback: what was saved, where
    something was, or what to do.
    """

    def told(shell, kind, stop, trace, tb_offset=None) -> None:
        if isinstance(stop, StoppedByKeyboardInterrupt):
            shell.showtraceback((kind, stop, trace), tb_offset=tb_offset)  # its own line
        else:
            print(_ADVICE)

    if (shell := get_ipython()) is not None:
        shell.set_custom_exc((KeyboardInterrupt,), told)


def figure(drawn: Figure, caption: str, path: str | Path | None = None, *, photos: bool = False) -> None:
    """Shows ``drawn`` with its caption below, which is its alternative text, too; ``photos`` as JPEG.

    Saves it to ``path`` as well, where one is given, and closes it.
    """
    if path is not None:
        save_figure(drawn, path)
    content, about = inline(drawn, caption, "jpeg" if photos else "png")
    display(content | {"text/plain": caption}, metadata=about, raw=True)
    text(_caption("Рисунок", caption))


def table(frame: pd.DataFrame, caption: str) -> None:
    """Shows ``frame`` as a reader sees it, its caption above; nothing of one without rows."""
    if len(frame):
        text(f"{_caption('Таблица', caption)}\n\n{markdown(frame)}")


def text(written: str) -> None:
    """Shows ``written``, Markdown, and itself where Markdown is not rendered; only there tables need their
    spaces.
    """
    small = re.sub(r"^\|.*", _tight, written, flags=re.M)
    display({"text/markdown": small, "text/plain": written}, raw=True)


def _tight(row: re.Match) -> str:
    return re.sub("-{4,}", "---", re.sub(" {2,}", " ", row[0]))


def _caption(word: str, caption: str) -> str:
    """«Рисунок 1 — …»: a caption keeps its number when a cell is executed again."""
    known = _numbers[word]
    return f"*{word} {known.setdefault(caption, len(known) + 1)} — {caption}*"
