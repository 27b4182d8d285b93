"""Why a value cannot be sent: the path inside it to what exists only in this process, in words a person can act on.

What pickle says names a type (`cannot pickle '_thread.lock' object`) and not a place. So the value is walked as pickle
walks it, down those parts that cannot be pickled alone, to a part all of whose own parts can: that is the cause. A
value may have several; a file, a connection or a generator says more than the lock that guards it.
"""

from __future__ import annotations

import json
import logging
import time
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from kube_nb.capture.foreign import Kind, kind_of
from kube_nb.errors import CannotTravel
from kube_nb.runner import graph

_SECONDS = 5.0
_CHECKS = 3000
_CAUSES = 20
_WIDE = 32  # of so many parts each is tried alone; more are halved until the first that fail are found
_ATOMS = (int, float, complex, str, bytes, bytearray, bool, type(None), type(...), range)


def explain(name: str, value: Any, error: BaseException, namespace: Mapping[str, Any]) -> CannotTravel:
    """What to tell a person whose value `name` could not be pickled because of `error`.

    Looks for the cause for at most a few seconds, whatever the size of the value; it never changes the value.

    Example:
        >>> import threading
        >>> explain("cfg", {"lock": threading.Lock()}, TypeError(), {}).path
        'cfg["lock"]'
    """
    if _too_deep(error):
        return CannotTravel(
            what=f"`{name}` cannot be sent to the job",
            why=f"`{name}` is nested too deeply: each of its objects holds the next, for thousands of steps",
            next=f"build it inside the cell from a flat list, or keep `{name}` here with -x {name}",
            path=name,
        )
    causes = _Search(namespace).causes(name, value)
    cause = min(causes, key=lambda one: one.kind.rank, default=None) or _Cause(name, value, kind_of(value), error)
    where = cause.path if cause.path != name else f"`{name}`"
    make = "the logger" if cause.logger else cause.kind.make
    return CannotTravel(
        what=f"`{name}` cannot be sent to the job",
        why=f"{where} is {cause.kind.noun} ({_type_name(cause.value)}), {cause.kind.why or _said(cause.error)}",
        next=f"{cause.kind.next or f'create {make} inside the cell'}, or keep `{name}` here with -x {name}",
        path=cause.path,
    )


@dataclass
class _Cause:
    path: str
    value: Any
    kind: Kind
    error: BaseException
    logger: bool = False


class _Search:
    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._deadline = time.monotonic() + _SECONDS
        self._left = _CHECKS
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # so that no id is used twice

    def causes(self, path: str, value: Any) -> list[_Cause]:
        """Every part that cannot be pickled and has no such part itself, nearest first."""
        found: list[_Cause] = []
        pending: list[tuple[str, Any, bool]] = [(path, value, False)]
        while pending and len(found) < _CAUSES:
            path, value, logger = pending.pop(0)
            error = self._fails(value)
            if error is None:
                continue
            kind = kind_of(value)
            if kind.known:
                found.append(_Cause(path, value, kind, error, logger))
                continue
            logger = logger or isinstance(value, logging.Logger)
            parts = self._failing([part for part in _parts(path, value) if self._is_new(part[1])])
            if parts:
                pending += [(part, one, logger) for part, one in parts]
            elif self._left <= 0 or not _only_seen(value, self._seen):
                found.append(_Cause(path, value, kind, error, logger))
        return found or [_Cause(path, value, kind_of(value), self._fails(value) or TypeError(), False)]
