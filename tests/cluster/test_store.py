"""Every job gets the best store that its namespace can have, and what needs one goes there and comes back."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes import kinds, names, store
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.connect import user_of
from kube_nb.backends.kubernetes.fetch import fetch
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, PODS, SECRETS
from kube_nb.backends.kubernetes.manifests import transfer
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.names import owner_of
from kube_nb.backends.kubernetes.plan import JobPlan, Store
from kube_nb.backends.kubernetes.snapshot import state
from kube_nb.backends.kubernetes.transfer import Container
from kube_nb.backends.kubernetes.transfer_pod import NoPod
from kube_nb.backends.kubernetes.upload import Uploads
from kube_nb.errors import Corrupted, NotFound, Refused
from kube_nb.events import Event
from kube_nb.spec import Placement, new_job_id
from tests.cluster.alone import gone
from tests.cluster.cells import IN_POD, Place, read_all
from tests.cluster.made import set_quota
from tests.cluster.small_jobs import ended, plan, pod_when
from tests.unit.pod_files import make_bundle

pytestmark = pytest.mark.lab
SIZE = int(os.environ.get("KUBE_NB_TEST_MB", "64")) * 1_000_000
NO_IMAGE = "10.200.0.1:5000/lab/no-such-image:1"


class Counting(Api):
    """Counts what is asked."""

    asked: list[str]

    def _transport(self, method, path, *rest):
        self.asked.append(f"{method} {path.partition('?')[0]}")
        return super()._transport(method, path, *rest)


def counting(api: Api) -> Counting:
    counted = Counting(api.client, api.namespace, api.server)
    counted.asked = []
    return counted


def a_plan(api: Api, **details):
    return plan(api, new_job_id("t-store"), user=user_of(api), **details)


# Which store ------------------------------------------------------------------------------------------------------------


def test_a_claim_for_many_nodes_is_made_once_and_proven_for_everybody(alone, fresh):
    first = fresh("a").stores.choose(a_plan(alone))
    assert (first.kind, first.claim) == ("shared", names.STORE_CLAIM)
    assert names.PROVEN in alone.get(CLAIMS, names.STORE_CLAIM)["metadata"]["annotations"]
    other = fresh("b")
    other.stores._api = counting(alone)
    assert other.stores.choose(a_plan(alone)).kind == "shared"
    assert len(other.stores._api.asked) == 1, other.stores._api.asked


def test_a_shared_claim_that_was_removed_is_made_and_proven_anew(alone, fresh):
    here = fresh()
    here.stores.choose(a_plan(alone))
    here.stores.pods.close(names.STORE_CLAIM)
    alone.delete(CLAIMS, names.STORE_CLAIM)
    gone(alone, CLAIMS)
    assert here.stores.choose(a_plan(alone)).kind == "shared"
    assert names.PROVEN in alone.get(CLAIMS, names.STORE_CLAIM)["metadata"]["annotations"]


def test_disks_of_one_node_are_for_jobs_of_one_node(alone, fresh):
    here = fresh(storage_class="block")
    chosen = here.stores.choose(a_plan(alone))
    assert chosen.kind == "own"
    assert "ReadWriteOnce" in chosen.why
    gone(alone, CLAIMS)
    gone(alone, JOBS)
    two = a_plan(alone, resources={"nodes": 2})
    assert here.stores.choose(two).kind == "none"
    with pytest.raises(Refused, match="2 nodes"):
        here.stores.choose(two, needed=True)


def test_that_no_claim_can_be_shared_is_remembered(alone, fresh):
    here = fresh(storage_class="block")
    here.stores.choose(a_plan(alone))
    here.stores._api = counting(alone)
    assert here.stores.choose(a_plan(alone)).kind == "own"
    assert len(here.stores._api.asked) == 1


def test_without_storage_there_is_no_store(alone, fresh):
    chosen = fresh(storage_class="no-such-class").stores.choose(a_plan(alone))
    assert chosen.kind == "none"
    assert "no-such-class" in chosen.why
    gone(alone, CLAIMS)
    gone(alone, JOBS)


def test_what_is_said_of_an_earlier_claim_is_not_said_of_its_successor(alone, fresh, admin, monkeypatch):
    """The cluster's word on a claim that is gone may come when the next one of its name is there."""
    late = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    of = {"kind": "PersistentVolumeClaim", "name": names.STORE_CLAIM, "namespace": alone.namespace, "uid": "of-another"}
    replace(admin, namespace=alone.namespace).create(
        kinds.EVENTS,
        {
            "apiVersion": kinds.EVENTS.version,
            "kind": "Event",
            "metadata": {"name": new_job_id("t-said")},
            "type": "Warning",
            "reason": "ProvisioningFailed",
            "message": 'storageclass.storage.k8s.io "no-such-class" not found',
            "involvedObject": of,
            "lastTimestamp": late,
        },
    )
    monkeypatch.setattr(store, "PROOF", 10.0)
    assert fresh().stores.choose(a_plan(alone, image=NO_IMAGE)).kind == "own", "a claim can be had"


