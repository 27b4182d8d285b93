"""A process that is killed while it sends a job leaves that job whole, or completable, or no trace of it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from kube_nb.backends.kubernetes import addons, cleaning, names, submit
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.connect import user_of
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, PODS, SECRETS, SERVICES, Kind
from kube_nb.backends.kubernetes.manifests.trainjob import RUNTIMES, TRAIN_JOBS
from kube_nb.backends.kubernetes.manifests.transfer import IDLE
from kube_nb.backends.kubernetes.snapshot import annotation, condition
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import Unreachable
from kube_nb.spec import Phase, new_job_id
from tests.cluster.killed_submits import Step, carried, following, makes
from tests.cluster.small_jobs import bundle, fitting, plan
from tests.conformance.backends import CLUSTER
from tests.conformance.sending import until

PROGRAM = Path(__file__).with_name("killed_submits.py")
LARGE = 1_500_000
"""More than a Secret holds."""


@dataclass(frozen=True)
class Way:
    """A way of a job to the cluster.

    Attributes:
        submits: that are killed. options: of the job. size: of what it carries. store: that it has then.
    """

    submits: int
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 100
    store: str = f"claim:{names.STORE_CLAIM}"


ALL_WAYS = {
    "one node": Way(40),
    "two nodes": Way(15, {"nodes": 2}),
    "through the shared claim": Way(25, size=LARGE),
    "as a TrainJob": Way(20, {"via": "trainjob"}),
}
OWN_CLAIMS = {"through a claim of its own": Way(8, size=LARGE, store="claim:{id}")}


class Sender:
    """Sends jobs from processes that are killed."""

    def __init__(self, target: str, state: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), target, str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )

    def __call__(
        self, name: str, way: Way, *, step: Step | None = None, moment: str = "", delay: float = 0
    ) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        order = {"name": name, "options": way.options, "size": way.size, "step": step, "moment": moment, "delay": delay}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Sent:
    """What was sent by one name.

    Attributes:
        end: of the process. cut: it was killed between its first request and the answer to its last.
    """

    way: Way
    end: str
    cut: bool


def sent_and_killed(target: str, state: Path, ways: Mapping[str, Way], prefix: str) -> dict[str, Sent]:
    """Send jobs every way, in no order, and kill each at a moment that chance takes: a third of them at any step, a third
    once something was made on the cluster, a third while there is a Job without its Secret."""
    chance = random.Random(prefix)
    sender = Sender(target, state)
    sent: dict[str, Sent] = {}
    try:
        usual = {}
        for word, way in ways.items():
            for turn in ("first", "usual"):  # the first one finds out what there is, and finds nothing to build on
                name = f"{prefix}{len(sent)}"
                began = time.monotonic()
                answer = sender(name, way)
                usual[word] = (answer["steps"], time.monotonic() - began)
                sent[name] = Sent(way, answer["end"], cut=False)
                assert answer["end"] == "sent", f"{word}, {turn}"
        orders = [word for word, way in ways.items() for _ in range(way.submits)]
        chance.shuffle(orders)
        for number, word in enumerate(orders):
            steps, took = usual[word]
            possible = moments(steps)
            step, moment = chance.choice(possible[(0, first_made(steps), job_made(steps))[number % 3] :])
            name = f"{prefix}{len(sent)}"
            answer = sender(name, ways[word], step=step, moment=moment, delay=chance.uniform(0.001, took / len(steps)))
            cut = answer["end"] == "killed" and (step, moment) != possible[0]
            sent[name] = Sent(ways[word], answer["end"], cut)
    finally:
        sender.close()
    return sent


def moments(steps: list[str]) -> list[tuple[Step, str]]:
    """Every moment at which one can be killed, in their order, up to the one after which nothing is left to be made."""
    places = list(accumulate(steps, following, initial=(0, 0)))[1:]
    found = [(place, moment) for place in places for moment in ("before", "during", "after")]
    return found[: 3 * last(steps, "secrets") - 1]


def first_made(steps: list[str]) -> int:
    """How many of the moments have passed when the first object is about to be made."""
    return 3 * next(at for at, step in enumerate(steps) if makes(step))


def job_made(steps: list[str]) -> int:
    """The same for when the Job, or TrainJob, has been made."""
    return 3 * (last(steps, "jobs") - 1) + 2


def last(steps: list[str], kind: str) -> int:
    """The number of the last step that makes one of this kind."""
    return max(at for at, step in enumerate(steps, 1) if makes(step) and step.endswith(kind))


@pytest.fixture
def client(alone: Api, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Of whoever comes after the killed ones, in a namespace that nobody else uses."""
    for name, value in getattr(request, "param", {}).items():
        monkeypatch.setenv(name, value)
    settings = Settings.load(environ=dict(os.environ, KUBE_NB_STATE_DIR=str(tmp_path)))
    return Client(f"{CLUSTER.on}/{alone.namespace}", settings=settings)


def ids_of(api: Api, prefix: str) -> dict[str, set[str]]:
    """The ids of what the cluster has of each name, Jobs and TrainJobs."""
    found: dict[str, set[str]] = {}
    for kind in (JOBS, TRAIN_JOBS):
        for one in listed(api, kind):
            name = annotation(one, names.NAME)
            if name.startswith(prefix):
                found.setdefault(name, set()).add(one["metadata"]["labels"][names.JOB])
    return found


def listed(api: Api, kind: Kind) -> list[Object]:
    """All of a kind in the namespace; none where the cluster has no such kind."""
    if kind in (TRAIN_JOBS, RUNTIMES) and addons.kind(api, "trainer.kubeflow.org", "trainjobs") is None:
        return []
    return api.list(kind)[0]


