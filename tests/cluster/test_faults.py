"""The cluster itself breaks: a node that is not heard of, an API server that stops. Slow, and alone: all else that uses
the cluster feels it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.kinds import JOBS, NODES, PODS
from kube_nb.backends.kubernetes.names import JOB
from kube_nb.backends.kubernetes.snapshot import condition, node_of
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.client import Client
from kube_nb.errors import Unreachable
from kube_nb.spec import Phase
from tests.cluster.handmade import FOREVER, STOPS, job
from tests.cluster.test_submit import left
from tests.conformance.backends import CLUSTER
from tests.conformance.gate import Gate
from tests.conformance.kernel import own_kernel
from tests.conformance.sending import code, running, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.alone, pytest.mark.lab]

NODE = "node2"
OWN = "lab.test/gang"
QUICK = [
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 15}
    for state in ("not-ready", "unreachable")
]


@pytest.fixture(scope="module")
def emptied(admin, cluster) -> None:
    """Add-ons leave the node: without their webhooks, nothing of theirs could be made while it is away."""
    admin.patch(NODES, NODE, {"spec": {"unschedulable": True}})
    try:
        for pod in addons_on_the_node(admin):
            replace(admin, namespace=pod["metadata"]["namespace"]).delete(PODS, pod["metadata"]["name"])
        until(lambda: not addons_on_the_node(admin), 120)
        until(lambda: jobs_can_be_made(cluster), 120)
    finally:
        admin.patch(NODES, NODE, {"spec": {"unschedulable": False}})


def addons_on_the_node(admin) -> list[Object]:
    pods = admin.raw(f"/api/v1/pods?fieldSelector=spec.nodeName={NODE}")["items"]
    return [pod for pod in pods if pod["metadata"].get("ownerReferences", [{}])[0].get("kind") == "ReplicaSet"]


def jobs_can_be_made(cluster) -> bool:
    try:
        cluster.create(JOBS, job("t-dry"), dry_run=True)
    except ApiError:
        return False
    return True


@pytest.fixture
def healthy(lab, admin, emptied):
    """Waits until the node is as it was."""
    yield
    lab("node", "start", NODE)
    until(lambda: condition(admin.get(NODES, NODE), "Ready"), 90)


def on_the_node(**more: object) -> dict:
    return {"nodeSelector": {"kubernetes.io/hostname": NODE}, "tolerations": QUICK, **more}


def test_a_node_that_comes_back_in_time_is_told_and_forgotten(lab, healthy, by_hand, admin):
    seen = by_hand("back", FOREVER, pod=on_the_node(tolerations=[]))
    seen.running()
    lab("node", "stop", NODE)
    status = seen.reason("NodeLost", 90)
    assert status.phase == "Running"
    assert NODE in status.reason.what
    assert condition(admin.get(NODES, NODE), "Ready", "Unknown"), "the cluster does not hear of it"
    (pod,) = seen.snapshot().pods
    assert condition(pod, "Ready", "False")
    assert "deletionTimestamp" not in pod["metadata"], "it has time"
    lab("node", "start", NODE)
    assert seen.until(lambda status: status.phase == "Running" and status.reason is None, 60).attempt == 0
    (same,) = seen.snapshot().pods
    assert same["metadata"]["uid"] == pod["metadata"]["uid"]
    assert condition(same, "Ready")


def test_a_job_on_a_node_that_is_gone_for_good_is_given_up_and_nothing_of_it_is_left(lab, healthy, cluster):
    client = Client(CLUSTER.on, image="lab/python:3.11", cpu="0.05", memory="128Mi")
    there = client.options(node_selector={"kubernetes.io/hostname": NODE})
    sleeps = "import time\nprint('ready', flush=True)\ntime.sleep(600)"
    at_once, after_a_cancel = jobs = [there.cell(sleeps, {"__name__": "__main__"}) for _ in range(2)]
    for one in jobs:
        running(one)
    lab("node", "stop", NODE)
    until(lambda: all(code(one) == "NodeLost" for one in jobs), 90)
    at_once.cancel(force_lost=True)
    after_a_cancel.cancel()
    assert after_a_cancel.wait(60).phase is Phase.CANCELLED
    assert cluster.list(PODS, labels=f"{JOB}={after_a_cancel.id}")[0], "its node does not let it go"
    after_a_cancel.cancel(force_lost=True)
    for one in jobs:
        assert one.wait(60).phase is Phase.CANCELLED
        until(lambda one=one: not cluster.list(PODS, labels=f"{JOB}={one.id}")[0], 30)
    lab("node", "start", NODE)  # where what they left in the store is removed
    for one in jobs:
        client.delete(one)
        assert left(cluster, one.id) == []


def test_a_node_that_stays_away_is_waited_for_and_the_job_goes_on_elsewhere(lab, healthy, by_hand, admin):
    seen = by_hand("lost", STOPS, pod={"affinity": prefers(NODE), "tolerations": QUICK})
    seen.running()
    assert seen.snapshot().pods[0]["spec"]["nodeName"] == NODE
    lab("node", "stop", NODE)
    seen.until(lambda status: "DeletionByTaintManager" in str(seen.snapshot().pods[0]["status"]), 120)
    status = status_of(seen.snapshot())
    assert (status.phase, status.reason.code) == ("Running", "NodeLost")
    assert "--force-lost" in status.reason.next
    lab("node", "start", NODE)
    status = seen.until(lambda status: status.attempt == 1 and status.phase == "Running", 120)
    assert status.reason is None


def test_a_job_of_several_machines_begins_again_where_one_was_lost(lab, healthy, cluster, tmp_path):
    """A machine that is gone: its kubelet is not heard of, and nothing on it says a word."""
    apart = tmp_path / "apart.yaml"
    gang = f"gang-{secrets.token_hex(4)}"  # what an earlier try has left keeps nobody from its place
    ours = {"labelSelector": {"matchLabels": {OWN: gang}}, "topologyKey": "kubernetes.io/hostname"}
    pod = {
        "tolerations": QUICK,
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [ours]}},
    }
    patch = {"spec": {"template": {"metadata": {"labels": {OWN: gang}}, "spec": pod}}}
    apart.write_text(yaml.safe_dump(patch))
    client = Client(CLUSTER.on, image="lab/python:3.11", cpu="0.1", memory="256Mi")
    source = "import os, time\nprint('attempt', n := os.environ['KUBE_NB_ATTEMPT'], flush=True)\nif n == '0': time.sleep(600)"
    job = client.options(nodes=2, patch=[str(apart)]).cell(source, {"__name__": "__main__"})
    processes: list[psutil.Process] = []
    try:
        running(job, "attempt 0")
        pods = cluster.list(PODS, labels=f"{JOB}={job.id}")[0]
        lost = next(pod for pod in pods if pod["spec"]["nodeName"] == NODE)
        processes = processes_of(job.id, node_of(lost))
        assert processes
        lab("node", "stop", NODE)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # e.g. one that looked after the store
                process.suspend()
        until(lambda: code(job) == "NodeLost", 120)
        assert NODE in job.reason.what
        other = next(pod for pod in pods if pod is not lost)
        until(lambda: cluster.find(PODS, other["metadata"]["name"]) is None or ended(cluster, other), 90)
        assert not job.phase.final, "it is waited for"
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        lab("node", "start", NODE)
    assert job.wait(240).phase is Phase.SUCCEEDED, job.reason
    assert "attempt 1" in "".join(job.logs())
    client.delete(job)


def processes_of(job: str, node: int) -> list[psutil.Process]:
    """What runs in the pod of a node of a job, wherever on this machine."""

    def of_it(process: psutil.Process) -> bool:
        try:
            environ = process.environ()
        except psutil.Error:
            return False
        return environ.get("HOSTNAME", "").startswith(f"{job}-{node}") and "KUBERNETES_SERVICE_HOST" in environ

    return [process for process in psutil.process_iter() if of_it(process)]


def ended(cluster, pod: Object) -> bool:
    return cluster.get(PODS, pod["metadata"]["name"])["status"]["phase"] in ("Failed", "Succeeded")


def prefers(node: str) -> dict:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    term = {"weight": 100, "preference": {"matchExpressions": [expression]}}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}


COUNTS = """
import socket
door = socket.create_connection({address!r})
door.settimeout(0.05)
lines = 0
while True:
    print("line", lines, flush=True)
    lines += 1
    try:
        door.recv(1)
        break
    except TimeoutError:
        pass