def test_a_quota_without_claims_leaves_a_job_without_a_store(alone, fresh, admin):
    own = replace(admin, namespace=alone.namespace)
    set_quota(own, "none", persistentvolumeclaims="0")
    try:
        chosen = fresh().stores.choose(a_plan(alone))
    finally:
        own.delete(kinds.QUOTAS, "none")
    assert chosen.kind == "none"
    assert "quota" in chosen.why


def test_the_setting_says_which(alone, fresh):
    assert fresh("a", store="none").stores.choose(a_plan(alone)).kind == "none"
    with pytest.raises(Refused, match="no-such-claim"):
        fresh("b", store="claim:no-such-claim").stores.choose(a_plan(alone))
    assert fresh("c", store="s3://bucket/dir").stores.choose(a_plan(alone)).mark == "s3://bucket/dir"
    with pytest.raises(Refused, match="every machine"):
        fresh("f", store="file:///tmp/x").stores.choose(a_plan(alone))
    with pytest.raises(Refused, match="no-such-protocol"):
        fresh("e", store="no-such-protocol://bucket/dir").stores.choose(a_plan(alone))
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "mine"}}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    alone.create(CLAIMS, body | {"spec": spec})
    named = fresh("d", store="claim:mine").stores
    assert named.choose(a_plan(alone)).mark == "claim:mine"
    with pytest.raises(Refused, match="ReadWriteOnce"):
        named.choose(a_plan(alone, resources={"nodes": 2}))


# Transfer pods ----------------------------------------------------------------------------------------------------------


def job_for(here: Place) -> Callable[[], dict]:
    store = Store(kind="shared", claim=names.STORE_CLAIM)
    return lambda: indexed_job(a_plan(here.api, store=store))


def test_everybody_of_a_user_uses_the_same_pod(alone, fresh):
    here, other = fresh("a"), fresh("a")
    here.stores.choose(a_plan(alone))
    opened: list[str] = []

    def open_one(stores) -> None:
        opened.append(stores.pods.open(names.STORE_CLAIM, job_for(here)).pod)

    here.stores.pods.close(names.STORE_CLAIM)
    threads = [threading.Thread(target=open_one, args=(one.stores,)) for one in (here, other) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    assert len(set(opened)) == 1


def test_a_pod_that_goes_is_replaced(alone, fresh):
    here = fresh()
    here.stores.choose(a_plan(alone))
    pods = here.stores.pods
    first = pods.open(names.STORE_CLAIM, job_for(here))
    alone.delete(PODS, first.pod)
    second = pods.open(names.STORE_CLAIM, job_for(here))
    assert second.pod != first.pod
    pods.close(names.STORE_CLAIM)
    third = pods.use(names.STORE_CLAIM, job_for(here), lambda container: (container.tool("usage").output(), container))
    assert third[1].pod != second.pod
    assert "jobs" in json.loads(third[0])


def test_nobody_waits_for_a_pod_in_a_queue_that_is_not_theirs(alone, fresh):
    here = fresh()
    here.stores.choose(a_plan(alone))
    pods = here.stores.pods
    pods.close(names.STORE_CLAIM)
    waiting = pods.ensure(names.STORE_CLAIM, lambda: indexed_job(a_plan(alone, placement=Placement(queue="full"))))
    alone.patch(JOBS, waiting["metadata"]["name"], {"spec": {"suspend": True}})  # as Kueue does until there is room
    there = pods.open(names.STORE_CLAIM, job_for(here))
    assert not there.pod.startswith(waiting["metadata"]["name"])


def test_an_image_that_cannot_be_pulled_takes_the_shared_store_from_nobody_else(alone, fresh, monkeypatch):
    here = fresh()
    monkeypatch.setattr(store, "PROOF", 30.0)
    assert here.stores.choose(a_plan(alone, image=NO_IMAGE)).kind == "own"
    gone(alone, JOBS)
    gone(alone, SECRETS)
    assert here.stores.choose(a_plan(alone, image=NO_IMAGE)).kind == "own"
    assert not alone.list(JOBS)[0], "the same was tried again"
    monkeypatch.undo()
    assert here.stores.choose(a_plan(alone)).kind == "shared"


def test_a_killed_kernel_whose_image_cannot_be_pulled_keeps_nobody_from_the_store(alone, fresh, monkeypatch):
    here = fresh()
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "LIMIT", 15)
        here.stores.pods.ensure(names.STORE_CLAIM, lambda: indexed_job(a_plan(alone, image=NO_IMAGE)))
    assert here.stores.choose(a_plan(alone)).kind == "shared"
    working = here.stores.pods.open(names.STORE_CLAIM, job_for(here)).pod.rpartition("-")[0]
    gone(alone, JOBS, besides=working)


