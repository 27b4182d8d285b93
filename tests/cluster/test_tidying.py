"""What etcd holds of a job goes when the job has ended, though the kernel that sent it was closed before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes import submit
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.kinds import SECRETS
from kube_nb.client import Client
from kube_nb.config import Settings
from tests.cluster.small_jobs import bundle, ended, fitting, plan
from tests.conformance.backends import CLUSTER
from tests.conformance.sending import remove_sent, until

pytestmark = pytest.mark.lab

SENDS = """
import os, sys
from pathlib import Path
from tests.cluster.test_tidying import client_of
print(client_of(Path(sys.argv[1]), env={"TOKEN": "hush"}).cell("x = 1", {"__name__": "__main__"}).id, flush=True)
os._exit(0)
"""


def client_of(state: Path, **options: object) -> Client:
    settings = Settings.load(environ={"KUBE_NB_STATE_DIR": str(state), "KUBE_NB_STORE": "none"})
    return Client(CLUSTER.on, settings=settings, image="lab/python:3.11", cpu="0.05", memory="128Mi", **options)


@pytest.fixture
def client(cluster: Api, state_dir: Path) -> Iterator[Client]:
    made = client_of(state_dir)
    yield made
    remove_sent(made)


@pytest.mark.slow
@pytest.mark.parametrize("act", ["lists", "sends"])
def test_the_next_kernel_removes_the_secrets_of_jobs_that_ended_unseen(
    cluster: Api, client: Client, state_dir: Path, unique: Callable[[str], str], tmp_path: Path, act: str
):
    words = [sys.executable, "-c", SENDS, str(state_dir)]
    left = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    others, sent = unique("others"), bundle(tmp_path)
    submit.create(cluster, fitting(plan(cluster, others), sent), sent)
    for id in (left, others):
        ended(cluster, id)
    if act == "lists":
        client.statuses(all_users=True)
    else:
        client.cell("x = 2", {"__name__": "__main__"})
    until(lambda: cluster.find(SECRETS, left) is None, 60)
    assert cluster.find(SECRETS, others) is not None


@pytest.mark.slow
def test_a_secret_stays_while_its_job_has_not_ended(cluster: Api, client: Client):
    nowhere = client.options(node_selector={"example.org/no-such-node": "true"})
    waits = nowhere.cell("x = 1", {"__name__": "__main__"})
    over = client.cell("x = 2", {"__name__": "__main__"})
    ended(cluster, over.id)
    client.statuses()
    until(lambda: cluster.find(SECRETS, over.id) is None, 60)
    assert cluster.find(SECRETS, waits.id) is not None


@pytest.mark.slow
def test_what_was_tidied_up_is_not_asked_for_again(cluster: Api, client: Client, state_dir: Path, monkeypatch):
    job = client.cell("x = 1", {"__name__": "__main__"})
    ended(cluster, job.id)
    until(lambda: cluster.find(SECRETS, job.id) is None, 60)
    remembered = lambda: any(job.id in file.read_text() for file in (state_dir / "clusters").glob("*.tidied"))  # noqa: E731
    until(remembered, 60)
    removed: list[str] = []
    delete = Api.delete

    def counted(self: Api, kind, name: str, **how) -> bool:
        removed.append(name)
        return delete(self, kind, name, **how)

    monkeypatch.setattr(Api, "delete", counted)
    again = client_of(state_dir)
    again.statuses()
    second = again.cell("x = 2", {"__name__": "__main__"})
    ended(cluster, second.id)
    until(lambda: second.id in removed, 60)
    assert job.id not in removed
