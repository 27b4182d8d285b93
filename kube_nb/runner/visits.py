"""How process 1 of a pod and the tools that are started beside it know of each other.

A tool holds a lock for as long as it runs, which its death gives back, and says words through a FIFO. Nobody asks again
and again, except in a sandbox that has no FIFOs.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import stat
import time
from contextlib import suppress

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from .loop import Signals

_LOCK = "visitors"
_FIFO = "words"
_LOOK_AGAIN = 0.5
"""Seconds between two looks where no words can come."""


class Hall:
    """Where process 1 waits.

    Args:
        folder: for this pod alone.
        signals: what may end the wait.
    """

    def __init__(self, folder: str, signals: Signals) -> None:
        self._signals = signals
        self._fifo = _fifo(os.path.join(folder, _FIFO))
        self._lock = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._poll = select.poll()
        if self._fifo >= 0:
            self._poll.register(self._fifo, select.POLLIN)
        self._poll.register(signals.fd, select.POLLIN)

    def hear(self, seconds: float | None) -> list[str] | None:
        """The words that came, at most `seconds` later; empty: none came in that time; None: a signal came."""
        if self._fifo < 0:
            seconds = _LOOK_AGAIN if seconds is None else min(seconds, _LOOK_AGAIN)
        ready = self._poll.poll(None if seconds is None else max(0, int(seconds * 1000) + 1))
        if any(fd == self._signals.fd for fd, _ in ready):
            self._signals.quiet()
            if any(signum != signal.SIGCHLD for signum in self._signals.take()):
                return None
        if self._fifo < 0:
            return []
        try:
            return os.read(self._fifo, 1 << 16).decode("ascii", "replace").split()
        except BlockingIOError:
            return []

    @property
    def empty(self) -> bool:
        """Whether no tool is running now."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        return True


def _fifo(path: str) -> int:
    """A FIFO to hear from; -1: there is no such thing here."""
    try:
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # Open for writing too: without a writer a FIFO would be ready for ever.
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return -1


class Visit:
    """What a tool holds while it runs; where there is no hall it does nothing."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = -1

    def __enter__(self) -> Visit:
        with suppress(OSError):  # nobody waits here
            self._lock = os.open(os.path.join(self._folder, _LOCK), os.O_RDWR | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        return self

    def say(self, word: str) -> bool:
        """Wake process 1; False: nobody listens."""
        try:
            fifo = os.open(os.path.join(self._folder, _FIFO), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(fifo, f"{word}\n".encode())
        except BlockingIOError:
            pass  # it is full of words that nobody has read yet: they wake it just as well
        finally:
            os.close(fifo)
        return True

    def __exit__(self, *_: object) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self.say("left")


def wait_until_left(hall: Hall, patience: float, longest: float) -> str:
    """Wait until no tool has been running for `patience` seconds, but no longer than `longest`.

    Returns:
        what ended it: "released", "idle", "late" or "signal".
    """
    last = time.monotonic()
    end = last + longest
    released = False
    while True:
        now = time.monotonic()
        left = last + patience - now
        if now >= end:
            return "late"
        if released and hall.empty:  # whoever else reads may be slower
            return "released"
        if left <= 0 and hall.empty:
            return "idle"
        # A tool that still runs says when it leaves, unless it is killed.
        words = hall.hear(min(left if left > 0 else patience, end - now))
        if words is None:
            return "signal"
        released = released or "release" in words
        if words:
            last = time.monotonic()


def see_off(hall: Hall, longest: float) -> None:
    """Let the tools that run now come to their end, but wait no longer than `longest` seconds."""
    end = time.monotonic() + longest
    while not hall.empty and (left := end - time.monotonic()) > 0:
        if hall.hear(min(left, 1.0)) is None:
            return
