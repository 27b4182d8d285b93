"""Whether the namespace's quotas leave room for a job: what it would take, beside what is taken already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from kube_nb.backends.base import Finding, Reason
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import Forbidden
from kube_nb.backends.kubernetes.kinds import QUOTAS
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.quantity import Amounts, amounts, asked_by, at_most, limits_of, shown

_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_OF_THE_SUBMIT = frozenset({"secrets", "count/secrets", "persistentvolumeclaims", "count/persistentvolumeclaims"})
"""What a submit itself makes, now or not at all. Pods are made later, and tried again, by the Job controller."""
_OF_TRAINER = frozenset({"count/jobs.batch", "services", "count/services"})
"""The same, but for a TrainJob, whose Job and Service are made later, too."""


def findings(api: Api, plan: JobPlan, pod: Object) -> Iterator[Finding]:
    """One finding for each thing of which a quota leaves too little."""
    try:
        quotas, _ = api.list(QUOTAS)
    except Forbidden:
        what, why = "whether a quota leaves room is not known before the submit", "you may not `list resourcequotas`"
        yield Finding(level="unknown", reason=Reason(code="NotReadable", what=what, why=why))
        return
    for quota in quotas:
        if counts(quota, pod):
            at_once = _OF_THE_SUBMIT if plan.via_trainer else _OF_THE_SUBMIT | _OF_TRAINER
            yield from _short(quota, taken_by(plan, pod), plan.spec.resources.nodes, at_once)


def counts(quota: Object, pod: Object) -> bool:
    """Whether a quota is about pods like this one; a quota without scopes is about all."""
    spec = quota.get("spec") or {}
    short_lived = pod.get("activeDeadlineSeconds") is not None
    asked = asked_by(pod)
    best_effort = not any(asked.get(name) for name in ("cpu", "memory"))
    known = {
        "Terminating": short_lived,
        "NotTerminating": not short_lived,
        "BestEffort": best_effort,
        "NotBestEffort": not best_effort,
        "CrossNamespacePodAffinity": False,
    }
    if not all(known.get(scope, True) for scope in spec.get("scopes") or ()):
        return False
    expressions = (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    return all(_fits(one, pod) for one in expressions if one.get("scopeName") == "PriorityClass")


def _fits(expression: Mapping[str, object], pod: Object) -> bool:
    values = expression.get("values")
    has, listed = pod.get("priorityClassName"), list(values) if isinstance(values, list) else []
    match expression.get("operator"):
        case "In":
            return has in listed
        case "NotIn":
            return has not in listed
        case "Exists":
            return has is not None
        case _:
            return has is None


def taken_by(plan: JobPlan, pod: Object) -> Amounts:
    """What a job takes of a quota, by the names that quotas use."""
    nodes = plan.spec.resources.nodes
    asked, limits = asked_by(pod), limits_of(pod)
    taken: Amounts = {"pods": nodes, "count/pods": nodes, "count/jobs.batch": 1, "secrets": 1, "count/secrets": 1}
    if nodes > 1:
        taken |= {"services": 1, "count/services": 1}
    if plan.store.kind == "own":
        taken |= {"persistentvolumeclaims": 1, "count/persistentvolumeclaims": 1}
    for name, amount in asked.items():
        taken[f"requests.{name}"] = amount * nodes
        if name in _COMPUTE:
            taken[name] = amount * nodes
    for name, amount in limits.items():
        taken[f"limits.{name}"] = amount * nodes
    return taken


def _short(quota: Object, taken: Amounts, nodes: int, at_once: Set[str]) -> Iterator[Finding]:
    name = quota["metadata"]["name"]
    hard = amounts((quota.get("status") or {}).get("hard") or (quota.get("spec") or {}).get("hard"))
    used = amounts((quota.get("status") or {}).get("used"))
    for resource in sorted(set(hard) & set(taken)):
        has, wants, limit = used.get(resource, 0), taken[resource], hard[resource]
        if at_most(has + wants, limit):
            continue
        each = f" (on {nodes} nodes)" if nodes > 1 and resource not in _OF_THE_SUBMIT | _OF_TRAINER else ""
        what = f"the job asks for {shown(resource, wants)} of {resource}{each}"
        why = f"the quota `{name}` allows {shown(resource, limit)} in all, {shown(resource, has)} are in use"
        if not at_most(wants, limit):
            level, code, next = "error", "QuotaTooSmall", "ask for less, or for a larger quota"
        elif resource in at_once:
            next = "remove jobs that nobody needs any more with %kube_delete, or ask for a larger quota"
            level, code = "error", "QuotaExceeded"
        else:
            level, code, next = "warning", "QuotaExceeded", "it waits until others have ended"
        yield Finding(level=level, reason=Reason(code=code, what=what, why=why, next=next))
