"""The path to what cannot travel, and what a person reads."""

from __future__ import annotations

import collections
import concurrent.futures
import ctypes
import functools
import logging
import multiprocessing.pool
import queue
import socket
import sqlite3
import sys
import textwrap
import threading
import time
import types
import weakref
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kube_nb.capture.travel import explain
from kube_nb.errors import CannotTravel
from kube_nb.runner import graph


def refusal(name: str, value: Any, namespace: dict[str, Any] | None = None) -> CannotTravel:
    namespace = {} if namespace is None else namespace
    with pytest.raises(graph.NotPicklable) as caught:
        graph.dump({name: value}, namespace=namespace, objects=None)  # type: ignore[arg-type]  # it fails before
    return explain(name, value, caught.value.error, namespace)


class Config:
    """As a person writes one."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class Logger:
    """A class of the same name as logging's."""


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[logging.FileHandler]:
    handler = logging.FileHandler(tmp_path / "log.txt")
    yield handler
    handler.close()


def test_an_open_file_in_a_handler_of_a_logger(log_file: logging.FileHandler) -> None:
    logger = logging.getLogger("kube-nb-test.travel")
    logger.handlers = [log_file]
    error = refusal("cfg", Config(seed=1, logger=logger))
    assert error.path == "cfg.logger.handlers[0].stream"
    assert "open file (TextIOWrapper)" in error.why
    assert error.next == "create the logger inside the cell, or keep `cfg` here with -x cfg"
    logger.handlers = []


def test_an_open_file_in_a_logger_that_is_none_of_loggings(log_file: logging.FileHandler) -> None:
    logger = Logger()
    logger.handlers = [log_file]  # type: ignore[attr-defined]
    assert refusal("cfg", Config(logger=logger)).path == "cfg.logger.handlers[0].stream"


def test_a_logger_that_refuses_by_itself() -> None:
    class Odd(logging.Logger):
        def __reduce__(self) -> Any:
            raise TypeError("not this one")

    logger = Odd("kube-nb-test.odd")
    assert refusal("cfg", Config(log=logger)).path == "cfg.log"


def closure() -> Callable[[], Any]:
    lock = threading.Lock()
    return lambda: lock


def with_default(a: int, b: Any = threading.Lock()) -> None:
    """Its default is the lock that all calls share."""


class Slots:
    __slots__ = ("free", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Lean:
    """Says itself what of it travels."""

    def __init__(self) -> None:
        self.file = threading.Lock()
        self.kept = {"inner": threading.Lock()}

    def __getstate__(self) -> dict[str, Any]:
        return {"kept": self.kept, "made": 1}


class WithLock(dict):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (lambda: {"a": [1, 2, threading.Lock()]}, 'v["a"][2]'),
        (lambda: {3: {"x y": (threading.Lock(),)}}, 'v[3]["x y"][0]'),
        (lambda: {(1, 2): threading.Lock()}, "v[(1, 2)]"),
        (lambda: threading.Lock(), "v"),
        (closure, "v.<closure>.lock"),
        (lambda: functools.partial(print, threading.Lock()), "v.args[0]"),
        (lambda: functools.partial(print, end=threading.Lock()), 'v.keywords["end"]'),
        (lambda: Config(run=Config(pool=threading.Lock()).__eq__), "v.run.__self__.pool"),
        (Slots, "v.lock"),
        (Lean, 'v.kept["inner"]'),
        (lambda: collections.deque([1, threading.Lock()]), "v[1]"),
        (lambda: collections.OrderedDict(a=threading.Lock()), 'v["a"]'),
        (lambda: collections.defaultdict(threading.Lock, a=threading.Lock()), 'v["a"]'),
        (lambda: types.SimpleNamespace(a=threading.Lock()), "v.a"),
        (lambda: np.array([1, threading.Lock()], dtype=object), "v.flat[1]"),
        (lambda: pd.DataFrame({"a": [1, 2], "b": [1, threading.Lock()]}), 'v["b"].iloc[1]'),
        (lambda: ValueError("text", threading.Lock()), "v.args[1]"),
        (lambda: {threading.Lock()}, "v.<elements>"),
    ],
)
def test_the_path_leads_to_it(value: Callable[[], Any], path: str) -> None:
    assert refusal("v", value()).path == path


def test_paths_in_functions_and_classes_of_the_notebook() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    source = """
    import threading
    def default(a, b=threading.Lock(), *, c=1): pass
    def attribute(): pass
    attribute.lock = threading.Lock()
    class C:
        guard = threading.Lock()
        def m(self): pass
    c = C()
    class D(C): pass
    other = {'__name__': '__main__', 'hold': threading.Lock()}
    exec('def elsewhere(): return hold', other)
    elsewhere = other['elsewhere']
    """
    exec(textwrap.dedent(source), namespace)
    paths = {
        "default": "default.<defaults>.b",
        "attribute": "attribute.lock",
        "C": "C.guard",
        "c": "c.__class__.guard",
        "D": "D.__bases__[0].guard",
        "elsewhere": "elsewhere.<globals>.hold",
    }
    for name, path in paths.items():
        assert refusal(name, namespace[name], namespace).path == path


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> None:
    """Never awaited."""


