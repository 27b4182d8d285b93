"""A namespace keeps within a size and an age what jobs left there, and a live job loses nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator

import pytest

from kube_nb.backends.kubernetes import addons, ending, names
from kube_nb.backends.kubernetes import cleaning as module
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.cleaning import Cleaning, stamp_of
from kube_nb.backends.kubernetes.connect import user_of
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, PODS, SECRETS
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.manifests.trainjob import RUNTIMES, TRAIN_JOBS, training_runtime
from kube_nb.backends.kubernetes.names import owner_of
from kube_nb.backends.kubernetes.plan import Store
from kube_nb.backends.kubernetes.submit import create
from kube_nb.errors import Refused
from kube_nb.spec import Placement, new_job_id
from tests.cluster.cells import Place, read_all
from tests.cluster.small_jobs import ended, plan
from tests.unit.pod_files import make_bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LEFT = """
import os, pathlib
store = pathlib.Path('/kube-nb/store')
for place in ({places}):
    folder = store / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'x').write_bytes(os.urandom({size}))
    for path in (folder / 'x', folder):
        os.utime(path, (1e9, 1e9))
"""
HOLDS = "import time\nprint('holding', flush=True)\ntime.sleep(120)"


@pytest.fixture
def here(fresh: Callable[..., Place]) -> Place:
    return fresh()


@pytest.fixture
def mine(here: Place) -> str:
    return owner_of(user_of(here.api))


@pytest.fixture
def live(here: Place) -> Iterator[str]:
    """A job that runs until the test is over, with something in the store."""
    id = new_job_id("t-live")
    here.send(id, HOLDS, values={"data": os.urandom(3_000_000)})
    for chunk in here.stream(id):
        if b"holding" in chunk.data:
            break
    yield id
    here.api.delete(JOBS, id, propagation="Background")


def cleaning(here: Place, *, most: float = 1e12, age: float = 7 * 86400.0) -> Cleaning:
    user = user_of(here.api)
    return Cleaning(
        here.api,
        here.watch,
        here.stores,
        user,
        state=here.folder / "state",
        retention=(most, age),
        manifest=lambda: indexed_job(plan(here.api, new_job_id("t-clean"), user=user)),
    )


def leave(here: Place, *places: str, size: int = 1000) -> str:
    """A job that leaves folders in the store, unused for years."""
    id = new_job_id("t-left")
    here.send(id, LEFT.format(places="".join(f"{place!r}, " for place in places), size=size) + "back = 1\n")
    assert read_all(here.stream(id)).end["code"] == "Succeeded"
    ended(here.api, id)
    return id


def used(here: Place, owner: str) -> dict[str, dict[str, float]]:
    return here.stores.pods.use(
        names.STORE_CLAIM,
        lambda: indexed_job(plan(here.api, new_job_id("t-look"), user=user_of(here.api))),
        lambda pod: json.loads(pod.tool("usage", owner).output()),
    )


def test_what_is_old_goes_and_what_lives_or_is_of_others_stays(here, mine, live):
    forgotten = "e" * 40
    leave(here, f"jobs/{mine}/gone-1", "jobs/somebody/gone-2", f"environments/{forgotten}")
    would = cleaning(here).clean(max_age=3600, dry_run=True)
    assert {"gone-1", forgotten} <= {one.name for one in would}
    assert "gone-1" in used(here, mine)["jobs"]
    went = cleaning(here).clean(max_age=3600)
    assert went == would
    assert {"gone-2"} == set(used(here, "somebody")["jobs"])
    left = used(here, mine)
    assert live in left["jobs"]
    assert "gone-1" not in left["jobs"]
    assert forgotten not in left["environments"]


def test_jobs_that_ended_go_whole_when_their_files_take_too_much(here, mine):
    ids = []
    for _ in range(2):
        ids.append(new_job_id("t-big"))
        here.send(ids[-1], "import os; back = os.urandom(5_000_000)", outputs=["back"])
        read_all(here.stream(ids[-1]))
        ended(here.api, ids[-1])
    went = cleaning(here, most=7_000_000).clean(max_age=1e9)
    assert [one.name for one in went if one.kind == "job"] == ids[:1]
    assert here.api.find(JOBS, ids[0]) is None
    assert here.api.find(SECRETS, ids[0]) is None
    assert ids[0] not in used(here, mine)["jobs"]
    assert ids[1] in used(here, mine)["jobs"]


def test_the_pod_of_the_next_job_cleans_up_by_the_way(here, mine):
    leave(here, f"jobs/{mine}/gone-1")
    here.stores.pods.close(names.STORE_CLAIM)
    job = new_job_id("t-next")
    here.send(job, HOLDS)
    stamp = stamp_of(here.stores.memory, here_only=False)
    own = cleaning(here)
    own.after(job, Store(kind="shared", claim=names.STORE_CLAIM))
    give_up = time.monotonic() + 60
    while not stamp.exists():  # nothing else tells of it
        assert time.monotonic() < give_up
        time.sleep(0.5)
    assert not here.api.list(PODS, labels=names.TRANSFER)[0]
    assert "gone-1" not in used(here, mine)["jobs"]
    first = stamp.stat().st_mtime_ns
    own.after(job, Store(kind="shared", claim=names.STORE_CLAIM))
    assert stamp.stat().st_mtime_ns == first
    here.api.delete(JOBS, job, propagation="Background")


def test_a_job_without_a_store_cleans_up_what_is_kept_here(here):
    old = here.folder / "state" / "results" / "old"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    stamp = stamp_of(here.stores.memory, here_only=True)
    stamp.unlink(missing_ok=True)
    cleaning(here).after(new_job_id("t-next"), Store())
    give_up = time.monotonic() + 60
    while not stamp.exists():
        assert time.monotonic() < give_up
        time.sleep(0.1)
    assert not old.exists()


def test_the_shared_claim_goes_when_it_is_asked_for_and_nobody_needs_it(here, live):
    with pytest.raises(Refused, match=live):
        cleaning(here).clean_store()
    assert here.api.find(CLAIMS, names.STORE_CLAIM)
    here.api.delete(JOBS, live, propagation="Foreground")
    here.watch.wait(live, lambda job: True if job is None or job.deleted else None, 60)
    assert [one.name for one in cleaning(here).clean_store(dry_run=True)] == [names.STORE_CLAIM]
    assert here.api.find(CLAIMS, names.STORE_CLAIM)
    assert [one.kind for one in cleaning(here).clean_store()] == ["store"]
    assert here.api.find(CLAIMS, names.STORE_CLAIM) is None
    assert cleaning(here).clean_store() == []


def test_a_claim_of_somebody_else_is_not_ours_to_remove(fresh):
    with pytest.raises(Refused, match="theirs"):
        cleaning(fresh(store="claim:theirs")).clean_store()


def test_a_trainjob_that_ended_long_ago_goes(alone: Api, here: Place):
    if addons.kind(alone, "trainer.kubeflow.org", "trainjobs") is None:
        pytest.skip("cluster: it has no Kubeflow Trainer")
    id = new_job_id("t-via")
    sent = make_bundle(here.folder / id, "print(1)", job=id)
    details = {"user": user_of(alone), "digest": sent.digest, "memory": 128 << 20}
    here.watch.remember(create(alone, plan(alone, id, placement=Placement(via="trainjob"), **details), sent))
    assert cleaning(here).clean(max_age=0) == []  # it has not ended
    here.watch.wait(id, lambda job: True if job is not None and job.ended else None, 90)
    found = alone.get(TRAIN_JOBS, id)
    version = found["metadata"]["resourceVersion"]
    if not (found.get("status") or {}).get("conditions"):
        with alone.watching(TRAIN_JOBS, version=version, fields=f"metadata.name={id}", seconds=60) as changes:
            next(change for change in changes if change["object"].get("status", {}).get("conditions"))
    assert cleaning(here).clean(max_age=3600) == []
    time.sleep(1.1)  # its own clock knows whole seconds
    assert id in {one.name for one in cleaning(here).clean(max_age=0)}
    assert alone.find(TRAIN_JOBS, id) is None
    ending.wait_until_gone(alone, RUNTIMES, id)  # Trainer has a finalizer on it


def test_the_runtime_of_a_submit_that_was_killed_before_its_trainjob_goes(alone: Api, here: Place, monkeypatch):
    if addons.kind(alone, "trainer.kubeflow.org", "trainjobs") is None:
        pytest.skip("cluster: it has no Kubeflow Trainer")
    killed, whole = new_job_id("t-killed"), new_job_id("t-whole")
    sent = make_bundle(here.folder / whole, HOLDS, job=whole)
    details = {"user": user_of(alone), "memory": 128 << 20, "placement": Placement(via="trainjob")}
    create(alone, plan(alone, whole, digest=sent.digest, **details), sent)
    alone.patch(RUNTIMES, whole, {"metadata": {"ownerReferences": None}})  # as if killed a moment later than the other
    alone.create(RUNTIMES, training_runtime(plan(alone, killed, **details)))
    assert cleaning(here).clean(max_age=0) == [], "its TrainJob may be yet to be made"
    monkeypatch.setattr(module, "_FRESH", -60.0)
    assert [one.name for one in cleaning(here).clean(max_age=0, dry_run=True)] == [killed]
    assert alone.find(RUNTIMES, killed)
    assert [one.name for one in cleaning(here).clean(max_age=0)] == [killed]
    ending.wait_until_gone(alone, RUNTIMES, killed)
    assert alone.find(RUNTIMES, whole)
    alone.delete(TRAIN_JOBS, whole)
    alone.delete(RUNTIMES, whole)


def test_a_transfer_pod_that_nobody_waits_for_any_more_goes_and_one_that_runs_stays(
    alone: Api, here: Place, monkeypatch
):
    job = lambda: indexed_job(plan(alone, new_job_id("t-clean"), user=user_of(alone)))  # noqa: E731
    pods = here.stores.pods
    stuck = pods.ensure("no-such-claim", job)["metadata"]["name"]
    here.stores.choose(plan(alone, new_job_id("t-clean"), user=user_of(alone)))
    runs = pods.open(names.STORE_CLAIM, job)
    assert not [one for one in cleaning(here).clean(max_age=1e9) if one.kind == "transfer"]
    monkeypatch.setattr(module, "_FRESH", -60.0)
    assert [one.name for one in cleaning(here).clean(max_age=1e9) if one.kind == "transfer"] == [stuck]
    ending.wait_until_gone(alone, JOBS, stuck)
    assert pods.open(names.STORE_CLAIM, job) == runs
