"""The exceptions for mistakes that the user can mend, and one sentence for whatever stops a training."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from numbers import Integral, Real


class LabError(Exception):
    """A mistake in what the user gave: one Russian sentence that says what is wrong, where, and what to do.

    Where a library found it, the library's own error is the ``__cause__``.
    """

    def __init__(self, words: str = ""):
        super().__init__(" ".join(str(words).split()))  # the name of a file may hold a new line


class Diverged(LabError):
    """A training whose loss is no longer a number: its settings are at fault."""


# What the words of a library's error mean in a training and what to do; the first that is found counts.
_MEANINGS = {
    "out of memory|ALLOC_FAILED|DefaultCPUAllocator|MemoryError": (
        "не хватило памяти: уменьшите batch_size, затем image_size, или обучайте меньше сетей сразу"
    ),
    "No space left|quota|File too large": "освободите место на диске и повторите, записанное раньше цело",
    "^(OS|Permission|FileNotFound|FileExists|IsADirectory|NotADirectory)Error": (
        "проверьте названный файл или папку и право читать и писать там"
    ),
    "more than 1 value per channel": (
        "пакетной нормализации мало одного снимка в пакете: увеличьте batch_size или image_size"
    ),
    "pickle": (
        "свою функцию другим процессам не передать: берите в неё только копируемое или задайте processes=1"
    ),
    "view size is not compatible": (
        "веса свёрток лежат в порядке channels_last: замените в оптимизаторе view на reshape"
    ),
    "deepcopy|uninitialized parameter": (
        "для ema_decay нужна копия сети: сначала пропустите через неё один пакет (слои Lazy), замените "
        "weight_norm на parametrizations.weight_norm или уберите ema_decay"
    ),
    "unscale FP16": "оставьте веса float32 (model.float()), в float16 считает сам train_test",
    "unexpected keyword argument|required positional argument|closure": (
        "функции вызываются так: оптимизатор — f(параметры, lr=…, weight_decay=…), сеть — f(num_classes=…), "
        "шаги оптимизатора и расписания — step() без аргументов после каждого пакета"
    ),
}
_CONTRACT = (
    "загрузчик даёт пары — снимки float (n, 3, H, W) и метки int64 (n,) от 0, — сеть отвечает логитами "
    "(n, классов), функция потерь даёт среднее по пакету; проверьте их"
)
_MISTAKES = (TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError)
_FAILURES = (RuntimeError, MemoryError, OSError, ImportError)


@contextmanager
def explained(doing: str = "Обучение остановилось", otherwise: str = _CONTRACT) -> Iterator[None]:
    """Turns what a block stumbles over into one ``LabError``: what it was ``doing``, the library's own words
    and their meaning here, or ``otherwise``; the error stays as the cause. Also a decorator.
    """
    try:
        yield
    except (*_MISTAKES, *_FAILURES) as error:
        lines = str(error).strip().splitlines() or [""]
        # A DataLoader's worker quotes its whole traceback, whose last line is the error.
        said = f"{type(error).__name__}: {lines[-1 if lines[0].startswith('Caught ') else 0][:200]}"
        meanings = (words for pattern, words in _MEANINGS.items() if re.search(pattern, said))
        raise LabError(f"{doing} ({said}): {next(meanings, otherwise)}.") from error


_KINDS = {
    int: (Integral, "целое число"),
    float: (Real, "число"),
    bool: (bool, "True или False"),
    str: (str, "строку"),
}


def check(name: str, value: object, kind: type, low=None, high=None, choices: Collection[str] = ()) -> None:
    """Raises ``LabError`` unless ``value`` is of ``kind`` (int, float, bool, str), from ``low`` to ``high``
    where they are given, and one of ``choices`` where there are any.
    """
    expected, allowed = _KINDS[kind]
    fits = isinstance(value, expected) and (kind is bool or not isinstance(value, bool))
    if low is not None:
        allowed += f" от {low:g} до {high:g}"
        fits = fits and low <= value <= high  # NaN is in no range
    if choices:
        allowed = f"одно из {', '.join(choices)}"
        fits = fits and value in choices
    if not fits:
        raise LabError(f"Значение {name}={value!r} не годится: задайте {allowed}.")
