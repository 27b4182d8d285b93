"""A job that is cancelled or deleted: what its code hears, and what is left."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from kube_nb.backends.base import Capability
from kube_nb.client import Client
from kube_nb.errors import JobFailed, NotFound
from kube_nb.spec import Phase
from tests.conformance.backends import needs
from tests.conformance.sending import Sender, code, ended, gone, running, sent, tail

DEAF = (
    "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', os.getpid(), flush=True)\n"
)


def all_cores(send: Sender) -> float:
    cores = send.client.backend.capacity().cpu
    assert cores is not None
    return cores[1]


def test_a_cancelled_job_is_cancelled_not_failed(send: Sender) -> None:
    job = send("x = 1\nprint('ready', flush=True)\nimport time\ntime.sleep(600)")
    running(job)
    job.cancel()

    assert ended(job).phase is Phase.CANCELLED
    assert code(job) == "Cancelled"
    with pytest.raises(JobFailed):
        job.outputs["x"]
    assert job.exception() is None


@pytest.mark.rights
@pytest.mark.via
def test_the_code_hears_sigterm_and_has_time(send: Sender) -> None:
    job = send(
        # os.write: it may come while the code still prints `ready`, and print lets nobody print in the midst of it.
        "import os, signal, sys, time\n"
        "def bye(*_):\n    time.sleep(1)\n    os.write(1, b'saved\\n')\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\nprint('ready', flush=True)\ntime.sleep(600)"
    )
    running(job)
    job.cancel()

    assert ended(job).phase is Phase.CANCELLED
    assert "saved\n" in tail(job)


def test_a_finally_runs_where_the_code_makes_sigterm_an_exception(send: Sender) -> None:
    job = send(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "try:\n    print('ready', flush=True)\n    time.sleep(600)\nfinally:\n    print('cleaned', flush=True)"
    )
    running(job)
    job.cancel()

    assert ended(job).phase is Phase.CANCELLED
    assert "cleaned\n" in tail(job)


@pytest.mark.slow
def test_code_that_does_not_listen_is_killed_after_the_grace(send: Sender) -> None:
    job = send(DEAF + "time.sleep(600)")
    said = running(job)
    started = time.monotonic()
    job.cancel()

    assert ended(job, within=40).phase is Phase.CANCELLED
    assert 9 < time.monotonic() - started < 20
    if Capability.PROCESS_FAULTS in send.client.backend.capabilities:
        assert gone(int(said[-1].split()[1]))


@pytest.mark.slow
def test_cancel_returns_at_once(send: Sender) -> None:
    job = send(
        "import signal, sys, time\n"
        "def bye(*_):\n    time.sleep(8)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\nprint('ready', flush=True)\ntime.sleep(600)"
    )
    running(job)
    started = time.monotonic()
    job.cancel()
    job.cancel()

    assert time.monotonic() - started < 5
    assert not job.phase.final


@pytest.mark.parametrize("source", ["pass", "raise ValueError"])
def test_a_job_that_has_ended_stays_as_it_is(send: Sender, source: str) -> None:
    job = send.over(source)
    before = job.status()
    job.cancel()

    assert send.client.job(job.id).status() == before


@needs(Capability.ADMISSION)
def test_a_job_that_waits_is_cancelled_without_having_run(send: Sender) -> None:
    first = send("print('ready', flush=True)\nimport time\ntime.sleep(600)", cpu=all_cores(send))
    running(first)
    second = send("print('never')", cpu=all_cores(send))
    second.cancel()

    assert ended(second).phase is Phase.CANCELLED
    assert code(second) == "Cancelled"
    assert tail(second) == ""
    assert first.phase is Phase.RUNNING


def test_a_job_that_is_cancelled_at_once_is_cancelled(send: Sender) -> None:
    job = send("import time\ntime.sleep(600)")
    job.cancel()

    assert ended(job).phase is Phase.CANCELLED


def test_a_cancelled_job_is_not_tried_again(send: Sender) -> None:
    job = send("import time\nprint('ready', flush=True)\ntime.sleep(600)", retries=3)
    running(job)
    job.cancel()

    assert ended(job).phase is Phase.CANCELLED
    assert job.status().attempt == 0


@needs(Capability.PROCESS_FAULTS)
def test_delete_of_a_running_job_leaves_no_process(send: Sender) -> None:
    job = send(
        "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '600'])\n"
        "print('ready', os.getpid(), os.getppid(), child.pid, flush=True)\ntime.sleep(600)"
    )
    said = running(job)
    send.client.delete(job)

    assert all(gone(int(pid)) for pid in said[-1].split()[1:])


@pytest.mark.rights
@pytest.mark.via
def test_a_deleted_job_is_gone_and_so_is_every_file(send: Sender, state_dir: Path) -> None:
    job = send("print('ready', flush=True)\nopen('file', 'w').write('x')\nimport time\ntime.sleep(600)")
    running(job)
    send.client.delete(job)

    assert sent(send.client, job) == []
    assert [path for path in state_dir.rglob("*") if job.id in str(path)] == []
    for ask in (lambda: list(job.logs()), lambda: send.client.job(job.id), lambda: job.wait(1) and job.status()):
        with pytest.raises(NotFound):
            ask()


def test_one_who_follows_a_job_that_is_deleted_does_not_wait_for_ever(send: Sender) -> None:
    job = send("print('ready', flush=True)\nimport time\ntime.sleep(600)")
    lines = job.logs(follow=True)
    next(lines)
    send.client.delete(send.client.job(job.id))

    with pytest.raises(NotFound):
        list(lines)


@pytest.mark.slow
def test_one_who_waits_for_a_job_that_is_deleted_does_not_wait_for_ever(send: Sender) -> None:
    job = send("print('ready', flush=True)\nimport time\ntime.sleep(600)")
    running(job)
    other = Client().job(job.id)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(other.wait)
        send.client.delete(job)

        with suppress(NotFound):  # or it saw the end before the job was gone
            waits.result(timeout=60)


def test_waiting_for_a_job_that_was_deleted_says_so(send: Sender) -> None:
    job = send("print('ready', flush=True)\nimport time\ntime.sleep(600)")
    running(job)
    send.client.delete(Client().job(job.id))

    with pytest.raises(NotFound):
        job.wait()
    with pytest.raises(NotFound):
        job.result()


def test_two_who_delete_one_job_do_not_hinder_each_other(send: Sender) -> None:
    job = send("print('ready', flush=True)\nimport time\ntime.sleep(600)")
    running(job)
    handles = [Client().job(job.id) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(handle.delete) for handle in handles]:
            with suppress(NotFound):
                done.result(timeout=60)

    assert sent(send.client, job) == []
