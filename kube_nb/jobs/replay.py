"""What a job's stream has said so far, kept while it is followed or gathered by reading it again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kube_nb.events import Event, Text
from kube_nb.jobs.follow import Attempt


@dataclass
class Replay:
    """The last word of each kind, and all metrics.

    Attributes:
        metrics: one dict for each `kn.report`, with its `rank`, `attempt`, `step` and `time`.
        progress: the last one: (done, total, text); None: none.
        step: what the runner does, in words.
        result, error: (attempt, data) of the signed events of rank 0; None: none.
        produced: (attempt, data) of what `kn.output` named.
    """

    metrics: list[dict[str, Any]] = field(default_factory=list)
    progress: tuple[float, float | None, str] | None = None
    phase: str = ""
    step: str = ""
    result: tuple[int, dict[str, Any]] | None = None
    error: tuple[int, dict[str, Any]] | None = None
    produced: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    lines: int = 0

    def take(self, batch: Iterable[Text | Event | Attempt]) -> None:
        """Remember what a batch says."""
        for item in batch:
            if isinstance(item, Text):
                self.lines += item.data.count(b"\n")
            elif isinstance(item, Attempt):
                self._begin(item)
            else:
                self._event(item)

    def _begin(self, attempt: Attempt) -> None:
        """A node tries again. Nodes are read side by side: another one may have told of the end of that try already."""
        if attempt.rank == 0:
            self.result = None
        if self.error is not None and self.error[0] < attempt.number:
            self.error = None

    def _event(self, event: Event) -> None:
        data = event.data
        match event.kind:
            case "metric":
                place = {
                    "rank": event.rank,
                    "attempt": event.attempt,
                    "step": data.get("step"),
                    "time": data.get("time"),
                }
                self.metrics.append(place | dict(data.get("values", {})))
            case "progress":
                self.progress = (data.get("done", 0), data.get("total"), str(data.get("text", "")))
            case "state":
                self.phase, self.step = str(data.get("phase", "")), str(data.get("text", ""))
            case "result":
                self.result = (event.attempt, data)
            case "error" if self.error is None or self.error[0] < event.attempt:
                self.error = (event.attempt, data)
            case "output":
                self.produced[str(data.get("name"))] = (event.attempt, data)
