"""What goes through a claim outlives kernels and pods: the one that jobs share, and one of the job's own."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import Forbidden
from kube_nb.backends.kubernetes.exec import Exec
from kube_nb.backends.kubernetes.kept import kept
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, PODS
from kube_nb.backends.kubernetes.names import JOB, ROLE, TRANSPORT
from kube_nb.backends.kubernetes.snapshot import annotation
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import Unreachable
from kube_nb.jobs.job import Job
from kube_nb.spec import Phase
from tests.cluster.alone import gone
from tests.cluster.test_submit import Losing
from tests.conformance.backends import CLUSTER
from tests.conformance.sending import running, tail

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.lab]

SIZE = 500_000_000
"""Bytes of the large array."""
IMAGE = "lab/python:3.11"
SHARED, OWN = "standard", "block"
"""Storage classes: volumes for many nodes, and disks of one node that bind late."""
DIES = """
import os, signal, sys
from pathlib import Path
from tests.cluster.test_claims import array, client_of
source = "import hashlib\\nprint(hashlib.sha256(data).hexdigest())\\nback = data[::-1].copy()"
client = client_of(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
job = client.options(outputs=["back"]).cell(source, {"__name__": "__main__", "data": array()})
print(job.id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
KEEPS = """
import os, time
import kube_nb as kn
place = kn.checkpoint_dir() / "deep" / "step"
if place.exists():
    print("found", place.read_text())
else:
    place.parent.mkdir()
    place.write_text("7")
    print("kept by", os.getpid(), flush=True)
    time.sleep(600)
"""


def array() -> np.ndarray:
    """The same in every process, and nothing can compress it."""
    return np.random.default_rng(7).integers(0, 1 << 63, SIZE // 8, dtype=np.int64)


def client_of(namespace: str, storage_class: str, state: Path) -> Client:
    """Somebody who names the storage class, and nothing else of the store."""
    told = {"KUBE_NB_STATE_DIR": str(state), "KUBE_NB_STORAGE_CLASS": storage_class}
    return Client(f"{CLUSTER.on}/{namespace}", settings=Settings.load(environ=told), image=IMAGE, cpu="0.1")


@pytest.fixture(params=[SHARED, OWN])
def storage_class(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def client(alone: Api, storage_class: str, tmp_path: Path) -> Iterator[Client]:
    """In a namespace in which there is no claim yet."""
    made = client_of(alone.namespace, storage_class, tmp_path / "kept")
    yield made
    for status in made.statuses():
        made.delete(made.job(status.id))
    made.clean_store()
    gone(alone, CLAIMS)
    shutil.rmtree(tmp_path / "kept")  # pytest keeps the folders of three runs


def job_in(api: Api, job: Job, storage_class: str) -> Object:
    """The Job, which has the store that this storage class allows."""
    found = api.get(JOBS, job.id)
    claim = api.get(CLAIMS, kept(found).claim)
    assert claim["spec"]["storageClassName"] == storage_class
    assert claim["spec"]["accessModes"] == ["ReadWriteMany" if storage_class == SHARED else "ReadWriteOnce"]
    assert kept(found).own == (storage_class == OWN)
    return found


def test_a_large_array_goes_both_ways_although_its_kernel_was_killed_at_once(
    alone: Api, client: Client, storage_class: str, tmp_path: Path
):
    words = [sys.executable, "-c", DIES, alone.namespace, storage_class, str(tmp_path / "kept")]
    sent = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert sent.returncode == -signal.SIGKILL, sent.stderr
    job = client.job(sent.stdout.strip())
    assert annotation(job_in(alone, job, storage_class), TRANSPORT) == "store"
    assert job.wait(300).phase is Phase.SUCCEEDED, f"{job.reason}\n{tail(job)}"
    wanted = array()
    assert "".join(job.logs()) == f"{hashlib.sha256(wanted).hexdigest()}\n"
    assert np.array_equal(job.outputs["back"], wanted[::-1])


def sends_some(client: Client) -> None:
    """More than a Secret holds."""
    client.cell("back = data[::-1]", {"__name__": "__main__", "data": b"ab" * 2_500_000})


def goes_on(client: Client, api: Api, storage_class: str) -> None:
    (id,) = client.journal.ids()
    job = client.job(id)
    assert job.wait(200).phase is Phase.SUCCEEDED, f"{job.reason}\n{tail(job)}"
    assert annotation(job_in(api, job, storage_class), TRANSPORT) == "store"
    assert job.outputs["back"] == b"ba" * 2_500_000


def test_a_submit_whose_answers_were_lost_is_completed_with_the_claim_that_was_filled(
    alone: Api, client: Client, storage_class: str
):
    client.backend._api = Losing(client.backend._api, {"secrets": ["before", "before"]})
    with pytest.raises(Unreachable):
        sends_some(client)
    goes_on(client, alone, storage_class)


class Keeps(Api):
    """No Job may be ended from the moment on in which there is one of ours."""

    keeps = False

    def create(self, kind, body, *, dry_run=False):
        made = super().create(kind, body, dry_run=dry_run)
        if kind is JOBS and not dry_run and body["metadata"]["labels"].get(ROLE) == "job":
            self.keeps = True
        return made

    def delete(self, kind, name, **how):
        if kind is JOBS and self.keeps:
            raise Forbidden(status=403, cause="Forbidden", message="jobs is forbidden", verb="delete", resource="jobs")
        return super().delete(kind, name, **how)


@pytest.mark.parametrize("storage_class", [OWN])
def test_a_job_is_made_although_the_pod_that_filled_its_claim_cannot_be_ended(
    alone: Api, client: Client, storage_class: str
):
    api = client.backend._api
    client.backend._api = keeping = Keeps(api.client, api.namespace, api.server)
    sends_some(client)
    assert keeping.keeps
    keeping.keeps = False
    goes_on(client, alone, storage_class)


def removes_its_pod(api: Api, pod: str, _: int) -> None:
    api.delete(PODS, pod)


def removes_its_pod_at_once(api: Api, pod: str, _: int) -> None:
    api.delete(PODS, pod, grace=0)


def kills_the_rank(api: Api, pod: str, process: int) -> None:
    with Exec.start(api, pod, ["python3", "-c", f"import os; os.kill({process}, 9)"], stdin=False) as program:
        program.output()


@pytest.mark.parametrize("fate", [removes_its_pod, removes_its_pod_at_once, kills_the_rank])
def test_a_checkpoint_outlives_its_pod(
    alone: Api, client: Client, storage_class: str, fate: Callable[[Api, str, int], None]
):
    """What the cluster takes away is tried again by itself; a rank that dies counts as a failure of the code."""
    retries = 1 if fate is kills_the_rank else 0
    job = client.options(retries=retries, memory="256Mi").cell(KEEPS, {"__name__": "__main__"})
    process = int(running(job, "kept by")[-1].split()[-1])
    job_in(alone, job, storage_class)
    (pod,) = alone.list(PODS, labels=f"{JOB}={job.id}")[0]
    fate(alone, pod["metadata"]["name"], process)
    assert job.wait(200).phase is Phase.SUCCEEDED, f"{job.reason}\n{tail(job)}"
    assert tail(job).splitlines()[-1] == "found 7"
