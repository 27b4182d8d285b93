"""Why a job failed, or is about to, where the runner could not tell: memory, eviction, a lost node, a deleted pod, an
image that cannot run it, a container that outlives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kube_nb.backends.base import Reason
from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.snapshot import (
    Snapshot,
    condition,
    container,
    end_of,
    node_of,
    over,
    state,
)
from kube_nb.backends.reasons import SEND_AGAIN, reason_of
from kube_nb.runner.ending import code_of

End = Mapping[str, Any]
_SECONDARY = frozenset({"Again", "Stopped", "RankLost", "Succeeded"})
"""Ends that follow from another one: the cause is looked for elsewhere first."""


# A job that has failed ----------------------------------------------------------------------------------------------


def why_failed(snapshot: Snapshot, end: End | None) -> Reason:
    """The cause of a failure: the runner's word, else what the cluster knows of the pods, else its word for the Job.

    Args:
        end: of node 0.
    """
    if end is not None and end["code"] not in _SECONDARY:
        pod = snapshot.pod()
        return (_of_pod(snapshot, pod) if pod else None) or reason_of(end)
    failed = snapshot.condition("Failed") or snapshot.condition("FailureTarget") or {}
    if end is None and failed.get("reason") == "DeadlineExceeded":
        return _deadline(snapshot)
    causes = [reason for pod in snapshot.latest if (reason := _of_pod(snapshot, pod))]
    for reason in causes:
        if reason.code not in _SECONDARY:
            return reason
    if (gone := _index_without_pod(snapshot)) is not None:
        return _pod_deleted(snapshot, gone)
    if end is not None and end["code"] != "Succeeded":
        return reason_of(end)
    if causes:
        return causes[0]
    code = failed.get("reason") or "Failed"
    return Reason(
        code=code, what="the cluster has ended the job", why=failed.get("message", ""), next="look at %kube_logs"
    )


def _of_pod(snapshot: Snapshot, pod: Object) -> Reason | None:
    """How a pod failed; None: it did not."""
    terminated = state(pod, "terminated")
    said = end_of(pod)
    if terminated and terminated.get("reason") == "OOMKilled" and (said or {}).get("code") in (None, "Signal"):
        return _out_of_memory(snapshot, pod)
    if said is not None:
        return reason_of(said) if said["code"] != "Succeeded" else None
    if (disruption := _disruption(snapshot, pod)) is not None:
        return disruption
    if terminated is None or terminated.get("exitCode") == 0:
        return None
    return _without_word(snapshot, pod, terminated)


def _without_word(snapshot: Snapshot, pod: Object, terminated: Object) -> Reason:
    status, cause = int(terminated.get("exitCode", 0)), terminated.get("reason", "")
    if cause in ("StartError", "ContainerCannotRun"):
        return _cannot_start(terminated.get("message", ""))
    if status in (126, 127) or "executable file not found" in terminated.get("message", ""):
        return _cannot_start(terminated.get("message", ""))
    if pod["metadata"].get("deletionTimestamp"):
        return _pod_deleted(snapshot, node_of(pod))
    if (pod.get("status") or {}).get("reason") == "DeadlineExceeded":
        return _late(snapshot, pod)
    if cause == "ContainerStatusUnknown":
        return Reason(
            code="NodeLost",
            what=f"node {_machine(pod)}, where the job ran, was lost",
            why=terminated.get("message") or "it does not know any more how the container ended",
            next=SEND_AGAIN,
        )
    code = code_of(status)
    if code is not None:
        return reason_of({"code": code})
    if status > 128:
        return Reason(
            code="RunnerKilled",
            what=f"the process that runs the job{_on_node(snapshot, pod)} was killed (exit status {status})",
            why="somebody or something in its pod killed it; that memory ran out is not known",
            next="look at the last lines with %kube_logs, and send it again",
        )
    return reason_of({"code": "RunnerFault", "exit": status})


def _out_of_memory(snapshot: Snapshot, pod: Object) -> Reason:
    limit = ""
    for one in pod["spec"].get("containers") or []:
        if one.get("name") == names.CONTAINER:
            limit = ((one.get("resources") or {}).get("limits") or {}).get("memory", "")
    return Reason(
        code="OutOfMemory",
        what=f"the job{_on_node(snapshot, pod)} ran out of memory and was killed",
        why=f"its limit is {limit}" if limit else f"node {_machine(pod)} had no memory left",
        next="give it more with --memory, or work on smaller pieces",
    )


def _cannot_start(message: str) -> Reason:
    missing = "python3" in message and ("not found" in message or "no such file" in message)
    return Reason(
        code="CannotStart",
        what="the image has no python3, so the job cannot start in it" if missing else "the container cannot start",
        why=message.strip() or "the program it is to run cannot be run",
        next="name an image with Python 3.11 or later with --image",
    )


def _deadline(snapshot: Snapshot) -> Reason:
    limit = snapshot.job["spec"].get("activeDeadlineSeconds")
    return Reason(
        code="DeadlineExceeded",
        what=f"the cluster has ended the job: its time was over{f' after {limit} s' if limit else ''}",
        why="the Job's activeDeadlineSeconds is reached, the time it waited included; its pods and their logs are gone",
        next="give it more time with --timeout, or less to do",
    )


def _late(snapshot: Snapshot, pod: Object) -> Reason:
    limit = pod["spec"].get("activeDeadlineSeconds")
    return Reason(
        code="DeadlineExceeded",
        what=f"the cluster has ended the job{_on_node(snapshot, pod)}: its time was over after {limit} s",
        why="the pod's activeDeadlineSeconds is reached, and its runner did not end by itself before",
        next="give it more time with --timeout, or less to do",
    )


def _index_without_pod(snapshot: Snapshot) -> int | None:
    """A node that failed and of which nothing is left: the cluster itself keeps the pods of a failed Job."""
    failed = str((snapshot.job.get("status") or {}).get("failedIndexes") or "")
    return next((index for index in _indexes(failed) if snapshot.pod(index) is None), None)


def _indexes(text: str) -> Iterator[int]:
    """`1,3-5` as numbers."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


