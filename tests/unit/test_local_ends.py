"""How local jobs end: by themselves, by a signal, by a limit, by the death of what looks after them."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kube_nb.backends.local import backend, lock
from kube_nb.backends.local.directory import JobDirectory
from kube_nb.backends.local.processes import Identity
from kube_nb.backends.local.status import status_of
from kube_nb.spec import Phase, Resources
from tests.conformance.sending import gone
from tests.unit.small_runner.workshop import FOREVER, Workshop


@pytest.fixture
def workshop(tmp_path):
    with Workshop(tmp_path) as made:
        yield made


# How jobs end -------------------------------------------------------------------------------------------------------


def test_a_failure_is_the_runners_word(workshop):
    status = workshop.end(workshop.submit("raise SystemExit(3)"))
    assert (status.phase, status.reason.code) == (Phase.FAILED, "Exception")


def test_a_killed_rank_is_no_lack_of_memory(workshop):
    job = workshop.submit("import os; os.kill(os.getpid(), 9)", resources=Resources(memory=2**30))
    assert workshop.end(job).reason.code == "Signal"


def test_a_job_over_its_memory_limit_ends_and_says_both_numbers(workshop):
    job = workshop.submit(
        "import time\nkept = bytearray(300 << 20)\ntime.sleep(60)", resources=Resources(memory=150 << 20)
    )
    status = workshop.end(job)
    assert status.reason.code == "OutOfMemory"
    assert "150 MiB" in status.reason.why
    assert status.end["detail"]["peak"] > 150 << 20


@pytest.mark.slow
def test_memory_that_children_share_counts_once(workshop):
    source = textwrap.dedent(
        """
        import os, time
        kept = bytearray(os.urandom(1 << 20) * 100)
        for _ in range(4):
            if os.fork() == 0:
                time.sleep(2)
                os._exit(0)
        for _ in range(4):
            os.wait()
        """
    )
    assert workshop.end(workshop.submit(source, resources=Resources(memory=300 << 20))).phase is Phase.SUCCEEDED


def test_a_cancelled_job_ends_and_its_processes_with_it(workshop):
    job = workshop.submit(FOREVER)
    pid = int(workshop.first_line(job))
    workshop.backend.cancel(job)
    status = workshop.end(job)
    assert (status.phase, status.reason.code) == (Phase.CANCELLED, "Cancelled")
    assert gone(pid)
    workshop.backend.cancel(job)
    assert workshop.status(job).phase is Phase.CANCELLED


def test_a_job_cancelled_at_birth_is_cancelled(workshop):
    for _ in range(3):
        job = workshop.submit(FOREVER)
        workshop.backend.cancel(job)
        assert workshop.end(job).phase is Phase.CANCELLED


@pytest.mark.slow
def test_a_runner_that_will_not_end_is_killed(workshop):
    runner = workshop.runner / "main.py"
    runner.write_text(runner.read_text().replace("SIG_UNBLOCK", "SIG_BLOCK"))
    job = workshop.submit(FOREVER, grace=0.1)
    pid = int(workshop.first_line(job))
    workshop.backend.cancel(job)
    assert workshop.end(job).phase is Phase.CANCELLED
    assert gone(pid)


def test_a_dead_job_whose_files_go_while_it_is_looked_at_is_found_dead_all_the_same(workshop):
    job = workshop.submit(FOREVER)
    workshop.first_line(job)
    directory = workshop.directory(job)
    (directory / "stream.7.1").symlink_to("deleted")  # what a listing still names, and is gone when it is asked for
    os.kill(lock.recorded(JobDirectory(str(directory)).lock)[0].pid, signal.SIGKILL)
    assert workshop.end(job).reason.code == "SupervisorLost"


def test_a_job_whose_supervisor_was_killed_is_found_dead_with_its_processes(workshop):
    job = workshop.submit(FOREVER)
    pid = int(workshop.first_line(job))
    supervisor, runner = lock.recorded(JobDirectory(str(workshop.directory(job))).lock)
    os.kill(supervisor.pid, signal.SIGKILL)
    status = workshop.end(job)
    assert (status.phase, status.reason.code) == (Phase.FAILED, "SupervisorLost")
    assert gone(pid)
    assert gone(runner.pid)
    assert workshop.status(job) == status
    assert list(workshop.backend.stream(job))


def test_a_follower_learns_of_a_killed_supervisor_without_waiting(workshop):
    job = workshop.submit(FOREVER)
    stream = workshop.backend.stream(job)
    next(stream)
    os.kill(workshop.supervisor(job), signal.SIGKILL)
    begun = time.monotonic()
    list(stream)
    assert time.monotonic() - begun < 1.5


def test_a_killed_runner_is_a_fault_of_ours_and_its_ranks_end(workshop):
    job = workshop.submit(FOREVER)
    pid = int(workshop.first_line(job))
    os.kill(lock.recorded(str(workshop.directory(job) / "lock"))[1].pid, signal.SIGKILL)
    status = workshop.end(job)
    assert status.reason.code == "RunnerFault"
    assert "SIGKILL" in status.reason.why
    assert gone(pid)


def test_a_runner_that_cannot_start_says_what_it_said(workshop):
    (workshop.runner / "main.py").write_text("raise RuntimeError('no such luck')")
    status = workshop.end(workshop.submit(""))
    assert status.reason.code == "RunnerFault"
    assert "no such luck" in status.reason.why


def test_a_stopped_machine_stops_the_job(workshop):
    job = workshop.submit(FOREVER)
    pid = int(workshop.first_line(job))
    os.kill(workshop.supervisor(job), signal.SIGTERM)
    assert workshop.end(job).reason.code == "Stopped"
    assert gone(pid)


def test_a_lock_that_somebody_else_got_hold_of_keeps_no_job_alive(workshop):
    job = workshop.submit(FOREVER)
    workshop.first_line(job)
    path = str(workshop.directory(job) / "lock")
    supervisor = lock.recorded(path)[0]
    os.kill(supervisor.pid, signal.SIGKILL)
    workshop.end(job)
    kept = workshop.directory(job) / "state.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"phase": "Running"}))
    with open(path) as leaked:
        fcntl.flock(leaked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert workshop.status(job).reason.code == "SupervisorLost"


def test_all_who_find_a_job_dead_at_once_find_one_end(workshop):
    job = workshop.submit(FOREVER)
    workshop.first_line(job)
    directory = JobDirectory(str(workshop.directory(job)))
    os.kill(workshop.supervisor(job), signal.SIGKILL)
    workshop.end(job)
    kept = directory.read_state()
    assert kept is not None
    with ThreadPoolExecutor(8) as lookers:
        for _ in range(50):
            directory.write_state(kept | {"phase": "Running", "ended": None})
            found = [looker.result() for looker in [lookers.submit(status_of, directory) for _ in range(8)]]
            assert found == [status_of(directory)] * 8


def test_a_number_that_was_used_again_is_somebody_else():
    me = Identity.of(os.getpid())
    assert me.here
    assert me.runs
    assert not Identity(os.getpid(), me.start + "0", me.boot).runs
    assert not Identity(os.getpid(), me.start, "another boot").here


def test_where_a_users_systemd_answers_it_holds_the_limit(workshop, monkeypatch, tmp_path):
    program = tmp_path / "bin" / "systemd-run"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@" >> "$0.said"\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    backend._scope_program.cache_clear()
    try:
        job = workshop.submit("print('inside')", resources=Resources(memory=1 << 30))
        assert workshop.end(job).phase is Phase.SUCCEEDED
    finally:
        backend._scope_program.cache_clear()
    assert workshop.text(job) == "inside\n"
    probe, used = Path(f"{program}.said").read_text().splitlines()
    assert probe.endswith("-- true")
    assert f"MemoryMax={1 << 30}" in used
    assert "--bundle" in used
