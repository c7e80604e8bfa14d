"""What ``python -m labnn report`` writes: figures, tables, REPORT.md, and the blocks of a README."""

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from labnn.kit.errors import LabError
from labnn.kit.files import atomic_write, write_text
from labnn.report import studies, words
from labnn.report.statistics import MARGIN
from labnn.report.studies import Study, Told, recorded
from labnn.report.tables import markdown


def write_report(runs_dir: str | Path, folder: str | Path, readme: str | Path | None = None) -> list[Path]:
    """Writes what is recorded in ``runs_dir`` into ``folder``: REPORT.md and, in a folder of every study, its
    tables (CSV) and the figures that REPORT.md shows (PNG); and the blocks of a ``readme``. Returns the
    paths. Raises ``LabError`` if nothing is recorded.
    """
    folder, found = Path(folder), recorded(runs_dir)
    if not found:
        way_out = "обучите сети командой python -m labnn train"
        raise LabError(f"В папке {runs_dir} нет записанных прогонов: {way_out}.")
    said = {
        name: one.texts | {key: markdown(frame) for key, frame in one.tables.items()}
        for name, one in found.items()
    }
    frozen = {path.stem: path.read_text(encoding="utf-8").strip() for path in Path(runs_dir).glob("*.md")}
    text = words.templates().get_template("report.md").render(said, said=said, told=found, frozen=frozen)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    written = []
    for name, one in found.items():
        shown = {key: draw for key, draw in one.figures.items() if f"]({name}/{key}.png)" in text}
        written += write(one._replace(figures=shown), folder / name)
    written.append(write_text(folder / "REPORT.md", text))
    blocks = {f"{study}.{what}": told for study, known in said.items() for what, told in known.items()}
    return written if readme is None else [*written, rewrite_blocks(readme, blocks)]


def write_comparison(
    found: pd.DataFrame, folder: str | Path, tuning: pd.DataFrame, margin: float = MARGIN
) -> list[Path]:
    """Writes figures, tables and verdict of one comparison into ``folder``, from its ``records.table`` and
    that of the runs that chose its rates; returns the paths. ``margin``: as for ``words.verdict``.
    """
    folder = Path(folder)
    verdict = write_text(folder / "verdict.md", words.verdict(found, margin) + "\n")
    return [*write(studies.compared(Study(""), found, tuning), folder), verdict]


def write(told: Told, folder: Path) -> list[Path]:
    """Writes the figures and tables of ``told`` into ``folder``; returns their paths."""
    paths = []
    for name, draw in told.figures.items():
        figure = draw()
        paths.append(save_figure(figure, folder / f"{name}.png"))
        plt.close(figure)  # so that a notebook does not show it once more
    for name, frame in told.tables.items():
        paths.append(write_text(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n")))
    return paths


def rewrite_blocks(path: str | Path, texts: Mapping[str, str]) -> Path:
    """Puts ``texts`` between ``<!-- name: begin -->`` and ``<!-- name: end -->`` wherever the file has a
    block of that name; other blocks stay. Written whole or not at all.
    """
    text = Path(path).read_text(encoding="utf-8")

    def fill(block: re.Match) -> str:
        begin, name, _, end = block.groups()
        return f"{begin}\n{texts[name]}\n{end}" if name in texts else block[0]

    block = r"(<!-- (\S+): begin -->)(.*?)(<!-- \2: end -->)"
    return write_text(path, re.sub(block, fill, text, flags=re.DOTALL))


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes ``figure`` to ``path``, in the format of its suffix (.png, .svg, .jpg, .pdf), whole or not at
    all, the same bytes each time; returns ``path``.
    """
    path = Path(path)
    untold = {".png": {"Software": None}, ".svg": {"Creator": None, "Date": None}}
    options = {"format": path.suffix[1:], "metadata": untold.get(path.suffix), "dpi": 160}
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, **options)
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
