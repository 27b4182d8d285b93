"""What a runner writes, kept in the job's directory byte for byte, and those who follow it woken.

The first bytes after a pause wake followers at once; a flood wakes them every few milliseconds.
"""

from __future__ import annotations

import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kube_nb.backends.local.bus import Bus
    from kube_nb.backends.local.supervisor import Node

_MARK = b"\x1e"  # events.MARK; importing that module takes longer than a runner needs to start
_CHUNK = 1 << 20
_PAUSE = 0.005
"""Seconds between two wake-ups of those who follow a job."""
_LONGEST_HEAD = 1 << 16


class Relay:
    """Copies the streams of one job.

    Args:
        bus: wakes the followers.
        topic: theirs.
    """

    def __init__(self, bus: Bus, topic: str) -> None:
        self._bus = bus
        self._topic = topic
        self._buffer = bytearray(_CHUNK)
        self._view = memoryview(self._buffer)
        self._woken = 0.0
        self._grown = False
        self._heads: dict[Node, bytes] = {}
        self._runs = False

    def copy(self, node: Node) -> int:
        """Keep what is in the pipe now.

        Returns:
            how many bytes that was; 0: the runner has closed its end, -1: nothing now.

        Raises:
            OSError: they could not be kept, e.g. because the disk is full.
        """
        try:
            size = os.readv(node.pipe, [self._buffer])
        except BlockingIOError:
            return -1
        written = 0
        while written < size:
            written += os.write(node.stream, self._view[written:size])
        if size:
            self._grown = True
            self.wake()
            if not self._runs:
                self._look_for_running(node, bytes(self._view[:size]))
        return size

    def drop(self, node: Node) -> int:
        """Read what is in the pipe and forget it, so that a runner whose stream cannot be kept does not hang."""
        try:
            return os.readv(node.pipe, [self._buffer])
        except BlockingIOError:
            return -1

    def wake(self) -> float | None:
        """Wake the followers if there is something new and the last time is long enough ago.

        Returns:
            seconds after which to call again; None: there is nothing to say.
        """
        if not self._grown:
            return None
        now = time.monotonic()
        wait = self._woken + _PAUSE - now
        if wait > 0:
            return wait
        self._woken = now
        self._grown = False
        self._bus.send(self._topic)
        return None

    def restart(self) -> None:
        """Another attempt begins."""
        self._heads.clear()
        self._runs = False

    @property
    def runs(self) -> bool:
        """Whether a runner has said that the user's code runs."""
        return self._runs

    def _look_for_running(self, node: Node, data: bytes) -> None:
        *lines, rest = (self._heads.get(node, b"") + data).split(b"\n")
        self._heads[node] = rest if len(rest) < _LONGEST_HEAD else b""
        for line in lines:
            if line.startswith(_MARK + b"{") and _says_running(line):
                self._runs = True
                self._heads.clear()
                return


def _says_running(line: bytes) -> bool:
    try:
        event = json.loads(line[1:])
    except ValueError:
        return False
    return event.get("kind") == "state" and event.get("phase") == "Running"
