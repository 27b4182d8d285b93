"""Whether a node could ever take a pod, and whether a quota leaves room: judged from recorded objects."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb.backends.kubernetes import fit, quota
from kube_nb.backends.kubernetes.capacity import Node
from kube_nb.backends.kubernetes.plan import JobPlan, Store
from kube_nb.backends.kubernetes.quantity import asked_by, number
from kube_nb.spec import JobSpec, Placement, Resources, new_job_id


class Nodes:
    """Answers what nodes there are, as the API server would."""

    namespace = "team-a"

    def __init__(self, *nodes: dict[str, Any]) -> None:
        self._nodes = [Node.read(node) for node in nodes]

    def remember(self, what: str, ask: Any, *, seconds: float) -> Any:
        return self._nodes


def node(name: str = "n1", cpu: str = "4", memory: str = "16Gi", **more: Any) -> dict[str, Any]:
    labels = {"kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name, **more.pop("labels", {})}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": more.pop("taints", []), "unschedulable": more.pop("unschedulable", False)},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": "110", **more},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def pod(**more: Any) -> dict[str, Any]:
    requests = more.pop("requests", {"cpu": "1"})
    limits = more.pop("limits", {})
    return {"containers": [{"name": "job", "resources": {"requests": requests, "limits": limits}}], **more}


def judged(nodes: Nodes, spec: dict[str, Any]) -> list[tuple[str, str]]:
    plan = JobPlan(spec=JobSpec(id=new_job_id("t"), name="t"), namespace="team-a", user="u", image="x")
    return [(found.level, found.reason.code) for found in fit.findings(nodes, plan, spec)]  # type: ignore[arg-type]


LEVELS = {"Tainted": "warning", "NoNodes": "warning"}
"""Of what others may change: admission adds tolerations, nodes come back."""
GPU = {"nvidia.com/gpu": "2"}
TAINT = {"key": "team", "value": "b", "effect": "NoSchedule"}
PRODUCT = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["A100", "H100"]}
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [PRODUCT]}]}
    }
}


@pytest.mark.parametrize(
    ("nodes", "spec", "expected"),
    [
        (Nodes(node()), pod(), []),
        (Nodes(node(), node("n2", cpu="64")), pod(requests={"cpu": "32"}), []),
        (Nodes(node()), pod(requests={"cpu": "5"}), ["TooLarge"]),
        (Nodes(node()), pod(limits={"memory": "17Gi"}), ["TooLarge"]),
        # each alone could be had, on different nodes
        (Nodes(node(cpu="64"), node("n2", memory="1Ti")), pod(requests={"cpu": "32", "memory": "1Ti"}), ["TooLarge"]),
        (Nodes(node()), pod(limits={"nvidia.com/gpu": "1"}), ["NoGpu"]),
        (Nodes(node(**GPU)), pod(limits={"amd.com/gpu": "1"}), ["NoGpu"]),
        (Nodes(node(**{"nvidia.com/gpu": "0"})), pod(limits={"nvidia.com/gpu": "1"}), ["NoGpu"]),
        (Nodes(node(**GPU)), pod(limits={"nvidia.com/gpu": "2"}), []),
        (Nodes(node(**GPU)), pod(limits={"nvidia.com/gpu": "3"}), ["TooLarge"]),
        (Nodes(node()), pod(nodeSelector={"disk": "ssd"}), ["NoSuchNode"]),
        (Nodes(node(labels={"disk": "ssd"})), pod(nodeSelector={"disk": "ssd"}), []),
        (Nodes(node(labels={"nvidia.com/gpu.product": "T4"}, **GPU)), pod(affinity=AFFINITY), ["NoSuchNode"]),
        (Nodes(node(labels={"nvidia.com/gpu.product": "H100"}, **GPU)), pod(affinity=AFFINITY), []),
        (Nodes(node(taints=[TAINT])), pod(), ["Tainted"]),
        (Nodes(node(taints=[TAINT])), pod(tolerations=[{"key": "team", "operator": "Equal", "value": "b"}]), []),
        (Nodes(node(taints=[TAINT])), pod(tolerations=[{"key": "team", "value": "c"}]), ["Tainted"]),
        (Nodes(node(taints=[TAINT])), pod(tolerations=[{"key": "team", "operator": "Exists"}]), []),
        (Nodes(node(taints=[TAINT])), pod(tolerations=[{"operator": "Exists"}]), []),
        (
            Nodes(node(taints=[TAINT])),
            pod(tolerations=[{"key": "team", "operator": "Exists", "effect": "NoExecute"}]),
            ["Tainted"],
        ),
        (Nodes(node(taints=[{"key": "a", "effect": "PreferNoSchedule"}])), pod(), []),
        (Nodes(node(unschedulable=True)), pod(), ["NoNodes"]),
    ],
)
def test_what_no_node_can_ever_take_is_an_error_and_its_neighbour_is_not(nodes, spec, expected):
    assert judged(nodes, spec) == [(LEVELS.get(code, "error"), code) for code in expected]


def test_where_the_cluster_may_get_other_nodes_it_is_a_warning():
    grows = node(labels={"karpenter.sh/nodepool": "default"})
    assert judged(Nodes(grows), pod(requests={"cpu": "5"})) == [("warning", "TooLarge")]


@pytest.mark.parametrize(
    ("operator", "values", "fits"),
    [
        ("In", ["a"], True),
        ("In", ["b"], False),
        ("NotIn", ["a"], False),
        ("NotIn", ["b"], True),
        ("Exists", None, True),
        ("DoesNotExist", None, False),
    ],
)
def test_every_operator_of_an_affinity_is_understood(operator, values, fits):
    expression = {"key": "zone", "operator": operator} | ({"values": values} if values else {})
    terms = [{"matchExpressions": [expression]}]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    assert fit.selects({"affinity": affinity}, Node.read(node(labels={"zone": "a"}))) is fits


def test_a_pod_asks_for_its_containers_or_its_largest_init_container():
    spec = pod(requests={"cpu": "1"}, limits={"memory": "1Gi"})
    spec["containers"].append({"name": "sidecar", "resources": {"requests": {"cpu": "500m"}}})
    spec["initContainers"] = [{"resources": {"requests": {"cpu": "2"}}}, {"resources": {"requests": {"cpu": "1"}}}]
    assert asked_by(spec) == {"cpu": 2.0, "memory": 2.0**30}


@given(st.integers(0, 10**6), st.sampled_from(["m", "", "k", "Ki", "Mi", "Gi"]))
def test_a_quantity_is_its_number_times_its_unit(amount: int, unit: str):
    units = {"m": 0.001, "": 1, "k": 1000, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    assert math.isclose(number(f"{amount}{unit}"), amount * units[unit])


def test_what_is_no_quantity_is_no_number():
    assert math.isnan(number("lots"))


def short(
    hard: dict[str, str],
    used: dict[str, str] | None = None,
    nodes: int = 1,
    cpu: str = "2",
    via: str | None = None,
    **more: Any,
) -> list[str]:
    """Level and code of what a quota says of a job of some nodes that each ask for so many cores and 4 GiB."""
    plan = JobPlan(
        spec=JobSpec(
            id=new_job_id("t"), name="t", resources=Resources.parse(nodes=nodes), placement=Placement(via=via)
        ),
        namespace="team-a",
        user="u",
        image="x",
        store=more.pop("store", Store()),
    )
    spec = pod(requests={"cpu": cpu}, limits={"memory": "4Gi"}, **more.pop("pod", {}))
    known = {"metadata": {"name": "q"}, "spec": {"hard": hard, **more}, "status": {"hard": hard, "used": used or {}}}

    class Quotas:
        def list(self, kind: Any) -> Any:
            return [known], ""

    found = quota.findings(Quotas(), plan, spec)  # type: ignore[arg-type]
    return [f"{one.level} {one.reason.code}" for one in found]


@pytest.mark.parametrize(
    ("hard", "used", "nodes", "expected"),
    [
        ({"requests.cpu": "2"}, {}, 1, []),
        ({"requests.cpu": "2"}, {}, 2, ["error QuotaTooSmall"]),
        ({"requests.cpu": "2"}, {"requests.cpu": "500m"}, 1, ["warning QuotaExceeded"]),
        ({"cpu": "1"}, {}, 1, ["error QuotaTooSmall"]),
        ({"limits.memory": "4Gi"}, {"limits.memory": "1Mi"}, 1, ["warning QuotaExceeded"]),
        ({"requests.memory": "3Gi"}, {}, 1, ["error QuotaTooSmall"]),
        ({"pods": "1"}, {}, 2, ["error QuotaTooSmall"]),
        ({"pods": "2"}, {"pods": "1"}, 2, ["warning QuotaExceeded"]),
        ({"requests.nvidia.com/gpu": "0"}, {}, 1, []),
    ],
)
def test_a_quota_that_can_never_do_is_an_error_and_one_that_is_used_up_a_warning(hard, used, nodes, expected):
    assert short(hard, used, nodes) == expected


@pytest.mark.parametrize(
    ("name", "nodes", "own", "expected"),
    [
        ("count/jobs.batch", 1, False, ["error QuotaExceeded"]),
        ("secrets", 1, False, ["error QuotaExceeded"]),
        ("count/secrets", 1, False, ["error QuotaExceeded"]),
        ("services", 1, False, []),
        ("services", 2, False, ["error QuotaExceeded"]),
        ("count/services", 2, False, ["error QuotaExceeded"]),
        ("persistentvolumeclaims", 1, False, []),
        ("persistentvolumeclaims", 1, True, ["error QuotaExceeded"]),
        ("count/persistentvolumeclaims", 1, True, ["error QuotaExceeded"]),
    ],
)
def test_what_a_submit_makes_itself_cannot_wait_for_a_quota(name, nodes, own, expected):
    store = Store(kind="own", claim="mine") if own else Store()
    assert short({name: "5"}, {name: "5"}, nodes, store=store) == expected
    assert short({name: "5"}, {name: "4"}, nodes, store=store) == []


@pytest.mark.parametrize(
    ("name", "level"), [("count/jobs.batch", "warning"), ("services", "warning"), ("secrets", "error")]
)
def test_what_is_made_of_a_trainjob_waits_for_a_quota(name, level):
    assert short({name: "5"}, {name: "5"}, 2, via="trainjob") == [f"{level} QuotaExceeded"]


def test_cores_that_use_a_quota_up_to_the_last_thousandth_fit_in_it():
    assert short({"requests.cpu": "300m"}, nodes=3, cpu="100m") == []
    assert short({"requests.cpu": "300m"}, {"requests.cpu": "100m"}, nodes=2, cpu="100m") == []
    assert short({"requests.cpu": "299m"}, nodes=3, cpu="100m") == ["error QuotaTooSmall"]
    assert short({"requests.cpu": "301m"}, {"requests.cpu": "2m"}, nodes=3, cpu="100m") == ["warning QuotaExceeded"]


def test_containers_that_fill_a_node_up_to_the_last_thousandth_fit_on_it():
    three = {"containers": [{"name": f"c{one}", "resources": {"requests": {"cpu": "100m"}}} for one in range(3)]}
    assert judged(Nodes(node(cpu="300m")), three) == []
    assert judged(Nodes(node(cpu="299m")), three) == [("error", "TooLarge")]


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ({"scopes": ["NotTerminating"]}, True),
        ({"scopes": ["Terminating"]}, False),
        ({"scopes": ["Terminating"], "pod": {"activeDeadlineSeconds": 60}}, True),
        ({"scopes": ["BestEffort"]}, False),
        ({"scopes": ["NotBestEffort"]}, True),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["h"]}]
                }
            },
            False,
        ),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["h"]}]
                },
                "pod": {"priorityClassName": "h"},
            },
            True,
        ),
    ],
)
def test_a_quota_counts_only_the_pods_that_it_is_about(more, counts):
    assert bool(short({"requests.cpu": "1"}, **more)) is counts
