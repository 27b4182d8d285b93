"""Many jobs, one client: what is asked of the API server does not grow with them, nor with who looks."""

from __future__ import annotations

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from kube_nb.backends.kubernetes.api import JOBS, NODES
from kube_nb.backends.kubernetes.names import selector
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.backends.kubernetes.watch import Watch, read
from tests.cluster.handmade import job
from tests.cluster.test_watch import counting, first_pages, until

COUNT = 1000
PRETENDED = {
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
}


@pytest.fixture
def pretended(admin, request):
    """Nodes in name alone, on which Jobs complete at once."""
    if admin.list(NODES, labels="type=kwok")[0]:
        yield
        return
    lab = request.getfixturevalue("lab")
    lab("addon", "kwok")
    lab("fake-nodes", "2")
    yield
    lab("fake-nodes", "0")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_thousand_jobs_cost_one_client_no_more_requests_than_one(cluster, pretended, unique):
    api = counting(cluster)
    watch = Watch(api, selector())
    ended: dict[str, str] = {}
    names = {unique("many") for _ in range(COUNT)}

    def look(snapshot):
        status = status_of(snapshot)
        if status.phase.final:
            ended[status.id] = status.phase

    followers = [watch.subscribe(look) for _ in range(20)]
    watch.snapshots()
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: cluster.create(JOBS, job(name, pod=PRETENDED)), names))
        until(lambda: names <= ended.keys(), 300)
        assert {ended[name] for name in names} == {"Succeeded"}
        assert len(first_pages(api)) <= 8, f"lists and watches, begun anew where a watch was 5 minutes old: {api.asked}"
        api.asked.clear()
        assert len(read(api, owner=None)) >= COUNT
        assert len(first_pages(api)) <= 3
    finally:
        for follower in followers:
            follower.close()
        watch.close()
    print(f"{memory_of(cluster) / COUNT / 1024:.1f} KiB of memory for each job")


def memory_of(api) -> int:
    """Bytes that a watch keeps of all jobs."""
    gc.collect()
    tracemalloc.start()
    try:
        watch = Watch(api, selector())
        watch.snapshots()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        watch.close()
