"""Jobs of several nodes on the cluster: they find each other, start together, and end or start again together."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kube_nb.backends.base import JobStatus
from kube_nb.backends.kubernetes import ending, preflight, submit
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.kinds import PODS
from kube_nb.backends.kubernetes.names import JOB
from kube_nb.backends.kubernetes.network import POLICIES
from kube_nb.backends.kubernetes.snapshot import node_of, state
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.backends.kubernetes.watch import Watch
from kube_nb.backends.reasons import reason_of
from kube_nb.events import Decoder, Event, Text
from kube_nb.runner.ending import CODES
from kube_nb.spec import Phase, Policy
from tests.cluster.conftest import Made, ours
from tests.cluster.handmade import Seen
from tests.cluster.small_jobs import plan, pod_when
from tests.unit.pod_files import make_bundle

pytestmark = pytest.mark.slow

PATIENCE = 120.0
WHO = "import os, time\nrank, attempt = int(os.environ['RANK']), os.environ['KUBE_NB_ATTEMPT']\n"
SLEEP_ONCE = WHO + "print('attempt', attempt, flush=True)\nif attempt == '0': time.sleep(300)"
MEET = """
import os, socket
rank, address = int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    with socket.create_server(("", address[1])) as server:
        peer, _ = server.accept()
        print("rank 0 heard", peer.makefile().readline().strip())
else:
    for _ in range(1000):
        try:
            with socket.create_connection(address) as peer:
                peer.sendall(b"rank 1\\n")
            break
        except ConnectionRefusedError:
            pass
