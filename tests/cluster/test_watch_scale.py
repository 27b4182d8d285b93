"""Many jobs, one client: what is asked of the API server does not grow with them, nor with who looks."""

from __future__ import annotations

import builtins
import gc
import math
import os
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from kube_nb.backends.base import JobStatus
from kube_nb.backends.kubernetes import backend
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.kinds import EVENTS, JOBS, NODES
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.names import selector
from kube_nb.backends.kubernetes.session import WARNINGS
from kube_nb.backends.kubernetes.snapshot import Snapshot
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.backends.kubernetes.watch import Watch, read
from kube_nb.client import Client
from kube_nb.errors import NotFound
from kube_nb.spec import Phase, Placement
from tests.cluster.audit import Audit, audited
from tests.cluster.small_jobs import plan
from tests.cluster.test_watch import counting, first_pages

pytestmark = pytest.mark.alone

COUNT = int(os.environ.get("KUBE_NB_TEST_JOBS", "1000"))
FOLLOWERS = 20
CONSTANT = 8
"""A list and a watch of Jobs, pods and warnings, and two watches that are begun anew after their five minutes."""
PRETENDED = Placement(node_selector={"type": "kwok"})
TOLERATED = ({"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"},)


@pytest.fixture(scope="module")
def pretended(admin, lab):
    """Nodes in name alone, on which pods end well at once, without a container, a log or a last word."""
    if admin.list(NODES, labels="type=kwok")[0]:
        yield
        return
    lab("addon", "kwok")
    lab("fake-nodes", "10")
    yield
    lab("fake-nodes", "0")


@pytest.fixture
def client(cluster, tmp_path, monkeypatch) -> Client:
    """One who has asked this cluster for nothing yet."""
    copy = tmp_path / "kubeconfig"
    copy.write_text(Path(os.environ["KUBECONFIG"]).read_text())
    monkeypatch.setenv("KUBECONFIG", str(copy))
    return Client(on=yaml.safe_load(copy.read_text())["current-context"])


@pytest.fixture
def audit(unique):
    """What this process asks."""
    try:
        with audited(f"kube-nb {unique('agent')}") as audit:
            yield audit
    except LookupError as error:
        pytest.skip(f"cluster: {error}")


def make(api: Api, ids: list[str]) -> None:
    """Jobs as a submit makes them, on pretended nodes."""

    def one(id: str) -> None:
        api.create(JOBS, indexed_job(plan(api, id, placement=PRETENDED, tolerations=TOLERATED)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, ids))


class Ends:
    """The last that was told of each job, until all have ended."""

    def __init__(self, ids: list[str]) -> None:
        self.told: Counter[str] = Counter()
        self.phases: dict[str, Phase] = {}
        self._ids = set(ids)
        self._all = threading.Event()

    def hear(self, status: JobStatus) -> None:
        if status.id in self._ids:
            self.told[status.id] += 1
            if status.phase.final:
                self.phases[status.id] = status.phase
                if len(self.phases) == len(self._ids):
                    self._all.set()

    def wait(self, seconds: float) -> bool:
        return self._all.wait(seconds)


def warnings_of(api: Api) -> int:
    return len(api.list(EVENTS, fields=WARNINGS)[0])


def asked(audit: Audit) -> Counter[str]:
    """Requests that only look."""
    return Counter(str(one) for one in audit.requests() if one.verb in ("get", "list", "watch"))


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_thousand_jobs_cost_one_client_no_more_requests_than_one(cluster, pretended, unique, client, audit):
    ids = [unique("many") for _ in range(COUNT)]
    ends = Ends(ids)
    followers = [client.backend.subscribe(ends.hear)]
    followers += [client.backend.subscribe(lambda status: None) for _ in range(FOLLOWERS)]
    began = time.monotonic()
    make(cluster, ids)
    made = time.monotonic()
    assert ends.wait(400), f"{COUNT - len(ends.phases)} jobs have not ended: {asked(audit)}"
    took = time.monotonic()
    looked = asked(audit)
    for follower in followers:
        follower.close()
    print(f"{COUNT} jobs made in {made - began:.0f} s, all ended {took - made:.0f} s later; {dict(looked)}")
    assert set(ends.phases.values()) == {Phase.SUCCEEDED}
    pages = looked.pop("list events", 0)  # of the namespace's last hour, whoever made them
    assert pages <= 2 * (1 + math.ceil(warnings_of(cluster) / 500))
    assert looked.total() <= CONSTANT + math.ceil(COUNT / 500), looked
    print(f"each was told of {ends.told.total() / COUNT:.1f} times")


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_thousand_jobs_are_read_page_by_page(cluster, pretended, unique):
    make(cluster, [unique("page") for _ in range(COUNT)])
    api = counting(cluster)
    assert len(read(api)) >= COUNT
    assert len(first_pages(api)) <= 3
    print(f"{memory_of_a_job(cluster) / 1024:.1f} KiB of memory for each job")


@pytest.mark.slow
def test_a_job_whose_log_nobody_can_show_gives_no_result_rather_than_an_empty_one(cluster, pretended, unique, client):
    id = unique("mute")
    make(cluster, [id])
    job = client.job(id).wait(60)
    assert job.phase is Phase.SUCCEEDED, "the cluster says so"
    assert "are lost" in "".join(job.logs())
    with pytest.raises(NotFound):
        job.result()


def test_a_status_is_worked_out_once_for_all_who_follow(cluster, unique, client, monkeypatch):
    judged: list[Snapshot] = []
    monkeypatch.setattr(backend, "status_of", lambda snapshot: judged.append(snapshot) or status_of(snapshot))
    id = unique("shared")
    heard = [threading.Event() for _ in range(FOLLOWERS)]
    followers = [
        client.backend.subscribe(lambda status, one=one: one.set() if status.id == id else None) for one in heard
    ]
    make(cluster, [id])
    assert all(one.wait(30) for one in heard)
    for follower in followers:
        follower.close()
    assert max(Counter(map(builtins.id, judged)).values()) == 1


def memory_of_a_job(api: Api) -> float:
    """Bytes that a watch keeps of a job, its pod and its warnings."""
    gc.collect()
    tracemalloc.start()
    try:
        watch = Watch(api, selector())
        number = len(watch.snapshots())
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / number
    finally:
        tracemalloc.stop()
        watch.close()
