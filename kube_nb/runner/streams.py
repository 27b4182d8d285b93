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


class _Errors(io.TextIOWrapper):
    """Standard error, which keeps its place among the beginnings of lines that standard output holds back."""

    def __init__(self, pipe: _Pipe, streams: Streams) -> None:
        super().__init__(pipe, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._streams = streams

    def write(self, text: str, /) -> int:
        self._streams.output.flush()
        written = super().write(text)
        if not text.endswith(("\n", "\r")):
            self._streams.begun()
        return written


class Streams:
    """Makes `sys.stdout` and `sys.stderr` and writes the beginnings of unfinished lines from time to time.

    A finished line is one system call, and lines of several threads do not mix. The thread that writes unfinished lines
    is not there while the process forks: a copy of a process with threads may deadlock, and Python warns of it.

    Standard output is Python's own class, because each method in between would cost as much as a print. Where its next
    `write` has something to do first, it gets another one for that once.
    """

    def __init__(self, descriptor: int = 1) -> None:
        self._pipe = _Pipe(io.FileIO(descriptor, "w", closefd=False), 64 * 1024)
        self.output = io.TextIOWrapper(self._pipe, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self.errors = _Errors(self._pipe, self)
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def install(self) -> None:
        sys.stdout = sys.__stdout__ = self.output
        sys.stderr = sys.__stderr__ = self.errors
        self._start()
        os.register_at_fork(before=self._pause)

    def flush(self) -> None:
        """Write all that was printed, also by a stream that user code has put in the place of ours."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not self.output and stream is not self.errors:
                # A stand-in that cannot be flushed, or is closed, holds nothing of ours.
                with suppress(AttributeError, ValueError, OSError):
                    stream.flush()
        self._flush_own()

    def begun(self) -> None:
        """Standard error holds the beginning of a line, which is to come before what standard output writes next."""
        vars(self.output)["write"] = self._write_output
        self._start()

    def _write_output(self, text: str, /) -> int:
        vars(self.output).pop("write", None)
        self.errors.flush()
        self._start()
        return self.output.write(text)

    def _flush_own(self) -> None:
        for stream in (self.output, self.errors):
            with suppress(ValueError):  # it was detached
                stream.flush()
        self._pipe.flush()

    def _start(self) -> None:
        # A forked child shows the beginnings of its lines when they end.
        if self._thread is not None or self._pid != os.getpid() or not self._starting.acquire(blocking=False):
            return
        try:
            self._stop.clear()
            thread = threading.Thread(target=self._flush_now_and_then, name="kube-nb flush", daemon=True)
            with suppress(RuntimeError):  # no more threads to be had, or the interpreter ends: a print must not fail
                thread.start()
                self._thread = thread
        finally:
            self._starting.release()

    def _pause(self) -> None:
        if self._pid == os.getpid() and self._thread is not None:
            self._stop.set()
            self._thread.join(timeout=1.0)
            self._thread = None
            # Python counts the threads when the fork is over, so the next one to write starts it again.
            vars(self.output)["write"] = self._write_output
        self._flush_own()  # else parent and child would both write what is in the buffers

    def _flush_now_and_then(self) -> None:
        while not self._stop.wait(_PERIOD):
            try:
                self._flush_own()
            except OSError:
                return  # the runner is gone
