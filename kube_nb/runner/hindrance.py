"""What inside a value keeps it from being pickled: the path to it, as Python would write it."""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Iterator
from typing import Any

_DEEPEST = 16
_WIDEST = 2000
_SECONDS = 2.0


def path_to(name: str, value: Any, attempt: Callable[[Any], object]) -> tuple[str, Any]:
    """The innermost part of `value` for which `attempt` fails, and its path, e.g. `cfg.logger.handlers[0].stream`.

    Args:
        name: what the value is called.
        attempt: raises for what cannot be pickled.
    """
    ends = time.monotonic() + _SECONDS
    path, seen = name, {id(value)}
    for _ in range(_DEEPEST):
        for step, part in _parts(value):
            if time.monotonic() > ends:
                return path, value
            if id(part) not in seen and _fails(part, attempt):
                seen.add(id(part))
                path, value = path + step, part
                break
        else:
            return path, value
    return path, value


def _fails(part: Any, attempt: Callable[[Any], object]) -> bool:
    try:
        attempt(part)
    except Exception:  # noqa: BLE001 - pickling runs foreign code, which raises what it likes
        return True
    return False


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, each with what is written behind the value to reach it."""
    if isinstance(value, dict):
        for key, one in [*value.items()][:_WIDEST]:
            yield f"[{key!r}]", one
    elif isinstance(value, (list, tuple)):
        for position, one in enumerate(value[:_WIDEST]):
            yield f"[{position}]", one
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            try:
                yield f".<{name}>", cell.cell_contents
            except ValueError:
                continue  # a variable that has no value yet
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(value, type):
        for name, one in [*attributes.items()][:_WIDEST]:
            yield f".{name}", one
    for kind in type(value).__mro__:
        slots: object = vars(kind).get("__slots__")
        for name in [slots] if isinstance(slots, str) else list(slots) if isinstance(slots, (tuple, list)) else []:
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)
