"""The local backend with real processes: what a job leaves, how it ends, and who hears of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from kube_nb.backends.base import Cursor, JobStatus
from kube_nb.backends.local import lock
from kube_nb.backends.local.bus import Bus, Listener, runtime_directory
from kube_nb.backends.local.directory import JobDirectory
from kube_nb.backends.local.processes import Identity
from kube_nb.errors import BadValue, NotFound, Refused, StorageFailed
from kube_nb.spec import Environment, Gpu, JobId, JobSpec, Phase, Placement, Resources, new_job_id
from tests.unit.small_runner.workshop import PATIENCE, Workshop

FOREVER = "import os, time\nprint(os.getpid(), flush=True)\nwhile True: time.sleep(1)"


@pytest.fixture
def workshop(tmp_path):
    made = Workshop(tmp_path)
    yield made
    for status in made.backend.list():
        if not status.phase.final:
            made.backend.delete(status.id)


@pytest.fixture
def small_disk(tmp_path):
    """A workshop on a file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        yield Workshop(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def gone(pid: int) -> bool:
    """Wait until a process has ended; one that nobody has reaped yet has."""
    until = time.monotonic() + PATIENCE
    while Identity.of(pid).start:
        assert time.monotonic() < until, f"process {pid} still runs"
        time.sleep(0.005)
    return True


# One job ------------------------------------------------------------------------------------------------------------


def test_a_job_runs_and_its_text_is_kept_byte_for_byte(workshop):
    job = workshop.submit(r"import sys; sys.stdout.buffer.write(b'a\x00\xff\n\x1e{}\nb')")
    status = workshop.end(job)
    assert (status.phase, status.reason) == (Phase.SUCCEEDED, None)
    assert status.end["code"] == "Succeeded"
    kept = b"".join(chunk.data for chunk in workshop.chunks(job, follow=False))
    assert b"a\x00\xff\n\x1e\x1e{}\nb" in kept


def test_the_phases_come_in_their_order(workshop):
    seen: list[Phase] = []
    ended = threading.Event()

    def look(status: JobStatus) -> None:
        if not seen or seen[-1] is not status.phase:
            seen.append(status.phase)
        if status.phase.final:
            ended.set()

    subscription = workshop.backend.subscribe(look)
    workshop.submit("import time; time.sleep(0.5)")
    assert ended.wait(PATIENCE)
    subscription.close()
    order = [Phase.PENDING, Phase.STARTING, Phase.RUNNING, Phase.SUCCEEDED]
    assert seen == [phase for phase in order if phase in seen]
    assert seen[-2:] == [Phase.RUNNING, Phase.SUCCEEDED]


def test_the_same_id_is_the_same_job(workshop):
    first = workshop.submit("print(1)", id="same")
    second = workshop.submit("print(2)", id="same")
    assert first == second
    workshop.end(first)
    assert workshop.text(first) == "1\n"
    assert len(workshop.backend.list()) == 1


def test_two_who_submit_one_id_at_once_make_one_job(workshop):
    jobs = []
    threads = [
        threading.Thread(target=lambda n=n: jobs.append(workshop.submit(f"print({n})", id="same"))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(jobs) == {"same"}
    workshop.end(jobs[0])
    assert len(workshop.text(jobs[0]).splitlines()) == 1
    assert os.listdir(workshop.state / "jobs") == ["same"]


@pytest.mark.parametrize("id", ["../evil", "UPPER", "", "a" * 64, "-a", ".making-x"])
def test_an_id_that_is_no_label_is_refused(workshop, id):
    with pytest.raises(BadValue):
        workshop.backend.submit(JobSpec(id=JobId(id), name="x"), workshop.bundle(""))
    with pytest.raises(NotFound):
        workshop.backend.cancel(JobId(id))


def test_a_job_finds_what_it_was_given_and_nothing_else_of_the_kernel(workshop, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN_OF_THE_KERNEL", "x")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    job = workshop.submit("import json, os; print(json.dumps(dict(os.environ)))", env={"GIVEN": "secret-value-$`\\\"'"})
    found = json.loads(workshop.text(job))
    assert found["GIVEN"] == "secret-value-$`\\\"'"
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["PATH"] == os.environ["PATH"]
    assert "SOME_TOKEN_OF_THE_KERNEL" not in found


def test_secrets_are_in_no_file_and_on_no_command_line(workshop):
    job = workshop.submit(FOREVER, env={"TOKEN": "s3cr3t-t0k3n"})
    workshop.first_line(job)
    for path in workshop.directory(job).rglob("*"):
        assert not path.is_file() or b"s3cr3t-t0k3n" not in path.read_bytes(), path
    for process in psutil.process_iter():
        try:
            assert "s3cr3t-t0k3n" not in " ".join(process.cmdline())
        except psutil.Error:
            continue


def test_what_is_private_can_be_read_by_its_owner_alone(workshop):
    job = workshop.submit("")
    workshop.end(job)
    assert workshop.state.joinpath("jobs").stat().st_mode & 0o077 == 0
    assert workshop.directory(job).stat().st_mode & 0o077 == 0
    assert workshop.directory(job).joinpath("key").stat().st_mode & 0o777 == 0o600


def test_a_submit_leaves_no_child_behind(workshop):
    job = workshop.submit(FOREVER)
    workshop.first_line(job)
    assert psutil.Process().children(recursive=True) == []


def test_a_job_outlives_the_process_that_sent_it(workshop):
    source = textwrap.dedent(
        f"""
        import os, sys
        from pathlib import Path
        from tests.unit.small_runner.workshop import Workshop
        shop = Workshop(Path({str(workshop.root / "other")!r}))
        print(shop.submit("import time; time.sleep(1); print('still here')"), flush=True)
        os.kill(os.getpid(), 9)
        """
    )
    sent = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert sent.returncode == -signal.SIGKILL, sent.stderr
    other = object.__new__(Workshop)
    other.__dict__ |= vars(workshop) | {"state": workshop.root / "other" / "state"}
    other.backend = type(workshop.backend)(other.state)
    job = JobId(sent.stdout.strip())
    assert other.end(job).phase is Phase.SUCCEEDED
    assert other.text(job) == "still here\n"


def test_the_work_directory_is_empty_and_the_jobs_own(workshop):
    job = workshop.submit("import os; print(os.listdir()); open('x', 'w').close()")
    assert workshop.text(job) == "[]\n"
    assert workshop.directory(job).joinpath("work", "x").exists()


def test_an_object_is_found_and_a_missing_one_is_said(workshop):
    digest = "ab" * 32
    source = (
        f"import os; d = os.environ['KUBE_NB_OUT'] + '/objects'; os.mkdir(d); open(d + '/{digest}', 'w').write('v')"
    )
    job = workshop.submit(source)
    workshop.end(job)
    assert workshop.backend.fetch(job, digest, workshop.root / "unused").read_text() == "v"
    for wrong in ("cd" * 32, "../../key", ""):
        with pytest.raises(NotFound):
            workshop.backend.fetch(job, wrong, workshop.root / "unused")
    assert (workshop.backend.bundle(job) / "rank.py").read_text() == source


# Streams ------------------------------------------------------------------------------------------------------------


def test_a_stream_can_be_read_again_from_any_place(workshop):
    job = workshop.submit("print('x' * 3_000_000)")
    whole = b"".join(chunk.data for chunk in workshop.chunks(job))
    for offset in (0, 1, 1 << 20, len(whole) - 1, len(whole), len(whole) + 9):
        rest = workshop.chunks(job, cursor=Cursor(0, offset), follow=False)
        assert b"".join(chunk.data for chunk in rest) == whole[offset:]
        assert all(chunk.at.offset >= offset for chunk in rest)


def test_without_following_a_stream_ends_where_the_job_stands(workshop):
    job = workshop.submit(FOREVER)
    workshop.first_line(job)
    assert workshop.chunks(job, follow=False)


def test_two_who_follow_see_the_same(workshop):
    job = workshop.submit("import time\nfor n in range(50): print(n, flush=True); time.sleep(0.01)")
    seen: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: seen.append(b"".join(c.data for c in workshop.chunks(job)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert seen[0].count(b"\n") >= 50


def test_a_line_is_seen_while_the_job_still_runs(workshop):
    job = workshop.submit(FOREVER)
    assert psutil.pid_exists(int(workshop.first_line(job)))
    assert workshop.status(job).phase is Phase.RUNNING


def test_a_follower_that_was_left_leaves_no_socket(workshop):
    job = workshop.submit(FOREVER)
    stream = workshop.backend.stream(job)
    next(stream)
    stream.close()
    bus = Path(runtime_directory(str(workshop.state), os.environ))
    assert [name for name in os.listdir(bus) if f"-{os.getpid():x}-" in name] == []


@pytest.mark.slow
def test_a_million_lines_arrive_once_each(workshop):
    job = workshop.submit(
        "import sys\nfor n in range(0, 1_000_000, 1000):\n"
        "    sys.stdout.write(''.join(f'line {i} of the log of a job\\n' for i in range(n, n + 1000)))"
    )
    begun = time.monotonic()
    lines = workshop.text(job).splitlines()
    taken = time.monotonic() - begun
    assert lines == [f"line {n} of the log of a job" for n in range(1_000_000)]
    print(f"{1_000_000 / taken:,.0f} lines/s")


def test_a_stream_of_no_job_is_said(workshop):
    with pytest.raises(NotFound):
        workshop.backend.stream(JobId("nobody"))


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


def test_a_runner_that_will_not_end_is_killed(workshop):
    runner = workshop.runner / "main.py"
    runner.write_text(runner.read_text().replace("SIG_UNBLOCK", "SIG_BLOCK"))
    job = workshop.submit(FOREVER, grace=0.1)
    pid = int(workshop.first_line(job))
    workshop.backend.cancel(job)
    assert workshop.end(job).phase is Phase.CANCELLED
    assert gone(pid)


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
    os.kill(lock.recorded(str(workshop.directory(job) / "lock"))[0].pid, signal.SIGKILL)
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
    os.kill(lock.recorded(str(workshop.directory(job) / "lock"))[0].pid, signal.SIGTERM)
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
    leaked = lock.take_over(path)
    assert leaked is not None
    try:
        assert workshop.status(job).reason.code == "SupervisorLost"
    finally:
        os.close(leaked)


def test_a_number_that_was_used_again_is_somebody_else():
    me = Identity.of(os.getpid())
    assert me.here
    assert me.runs
    assert not Identity(os.getpid(), me.start + "0", me.boot).runs
    assert not Identity(os.getpid(), me.start, "another boot").here


# Attempts and nodes -------------------------------------------------------------------------------------------------


FAILS_TWICE = (
    "import os\nn = int(os.environ['KUBE_NB_ATTEMPT'])\nprint('try', n)\nopen('left', 'x')\nraise SystemExit(n < 2)"
)


def test_failures_of_the_code_are_tried_again_in_a_fresh_directory(workshop):
    job = workshop.submit(FAILS_TWICE, retries=5)
    status = workshop.end(job)
    assert (status.phase, status.attempt) == (Phase.SUCCEEDED, 2)
    assert workshop.text(job) == "try 0\ntry 1\ntry 2\n"
    places = [(chunk.at.attempt, chunk.at.offset) for chunk in workshop.chunks(job)]
    assert places == sorted(places)
    assert {attempt for attempt, _ in places} == {0, 1, 2}
    assert {chunk.at.attempt for chunk in workshop.chunks(job, cursor=Cursor(1, 10))} == {1, 2}


def test_retries_have_an_end(workshop):
    job = workshop.submit(FAILS_TWICE, retries=1)
    status = workshop.end(job)
    assert (status.phase, status.attempt) == (Phase.FAILED, 1)


def test_a_cancelled_job_is_not_tried_again(workshop):
    job = workshop.submit(FOREVER, retries=3)
    workshop.first_line(job)
    workshop.backend.cancel(job)
    status = workshop.end(job)
    assert (status.phase, status.attempt) == (Phase.CANCELLED, 0)


def test_each_node_has_its_stream_and_they_can_find_each_other(workshop):
    job = workshop.submit(
        "import os; print(os.environ['NODE'], os.environ['MASTER_ADDR'], os.environ['MASTER_PORT'], os.getcwd())",
        resources=Resources(nodes=2),
    )
    assert workshop.end(job).nodes == 2
    first, second = workshop.text(job, node=0).split(), workshop.text(job, node=1).split()
    assert (first[0], second[0]) == ("0", "1")
    assert first[1:3] == second[1:3]
    assert first[3] != second[3]


def test_the_first_node_that_fails_is_the_reason_and_the_others_end(workshop):
    job = workshop.submit(
        "import os, time\nprint(os.getpid(), flush=True)\n"
        "if os.environ['NODE'] == '1':\n    time.sleep(0.5)\n    raise SystemExit(7)\ntime.sleep(600)",
        resources=Resources(nodes=2),
    )
    pid = int(workshop.first_line(job, node=0))
    status = workshop.end(job)
    assert (status.phase, status.end["exit"]) == (Phase.FAILED, 7)
    assert gone(pid)


# Full and broken places ---------------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(workshop):
    (workshop.root / "file").write_text("")
    backend = type(workshop.backend)(workshop.root / "file" / "state")
    bundle = workshop.bundle("")
    with pytest.raises(StorageFailed, match="file"):
        backend.submit(JobSpec(id=new_job_id("x"), name="x"), bundle)
    assert bundle.directory.exists()


def test_a_full_disk_refuses_a_job_and_leaves_nothing(small_disk):
    bundle = small_disk.bundle("")
    (small_disk.state / "jobs").mkdir()
    filler = small_disk.root / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 12)):
            pass
    with pytest.raises(StorageFailed, match="No space") as told:
        small_disk.backend.submit(JobSpec(id=new_job_id("x"), name="x"), bundle)
    assert str(small_disk.state) in told.value.why
    assert os.listdir(small_disk.state / "jobs") == []
    assert (bundle.directory / "rank.py").exists()


def test_a_disk_that_fills_while_the_job_runs_ends_it_with_that_reason(small_disk):
    job = small_disk.submit("while True: print('x' * 1000)")
    status = small_disk.end(job)
    assert (status.phase, status.reason.code) == (Phase.FAILED, "OutOfDisk")
    assert status.ended is not None
    small_disk.backend.delete(job)


def test_a_read_only_place_is_refused_too(small_disk):
    bundle = small_disk.bundle("")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk.root)], check=True)
    with pytest.raises(StorageFailed, match=r"[Rr]ead-only"):
        small_disk.backend.submit(JobSpec(id=new_job_id("x"), name="x"), bundle)
    assert small_disk.backend.list() == []


def test_a_bundle_from_another_file_system_is_copied(workshop, small_disk):
    bundle = small_disk.bundle("print('moved')")
    job = workshop.backend.submit(JobSpec(id=new_job_id("x"), name="x"), replace(bundle, runner=workshop.runner))
    assert workshop.text(job) == "moved\n"
    assert not bundle.directory.exists()


def test_what_is_no_job_is_passed_over(workshop):
    job = workshop.submit("")
    workshop.end(job)
    jobs = workshop.state / "jobs"
    (jobs / "empty").mkdir()
    (jobs / "torn").mkdir()
    (jobs / "torn" / "state.json").write_text('{"id": "torn", "pha')
    (jobs / "strange").mkdir()
    (jobs / "strange" / "state.json").write_text('{"id": "strange", "phase": "Dancing"}')
    (jobs / "list").mkdir()
    (jobs / "list" / "state.json").write_text("[1]")
    (jobs / "Not A Job").mkdir()
    (jobs / "file").write_text("")
    assert [status.id for status in workshop.backend.list()] == [job]


def test_a_submit_that_was_killed_before_its_supervisor_was_told_is_found_dead(workshop):
    job = workshop.submit("")
    workshop.end(job)
    place = workshop.directory(job)
    state = json.loads((place / "state.json").read_text())
    (place / "state.json").write_text(json.dumps(state | {"phase": "Pending", "end": {}, "ended": None}))
    (place / "lock").write_text("")
    assert workshop.status(job).reason.code == "SupervisorLost"


def test_a_directory_that_somebody_removes_ends_its_job(workshop):
    job = workshop.submit("import time\nprint(1, flush=True)\ntime.sleep(1)")
    workshop.first_line(job)
    supervisor = lock.recorded(str(workshop.directory(job) / "lock"))[0].pid
    shutil.rmtree(workshop.directory(job))
    assert gone(supervisor)
    assert workshop.backend.list() == []


# Many jobs, and those who watch -------------------------------------------------------------------------------------


def many(workshop: Workshop, count: int) -> None:
    (workshop.state / "swept").touch()  # or the end of the first one clears the others away
    job = workshop.submit("")
    workshop.end(job)
    pattern = json.loads((workshop.directory(job) / "state.json").read_text())
    for number in range(count - 1):
        place = workshop.directory(f"old-{number}")
        place.mkdir()
        (place / "lock").write_text("")
        made = pattern | {"id": place.name, "created": number + 1.0, "ended": number + 1.0}
        (place / "state.json").write_text(json.dumps(made))


def test_a_thousand_finished_jobs_are_listed_newest_first_in_a_blink(workshop):
    many(workshop, 1000)
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


# Retention ----------------------------------------------------------------------------------------------------------


def test_what_is_old_goes_and_what_lives_stays(workshop):
    live = workshop.submit(FOREVER)
    many(workshop, 5)
    half_made = workshop.state / "jobs" / ".making-x.1.ab"
    half_made.mkdir()
    os.utime(half_made, (0, 0))
    unused = workshop.state / "environments" / "unused"
    unused.mkdir(parents=True)
    os.utime(unused, (0, 0))
    for runner in ("old", "small"):
        path = workshop.state / "runners" / runner
        path.mkdir(exist_ok=True)
        os.utime(path, (0, 0))
    would = workshop.backend.clean(max_age=3600, dry_run=True)
    assert workshop.directory("old-0").exists()
    went = workshop.backend.clean(max_age=3600)
    assert {entry.path.name for entry in went} == {entry.path.name for entry in would}
    assert {entry.path.name for entry in went} == {*(f"old-{n}" for n in range(4)), half_made.name, "unused", "old"}
    assert not workshop.directory("old-0").exists()
    assert workshop.status(live).phase in (Phase.STARTING, Phase.RUNNING, Phase.PENDING)


def test_the_oldest_go_until_the_rest_has_room(workshop):
    many(workshop, 4)
    for number in range(3):
        (workshop.directory(f"old-{number}") / "big").write_bytes(os.urandom(1 << 20))
    went = workshop.backend.clean(max_age=1e12, max_bytes=(1 << 20) + (1 << 19))
    assert [entry.path.name for entry in went if entry.kind == "job"] == ["old-0", "old-1"]


def test_the_end_of_a_job_sweeps_now_and_then(workshop):
    many(workshop, 3)
    (workshop.state / "swept").unlink()
    job = workshop.submit("")
    workshop.end(job)
    supervisor = lock.recorded(str(workshop.directory(job) / "lock"))[0].pid
    assert gone(supervisor)
    assert not workshop.directory("old-0").exists()
    assert workshop.directory(job).exists()


# Preflight ----------------------------------------------------------------------------------------------------------


def levels(workshop: Workshop, **parts: object) -> dict[str, str]:
    spec = replace(JobSpec(id=JobId("x"), name="x"), **parts)
    return {finding.reason.code: finding.level for finding in workshop.backend.check(spec)}


def test_what_is_more_than_the_machine_is_refused(workshop):
    assert levels(workshop) == {}
    assert levels(workshop, resources=Resources(cpu=100_000)) == {"NotEnoughCpu": "error"}
    assert levels(workshop, resources=Resources(memory=2**60))["NotEnoughMemory"] == "error"
    assert levels(workshop, resources=Resources(gpu=Gpu(count=1000))) == {"NoGpu": "error"}
    assert levels(workshop, resources=Resources(gpu=Gpu(count=1, resource="amd.com/gpu"))) == {"NoGpu": "error"}
    with pytest.raises(Refused) as told:
        workshop.submit("", resources=Resources(gpu=Gpu(count=1000)))
    assert told.value.findings[0].reason.code == "NoGpu"
    assert told.value.next


def test_what_has_no_effect_is_said(workshop):
    placement = Placement(queue="q", volumes=("a:/b",))
    spec = JobSpec(id=JobId("x"), name="x", environment=Environment(image="python:3.12"), placement=placement)
    said = workshop.backend.check(spec)
    assert {finding.level for finding in said} == {"ignored"}
    assert {finding.reason.what.split()[0] for finding in said} == {"--image", "--queue", "--volume"}


def test_a_limit_that_is_sampled_is_said_to_be_approximate(workshop, monkeypatch):
    monkeypatch.setattr("kube_nb.backends.local.backend._scope_program", lambda: "")
    assert levels(workshop, resources=Resources(memory=2**20)) == {"ApproximateMemoryLimit": "warning"}
    monkeypatch.setattr("kube_nb.backends.local.backend._scope_program", lambda: "/usr/bin/systemd-run")
    assert levels(workshop, resources=Resources(memory=2**20)) == {}


def test_windows_is_pointed_elsewhere(workshop, monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    (finding,) = workshop.backend.check(JobSpec(id=JobId("x"), name="x"))
    assert finding.level == "error"
    assert "WSL" in finding.reason.next


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


def test_without_a_place_for_sockets_jobs_end_all_the_same(workshop, monkeypatch):
    monkeypatch.setattr("kube_nb.backends.local.backend.runtime_directory", lambda *_: "")
    deaf = type(workshop.backend)(workshop.state)
    job = deaf.submit(JobSpec(id=new_job_id("d"), name="d"), workshop.bundle("print('x')"))
    assert b"x\n" in b"".join(chunk.data for chunk in deaf.stream(job))
