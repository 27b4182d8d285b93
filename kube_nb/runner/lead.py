"""Node 0's side of a job of several nodes: waits for the others, starts and ends them, and judges."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from . import ending
from .alone import Alone
from .loop import Signals
from .nodes import INTRODUCTION, Terms, asked_to_end, names
from .wire import Wire

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from typing import Any

    from .ranks import Gang
    from .stream import Stream

_STRANGERS = 64
_BACKLOG = 1024
_FAREWELL = 100.0
"""Seconds that the others have for their ends, beyond the grace, before node 0 ends without them."""
_LEAVE = 75.0
"""Seconds in which the others' processes end once they were released: they may wait for somebody to fetch their log."""
_RETURN = 60.0
"""Seconds in which a node that was killed after it was released comes back to hear that the job has succeeded."""


class Lead(Alone):
    """What node 0 knows of the others and tells them.

    Raises:
        CannotGoOn: RendezvousBlocked: the port is taken.
    """

    several = True

    def __init__(self, terms: Terms, signals: Signals) -> None:
        super().__init__()
        self._terms = terms
        self._signals = signals
        self._attempt = 0
        self._members: dict[int, Wire] = {}
        self._strangers: list[Wire] = []
        self._ends: dict[int, dict[str, Any]] = {}  # of nodes of which no rank is left
        self._left: set[int] = set()  # nodes that have said their last word
        self._started = False
        self._decided = False
        self._refusal: dict[str, Any] | None = None  # the END of a node that cannot take part
        self._code = ""  # once all have ended
        self._until = 0.0
        self._hurried = False
        try:
            self._listener = _listen(terms.address[1])
        except OSError as error:
            why = f"port {terms.address[1]}, where the nodes of a job meet, cannot be used: {error.strerror}"
            raise ending.CannotGoOn("RendezvousBlocked", why) from error

    def attach(self, gang: Gang) -> None:
        super().attach(gang)
        self._loop.watch(self._listener.fileno(), self._accept, urgent=True)

    def join(self, stream: Stream, attempt: int) -> int:
        """Wait until all nodes are there and let them start; the attempt's number.

        Raises:
            CannotGoOn: RendezvousBlocked: some did not come in time.
            Ended: one of them cannot take part, and says why.
        """
        self._attempt = attempt  # the others take it over
        until = time.monotonic() + self._terms.join
        waiting: list[int] | None = None
        while missing := [node for node in range(1, self._terms.nodes) if node not in self._members]:
            if missing != waiting:
                waiting = missing
                there = self._terms.nodes - len(missing)
                text = f"{there} of {self._terms.nodes} nodes are there; waiting for {names(missing)}"
                stream.state("Starting", "join", text)
            if time.monotonic() >= until:
                raise self._incomplete(missing)
            self._turn(until)
            if self._refusal is not None:
                raise ending.Ended(self._refusal)
        self._started = True
        self._tell("go")
        return attempt

    def _incomplete(self, missing: list[int]) -> ending.CannotGoOn:
        who = names(missing)
        host, port = self._terms.address
        why = f"{who} did not join within {self._terms.join:g} s"
        detail = {
            "what": f"the job's nodes did not come together: {who} never reached node 0 at {host}, port {port}",
            "why": f"within {self._terms.join:g} s its pod did not start, or a NetworkPolicy keeps it from node 0",
            "next": f"look at what its pod waits for; if it runs, {self._terms.remedy}",
            "nodes": missing,
        }
        return ending.CannotGoOn("RendezvousBlocked", why, detail)

    # What the gang asks and says

    def decided(self, end: dict[str, Any], *, sudden: bool) -> None:
        if not self._decided:
            self._decided = True
            self._until = time.monotonic() + self._terms.grace + _FAREWELL
            self._tell("stop", rank=end["rank"], code=end["code"])

    def hurry(self) -> None:
        self._hurried = True

    def over(self, end: dict[str, Any]) -> bool:
        if self._decided:
            return self._hurried or not self._missing_ends() or time.monotonic() >= self._until
        return len(self._ends) == self._terms.nodes - 1

    def _missing_ends(self) -> list[int]:
        return [node for node in self._members if node not in self._ends]

    def verdict(self, end: dict[str, Any]) -> dict[str, Any]:
        node = end["rank"] // self._terms.procs
        known = self._ends.get(node)
        if known is not None and known["rank"] == end["rank"] and known["code"] not in ("Succeeded", "Again"):
            end = known  # what it said before its last rank had ended was less
        if node:
            end["detail"] = {"node": node} | end["detail"]
        return end

    def doubt(self) -> float | None:
        late = time.monotonic() - 2 * self._terms.beat
        heard = [wire.heard for wire in self._members.values() if wire.heard < late]
        return min(heard) + self._terms.silence if heard and not self._decided else None

    def moment(self) -> float | None:
        moments = [self._beat_at(wire) for wire in self._members.values()]
        moments += [wire.heard + self._terms.silence for wire in self._members.values()]
        moments += [wire.since + INTRODUCTION for wire in self._strangers]
        if self._decided:
            moments.append(self._until)
        return min(moments, default=None)

    def heed_time(self) -> None:
        now = time.monotonic()
        for stranger in [wire for wire in self._strangers if now >= wire.since + INTRODUCTION]:
            self._strangers.remove(stranger)
            stranger.close()
        for wire in list(self._members.values()):
            if self._terms.silent(wire):
                wire.close()
                self._lose(wire, f"it was silent for {self._terms.silence:g} s", disruption=True)
            elif now >= self._beat_at(wire):
                wire.send("alive")

    def _beat_at(self, wire: Wire) -> float:
        return wire.said + self._terms.beat

    def part(self, status: int, code: str) -> None:
        if not self._started and code == "Stopped":
            return  # another node 0 comes: the others look for it as soon as their connections break
        self._code = code
        self._tell("release", code=code)
        if self._hurried or not self._started:
            return
        if status == 0:
            self._wait(lambda: len(self._left) == self._terms.nodes - 1, _RETURN)
        else:
            self._wait(lambda: not self._members, _LEAVE)
            self._wait(lambda: False, self._terms.report)

    def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not done() and time.monotonic() < until and asked_to_end(self._signals) is None:
            self._turn(until)

    def _turn(self, until: float) -> None:
        moment = min(until, self.moment() or until)
        self._loop.turn(max(0.0, moment - time.monotonic()), urgent_only=False)
        self.heed_time()

    # Connections

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it went away again
            return
        if len(self._strangers) >= _STRANGERS:
            self._strangers.pop(0).close()
        wire = Wire(
            connection, self._loop, self._terms.secret, None, joined=self._meet, received=self._receive, lost=self._lost
        )
        self._strangers.append(wire)

    def _meet(self, wire: Wire) -> None:
        """One that called is a node of this job."""
        self._strangers.remove(wire)
        known = self._members.pop(wire.node, None)
        if known is not None:
            known.close()
            if self._started:
                self._lose(known, "its runner was started anew")
        if self._code == "Succeeded":
            self._members[wire.node] = wire
            wire.send("release", code=self._code)
        elif self._started:
            wire.close()  # it is for the next attempt
        else:
            self._members[wire.node] = wire
            wire.send("welcome", attempt=self._attempt)

    def _lost(self, wire: Wire, why: str) -> None:
        if wire in self._strangers:
            self._strangers.remove(wire)
        elif self._members.get(wire.node) is wire:
            self._lose(wire, f"its connection broke: {why}")

    def _lose(self, wire: Wire, why: str, *, disruption: bool = False) -> None:
        """A node is gone. Before the start another one may come in its place."""
        if self._members.get(wire.node) is wire:
            del self._members[wire.node]
        over = self._decided or bool(self._code) or len(self._ends) == self._terms.nodes - 1
        if not self._started or over or self._gang is None:
            return  # one that comes back after its end hears how the job has ended
        ranks = self._terms.ranks(wire.node)
        detail = {"node": wire.node, "ranks": ranks, "disruption": disruption}
        evalue = f"{self._terms.name(wire.node)} was lost: {why}"
        self._gang.end_all(ending.end("RankLost", ranks[0], ename="", evalue=evalue, detail=detail))

    def _tell(self, kind: str, **message: Any) -> None:
        for wire in list(self._members.values()):
            wire.send(kind, **message)

    # Messages

    def _receive(self, wire: Wire, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind == "bye":
            self._left.add(wire.node)
        if kind == "apart":
            self._lose(wire, f"it heard nothing from node 0 for {self._terms.silence:g} s", disruption=True)
        if kind not in ("failed", "ended"):
            return
        end = ending.checked(message.get("end"))
        if end is None:
            return
        ranks = self._terms.ranks(wire.node)
        if end["rank"] not in ranks:
            end["rank"] = ranks[0]
        if not self._started:
            self._hear_before_start(wire, end)
            return
        if kind == "ended":
            self._ends[wire.node] = end
        if self._gang is not None and not self._decided and end["code"] not in ("Succeeded", "Again"):
            if message.get("sudden"):
                self._gang.end_all(end)
            else:
                self._gang.suspect_elsewhere(end)

    def _hear_before_start(self, wire: Wire, end: dict[str, Any]) -> None:
        if end["code"] in ("Stopped", "Again"):
            wire.close()  # its pod goes, and another one comes
            self._lose(wire, "")
        else:
            self._refusal = self._refusal or end


def _listen(port: int) -> socket.socket:
    """A listening socket for both families where the machine has both."""
    try:
        listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    except (OSError, ValueError):  # no IPv6 here
        listener = socket.create_server(("", port), backlog=_BACKLOG)
    listener.setblocking(False)
    return listener
