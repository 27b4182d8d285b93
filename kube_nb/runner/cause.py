"""What inside a value keeps it from being pickled: the path to it, as Python would write it.

What pickle says names a type (`cannot pickle '_thread.lock' object`) and not a place. So the value is walked as pickle
walks it, down those parts that cannot be pickled alone, to a part all of whose own parts can: a cause. Where there are
several, a file, a connection or a generator says more than the lock that guards it. Standard library and our graph.
"""

from __future__ import annotations

import collections
import functools
import json
import logging
import time
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import graph
from .pickling import global_names

_SECONDS = 5.0
_CHECKS = 3000
_CAUSES = 20
_WIDE = 32  # of so many parts each is tried alone; more are halved until those that fail are found
_ATOMS = frozenset({int, float, complex, str, bytes, bytearray, bool, type(None), type(...), range, slice})
_CONTAINERS = frozenset({dict, list, tuple, set, frozenset, collections.deque})

_KINDS = {
    "open file": "_io.TextIOWrapper _io.BufferedReader _io.BufferedWriter _io.BufferedRandom _io.FileIO "
    "tempfile._TemporaryFileWrapper zipfile.ZipFile tarfile.TarFile h5py._hl.files.File",
    "socket": "_socket.socket",
    "database connection": "sqlite3.Connection psycopg2.extensions.connection psycopg.BaseConnection "
    "psycopg._connection_base.BaseConnection pymysql.connections.Connection _duckdb.DuckDBPyConnection "
    "duckdb.duckdb.DuckDBPyConnection sqlalchemy.engine.base.Engine sqlalchemy.engine.base.Connection",
    "database cursor": "sqlite3.Cursor psycopg2.extensions.cursor psycopg._cursor_base.BaseCursor "
    "pymysql.cursors.Cursor",
    "generator": "builtins.generator",
    "coroutine": "builtins.coroutine builtins.async_generator",
    "pool of threads": "concurrent.futures.thread.ThreadPoolExecutor multiprocessing.pool.ThreadPool",
    "pool of processes": "concurrent.futures.process.ProcessPoolExecutor multiprocessing.pool.Pool",
    "thread": "threading.Thread",
    "process": "subprocess.Popen multiprocessing.process.BaseProcess",
    "future": "concurrent.futures._base.Future _asyncio.Future asyncio.futures.Future",
    "event loop": "asyncio.events.AbstractEventLoop",
    "window": "_tkinter.tkapp tkinter.Misc",
    "view of memory": "builtins.memoryview",
    "memory-mapped file": "mmap.mmap",
    "handle of a C library": "builtins.PyCapsule _ctypes._Pointer _ctypes.CFuncPtr ctypes.CDLL",
    "frame of running code": "builtins.frame",
    "traceback": "builtins.traceback",
}
_LESSER_KINDS = {
    "lock": "_thread.lock _thread.RLock threading.Condition threading.Event threading.Semaphore threading.Barrier "
    "multiprocessing.synchronize.SemLock",
    "queue between threads": "queue.Queue _queue.SimpleQueue",
    "queue between processes": "multiprocessing.queues.Queue multiprocessing.queues.SimpleQueue",
    "weak reference": "weakref.ReferenceType weakref.ProxyType weakref.CallableProxyType",
    "variable of a thread": "_thread._local",
    "variable of a context": "_contextvars.ContextVar",
}
_KIND_OF = {name: (kind, 0) for kind, names in _KINDS.items() for name in names.split()}
_KIND_OF |= {name: (kind, 2) for kind, names in _LESSER_KINDS.items() for name in names.split()}

DEEP = "chain of objects that is too long"
OTHER = "object"


@dataclass(frozen=True)
class Cause:
    """What cannot be pickled, and where.

    Attributes:
        path: e.g. `cfg.logger.handlers[0].stream`.
        value: what is there.
        kind: e.g. "open file"; `OTHER` where nothing is known of its type.
        error: what pickling it alone raised.
        in_logger: whether a logger is on the path.
    """

    path: str
    value: Any
    kind: str
    error: BaseException
    in_logger: bool = False


def find(name: str, value: Any, error: BaseException, namespace: dict[str, Any] | None = None) -> Cause:
    """The cause that says most of why `value` could not be pickled.

    Takes a few seconds at most, whatever the size of the value, and changes nothing; what was not looked at by then is
    not named, so that the value itself may be the cause.

    Args:
        name: what the value is called.
        error: what pickling it raised.
    """
    return _Search(namespace).run(_Place(name, value, error))


