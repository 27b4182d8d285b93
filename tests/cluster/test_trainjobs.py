"""`--via trainjob`: Kubeflow Trainer runs the same Job; what watches, reads, cancels and deletes it stays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from kube_nb.backends.kubernetes import addons, ending, examine, submit
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.kinds import JOBS, PODS, SECRETS, SERVICES
from kube_nb.backends.kubernetes.manifests.trainjob import RUNTIMES, TRAIN_JOBS
from kube_nb.backends.kubernetes.names import JOB
from kube_nb.backends.kubernetes.watch import Watch
from kube_nb.spec import Phase, Placement, Policy
from tests.cluster.handmade import Seen
from tests.cluster.small_jobs import plan
from tests.cluster.test_gangs import MEET, PATIENCE, SLEEP_ONCE, WHO, printed, running
from tests.cluster.users import applied, user
from tests.conformance.sending import until
from tests.unit.pod_files import make_bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

VIA = Placement(via="trainjob")


@pytest.fixture
def send(cluster: Api, watch: Watch, unique: Callable[[str], str], tmp_path: Path) -> Iterator[Callable[..., Seen]]:
    """Submits a job of small nodes through Trainer."""
    if addons.kind(cluster, "trainer.kubeflow.org", "trainjobs") is None:
        pytest.skip("cluster: it has no Kubeflow Trainer")
    sent: list[str] = []

    def make(code: str, *, nodes: int = 1, retries: int = 0, timeout: float | None = None) -> Seen:
        id = unique("via")
        policy = Policy(retries=retries, timeout=timeout, grace=2)
        told = {"retries": retries, "timeout": timeout, "grace": 2.0, "nodes": nodes}
        bundle = make_bundle(tmp_path / id, code, job=id, **told)
        wanted = plan(
            cluster,
            id,
            resources={"nodes": nodes},
            policy=policy,
            placement=VIA,
            memory=128 << 20,
            digest=bundle.digest,
        )
        job = submit.create(cluster, wanted, bundle)
        watch.remember(job)
        sent.append(id)
        again = submit.create(cluster, wanted, bundle)
        assert again["metadata"]["uid"] == job["metadata"]["uid"]
        return Seen(cluster, watch, id)

    yield make
    for id in sent:
        cluster.delete(TRAIN_JOBS, id)


def test_it_runs_the_job_and_all_of_it_goes(send, cluster: Api, watch: Watch):
    job = send("print('hello')")
    assert job.final(PATIENCE).phase is Phase.SUCCEEDED
    assert printed(job, 0) == "hello\n"
    ending.delete(cluster, watch, job.snapshot())
    kinds = (JOBS, PODS, SECRETS, SERVICES, TRAIN_JOBS, RUNTIMES)
    assert not [found for kind in kinds for found in cluster.list(kind, labels=f"{JOB}={job.id}")[0]]


def test_two_nodes_meet(send):
    job = send(MEET, nodes=2)
    assert job.final(PATIENCE).phase is Phase.SUCCEEDED
    assert printed(job, 0) == "rank 0 heard rank 1\n"


def test_an_error_is_told_as_ever(send):
    status = send("x = 1\n1 / 0").final(PATIENCE)
    assert status.reason is not None
    assert status.reason.what == "the code raised ZeroDivisionError in Cell In[5], line 2"


def test_a_failure_is_tried_again(send):
    job = send(WHO + "print('attempt', attempt)\nif attempt == '0': 1 / 0", retries=1)
    assert job.final(PATIENCE).phase is Phase.SUCCEEDED
    assert printed(job, 0) == "attempt 1\n"


def test_a_deleted_pod_is_replaced(send):
    job = send(SLEEP_ONCE)
    victim = running(job, 0, "attempt 0\n")
    job.api.delete(PODS, victim["metadata"]["name"])
    assert job.final(PATIENCE).phase is Phase.SUCCEEDED


def test_a_cancel_ends_it(send):
    job = send(SLEEP_ONCE)
    running(job, 0, "attempt 0\n")
    ending.cancel(job.api, job.snapshot())
    assert job.final(PATIENCE).phase is Phase.CANCELLED


def test_the_time_out_ends_it(send):
    status = send("import time; time.sleep(300)", timeout=1.0).final(PATIENCE)
    assert status.reason is not None
    assert status.reason.code == "TimedOut"


def test_nothing_is_left_where_a_runtime_cannot_be_given_to_its_trainjob(
    cluster: Api, admin: Api, unique: Callable[[str], str], tmp_path: Path
):
    if addons.kind(cluster, "trainer.kubeflow.org", "trainjobs") is None:
        pytest.skip("cluster: it has no Kubeflow Trainer")
    id = unique("via")
    bundle = make_bundle(tmp_path / id, "print(1)", job=id)
    with user(admin, tmp_path) as somebody:
        granted = list(yaml.safe_load_all(examine.grant(somebody.api, somebody.name)))
        for rule in (
            rule for one in granted for rule in one.get("rules", ()) if "trainingruntimes" in rule["resources"]
        ):
            rule["verbs"].remove("patch")
        with applied(admin, yaml.safe_dump_all(granted), suffix=f"-{somebody.context}"):
            wanted = plan(somebody.api, id, placement=VIA, memory=128 << 20, digest=bundle.digest)
            with pytest.raises(ApiError, match="cannot patch resource"):
                submit.create(somebody.api, wanted, bundle)
    until(lambda: cluster.find(TRAIN_JOBS, id) is None, 60, "the TrainJob goes")
    assert cluster.find(RUNTIMES, id) is None
    assert cluster.find(SECRETS, id) is None
