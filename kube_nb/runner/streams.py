"""Standard output and error of a rank: two text streams over one buffer, so that their order is exact."""

from __future__ import annotations

import io
import os
import sys
import threading
from contextlib import suppress

_PERIOD = 0.1
"""Seconds after which the beginning of a line is seen, although the line has not ended."""


class _Pipe(io.BufferedWriter):
    """The rank's pipe. To close one of the streams over it, or to drop a wrapper of it, does not silence the other."""

    def close(self) -> None:
        if not self.raw.closed:
            self.flush()


class Streams:
    """Makes `sys.stdout` and `sys.stderr` and writes the beginnings of unfinished lines from time to time.

    A finished line is one system call. The thread that writes unfinished lines pauses while the process forks: a copy
    of a process with threads may deadlock, and Python warns of it.
    """

    def __init__(self, descriptor: int = 1) -> None:
        self._pipe = _Pipe(io.FileIO(descriptor, "w", closefd=False), 64 * 1024)
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def install(self) -> None:
        sys.stdout = sys.__stdout__ = self._text()
        sys.stderr = sys.__stderr__ = self._text()
        self._start()
        os.register_at_fork(before=self._pause, after_in_parent=self._start)

    def flush(self) -> None:
        """Write all that was printed, also by a stream that user code has put in the place of ours."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not sys.__stdout__ and stream is not sys.__stderr__:
                # A stand-in that cannot be flushed, or is closed, holds nothing of ours.
                with suppress(AttributeError, ValueError, OSError):
                    stream.flush()
        self._pipe.flush()

    def _text(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(
            self._pipe, encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=True
        )

    def _start(self) -> None:
        if self._pid != os.getpid():
            return  # a forked child that forks: its unfinished lines are seen when they end
        self._stop.clear()
        self._thread = threading.Thread(target=self._flush_now_and_then, name="kube-nb flush", daemon=True)
        self._thread.start()

    def _pause(self) -> None:
        if self._pid == os.getpid() and self._thread is not None:
            self._stop.set()
            self._thread.join(timeout=1.0)
        self._pipe.flush()  # else parent and child would both write what is in the buffer

    def _flush_now_and_then(self) -> None:
        while not self._stop.wait(_PERIOD):
            try:
                self._pipe.flush()
            except OSError:
                return  # the runner is gone