# Disruptions --------------------------------------------------------------------------------------------------------


def why_leaving(snapshot: Snapshot, pod: Object) -> Reason | None:
    """Why a pod that has not ended is going, or may be gone; None: it stays."""
    leaving = bool(pod["metadata"].get("deletionTimestamp"))
    disruption = condition(pod, "DisruptionTarget")
    if (disruption or {}).get("reason") == "DeletionByTaintManager" or _unheard(pod):
        return Reason(
            code="NodeLost",
            what=f"node {_machine(pod)}, where the job{_on_node(snapshot, pod)} runs, is not heard of any more",
            why="it, or its connection to the cluster, is broken; whether the code goes on there is not known",
            next="wait for the node; if it is gone for good: %kube_cancel --force-lost, then %kube_rerun",
        )
    if disruption is not None:
        cause = _disruption(snapshot, pod)
        return _another_follows(cause) if cause else None
    if not leaving:
        return None
    wait = f"wait: another attempt follows if its code ends within its grace; if not, {SEND_AGAIN}"
    return replace(_pod_deleted(snapshot, node_of(pod)), next=wait)


def _unheard(pod: Object) -> bool:
    """The cluster has marked the pod as not ready although its kubelet's last word was that it is."""
    running = bool((container(pod) or {}).get("ready"))
    return running and condition(pod, "Ready", "False") is not None and condition(pod, "ContainersReady") is not None


def _disruption(snapshot: Snapshot, pod: Object) -> Reason | None:
    """What ended a pod from outside; None: nothing did."""
    found = condition(pod, "DisruptionTarget") or {}
    cause, message = found.get("reason", ""), found.get("message", "")
    status = pod.get("status") or {}
    if status.get("reason") == "Evicted" or cause == "TerminationByKubelet":
        return _evicted(snapshot, pod, status.get("message") or message)
    if cause == "PreemptionByScheduler":
        return Reason(
            code="Preempted",
            what=f"the job{_on_node(snapshot, pod)} was ended to make room for a more important one",
            why=message,
            next=SEND_AGAIN + "; a higher priority class keeps its place",
        )
    if cause == "EvictionByEvictionAPI":
        return Reason(
            code="Evicted",
            what=f"the job{_on_node(snapshot, pod)} was asked to leave node {_machine(pod)}",
            why=message or "somebody empties the node, e.g. to maintain it",
            next=SEND_AGAIN,
        )
    if cause in ("DeletionByTaintManager", "DeletionByPodGC") or status.get("reason") == "NodeLost":
        return Reason(
            code="NodeLost",
            what=f"node {_machine(pod)}, where the job{_on_node(snapshot, pod)} ran, was lost",
            why=message or "it, or its connection to the cluster, broke",
            next=SEND_AGAIN,
        )
    return None


