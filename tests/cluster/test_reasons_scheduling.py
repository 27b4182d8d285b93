"""A job that no node can ever run, against one that fits and waits: by the live scheduler's words."""

from __future__ import annotations

import pytest

from kube_nb.backends.kubernetes.api import NODES
from tests.cluster.handmade import FOREVER

pytestmark = pytest.mark.slow

GPU = "nvidia.com/gpu"


def asks(**resources: str) -> dict:
    return {"resources": {"requests": resources, "limits": resources}}


@pytest.mark.parametrize(
    ("wants", "flag"),
    [({"cpu": "900"}, "--cpu"), ({"memory": "900Gi"}, "--memory"), ({GPU: "3"}, "--gpus")],
    ids=["cpu", "memory", "gpu"],
)
def test_a_request_that_no_node_can_ever_hold_names_the_resource(by_hand, wants, flag):
    seen = by_hand("never", FOREVER, container=asks(**wants))
    status = seen.reason("NeverFits")
    assert status.phase == "Pending"
    assert next(iter(wants)) in status.reason.why
    assert flag in status.reason.next
    assert "Preemption is not helpful" in str(seen.snapshot().pods[0]["status"])


def test_a_request_that_fits_but_waits_is_not_called_hopeless_and_runs_later(by_hand, cluster):
    node = {"nodeSelector": {"kubernetes.io/hostname": "node2"}}
    holder = by_hand("holds", FOREVER, container=asks(**{GPU: "2"}), pod=node)
    holder.running()
    waits = by_hand("waits", "", container=asks(**{GPU: "2"}), pod=node)
    status = waits.reason("WaitingForRoom")
    assert status.phase == "Pending"
    assert GPU in status.reason.what
    assert "No preemption victims found" in str(waits.snapshot().pods[0]["status"])
    holder.remove()
    assert waits.final().phase == "Succeeded"


def test_a_selector_that_no_node_has_never_fits(by_hand):
    status = by_hand("selects", FOREVER, pod={"nodeSelector": {"kube-nb.test/no": "node"}}).reason("NeverFits")
    assert "labels" in status.reason.why
    assert "selector" in status.reason.next


def test_a_taint_that_is_not_tolerated_never_fits_and_one_that_is_tolerated_does(by_hand, node):
    taint = {"key": "kube-nb.test/reserved", "value": "others", "effect": "NoSchedule"}
    name = node({"type": "Ready", "status": "True", "reason": "KubeletReady"}, taint)
    status = by_hand("tainted", FOREVER, pod=only(name)).reason("NeverFits")
    assert "taint" in status.reason.why
    assert "tolerations" in status.reason.next
    tolerant = by_hand("tolerates", FOREVER, pod=only(name) | {"tolerations": [{"operator": "Exists"}]})
    assert tolerant.until(lambda status: status.phase == "Starting").reason is None


def only(name: str) -> dict:
    """For a pod that may run on one node in name alone."""
    return {"nodeSelector": {"kube-nb.test/node": name}}


@pytest.fixture
def node(made_by_admin, unique):
    """Makes a node in name alone: the cluster believes its condition for a while, nothing ever runs there."""

    def make(ready: dict, *taints: dict) -> str:
        name = unique("node")
        capacity = {"cpu": "1", "memory": "1Gi", "pods": "10"}
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kube-nb.test/node": name}},
            "spec": {"taints": list(taints)},
            "status": {"conditions": [ready], "capacity": capacity, "allocatable": capacity},
        }
        made_by_admin(NODES, body)
        return name

    return make
