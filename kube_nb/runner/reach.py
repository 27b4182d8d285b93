"""How a node finds node 0: tried until it answers, and if it never does, why."""

from __future__ import annotations

import socket
import time

from . import ending
from .nodes import Terms

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from .stream import Stream

_ANSWER = 5.0
"""Seconds that one attempt to connect may take."""
_UNANSWERED = 60.0
"""Seconds without any answer from a known address, not even a refusal, after which waiting longer is of no use."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_UNKNOWN = "its name is not known in the cluster's DNS"
_REFUSED = "nothing listens there"
_DROPPED = "nothing answers there"


class Reach:
    """Attempts to connect to node 0, one after the other.

    Args:
        node: which one calls.
        seconds: when to give up.
        stream: where to say what is waited for; None: nowhere.
    """

    def __init__(self, terms: Terms, node: int, seconds: float, stream: Stream | None) -> None:
        self._terms = terms
        self._node = node
        self._seconds = seconds
        self._stream = stream
        self._until = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE
        self._trouble = ""
        self._dropped_since: float | None = None

    def connect(self) -> socket.socket | None:
        """A connection, or None: not yet."""
        began = time.monotonic()
        try:
            return socket.create_connection(self._terms.address, timeout=_ANSWER)
        except socket.gaierror:
            self._note(_UNKNOWN)
        except ConnectionRefusedError:
            self._note(_REFUSED)
        except OSError as error:  # a packet filter drops packets, or says that there is no way
            trouble = _DROPPED if isinstance(error, TimeoutError) else f"{_DROPPED}: {error.strerror}"
            since = self._dropped_since or began
            self._note(trouble)
            self._dropped_since = since
        return None

    def refused(self, why: str) -> None:
        """It was connected, and yet not welcomed."""
        self._note(f"what listens there did not take this node in: {why}")

    def pause(self) -> float:
        """Seconds until the next attempt.

        Raises:
            CannotGoOn: RendezvousBlocked: there is no use in another one.
        """
        now = time.monotonic()
        if now >= self._until or (self._dropped_since is not None and now - self._dropped_since >= _UNANSWERED):
            raise self._blocked(now)
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return min(pause, self._until - now)

    def _note(self, trouble: str) -> None:
        self._dropped_since = None
        if trouble != self._trouble and self._stream is not None:
            host, port = self._terms.address
            self._stream.state("Starting", "join", f"waiting for node 0 at {host}, port {port}: {trouble}")
        self._trouble = trouble

    def _blocked(self, now: float) -> ending.CannotGoOn:
        host, port = self._terms.address
        dropped = self._dropped_since is not None
        waited = now - self._dropped_since if self._dropped_since is not None else self._seconds
        guess = {
            _UNKNOWN: "; the pod of node 0 was not started, or a NetworkPolicy keeps this pod from the DNS",
            _REFUSED: "; the pod of node 0 has not started its container, or a NetworkPolicy refuses connections",
        }.get(self._trouble, "; most probably a NetworkPolicy keeps the pods apart" if dropped else "")
        what = f"node {self._node} could not reach node 0 at {host}, port {port}"
        detail = {
            "what": what,
            "why": f"for {waited:.0f} s {self._trouble}{guess}",
            "next": self._terms.remedy,
            "node": self._node,
            "address": host,
            "port": port,
        }
        return ending.CannotGoOn("RendezvousBlocked", f"{what}: {self._trouble}", detail)