"""

BLOCKED = "RendezvousBlocked"

Send = Callable[..., Seen]


@pytest.fixture
def send(cluster: Api, watch: Watch, unique: Callable[[str], str], tmp_path: Path) -> Send:
    """Submits a job of two small nodes that run this code."""

    def make(
        code: str,
        *,
        retries: int = 0,
        timeout: float | None = None,
        before: Callable[[str], object] = lambda id: None,
        **details: Any,
    ) -> Seen:
        id = unique("gang")
        before(id)
        policy = Policy(retries=retries, timeout=timeout, grace=2)
        told = {"retries": retries, "timeout": timeout, "grace": 2.0, "nodes": 2}
        bundle = make_bundle(tmp_path / id, code, job=id, **told)
        job = submit.create(
            cluster,
            plan(cluster, id, resources={"nodes": 2}, policy=policy, memory=128 << 20, digest=bundle.digest, **details),
            bundle,
        )
        watch.remember(job)
        return Seen(cluster, watch, id)

    return make


def stream(api: Api, pod: Object) -> list[Text | Event]:
    with api.stream("GET", PODS, pod["metadata"]["name"], "log") as response:
        decoder = Decoder(node_of(pod))
        return [*decoder.feed(b"".join(api.pieces(response))), *decoder.close()]


def printed(job: Seen, node: int) -> str:
    """What the latest pod of a node printed."""
    pod = job.snapshot().pod(node)
    assert pod is not None
    return b"".join(item.data for item in stream(job.api, pod) if isinstance(item, Text)).decode()


def running(job: Seen, node: int, text: str) -> Object:
    """The pod of a node, once it has printed this."""
    pod = pod_when(job.api, job.id, lambda pod: node_of(pod) == node and state(pod, "running"), int(PATIENCE))
    seen = b""
    with job.api.stream("GET", PODS, pod["metadata"]["name"], "log", query={"follow": "true"}) as response:
        for piece in job.api.pieces(response):
            seen += piece
            if text.encode() in seen:
                return pod
    raise AssertionError(f"{text!r} never came, only {seen.decode()}")


def test_two_nodes_meet_and_end_well(send: Send):
    job = send(MEET)
    status = job.final(PATIENCE)
    assert status.phase is Phase.SUCCEEDED
    assert printed(job, 0) == "rank 0 heard rank 1\n"
    assert status.end["code"] == "Succeeded"


def test_the_first_failing_rank_is_how_the_job_ended(send: Send):
    job = send(WHO + "print('here')\ntime.sleep(3)\nif rank == 1: raise ValueError('no')\ntime.sleep(300)")
    status = job.final(PATIENCE)
    assert status.phase is Phase.FAILED
    assert status.reason is not None
    assert status.reason.code == "Exception"
    assert status.reason.what == "the code raised ValueError in Cell In[5], line 5"
    assert status.end["rank"] == 1
    job.until(lambda _: job.snapshot().condition("Failed"), PATIENCE)
    assert [printed(job, node).splitlines()[0] for node in (0, 1)] == ["here", "here"]


def test_a_failure_is_tried_again_by_all_nodes(send: Send):
    job = send(WHO + "print('attempt', attempt)\nif rank == 1 and attempt == '0': 1 / 0", retries=1)
    assert job.final(PATIENCE).phase is Phase.SUCCEEDED
    assert [printed(job, node) for node in (0, 1)] == ["attempt 1\n"] * 2
    job.until(lambda _: job.snapshot().condition("Complete"), PATIENCE)


@pytest.mark.parametrize("node", [0, 1])
def test_a_deleted_pod_starts_all_nodes_again(send: Send, node: int):
    job = send(SLEEP_ONCE)
    victim = running(job, node, "attempt 0\n")
    job.api.delete(PODS, victim["metadata"]["name"])
    status = job.final(PATIENCE)
    assert status.phase is Phase.SUCCEEDED
    assert [printed(job, number) for number in (0, 1)] == ["attempt 1\n"] * 2
    job.until(lambda _: job.snapshot().condition("Complete"), PATIENCE)


def test_a_force_deleted_pod_starts_all_nodes_again(send: Send):
    job = send(SLEEP_ONCE)
    victim = running(job, 1, "attempt 0\n")
    job.api.delete(PODS, victim["metadata"]["name"], grace=0)
    assert job.final(PATIENCE).phase is Phase.SUCCEEDED


def test_memory_that_runs_out_on_one_node_is_the_reason(send: Send):
    job = send(WHO + "if rank:\n    b'x' * (1 << 30)\ntime.sleep(300)")
    status = job.final(PATIENCE)
    assert status.reason is not None
    assert status.reason.code == "OutOfMemory"
    assert status.reason.what == "rank 1 ran out of memory"


def test_a_node_that_was_killed_is_tried_again(send: Send):
    job = send(WHO + "if rank and attempt == '0':\n    b'x' * (1 << 30)\nif attempt == '0': time.sleep(300)", retries=1)
    status = job.final(PATIENCE)
    assert status.phase is Phase.SUCCEEDED
    assert status.attempt == 1


def runner_of(pod: Object) -> int:
    """Process 1 of a pod's container, by its number on this machine."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            ours = pod["metadata"]["uid"] in (place / "cgroup").read_text()
            if ours and b"runner.zip" in (place / "cmdline").read_bytes():
                status = (place / "status").read_text()
                if next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == "1":
                    return int(place.name)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    pytest.skip("cluster: its processes are not on this machine")


def test_a_rank_that_is_lost_while_the_others_wait_ends_all_and_is_named(send: Send):
    job = send(WHO + "print('here', flush=True)\ntime.sleep(300)")
    heard: list[JobStatus] = []
    running(job, 0, "here\n")
    victim = running(job, 1, "here\n")
    subscription = job.watch.subscribe(lambda snapshot: heard.append(status_of(snapshot)))
    try:
        os.kill(runner_of(victim), signal.SIGKILL)
        end = job.until(lambda status: status.end.get("code") == "RankLost", PATIENCE).end
        assert end["rank"] == 1
        told = reason_of(end)
        assert "rank 1 was lost" in told.what
        assert "node 1 (rank 1) was lost: its connection broke" in told.why
        assert "--rank 1" in told.next
        # What the cluster knows of its pod says more.
        status = job.until(lambda status: status.phase.final and job.snapshot().condition("Failed"), PATIENCE)
    finally:
        subscription.close()
    assert (status.phase, status.reason and status.reason.code) == (Phase.FAILED, "RunnerKilled")
    assert status.reason is not None
    assert "on node 1 was killed (exit status 137)" in status.reason.what
    lost = job.snapshot().pod(1)
    assert lost is not None
    assert (state(lost, "terminated") or {})["exitCode"] == 137
    reasons = [one.reason for one in heard if one.id == job.id and one.reason]
    assert {reason.code for reason in reasons} <= {"RunnerKilled", "RankLost"}, "nobody deleted a pod"
    assert not any("another attempt" in reason.what for reason in reasons)


