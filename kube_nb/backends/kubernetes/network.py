"""Whether NetworkPolicies let the nodes of a job talk to each other, as far as the policies tell.

Only what is certain is said: a rule that names addresses or other namespaces' labels is taken to allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kube_nb.backends.base import Finding, Reason
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import ApiError, Unauthorized
from kube_nb.backends.kubernetes.kinds import Kind
from kube_nb.backends.kubernetes.names import JOB, MANAGED_BY, OURS
from kube_nb.backends.kubernetes.plan import JobPlan

POLICIES = Kind("networkpolicies", "networking.k8s.io/v1")
_NAMESPACE = "kubernetes.io/metadata.name"
_DIRECTIONS = (("Ingress", "ingress", "from"), ("Egress", "egress", "to"))


def findings(api: Api, plan: JobPlan, labels: Mapping[str, str]) -> Iterator[Finding]:
    """What keeps the nodes of a job with these pod labels apart; nothing where there is one node, or none may know."""
    if plan.spec.resources.nodes == 1:
        return
    try:
        policies = api.list(POLICIES)[0]
    except Unauthorized:
        raise
    except ApiError:
        return  # what the policies are is learned when the nodes meet, or do not
    names = apart(policies, labels, api.namespace)
    if names:
        yield Finding(
            level="warning",
            reason=Reason(
                code="RendezvousBlocked",
                what="the nodes of this job may not be able to reach each other",
                why=f"no rule of NetworkPolicy {', '.join(names)} lets its pods talk to each other on all ports",
                next=f"ask the platform team for one that lets pods with {MANAGED_BY}={OURS} (or the same {JOB}) do so",
            ),
        )


def apart(policies: Iterable[Object], labels: Mapping[str, str], namespace: str) -> list[str]:
    """The policies that isolate pods with these labels from each other; none: they may talk, or it is not certain."""
    chosen = [policy for policy in policies if _selects(policy["spec"].get("podSelector") or {}, labels)]
    names: dict[str, None] = {}
    for kind, rules, peers in _DIRECTIONS:
        isolating = [policy for policy in chosen if kind in _kinds(policy["spec"])]
        allowed = any(
            _allows(rule, peers, labels, namespace) for policy in isolating for rule in policy["spec"].get(rules) or []
        )
        if isolating and not allowed:
            names |= dict.fromkeys(policy["metadata"]["name"] for policy in isolating)
    return list(names)


def _kinds(spec: Object) -> list[str]:
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]


def _allows(rule: Object, peers: str, labels: Mapping[str, str], namespace: str) -> bool:
    if rule.get("ports"):
        return False  # libraries of parallel programs choose ports as they like
    named = rule.get(peers) or []
    return not named or any(_is_peer(peer, labels, namespace) for peer in named)


def _is_peer(peer: Object, labels: Mapping[str, str], namespace: str) -> bool:
    if "ipBlock" in peer:
        return True
    if "namespaceSelector" in peer:
        wanted = (peer["namespaceSelector"] or {}).get("matchLabels") or {}
        if wanted.get(_NAMESPACE, namespace) != namespace:
            return False
    return _selects(peer.get("podSelector") or {}, labels)


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    equal = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return equal and all(_fits(term, labels) for term in selector.get("matchExpressions") or [])


def _fits(term: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(term["key"]), term.get("values") or []
    return {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[term["operator"]]
