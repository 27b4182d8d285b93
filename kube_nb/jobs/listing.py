"""Jobs as rows: for the magic, the command line and programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kube_nb.jobs.card import duration

if TYPE_CHECKING:
    from kube_nb.backends.base import JobStatus

HEADINGS = ("job", "name", "what", "state", "took", "started", "reason")


def rows(statuses: Sequence[JobStatus]) -> list[tuple[str, ...]]:
    """One row of texts for each job."""
    return [
        (
            status.id,
            status.name,
            status.label,
            str(status.phase),
            _took(status),
            f"{duration(max(0.0, time.time() - status.created))} ago",
            status.reason.what if status.reason else "",
        )
        for status in statuses
    ]


def record(status: JobStatus) -> dict[str, Any]:
    """What a program reads of a job."""
    reason = status.reason
    return {
        "id": status.id,
        "name": status.name,
        "label": status.label,
        "phase": str(status.phase),
        "reason": {"code": reason.code, "what": reason.what, "why": reason.why, "next": reason.next}
        if reason
        else None,
        "created": status.created,
        "started": status.started,
        "ended": status.ended,
        "attempt": status.attempt,
        "nodes": status.nodes,
        "owner": status.owner,
    }


def _took(status: JobStatus) -> str:
    if status.started is None:
        return ""
    return duration(max(0.0, (status.ended or time.time()) - status.started))
