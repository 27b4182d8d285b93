"""A suspended job: it waits in a queue, was stopped for another one, or somebody suspended it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kube_nb.backends.kubernetes import addons
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.kinds import JOBS, Kind
from kube_nb.backends.kubernetes.session import kueue_workloads
from kube_nb.backends.kubernetes.snapshot import QUEUE_LABEL, Snapshot, condition
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.backends.kubernetes.watch import read
from kube_nb.client import Client
from kube_nb.jobs.job import Job
from kube_nb.spec import Phase
from tests.cluster.handmade import FOREVER, labels
from tests.conformance.backends import CLUSTER
from tests.conformance.sending import code, until

pytestmark = pytest.mark.slow

PRIORITY = "kueue.x-k8s.io/priority-class"
LATER = 60.0


@pytest.fixture
def group(cluster) -> str:
    """The version of Kueue's objects."""
    kind = kueue_workloads(cluster)
    if kind is None:
        pytest.skip("cluster: it has no Kueue")
    return kind.version


@pytest.fixture
def queue(group, made_by_admin, unique) -> Callable[..., str]:
    """Makes a queue of the namespace that gives 200m of CPU in all."""

    def make(**spec: object) -> str:
        name = unique("queue")

        def one(kind: str, plural: str, spec: dict, *, namespaced: bool = False) -> None:
            body = {"apiVersion": group, "kind": kind, "metadata": {"name": name, "labels": labels(name)}, "spec": spec}
            made_by_admin(Kind(plural, group, namespaced=namespaced), body)

        one("ResourceFlavor", "resourceflavors", {})
        quotas = [{"name": "cpu", "nominalQuota": "200m"}, {"name": "memory", "nominalQuota": "1Gi"}]
        flavors = [{"coveredResources": ["cpu", "memory"], "flavors": [{"name": name, "resources": quotas}]}]
        one("ClusterQueue", "clusterqueues", {"namespaceSelector": {}, "resourceGroups": flavors, **spec})
        one("LocalQueue", "localqueues", {"clusterQueue": name}, namespaced=True)
        return name

    return make


def queued(name: str, cpu: str = "200m", **more: str) -> dict:
    return {
        "meta": {"labels": {QUEUE_LABEL: name, **more}},
        "container": {"resources": {"requests": {"cpu": cpu, "memory": "32Mi"}}},
    }


def held(snapshot: Snapshot) -> Object:
    """The Workload of a job that Kueue does not let begin."""
    assert snapshot.job["spec"]["suspend"]
    assert not snapshot.pods
    (workload,) = snapshot.workloads
    assert condition(workload, "QuotaReserved", "False")
    return workload


def why_held(snapshot: Snapshot) -> str:
    """In Kueue's words."""
    return (condition(held(snapshot), "QuotaReserved", "False") or {})["message"]


def test_a_job_that_waits_for_its_share_is_told_from_one_that_never_gets_it(by_hand, cluster, queue):
    name = queue()
    holder = by_hand("holds", FOREVER, **queued(name))
    holder.running()
    waits = by_hand("waits", **queued(name))
    status = waits.until(lambda status: status.reason and "insufficient unused quota" in status.reason.why)
    assert (status.phase, status.reason.code) == ("Pending", "WaitingForQuota")
    assert name in status.reason.what
    assert "insufficient unused quota" in why_held(waits.snapshot())
    assert [status_of(one).reason for one in read(cluster, ids=[waits.id])] == [status.reason], (
        "the same without a watch"
    )
    large = by_hand("large", **queued(name, "900m"))
    assert large.reason("QueueTooSmall").phase == "Pending"
    assert "maximum capacity" in why_held(large.snapshot())
    holder.remove()
    assert waits.final(LATER).phase == "Succeeded"


def test_a_queue_that_is_not_there(by_hand, group):
    seen = by_hand("nowhere", **queued("kube-nb-test-none"))
    status = seen.reason("QueueMissing")
    assert status.phase == "Pending"
    assert "kube-nb-test-none doesn't exist" in why_held(seen.snapshot())
    assert "--queue" in status.reason.next


def test_a_queue_that_is_stopped(by_hand, queue):
    seen = by_hand("stopped", **queued(queue(stopPolicy="Hold")))
    assert seen.reason("QueueStopped").phase == "Pending"
    assert "is inactive" in why_held(seen.snapshot())


def test_a_job_that_is_stopped_for_a_more_important_one(by_hand, group, queue, made_by_admin, unique):
    important = unique("important")
    kind = Kind("workloadpriorityclasses", group, namespaced=False)
    made_by_admin(
        kind,
        {"apiVersion": group, "kind": "WorkloadPriorityClass", "metadata": {"name": important}, "value": 9},
    )
    name = queue(preemption={"withinClusterQueue": "LowerPriority"})
    lesser = by_hand("lesser", FOREVER, **queued(name))
    lesser.running()
    by_hand("important", FOREVER, **queued(name, **{PRIORITY: important}))
    status = lesser.reason("Preempted")
    assert status.phase == "Pending"
    assert "checkpoint" in status.reason.next
    lesser.until(lambda _: not lesser.snapshot().pods)
    assert (condition(held(lesser.snapshot()), "Evicted") or {})["reason"] == "Preempted"


def test_a_job_that_somebody_suspended_runs_once_it_is_resumed(by_hand, cluster):
    seen = by_hand("suspended", spec={"suspend": True})
    assert seen.reason("Suspended").phase == "Pending"
    assert seen.snapshot().job["spec"]["suspend"]
    assert not seen.snapshot().workloads, "no queue has to do with it"
    cluster.patch(JOBS, seen.id, {"spec": {"suspend": False}})
    assert seen.final().phase == "Succeeded"


def of(cluster: Api, job: Job) -> Snapshot:
    (snapshot,) = read(cluster, ids=[job.id])
    return snapshot


@pytest.mark.lab
@pytest.mark.parametrize("via", [None, "trainjob"], ids=["job", "trainjob"])
def test_a_cell_that_is_sent_to_a_queue_waits_for_its_share_and_then_runs(cluster, by_hand, queue, state_dir, via):
    if via and addons.kind(cluster, "trainer.kubeflow.org", "trainjobs") is None:
        pytest.skip("cluster: it has no Kubeflow Trainer")
    name = queue()
    holder = by_hand("holds", FOREVER, **queued(name))
    holder.running()
    client = Client(CLUSTER.on, image="lab/python:3.11", cpu="0.2", memory="128Mi")
    waits, cancelled = (
        client.options(via=via, queue=name).cell("print('began')", {"__name__": "__main__"}) for _ in range(2)
    )
    until(lambda: code(waits) == "WaitingForQuota", 60)
    assert waits.phase is Phase.PENDING
    assert waits.reason is not None
    assert name in waits.reason.what
    assert "quota" in waits.reason.why
    assert "insufficient unused quota" in why_held(of(cluster, waits))
    cancelled.cancel()
    assert cancelled.wait(60).phase is Phase.CANCELLED
    holder.remove()
    assert waits.wait(120).phase is Phase.SUCCEEDED, waits.reason
    assert "began" in "".join(waits.logs())
    ran = of(cluster, waits)
    assert not ran.job["spec"]["suspend"]
    assert condition(ran.workloads[0], "Admitted")
    client.delete(waits)
    client.delete(cancelled)
