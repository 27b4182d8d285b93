"""The text of the cells whose code travels, so that tracebacks in the job show their lines."""

from __future__ import annotations

import linecache
import os
import re
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

from kube_nb.capture.cargo import Cargo

_ENV_FLAGS = re.compile(r"(%kube_\w+)(?:\\\n|[^\n])*?--env(?:\\\n|[^\n])*")


def cell_sources(cargo: Cargo) -> dict[str, str]:
    """The text of the sent cell and of the cells whose functions travel, by the names that tracebacks use."""
    names: set[str] = set()
    for value in cargo.values.values():
        for item in value if isinstance(value, tuple) else (value,):
            names |= {code.co_filename for code in _codes(item)}
    texts = {
        name: "".join(linecache.cache[name][2])  # type: ignore[misc]
        for name in names
        if len(linecache.cache.get(name, ())) == 4 and not os.path.exists(name)
    }
    texts[cargo.source.filename] = cargo.work.source if cargo.work.text is None else cargo.work.text
    return {name: _ENV_FLAGS.sub(_hidden, text) for name, text in texts.items()}


def _hidden(flags: re.Match[str]) -> str:
    return f"{flags[1]} …" + "\n" * flags[0].count("\n")


def _codes(value: Any) -> Iterable[CodeType]:
    if isinstance(value, FunctionType):
        yield value.__code__
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None and wrapped is not value:
            yield from _codes(wrapped)
    members = vars(value).values() if isinstance(value, type) else ()
    for kind in () if isinstance(value, type) else type(value).__mro__[:-1]:
        members = [*members, *vars(kind).values()] if kind.__module__ == "__main__" else members
    for member in members:
        function = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        if isinstance(function, FunctionType):
            yield function.__code__
