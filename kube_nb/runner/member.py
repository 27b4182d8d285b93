"""The side of every node but 0 of a job: joins node 0, tells it what happens here, and ends when node 0 says so."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

from . import ending
from .alone import Alone
from .loop import Interrupted, Signals
from .nodes import INTRODUCTION, Terms, asked_to_end, short
from .reach import Reach
from .wire import Wire

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from typing import Any

    from .stream import Stream


class Member(Alone):
    """What another node than 0 tells node 0 and hears of it.

    Args:
        node: which one this is.
    """

    several = True
    judges = False

    def __init__(self, terms: Terms, signals: Signals, node: int) -> None:
        super().__init__()
        self._terms = terms
        self._signals = signals
        self._node = node
        self._wire: Wire | None = None
        self._attempt: int | None = None  # once node 0 has welcomed this one
        self._started = False
        self._why_lost = ""
        self._outcome: str | None = None
        """The job's code, once node 0 has said that all have ended."""
        self._said = False
        self._hurried = False

    def join(self, stream: Stream, attempt: int) -> int:
        """Reach node 0 and wait until it says that all are there; the attempt's number.

        Raises:
            CannotGoOn: RendezvousBlocked: it cannot be reached.
            Ended: the job has ended meanwhile.
        """
        while True:
            self._reach(self._terms.join, stream)
            stream.state("Starting", "join", "this node is there; waiting for the others")
            while self._connected and not self._started and self._outcome is None:
                self._turn()
            if self._outcome is not None:
                raise ending.Ended(self._told(ending.end("Succeeded", self._first)))
            if self._started:
                assert self._attempt is not None
                return self._attempt

    def _reach(self, seconds: float, stream: Stream | None) -> None:
        """Come to be welcomed by node 0."""
        reach = Reach(self._terms, self._node, seconds, stream)
        self._attempt = None
        while self._attempt is None and self._outcome is None:
            connection = reach.connect()
            if connection is not None:
                self._call(connection)
                while self._connected and self._attempt is None and self._outcome is None:
                    self._turn()
            if self._attempt is None and self._outcome is None:
                if connection is not None:
                    reach.refused(self._why_lost)
                self._loop.turn(reach.pause(), urgent_only=False)

    def _call(self, connection: socket.socket) -> None:
        self._wire = Wire(
            connection, self._loop, self._terms.secret, self._node, received=self._receive, lost=self._lost
        )

    @property
    def _connected(self) -> bool:
        return self._wire is not None and self._wire.open

    @property
    def _first(self) -> int:
        return self._node * self._terms.procs

    def _turn(self) -> None:
        """Serve the connection while no gang's loop does it."""
        moment = self.moment()
        self._loop.turn(None if moment is None else max(0.0, moment - time.monotonic()), urgent_only=False)
        self.heed_time()
        signum = asked_to_end(self._signals)
        if signum is not None:
            raise Interrupted(signum)

    # What the gang asks and says

    def suspected(self, end: dict[str, Any]) -> None:
        self._send("failed", end=short(end), sudden=False)

    def decided(self, end: dict[str, Any], *, sudden: bool) -> None:
        if end["code"] != "Again":
            self._send("failed", end=short(end), sudden=sudden)

    def hurry(self) -> None:
        self._hurried = True

    def over(self, end: dict[str, Any]) -> bool:
        if not self._said:
            self._said = True
            self._send("ended", end=short(end))
        return self._hurried or self._outcome is not None or not self._connected

    def verdict(self, end: dict[str, Any]) -> dict[str, Any]:
        return self._told(end)

    def _told(self, end: dict[str, Any]) -> dict[str, Any]:
        """How this node ends, with what node 0 has said."""
        if self._outcome == end["code"] == "Succeeded":
            return end
        by_signal = end["code"] in ("Stopped", "Cancelled")
        if by_signal and (self._hurried or self._outcome is None):
            return end
        if self._outcome is None:
            why = f"node 0 was lost: {self._why_lost}" if self._why_lost else "node 0 has not said how the job ended"
        else:
            why = f"the job ended with {self._outcome}; node 0 tells why"
        return ending.end("Again", self._first, evalue=why, detail={"code": self._outcome, "own": end["code"]})

    def moment(self) -> float | None:
        if self._wire is None or not self._wire.open or not self._wire.known:
            return None
        return min(self._beat_at(self._wire), self._wire.heard + self._terms.silence)

    def heed_time(self) -> None:
        wire = self._wire
        if wire is None or not wire.open or not wire.known:  # node 0 answers when it is ready, however long that takes
            return
        if self._terms.silent(wire):
            wire.send("apart")  # where node 0 only stood still, it hears why this one went
            wire.close()
            self._lost(wire, f"it was silent for {self._terms.silence:g} s")
        elif time.monotonic() >= self._beat_at(wire):
            wire.send("alive")

    def _beat_at(self, wire: Wire) -> float:
        return wire.said + self._terms.beat

    def unable(self, end: dict[str, Any]) -> dict[str, Any]:
        if end["code"] == "RendezvousBlocked" or self._outcome is not None:
            return end
        by_signal = end["code"] in ("Stopped", "Cancelled")
        with suppress(ending.CannotGoOn, Interrupted, OSError):
            if self._attempt is None and not by_signal:
                self._reach(INTRODUCTION, None)
            self._send("ended", end=short(end), sudden=True)
            while self._connected and self._outcome is None and not by_signal:
                self._turn()
        return end if self._outcome is None else self._told(end)

    def part(self, status: int, code: str) -> None:
        self._send("bye", status=status)

    # Messages

    def _send(self, kind: str, **message: Any) -> None:
        if self._wire is not None and self._wire.open and self._wire.known:
            self._wire.send(kind, **message)

    def _receive(self, wire: Wire, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind == "welcome":
            self._attempt = int(message["attempt"])
        elif kind == "go":
            self._started = True
        elif kind == "release":
            self._outcome = str(message.get("code"))
        if kind == "stop" and not self._started:
            wire.close()  # another one was lost just before the start: look for the next attempt
            self._why_lost = "the others did not start"
        if kind in ("stop", "release") and self._started and self._gang is not None:
            rank, code = message.get("rank"), str(message.get("code"))
            if code != "Succeeded" and not (isinstance(rank, int) and self._gang.blame(rank)):
                self._gang.end_all(self._again(code))

    def _again(self, code: str) -> dict[str, Any]:
        return ending.end("Again", self._first, evalue=f"the job ends with {code}; node 0 tells why")

    def _lost(self, wire: Wire, why: str) -> None:
        self._why_lost = why
        if self._started and self._outcome is None and self._gang is not None:
            self._gang.end_all(ending.end("Again", self._first, evalue=f"node 0 was lost: {why}"))
