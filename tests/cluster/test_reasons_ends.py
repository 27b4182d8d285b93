"""How a job ends, or is ended, where the runner's own word is not all there is to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.kinds import JOBS, PODS, Kind
from kube_nb.backends.kubernetes.snapshot import condition, state
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.runner.ending import CODES
from kube_nb.spec import new_job_id
from tests.cluster.handmade import FOREVER, GREEDY, PATIENCE, STOPS, job, program, says, sidecar
from tests.cluster.made import Made
from tests.conformance.sending import until

pytestmark = pytest.mark.slow
PRIORITIES = Kind("priorityclasses", "scheduling.k8s.io/v1", namespaced=False)
GPU = "nvidia.com/gpu"
NODE = "node2"
ON_NODE = {"nodeSelector": {"kubernetes.io/hostname": NODE}}
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"


def limit(memory: str) -> dict:
    return {"container": {"resources": {"requests": {"cpu": "10m"}, "limits": {"memory": memory}}}}


# What the runner says -----------------------------------------------------------------------------------------------


def test_success_is_told_by_the_runners_word_before_the_cluster_says_so(by_hand):
    seen = by_hand("quick", says("Succeeded", 0))
    first = seen.watch.wait(seen.id, lambda one: one if one and status_of(one).phase.final else None, PATIENCE)
    status = status_of(first)
    assert (status.phase, status.end["code"], status.reason) == ("Succeeded", "Succeeded", None)
    assert not first.ended
    assert seen.watch.wait(seen.id, lambda snapshot: snapshot.ended or None, 30)
    assert status_of(seen.snapshot()).phase == "Succeeded"


def test_a_failure_is_final_only_when_no_try_is_left(by_hand):
    seen = by_hand("tries", says("Exception", 1, ename="ValueError", evalue="bad", line=3), retries=1)
    between = seen.until(lambda status: status.reason)
    assert (between.phase, between.reason.code) == ("Starting", "Exception")
    assert "another attempt follows" in between.reason.what
    status = seen.final()
    assert (status.phase, status.attempt, status.reason.code) == ("Failed", 1, "Exception")
    assert "ValueError" in status.reason.what


@pytest.mark.parametrize("code", ["TimedOut", "EnvironmentFailed", "BundleCorrupted", "RendezvousBlocked"])
def test_some_ends_are_final_whatever_the_retries(by_hand, code):
    seen = by_hand("final", says(code, CODES[code]), retries=3)
    status = seen.final()
    assert (status.phase, status.reason.code, status.attempt) == ("Failed", code, 0)
    seen.until(lambda _: seen.snapshot().condition("Failed"))
    assert seen.snapshot().condition("Failed")["reason"] == "PodFailurePolicy", "the cluster tries it no more, either"


def test_a_cancel_is_no_failure(by_hand):
    status = by_hand("cancel", says("Cancelled", 81)).final()
    assert (status.phase, status.reason.code) == ("Cancelled", "Cancelled")


def test_a_job_that_never_started_is_cancelled_by_its_deadline(by_hand, cluster):
    seen = by_hand("waits", pod={"nodeSelector": {"kube-nb.test/no": "node"}})
    seen.reason("NeverFits")
    mark = {"metadata": {"annotations": {names.CANCELLED: "2026-01-01T00:00:00Z"}}}
    cluster.patch(JOBS, seen.id, mark | {"spec": {"activeDeadlineSeconds": 1}})
    status = seen.final()
    assert (status.phase, status.reason.code) == ("Cancelled", "Cancelled")


def test_an_end_that_is_not_counted_is_followed_by_another_attempt(by_hand):
    again = f"import os\nif os.environ['DISRUPTIONS'] in ('', '0'):\n    {says('Again', 88)}\n{says('Succeeded', 0)}"
    field = {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-index-ignored-failure-count']"}
    seen = by_hand("again", again, container={"env": [{"name": "DISRUPTIONS", "valueFrom": {"fieldRef": field}}]})
    status = seen.final()
    assert (status.phase, status.attempt) == ("Succeeded", 1)


# Memory -------------------------------------------------------------------------------------------------------------


def test_out_of_memory_names_the_limit(by_hand):
    seen = by_hand("greedy", GREEDY, **limit("64Mi"))
    status = seen.final()
    assert (status.phase, status.reason.code) == ("Failed", "OutOfMemory")
    assert "64Mi" in status.reason.why
    assert "--memory" in status.reason.next
    assert "OOMKilled" in str(seen.snapshot().pods[0]["status"])


def test_a_kill_is_not_called_a_lack_of_memory(by_hand):
    status = by_hand("killed", "raise SystemExit(137)", **limit("64Mi")).final()
    assert (status.phase, status.reason.code) == ("Failed", "RunnerKilled")


def test_what_ended_one_node_is_the_reason_though_the_others_saw_only_its_loss(by_hand):
    index = {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
    code = f"import os, time\nif os.environ['NODE'] == '0':\n    time.sleep(4)\n    {says('RankLost', 1)}\n{GREEDY}"
    container = limit("64Mi")["container"] | {"env": [{"name": "NODE", "valueFrom": {"fieldRef": index}}]}
    status = by_hand("gang", code, nodes=2, container=container, spec={"maxFailedIndexes": 2}).final()
    assert status.reason.code == "OutOfMemory"
    assert "node 1" in status.reason.what


# Disruptions --------------------------------------------------------------------------------------------------------


def test_a_node_that_is_emptied_is_told(by_hand, cluster):
    seen = by_hand("drained", STUBBORN, pod={"terminationGracePeriodSeconds": 5})
    seen.running()
    pod = seen.snapshot().pods[0]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    cluster.create(Kind(f"pods/{pod}/eviction"), eviction)
    status = seen.reason("Evicted")
    assert not status.phase.final
    assert "leave" in status.reason.what
    assert condition(seen.snapshot().pods[0], "DisruptionTarget")["reason"] == "EvictionByEvictionAPI"


@pytest.fixture
def slot(admin, unique):
    """A resource of which one node has one piece, and that nobody else asks for."""
    resource, status = f"kube-nb.test/{unique('slot')}", Kind(f"nodes/{NODE}", namespaced=False)

    def pieces(count: str | None) -> None:
        admin.patch(status, "status", {"status": {key: {resource: count} for key in ("capacity", "allocatable")}})

    pieces("1")
    yield resource
    pieces(None)


@pytest.mark.lab
def test_a_pod_that_the_kubelet_puts_out_is_told_and_its_job_goes_on_later(by_hand, admin, slot):
    """By what every kubelet does for the sake of a pod of the system."""
    takes = {"resources": {"limits": {slot: "1", "memory": "64Mi"}}}
    seen, beside = by_hand("put-out", FOREVER, container=takes), by_hand("beside", FOREVER, pod=ON_NODE)
    seen.running()
    beside.running()
    system = Made(replace(admin, namespace="kube-system"))
    critical = {"nodeName": NODE, "priorityClassName": "system-node-critical"}
    spec = job("x", FOREVER, container=takes, pod=critical)["spec"]["template"]["spec"]
    system(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": new_job_id("t-system")}, "spec": spec})
    try:
        status = seen.reason("Evicted")
        assert not status.phase.final
        assert f"node {NODE} put the job out" in status.reason.what
        assert "critical pod" in status.reason.why
        assert status.reason.next
        put_out = seen.snapshot().pods[0]
        assert condition(put_out, "DisruptionTarget")["reason"] == "TerminationByKubelet"
        assert beside.running().reason is None
    finally:
        system.remove()
    seen.until(lambda status: status.attempt == 1 and status.phase == "Running")


@pytest.mark.lab
def test_preemption_by_a_more_important_job_is_told(by_hand, made_by_admin, unique):
    name = unique("important")
    made_by_admin(
        PRIORITIES, {"apiVersion": PRIORITIES.version, "kind": "PriorityClass", "metadata": {"name": name}, "value": 9}
    )
    gpus = {"resources": {"limits": {GPU: "2", "memory": "64Mi"}}}
    lesser = by_hand("lesser", STUBBORN, container=gpus, pod=ON_NODE | {"terminationGracePeriodSeconds": 5})
    lesser.running()
    by_hand("important", "", container=gpus, pod=ON_NODE | {"priorityClassName": name})
    status = lesser.reason("Preempted")
    assert not status.phase.final
    assert "PreemptionByScheduler" in str(lesser.snapshot().pods[0]["status"])


def test_a_pod_that_somebody_deletes_takes_a_silent_job_with_it(by_hand, cluster):
    seen = by_hand("deleted", STUBBORN, pod={"terminationGracePeriodSeconds": 5})
    seen.running()
    cluster.delete(PODS, seen.snapshot().pods[0]["metadata"]["name"])
    assert seen.reason("PodDeleted")
    leaving = seen.snapshot().pods[0]
    assert leaving["metadata"]["deletionTimestamp"]
    assert not condition(leaving, "DisruptionTarget"), "a person did it, not the cluster"
    status = seen.final()
    assert (status.phase, status.reason.code) == ("Failed", "PodDeleted")
    seen.until(lambda _: not seen.snapshot().pods)
    assert seen.snapshot().job["status"]["failedIndexes"] == "0"


def test_a_pod_that_somebody_deletes_is_replaced_where_the_runner_said_that_it_was_stopped(by_hand, cluster):
    seen = by_hand("stopped", STOPS)
    seen.running()
    cluster.delete(PODS, seen.snapshot().pods[0]["metadata"]["name"])
    status = seen.until(lambda status: status.attempt == 1 and status.phase == "Running")
    assert status.reason is None


# The Job ------------------------------------------------------------------------------------------------------------


def test_a_deadline_of_the_cluster_ends_what_is_late_alone(by_hand):
    seen = by_hand("late", STUBBORN, spec={"activeDeadlineSeconds": 3})
    status = seen.final()
    assert (status.phase, status.reason.code) == ("Failed", "DeadlineExceeded")
    assert "3 s" in status.reason.what
    said = seen.snapshot().condition("Failed") or seen.snapshot().condition("FailureTarget")
    assert said["reason"] == "DeadlineExceeded"
    in_time = by_hand("in-time", says("Succeeded", 0), spec={"activeDeadlineSeconds": 600}).final()
    assert (in_time.phase, in_time.reason) == ("Succeeded", None)


def test_a_deadline_of_a_pod_is_not_called_a_kill_by_somebody(by_hand):
    seen = by_hand("late", STUBBORN, pod={"activeDeadlineSeconds": 3})
    status = seen.final()
    assert (status.phase, status.reason.code) == ("Failed", "DeadlineExceeded")
    assert "3 s" in status.reason.what
    assert "--timeout" in status.reason.next
    assert seen.snapshot().pods[0]["status"]["reason"] == "DeadlineExceeded"
    in_time = by_hand("in-time", says("Succeeded", 0), pod={"activeDeadlineSeconds": 600}).final()
    assert (in_time.phase, in_time.reason) == ("Succeeded", None)


def test_a_job_that_somebody_deletes_is_told_once_and_no_more_heard_of(by_hand, cluster, watch):
    heard = []
    subscription = watch.subscribe(lambda snapshot: heard.append(status_of(snapshot)))
    try:
        seen = by_hand("gone", FOREVER)
        seen.running()
        cluster.delete(JOBS, seen.id)
        assert watch.wait(seen.id, lambda snapshot: snapshot is None or None, 30)
        # Who waits is woken before who has subscribed is told.
        until(lambda: any(status.id == seen.id and status.phase.final for status in heard), 30)
    finally:
        subscription.close()
    mine = [status for status in heard if status.id == seen.id]
    assert (mine[-1].phase, mine[-1].reason.code) == ("Failed", "JobDeleted")
    assert watch.snapshot(seen.id) is None


def test_a_job_that_had_ended_is_not_called_deleted(by_hand, cluster, watch):
    heard = []
    subscription = watch.subscribe(lambda snapshot: heard.append(status_of(snapshot)))
    try:
        seen = by_hand("done")
        assert watch.wait(seen.id, lambda snapshot: (snapshot and snapshot.ended) or None, 30)
        cluster.delete(JOBS, seen.id)
        assert watch.wait(seen.id, lambda snapshot: snapshot is None or None, 30)
    finally:
        subscription.close()
    assert {status.phase for status in heard if status.id == seen.id and status.phase.final} == {"Succeeded"}


# Containers beside it -----------------------------------------------------------------------------------------------


def test_a_sidecar_that_outlives_the_runner_is_named(by_hand):
    main = job("x", says("Succeeded", 0))["spec"]["template"]["spec"]["containers"][0]
    seen = by_hand("sidecar", pod={"containers": [main, sidecar(STUBBORN)]})
    status = seen.reason("SidecarRunning")
    assert status.phase == "Succeeded", "the runner's word stands"
    assert "sidecar" in status.reason.what
    assert not seen.snapshot().ended
    pod = seen.snapshot().pods[0]
    assert state(pod, "terminated")["exitCode"] == 0
    assert state(pod, "running", "sidecar")


def test_a_native_sidecar_is_no_trouble(by_hand):
    seen = by_hand("native", says("Succeeded", 0), pod={"initContainers": [sidecar() | {"restartPolicy": "Always"}]})
    assert seen.final().reason is None
    assert seen.watch.wait(seen.id, lambda snapshot: snapshot.ended or None, 40)


def test_a_program_that_is_not_there(by_hand):
    status = by_hand("absent", container={"command": ["/no/such/program"]}).final()
    assert (status.phase, status.reason.code) == ("Failed", "CannotStart")
    assert by_hand("present", container={"command": program("")}).final().phase == "Succeeded"
