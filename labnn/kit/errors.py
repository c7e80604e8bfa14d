"""The exceptions for mistakes that the user can mend, and the check of a value that finds them."""

import os
from collections.abc import Collection
from numbers import Integral, Real
from pathlib import Path


class LabError(Exception):
    """A mistake in what the user gave. Its text is one Russian sentence: what is wrong, where, and what to
    do.
    """

    def __init__(self, words: str = ""):
        super().__init__(" ".join(str(words).split()))  # the name of a file may hold a new line


class StoppedByKeyboardInterrupt(KeyboardInterrupt):
    """Ctrl-C or a notebook's stop; its text says what is saved and is all that IPython shows of it."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]  # for an empty list JupyterLab would show the name of the class


class Diverged(LabError):
    """A training whose loss is no longer a number: its settings are at fault, the data and the program are
    not.
    """


def as_path(value: str | os.PathLike) -> Path:
    """``value`` as a path. Raises ``LabError`` for what is none."""
    try:
        return Path(value)
    except TypeError:
        raise LabError(f"Вместо пути дано {value!r}: задайте строку или Path.") from None


_KINDS = {
    int: (Integral, "целое число"),
    float: (Real, "число"),
    bool: (bool, "True или False"),
    str: (str, "строку"),
}


def check(
    name: str,
    value: object,
    kind: type,
    low: float | None = None,
    high: float | None = None,
    choices: Collection[str] = (),
) -> None:
    """Raises ``LabError`` unless ``value`` is of ``kind`` (int, float, bool, str), from ``low`` to ``high``,
    one of ``choices``.
    """
    expected, words = _KINDS[kind]
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise LabError(f"Значение {name}={value!r} не годится: задайте {words}.")
    if low is not None and not low <= value <= high:  # NaN is in no range
        raise LabError(f"Значение {name}={value} не годится: задайте от {low:g} до {high:g}.")
    if choices and value not in choices:
        raise LabError(f"Значение {name}={value} не годится: выберите одно из {', '.join(choices)}.")