"""


def test_an_api_server_that_stops_and_starts_costs_no_line_and_no_result(lab, cluster, monkeypatch):
    """Its jobs run on: who sent one from a notebook, and who waits for it elsewhere, miss nothing."""
    monkeypatch.setenv("KUBE_NB_ON", CLUSTER.on)
    gate = Gate(CLUSTER.address)
    with own_kernel() as kernel, ThreadPoolExecutor() as beside:
        shown = kernel.shell.frontend

        def outage() -> tuple[str, Phase]:
            """What the card said meanwhile, and how somebody else saw the job end."""
            try:
                until(lambda: "line 20\n" in shown.cell.text)
                end = beside.submit(Client().job().wait, 240)
                with stopped_server(lab, cluster):
                    told, seen = shown.cell.card, shown.cell.text.count("\n")
                until(lambda: shown.cell.text.count("\n") > seen + 100)
            finally:
                gate.open()
            return told, end.result().phase

        happened = beside.submit(outage)
        kernel.send(COUNTS.format(address=gate.address), "--image lab/python:3.11 --cpu 0.1")
        told, phase = happened.result()
        assert "Running" in told, "the last that was known"
        assert kernel.text == "".join(f"line {number}\n" for number in range(kernel["lines"]))
        assert "Succeeded" in kernel.card
        assert phase is Phase.SUCCEEDED
        assert "".join(kernel.job.logs()) == kernel.text
        Client().delete(kernel.job)
    gate.close()


@contextmanager
def stopped_server(lab, cluster) -> Iterator[None]:
    """Nobody answers in the meantime, and whoever listened is cut off."""
    os.kill(process_of("kube-apiserver"), signal.SIGKILL)  # one that is asked to end serves watches for a while
    try:
        until(lambda: not answers(cluster), 15)
        yield
    finally:
        lab("up")  # starts what is missing
        until(lambda: answers(cluster), 60)


def answers(cluster) -> bool:
    try:
        cluster.find(JOBS, "nobody")
    except Unreachable:
        return False
    return True


def process_of(component: str) -> int:
    """The process id that the lab has written down."""
    run = Path(os.environ["LAB_ADMIN_KUBECONFIG"]).parent
    return int((run / "pids" / component).read_text().split()[0])