def left_in(api: Api) -> dict[str, list[str]]:
    """All that is left in the namespace, whoever made it."""
    kinds = (JOBS, PODS, SECRETS, SERVICES, CLAIMS, TRAIN_JOBS, RUNTIMES)
    found = {kind.plural: [one["metadata"]["name"] for one in listed(api, kind)] for kind in kinds}
    return {kind: some for kind, some in found.items() if some}


def without_owner(api: Api) -> list[str]:
    """What only a job can want, and whose job is not there."""
    owners = {one["metadata"]["uid"] for kind in (JOBS, TRAIN_JOBS) for one in listed(api, kind)}
    orphans = []
    for kind in (SECRETS, SERVICES, CLAIMS, RUNTIMES):
        for one in listed(api, kind):
            meta = one["metadata"]
            ours = (meta.get("labels") or {}).get(names.MANAGED_BY) == names.OURS and meta["name"] != names.STORE_CLAIM
            if ours and not any(owner["uid"] in owners for owner in meta.get("ownerReferences") or []):
                orphans.append(f"{kind.plural}/{meta['name']}")
    return orphans


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("client", "ways"),
    [
        pytest.param({"KUBE_NB_STORAGE_CLASS": "block"}, OWN_CLAIMS, id="own claims", marks=pytest.mark.lab),
        pytest.param({}, ALL_WAYS, id="a hundred", marks=pytest.mark.alone),
    ],
    indirect=["client"],
)
def test_submits_that_are_killed(
    alone: Api, client: Client, ways: dict[str, Way], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if addons.kind(alone, "trainer.kubeflow.org", "trainjobs") is None:
        ways = {word: way for word, way in ways.items() if "via" not in way.options}
    prefix = f"killed-{os.urandom(3).hex()}-"
    sent = sent_and_killed(f"{CLUSTER.on}/{alone.namespace}", tmp_path, ways, prefix)
    killed = sum(way.submits for way in ways.values())
    print(Counter((word, one.end, one.cut) for word, way in ways.items() for one in sent.values() if one.way is way))
    assert "failed" not in {one.end for one in sent.values()}
    assert sum(one.cut for one in sent.values()) >= killed / 2

    found = ids_of(alone, prefix)
    assert {name: ids for name, ids in found.items() if len(ids) > 1} == {}
    ids = {name: some.pop() for name, some in found.items()}
    assert [name for name, one in sent.items() if one.end == "sent" and name not in ids] == []
    assert set(ids.values()) <= set(client.journal.ids())
    assert len(half_made(alone, set(ids.values()))) >= killed / 10

    statuses = settled(client, set(ids.values()))
    assert {id: status for id, status in statuses.items() if status is not Phase.SUCCEEDED} == {}
    for name, id in ids.items():
        digest = hashlib.sha256(carried(name, sent[name].way.size)).hexdigest()
        assert list(client.job(id).logs(rank=0)) == [f"{name} {digest}\n"]

    for job in listed(alone, JOBS):
        if (way := way_of(job, sent)) is not None:
            assert annotation(job, names.STORE) == way.store.format(id=job["metadata"]["labels"][names.JOB])
            assert annotation(job, names.TRANSPORT) == ("store" if way.size == LARGE else "secret")

    for id in ids.values():
        client.delete(client.job(id))
    monkeypatch.setattr(cleaning, "_FRESH", 0.0)  # nobody sends anything there any more
    client.clean(older_than=0)
    goes(lambda: without_owner(alone), 180)
    client.clean_store()
    goes(lambda: left_in(alone), IDLE + 60)  # what still waits to be spoken to ends by itself


def way_of(job: Object, sent: Mapping[str, Sent]) -> Way | None:
    """None: it carries files for others."""
    name = annotation(job, names.NAME)
    return sent[name].way if name in sent else None


def half_made(api: Api, ids: set[str]) -> set[str]:
    """Those whose Secret was never made: their Jobs wait for it."""
    over = {job["metadata"]["labels"].get(names.JOB) for job in listed(api, JOBS) if condition(job, "Complete")}
    return ids - over - {secret["metadata"]["name"] for secret in listed(api, SECRETS)}


def goes(left: Callable[[], Any], seconds: float) -> None:
    """Wait until nothing is left."""
    give_up = time.monotonic() + seconds
    while left() and time.monotonic() < give_up:
        time.sleep(1)
    assert not left()


def settled(client: Client, ids: set[str]) -> dict[str, Phase | None]:
    """How the jobs ended; that somebody looks at them completes those that were cut off."""
    give_up = time.monotonic() + 600
    while True:
        phases = dict.fromkeys(ids) | {status.id: status.phase for status in client.statuses() if status.id in ids}
        if all(phase and phase.final for phase in phases.values()) or time.monotonic() > give_up:
            return phases
        time.sleep(2)


class Offline(Api):
    """The API as one sees it whose connection breaks before the Secret is made."""

    def create(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        if kind is SECRETS:
            raise Unreachable(what="the connection broke")
        return super().create(kind, body, dry_run=dry_run)


@pytest.mark.slow
def test_what_was_cut_off_elsewhere_is_cleaned_away(alone, client, tmp_path):
    id = new_job_id("t-cut")
    sent = bundle(tmp_path)
    wanted = fitting(plan(alone, id, user=user_of(alone)), sent)
    with pytest.raises(Unreachable):
        submit.create(Offline(alone.client, alone.namespace), wanted, sent)
    assert client.clean(older_than=0) == []
    until(lambda: [one.name for one in client.clean(older_than=1e9)] == [id], 90)
    assert alone.find(JOBS, id) is None
