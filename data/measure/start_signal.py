"""How signal and gradient pass the layers of untrained networks: ``data/runs/signal.csv``, the source of the
table signal.md beside it.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pandas as pd

from labnn.batches import Batches
from labnn.data import open_dataset
from labnn.kit.decoding import decode_images
from labnn.kit.errors import LabError
from labnn.kit.files import atomic_write
from labnn.report.signal import start_signals


def write_signals(root: Path, out: Path, cache: Path) -> int:
    """Writes ``start_signals`` of 64 photos in ``root`` to the file ``out``; returns its number of rows."""
    data = open_dataset(root, crop_to_box=True)
    images = np.load(decode_images(data.train, 128, cache), mmap_mode="r")
    photos = Batches(images, data.train.labels, 64, shuffle=True)
    signals = start_signals(*next(iter(photos)), len(data.class_names))
    table = pd.concat(signals, names=["network"]).reset_index("network")
    with atomic_write(out) as unfinished:
        table.to_csv(unfinished, index=False, lineterminator="\n", float_format="%.6g")
    return len(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Как сигнал и градиент проходят слои до обучения: строка на свёртку каждой сети.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", required=True, type=Path, help="корень набора данных")
    parser.add_argument("--out", default=Path("data/runs/signal.csv"), type=Path, help="файл CSV")
    parser.add_argument("--cache", default=Path("data/cache"), type=Path, help="папка декодированных снимков")
    options = parser.parse_args()
    print(f"Свёрток: {write_signals(options.data, options.out, options.cache)}, записаны в {options.out}")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