def kind_of(value: Any) -> tuple[str, int]:
    """What a value that cannot be pickled is, and how much that says: 0 the most."""
    for cls in type(value).__mro__:
        known = _KIND_OF.get(f"{cls.__module__}.{cls.__qualname__}")
        if known is not None:
            return known
    return OTHER, 1


Step = tuple[str, Any]
"""How a part is reached: ("attribute", name), ("item", key) or ("text", what to write)."""


@dataclass
class _Place:
    path: str
    value: Any
    error: BaseException
    in_logger: bool = False


class _Search:
    def __init__(self, namespace: dict[str, Any] | None) -> None:
        self._namespace = namespace
        self._deadline = time.monotonic() + _SECONDS
        self._left = _CHECKS
        self._failed: dict[int, Any] = {}  # holds them, so that no id is used twice

    def run(self, first: _Place) -> Cause:
        self._failed[id(first.value)] = first.value
        causes: list[tuple[int, Cause]] = []
        places = collections.deque([first])
        while places and len(causes) < _CAUSES:
            place = places.popleft()
            rank, cause = self._settle(place, places)
            if cause is not None:
                causes.append((rank, cause))
                if rank == 0:
                    break
        if not causes:
            return Cause(first.path, first.value, kind_of(first.value)[0], first.error)
        return min(causes, key=lambda one: one[0])[1]

    def _settle(self, place: _Place, places: collections.deque[_Place]) -> tuple[int, Cause | None]:
        """Either this place is a cause, or its parts are to be looked at."""
        value = place.value
        kind, rank = kind_of(value)
        in_logger = place.in_logger or isinstance(value, logging.Logger)
        deep = _is_deep(place.error)
        if kind != OTHER:
            return rank, Cause(place.path, value, kind, place.error, in_logger)
        parts = [part for part in _parts(value, self._namespace) if type(part[1]) not in _ATOMS]
        known = any(id(part) in self._failed for _, part in parts)
        new = self._failing([part for part in parts if id(part[1]) not in self._failed])
        if deep and all(type(part) is type(value) for _, part, _ in new):
            return rank, Cause(place.path, value, DEEP, place.error, in_logger)
        for step, part, error in new:
            self._failed[id(part)] = part
            places.append(_Place(place.path + _written(step), part, error, in_logger))
        if new or known:
            return rank, None
        return rank, Cause(place.path, value, kind, place.error, in_logger)

    def _failing(self, parts: list[tuple[Step, Any]]) -> list[tuple[Step, Any, BaseException]]:
        if len(parts) <= _WIDE:
            errors = [(step, part, self._error(part)) for step, part in parts]
            return [(step, part, error) for step, part, error in errors if error is not None]
        if self._error([part for _, part in parts]) is None:
            return []
        half = len(parts) // 2
        found = self._failing(parts[:half])
        return found if len(found) >= _CAUSES else found + self._failing(parts[half:])

    def _error(self, value: Any) -> BaseException | None:
        """What pickling the value raises; None too where there is no time left to know."""
        self._left -= 1
        if self._left < 0 or time.monotonic() > self._deadline:
            return None
        try:
            graph.check(value, namespace=self._namespace, deadline=self._deadline)
        except TimeoutError:
            return None
        except Exception as error:  # noqa: BLE001 - pickling runs the value's own code
            return error
        return None


def _is_deep(error: BaseException) -> bool:
    return isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError)


def _written(step: Step) -> str:
    how, what = step
    if how == "attribute":
        return f".{what}"
    if how == "item":
        text = json.dumps(what, ensure_ascii=False) if isinstance(what, str) else repr(what)
        return f"[{text}]" if len(text) <= 60 else f"[{text[:57]}...]"
    return what


def _parts(value: Any, namespace: Mapping[str, Any] | None) -> Iterator[tuple[Step, Any]]:
    """What pickle would go on to, with the step that leads there."""
    if isinstance(value, logging.Logger):
        yield from _attributes({"handlers": value.handlers, "filters": value.filters})
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value, namespace)
    elif isinstance(value, type):
        yield from _attributes(vars(value))
        yield from ((("text", f".__bases__[{at}]"), base) for at, base in enumerate(value.__bases__))
        yield ("attribute", "__class__"), type(value)
    elif isinstance(value, types.ModuleType):
        yield from _attributes(vars(value))
    elif isinstance(value, types.CellType):
        yield from ((("attribute", "cell_contents"), content) for content in _content(value))
    elif isinstance(value, (types.MethodType, staticmethod, classmethod, property, functools.partial)):
        names = ("__self__", "__func__", "fget", "fset", "fdel", "func", "args", "keywords")
        yield from _attributes({name: getattr(value, name) for name in names if hasattr(value, name)})
    else:
        yield from _parts_of_instance(value)


