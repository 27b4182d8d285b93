"""Why a value cannot be sent, in words a person can act on."""

from __future__ import annotations

from typing import Any

from kube_nb.errors import CannotTravel
from kube_nb.runner import cause

_WHY = {
    "generator": "whose place in its code only this process knows",
    "coroutine": "whose place in its code only this process knows",
    "frame of running code": "which exists only while that code runs here",
    "traceback": "which holds the frames of code that ran here",
    "view of memory": "which shows a part of memory of this process",
    "weak reference": "which names an object of this process without holding it",
    cause.DEEP: "each of which holds the next",
}
_NEXT = {
    "open file": "open it inside the cell (--include sends a file along)",
    "generator": "send its values, list(...), or create it inside the cell",
    "coroutine": "await it, or create it inside the cell",
    "traceback": "send its text, traceback.format_exc()",
    "frame of running code": "take what you need of it into a variable",
    "view of memory": "send a copy, bytes(...)",
    "weak reference": "send the object itself",
    "future": "send its result",
    cause.DEEP: "build it inside the cell from a flat list",
}


def explain(name: str, value: Any, error: BaseException, namespace: dict[str, Any]) -> CannotTravel:
    """What to tell a person whose value `name` could not be pickled because of `error`.

    Looks for the cause for a few seconds at most, whatever the size of the value, and does not change it.

    Example:
        >>> import threading
        >>> explain("cfg", {"lock": threading.Lock()}, TypeError(), {}).path
        'cfg["lock"]'
    """
    found = cause.find(name, value, error, namespace)
    place = f"`{name}`" if found.path == name else found.path
    return CannotTravel(
        what=f"`{name}` cannot be sent to the job",
        why=f"{place} is {_a(found.kind, found.value)}, {_why(found)}",
        next=f"{_next(found)}, or keep `{name}` here with -x {name}",
        path=found.path,
    )


def _a(kind: str, value: Any) -> str:
    called = type(value).__name__
    if kind == cause.OTHER:
        kind, called = f"`{called}`", type(value).__module__
        return f"{_article(called)} {kind} of {called}" if called != "builtins" else f"a {kind}"
    return f"{_article(kind)} {kind} ({called})"


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _why(found: cause.Cause) -> str:
    if found.kind == cause.OTHER:
        return f"and pickling it raised {type(found.error).__name__}: {found.error}"
    return _WHY.get(found.kind, "which exists only in this process")


def _next(found: cause.Cause) -> str:
    if found.in_logger:
        return "create the logger inside the cell"
    return _NEXT.get(found.kind, "create it inside the cell")
