"""From what the cluster shows of a job to what a person may know of it. Pure: nobody is asked here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from kube_nb.backends.base import JobStatus, Reason
from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.quantity import amounts
from kube_nb.backends.kubernetes.reasons import creation, ends, images, kueue, mounts, scheduling, uploads
from kube_nb.backends.kubernetes.reasons.refusals import why_unheard
from kube_nb.backends.kubernetes.snapshot import (
    Snapshot,
    annotation,
    attempt_of,
    condition,
    container,
    created,
    end_of,
    failures_of,
    over,
    seconds_of,
    state,
)
from kube_nb.backends.reasons import reason_of
from kube_nb.runner.ending import code_of
from kube_nb.spec import Gpu, JobId, Phase, Resources

_FINAL = frozenset({"Succeeded", "TimedOut", "Cancelled", "BundleCorrupted", "EnvironmentFailed", "OutOfDisk"})
_FINAL |= {"RunnerFault", "Disrupted", "NotUploaded", "RendezvousBlocked"}
"""Ends that no other attempt follows, whatever the retries."""
_PASSING = frozenset({"Again", "Stopped"})
"""Ends that another attempt follows without being counted."""


def status_of(snapshot: Snapshot, now: float | None = None) -> JobStatus:
    """What is known of a job.

    Args:
        now: seconds since the epoch; some things are given a moment before they are called a fault.
    """
    now = time.time() if now is None else now
    end = _last_word(snapshot)
    phase, reason = _standing(snapshot, end, now)
    outage = None if phase.final else snapshot.outage
    if outage is not None:
        reason = why_unheard(snapshot, outage)
    pod = snapshot.pod()
    return JobStatus(
        id=JobId(snapshot.id),
        name=annotation(snapshot.job, names.NAME, snapshot.id),
        label=annotation(snapshot.job, names.LABEL),
        phase=phase,
        reason=reason,
        created=created(snapshot.job),
        started=_started(pod),
        ended=_ended(snapshot, end) if phase.final else None,
        attempt=attempt_of(pod) if pod else 0,
        nodes=snapshot.nodes,
        owner=annotation(snapshot.job, names.USER),
        asks=_asks(snapshot),
        end=end or {},
        unheard=outage is not None,
    )


def spec_of(job: Object) -> Mapping[str, Any]:
    """The spec that was submitted, as plain values; empty where the Job is not one of ours."""
    try:
        return json.loads(annotation(job, names.SPEC, "{}"))
    except ValueError:
        return {}


def _asks(snapshot: Snapshot) -> Resources:
    """What each pod was given, patches and defaults among it."""
    containers = ((snapshot.job["spec"].get("template") or {}).get("spec") or {}).get("containers") or ()
    resources = next((one.get("resources") or {} for one in containers if one["name"] == names.CONTAINER), {})
    limits, requests = amounts(resources.get("limits")), amounts(resources.get("requests"))
    devices = [name for name in limits if "/" in name and limits[name] > 0]
    memory, disk = (requests.get(name, limits.get(name)) for name in ("memory", "ephemeral-storage"))
    return Resources(
        cpu=requests.get("cpu"),
        memory=None if memory is None else int(memory),
        gpu=Gpu(count=int(limits[devices[0]]), resource=devices[0]) if devices else None,
        disk=None if disk is None else int(disk),
        nodes=snapshot.nodes,
    )


# Phase --------------------------------------------------------------------------------------------------------------


def _standing(snapshot: Snapshot, end: Mapping[str, Any] | None, now: float) -> tuple[Phase, Reason | None]:
    if snapshot.condition("Complete") or snapshot.condition("SuccessCriteriaMet"):
        return Phase.SUCCEEDED, ends.still_held(snapshot) or ends.not_stored(end)
    if snapshot.condition("Failed") or snapshot.condition("FailureTarget"):
        return _failed(snapshot, end)
    if end is not None and is_last(end, snapshot.job, snapshot.pod()):
        if end["code"] == "Succeeded":
            return Phase.SUCCEEDED, ends.still_held(snapshot) or ends.not_stored(end)
        return _failed(snapshot, end)
    if _all_succeeded(snapshot):
        return Phase.SUCCEEDED, ends.still_held(snapshot) or ends.not_stored(end)
    if snapshot.deleted:
        if annotation(snapshot.job, names.CANCELLED):
            return Phase.CANCELLED, reason_of({"code": "Cancelled"})
        return Phase.FAILED, ends.job_deleted(snapshot)
    return _alive(snapshot, now)


def _all_succeeded(snapshot: Snapshot) -> bool:
    """Every node's pod ended well, whose index is never started again. The Job's own condition may come a minute later:
    after the API server was away, the cluster's controllers come back one by one.
    """
    pods = snapshot.latest
    return len(pods) == snapshot.nodes and all((pod.get("status") or {}).get("phase") == "Succeeded" for pod in pods)


def _failed(snapshot: Snapshot, end: Mapping[str, Any] | None) -> tuple[Phase, Reason]:
    code = (end or {}).get("code")
    # What ended by itself before it heard of the cancel was not cancelled.
    if code == "Cancelled" or (code in (None, "Stopped") and annotation(snapshot.job, names.CANCELLED)):
        return Phase.CANCELLED, reason_of({**(end or {}), "code": "Cancelled"})
    return Phase.FAILED, ends.why_failed(snapshot, end)


def _alive(snapshot: Snapshot, now: float) -> tuple[Phase, Reason | None]:
    """Where a job stands that has not ended, and what keeps it from going on."""
    if snapshot.job["metadata"].get("deletionTimestamp"):
        return _phase(snapshot), ends.being_deleted(snapshot)
    if snapshot.job["spec"].get("suspend"):
        if snapshot.given_up:
            return Phase.CANCELLED, reason_of({"code": "Cancelled"})
        return Phase.PENDING, _with_upload(snapshot, kueue.why_suspended(snapshot))
    return _phase(snapshot), _with_upload(snapshot, _what_keeps_it(snapshot, now))


def _with_upload(snapshot: Snapshot, reason: Reason | None) -> Reason | None:
    return uploads.why_uploading(snapshot, reason) if uploads.awaited(snapshot) else reason


def _phase(snapshot: Snapshot) -> Phase:
    """By the node that is farthest behind."""
    pods = snapshot.latest
    waits = uploads.awaited(snapshot) or not all(condition(pod, "PodScheduled") for pod in pods)
    if len(pods) < snapshot.nodes or waits:
        # Between two attempts it starts again; it does not go back in a queue.
        return Phase.STARTING if any(attempt_of(pod) or over(pod) for pod in pods) else Phase.PENDING
    if all(state(pod, "running") or (state(pod, "terminated") and not over(pod)) for pod in pods):
        return Phase.RUNNING
    if any(map(over, pods)) and not all(map(over, pods)):
        return Phase.RUNNING  # a node has ended; the others go on
    return Phase.STARTING


def _what_keeps_it(snapshot: Snapshot, now: float) -> Reason | None:
    if any(map(partial(_failed_for_good, snapshot.job), snapshot.latest)):
        # The Job says so a moment later; meanwhile the cluster deletes the pods of its other nodes.
        return ends.why_failed(snapshot, _last_word(snapshot))
    if len(snapshot.latest) < snapshot.nodes and (reason := creation.reason_not_created(snapshot)):
        return reason
    for pod in snapshot.latest:
        if over(pod):
            continue
        reason = ends.why_leaving(snapshot, pod) or _why_not_running(snapshot, pod, now)
        if reason is not None:
            return reason
    return ends.why_again(snapshot) or ends.still_held(snapshot)


def _why_not_running(snapshot: Snapshot, pod: Object, now: float) -> Reason | None:
    if condition(pod, "PodScheduled", "False"):
        return mounts.why_unbound(snapshot, pod) or scheduling.why_unscheduled(pod)
    if state(pod, "running") or state(pod, "terminated"):
        return None
    return images.why_no_image(pod) or mounts.why_not_mounted(snapshot, pod, now) or ends.why_not_created(pod)


# Ends ---------------------------------------------------------------------------------------------------------------


def _last_word(snapshot: Snapshot) -> Mapping[str, Any] | None:
    """What the runner of node 0 said last, if anything; then its word is that of the job."""
    pod = snapshot.pod()
    return end_of(pod) if pod else None


def _failed_for_good(job: Object, pod: Object) -> bool:
    """No other attempt of this node follows."""
    if (pod.get("status") or {}).get("phase") != "Failed":
        return False
    status = (state(pod, "terminated") or {}).get("exitCode", 0)
    return is_last(end_of(pod) or {"code": code_of(status) or ""}, job, pod)


def is_last(end: Mapping[str, Any], job: Object, pod: Object | None) -> bool:
    """Whether no other attempt follows one that ended like this; the Job's own condition comes seconds later."""
    if end["code"] in _FINAL:
        return True
    lost = (end.get("detail") or {}).get("disruption")  # a node of several, with its machine
    if end["code"] in _PASSING or lost or pod is None or condition(pod, "DisruptionTarget"):
        return False
    return failures_of(pod) >= (job["spec"].get("backoffLimitPerIndex") or 0)


def _started(pod: Object | None) -> float | None:
    """When the container of the latest attempt began to run."""
    known = ((container(pod) or {}).get("state") or {}) if pod else {}
    stamps = (known.get(kind, {}).get("startedAt") for kind in ("running", "terminated"))
    return next((seconds_of(stamp) for stamp in stamps if stamp), None)


def _ended(snapshot: Snapshot, end: Mapping[str, Any] | None) -> float | None:
    if end and end.get("ended"):
        return float(end["ended"])
    status = snapshot.job.get("status") or {}
    failed = snapshot.condition("Failed") or {}
    stamps = [status.get("completionTime"), failed.get("lastTransitionTime")]
    stamps += [(state(pod, "terminated") or {}).get("finishedAt") for pod in snapshot.latest]
    return next((seconds_of(stamp) for stamp in stamps if stamp), None) or _asked_to_end(snapshot.job)


def _asked_to_end(job: Object) -> float | None:
    """When somebody asked a job to end that never began."""
    try:
        return seconds_of(annotation(job, names.CANCELLED))
    except ValueError:  # others may write annotations, too
        return None
