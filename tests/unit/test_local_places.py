"""The directory of local jobs: full, read-only, damaged, crowded, and cleaned."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import replace

import pytest

from kube_nb.errors import StorageFailed
from kube_nb.spec import JobSpec, Phase, new_job_id
from tests.conformance.sending import gone, until
from tests.unit.small_runner.workshop import FOREVER, Workshop


@pytest.fixture
def workshop(tmp_path):
    with Workshop(tmp_path) as made:
        yield made


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
    until(lambda: workshop.status(job).phase.final, what="its true supervisor has left")
    assert workshop.status(job).reason.code == "SupervisorLost"


def test_a_directory_that_somebody_removes_ends_its_job(workshop):
    job = workshop.submit("import time\nprint(1, flush=True)\ntime.sleep(1)")
    workshop.first_line(job)
    supervisor = workshop.supervisor(job)
    shutil.rmtree(workshop.directory(job))
    assert gone(supervisor)
    assert workshop.backend.list() == []


# Retention ----------------------------------------------------------------------------------------------------------


def test_what_is_old_goes_and_what_lives_stays(workshop):
    live = workshop.submit(FOREVER)
    workshop.have_finished(5)
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
    assert went == would
    assert {one.name for one in went} == {*(f"old-{n}" for n in range(4)), half_made.name, "unused", "old"}
    assert not workshop.directory("old-0").exists()
    assert workshop.status(live).phase in (Phase.STARTING, Phase.RUNNING, Phase.PENDING)


def test_the_oldest_go_until_the_rest_has_room(workshop):
    workshop.have_finished(4)
    for number in range(3):
        (workshop.directory(f"old-{number}") / "big").write_bytes(os.urandom(1 << 20))
    went = workshop.backend.clean(max_age=1e12, max_bytes=(1 << 20) + (1 << 19))
    assert [one.name for one in went if one.kind == "job"] == ["old-0", "old-1"]


def test_the_end_of_a_job_sweeps_now_and_then(workshop):
    workshop.have_finished(3)
    (workshop.state / "swept").unlink()
    job = workshop.submit("")
    workshop.end(job)
    supervisor = workshop.supervisor(job)
    assert gone(supervisor)
    assert not workshop.directory("old-0").exists()
    assert workshop.directory(job).exists()
