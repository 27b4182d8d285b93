"""What cannot be sent is named with the path to it, before anything is made."""

from __future__ import annotations

import io
import logging
import re
import socket
import sqlite3
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kube_nb.errors import CannotTravel
from tests.conformance.sending import Notebook, Sender, code, sent

# What it is, and how it comes to be; each is closed with the stack.
IMPOSSIBLE: dict[str, Callable[[ExitStack, Path], Any]] = {
    "lock": lambda stack, folder: threading.Lock(),
    "generator": lambda stack, folder: (n for n in range(3)),
    "file open for writing": lambda stack, folder: stack.enter_context(open(folder / "log", "w")),
    "file open for reading": lambda stack, folder: stack.enter_context(open(__file__)),
    "binary file": lambda stack, folder: stack.enter_context(open(__file__, "rb")),
    "socket": lambda stack, folder: stack.enter_context(socket.socket()),
    "database connection": lambda stack, folder: stack.enter_context(closing(sqlite3.connect(":memory:"))),
    "thread pool": lambda stack, folder: stack.enter_context(ThreadPoolExecutor(1)),
    "thread": lambda stack, folder: threading.current_thread(),
    "C handle": lambda stack, folder: zlib.compressobj(),
}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def refused(send: Sender, source: str, names: Any) -> CannotTravel:
    """The refusal; nothing of the submit is left."""
    with pytest.raises(CannotTravel) as caught:
        send(source, names)
    assert sent(send.client) == []
    assert send.client.journal.ids() == []
    error = caught.value
    assert error.what
    assert error.why
    assert error.next
    return error


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_what_cannot_travel_is_named_with_its_path(send: Sender, stack: ExitStack, tmp_path: Path, kind: str) -> None:
    culprit = IMPOSSIBLE[kind](stack, tmp_path)
    cfg = SimpleNamespace(name="run", parts=[1, {"deep": (2, SimpleNamespace(handle=culprit))}])

    error = refused(send, "print(cfg.name)", {"cfg": cfg})

    assert error.path.startswith('cfg.parts[1]["deep"][1].handle')
    assert error.path in str(error)
    assert type(culprit).__name__ in str(error)


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_what_cannot_travel_is_named_where_it_is_a_name_itself(
    send: Sender, stack: ExitStack, tmp_path: Path, kind: str
) -> None:
    error = refused(send, "print(thing)", {"thing": IMPOSSIBLE[kind](stack, tmp_path)})

    assert error.path.startswith("thing")


def test_the_stream_of_a_loggers_handler_is_found(send: Sender, stack: ExitStack, tmp_path: Path) -> None:
    logger = logging.Logger("not-known")
    logger.addHandler(logging.StreamHandler(stack.enter_context(open(tmp_path / "log", "w"))))

    error = refused(send, "print(cfg)", {"cfg": SimpleNamespace(logger=logger)})

    assert error.path == "cfg.logger.handlers[0].stream"


def test_a_slot_and_an_attribute_of_a_notebooks_class_are_found(send: Sender) -> None:
    notebook = Notebook(
        "import threading\n"
        "class Base:\n    __slots__ = ('guard',)\n"
        "class Model(Base):\n    def __init__(self): self.guard = threading.Lock()\n"
        "models = {'a': Model()}"
    )

    assert refused(send, "print(models)", notebook).path == 'models["a"].guard'


def test_a_global_that_a_function_reads_is_found(send: Sender) -> None:
    notebook = Notebook(
        "import threading\nstate = {'guard': threading.Lock()}\ndef fit():\n    return state['guard'].locked()"
    )

    error = refused(send, "fit()", notebook)

    assert "state" in error.path
    assert '["guard"]' in error.path


def test_a_variable_of_a_closure_is_found(send: Sender) -> None:
    notebook = Notebook(
        "import threading\n"
        "def make(guard):\n    def fit():\n        return guard.locked()\n    return fit\n"
        "fit = make(threading.Lock())"
    )

    error = refused(send, "fit()", notebook)

    assert error.path.startswith("fit")
    assert "guard" in error.path


def test_an_argument_of_a_call_is_found(send: Sender) -> None:
    with pytest.raises(CannotTravel) as caught:
        send.client.train(len, [1, threading.Lock()])

    assert "[1]" in caught.value.path
    assert sent(send.client) == []


def test_the_only_road_into_a_cycle_is_found(send: Sender) -> None:
    node = SimpleNamespace(guard=threading.Lock())
    node.parent = SimpleNamespace(child=node)

    assert refused(send, "print(node)", {"node": node}).path == "node.guard"


def test_the_next_step_keeps_the_name_here(send: Sender) -> None:
    names = {"cfg": SimpleNamespace(guard=threading.Lock())}

    assert "-x cfg" in refused(send, "print('x')\ncfg", names).next
    job = send.over("try:\n    cfg\nexcept NameError:\n    print('not here')", names, keep=["cfg"])

    assert "".join(job.logs()) == "not here\n"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda: io.StringIO("text"), id="file in memory"),
        pytest.param(lambda: io.BytesIO(b"text"), id="binary file in memory"),
        pytest.param(lambda: logging.getLogger("known"), id="logger"),
        pytest.param(lambda: sys.stdout, id="stdout"),
        pytest.param(lambda: re.compile("a+"), id="pattern"),
    ],
)
def test_what_only_looks_as_if_it_could_not_travel_does(send: Sender, value: Callable[[], Any]) -> None:
    job = send.over("print(type(thing).__name__)", {"thing": value()})

    assert code(job) == ""
