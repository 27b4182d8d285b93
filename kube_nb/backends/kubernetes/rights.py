"""What a user may do in a namespace, what we need them to may, and why: one table for checks, advice and the Role."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import ApiError, Unauthorized
from kube_nb.backends.kubernetes.kinds import ACCESS_REVIEWS, RULES_REVIEWS
from kube_nb.backends.kubernetes.names import owner_of
from kube_nb.backends.kubernetes.site import CONFIG_MAP

_FRESH = 300.0
"""Seconds for which rights are taken as they were: the request itself has the last word."""
ROLE, CLUSTER_ROLE = "kube-nb-user", "kube-nb-see-capacity"
_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class Right:
    """Verbs on one kind of object, and what they are for.

    Attributes:
        group: of the API, empty for the core. resource: plural, with the subresource, e.g. "pods/exec".
        why: for a platform team, one phrase.
        needed: no job runs without it; else something that the phrase names is missing.
        names: of the only objects it is about; empty: all.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str
    needed: bool = True
    names: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """`get, list jobs.batch`, as kubectl writes it."""
        return f"{', '.join(self.verbs)} {self.resource}{'.' if self.group else ''}{self.group}"


RIGHTS: Sequence[Right] = (
    Right(
        "batch",
        "jobs",
        ("create", "get", "list", "watch", "patch", "delete"),
        "one Job for each job, and one for each pod that carries files to a volume; patch: cancel, "
        "and that such a pod may stay while it is used",
    ),
    Right(
        "",
        "pods",
        ("create", "get", "list", "watch", "delete"),
        "the state of a job's pods; create: dry runs alone, which find out what admission refuses; "
        "delete: pods on a lost node, when their owner says --force-lost",
    ),
    Right("", "pods/log", ("get",), "what a job prints"),
    Right(
        "",
        "pods/exec",
        ("create", "get"),
        "graceful cancel, large values to and from a job (get: what API servers up to 1.34 want for WebSockets)",
    ),
    Right(
        "",
        "secrets",
        ("create", "get", "delete"),
        "one for each job with what it was sent with, removed when it has ended; get: those that a job names exist",
    ),
    Right(
        "",
        "services",
        ("create", "delete"),
        "a headless one for each job of several nodes, by which they find each other",
    ),
    Right("", "events", ("list", "watch"), "why a pod waits or was refused"),
    Right(
        "",
        "persistentvolumeclaims",
        ("create", "get", "watch", "patch", "delete"),
        "the store for logs, results and checkpoints; patch: whose it is, and that it was proven to work; "
        "get: those that a job names exist",
        needed=False,
    ),
    Right(
        "networking.k8s.io",
        "networkpolicies",
        ("list",),
        "says before a submit of several nodes that a policy keeps them apart",
        needed=False,
    ),
    Right("", "resourcequotas", ("list",), "says before a submit that a quota leaves no room", needed=False),
    Right(
        "",
        "configmaps",
        ("get",),
        f"the site's settings, the ConfigMap {CONFIG_MAP} alone",
        needed=False,
        names=(CONFIG_MAP,),
    ),
)
"""All that is asked for in the namespace."""

OPTIONAL: Mapping[str, Sequence[Right]] = {
    "kueue.x-k8s.io": (
        Right("kueue.x-k8s.io", "localqueues", ("get", "list"), "--queue: that the queue exists", needed=False),
        Right("kueue.x-k8s.io", "workloads", ("list", "watch"), "--queue: why a job waits", needed=False),
    ),
    "trainer.kubeflow.org": (
        Right(
            "trainer.kubeflow.org",
            "trainjobs",
            ("create", "get", "list", "watch", "delete"),
            "--via trainjob; list: those that ended long ago are cleaned away; watch: until all of a job is gone",
            needed=False,
        ),
        Right(
            "trainer.kubeflow.org",
            "trainingruntimes",
            ("create", "get", "list", "watch", "patch", "delete"),
            "--via trainjob: the pod template of one job; patch: its TrainJob becomes its owner; "
            "list: those of a submit that was cut off are cleaned away",
            needed=False,
        ),
    ),
}
"""What an add-on's own objects need, by its API group; asked for only where the cluster has it."""

CLUSTER: Sequence[Right] = (
    Right("", "nodes", ("list",), "a job that no node could ever take is refused before the submit", needed=False),
    Right("", "pods", ("list",), "what is free, e.g. GPUs, is known; shows the pods of all namespaces", needed=False),
)
"""What is of the whole cluster, read where it may be read."""


class Rights:
    """What one user may do in one namespace, as the cluster's own authorizers say."""

    def __init__(self, rules: Iterable[Mapping[str, Any]], *, complete: bool) -> None:
        self._rules = list(rules)
        self.complete = complete
        """Every authorizer answered; a cloud's own often does not list what it allows."""

    def may(self, verb: str, resource: str, *, group: str = "", name: str = "") -> bool | None:
        """Whether the user may; None: not known."""
        for rule in self._rules:
            named = rule.get("resourceNames") or []
            fits = (
                _has(rule.get("verbs"), verb)
                and _has(rule.get("apiGroups"), group)
                and _covers(rule.get("resources") or [], resource)
                and (not named or name in named)
            )
            if fits:
                return True
        return False if self.complete else None

    def missing(self, rights: Iterable[Right]) -> list[Right]:
        """Of these rights, what the user certainly lacks."""
        found = []
        for right in rights:
            verbs = tuple(
                verb
                for verb in right.verbs
                if self.may(verb, right.resource, group=right.group, name="".join(right.names[:1])) is False
            )
            if verbs:
                found.append(Right(right.group, right.resource, verbs, right.why, right.needed, right.names))
        return found


