"""Whether any node could ever take a pod: against what nodes offer in all, not against what is free now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kube_nb.backends.base import Finding, Reason
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.capacity import Node, devices, nodes
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.quantity import Amounts, asked_by, at_most, shown

_MAY_CHANGE = frozenset({"Tainted", "NoNodes"})
"""Admission or a queue may add tolerations that no manifest of ours has, and nodes come back."""
_HARD = frozenset({"NoSchedule", "NoExecute"})


def findings(api: Api, plan: JobPlan, pod: Object) -> Iterator[Finding]:
    """What is known of the nodes, against one pod of the job."""
    known = nodes(api)
    if known is None:
        what = "whether a node can take this job is not known before the submit"
        why = "you may not `list nodes`; the scheduler will tell"
        yield Finding(level="unknown", reason=Reason(code="NotReadable", what=what, why=why))
        return
    asked = {name: amount for name, amount in asked_by(pod).items() if amount > 0}
    why = _against(known, pod, asked)
    if why is None:
        return
    code, what, cause, next = why
    grows = any(node.grows for node in known)
    if grows:
        cause += "; this cluster may get other nodes when a pod waits"
    level = "warning" if grows or code in _MAY_CHANGE else "error"
    yield Finding(level=level, reason=Reason(code=code, what=what, why=cause, next=next))


def _against(known: Sequence[Node], pod: Object, asked: Amounts) -> tuple[str, str, str, str] | None:
    """Code, what, why, next of the first thing that leaves no node; None: at least one can take it."""
    left = [node for node in known if node.open]
    if not left:
        return "NoNodes", "no node takes new pods now", f"{len(known)} are closed or not ready", "try again later"
    for name in devices(asked):
        if not any(node.offers.get(name) for node in left):
            offered = sorted({one for node in left for one in devices(node.offers) if node.offers[one]})
            there = f"nodes offer {', '.join(offered)}" if offered else "no node has any device"
            return "NoGpu", f"no node offers {name}", there, "check --gpus, or leave it away"
    chosen = [node for node in left if selects(pod, node)]
    if not chosen:
        return (
            "NoSuchNode",
            "no node has the labels that the job asks for",
            _asks(pod),
            "check --node-selector and --gpu-product; kubectl get nodes --show-labels lists them",
        )
    free = [node for node in chosen if tolerates(pod.get("tolerations") or (), node.taints)]
    if not free:
        taints = sorted({f"{taint['key']}:{taint['effect']}" for node in chosen for taint in node.taints})
        return (
            "Tainted",
            "every node that fits is kept for others",
            f"their taints: {', '.join(taints)}",
            "ask whoever runs the cluster which toleration is yours, and set `tolerations`",
        )
    if any(all(at_most(amount, node.offers.get(name, 0)) for name, amount in asked.items()) for node in free):
        return None
    return _too_large(free, asked)


def _too_large(free: Sequence[Node], asked: Amounts) -> tuple[str, str, str, str]:
    for name in sorted(asked):
        most = max(node.offers.get(name, 0) for node in free)
        if not at_most(asked[name], most):
            what = f"no node can ever give {shown(name, asked[name])} of {name}"
            return "TooLarge", what, f"the largest has {shown(name, most)}", _FEWER.get(name, "ask for less")
    all_of_it = ", ".join(f"{shown(name, amount)} of {name}" for name, amount in sorted(asked.items()))
    return (
        "TooLarge",
        "no node can give all of it at once",
        f"the job asks for {all_of_it}; each alone could be had, on different nodes",
        "ask for less of one of them",
    )


_FEWER = {
    "cpu": "ask for fewer cores with --cpu, or use more --nodes",
    "memory": "ask for less with --memory, or use more --nodes",
    "ephemeral-storage": "ask for less with --disk",
}


def selects(pod: Object, node: Node) -> bool:
    """Whether the pod's selector and required node affinity admit the node."""
    if any(node.labels.get(key) != value for key, value in (pod.get("nodeSelector") or {}).items()):
        return False
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    terms = required.get("nodeSelectorTerms") or ()
    return any(_term(term, node) for term in terms)


def _term(term: Mapping[str, Any], node: Node) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False  # an empty term admits nothing
    return all(_fits(one, node.labels) for one in expressions) and all(
        _fits(one, {"metadata.name": node.name}) for one in fields
    )


def _fits(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), list(expression.get("values") or ())
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                have, limit = int(value or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return have > limit if operator == "Gt" else have < limit
        case _:
            return True  # of a later Kubernetes: the scheduler knows


def tolerates(tolerations: Sequence[Mapping[str, Any]], taints: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a pod with these tolerations may be put on a node with these taints."""
    return all(
        any(_tolerated(toleration, taint) for toleration in tolerations)
        for taint in taints
        if taint.get("effect") in _HARD
    )


def _tolerated(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint.get("key"):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")


def _asks(pod: Object) -> str:
    """The labels that are asked for, in short."""
    found = [f"{key}={value}" for key, value in (pod.get("nodeSelector") or {}).items()]
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for one in term.get("matchExpressions") or ():
            values = f" ({', '.join(one['values'])})" if one.get("values") else ""
            found.append(f"{one['key']} {one['operator']}{values}")
    return ", ".join(dict.fromkeys(found))
