"""`kn.*` in a job: what running code says to the person who waits for it. Standard library only.

This file travels with every job as the package `kube_nb`, so that code which reports needs nothing in its image. The
same calls work in a plain kernel or script, where they print. In a job they may be made from any thread, signal handler
or child process.

Example:
    >>> import kube_nb as kn
    >>> kn.report(loss=0.25, step=4)
    step 4  loss=0.25
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["checkpoint_dir", "output", "outputs", "progress", "rank", "report", "world_size"]

IN_BAND = 64 * 1024
"""Bytes of a value that travel with the log; what is larger becomes a file."""
IN_BAND_TOTAL = 512 * 1024
_PROGRESS_EVERY = 0.1
_BAR = 30
_DEEPEST = 50
_PACKAGE = "_kube_nb_job.runner"

outputs: dict[str, Any] = {}
"""What `output` was given outside of a job."""


def report(values: Mapping[str, Any] | None = None, /, *, step: int | None = None, **more: Any) -> None:
    """Say how things stand: numbers by name, which become the job's metrics.

    Args:
        values: as the keywords, for names that cannot be one: `{"val/loss": 0.3}`.
        step: which step they belong to.

    Raises:
        TypeError: a value is no number.
    """
    numbers = {str(name): _number(str(name), value) for name, value in {**(values or {}), **more}.items()}
    step = None if step is None else int(step)
    if not _channel.say("metric", values=numbers, step=step, time=time.time()):
        at = "" if step is None else f"step {step}  "
        print(at + "  ".join(f"{name}={value:.6g}" for name, value in numbers.items()), flush=True)


def progress(done: float, total: float | None = None, text: str = "") -> None:
    """Say how much is done. Call it as often as you like: it is passed on ten times a second, and at the end."""
    _bar.show(_number("done", done), None if total is None else _number("total", total), str(text))


def output(name: str, value: Any) -> None:
    """Give something to the person who waits: it is in `job.outputs[name]`.

    Args:
        value: anything that a cell can return; or a file: a `Path`, or the path of an existing file as text.

    Raises:
        OSError: the file cannot be read, or there is no room for it.
        Exception: whatever pickling the value raises.
    """
    out = os.environ.get("KUBE_NB_OUT")
    if not out or not _channel.exists:
        outputs[name] = value
        _show(name, value)
        return
    objects = Path(out, "objects")
    if isinstance(value, os.PathLike) or (isinstance(value, str) and _is_file(value)):
        record = _stored(Path(value), objects)
    elif _is_json(value) and (size := len(json.dumps(value))) <= _channel.room:
        _channel.carried += size
        record = {"value": value}
    else:
        record = {"graph": _graph(value, objects)}
    _channel.say("output", name=str(name), **record)


def checkpoint_dir() -> Path:
    """A folder that outlives a try of the job: what is in it when the code starts, an earlier try has left."""
    path = Path(os.environ.get("KUBE_NB_CHECKPOINTS") or "checkpoints").absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def rank() -> int:
    """Which of the job's processes this is, from 0."""
    return int(os.environ.get("RANK") or 0)


def world_size() -> int:
    """How many processes the job has."""
    return int(os.environ.get("WORLD_SIZE") or 1)


