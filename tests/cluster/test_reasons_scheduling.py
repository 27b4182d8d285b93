"""A job that no node can ever run, against one that fits and waits: by the live scheduler's words."""

from __future__ import annotations

import pytest

from kube_nb.backends.kubernetes.kinds import NODES
from kube_nb.backends.kubernetes.snapshot import condition
from tests.cluster.handmade import FOREVER, Seen

pytestmark = pytest.mark.slow

GPU = "nvidia.com/gpu"


def asks(**resources: str) -> dict:
    return {"resources": {"requests": resources, "limits": resources}}


@pytest.mark.parametrize(
    ("wants", "flag"),
    [
        ({"cpu": "900"}, "--cpu"),
        ({"memory": "900Gi"}, "--memory"),
        ({"ephemeral-storage": "900Ti"}, "--disk"),
        ({GPU: "3"}, "--gpus"),
    ],
    ids=["cpu", "memory", "disk", "gpu"],
)
def test_a_request_that_no_node_can_ever_hold_names_the_resource(by_hand, wants, flag):
    seen = by_hand("never", FOREVER, container=asks(**wants))
    status = seen.reason("NeverFits")
    assert status.phase == "Pending"
    assert next(iter(wants)) in status.reason.why
    assert flag in status.reason.next
    assert f"Insufficient {next(iter(wants))}" in schedulers_words(seen)
    assert "Preemption is not helpful" in schedulers_words(seen)


@pytest.mark.lab
def test_a_request_that_fits_but_waits_is_not_called_hopeless_and_runs_later(by_hand, cluster):
    node = {"nodeSelector": {"kubernetes.io/hostname": "node2"}}
    holder = by_hand("holds", FOREVER, container=asks(**{GPU: "2"}), pod=node)
    holder.running()
    waits = by_hand("waits", "", container=asks(**{GPU: "2"}), pod=node)
    status = waits.reason("WaitingForRoom")
    assert status.phase == "Pending"
    assert GPU in status.reason.what
    assert "No preemption victims found" in schedulers_words(waits)
    holder.remove()
    assert waits.final().phase == "Succeeded"


def test_a_selector_that_no_node_has_never_fits_and_one_that_a_node_has_does(by_hand):
    seen = by_hand("selects", FOREVER, pod={"nodeSelector": {"kube-nb.test/no": "node"}})
    status = seen.reason("NeverFits")
    assert "labels" in status.reason.why
    assert "selector" in status.reason.next
    assert "didn't match Pod's node affinity/selector" in schedulers_words(seen)
    assert by_hand("fits", pod={"nodeSelector": {"kubernetes.io/os": "linux"}}).final().phase == "Succeeded"


def test_a_taint_that_is_not_tolerated_never_fits_and_one_that_is_tolerated_does(by_hand, node):
    taint = {"key": "kube-nb.test/reserved", "value": "others", "effect": "NoSchedule"}
    name = node({"type": "Ready", "status": "True", "reason": "KubeletReady"}, taint)
    seen = by_hand("tainted", FOREVER, pod=only(name))
    status = seen.reason("NeverFits")
    assert "taint" in status.reason.why
    assert "tolerations" in status.reason.next
    assert "untolerated taint" in schedulers_words(seen)
    tolerant = by_hand("tolerates", FOREVER, pod=only(name) | {"tolerations": [{"operator": "Exists"}]})
    assert tolerant.until(lambda status: status.phase == "Starting").reason is None


def schedulers_words(seen: Seen) -> str:
    """Why the scheduler has no node for the pod, in its own words."""
    return (condition(seen.snapshot().pods[0], "PodScheduled", "False") or {}).get("message", "")


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
