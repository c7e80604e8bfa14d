"""What ``python -m labnn report`` writes: figures, tables, REPORT.md, and the blocks of a README."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from labnn.experiment import Run
from labnn.kit.errors import LabError
from labnn.kit.files import atomic_write, read_errors, write_text
from labnn.report import words
from labnn.report.studies import STUDIES, Comparison, Study, recorded

TEMPLATE = Path(__file__).with_name("report.md")


def write_report(runs_dir: str | Path, folder: str | Path, readme: str | Path | None = None) -> list[Path]:
    """Writes what is recorded in ``runs_dir`` into ``folder``: figures (PNG and SVG), tables (CSV and
    Markdown), those of a comparison in a folder of its own, and REPORT.md; into a ``readme`` its blocks.
    Returns the paths.

    Raises ``LabError`` if nothing is recorded.
    """
    folder, found = Path(folder), recorded(runs_dir)
    if not found:
        way_out = "обучите сети командой python -m labnn train"
        raise LabError(f"В папке {runs_dir} нет записанных прогонов: {way_out}.")
    blocks = {path.stem: path.read_text(encoding="utf-8").strip() for path in Path(runs_dir).glob("*.md")}
    recorded_names = {study.name for study, _ in found} | set(blocks)
    sections, written, others = _sections(), [], []
    for study, record in found:
        paths, texts = _write_study(study, record, folder)
        written += paths
        if STUDIES.get(study.name) is study:
            blocks = texts | blocks  # of two blocks of one name the first study's
        if STUDIES.get(study.name) is not study or study.name not in " ".join(sections).split():
            others.append(_section(study, texts, [path.relative_to(folder) for path in paths]))
    told = [text for needs, text in sections.items() if set(needs.split()) <= recorded_names]
    report = "\n\n".join([Template(text).substitute(blocks) for text in told] + others)
    written.append(write_text(folder / "REPORT.md", report + "\n"))
    return written if readme is None else [*written, rewrite_blocks(readme, blocks)]


def write_comparison(runs: Sequence[Run], folder: str | Path, tuning: Sequence[Run] = ()) -> list[Path]:
    """Writes figures, tables and the verdict of ``runs``, one data set's, into ``folder``; returns the paths.

    ``tuning``: the runs that their learning rates were chosen by, where they were.
    """
    return _write_study(Comparison(""), (tuning, runs), Path(folder))[0]


def rewrite_blocks(path: str | Path, blocks: dict[str, str]) -> Path:
    """Puts the texts of ``blocks`` between ``<!-- name: begin -->`` and ``<!-- name: end -->`` wherever the
    file has such a block; blocks of other names stay. Written whole or not at all.
    """
    path = Path(path)
    with read_errors(path):
        text = path.read_text(encoding="utf-8")

    def fill(block: re.Match) -> str:
        begin, name, old, end = block.groups()
        return f"{begin}\n{blocks[name]}\n{end}" if name in blocks else block[0]

    block = r"(<!-- (\S+): begin -->)(.*?)(<!-- \2: end -->)"
    return write_text(path, re.sub(block, fill, text, flags=re.DOTALL))


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes ``figure`` to ``path``, PNG or, for photos, JPEG, and beside a PNG as SVG, each whole or not at
    all, the same bytes each time; returns ``path``.
    """
    path = Path(path)
    untold = {".png": {"Software": None}, ".svg": {"Creator": None, "Date": None}, ".jpg": None}
    for one in [path, path.with_suffix(".svg")] if path.suffix == ".png" else [path]:
        options = {"format": one.suffix[1:], "metadata": untold[one.suffix]}
        with atomic_write(one) as unfinished:
            figure.savefig(unfinished, dpi=160, **options)
    return path


def inline(figure: Figure, alt: str, kind: str = "png") -> tuple[dict[str, str], dict[str, dict]]:
    """``figure`` for a notebook, sharp on dense screens, small: data and metadata by MIME type, with ``alt``
    for who does not see it; a "png" of 16 colours, or for photos a "jpeg". Closes ``figure``.
    """
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=144)
    plt.close(figure)
    picture = Image.open(drawn).convert("RGB")
    # At two pixels a point what JPEG loses at this quality is not seen.
    (picture if kind == "jpeg" else picture.quantize(16)).save(packed, kind, optimize=True, quality=35)
    content = base64.b64encode(packed.getvalue()).decode()
    return {f"image/{kind}": content}, {f"image/{kind}": {"width": picture.width // 2, "alt": alt}}


def save_table(frame: pd.DataFrame, stem: str | Path) -> list[Path]:
    """Writes ``frame`` as a reader sees it to ``stem``.csv and ``stem``.md; returns their paths."""
    csv = words.table(frame).to_csv(index=False, lineterminator="\n")
    texts = {".csv": csv, ".md": words.markdown(frame) + "\n"}
    return [write_text(f"{stem}{suffix}", text) for suffix, text in texts.items()]


def _write_study(study: Study, record: Any, folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Writes its files, of a comparison into a folder of its own; and gives its tables, in Markdown, and
    sentences by name.
    """
    folder = folder / study.name if isinstance(study, Comparison) else folder
    paths, frames, texts = [], study.tables(record), study.texts(record)
    for name, figure in study.figures(record).items():
        picture = save_figure(figure, folder / f"{name}.png")
        paths += [picture, picture.with_suffix(".svg")]
        plt.close(figure)  # so that a notebook does not show it once more
    for name, frame in frames.items():
        paths += save_table(frame, folder / name)
    if "verdict" in texts:
        paths.append(write_text(folder / "verdict.md", texts["verdict"] + "\n"))
    return paths, texts | {name: words.markdown(frame) for name, frame in frames.items()}


def _sections() -> dict[str, str]:
    """The sections of the report's template by what each needs: names of studies and measurements."""
    text = TEMPLATE.read_text(encoding="utf-8")
    return {
        needs: body.strip() for needs, body in re.findall(r"<!-- (.*?) -->\n(.*?)(?=<!-- |\Z)", text, re.S)
    }


def _section(study: Study, texts: dict[str, str], paths: Sequence[Path]) -> str:
    """What the report says of a study that its template does not know."""
    kind = "Сравнение" if isinstance(study, Comparison) else "Опыт"
    pictures = [f"![{path.stem}]({path.as_posix()})" for path in paths if path.suffix == ".png"]
    again = ("epochs-", "verdict_brief")  # too long for a report, and said at length beside it
    shown = [text for name, text in texts.items() if text and not name.startswith(again)]
    return "\n\n".join([f"## {kind} «{study.name}»", *pictures, *shown])
