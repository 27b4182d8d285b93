"""Why a pod has no machine yet: it never fits, or it fits and waits. By the scheduler's own words, as those who may
not list nodes have no others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kube_nb.backends.base import Reason
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.reasons.creation import flag_of
from kube_nb.backends.kubernetes.snapshot import condition

_COUNTED = re.compile(r"(\d+) ([^,]+?)(?=, \d+ |\.\s|\.?$)")
_OF_NODES = re.compile(r"\d+/(\d+) nodes are available: ")
_INSUFFICIENT = re.compile(r"Insufficient (\S+)")
_TAINT = re.compile(r"untolerated taint ?(?:\{(?P<taint>[^}]*)\}|\(s\))?")
_SELECTOR = "node affinity/selector"
_HOPELESS = "Preemption is not helpful for scheduling"
_PASSING_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "node.kubernetes.io/unschedulable")
_PASSING = ("unschedulable", "Too many pods", "disk pressure", "memory pressure", "PID pressure", "not ready")


@dataclass(frozen=True)
class _Verdict:
    """What the scheduler said: why each node will not do, and whether it may do later."""

    nodes: str
    causes: tuple[tuple[int, str], ...]
    never: bool
    said: str


def why_unscheduled(pod: Object) -> Reason | None:
    """Why a pod waits for a machine; None: it does not, or nobody has looked yet."""
    found = condition(pod, "PodScheduled", "False")
    if found is None:
        return None
    if found.get("reason") == "SchedulingGated":
        return _gated(pod)
    if not found.get("message"):
        return None
    verdict = _verdict(found["message"])
    return _never(verdict) if verdict.never else _waits(verdict)


def _verdict(message: str) -> _Verdict:
    """Example: `0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption …`"""
    filters, _, preemption = message.partition("preemption: ")
    nodes, causes = _counted(filters)
    hopeless = sum(count for count, cause in _counted(preemption)[1] if cause.startswith(_HOPELESS))
    never = bool(nodes) and hopeless >= int(nodes) and not any(_passes(cause) for _, cause in causes)
    return _Verdict(nodes, causes, never or message.startswith("no nodes available"), message)


def _counted(message: str) -> tuple[str, tuple[tuple[int, str], ...]]:
    """How many nodes there are, and how many of them will not do for each cause."""
    match = _OF_NODES.search(message)
    if match is None:
        return "", ()
    causes = _COUNTED.findall(message, match.end())
    return match[1], tuple((int(count), cause.strip(" .")) for count, cause in causes)


def _passes(cause: str) -> bool:
    """Whether a node is only out of service for a while. Since Kubernetes 1.34 the scheduler names no taint here."""
    return any(word in cause for word in (*_PASSING, *_PASSING_TAINTS))


def _never(verdict: _Verdict) -> Reason:
    return Reason(
        code="NeverFits",
        what="no node of the cluster, as it is now, can ever run this job",
        why=_of_nodes(verdict) or "the cluster has no node for jobs",
        next=_advice(verdict),
    )


def _waits(verdict: _Verdict) -> Reason:
    return Reason(
        code="WaitingForRoom",
        what=f"the job waits until a node has room{_for_what(verdict)}",
        why=_of_nodes(verdict) or verdict.said,
        next="wait, cancel a job that holds it, or ask for less",
    )


def _gated(pod: Object) -> Reason:
    gates = ", ".join(gate.get("name", "") for gate in pod["spec"].get("schedulingGates") or [])
    return Reason(
        code="SchedulingGated",
        what="the job waits until an add-on of the cluster lets it be placed",
        why=f"its pod carries the scheduling gate {gates}" if gates else "its pod carries a scheduling gate",
        next="wait; if it lasts, ask who runs the cluster what removes this gate",
    )


def _of_nodes(verdict: _Verdict) -> str:
    """`of 2 nodes: 1 has too little cpu, 1 has the taint a=b`."""
    said = "; ".join(f"{count} {_words(cause, count)}" for count, cause in verdict.causes)
    return f"of {verdict.nodes} nodes: {said}" if said and verdict.nodes else said


def _words(cause: str, count: int) -> str:
    have = "has" if count == 1 else "have"
    if match := _INSUFFICIENT.search(cause):
        return f"{have} too little {match[1]}"
    if match := _TAINT.search(cause):
        taint = (match["taint"] or "").strip(": ")
        return f"{have} the taint {taint}" if taint else f"{have} a taint: reserved for others, or out of service"
    if _SELECTOR in cause:
        return f"{have} not the labels that the job wants"
    if "Too many pods" in cause:
        return f"{have} no place for another pod"
    if "were unschedulable" in cause:
        return f"{have} been taken out of service"
    return f"{have}: {cause}"


def _for_what(verdict: _Verdict) -> str:
    resources = dict.fromkeys(match[1] for _, cause in verdict.causes if (match := _INSUFFICIENT.search(cause)))
    return f" ({', '.join(resources)})" if resources else ""


def _advice(verdict: _Verdict) -> str:
    resources = [match[1] for _, cause in verdict.causes if (match := _INSUFFICIENT.search(cause))]
    steps = []
    if resources:
        steps.append("ask for less with " + " or ".join(dict.fromkeys(map(flag_of, resources))))
    if any(_TAINT.search(cause) for _, cause in verdict.causes):
        steps.append("tolerate the taint (setting `tolerations`) where you may")
    if any(_SELECTOR in cause for _, cause in verdict.causes):
        steps.append("check the node selector or GPU product that it asks for")
    return "; ".join(steps or ["%kube_doctor shows what the cluster has"])