def test_the_limit_of_a_pod_that_does_not_run_is_none_of_one_that_does(alone, fresh):
    here = fresh()
    here.stores.choose(a_plan(alone))
    pods = here.stores.pods
    pods.close(names.STORE_CLAIM)
    made = pods.ensure(names.STORE_CLAIM, job_for(here))["metadata"]
    assert alone.get(JOBS, made["name"])["spec"]["activeDeadlineSeconds"] == transfer.LIMIT
    began = time.time()
    with alone.watching(PODS, version="0", labels=f"job-name={made['name']}", seconds=60) as changes:
        next(change for change in changes if state(change["object"], "running"))
    soon = int(time.time() - began) + 20
    alone.patch(JOBS, made["name"], {"spec": {"activeDeadlineSeconds": soon}})
    pod = pods.open(names.STORE_CLAIM, job_for(here)).pod
    assert pod.startswith(made["name"])
    time.sleep(began + soon + 5 - time.time())
    assert pods.open(names.STORE_CLAIM, job_for(here)).pod == pod


def test_a_claim_that_nobody_can_mount_holds_up_no_other(alone, fresh):
    here = fresh()
    here.stores.choose(a_plan(alone))
    pods = here.stores.pods
    pods.close(names.STORE_CLAIM)
    heard: list[NoPod] = []

    def wait() -> None:
        try:
            pods.open("no-such-claim", job_for(here), patience=60)
        except NoPod as error:
            heard.append(error)

    stuck = threading.Thread(target=wait)
    stuck.start()
    assert pods.open(names.STORE_CLAIM, job_for(here)).pod
    assert stuck.is_alive()
    stuck.join()
    assert "no-such-claim" in heard[0].why


def own(plan: JobPlan) -> JobPlan:
    chosen = Store(kind="own", claim=plan.spec.id, size=1 << 30, storage_class="block")
    return replace(plan, store=chosen, transport="store")


def test_a_refused_claim_of_a_job_leaves_nothing(alone, fresh, admin, tmp_path):
    there = replace(admin, namespace=alone.namespace)
    set_quota(there, "none", persistentvolumeclaims="0")
    try:
        with pytest.raises(ApiError, match="quota"):
            fresh().stores.put_bundle(own(a_plan(alone)), make_bundle(tmp_path / "b", "print(1)"))
    finally:
        there.delete(kinds.QUOTAS, "none")
    gone(alone, JOBS)
    gone(alone, SECRETS)


