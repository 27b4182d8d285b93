"""A namespace without any storage: what jobs make comes through the process that submitted them, or that follows them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes.api import Api
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import NotFound
from kube_nb.spec import Phase
from tests.conformance.backends import CLUSTER
from tests.conformance.gate import Gate
from tests.conformance.kernel import Kernel, own_kernel
from tests.conformance.sending import running

pytestmark = pytest.mark.slow

SIZE = 5_000_000
"""More than a stream carries."""
SENDS = """
import os, sys
from pathlib import Path
from tests.cluster.test_without_store import client_of
print(client_of(Path(sys.argv[1])).cell(sys.argv[2], {"__name__": "__main__"}).id, flush=True)
os._exit(0)
"""


def client_of(state: Path, **options: object) -> Client:
    settings = Settings.load(environ={"KUBE_NB_STATE_DIR": str(state), "KUBE_NB_STORE": "none"})
    given = {"image": "lab/python:3.11", "cpu": "0.1", "memory": "256Mi", "outputs": ["back"], **options}
    return Client(CLUSTER.on, settings=settings, **given)


@pytest.fixture
def client(cluster: Api, state_dir: Path):
    made = client_of(state_dir)
    yield made
    there = {status.id for status in made.statuses()}
    for id in made.journal.ids():
        if id in there:
            made.delete(made.job(id))


def test_what_jobs_made_is_there_however_late_it_is_asked_for(client: Client):
    jobs = [client.train(bytes, SIZE + number) for number in range(3)]
    for number, job in enumerate(jobs):
        assert job.wait(200).phase is Phase.SUCCEEDED, job.reason
        assert job.result() == bytes(SIZE + number)


def test_a_container_does_not_stay_once_all_was_brought(client: Client):
    """It would wait for a minute, and the job's end with it."""
    job = client.cell(f"back = bytes({SIZE})\nprint('ready', flush=True)", {"__name__": "__main__"})
    running(job)
    began = time.monotonic()
    assert job.wait(200).phase is Phase.SUCCEEDED, job.reason
    assert time.monotonic() - began < 45
    assert len(job.outputs["back"]) == SIZE


def test_every_node_of_a_job_is_heard(client: Client):
    source = f"""
import os
import kube_nb as kn
kn.output("of" + os.environ["RANK"], bytes({SIZE}))
"""
    job = client.options(nodes=2, outputs=[]).cell(source, {"__name__": "__main__"}).wait(250)
    assert job.phase is Phase.SUCCEEDED, job.reason
    assert {name: len(job.outputs[name]) for name in ("of0", "of1")} == {"of0": SIZE, "of1": SIZE}


def test_who_attaches_before_the_end_has_what_it_made(client: Client, state_dir: Path):
    gate = Gate(CLUSTER.address)
    source = f"print('ready', flush=True)\n{gate.wait}\nback = bytes({SIZE})"
    words = [sys.executable, "-c", SENDS, str(state_dir), source]
    id = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    job = client.job(id)
    lines = job.logs(follow=True)
    assert "ready" in next(lines)
    gate.open()
    assert list(lines) == []
    gate.close()
    assert job.wait(100).phase is Phase.SUCCEEDED, job.reason
    assert len(job.outputs["back"]) == SIZE


def test_a_cell_gets_its_names_back(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBE_NB_STORE", "none")
    monkeypatch.setenv("KUBE_NB_ON", client.backend.name)
    monkeypatch.setenv("KUBE_NB_IMAGE", "lab/python:3.11")
    with own_kernel() as kernel:
        assert isinstance(kernel, Kernel)
        kernel.send(f"back = bytes({SIZE})", "--cpu 0.1 --memory 256Mi")
        assert len(kernel["back"]) == SIZE


def test_what_was_brought_goes_with_its_job(client: Client, state_dir: Path):
    job = client.train(bytes, SIZE).wait(200)
    assert list((state_dir / "results" / job.id).iterdir())
    client.delete(job)
    assert not (state_dir / "results" / job.id).exists()
    with pytest.raises(NotFound):
        client.job(job.id)
