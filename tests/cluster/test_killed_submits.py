"""A process that is killed while it sends a job leaves that job whole, or completable, or no trace of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes import names, submit
from kube_nb.backends.kubernetes.api import CLAIMS, JOBS, SECRETS, SERVICES, Api, Kind, Object
from kube_nb.backends.kubernetes.connect import user_of
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import Unreachable
from kube_nb.spec import Phase
from tests.cluster.small_jobs import bundle, fitting, plan
from tests.conformance.backends import CLUSTER

PROGRAM = Path(__file__).with_name("killed_submits.py")
OWNED = (SECRETS, SERVICES, CLAIMS)
SUBMITS = 100


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

    def __call__(self, name: str, *, nodes: int = 1, window: str = "any", delay: float = 0) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{name} {nodes} {window} {delay or 0}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture
def client(cluster: Api, tmp_path: Path) -> Iterator[Client]:
    """Of whoever comes after the killed ones; what is left of theirs in the end is removed."""
    settings = Settings.load(environ={"KUBE_NB_STATE_DIR": str(tmp_path), "KUBE_NB_STORE": "none"})
    client = Client(CLUSTER.on, settings=settings)
    yield client
    for id in client.journal.ids():
        cluster.delete(JOBS, id)


def jobs_of(api: Api, prefix: str) -> dict[str, list[str]]:
    """The ids of the Jobs on the cluster by the name that they were sent with."""
    found: dict[str, list[str]] = {}
    for job in api.list(JOBS, labels=names.selector(role="job"))[0]:
        name = job["metadata"].get("annotations", {}).get(names.NAME, "")
        if name.startswith(prefix):
            found.setdefault(name, []).append(job["metadata"]["name"])
    return found


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_a_hundred_submits_that_are_killed(cluster, client, tmp_path):
    prefix = f"killed-{os.urandom(3).hex()}-"
    sender = Sender(CLUSTER.on, tmp_path)
    try:
        sender(f"{prefix}warm")
        usual = float(sender(f"{prefix}usual"))
        chance = random.Random(prefix)
        answers = {}
        for number in range(SUBMITS):
            window = ("any", "making")[number % 2]
            delay = chance.uniform(0.001, 1.2 * usual if window == "any" else 0.06)
            name = f"{prefix}{number}"
            answers[name] = sender(name, nodes=1 + (number % 5 == 1), window=window, delay=delay)
    finally:
        sender.close()

    made = jobs_of(cluster, prefix)
    assert {name: ids for name, ids in made.items() if len(ids) > 1} == {}
    ids = {name: ids[0] for name, ids in made.items()}
    assert [name for name, answer in answers.items() if answer == "sent" and name not in ids] == []
    known = set(client.journal.ids())
    assert [id for id in ids.values() if id not in known] == []
    cut_off = [id for id in ids.values() if cluster.find(SECRETS, id) is None]

    statuses = settled(client, set(ids.values()))
    assert {id: status for id, status in statuses.items() if status is not Phase.SUCCEEDED} == {}
    for name, id in ids.items():
        assert f"done {name}\n" in "".join(client.job(id).logs())
    print(Counter(answers.values()), f"{len(ids)} jobs, {len(cut_off)} were cut off")

    for id in ids.values():
        client.delete(client.job(id))
    assert jobs_of(cluster, prefix) == {}
    for kind in OWNED:
        left = [one["metadata"]["name"] for one in cluster.list(kind, labels=names.selector())[0]]
        assert [name for name in left if any(id in name for id in known)] == []


def settled(client: Client, ids: set[str]) -> dict[str, Phase]:
    """How the jobs ended; that somebody looks at them completes those that were cut off."""
    give_up = time.monotonic() + 420
    while True:
        phases = {status.id: status.phase for status in client.statuses() if status.id in ids}
        if all(phase.final for phase in phases.values()) or time.monotonic() > give_up:
            return phases
        time.sleep(2)


class Offline(Api):
    """The API as one sees it whose connection breaks before the Secret is made."""

    def create(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        if kind is SECRETS:
            raise Unreachable(what="the connection broke")
        return super().create(kind, body, dry_run=dry_run)


@pytest.mark.slow
def test_what_was_cut_off_elsewhere_is_cleaned_away(cluster, client, unique, tmp_path, monkeypatch):
    id = unique()
    sent = bundle(tmp_path)
    with pytest.raises(Unreachable):
        submit.create(
            Offline(cluster.client, cluster.namespace), fitting(plan(cluster, id, user=user_of(cluster)), sent), sent
        )
    everything = type(client.backend).list
    monkeypatch.setattr(  # jobs of others are not ours to clean away
        type(client.backend), "list", lambda self, *a, **k: [s for s in everything(self, *a, **k) if s.id == id]
    )
    monkeypatch.setattr(type(client.backend), "clean", lambda self, **_: [])  # nor what they left
    assert client.clean(older_than=0) == []
    give_up = time.monotonic() + 90
    while not client.clean(older_than=1e9):
        assert time.monotonic() < give_up
        time.sleep(2)
    assert cluster.find(JOBS, id) is None
