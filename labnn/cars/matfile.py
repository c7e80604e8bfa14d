"""Reads the annotations out of MATLAB 5 files: structures and cells of numbers and words, nothing else.

In place of ``scipy.io.loadmat``, which a damaged file can crash together with the whole process
(tests/test_fuzz.py finds such files within a thousand tries). The format: MathWorks, "MAT-File Format",
chapter 1.
"""

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
# MATLAB writes characters as 8- and 16-bit numbers, too
_WORDS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, range(6, 16)
_LARGEST = 2**28  # bytes after decompression, against bombs; the official annotations take five million
_DAMAGE = (struct.error, zlib.error, ValueError, LookupError, ArithmeticError, RecursionError)


class MatError(ValueError):
    """The file is damaged or holds what annotations never do."""


def read_mat(path: str | Path) -> dict[str, Any]:
    """The variables of a file by name: a number or an array of numbers, a string, a list for a cell, for an
    array of structures a dictionary of its fields, each a list with the values of all elements.

    Raises ``MatError`` for anything else, and ``NotImplementedError`` for version 7.3, which is HDF5.
    """
    content = Path(path).read_bytes()
    if content[:10] == b"MATLAB 7.3" or content[124:126] in (b"\x00\x02", b"\x02\x00"):
        raise NotImplementedError("MATLAB 7.3")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    _require(order, "no header of a MATLAB 5 file")
    variables = {}
    try:
        for kind, body in _elements(content[128:], order):
            if kind == _COMPRESSED:
                unpacker = zlib.decompressobj()
                body = unpacker.decompress(body, _LARGEST)
                _require(unpacker.eof, "compressed data is cut or too large")
                [(kind, body)] = _elements(body, order)
            _require(kind == _MATRIX, f"element of type {kind}")
            name, value = _matrix(body, order)
            variables[name] = value
    except _DAMAGE as error:
        raise MatError(f"{type(error).__name__}: {error}") from None
    return variables


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise MatError(otherwise)


def _elements(data: bytes, order: str) -> list[tuple[int, bytes]]:
    """Type and content of the data elements that ``data`` is made of."""
    elements, at = [], 0
    while at < len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:  # a small element: size, type and up to four bytes in the eight of a tag
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            _require(size <= 4, "small element of more than four bytes")
        else:
            start = at + 8
            end = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        _require(start + size <= len(data), "element beyond the end")
        elements.append((kind, data[start : start + size]))
        at = end
    return elements


def _matrix(body: bytes, order: str) -> tuple[str, Any]:
    """Name and value of one array."""
    if not body:
        return "", np.empty(0)
    (_, flags), (_, shape), (_, name), *parts = _elements(body, order)
    kind = struct.unpack_from(order + "I", flags)[0] & 0xFF
    count = math.prod(np.frombuffer(shape, order + "i4").tolist())
    name = name.decode("ascii")
    if kind == _STRUCT:
        (_, length), (_, names), *parts = parts
        length = struct.unpack(order + "i", length)[0]
        starts = range(0, len(names), length)
        fields = [names[at : at + length].split(b"\0")[0].decode("ascii") for at in starts]
        _require(len(parts) == count * len(fields), "structure of another size than it says")
        values = [_matrix(part, order)[1] for _, part in parts]
        return name, {field: values[index :: len(fields)] for index, field in enumerate(fields)}
    if kind == _CELL:
        _require(len(parts) == count, "cell of another size than it says")
        return name, [_matrix(part, order)[1] for _, part in parts]
    [(written, data)] = parts
    if kind == _CHAR:
        encoding = _WORDS[written].replace("utf-16", "utf-16-le" if order == "<" else "utf-16-be")
        return name, data.decode(encoding)
    _require(kind in _NUMERIC, f"array of class {kind}")
    numbers = np.frombuffer(data, order + _NUMBERS[written])
    _require(len(numbers) == count, "array of another size than it says")
    return name, numbers[0].item() if count == 1 else numbers
