"""Which values the sent code changed in place: each is compared with a fingerprint taken before the code ran."""

from __future__ import annotations

import time
import types
from collections.abc import Iterable
from typing import Any

from . import graph

_FROZEN = (int, float, complex, bool, str, bytes, range, type(None), type(...), type(NotImplemented))
_FROZEN += (types.ModuleType, types.BuiltinFunctionType, type)
_DEEP = 4
_WIDE = 64


class _Same:
    """Cannot change in place: the name is changed if it is bound to another object."""

    def __init__(self, value: Any) -> None:
        self.value = value


_UNSURE = object()
"""It could not be fingerprinted, so it counts as changed."""
_NO_TIME = object()


class Baseline:
    """What some names held before the code ran. No value is kept alive, but those that cannot change.

    Args:
        names: those to look at; what does not exist is left out.
        namespace: where they are.
        budget: seconds for both looks together; half of it for this one.
    """

    def __init__(self, names: Iterable[str], namespace: dict[str, Any], budget: float) -> None:
        self._namespace = namespace
        began = time.monotonic()
        self._before = self._look([name for name in names if name in namespace], budget / 2)
        self._left = max(budget - (time.monotonic() - began), budget / 2)

    def compare(self) -> tuple[list[str], list[str]]:
        """Names whose value was changed or rebound since, and those for which there was no time."""
        looked = {name: before for name, before in self._before.items() if name in self._namespace}
        changed = [name for name, before in looked.items() if before is _UNSURE]
        unchecked = [name for name, before in looked.items() if before is _NO_TIME]
        changed += [
            name
            for name, before in looked.items()
            if isinstance(before, _Same) and self._namespace[name] is not before.value
        ]
        prints = [name for name, before in looked.items() if isinstance(before, bytes)]
        for name, now in self._look(prints, self._left).items():
            if now is _NO_TIME:
                unchecked.append(name)
            elif now != looked[name]:
                changed.append(name)
        return sorted(changed), sorted(unchecked)

    def _look(self, names: list[str], seconds: float) -> dict[str, Any]:
        """What each name holds now. A large value may use up its own share of the time, but not that of the others."""
        ends = time.monotonic() + seconds
        seen: dict[int, Any] = {}  # two names for one object are looked at once
        ordered = sorted(names, key=lambda name: _bulk(self._namespace[name]))
        for position, name in enumerate(ordered):
            value = self._namespace[name]
            if id(value) not in seen:
                now = time.monotonic()
                share = (ends - now) / (len(ordered) - position)
                seen[id(value)] = self._state(value, now + share)
        return {name: seen[id(self._namespace[name])] for name in names}

    def _state(self, value: Any, deadline: float) -> Any:
        if _frozen(value, _DEEP):
            return _Same(value)
        try:
            return graph.fingerprint(value, namespace=self._namespace, deadline=deadline)
        except TimeoutError:
            return _NO_TIME
        except Exception:  # noqa: BLE001 - pickling runs the value's own code, which may raise anything
            return _UNSURE


def _bulk(value: Any) -> int:
    """Bytes, where a value says so at no cost, so that small values are not left out because of large ones."""
    bulk = getattr(type(value), "nbytes", None) and getattr(value, "nbytes", 0)
    return bulk if isinstance(bulk, int) else 0


def _frozen(value: Any, depth: int) -> bool:
    if isinstance(value, type) or type(value) in _FROZEN:
        return True
    if type(value) in (tuple, frozenset) and depth and len(value) <= _WIDE:
        return all(_frozen(one, depth - 1) for one in value)
    return False
