"""Who hears of local jobs, and how: subscriptions, lists, wake-ups."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from kube_nb.backends.base import JobStatus
from kube_nb.backends.local.bus import Bus, Listener, runtime_directory
from kube_nb.backends.local.watch import Watch
from kube_nb.errors import NotFound
from kube_nb.spec import JobSpec, Phase, new_job_id
from tests.conformance.sending import gone
from tests.unit.small_runner.workshop import FOREVER, PATIENCE, Workshop


@pytest.fixture
def workshop(tmp_path):
    with Workshop(tmp_path) as made:
        yield made


# Many jobs, and those who watch -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_finished_jobs_are_listed_newest_first_in_a_blink(workshop):
    workshop.have_finished(1000)
    backend = type(workshop.backend)(workshop.state)
    taken = []
    for _ in range(3):
        fresh = type(backend)(workshop.state)
        begun = time.perf_counter()
        found = fresh.list()
        taken.append(time.perf_counter() - begun)
    assert len(found) == 1000
    assert [status.created for status in found] == sorted((status.created for status in found), reverse=True)
    print(f"1000 jobs: {min(taken) * 1000:.0f} ms")
    assert min(taken) < 0.3


def test_a_subscriber_hears_of_jobs_of_other_processes(workshop):
    heard: list[tuple[str, Phase]] = []
    ended = threading.Event()

    def look(status: JobStatus) -> None:
        heard.append((status.id, status.phase))
        if status.phase.final:
            ended.set()

    subscription = workshop.backend.subscribe(look)
    try:
        other = type(workshop.backend)(workshop.state)
        job = other.submit(JobSpec(id=new_job_id("o"), name="o"), workshop.bundle(""))
        assert ended.wait(PATIENCE)
    finally:
        subscription.close()
    assert heard[-1] == (job, Phase.SUCCEEDED)
    assert len(heard) == len(set(heard))


def test_a_closed_subscription_is_silent_and_its_thread_ends(workshop):
    calls: list[JobStatus] = []
    subscription = workshop.backend.subscribe(calls.append)
    job = workshop.submit("")
    workshop.end(job)
    subscription.close()
    subscription.close()
    count = len(calls)
    workshop.end(workshop.submit(""))
    assert len(calls) == count
    until = time.monotonic() + PATIENCE
    while any(thread.name == "kube-nb-jobs" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_callback_may_close_itself_and_one_that_fails_harms_no_other(workshop, caplog):
    def fails(status: JobStatus) -> None:
        raise RuntimeError("mine alone")

    own = []
    failing = workshop.backend.subscribe(fails)
    closing = workshop.backend.subscribe(lambda status: (own.append(status), closing.close()))
    job = workshop.submit("")
    assert workshop.end(job).phase is Phase.SUCCEEDED
    failing.close()
    assert len(own) == 1
    assert "mine alone" in caplog.text


def test_a_deleted_job_is_no_more_heard_of(workshop):
    job = workshop.submit(FOREVER)
    pid = int(workshop.first_line(job))
    workshop.backend.delete(job)
    assert gone(pid)
    assert not workshop.directory(job).exists()
    assert os.listdir(workshop.state / "jobs") == []
    heard: list[JobStatus] = []
    subscription = workshop.backend.subscribe(heard.append)
    workshop.end(workshop.submit(""))
    subscription.close()
    assert job not in {status.id for status in heard}
    for gone_now in (workshop.backend.delete, workshop.backend.cancel, workshop.backend.bundle):
        with pytest.raises(NotFound):
            gone_now(job)


# Wake-ups -----------------------------------------------------------------------------------------------------------


def test_a_wake_up_reaches_those_who_listen_for_it_and_forgets_the_dead(tmp_path):
    directory = str(tmp_path)
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(f"{directory}/topic-dead")
    dead.close()
    bus = Bus(directory)
    with Listener(directory, "topic") as one, Listener(directory, "other") as other:
        bus.send("topic", "word")
        assert one.drain() == ["word"]
        assert other.drain() == []
    assert os.listdir(directory) == []
    bus.close()


def test_a_full_ear_does_not_block_the_speaker(tmp_path):
    bus = Bus(str(tmp_path))
    with Listener(str(tmp_path), "topic") as ear:
        for _ in range(10_000):
            bus.send("topic", "word")
        assert ear.drain()


def test_sockets_lie_in_a_directory_of_ones_own_alone(tmp_path):
    too_long = str(tmp_path / ("x" * 60))
    assert not runtime_directory("/nowhere", {"XDG_RUNTIME_DIR": too_long}).startswith(too_long)
    short = Path(f"/tmp/k{os.getpid()}")
    short.mkdir(mode=0o700)
    try:
        assert runtime_directory("/nowhere", {"XDG_RUNTIME_DIR": str(short)}) == f"{short}/kube-nb"
        (short / "kube-nb").chmod(0o777)
        assert not runtime_directory("/nowhere", {"XDG_RUNTIME_DIR": str(short)}).startswith(str(short))
    finally:
        shutil.rmtree(short)


@pytest.mark.slow
def test_without_a_place_for_sockets_jobs_end_all_the_same(workshop, monkeypatch):
    monkeypatch.setattr("kube_nb.backends.local.backend.runtime_directory", lambda *_: "")
    deaf = type(workshop.backend)(workshop.state)
    job = deaf.submit(JobSpec(id=new_job_id("d"), name="d"), workshop.bundle("print('x')"))
    assert b"x\n" in b"".join(chunk.data for chunk in deaf.stream(job))


def test_a_watch_that_ends_leaves_the_next_one_alone(workshop, monkeypatch):
    job = workshop.submit(FOREVER)  # its end is watched by a descriptor
    runs, again, ended, over = threading.Event(), threading.Event(), threading.Event(), Watch._over

    def second(status: JobStatus) -> None:
        (ended if status.phase.final else again).set()

    def next_one_begins(watch: Watch) -> bool:
        done = over(watch)
        if done and not again.is_set():
            workshop.backend.subscribe(second)
            assert again.wait(PATIENCE)
        return done

    monkeypatch.setattr(Watch, "_over", next_one_begins)
    first = workshop.backend.subscribe(lambda status: runs.set() if status.phase is Phase.RUNNING else None)
    assert runs.wait(PATIENCE)
    first.close()
    assert again.wait(PATIENCE)
    workshop.backend.cancel(job)
    assert ended.wait(PATIENCE)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "while a watch comes and goes"])
def test_a_forked_kernel_hears_of_jobs_too(workshop, busy):
    workshop.end(workshop.submit(""))  # the thread that a fork does not take along
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            workshop.backend.subscribe(lambda status: None).close()

    others = threading.Thread(target=come_and_go)
    if busy:
        others.start()
    try:
        for _ in range(20 if busy else 1):
            assert _hears_in_a_fork(workshop.backend)
    finally:
        stop.set()
        if busy:
            others.join()


def _hears_in_a_fork(backend) -> bool:
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(PATIENCE))  # ends even a child that waits for a lock
        heard = threading.Event()
        backend.subscribe(lambda status: heard.set())
        os._exit(0 if heard.wait(PATIENCE) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
