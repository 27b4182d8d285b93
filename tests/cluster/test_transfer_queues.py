"""A pod that carries files stands in the queue of the job that it carries for, and in no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.connect import user_of
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS
from kube_nb.backends.kubernetes.manifests.claim import claim
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.transfer_pod import TransferPods
from kube_nb.capture.runner_object import runner_object
from kube_nb.spec import Placement
from tests.cluster.conftest import ours
from tests.cluster.small_jobs import plan
from tests.cluster.test_reasons_kueue import group, queue  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow


@pytest.fixture
def pods(cluster: Api, tmp_path) -> TransferPods:
    return TransferPods(cluster, user_of(cluster), lambda: runner_object(tmp_path))


@pytest.fixture
def mounted(cluster: Api, pods: TransferPods, unique) -> Iterator[str]:
    """A claim of the test's own."""
    name = unique("claim")
    cluster.create(CLAIMS, claim(name, ours(name), mode="ReadWriteMany", size=1 << 20))
    yield name
    pods.close(name)


def standing_in(api: Api, name: str) -> Callable[[], dict]:
    return lambda: indexed_job(plan(api, "t-queued", user=user_of(api), placement=Placement(queue=name)))


def test_who_stands_in_one_queue_does_not_wait_for_what_stands_in_another(cluster, pods, mounted, queue):  # noqa: F811
    full, free = queue(stopPolicy="Hold"), queue()
    waiting = pods.ensure(mounted, standing_in(cluster, full))["metadata"]["name"]
    assert cluster.get(JOBS, waiting)["spec"]["suspend"]
    pod = pods.open(mounted, standing_in(cluster, free)).pod
    made = cluster.get(JOBS, pod.rpartition("-")[0])
    assert made["metadata"]["name"] != waiting
    assert "activeDeadlineSeconds" not in made["spec"]
    assert pods.open(mounted, standing_in(cluster, full)).pod == pod, "what runs already serves everybody"
