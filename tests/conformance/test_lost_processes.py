"""Processes that are killed from outside: the job is found dead, and nothing of it runs on."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import psutil
import pytest

from kube_nb.backends.base import Capability
from kube_nb.errors import JobFailed
from kube_nb.jobs.job import Job
from kube_nb.spec import Phase
from tests.conformance.backends import needs
from tests.conformance.sending import Sender, code, ended, gone, running, sent, tail

pytestmark = needs(Capability.PROCESS_FAULTS)
SOURCE = (
    "import os, subprocess, time\nx = 1\n"
    "child = subprocess.Popen(['sleep', '600'])\n"
    "away = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    "print('ready', os.getpid(), os.getppid(), child.pid, away.pid, flush=True)\n"
    "time.sleep(600)"
)


@dataclass(frozen=True)
class Tree:
    """The processes of a running job.

    Attributes:
        supervisor: looks after the job, where there is such a process; 0: there is none.
        runner: process 1 of the node.
        rank: runs the sent code.
        children: of the sent code.
    """

    supervisor: int
    runner: int
    rank: int
    children: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        return (self.supervisor, self.runner, self.rank, *self.children)


def tree(job: Job) -> Tree:
    rank, runner, *children = map(int, running(job)[-1].split()[1:])
    return Tree(psutil.Process(runner).ppid(), runner, rank, tuple(children))


def test_a_job_whose_supervisor_is_killed_is_found_dead_and_takes_all_with_it(send: Sender) -> None:
    job = send(SOURCE)
    processes = tree(job)
    started = time.monotonic()
    os.kill(processes.supervisor, signal.SIGKILL)

    assert ended(job, within=20).phase is Phase.FAILED
    assert time.monotonic() - started < 10
    assert code(job) == "SupervisorLost"
    assert job.reason is not None
    assert job.reason.next
    assert all(gone(pid) for pid in processes.all)


def test_what_a_killed_supervisor_leaves_ends_although_nobody_looks(send: Sender) -> None:
    processes = tree(send(SOURCE))
    os.kill(processes.supervisor, signal.SIGKILL)

    assert all(gone(pid) for pid in processes.all)


def test_a_job_found_dead_stays_dead_and_can_be_deleted(send: Sender) -> None:
    job = send(SOURCE)
    os.kill(tree(job).supervisor, signal.SIGKILL)
    first = ended(job).status()

    assert send.client.job(job.id).status() == first
    assert tail(job).startswith("ready")
    with pytest.raises(JobFailed):
        job.outputs["x"]
    send.client.delete(job)
    assert sent(send.client) == []


def test_a_job_found_dead_gives_its_place_in_the_queue_to_the_next(send: Sender) -> None:
    cores = send.client.backend.capacity().cpu
    assert cores is not None
    job = send(SOURCE, cpu=cores[1])
    processes = tree(job)
    second = send("print('ran')", cpu=cores[1])
    os.kill(processes.supervisor, signal.SIGKILL)

    assert ended(second, within=20).phase is Phase.SUCCEEDED


def test_a_job_whose_supervisor_dies_while_it_waits_is_found_dead(send: Sender) -> None:
    cores = send.client.backend.capacity().cpu
    assert cores is not None
    first = send(SOURCE, cpu=cores[1])
    mine = tree(first)
    second = send("print('never')", cpu=cores[1])
    deadline = time.monotonic() + 10
    while code(second) != "WaitingForTickets":
        assert time.monotonic() < deadline
    (supervisor,) = [pid for pid in supervisors() if pid != mine.supervisor]
    os.kill(supervisor, signal.SIGKILL)

    assert ended(second, within=20).phase is Phase.FAILED
    assert code(second) == "SupervisorLost"


def supervisors() -> list[int]:
    """The processes that hold the lock of one of this test's jobs."""
    state = os.path.realpath(os.environ["KUBE_NB_STATE_DIR"])
    found = []
    for process in psutil.process_iter():
        try:
            paths = [file.path for file in process.open_files()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(path.startswith(state) and path.endswith("/lock") for path in paths):
            found.append(process.pid)
    return found


def test_a_job_whose_runner_is_killed_has_failed_and_nothing_runs_on(send: Sender) -> None:
    job = send(SOURCE)
    processes = tree(job)
    os.kill(processes.runner, signal.SIGKILL)

    assert ended(job, within=20).phase is Phase.FAILED
    assert code(job) == "RunnerFault"
    assert job.reason is not None
    assert "SIGKILL" in job.reason.why
    assert all(gone(pid) for pid in processes.all)
    assert tail(job).startswith("ready")


def test_a_job_whose_rank_is_killed_has_failed_and_nothing_runs_on(send: Sender) -> None:
    job = send(SOURCE)
    processes = tree(job)
    os.kill(processes.rank, signal.SIGKILL)

    assert ended(job, within=20).phase is Phase.FAILED
    assert code(job) == "Signal"
    assert all(gone(pid) for pid in processes.all)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_runner_that_is_asked_to_end_says_so(send: Sender, number: signal.Signals) -> None:
    job = send(SOURCE)
    processes = tree(job)
    os.kill(processes.runner, number)

    assert ended(job, within=30).phase is Phase.FAILED
    assert code(job) == "Stopped"
    assert all(gone(pid) for pid in processes.all)


def test_a_supervisor_that_is_asked_to_end_ends_its_job_in_peace(send: Sender) -> None:
    job = send(SOURCE)
    processes = tree(job)
    os.kill(processes.supervisor, signal.SIGTERM)

    assert ended(job, within=30).phase is Phase.FAILED
    assert code(job) == "Stopped"
    assert all(gone(pid) for pid in processes.all)


def test_a_stopped_rank_can_be_cancelled(send: Sender) -> None:
    job = send(SOURCE)
    processes = tree(job)
    os.kill(processes.rank, signal.SIGSTOP)
    job.cancel()

    assert ended(job, within=30).phase is Phase.CANCELLED
    assert all(gone(pid) for pid in processes.all)


def test_a_job_outlives_the_process_that_sent_it(send: Sender) -> None:
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # a fork that hangs would hold the pipes of the test run open
        try:
            send("import time\ntime.sleep(1)\nprint('done')", name="orphan")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

    job = ended(send.client.job("orphan"))
    assert job.phase is Phase.SUCCEEDED
    assert tail(job) == "done\n"
