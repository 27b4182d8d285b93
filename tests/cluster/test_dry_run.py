"""A dry run says what the submit does, and makes nothing in the cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube_nb.backends.kubernetes import names, planning
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS
from kube_nb.backends.kubernetes.manifests.claim import shared_claim
from kube_nb.capture.work import Work
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import Refused
from kube_nb.jobs.card import snapshot
from kube_nb.jobs.submit import DryRun, Plan
from kube_nb.spec import Task
from tests.cluster.made import set_quota
from tests.conformance.backends import CLUSTER

LARGE = 3_000_000


def client_of(state: Path, store: str = "none", **options: Any) -> Client:
    settings = Settings.load(environ={"KUBE_NB_STATE_DIR": str(state), "KUBE_NB_STORE": store})
    return Client(settings=settings, **{"on": CLUSTER.on, "image": "lab/python:3.11", "cpu": "0.1", **options})


def planned(client: Client, size: int) -> Plan:
    names = {"data": os.urandom(size), "__name__": "__main__"}
    return client.plan(Work(source="print(len(data))", namespace=names, task=Task(label="Cell In[1]")))


def job_of(found: DryRun) -> dict[str, Any]:
    return next(one for one in yaml.safe_load_all(found.manifests) if one["kind"] == "Job")


def volumes(job: dict[str, Any]) -> list[str]:
    found = job["spec"]["template"]["spec"]["volumes"]
    return [one["persistentVolumeClaim"]["claimName"] for one in found if "persistentVolumeClaim" in one]


def claims(found: DryRun) -> list[str]:
    """The claims that the submit would make."""
    shown = yaml.safe_load_all(found.manifests)
    return [one["metadata"]["name"] for one in shown if one["kind"] == "PersistentVolumeClaim"]


def memory(job: dict[str, Any]) -> int:
    return int(job["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"])


@pytest.mark.lab
@pytest.mark.usefixtures("shared_store")
@pytest.mark.parametrize("size", [10, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("store", ["none", f"claim:{names.STORE_CLAIM}", "auto"])
def test_a_dry_run_shows_the_job_that_the_submit_makes(cluster: Api, state_dir: Path, store: str, size: int):
    client = client_of(state_dir, store)
    plan = planned(client, size)
    shown = job_of(plan.dry_run())
    assert cluster.find(JOBS, plan.spec.id) is None
    assert not (state_dir / "bundles" / plan.spec.id).exists()
    job = plan.submit()
    try:
        made = cluster.get(JOBS, job.id)
        noted = (names.STORE, names.TRANSPORT)
        assert [made["metadata"]["annotations"][name] for name in noted] == [
            shown["metadata"]["annotations"][name] for name in noted
        ]
        assert volumes(made) == volumes(shown)
        assert memory(made) == memory(shown) == 2 << 30
    finally:
        client.delete(job)


def test_a_dry_run_says_how_what_is_sent_gets_there_and_why_there_is_no_store(cluster: Api, state_dir: Path):
    rows = dict(planned(client_of(state_dir), LARGE).dry_run().rows)
    assert "straight to the waiting pod" in rows["ships"]
    assert "the setting `store` is `none`" in rows["store"]
    assert rows["asks"] == "memory 2 GiB, 0.1 cores"


@pytest.fixture
def elsewhere(own_tenant: Api, state_dir: Path) -> Callable[..., Client]:
    """Makes the tenant's clients of a namespace of the test's own."""
    return lambda store="none": client_of(state_dir, store, on=f"{CLUSTER.on}/{own_tenant.namespace}")


def test_where_a_shared_store_is_yet_to_be_tried_a_dry_run_says_so_and_makes_none(own_namespace, elsewhere):
    found = planned(elsewhere("auto"), LARGE).dry_run()
    assert "tries first" in dict(found.rows)["store"]
    assert volumes(job_of(found)) == claims(found) == [names.STORE_CLAIM]
    assert own_namespace.list(CLAIMS)[0] == []
    assert own_namespace.list(JOBS)[0] == []


def test_a_shared_claim_that_is_there_is_none_that_the_submit_makes(own_tenant, elsewhere):
    own_tenant.create(CLAIMS, shared_claim({}, size=1 << 20, storage_class="none"))
    found = planned(elsewhere("auto"), LARGE).dry_run()
    assert volumes(job_of(found)) == [names.STORE_CLAIM]
    assert claims(found) == []


def test_the_memory_that_is_asked_for_by_itself_follows_from_what_is_shipped(elsewhere, monkeypatch):
    monkeypatch.setattr(planning, "LEAST_MEMORY", 1 << 20)
    found = planned(elsewhere(), LARGE).dry_run()
    assert 3 * LARGE < memory(job_of(found)) < 4 * LARGE
    assert dict(found.rows)["asks"].startswith("memory 8.")


def test_what_a_quota_cannot_hold_is_refused_by_its_real_size_and_nothing_is_made(
    own_namespace, elsewhere, monkeypatch
):
    monkeypatch.setattr(planning, "LEAST_MEMORY", 1 << 20)
    set_quota(own_namespace, "q", **{"limits.memory": "4Mi"})
    client = elsewhere()
    large = planned(client, LARGE)
    for send in (large.dry_run, large.submit):
        with pytest.raises(Refused) as refused:
            send()
        assert [found.reason.code for found in refused.value.findings if found.level == "error"] == ["QuotaTooSmall"]
    assert client.journal.ids() == []
    assert own_namespace.list(JOBS)[0] == []
    assert memory(job_of(planned(client, 10).dry_run())) == 1 << 20


@pytest.mark.lab
def test_the_card_of_a_job_tells_what_its_pods_were_given(cluster: Api, state_dir: Path):
    client = client_of(state_dir, gpus=1)
    job = planned(client, 10).submit()
    try:
        assert "asks      memory 2 GiB, 0.1 cores, 1 nvidia.com/gpu" in snapshot(job).text()
    finally:
        client.delete(job)


@pytest.mark.parametrize(("days", "seconds"), [("7", 7 * 86400), ("0.5", 43200), ("0.001", 3600)])
def test_an_ended_job_stays_as_long_as_the_settings_say_and_an_hour_at_least(
    cluster: Api, state_dir: Path, monkeypatch: pytest.MonkeyPatch, days: str, seconds: int
):
    monkeypatch.setenv("KUBE_NB_RETENTION_DAYS", days)
    client = Client(on=CLUSTER.on, image="lab/python:3.11", cpu="0.1")
    assert job_of(planned(client, 10).dry_run())["spec"]["ttlSecondsAfterFinished"] == seconds
