"""The local backend with real processes: what a job is given, what it leaves, and who hears of it."""

from __future__ import annotations

import json
import os
import signal
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
from kube_nb.backends.local.bus import runtime_directory
from kube_nb.errors import BadValue, NotFound, Refused
from kube_nb.spec import Environment, Gpu, JobId, JobSpec, Phase, Placement, Resources, SecretUse, VolumeUse
from tests.conformance.sending import gone
from tests.unit.small_runner.workshop import FOREVER, PATIENCE, Workshop


@pytest.fixture
def workshop(tmp_path):
    with Workshop(tmp_path) as made:
        yield made


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
    placement = Placement(
        queue="q",
        secrets=(SecretUse(name="a"),),
        volumes=(VolumeUse(claim="a", path="/b"),),
        node_selector={"a": "b"},
        priority_class="a",
        runtime_class="b",
        service_account="c",
    )
    spec = JobSpec(
        id=JobId("x"),
        name="x",
        environment=Environment(image="python:3.12"),
        resources=Resources(shm=1, disk=1),
        placement=placement,
    )
    said = workshop.backend.check(spec)
    assert {finding.level for finding in said} == {"ignored"}
    assert {finding.reason.what.split()[0] for finding in said} == {
        *("--image", "--queue", "--secret", "--volume", "--node-selector", "--shm", "--disk"),
        *("--priority-class", "--runtime-class", "--service-account"),
    }


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
