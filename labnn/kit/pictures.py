"""One picture file of any kind to an upright picture in RGB."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageOps

from labnn.kit.errors import LabError


def read_picture(path: Path, box: Sequence[int] | None = None) -> Image.Image:
    """The first picture in ``path``, RGB and upright as its EXIF says, cropped to ``box``: x1, y1, x2, y2 in
    pixels from 1, both ends inside.

    Raises ``LabError`` for a file that cannot be decoded or has over 8 bits a colour, which Pillow would
    cut off at 255, and for a box outside of the picture.
    """
    try:
        with Image.open(path) as file:
            file.load()
            with suppress(Exception):  # of broken EXIF; the picture itself is whole
                ImageOps.exif_transpose(file, in_place=True)
            if file.mode[0] in "IF":
                raise ValueError("больше 8 бит на цвет")
            image = file.convert("RGB")
        if box is None:
            return image
        left, top, right, bottom = box
        edges = max(left - 1, 0), max(top - 1, 0), min(right, image.width), min(bottom, image.height)
        if edges[0] >= edges[2] or edges[1] >= edges[3]:
            raise ValueError(f"рамка {list(map(int, box))} лежит вне снимка")
        return image.crop(edges)
    except Exception as error:  # the decoders raise whatever the broken bytes led them to
        reason = str(error).replace(str(path), path.name)
        way_out = "проверьте путь и рамку или замените его снимком JPEG или PNG"
        raise LabError(f"Снимок {path} не читается ({reason}): {way_out}.") from error
