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
    found = repr(_described(function, getattr(function, "__module__", None), set()))
    return hashlib.sha256(found.encode()).hexdigest()[:10]


def _described(thing: Any, module: str | None, seen: set[int]) -> Any:
    if thing is None or isinstance(thing, (bool, int, float, str, bytes)):
        return thing
    if isinstance(thing, partial):
        thing = thing.func, thing.args, thing.keywords
    if isinstance(thing, dict):
        thing = list(thing.items())
    if isinstance(thing, (set, frozenset)):
        thing = sorted(thing, key=repr)  # their own order is another in every process
    if isinstance(thing, (list, tuple)):
        return [_described(part, module, seen) for part in thing]
    known = not (inspect.isfunction(thing) or inspect.isclass(thing)) or id(thing) in seen
    if known or thing.__module__ != module:
        return f"{type(thing).__name__} {getattr(thing, '__qualname__', '')}"
    seen.add(id(thing))
    if inspect.isclass(thing):
        return [_source(thing)]
    variables = inspect.getclosurevars(thing)
    around = {**variables.nonlocals, **variables.globals}, thing.__defaults__, thing.__kwdefaults__
    return [_source(thing), *_described(around, module, seen)]


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # typed into a console
        return repr(thing.__code__.co_code) if inspect.isfunction(thing) else thing.__qualname__