KINDS = [
    (Path(__file__).open, "open file"),
    (functools.partial(Path(__file__).open, "rb"), "open file"),
    (generator, "generator"),
    (socket.socket, "socket"),
    (lambda: sqlite3.connect(":memory:"), "database connection"),
    (lambda: sqlite3.connect(":memory:").cursor(), "database cursor"),
    (concurrent.futures.ThreadPoolExecutor, "pool of threads"),
    (lambda: multiprocessing.pool.ThreadPool(1), "pool of threads"),
    (lambda: threading.Thread(), "thread"),
    (lambda: concurrent.futures.Future(), "future"),
    (lambda: ctypes.pointer(ctypes.c_int(1)), "handle of a C library"),
    (lambda: ctypes.CDLL(None), "handle of a C library"),
    (lambda: memoryview(b"abc")[1:], "view of memory"),
    (sys._getframe, "frame"),
    (threading.Lock, "lock"),
    (threading.RLock, "lock"),
    (threading.Event, "lock"),
    (threading.Condition, "lock"),
    (lambda: threading.Semaphore(), "lock"),
    (queue.Queue, "queue"),
    (lambda: weakref.ref(Config), "weak reference"),
    (threading.local, "variable of a thread"),
]


@pytest.mark.parametrize(("make", "kind"), KINDS)
def test_what_it_is_is_said(make: Callable[[], Any], kind: str) -> None:
    value = make()
    error = refusal("cfg", Config(a=1, it=value))
    assert error.path == "cfg.it"
    assert kind in error.why
    assert type(value).__name__ in error.why
    assert "-x cfg" in error.next
    for close in ("close", "terminate"):
        getattr(value, close, lambda: None)()


def test_a_coroutine_is_said() -> None:
    value = coroutine()
    assert "coroutine" in refusal("c", value).why
    value.close()


@pytest.mark.parametrize(("make", "kind"), KINDS[:11])
def test_the_cause_is_named_rather_than_the_lock_beside_it(make: Callable[[], Any], kind: str) -> None:
    value = make()
    assert refusal("cfg", Config(lock=threading.Lock(), deeper=[Config(lock=threading.RLock(), it=value)])).path == (
        "cfg.deeper[0].it"
    )
    for close in ("close", "terminate"):
        getattr(value, close, lambda: None)()


def test_a_cycle_ends() -> None:
    a, b = Config(), Config()
    a.b, b.a, b.self = b, a, b  # type: ignore[attr-defined]
    b.file = threading.Lock()  # type: ignore[attr-defined]
    assert refusal("a", a).path == "a.b.file"


def test_one_bad_element_of_a_million_is_found_in_time() -> None:
    values: list[Any] = list(range(1_000_000))
    values[777_777] = generator()
    started = time.monotonic()
    assert refusal("values", values).path == "values[777777]"
    assert time.monotonic() - started < 10


def test_a_million_bad_elements_end_in_time() -> None:
    values = [threading.Lock() for _ in range(300_000)]
    started = time.monotonic()
    assert refusal("values", values).path == "values[0]"
    assert time.monotonic() - started < 20


def test_a_chain_that_is_too_long_is_said_to_be() -> None:
    first = node = Config()
    for _ in range(50_000):
        node.next = Config()  # type: ignore[attr-defined]
        node = node.next  # type: ignore[attr-defined]
    error = refusal("holder", types.SimpleNamespace(a=1, head=first))
    assert error.path == "holder.head"
    assert "too long" in error.why
    while vars(first):
        first = first.next  # type: ignore[attr-defined]


def test_a_class_that_raises_when_it_is_pickled() -> None:
    class Raises:
        def __getstate__(self) -> Any:
            raise RuntimeError("connection pool has 3 users")

    error = refusal("cfg", {"a": Raises()})
    assert error.path == 'cfg["a"]'
    assert "connection pool has 3 users" in error.why


def test_an_unknown_type_of_c_code() -> None:
    error = refusal("cfg", {"it": zlib.compressobj()})
    assert error.path == 'cfg["it"]'
    assert "Compress" in error.why


def test_nothing_is_changed_by_looking() -> None:
    class Counts:
        looked = 0

        @property
        def expensive(self) -> int:
            Counts.looked += 1
            return 1

    value = Counts()
    value.lock = threading.Lock()  # type: ignore[attr-defined]
    refusal("value", value)
    assert Counts.looked == 0
