"""What a function of the user's own does: another one under the same name makes another experiment."""

import hashlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any


def definition(function: Callable) -> str:
    """10 hexadecimal digits of what ``function`` does: its source, and what it takes from around it.

    That is the numbers, strings and their containers in its closure, defaults and the globals that it names,
    and in the same way the functions and classes of its own module that it uses. Other objects count by their
    type only.
    """
    return hashlib.sha256(
        repr(_described(function, getattr(function, "__module__", None), set())).encode()
    ).hexdigest()[:10]


def _described(thing: Any, module: str | None, seen: set[int]) -> Any:
    if thing is None or isinstance(thing, (bool, int, float, str, bytes)):
        return thing
    if isinstance(thing, (list, tuple, set, frozenset)):
        return [_described(part, module, seen) for part in thing]
    if isinstance(thing, dict):
        return [[_described(part, module, seen) for part in item] for item in thing.items()]
    if isinstance(thing, partial):
        return [_described(part, module, seen) for part in (thing.func, thing.args, thing.keywords)]
    if (
        not (inspect.isfunction(thing) or inspect.isclass(thing))
        or id(thing) in seen
        or thing.__module__ != module
    ):
        return f"{type(thing).__name__} {getattr(thing, '__qualname__', '')}"
    seen.add(id(thing))
    parts: list[Any] = [_source(thing)]
    if inspect.isfunction(thing):
        variables = inspect.getclosurevars(thing)
        around = {**variables.nonlocals, **variables.globals}
        parts += [
            _described(part, module, seen) for part in (around, thing.__defaults__, thing.__kwdefaults__)
        ]
    return parts


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # typed into a console
        return repr(thing.__code__.co_code) if inspect.isfunction(thing) else thing.__qualname__
