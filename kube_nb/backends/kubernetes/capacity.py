"""What nodes offer, and what of it nobody has asked for; known to those who may list nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kube_nb.backends.base import Capacity
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import Forbidden
from kube_nb.backends.kubernetes.kinds import NODES, Kind
from kube_nb.backends.kubernetes.quantity import Amounts, amounts, asked_by, total
from kube_nb.backends.kubernetes.rights import cluster_role_yaml, rights

_FRESH = 60.0
_MANY = 10_000
"""Pods of a cluster beyond which nobody reads them all for a sum."""
_PLAIN = frozenset({"cpu", "memory", "pods", "ephemeral-storage", "storage"})
_EVERYWHERE = Kind("pods", namespaced=False)
_ALIVE = "status.phase!=Succeeded,status.phase!=Failed"
_PRODUCTS = ("nvidia.com/gpu.product", "amd.com/gpu.product-name", "gpu.intel.com/product")
_MANAGED = ("cloud.google.com/gke-nodepool", "eks.amazonaws.com/nodegroup", "kubernetes.azure.com/agentpool")
_MANAGED += ("karpenter.sh/nodepool", "karpenter.sh/provisioner-name", "node.openshift.io/machine")
_BY_A_MACHINE = ("cluster.x-k8s.io/machine", "machine.openshift.io/machine")


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        offers: what can be asked for there in all. product: of its GPUs, empty where no label tells.
        grows: it belongs to a group that may get more nodes when somebody waits.
        open: new pods may go there.
    """

    name: str
    offers: Amounts
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    taints: Sequence[Mapping[str, Any]] = ()
    product: str = ""
    grows: bool = False
    open: bool = True

    @classmethod
    def read(cls, node: Object) -> Node:
        metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
        labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
        ready = next((one["status"] for one in status.get("conditions") or () if one["type"] == "Ready"), "True")
        return cls(
            name=metadata["name"],
            offers=amounts(status.get("allocatable")),
            labels=labels,
            taints=spec.get("taints") or (),
            product=next((labels[key] for key in _PRODUCTS if key in labels), ""),
            grows=any(key in labels for key in _MANAGED) or any(key in notes for key in _BY_A_MACHINE),
            open=ready == "True" and not spec.get("unschedulable"),
        )


def nodes(api: Api) -> list[Node] | None:
    """The nodes, as they were a minute ago at most; None: this user may not list them."""
    return api.remember("nodes", lambda: _nodes(api), seconds=_FRESH)


def capacity(api: Api, user: str) -> Capacity:
    """What is free and what there is on nodes that are open to new pods.

    Free is what no pod of anybody has asked for: known to those who may list pods everywhere.
    """
    unknown, advice = "what is free is not known:", cluster_role_yaml(user)
    known = nodes(api)
    if known is None:
        return Capacity(note=f"{unknown} you may not `list nodes`, which takes a ClusterRole", yaml=advice)
    try:
        taken = _taken(api)
    except Forbidden:
        return Capacity(note=f"{unknown} you may `list nodes`, but not `list pods` of all namespaces", yaml=advice)
    if taken is None:
        return Capacity(note=f"{unknown} there are more than {_MANY:,} pods, too many to read for a sum")
    places = [node for node in known if node.open]
    offered = total(node.offers for node in places)
    used = total(taken.get(node.name, {}) for node in places)
    memory, all_of_it = _free(offered, used, "memory")
    return Capacity(cpu=_free(offered, used, "cpu"), memory=(int(memory), int(all_of_it)), gpus=_gpus(places, taken))


def offered(places: Sequence[Node]) -> dict[str, float]:
    """All that these nodes offer: cores, memory, and devices by resource and product."""
    sums = total(node.offers for node in places)
    gpus = {name: float(number) for name, (_, number) in _gpus(places, {}).items()}
    return {name: sums.get(name, 0.0) for name in ("cpu", "memory")} | gpus


def devices(offers: Iterable[str]) -> list[str]:
    """Of the names of resources, those of devices: neither cores nor memory."""
    return sorted(
        name for name in offers if name not in _PLAIN and not name.startswith(("hugepages-", "attachable-volumes"))
    )


def _nodes(api: Api) -> list[Node] | None:
    if rights(api).may("list", "nodes") is False:
        return None  # known without asking
    try:
        return [Node.read(node) for node in api.list(NODES)[0]]
    except Forbidden:
        return None


def _taken(api: Api) -> dict[str, Amounts] | None:
    """What the pods of each node have asked for; None: they are too many to read.

    Raises:
        Forbidden: this user may not list pods everywhere.
    """
    if api.raw("/api/v1/pods?limit=1")["metadata"].get("remainingItemCount", 0) > _MANY:
        return None
    pods, _ = api.list(_EVERYWHERE, fields=_ALIVE)
    by_node: dict[str, list[Amounts]] = {}
    for pod in pods:
        if pod["spec"].get("nodeName"):
            by_node.setdefault(pod["spec"]["nodeName"], []).append(asked_by(pod["spec"]))
    return {name: total(asked) for name, asked in by_node.items()}


def _gpus(places: Sequence[Node], taken: Mapping[str, Amounts]) -> dict[str, tuple[int, int]]:
    """Free and all devices, by resource and product."""
    found: dict[str, tuple[int, int]] = {}
    for node in places:
        for name in devices(node.offers):
            if not node.offers[name]:
                continue
            key = f"{name} ({node.product})" if node.product and "gpu" in name else name
            free, all_of_them = found.get(key, (0, 0))
            has = int(node.offers[name])
            found[key] = (free + max(0, has - int(taken.get(node.name, {}).get(name, 0))), all_of_them + has)
    return dict(sorted(found.items()))


def _free(offered: Amounts, used: Amounts, name: str) -> tuple[float, float]:
    return max(0.0, round(offered.get(name, 0) - used.get(name, 0), 3)), offered.get(name, 0)