class _Channel:
    """To the runner, over the socket that the environment names.

    A message goes out on a connection that nobody else uses at that moment, so there is no lock that a fork or a signal
    handler could find taken. When `say` returns, the message stands in the log behind all text written before.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._idle: list[socket.socket] = []
        self.carried = 0
        """Bytes of values that went with the log so far."""

    @property
    def exists(self) -> bool:
        return bool(os.environ.get("KUBE_NB_SOCKET") and os.environ.get("KUBE_NB_TOKEN"))

    @property
    def room(self) -> int:
        """Bytes of a value that may still go with the log."""
        return max(0, min(IN_BAND, IN_BAND_TOTAL - self.carried))

    def say(self, kind: str, /, **data: Any) -> bool:
        """Whether there was a runner to hear it.

        Raises:
            ValueError: the runner refuses it, and says why.
        """
        if not self.exists:
            return False
        message = json.dumps({"kind": kind, **data}, separators=(",", ":")).encode() + b"\n"
        for stream in filter(None, (sys.stdout, sys.stderr, sys.__stdout__)):
            with suppress(AttributeError, ValueError, OSError):  # a stand-in that cannot be flushed, or is closed
                stream.flush()
        while (connection := self._take()) is not None:
            answer = self._exchange(connection, message)
            if answer is not None:
                break  # otherwise it was cut off to make room for others, and another one is needed
        else:
            connection = self._connect()
            answer = None if connection is None else self._exchange(connection, message)
        if answer is None or connection is None:
            return False  # a runner that has ended ends this process too, in a moment
        if answer != b"\n":
            raise ValueError(answer.decode().removeprefix("! ").strip())
        self._idle.append(connection)
        return True

    def _take(self) -> socket.socket | None:
        if self._pid != os.getpid():  # after a fork the connections are the parent's
            self._pid, self._idle = os.getpid(), []
        try:
            return self._idle.pop()
        except IndexError:
            return None

    @staticmethod
    def _connect() -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(os.environ["KUBE_NB_SOCKET"])
            connection.sendall(os.environ["KUBE_NB_TOKEN"].encode() + b"\n")
        except OSError:
            connection.close()
            return None
        return connection

    @staticmethod
    def _exchange(connection: socket.socket, message: bytes) -> bytes | None:
        answer = b""
        try:
            connection.sendall(message)
            while not answer.endswith(b"\n"):
                part = connection.recv(4096)
                if not part:
                    raise ConnectionResetError
                answer += part
        except OSError:
            connection.close()
            return None
        except BaseException:  # an interrupt: half a message may be under way
            connection.close()
            raise
        return answer


class _Bar:
    """How much is done, said now and then."""

    def __init__(self) -> None:
        self._next = 0.0
        self._width = 0

    def show(self, done: float, total: float | None, text: str) -> None:
        finished = total is not None and done >= total
        now = time.monotonic()
        if now < self._next and not finished:
            return
        self._next = now + _PROGRESS_EVERY
        if not _channel.say("progress", done=done, total=total, text=text):
            self._draw(done, total, text, finished)

    def _draw(self, done: float, total: float | None, text: str, finished: bool) -> None:
        """Over the last one, in the same line."""
        words = [text] if text else []
        if total:
            full = round(_BAR * min(1.0, max(0.0, done / total)))
            words.append(f"[{'#' * full}{'.' * (_BAR - full)}]")
        words.append(f"{done:g}" if total is None else f"{done:g}/{total:g}")
        line = " ".join(words)
        print("\r" + line.ljust(self._width), end="\n" if finished else "", flush=True)
        self._width = 0 if finished else len(line)


_channel = _Channel()
_bar = _Bar()


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)):
        with suppress(AttributeError, TypeError, ValueError):  # numpy's scalars, tensors of one element
            value = value.item()
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, bool) else value
    try:
        return float(value.__float__())
    except (AttributeError, TypeError, ValueError):
        raise TypeError(f"`{name}` is no number but a {type(value).__name__}") from None


def _is_json(value: Any, depth: int = 0) -> bool:
    """Whether JSON gives back exactly this value."""
    kind = type(value)
    if kind is dict and depth < _DEEPEST:
        return all(type(key) is str and _is_json(entry, depth + 1) for key, entry in value.items())
    if kind is list and depth < _DEEPEST:
        return all(_is_json(entry, depth + 1) for entry in value)
    return value is None or kind in (str, int, float, bool)


def _is_file(text: str) -> bool:
    try:
        return os.path.isfile(text)
    except ValueError:  # a NUL
        return False


def _stored(path: Path, objects: Path) -> dict[str, Any]:
    digest = _runner("objects").Objects(objects).write_file(path)
    return {"object": digest, "size": (objects / digest).stat().st_size, "path": path.name}


def _graph(value: Any, objects: Path) -> dict[str, Any]:
    """The reference of a graph that holds the value under the name `value`."""
    graph = _runner("graph")
    reference = graph.dump(
        {"value": value},
        namespace=sys.modules["__main__"].__dict__,
        objects=_runner("objects").Objects(objects),
        classes=graph.notebook_classes(),
        inline=_channel.room,
    )
    _channel.carried += len(reference.get("data") or "")
    return reference


def _runner(name: str) -> ModuleType:
    """A module of the runner that this job was sent with, as a rank has it already; else of the installed package."""
    module = sys.modules.get(f"{_PACKAGE}.{name}")
    if module is not None:
        return module
    if __name__ == "kube_nb.inside":
        return import_module(f"kube_nb.runner.{name}")
    runner = Path(__file__).resolve().parent.parent.parent
    places = [str(runner), str(runner / "vendor")]
    sys.path[:0] = places
    try:
        return import_module(f"{_PACKAGE}.{name}")
    finally:
        for place in places:
            sys.path.remove(place)


def _show(name: str, value: Any) -> None:
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        print(f"{name}:", flush=True)
        ipython.display.display(value)
        return
    import reprlib

    print(f"{name}: {reprlib.repr(value)}", flush=True)
