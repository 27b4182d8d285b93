"""Where a job's results lie: what the submit planned is what anybody reads from the Job afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.kept import kept
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.plan import Store
from tests.unit.pod_files import plan_of

SHARED = Store(kind="shared", claim="kube-nb-store")
OWN = Store(kind="own", claim="t-1")
URL = Store(kind="url", url="s3://bucket/dir")


@pytest.mark.parametrize("store", [Store(), SHARED, OWN, URL], ids=lambda store: store.mark)
def test_what_was_planned_is_what_the_job_says(store):
    plan = replace(plan_of("t-1"), store=store)
    assert kept(indexed_job(plan)) == plan.kept


@pytest.mark.parametrize(
    ("store", "stored", "own", "outlives"),
    [
        (Store(), False, False, False),
        (SHARED, True, False, True),
        (OWN, True, True, False),
        (URL, True, False, True),
    ],
    ids=lambda value: value.mark if isinstance(value, Store) else "",
)
def test_what_becomes_of_it_with_the_job(store, stored, own, outlives):
    found = replace(plan_of("t-1"), store=store).kept
    assert (found.stored, found.own, found.outlives) == (stored, own, outlives)


def test_only_who_mounts_a_claim_sees_a_folder_of_the_store():
    plan = plan_of("t-1")
    place = f"jobs/{names.owner_of(plan.user)}/t-1"
    assert replace(plan, store=SHARED).kept.folder == f"/kube-nb/store/{place}"
    assert replace(plan, store=URL).kept.folder == "/kube-nb/run"
    assert replace(plan, store=URL).kept.path == place
    assert plan.kept.folder == "/kube-nb/run"


def test_a_job_that_says_nothing_of_a_store_has_none():
    job = indexed_job(plan_of("t-1"))
    del job["metadata"]["annotations"][names.STORE]
    assert not kept(job).stored