def _evicted(snapshot: Snapshot, pod: Object, message: str) -> Reason:
    if "ephemeral" in message or "EmptyDir" in message or "emptyDir" in message:
        next = "write less to the pod's own disk, or ask for more of it with --disk"
    elif "memory" in message:
        next = "ask for the memory that it needs with --memory, so that the node keeps it free"
    else:
        next = SEND_AGAIN
    return Reason(
        code="Evicted",
        what=f"node {_machine(pod)} put the job{_on_node(snapshot, pod)} out",
        why=message.strip() or "it ran short of something",
        next=next,
    )


def _pod_deleted(snapshot: Snapshot, node: int) -> Reason:
    of = f" of node {node}" if snapshot.nodes > 1 else ""
    return Reason(
        code="PodDeleted",
        what=f"the job's pod{of} was deleted by somebody",
        why="not by kube-nb, and the cluster itself keeps the pods of a Job",
        next=SEND_AGAIN,
    )


# The Job ------------------------------------------------------------------------------------------------------------


def job_deleted(snapshot: Snapshot) -> Reason:
    """The Job went away before it had ended."""
    return Reason(
        code="JobDeleted",
        what=f"the Job {snapshot.id} was deleted by somebody before it had ended",
        why="nothing of it is left on the cluster",
        next="send it again with %kube_rerun",
    )


def being_deleted(snapshot: Snapshot) -> Reason:
    """The Job is going, its pods first."""
    return Reason(
        code="JobDeleted",
        what=f"the Job {snapshot.id} is being deleted",
        why="somebody asked for it; its pods are ending",
        next="send it again with %kube_rerun",
    )


def still_held(snapshot: Snapshot) -> Reason | None:
    """A container of the pod that runs on after the runner has ended, and so keeps what the job holds."""
    for pod in snapshot.latest:
        others = [name for name in _running(pod) if name != names.CONTAINER]
        if state(pod, "terminated") and others and not over(pod):
            return Reason(
                code="SidecarRunning",
                what=f"the code has ended, but the container {', '.join(others)} in its pod runs on",
                why="something puts a container beside the job that does not end with it; the Job holds what it asked "
                "for until then",
                next="%kube_delete frees it once you have the results; ask who runs the cluster for a native sidecar "
                "(an init container that restarts always)",
            )
    return None


def not_stored(end: End | None) -> Reason | None:
    """The code ended well, and what it made could not be put into the store at a URL."""
    words = ((end or {}).get("detail") or {}).get("store")
    if not isinstance(words, Mapping):
        return None
    return Reason(
        code="NotStored",
        what=f"what the job made could not be stored: {words.get('what') or 'its store failed'}",
        why=str(words.get("why") or ""),
        next=f"what your kernel had fetched by then is safe; for the rest {words.get('next') or 'see %kube_doctor'}, "
        "and send it again with %kube_rerun",
    )


def _running(pod: Object) -> list[str]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return [status["name"] for status in statuses if "running" in (status.get("state") or {})]


# Between two attempts, and before the first -------------------------------------------------------------------------


def why_again(snapshot: Snapshot) -> Reason | None:
    """Why the next attempt is being waited for."""
    ended = [pod for pod in snapshot.latest if over(pod) and pod["status"]["phase"] == "Failed"]
    for pod in ended:
        cause = _of_pod(snapshot, pod)
        if cause is not None:
            return _another_follows(cause)
    return None


def _another_follows(cause: Reason) -> Reason:
    """What ended an attempt, of which the job does not end."""
    advice = "" if cause.next.startswith(SEND_AGAIN) else f"; should it happen again, {cause.next}"
    return replace(cause, what=f"{cause.what}; another attempt follows", next=f"wait for it{advice}")


def why_not_created(pod: Object) -> Reason | None:
    """Why a container is not begun although image and volumes are there."""
    waiting = state(pod, "waiting") or {}
    if waiting.get("reason") in ("CreateContainerError", "RunContainerError", "CrashLoopBackOff"):
        return _cannot_start(waiting.get("message", ""))
    return None


def _on_node(snapshot: Snapshot, pod: Object) -> str:
    return f" on node {node_of(pod)}" if snapshot.nodes > 1 else ""


def _machine(pod: Object) -> str:
    return pod["spec"].get("nodeName") or "unknown"
