"""A namespace without any storage: what jobs make comes through the process that submitted them, or that follows them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes import reconcile
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.kinds import JOBS
from kube_nb.backends.kubernetes.names import UPLOADED
from kube_nb.backends.kubernetes.snapshot import state
from kube_nb.capture.work import Work
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import NotFound, Unreachable
from kube_nb.jobs.card import snapshot
from kube_nb.jobs.listing import rows
from kube_nb.spec import Phase, Task
from tests.cluster.small_jobs import pod_when
from tests.cluster.test_submit import Losing
from tests.conformance.backends import CLUSTER
from tests.conformance.gate import Gate
from tests.conformance.kernel import Kernel, own_kernel
from tests.conformance.sending import remove_sent, running, until

pytestmark = [pytest.mark.slow, pytest.mark.lab]

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
    remove_sent(made)


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


SENDS_LARGE = """
import os, sys
from pathlib import Path
from tests.cluster.test_without_store import SIZE, client_of
names = {"data": os.urandom(SIZE), "__name__": "__main__"}
print(client_of(Path(sys.argv[1]), outputs=[]).cell("print(len(data))", names).id, flush=True)
os._exit(0)
"""


def test_a_job_that_waits_for_what_its_kernel_sends_is_pending_and_says_why(client: Client, state_dir: Path):
    words = [sys.executable, "-c", SENDS_LARGE, str(state_dir)]
    id = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    pod = pod_when(client.backend._api, id, lambda pod: state(pod, "running"))  # and nobody lives who would send it
    job = client.job(id)
    until(lambda: job.reason is not None and "as soon as" not in job.reason.what, 30)  # a watch may be a moment behind
    assert job.phase is Phase.PENDING
    reason = job.reason
    assert reason is not None
    assert reason.code == "Uploading"
    assert reason.what.startswith("uploading")
    assert "as soon as" not in reason.what
    assert "the setting `store` is `none`" in reason.why
    assert "keep the kernel that sent it alive until the job has started" in reason.next
    assert f"{reason.what} [Uploading]" in snapshot(job).text()
    assert any(row[0] == id and reason.what in row and "Pending" in row for row in rows(client.statuses()))
    assert pod["metadata"]["name"] not in client.backend._api.get(JOBS, id)["metadata"]["annotations"].get(UPLOADED, "")


@pytest.mark.parametrize("lost", [["after", "before"], ["before", "before"]], ids=["all was made", "a part was made"])
def test_a_large_job_whose_answers_were_lost_gets_what_it_needs_all_the_same(client: Client, lost: list[str]):
    """It waits for this process, and nobody asks for it in the meantime."""
    client.backend._api = Losing(client.backend._api, {"secrets": lost})
    with pytest.raises(Unreachable, match=r"whether job .* was made is not known"):
        client.cell("back = data[::-1]\nmore = bytes(len(data))", {"data": b"ab" * (SIZE // 2), "__name__": "__main__"})
    (id,) = client.journal.ids()
    job = client.job(id)
    assert job.wait(200).phase is Phase.SUCCEEDED, job.reason
    assert job.outputs["back"] == b"ba" * (SIZE // 2)


def test_a_large_job_of_which_nothing_was_made_is_not_made_behind_ones_back(
    client: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reconcile, "_ABSENT", 3.0)
    api = client.backend._api
    client.backend._api = losing = Losing(api, {"jobs": ["before", "before"]})
    with pytest.raises(Unreachable):
        client.cell("print(len(data))", {"data": os.urandom(SIZE), "__name__": "__main__"})
    (id,) = client.journal.ids()
    until(lambda: f"kube-nb-reconcile-{id}" not in {one.name for one in threading.enumerate()}, 30)
    assert losing.asked == ["jobs"] * 2
    assert api.find(JOBS, id) is None


def test_what_keeps_a_large_job_from_its_place_says_that_its_kernel_must_live_too(client: Client):
    nowhere = client.options(node_selector={"example.org/no-such-node": "true"}, outputs=[])
    job = nowhere.cell("print(len(data))", {"data": os.urandom(SIZE), "__name__": "__main__"})
    until(lambda: job.reason is not None and job.reason.code != "Uploading", 60)
    assert job.phase is Phase.PENDING
    assert job.reason is not None
    assert "keep the kernel that sent it alive" in job.reason.next


@pytest.mark.parametrize("size", [10, SIZE], ids=["small", "large"])
def test_a_job_that_has_all_it_needs_is_running_and_has_no_reason(client: Client, size: int):
    told: list[tuple[float, float | None, str]] = []
    gate = Gate(CLUSTER.address)
    work = Work(
        source=f"print('ready', flush=True)\n{gate.wait}\nprint(len(data))",
        namespace={"data": os.urandom(size), "__name__": "__main__"},
        task=Task(label="Cell In[1]"),
    )
    job = client.options(outputs=[]).plan(work, progress=lambda *one: told.append(one)).submit()
    if size == SIZE:
        assert "reason    uploading" in snapshot(job).text()
    running(job)
    until(lambda: job.phase is Phase.RUNNING, 60)
    assert job.reason is None
    gate.open()
    assert job.wait(100).phase is Phase.SUCCEEDED, job.reason
    gate.close()
    sent = [one for one in told if one[2].endswith("sent")]
    assert bool(sent) == (size == SIZE), "what goes to the pod tells how far it is"
    assert all(one[0] == one[1] for one in sent[-1:])


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
