"""What the ranks of one node tell the job's other nodes and ask of them, for a job that has no others."""

from __future__ import annotations

import signal
import time

from .loop import Interrupted, Loop, Signals

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from typing import Any

    from .ranks import Gang
    from .stream import Stream


class Alone:
    """No other nodes. `lead.py` has node 0's view of the others, `member.py` that of each other node."""

    several = False
    """Whether an exception here may come of the death of a process elsewhere."""
    judges = True
    """Whether this node's time-out is the job's."""

    def __init__(self) -> None:
        self._gang: Gang | None = None
        self._loop = Loop()

    def attach(self, gang: Gang) -> None:
        """From now on `gang` is told what happens elsewhere, and its loop serves the connections."""
        self._gang = gang
        self._loop = gang.loop

    def join(self, stream: Stream, attempt: int) -> int:
        """Wait until all nodes can start; the number of the attempt."""
        return attempt

    def suspected(self, end: dict[str, Any]) -> None:
        """A rank of this node says that it failed."""

    def decided(self, end: dict[str, Any], *, sudden: bool) -> None:
        """Here all ranks are ended, for this reason; `sudden`: no rank said so itself."""

    def hurry(self) -> None:
        """This node will be killed before long."""

    def over(self, end: dict[str, Any]) -> bool:
        """No rank is left here, with this END. Whether there is nothing to wait for."""
        return True

    def verdict(self, end: dict[str, Any]) -> dict[str, Any]:
        """The END of this node's attempt, `end` being that of its ranks."""
        return end

    def unable(self, end: dict[str, Any]) -> dict[str, Any]:
        """Something else than the ranks ended the attempt here: tell the others; the END of this node."""
        return end

    def part(self, status: int, code: str) -> None:
        """The last word: this node ends with this exit status and code."""

    def doubt(self) -> float | None:
        """Until when to wait before an exception is held to be no consequence of a node's loss; None: not at all."""
        return None

    def moment(self) -> float | None:
        """When `heed_time` must be called next, on the monotonic clock."""
        return None

    def heed_time(self) -> None:
        """Do what is due."""

    def attend(self, fd: int, signals: Signals) -> None:
        """Wait until `fd` can be read; the others hear meanwhile that this node is there.

        Raises:
            Interrupted: SIGINT came, after which nobody waits for anything.
        """
        ready: list[int] = []
        if self._gang is None:
            self._loop.watch(signals.fd, signals.quiet)
        self._loop.watch(fd, lambda: ready.append(fd))
        try:
            while not ready:
                moment = self.moment()
                self._loop.turn(None if moment is None else max(0.0, moment - time.monotonic()), urgent_only=False)
                self.heed_time()
                if signals.came(signal.SIGINT):
                    raise Interrupted(signal.SIGINT)
        finally:
            self._loop.forget(fd)