def rights(api: Api) -> Rights:
    """All rights of the user in the namespace, by one request that anybody may make; remembered for a while."""
    return api.remember("rights", lambda: _review(api), seconds=_FRESH)


def can(api: Api, verb: str, resource: str) -> bool | None:
    """Whether the user may, e.g. `can(api, "create", "jobs.batch")`; None: the cluster does not tell.

    Where the list of rights is not complete, the cluster is asked for this one.
    """
    name, _, group = resource.partition(".")
    known = rights(api).may(verb, name, group=group)
    return _ask(api, verb, name, group) if known is None else known


def _review(api: Api) -> Rights:
    body = {
        "apiVersion": RULES_REVIEWS.version,
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": api.namespace},
    }
    try:
        status = api.create(RULES_REVIEWS, body).get("status") or {}
    except Unauthorized:
        raise
    except ApiError:
        return Rights((), complete=False)
    return Rights(status.get("resourceRules") or (), complete=not status.get("incomplete"))


def _ask(api: Api, verb: str, resource: str, group: str) -> bool | None:
    main, _, sub = resource.partition("/")
    asked = {"namespace": api.namespace, "verb": verb, "group": group, "resource": main, "subresource": sub}
    body = {
        "apiVersion": ACCESS_REVIEWS.version,
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    try:
        return bool(api.create(ACCESS_REVIEWS, body)["status"].get("allowed"))
    except Unauthorized:
        raise
    except ApiError:
        return None


def _has(values: Sequence[str] | None, wanted: str) -> bool:
    return values is not None and (wanted in values or "*" in values)


def _covers(resources: Sequence[str], wanted: str) -> bool:
    """`*` covers all, `*/log` every kind's log; `pods` does not cover `pods/log`."""
    _, slash, sub = wanted.partition("/")
    return wanted in resources or "*" in resources or (bool(slash) and f"*/{sub}" in resources)


# The Role -----------------------------------------------------------------------------------------------------------


def role_yaml(namespace: str, user: str, addons: Iterable[str] = ()) -> str:
    """The least that a user needs in a namespace: Role and binding for `kubectl apply`, each rule with its reason.

    Args:
        addons: API groups that the cluster has; rules for those that can be used are added.
    """
    extra = [right for group in addons for right in OPTIONAL.get(group, ())]
    comment = (
        "# The least that a user of kube-nb needs, in this namespace alone; nothing cluster-wide. Every user has\n"
        "# self-reviews and API discovery already (system:basic-user, system:discovery).\n"
    )
    return comment + _granted("Role", {"name": ROLE, "namespace": namespace}, (*RIGHTS, *extra), user)


def cluster_role_yaml(user: str) -> str:
    """What shows a user the nodes and what is free on them: ClusterRole and binding for `kubectl apply`."""
    comment = (
        "# Optional, and of the whole cluster: what there is is known with the first rule, what is free with both.\n"
    )
    return comment + _granted("ClusterRole", {"name": CLUSTER_ROLE}, CLUSTER, user)


def subject(user: str) -> Object:
    """A user, or a service account by its long name, as bindings name them."""
    parts = user.split(":")
    if parts[:2] == ["system", "serviceaccount"] and len(parts) == 4:
        return {"kind": "ServiceAccount", "namespace": parts[2], "name": parts[3]}
    return {"apiGroup": _RBAC, "kind": "User", "name": user}


def _granted(kind: str, metadata: Object, rights: Iterable[Right], user: str) -> str:
    """A role of this kind, each rule with its reason above it, and what gives it to the user."""
    head = {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": metadata}
    binding = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{kind}Binding",
        # A name for each user: one binding, applied for one after the other, would be the last one's alone.
        "metadata": metadata | {"name": f"{metadata['name']}-{owner_of(user).lower()}"},
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": metadata["name"]},
        "subjects": [subject(user)],
    }
    rules = [line for right in rights for line in _commented(right)]
    return "\n".join([to_yaml(head) + "rules:", *rules, "---", to_yaml(binding)])


def _commented(right: Right) -> Iterator[str]:
    yield f"  # {right.why}" + ("" if right.needed else " (optional)")
    rule = _rule(right)
    first, *others = rule.items()
    yield f"  - {first[0]}: {json.dumps(first[1])}"
    yield from (f"    {key}: {json.dumps(value)}" for key, value in others)


def _rule(right: Right) -> Object:
    rule: Object = {"apiGroups": [right.group], "resources": [right.resource], "verbs": list(right.verbs)}
    return rule | ({"resourceNames": list(right.names)} if right.names else {})


def to_yaml(value: Object) -> str:
    """As `kubectl apply` takes it."""
    import yaml

    return yaml.safe_dump(value, sort_keys=False)
