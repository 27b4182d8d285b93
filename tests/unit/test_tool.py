"""The tools beside a runner: reading a log that grows, removing, telling what lies in a store."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from kube_nb.runner.objects import Objects
from tests.unit.pod_files import Pod, make_bundle, plan_of, pod_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="a pod is Linux")]


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Pod:
    """A container in which nothing has run: its tools run from the zip."""
    folder = tmp_path_factory.mktemp("tool")
    return pod_of(folder, make_bundle(folder, "pass"), plan_of("t-1", claim="c"))


def follow(pod: Pod, path: Path, offset: int = 0, **env: str) -> subprocess.Popen[bytes]:
    command = pod.command("tool", "read", str(path), str(offset), "--follow")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=pod.environment(**env))


def read(process: subprocess.Popen[bytes], count: int) -> bytes:
    assert process.stdout is not None
    return process.stdout.read(count)


def test_a_file_is_read_from_any_byte(pod, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"0123456789")
    assert pod.tool("read", str(path), "0").stdout == b"0123456789"
    assert pod.tool("read", str(path), "7").stdout == b"789"
    assert pod.tool("read", str(path), "10").stdout == b""
    assert pod.tool("read", str(path), "99").stdout == b""


def test_a_file_that_is_not_there_is_a_failure_with_a_word(pod, tmp_path):
    done = pod.tool("read", str(tmp_path / "log"), "0")
    assert done.returncode == 1
    assert b"No such file" in done.stderr


@pytest.mark.parametrize("watched", [True, False], ids=["inotify", "looking"])
def test_a_growing_file_is_followed_until_its_end_is_marked(pod, tmp_path, watched):
    path = tmp_path / "log"
    if not watched:  # as where the kernel cannot tell
        program = (
            f"import sys; sys.path.insert(0, {str(pod.base / 'secret' / 'runner.zip')!r})\n"
            "from _kube_nb_job.runner import tool\n"
            "tool._inotify = lambda folder: -1\n"
            f"tool.main(['read', {str(path)!r}, '0', '--follow'])"
        )
        command = [sys.executable, "-I", "-S", "-c", program]
        reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=pod.environment())
    else:
        reader = follow(pod, path)
    with open(path, "wb", buffering=0) as file:
        for number in range(5):
            file.write(b"%d" % number * 1000)
            assert read(reader, 1000) == b"%d" % number * 1000
        file.write(b"last")
        Path(f"{path}.end").touch()
    out, err = reader.communicate(timeout=10)
    assert (reader.returncode, out, err) == (0, b"last", b"")


def test_it_is_heard_at_once_that_a_file_grew(pod, tmp_path):
    path = tmp_path / "log"
    path.touch()
    reader = follow(pod, path)
    took = []
    with open(path, "wb", buffering=0) as file:
        file.write(b"x")
        read(reader, 1)
        for _ in range(20):
            began = time.monotonic()
            file.write(b"y")
            read(reader, 1)
            took.append(time.monotonic() - began)
    reader.kill()
    reader.communicate()
    assert sorted(took)[10] < 0.05


def test_who_follows_ends_when_nobody_reads_any_more(pod, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"x")
    reader = follow(pod, path)
    read(reader, 1)
    assert reader.stdout is not None
    reader.stdout.close()
    assert reader.wait(10) == 1


def test_only_what_is_below_the_folder_of_jobs_is_removed(pod, tmp_path):
    jobs = pod.store / "jobs"
    for name in ("a/out/objects", "b", "c"):
        (jobs / name).mkdir(parents=True)
    (jobs / "a" / "out" / "objects" / "x").write_bytes(b"x")
    (pod.store / "environments").mkdir(exist_ok=True)
    (tmp_path / "precious").mkdir()
    (jobs / "link").symlink_to(tmp_path)
    done = pod.tool("remove", "a", "../environments", "link/precious", "..", ".", "/", str(tmp_path), "absent", "link")
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert answer["removed"] == ["a", "absent", "link"]
    assert set(answer["failed"]) == {"../environments", "link/precious", "..", ".", "/", str(tmp_path)}
    assert sorted(path.name for path in jobs.iterdir()) == ["b", "c"]
    assert (tmp_path / "precious").is_dir()


def test_what_a_job_has_made_is_listed(pod, tmp_path):
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / ("a" * 64)).write_bytes(b"12345")
    (tmp_path / "objects" / ".new-half").write_bytes(b"1")
    assert json.loads(pod.tool("list", str(tmp_path / "objects")).stdout) == {"a" * 64: 5}
    assert json.loads(pod.tool("list", str(tmp_path / "nothing")).stdout) == {}


def test_the_whole_folder_of_jobs_is_not_a_job(pod):
    (pod.store / "jobs" / "d").mkdir(parents=True)
    assert pod.tool("remove", str(pod.store / "jobs")).returncode == 1
    assert (pod.store / "jobs" / "d").is_dir()


def test_what_lies_in_the_store_is_told(pod):
    large = pod.store / "jobs" / "large"
    large.mkdir(parents=True)
    (large / "x").write_bytes(os.urandom(200_000))
    os.link(large / "x", large / "y")  # counts once
    environments = pod.store / "environments"
    for name in ("a" * 40, "cache"):
        (environments / name).mkdir(parents=True)
    (environments / "cache" / "x").write_bytes(os.urandom(50_000))
    os.link(environments / "cache" / "x", environments / ("a" * 40) / "x")
    told = json.loads(pod.tool("usage").stdout)
    assert 200_000 <= told["jobs"]["large"]["bytes"] < 300_000
    assert abs(told["jobs"]["large"]["changed"] - time.time()) < 60
    assert told["environments"]["a" * 40]["bytes"] >= 50_000
    assert told["environments"]["cache"]["bytes"] == 0
    assert 0 < told["free"] <= told["size"]


def test_of_one_owner_the_jobs_are_told(pod):
    for place in ("jobs/me/a", "jobs/me/b", "jobs/somebody/c"):
        (pod.store / place).mkdir(parents=True)
    assert set(json.loads(pod.tool("usage", "me").stdout)["jobs"]) == {"a", "b"}
    assert json.loads(pod.tool("usage", "nobody").stdout)["jobs"] == {}


def test_environments_are_removed_unless_they_are_used(pod):
    environments = pod.store / "environments"
    free, used = "b" * 40, "c" * 40
    for name in (free, used):
        (environments / name / "site").mkdir(parents=True)
    with open(environments / f"{used}.used", "w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        done = pod.tool("forget", free, used, "../jobs")
    told = json.loads(done.stdout)
    assert (told["removed"], told["busy"], list(told["failed"])) == ([free], [used], ["../jobs"])
    assert not (environments / free).exists()
    assert (environments / used).is_dir()


@pytest.mark.parametrize("words", [[], ["dance"], ["read"], ["read", "x", "1e3"], ["signal", "KILL"], ["idle"]])
def test_what_makes_no_sense_is_refused_with_a_word(pod, words):
    done = pod.tool(*words)
    assert done.returncode == 2
    assert done.stderr


def test_nobody_is_signalled_where_nobody_listens(pod, monkeypatch):
    program = (
        f"import sys; sys.path.insert(0, {str(pod.base / 'secret' / 'runner.zip')!r})\n"
        "from _kube_nb_job.runner import tool\n"
        "tool._LISTENS_SOON = 0.2\n"
        "tool.main(['signal', 'TERM'])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], env=pod.environment(), capture_output=True, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr


def test_an_idle_pod_ends_when_nobody_came(pod):
    began = time.monotonic()
    assert pod.tool("idle", "0.5").returncode == 0
    assert 0.4 < time.monotonic() - began < 5


def test_a_pod_is_not_idle_while_a_tool_runs(pod, tmp_path):
    idle = subprocess.Popen(pod.command("tool", "idle", "0.5"), env=pod.environment())
    deadline = time.monotonic() + 10
    while not (pod.run / "words").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    path = tmp_path / "log"
    path.write_bytes(b"x")
    reader = follow(pod, path)
    read(reader, 1)
    with pytest.raises(subprocess.TimeoutExpired):
        idle.wait(2)
    reader.kill()
    reader.communicate()
    assert idle.wait(10) == 0


def test_an_idle_pod_ends_at_once_when_it_is_stopped(tmp_path):
    pod = pod_of(tmp_path, make_bundle(tmp_path, "pass"), plan_of("t-1"))
    idle = subprocess.Popen(pod.command("tool", "idle", "60"), env=pod.environment())
    deadline = time.monotonic() + 10
    while not (pod.run / "words").exists():  # it listens from then on
        assert time.monotonic() < deadline
        time.sleep(0.01)
    idle.terminate()
    assert idle.wait(10) == 0


@pytest.mark.parametrize("held", [False, True], ids=["first", "beside-another"])
def test_of_a_transfer_that_broke_off_only_what_can_be_continued_stays(pod, tmp_path, held):
    data = os.urandom(100_000)
    digest = Objects(tmp_path / "here").write(data)
    there = tmp_path / "there"
    there.mkdir()
    part = there / f".part-{digest}"
    asked = json.dumps({"objects": {digest: len(data)}}).encode() + b"\n"
    with part.open("wb") if held else nullcontext() as file:
        if file is not None:  # who has begun to send the same object does so still
            fcntl.flock(file, fcntl.LOCK_EX)
        assert pod.tool("put", str(there), input=asked + data[:60_000]).returncode == 1
    assert [path.name for path in there.iterdir()] == [part.name]
    assert part.stat().st_size == (0 if held else 60_000)
    asked = pod.tool("put", str(there), input=asked + data[0 if held else 60_000 :])
    assert asked.returncode == 0
    assert (there / digest).read_bytes() == data
