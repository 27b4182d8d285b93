"""What the doctor says of a cluster: who asks, what they may, what there is, and what to ask the platform team for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kube_nb.backends.base import Row
from kube_nb.backends.kubernetes import addons, site
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import Forbidden
from kube_nb.backends.kubernetes.capacity import nodes, offered
from kube_nb.backends.kubernetes.kinds import CLAIMS, QUOTAS, STORAGE_CLASSES, Kind
from kube_nb.backends.kubernetes.names import STORE_CLAIM
from kube_nb.backends.kubernetes.quantity import amounts, number, shown
from kube_nb.backends.kubernetes.rights import OPTIONAL, RIGHTS, cluster_role_yaml, rights, role_yaml, to_yaml

_NAMESPACES = Kind("namespaces", namespaced=False)
_LEVEL = "pod-security.kubernetes.io/enforce"
_IS_DEFAULT = "storageclass.kubernetes.io/is-default-class"


def rows(api: Api, user: str) -> list[Row]:
    """Each thing that was looked at; what the user may not read is said, with the right that is missing.

    Raises:
        Unreachable, ApiError: nobody answers, or the credentials are not valid.
    """
    api.forget()  # whoever was granted something meanwhile wants to see it
    parts: list[Callable[[Api, str], Iterator[Row]]] = [_who, _rights, _nodes, _quotas, _storage, _site, _addons]
    return [row for part in parts for row in part(api, user)]


def grant(api: Api, user: str) -> str:
    """The least that this user needs, as YAML; what an add-on needs is in it where the cluster has the add-on."""
    return role_yaml(api.namespace, user, _usable(api))


def _usable(api: Api) -> list[str]:
    return [one.group for one in addons.ADD_ONS if one.group in OPTIONAL and addons.kind(api, one.group, one.resource)]


def _who(api: Api, user: str) -> Iterator[Row]:
    version = api.raw("/version").get("gitVersion", "of unknown version")
    yield Row(name="user", text=f"{user}, namespace {api.namespace}, Kubernetes {version}")
    try:
        namespace = api.find(_NAMESPACES, api.namespace)
    except Forbidden:
        return  # nothing depends on it
    if namespace is None:
        text = f"there is no namespace {api.namespace}: name yours with --namespace, or ask for one"
        yield Row(name="namespace", state="error", text=text, yaml=_namespace_yaml(api.namespace))
        return
    level = (namespace["metadata"].get("labels") or {}).get(_LEVEL, "privileged")
    yield Row(name="namespace", text=f"Pod Security {level}: jobs keep to `restricted` everywhere")


def _rights(api: Api, user: str) -> Iterator[Row]:
    mine = rights(api)
    needed = mine.missing(right for right in RIGHTS if right.needed)
    wanted = mine.missing(right for right in RIGHTS if not right.needed)
    if needed:
        text = f"jobs cannot run: you may not {'; '.join(right.shown for right in needed)}"
        yield Row(name="rights", state="error", text=text, yaml=grant(api, user))
    elif mine.complete:
        yield Row(name="rights", text="you may do all that jobs need")
    else:
        text = "the cluster does not list all rights; what is missing shows when it is asked for"
        yield Row(name="rights", state="warning", text=text)
    for right in wanted:
        text = f"you may not {right.shown}, which is for: {right.why}"
        yield Row(name="rights", state="warning", text=text, yaml="" if needed else grant(api, user))


def _nodes(api: Api, user: str) -> Iterator[Row]:
    known = nodes(api)
    if known is None:
        text = (
            "you may not list nodes: whether a job can ever fit, and what is free, is told by the scheduler alone; "
            "ask for the ClusterRole below"
        )
        yield Row(name="nodes", state="warning", text=text, yaml=cluster_role_yaml(user))
        return
    places = [node for node in known if node.open]
    there = ", ".join(
        f"{shown(name, amount)}{' of memory' if name == 'memory' else ''}"
        if name in ("cpu", "memory")
        else f"{amount:g} {name}"
        for name, amount in offered(places).items()
    )
    text = f"{len(places)} of {len(known)} take new pods; together they have {there}"
    yield Row(name="nodes", state="ok" if places else "warning", text=text)


def _quotas(api: Api, user: str) -> Iterator[Row]:
    try:
        quotas, _ = api.list(QUOTAS)
    except Forbidden:
        return  # said among the rights
    for quota in quotas:
        status = quota.get("status") or {}
        hard, used = amounts(status.get("hard")), amounts(status.get("used"))
        parts = [f"{name} {shown(name, used.get(name, 0))} of {shown(name, most)}" for name, most in hard.items()]
        full = [name for name, most in hard.items() if used.get(name, 0) >= most]
        text = f"{quota['metadata']['name']}: {', '.join(parts)} in use"
        yield Row(name="quota", state="warning" if full else "ok", text=text)


def _storage(api: Api, user: str) -> Iterator[Row]:
    try:
        store = api.find(CLAIMS, STORE_CLAIM)
    except Forbidden:
        store = None
    if store is not None:
        size = shown("storage", number((store["spec"].get("resources") or {}).get("requests", {}).get("storage", 0)))
        phase = (store.get("status") or {}).get("phase", "Unknown")
        yield Row(name="storage", text=f"jobs share the claim {STORE_CLAIM} ({size}, {phase})")
        return
    try:
        classes, _ = api.list(STORAGE_CLASSES)
    except Forbidden:
        text = "which storage classes there are is not known to you; the default one is tried by the first job's claim"
        yield Row(name="storage", text=text)
        return
    default = [one["metadata"]["name"] for one in classes if _is_default(one)]
    if default:
        yield Row(name="storage", text=f"claims get the class {default[0]}")
        return
    names = ", ".join(one["metadata"]["name"] for one in classes)
    text = f"no storage class is the default (there are: {names})" if names else "there is no storage class"
    next = "name one with %kube_config storage_class=NAME" if names else "large values travel while the kernel lives"
    yield Row(name="storage", state="warning", text=f"{text}: {next}")


def _is_default(storage_class: Object) -> bool:
    return (storage_class["metadata"].get("annotations") or {}).get(_IS_DEFAULT) == "true"


def _site(api: Api, user: str) -> Iterator[Row]:
    said = site.said(api)
    if said is None:
        return
    parts = [f"sets {', '.join(said.sets)}"] if said.sets else []
    parts += [f"locks {', '.join(said.locks)}"] if said.locks else []
    yield Row(name="settings", text=f"{site.where(api)} {' and '.join(parts) or 'says nothing'}")
    if said.ignored:
        text = f"{site.where(api)}: {', '.join(said.ignored)} cannot be set there, or not by this version"
        yield Row(name="settings", state="warning", text=text)


def _addons(api: Api, user: str) -> Iterator[Row]:
    for one in addons.ADD_ONS:
        kind = addons.kind(api, one.group, one.resource)
        if kind is None:
            yield Row(name=one.name, text=f"not there ({one.use})")
            continue
        missing = rights(api).missing(OPTIONAL.get(one.group, ()))
        if missing:
            text = f"there, but you may not {'; '.join(right.shown for right in missing)}"
            yield Row(name=one.name, state="warning", text=text, yaml=grant(api, user))
        elif one.resource == "localqueues":
            yield _queues(api, kind)
        else:
            yield Row(name=one.name, text=f"there: {one.use}")


def _queues(api: Api, kind: Kind) -> Row:
    try:
        found = [queue["metadata"]["name"] for queue in api.list(kind)[0]]
    except Forbidden:
        return Row(name="Kueue", state="warning", text="there, but you may not list localqueues.kueue.x-k8s.io")
    if found:
        return Row(name="Kueue", text=f"there: --queue takes {', '.join(found)}")
    text = "there, but this namespace has no LocalQueue: --queue has nothing to name"
    return Row(name="Kueue", state="warning", text=text, yaml=_local_queue(api.namespace, kind))


# What to ask for ------------------------------------------------------------------------------------------------------


def _local_queue(namespace: str, kind: Kind) -> str:
    queue: Object = {
        "apiVersion": kind.version,
        "kind": "LocalQueue",
        "metadata": {"name": "default", "namespace": namespace},
        "spec": {"clusterQueue": "NAME-OF-A-CLUSTER-QUEUE"},
    }
    return "# A queue of this namespace, into a ClusterQueue that whoever runs Kueue names.\n" + to_yaml(queue)


def _namespace_yaml(name: str) -> str:
    return to_yaml(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {_LEVEL: "restricted"}},
        }
    )