def _parts_of_function(function: types.FunctionType, namespace: Mapping[str, Any] | None) -> Iterator[tuple[Step, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        for content in _content(cell):
            yield ("text", f".<closure>.{name}"), content
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    named = dict(zip(arguments[len(arguments) - len(defaults) :], defaults, strict=False))
    for name, default in (named | (function.__kwdefaults__ or {})).items():
        yield ("text", f".<defaults>.{name}"), default
    yield from _attributes(vars(function))
    if function.__globals__ is not namespace:
        for name in sorted(global_names(function.__code__) & function.__globals__.keys()):
            yield ("text", f".<globals>.{name}"), function.__globals__[name]


def _parts_of_instance(value: Any) -> Iterator[tuple[Step, Any]]:
    if type(value) in _CONTAINERS:
        yield from _items(value)
        return
    own = [*_items(value), *_elements(value), *_attributes(_state(value))]
    reduced = _reduced(value)
    if reduced is None or _has_elements(value):
        yield from own
    else:
        names = {id(part): step for step, part in own}
        for step, part in reduced:
            yield names.get(id(part), step), part
    yield ("attribute", "__class__"), type(value)


def _items(value: Any) -> Iterator[tuple[Step, Any]]:
    if isinstance(value, dict):
        for at, (key, one) in enumerate(list(value.items())):
            yield ("item", key), one
            yield ("text", f".<keys>[{at}]"), key
    elif isinstance(value, (list, tuple, collections.deque)):
        yield from ((("item", at), one) for at, one in enumerate(list(value)))
    elif isinstance(value, (set, frozenset)):
        yield from ((("text", ".<elements>"), one) for one in list(value))


def _has_elements(value: Any) -> bool:
    """Whether its elements are better named than what it reduces to."""
    cls = type(value)
    if isinstance(value, BaseException):
        return cls.__reduce__ is BaseException.__reduce__ and cls.__reduce_ex__ is object.__reduce_ex__
    return any(_is_of(value, *name) for name in (("numpy", "ndarray"), ("pandas", "DataFrame"), ("pandas", "Series")))


def _elements(value: Any) -> Iterator[tuple[Step, Any]]:
    if isinstance(value, BaseException):
        yield ("attribute", "args"), value.args
    elif _is_of(value, "numpy", "ndarray") and value.dtype.hasobject:
        yield from ((("text", f".flat[{at}]"), one) for at, one in enumerate(value.flat))
    elif _is_of(value, "pandas", "DataFrame"):
        yield from ((("item", name), value.iloc[:, at]) for at, name in enumerate(value.columns))
    elif _is_of(value, "pandas", "Series") and value.dtype == object:
        yield from ((("text", f".iloc[{at}]"), one) for at, one in enumerate(value))


def _is_of(value: Any, library: str, name: str) -> bool:
    return any(cls.__name__ == name and cls.__module__.partition(".")[0] == library for cls in type(value).__mro__)


def _attributes(values: Mapping[str, Any]) -> Iterator[tuple[Step, Any]]:
    yield from ((("attribute", name), one) for name, one in list(values.items()))


def _state(value: Any) -> dict[str, Any]:
    """Attributes of an instance, in its dictionary and in slots; no property is run."""
    state = dict(getattr(value, "__dict__", None) or {})
    for cls in type(value).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, types.MemberDescriptorType) and name not in state:
                try:
                    state[name] = member.__get__(value)
                except AttributeError:
                    continue
    return state


def _content(cell: types.CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _reduced(value: Any) -> list[tuple[Step, Any]] | None:
    """What the value's own way of being pickled goes on to; None where it has none, or fails."""
    cls = type(value)
    own = ("__reduce_ex__", "__reduce__", "__getstate__")
    if cls.__flags__ & 1 << 9 and all(getattr(cls, name, None) is getattr(object, name, None) for name in own):
        return None  # a class statement made it, and said nothing of pickling
    try:
        reduced = value.__reduce_ex__(5)
    except Exception:  # noqa: BLE001 - whatever it is, the value's own parts are the next to look at
        return None
    if not isinstance(reduced, tuple):
        return None
    _, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    parts: list[tuple[Step, Any]] = [(("text", f".<arguments>[{at}]"), one) for at, one in enumerate(arguments or ())]
    states: Iterable[Any] = state if isinstance(state, tuple) else (state,)
    for one in states:
        if isinstance(one, dict):
            parts += [(("text", f".<state>{_written(('item', key))}"), part) for key, part in one.items()]
        elif one is not None:
            parts.append((("text", ".<state>"), one))
    parts += [(("item", at), one) for at, one in enumerate(items or ())]
    parts += [(("item", key), one) for key, one in pairs or ()]
    return parts
