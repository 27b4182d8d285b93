"""Why a suspended Job does not begin: it waits in a queue of Kueue's, was stopped for another job, or by somebody."""

from __future__ import annotations

import re

from kube_nb.backends.base import Reason
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.snapshot import Snapshot, about, condition, queue_of

_NO_QUEUE = re.compile(r"LocalQueue \S+ doesn't exist|LocalQueue \S+ not found", re.IGNORECASE)
_INACTIVE = re.compile(r"(?:ClusterQueue|LocalQueue) \S+ is (?:inactive|stopped|not active)", re.IGNORECASE)
_NEVER = re.compile(
    r"request > maximum capacity|insufficient quota|exceeds? (?:the )?(?:nominal|maximum)", re.IGNORECASE
)
_WAITS = re.compile(r"insufficient unused quota", re.IGNORECASE)


def why_suspended(snapshot: Snapshot) -> Reason:
    """Why a Job with `suspend` waits."""
    queue = queue_of(snapshot.job)
    if not queue:
        return Reason(
            code="Suspended",
            what="the job is suspended: it does not begin until somebody resumes it",
            why="somebody, or an add-on of the cluster, has set `suspend` on its Job",
            next="ask who runs the cluster; `kubectl describe job` may tell who did it",
        )
    workload = max(snapshot.workloads, key=lambda one: one["metadata"].get("creationTimestamp", ""), default=None)
    if workload is not None:
        return _of_workload(queue, workload)
    for event in reversed(snapshot.events):
        if about(event)[0] == "Workload" and event.get("message"):
            return _of_words(queue, event["message"])
    return _waiting(queue, "Kueue has not told why")


def _of_workload(queue: str, workload: Object) -> Reason:
    if workload.get("spec", {}).get("active") is False:
        return Reason(
            code="QueueDeactivated",
            what=f"the job was put aside in the queue {queue}: it will not begin by itself",
            why=(condition(workload, "Evicted") or {}).get("message") or "its Workload was set inactive",
            next="cancel it and send it again, or ask who runs the cluster",
        )
    evicted = condition(workload, "Evicted")
    reserved = condition(workload, "QuotaReserved", "False") or {}
    if evicted is not None and evicted.get("reason") == "Preempted":
        return Reason(
            code="Preempted",
            what=f"the job was stopped for a more important one, and waits in the queue {queue} to begin again",
            why=(condition(workload, "Preempted") or evicted).get("message", ""),
            next="wait; kn.checkpoint_dir() keeps work across attempts",
        )
    if evicted is not None:
        return _waiting(queue, evicted.get("message", ""))
    return _of_words(queue, reserved.get("message", ""))


def _of_words(queue: str, message: str) -> Reason:
    if _NO_QUEUE.search(message):
        return Reason(
            code="QueueMissing",
            what=f"there is no queue {queue} in the namespace",
            why=message,
            next="name one that `kubectl get localqueues` lists with --queue, or ask who runs the cluster",
        )
    if _INACTIVE.search(message):
        return Reason(
            code="QueueStopped",
            what=f"the queue {queue} lets nothing begin just now",
            why=message,
            next="wait, or name another queue with --queue",
        )
    if _NEVER.search(message) and not _WAITS.search(message):
        return Reason(
            code="QueueTooSmall",
            what=f"the job asks for more than the queue {queue} may ever give",
            why=message,
            next="ask for less with --gpus, --cpu or --memory, or name another queue with --queue",
        )
    return _waiting(queue, message)


def _waiting(queue: str, why: str) -> Reason:
    return Reason(
        code="WaitingForQuota",
        what=f"the job waits in the queue {queue} for its share of the cluster",
        why=why or "others were there before it",
        next="wait; it begins by itself",
    )
