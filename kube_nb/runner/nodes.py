"""Several nodes that run one job: they start together and end together, and node 0 says how it ended.

Each other node's runner (`member.py`) holds one connection to that of node 0 (`lead.py`), see `wire.py`. What they say:

- node 0: `welcome` (the attempt's number), `go` (all are there: start the ranks), `stop` (the job ends: so do your
  ranks), `release` (all have ended; with the job's code), `alive`.
- another: `failed` (an END so far; `sudden`: no rank of it said so itself), `ended` (no rank is left here; its END),
  `bye` (the last word), `alive`.

No node ends with 0 before node 0 says that all have ended, since a cluster never starts a node again that ended with 0.
Another node that cannot end with 0 ends with the code `Again`, which counts for nothing: node 0's own end counts.
"""

from __future__ import annotations

import json
import signal
import time

from . import ending
from .loop import Signals
from .wire import Secret, Wire

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from typing import Any

MASTER_PORT = 29500
"""For the code: torchrun's default."""
PORT = 29470
"""Where node 0's runner listens."""
JOIN = 600.0
SILENCE = 30.0
REPORT = 4.0
"""Seconds in which a kubelet tells that a container has ended. Where node 0 failed for good the cluster removes all
pods that it believes to run, and their logs, so node 0 ends only after it may know of the others' end."""
INTRODUCTION = 10.0
"""Seconds that one who connects has to prove who it is."""
_BEATS = 6
"""Signs of life in the time after which silence is death."""


class Terms:
    """What holds for all nodes of a job.

    Args:
        key: the job's.
        job: its id.
        nodes, procs: how many nodes, and ranks on each.
        address: host and port of node 0's runner, as the others see it.
        join: seconds in which all nodes must be there.
        silence: seconds after which a node that says nothing is lost.
        grace: seconds that ranks have to end.
        report: seconds that node 0 stays after the others where the job has failed.
    """

    def __init__(
        self,
        key: bytes,
        job: str,
        nodes: int,
        procs: int,
        address: tuple[str, int],
        *,
        join: float = JOIN,
        silence: float = SILENCE,
        grace: float = 0.0,
        report: float = 0.0,
    ) -> None:
        self.secret = Secret(key, job, nodes)
        self.job = job
        self.nodes = nodes
        self.procs = procs
        self.address = address
        self.join = join
        self.silence = silence
        self.beat = silence / _BEATS
        self.grace = grace
        self.report = report

    def ranks(self, node: int) -> list[int]:
        return list(range(node * self.procs, (node + 1) * self.procs))

    def name(self, node: int) -> str:
        """A node and its ranks, for a person."""
        return f"node {node} (rank{'s' if self.procs > 1 else ''} {_span(self.ranks(node))})"

    def silent(self, wire: Wire) -> bool:
        """Whether nothing was heard for too long."""
        if time.monotonic() < wire.heard + self.silence:
            return False
        wire.hear()  # if it was this process that stood still, there is something to be heard
        return wire.open and time.monotonic() >= wire.heard + self.silence

    @property
    def remedy(self) -> str:
        """What a person can do where nodes cannot reach each other."""
        return (
            "ask the platform team for a NetworkPolicy that lets pods with the same label kube-nb/job"
            f" (here kube-nb/job={self.job}) talk to each other"
        )


def asked_to_end(signals: Signals) -> int | None:
    """The signal that asked for it since the last look."""
    return next((signum for signum in signals.take() if signum != signal.SIGCHLD), None)


def short(end: dict[str, Any]) -> dict[str, Any]:
    """An END as it may travel: no longer than a termination message."""
    return json.loads(ending.shorten(end))


def names(nodes: list[int]) -> str:
    """Nodes, for a person: `nodes 1-3, 5`."""
    return f"node {nodes[0]}" if len(nodes) == 1 else f"nodes {_span(nodes)}"


def _span(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