def test_a_bundle_that_is_spoilt_on_its_way_leaves_nothing(alone, fresh, tmp_path):
    sent = make_bundle(tmp_path / "b", "print(1)", {"data": os.urandom(1000)})
    some = next((sent.directory / "objects").iterdir())
    some.chmod(0o600)
    some.write_bytes(b"x" * some.stat().st_size)
    with pytest.raises(Corrupted):
        fresh().stores.put_bundle(own(a_plan(alone)), sent)
    gone(alone, JOBS)
    gone(alone, CLAIMS)


def test_a_transfer_pod_leaves_nothing(alone, fresh):
    here = fresh()
    here.stores.choose(a_plan(alone))
    here.stores.pods.close(names.STORE_CLAIM)
    gone(alone, JOBS)
    gone(alone, SECRETS)


# Both ways --------------------------------------------------------------------------------------------------------------

DIGESTS = """
import hashlib
print(hashlib.sha256(data).hexdigest())
back = bytes(reversed(data[:1000])) + data
"""


def both_ways(here: Place, id: str, *, store: Store | None = None, uploads: Uploads | None = None) -> None:
    """A large value travels to the pod and back."""
    data = os.urandom(SIZE)
    plan, bundle = here.send(id, DIGESTS, values={"data": data}, outputs=["back"], memory=2 << 30, store=store)
    if plan.transport == "upload":
        assert uploads is not None
        uploads.start(plan, bundle)
    read = read_all(here.stream(id))
    assert read.text.decode().split() == [hashlib.sha256(data).hexdigest()]
    assert read.end["code"] == "Succeeded", read.end
    digests = objects_of(read.events)
    wanted = bytes(reversed(data[:1000])) + data
    found = [fetch(here.api, here.watch, here.stores, id, digest, here.folder / digest) for digest in digests]
    assert any(wanted in path.read_bytes() for path in found)


def objects_of(events: list[Event]) -> list[str]:
    """The digests of the objects that the result is made of."""
    result = next(event.data for event in events if event.kind == "result")
    reference = result["index"]["graph"]
    return [*reference.get("buffers", []), *([] if "data" in reference else [reference["pickle"]])]


def test_a_large_value_goes_both_ways_through_the_shared_claim(alone, fresh):
    here = fresh()
    both_ways(here, new_job_id("t-both"))


def test_a_large_value_goes_both_ways_through_a_disk_of_the_job(alone, fresh):
    here, id = fresh(storage_class="block"), new_job_id("t-both")
    both_ways(here, id)
    job = alone.get(JOBS, id)
    assert alone.get(CLAIMS, id)["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    here.stores.let_go(job)
    alone.delete(JOBS, id)
    gone(alone, CLAIMS)


def test_a_large_value_goes_both_ways_without_any_storage(alone, fresh):
    here, id = fresh(store="none"), new_job_id("t-both")
    uploads = Uploads(here.api, here.watch)
    both_ways(here, id, uploads=uploads)
    assert uploads.wait(id, 30)
    job = ended(alone, id, seconds=30)
    assert job["status"].get("succeeded") == 1


def test_what_was_never_fetched_from_a_pod_is_said_to_begone(alone, fresh):
    here, id = fresh(store="none"), new_job_id("t-gone")
    here.send(id, "import os; back = os.urandom(1_000_000)", outputs=["back"], store=IN_POD)
    read = read_all(here.stream(id))
    pod = pod_when(alone, id, lambda pod: state(pod, "running"))
    Container(alone, pod["metadata"]["name"]).tool("release").output()  # as if nobody had come in time
    ended(alone, id)
    with pytest.raises(NotFound, match="had no store"):
        fetch(alone, here.watch, here.stores, id, objects_of(read.events)[0], here.folder / "x")


def test_what_a_store_holds_of_a_job_is_removed_with_it(alone, fresh):
    here, id = fresh(), new_job_id("t-rm")
    here.send(id, "back = b'x' * 1_000_000", outputs=["back"])
    read_all(here.stream(id))
    job = ended(alone, id)
    used = lambda pod: json.loads(pod.tool("usage", owner_of(user_of(alone))).output())["jobs"]  # noqa: E731
    assert id in here.stores.use(job, used)
    here.stores.remove(job)
    assert id not in here.stores.use(job, used)
    with pytest.raises(NotFound):
        fetch(alone, here.watch, here.stores, id, "0" * 64, Path(here.folder, "x"))
