"""One picture file of any kind to an upright picture in RGB."""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffTags

from labnn.kit.errors import LabError

_TIFF = {tag.name: number for number, tag in TiffTags.TAGS_V2.items()}


class _UnknownRange(ValueError):
    """Nothing says which number of a picture is white."""


def read_picture(path: Path, box: Sequence[int] | None = None) -> Image.Image:
    """The first picture in ``path``, RGB and upright as its EXIF says, cropped to ``box``: x1, y1, x2, y2 in
    pixels from 1, inclusive. Raises ``LabError`` for a file that cannot be decoded and for a box outside of
    the picture.
    """
    try:
        with Image.open(path) as file:
            file.load()
            with suppress(Exception):  # of broken EXIF; the picture itself is whole
                ImageOps.exif_transpose(file, in_place=True)
            image = to_rgb(file)
    except _UnknownRange:
        found = f"Яркость снимка {path} записана числами с неизвестным пределом"
        raise LabError(f"{found}: сохраните его с 8 или 16 битами на цвет.") from None
    except Exception as error:  # the decoders raise whatever the broken bytes led them to
        reason = " ".join(str(error).replace(str(path), path.name).split())
        way_out = "замените файл целым снимком JPEG или PNG либо скачайте набор заново"
        raise LabError(f"Снимок {path} не читается ({reason}): {way_out}.") from None
    if box is None:
        return image
    left, top, right, bottom = box
    edges = max(left - 1, 0), max(top - 1, 0), min(right, image.width), min(bottom, image.height)
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        found = f"Рамка {[int(edge) for edge in box]} лежит вне снимка {path}"
        raise LabError(f"{found}: исправьте разметку или читайте набор без кадрирования.")
    return image.crop(edges)


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` of any of Pillow's modes in RGB: a transparent one by the colours beneath, as ``ImageFolder``
    does.

    Grey of more than 8 bits, which Pillow would cut off at 255, is scaled from its range to 0..255.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float64)
        low, high = _range(image, values)
        scaled = np.clip((values - low) / (high - low) * 255, 0, 255)
        if _tiff(image, "PhotometricInterpretation") == 0:  # white is zero; Pillow minds it in 8 bits only
            scaled = 255 - scaled
        return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
    if image.mode in ("La", "RGBa"):  # premultiplied
        return image.convert(image.mode.upper()).convert("RGB")
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")


def _range(image: Image.Image, values: np.ndarray) -> tuple[float, float]:
    """The numbers that stand for black and white in grey of more than 8 bits."""
    if image.mode.startswith("I;16"):
        return 0, 2 ** (_tiff(image, "BitsPerSample") or 16) - 1
    if image.mode == "I" and image.format in ("PPM", "PNG"):  # 16 bits, held in 32
        return 0, 65535
    low, high = _tiff(image, "SMinSampleValue"), _tiff(image, "SMaxSampleValue")
    if low is not None and high is not None and low < high and np.isfinite(values).all():
        return low, high
    if image.mode == "F" and values.min() >= 0 and values.max() <= 1:  # the convention; false for NaN
        return 0, 1
    raise _UnknownRange


def _tiff(image: Image.Image, name: str) -> float | None:
    """The number under the tag ``name``, if ``image`` comes from a TIFF that has it."""
    value = getattr(image, "tag_v2", {}).get(_TIFF[name])
    return value[0] if isinstance(value, tuple) else value


def upright_size(file: io.BytesIO | Path) -> tuple[int, int]:
    """Width and height of a picture after the turn that its EXIF asks for; only the header is read."""
    turned = False
    with Image.open(file) as image:
        with suppress(Exception):  # of broken EXIF, as in ``read_picture``
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size[::-1] if turned else image.size
