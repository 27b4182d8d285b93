"""A job directory that is full, becomes full, or cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kube_nb.client import Client
from kube_nb.errors import StorageFailed
from kube_nb.jobs.job import Job
from kube_nb.spec import Phase
from tests.conformance.sending import Sender, code, ended, events, running, tail
from tests.local.small_disk import make_read_only, make_writable, small_disk

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture
def disk(state_dir: Path) -> Iterator[Path]:
    """The state directory, with room for 24 MiB."""
    with small_disk(state_dir, 24) as place:
        yield place


@pytest.fixture
def place(disk: Path) -> Path:
    return disk


def fill(disk: Path, leave: int = 0) -> Path:
    """Take all room but `leave` bytes."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    with suppress(OSError), open(filler, "wb", buffering=0) as file:  # a job may take some of it meanwhile
        file.write(b"x" * max(0, room.f_bavail * room.f_frsize - leave))
    return filler


def left(disk: Path, *known: Job) -> list[str]:
    """Files of submits that made no job; those of known jobs and of the runner, which many jobs share, are none."""
    found = [path.relative_to(disk) for path in disk.rglob("*") if path.is_file()]
    of_submits = [path for path in found if path.parts[0] in ("jobs", "bundles", "journal")]
    return sorted(str(path) for path in of_submits if not any(job.id in str(path) for job in known))


def test_a_submit_for_which_there_is_no_room_is_refused_and_leaves_nothing(send: Sender, disk: Path) -> None:
    first = send.over("pass")
    fill(disk)

    with pytest.raises(StorageFailed) as caught:
        send("len(text)", {"text": "x" * MIB})
    assert caught.value.why
    assert caught.value.next
    assert left(disk, first) == []
    assert len(send.client.statuses()) == 1


def test_a_first_submit_for_which_there_is_no_room_is_refused(send: Sender, disk: Path) -> None:
    fill(disk)

    with pytest.raises(StorageFailed):
        send("pass")
    assert send.client.statuses() == []
    assert left(disk) == []


@pytest.mark.parametrize("room", [8_192, 16_384, 24_576, 32_768, 49_152, 65_536, 131_072])
def test_a_submit_that_runs_out_of_room_half_way_leaves_nothing_or_a_job_with_an_end(
    send: Sender, disk: Path, room: int
) -> None:
    first = send.over("pass")
    filler = fill(disk, leave=room)
    try:
        job = send("print('x')")
    except StorageFailed:
        assert left(disk, first) == []
        filler.unlink()
        assert send.over("pass").phase is Phase.SUCCEEDED
        return
    ended(job)
    assert job.phase is Phase.SUCCEEDED or code(job) == "OutOfDisk"
    assert first.phase is Phase.SUCCEEDED


def test_code_that_fills_the_disk_ends_out_of_disk(send: Sender) -> None:
    job = send.over(
        "print('before', flush=True)\nwith open('big', 'wb') as file:\n    while True:\n        file.write(bytes(1 << 20))"
    )

    assert (job.phase, code(job)) == (Phase.FAILED, "OutOfDisk")
    assert job.reason is not None
    assert job.reason.next
    assert tail(job) == "before\n"


def test_code_that_handles_a_full_disk_succeeds(send: Sender) -> None:
    job = send.over(
        "import os\ntry:\n    with open('big', 'wb') as file:\n        while True:\n            file.write(bytes(1 << 20))\n"
        "except OSError as error:\n    os.unlink('big')\n    number = error.errno"
    )

    assert job.phase is Phase.SUCCEEDED
    assert job.outputs["number"] == 28


def test_output_that_fills_the_disk_ends_out_of_disk(send: Sender) -> None:
    job = send.over("while True:\n    print('x' * 10_000)", timeout="60s")

    assert (job.phase, code(job)) == (Phase.FAILED, "OutOfDisk")
    assert set(tail(job, most=10**9)) == {"x", "\n"}


def test_a_result_for_which_there_is_no_room_ends_out_of_disk(send: Sender) -> None:
    job = send.over("import os\nlarge = os.urandom(30 << 20)", outputs=["large"])

    assert (job.phase, code(job)) == (Phase.FAILED, "OutOfDisk")


def test_a_job_that_was_out_of_disk_can_be_deleted_and_another_runs(send: Sender) -> None:
    job = send.over("while True:\n    print('x' * 10_000)", timeout="60s")
    send.client.delete(job)

    assert send.over("print('ran')").phase is Phase.SUCCEEDED


def test_a_disk_that_fills_while_a_job_runs_is_survived_by_its_end(send: Sender, disk: Path) -> None:
    job = send("import sys, time\nprint('ready', flush=True)\nwhile not time.sleep(0.05):\n    print('y' * 5000)")
    running(job)
    fill(disk)

    assert ended(job).phase is Phase.FAILED
    assert code(job) == "OutOfDisk"
    assert Client(on="local").job(job.id).status() == job.status()


def test_a_full_disk_does_not_hinder_a_cancel(send: Sender, disk: Path) -> None:
    job = send("import time\nprint('ready', flush=True)\ntime.sleep(600)")
    running(job)
    fill(disk)
    job.cancel()

    assert ended(job).phase is Phase.CANCELLED


def test_a_full_disk_does_not_hinder_a_delete(send: Sender, disk: Path) -> None:
    job = send("import time\nprint('ready', flush=True)\ntime.sleep(600)")
    running(job)
    fill(disk)
    send.client.delete(job)

    assert send.client.statuses() == []


def test_a_read_only_directory_refuses_a_submit_and_still_shows_what_was(send: Sender, disk: Path) -> None:
    job = send.over("print('before')\nx = 1")
    make_read_only(disk)
    try:
        with pytest.raises(StorageFailed) as caught:
            send("pass")
        assert "state_dir" in caught.value.next
        assert [status.id for status in send.client.statuses()] == [job.id]
        again = send.client.job(job.id)
        assert tail(again) == "before\n"
        assert again.outputs["x"] == 1
        with pytest.raises(StorageFailed):
            send.client.delete(again)
    finally:
        make_writable(disk)


def test_a_directory_that_is_a_file_is_refused(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBE_NB_STATE_DIR", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageFailed):
        Sender(Client(on="local"))("pass")


def test_the_directories_are_private(send: Sender, disk: Path) -> None:
    job = send.over("open('made', 'w').close()\nx = 1")

    open_to_others = [
        str(path.relative_to(disk))
        for path in (
            disk / "jobs" / job.id,
            disk / "jobs" / job.id / "key",
            disk / "journal",
            disk / "journal" / f"{job.id}.json",
        )
        if path.stat().st_mode & 0o077
    ]
    assert open_to_others == []
    assert events(job, "end")