def test_a_rank_that_pauses_is_waited_for(send: Send):
    assert send(WHO + "time.sleep(5 * rank)").final(PATIENCE).phase is Phase.SUCCEEDED


def test_a_cancel_ends_all_nodes(send: Send):
    job = send(WHO + "print('attempt', attempt, flush=True)\ntime.sleep(300)")
    running(job, 1, "attempt 0\n")
    ending.cancel(job.api, job.snapshot())
    assert job.final(PATIENCE).phase is Phase.CANCELLED
    job.until(lambda _: job.snapshot().condition("Failed"), PATIENCE)


def test_the_time_out_ends_all_nodes(send: Send):
    job = send(WHO + "if rank: time.sleep(300)", timeout=2.0)
    status = job.final(PATIENCE)
    assert status.reason is not None
    assert status.reason.code == "TimedOut"


# A NetworkPolicy between the nodes; the job is known before it is sent, so its policy is there before its pods


def policy(job: str, *, among_themselves: bool) -> Object:
    """Lets nobody connect to the pods of a job, or only these pods themselves."""
    pods = {"matchLabels": {JOB: job}}
    rules = [{"from": [{"podSelector": pods}]}] if among_themselves else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": job, "labels": ours(job)},
        "spec": {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": rules},
    }


def test_a_policy_that_keeps_the_nodes_apart_is_named(send: Send, made: Made):
    for _ in range(3):  # what enforces it hears of new pods a moment late, and then these have met
        job = send(MEET, join=20.0, before=lambda id: made(POLICIES, policy(id, among_themselves=False)))
        status = job.final(PATIENCE)
        if status.phase is not Phase.SUCCEEDED:
            break
    else:
        pytest.skip("cluster: it does not enforce NetworkPolicies")
    assert status.reason is not None
    assert status.reason.code == BLOCKED
    assert f"{job.id}-0.{job.id}.{job.api.namespace}.svc, port 29470" in status.reason.what
    assert "NetworkPolicy" in status.reason.next
    assert f"kube-nb/job={job.id}" in status.reason.next
    first = job.snapshot().pod()
    assert first is not None
    assert (state(first, "terminated") or {})["exitCode"] == CODES[BLOCKED]
    job.until(lambda _: job.snapshot().condition("Failed"), PATIENCE)
    assert (job.snapshot().condition("Failed") or {})["reason"] == "PodFailurePolicy", "it is not tried again"


def test_a_policy_that_keeps_the_nodes_apart_is_warned_of(cluster: Api, unique: Callable[[str], str], made: Made):
    id = unique("gang")
    two = plan(cluster, id, resources={"nodes": 2})
    made(POLICIES, policy(id, among_themselves=False))
    assert [finding.level for finding in preflight.check(cluster, two) if finding.reason.code == BLOCKED] == ["warning"]
    assert not [finding for finding in preflight.check(cluster, plan(cluster, id)) if finding.reason.code == BLOCKED]
    cluster.patch(POLICIES, id, {"spec": {"ingress": [{}]}})
    assert not [finding for finding in preflight.check(cluster, two) if finding.reason.code == BLOCKED]


def test_a_policy_that_lets_the_nodes_talk_is_enough(send: Send, made: Made):
    job = send(MEET, join=20.0, before=lambda id: made(POLICIES, policy(id, among_themselves=True)))
    assert job.final(PATIENCE).phase is Phase.SUCCEEDED
    assert printed(job, 0) == "rank 0 heard rank 1\n"
