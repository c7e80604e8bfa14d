"""Nearly the same pictures in the training and the test part of a data set, which flatter a test accuracy."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from labnn.data import open_dataset
from labnn.kit.decoding import decode_images
from labnn.kit.errors import LabError
from labnn.kit.files import atomic_write


def near_duplicates(first: np.ndarray, second: np.ndarray, threshold: float = 0.95) -> pd.DataFrame:
    """Pairs of nearly the same picture, one from each of two decoded parts, uint8 ``(n, size, size, 3)``.

    Pictures are shrunk to 32 x 32 and correlated over pixels and channels, as they are and mirrored; columns
    ``first``, ``second`` (indices) and ``correlation`` of at least ``threshold``, the largest first.
    """
    first, second = _small_and_standard(first), _small_and_standard(second)
    mirrored = first.view(-1, 3, 32, 32).flip(3).flatten(1)
    correlation = torch.maximum(first @ second.T, mirrored @ second.T)
    rows, columns = (correlation >= threshold).nonzero(as_tuple=True)
    table = pd.DataFrame({"first": rows, "second": columns, "correlation": correlation[rows, columns]})
    return table.sort_values("correlation", ascending=False, ignore_index=True)


def _small_and_standard(images: np.ndarray) -> Tensor:
    # Not all at once: floats take four times the bytes.
    parts = torch.from_numpy(images).permute(0, 3, 1, 2).split(256)
    pixels = torch.cat([F.interpolate(part.float(), (32, 32), mode="area") for part in parts]).flatten(1)
    return F.normalize(pixels - pixels.mean(dim=1, keepdim=True), dim=1)


def write_duplicates(root: Path, out: Path, cache: Path) -> int:
    """Writes the pairs of the data set in ``root`` to the CSV file ``out``; returns how many there are."""
    data = open_dataset(root, crop_to_box=True)
    files = [decode_images(part, 128, cache) for part in (data.train, data.test)]
    pairs = near_duplicates(*(np.load(file, mmap_mode="c") for file in files))
    table = pd.DataFrame(
        {
            "train_file": [data.train.paths[index].name for index in pairs["first"]],
            "test_file": [data.test.paths[index].name for index in pairs["second"]],
            "train_class": data.train.labels[pairs["first"]],
            "test_class": data.test.labels[pairs["second"]],
            "correlation": pairs["correlation"].round(4),
        }
    )
    with atomic_write(out) as unfinished:
        table.to_csv(unfinished, index=False, lineterminator="\n")
    return len(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Почти одинаковые снимки в обучающей и тестовой частях набора.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", required=True, type=Path, help="корень набора данных")
    parser.add_argument("--out", required=True, type=Path, help="файл CSV: пары снимков, классы, корреляция")
    parser.add_argument("--cache", default=Path("data/cache"), type=Path, help="папка декодированных снимков")
    options = parser.parse_args()
    print(f"Пар: {write_duplicates(options.data, options.out, options.cache)}, записаны в {options.out}")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
