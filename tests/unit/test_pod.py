"""Process 1 of a pod, on folders of this machine: where it finds things, what it leaves, and when it may end."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes.payload import secret_data
from kube_nb.backends.reasons import reason_of
from kube_nb.runner import stream
from kube_nb.runner.objects import Objects
from tests.unit.pod_files import Attempt, Pod, make_bundle, plan_of, pod_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="a pod is Linux")]
LARGE = "import os\nout = os.urandom(100_000)\nprint('made')\n"


def simple(folder: Path, source: str = "print('hello')", **plan: object) -> Pod:
    return pod_of(folder, make_bundle(folder, source), plan_of("t-1", **plan))


def finish(process: subprocess.Popen[bytes], pod: Pod) -> Attempt:
    from kube_nb.runner import ending

    out, err = process.communicate(timeout=30)
    return Attempt(process.returncode, out, err, ending.read_end(str(pod.end)) or {})


def until(text: bytes, path: Path, seconds: float = 20) -> None:
    """Wait until a file holds `text`."""
    deadline = time.monotonic() + seconds
    while not path.exists() or text not in path.read_bytes():
        assert time.monotonic() < deadline, f"{text!r} never came"
        time.sleep(0.01)


def test_it_runs_what_the_secret_holds(tmp_path):
    pod = pod_of(tmp_path, make_bundle(tmp_path, "print(a, b)", {"a": 1, "b": "x"}), plan_of("t-1"))
    ran = pod.run_to_end()
    assert (ran.status, ran.end["code"], ran.text) == (0, "Succeeded", b"1 x\n")
    assert ran.errors == b""


def test_the_first_event_comes_at_once_and_is_the_first(tmp_path):
    ran = simple(tmp_path).run_to_end()
    first = ran.events[0]
    assert (first.kind, first.seq, first.data["phase"]) == ("state", 0, "Starting")
    assert ran.stream.startswith(b"\x1e")
    assert [event.seq for event in ran.events] == list(range(len(ran.events)))


def test_the_copy_of_the_log_is_the_stream_byte_for_byte(tmp_path):
    pod = simple(
        tmp_path, "for i in range(20_000): print(i, '\\x1e' * (i % 3))\nimport sys; sys.stdout.write('no end')"
    )
    ran = pod.run_to_end()
    assert (pod.run / "log" / "0.0").read_bytes() == ran.stream
    assert (pod.run / "log" / "0.0.end").exists()
    assert not (pod.run / "log" / "0.0.live").exists()


def test_a_copy_that_cannot_be_written_ends_nothing_but_itself_and_is_said(tmp_path):
    pod = simple(tmp_path, "for i in range(10_000): print(i)")
    (pod.run / "log").mkdir()
    (pod.run / "log" / "0.0").symlink_to("/dev/full")
    ran = pod.run_to_end()
    assert ran.end["code"] == "Succeeded"
    assert ran.text == b"".join(b"%d\n" % i for i in range(10_000))
    told = [state for state in ran.of("state") if state["step"] == "log"]
    assert len(told) == 1
    assert "No space left" in told[0]["text"]
    assert ran.end["detail"]["log"]["kept"] == 0
    assert ran.end["detail"]["log"]["lost"] > len(ran.text)


def test_a_copy_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "LONGEST_COPY", 1000)
    copy = stream.Copy(str(tmp_path / "log" / "0.0"))
    for _ in range(3):
        copy.write(b"x" * 400)
    copy.finish()
    assert (copy.kept, copy.bytes) == (800, 1200)
    assert (tmp_path / "log" / "0.0").read_bytes() == b"x" * 800
    assert copy.broken is not None


def test_attempts_are_what_failed_and_what_was_disrupted_before(tmp_path):
    pod = simple(tmp_path)
    ran = pod.run_to_end(KUBE_NB_FAILURES="1", KUBE_NB_DISRUPTIONS="2")
    assert {event.attempt for event in ran.events} == {3}
    assert (pod.run / "log" / "0.3").exists()


def test_annotations_that_are_missing_are_no_attempts(tmp_path):
    ran = simple(tmp_path).run_to_end(KUBE_NB_FAILURES="", KUBE_NB_DISRUPTIONS="")
    assert {event.attempt for event in ran.events} == {0}


def test_a_sixth_disruption_ends_the_job_for_good(tmp_path):
    assert simple(tmp_path / "a").run_to_end(KUBE_NB_DISRUPTIONS="5").end["code"] == "Succeeded"
    ran = simple(tmp_path / "b").run_to_end(KUBE_NB_DISRUPTIONS="6")
    assert (ran.status, ran.end["code"], ran.text) == (87, "Disrupted", b"")


def test_the_jobs_variables_are_there_and_ours_are_not(tmp_path):
    source = "import os; print(os.environ['MINE'], sorted(k for k in os.environ if k.startswith('KUBE_NB_')))"
    pod = pod_of(tmp_path, make_bundle(tmp_path, source, env={"MINE": "é\n2"}), plan_of("t-1"))
    ran = pod.run_to_end(KUBE_NB_FAILURES="0")
    assert ran.text.startswith("é\n2 ".encode())
    assert b"KUBE_NB_NODE" not in ran.text
    assert b"KUBE_NB_FAILURES" not in ran.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_user_without_a_name_and_a_home_that_cannot_be_written(tmp_path):
    source = "import getpass, os; print(getpass.getuser(), os.path.expanduser('~'))"
    folder = tmp_path / "x"
    pod = simple(folder, source)
    for part in (tmp_path, *tmp_path.parents):
        if part.stat().st_uid == 0 and part not in (Path("/"), Path("/tmp")):
            part.chmod(part.stat().st_mode | 0o055)
    subprocess.run(["chown", "-R", "54321:54321", str(folder)], check=True)
    env = {k: v for k, v in pod.environment().items() if k not in ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME")}
    python = subprocess.run(
        ["sh", "-c", "command -v python3"], capture_output=True, text=True, env={"PATH": "/usr/bin"}
    )
    if not python.stdout.strip():
        pytest.skip("no Python that another user may run")
    command = [python.stdout.strip(), "-c", "import sys; print(*sys.version_info[:2])"]
    if subprocess.run(command, capture_output=True, text=True).stdout.split() != list(map(str, sys.version_info[:2])):
        pytest.skip("no Python of this version that another user may run")
    process = subprocess.Popen(
        [python.stdout.strip(), *pod.command()[1:]],
        env=env,
        user=54321,
        group=54321,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    ran = finish(process, pod)
    assert ran.text.decode().split() == ["kube-nb", str(pod.run / "home")]


@pytest.mark.parametrize(("signum", "code", "status"), [("INT", "Cancelled", 81), ("TERM", "Stopped", 82)])
def test_the_runner_is_signalled_through_the_tool(tmp_path, signum, code, status):
    pod = simple(tmp_path, "import time; print('here', flush=True); time.sleep(60)")
    process = pod.start()
    until(b"here", pod.run / "log" / "0.0")
    assert pod.tool("signal", signum).returncode == 0
    ran = finish(process, pod)
    assert (ran.status, ran.end["code"]) == (status, code)


def test_a_signal_before_the_runner_listens_waits_for_it(tmp_path):
    pod = simple(tmp_path, "import time; time.sleep(60)")
    sender = subprocess.Popen(pod.command("tool", "signal", "TERM"), env=pod.environment())
    with pytest.raises(subprocess.TimeoutExpired):
        sender.wait(0.5)
    process = pod.start()
    assert sender.wait(20) == 0
    assert finish(process, pod).end["code"] == "Stopped"


@pytest.mark.parametrize("damage", ["cut", "other", "escape", "gone"])
def test_a_bundle_that_is_not_what_was_signed_is_not_run(tmp_path, damage):
    bundle = make_bundle(tmp_path, "print('ran')")
    data = secret_data(bundle, plan_of("t-1"))
    archive = data["bundle.zip"]
    if damage == "cut":
        data["bundle.zip"] = archive[: len(archive) // 2]
    elif damage == "gone":
        del data["bundle.zip"]
    else:
        from kube_nb.backends.kubernetes import payload

        evil = tmp_path / "evil"
        evil.write_bytes(b"evil")
        name = "objects/../../../evil" if damage == "escape" else "manifest.json"
        data["bundle.zip"] = payload._zip({name: evil})
    pod = Pod(tmp_path / "pod")
    pod.mount(data)
    ran = pod.run_to_end()
    assert (ran.status, ran.end["code"], ran.text) == (83, "BundleCorrupted", b"")
    assert ran.of("end")[0]["code"] == "BundleCorrupted"


def test_a_secret_without_its_words_ends_with_a_reason(tmp_path):
    bundle = make_bundle(tmp_path, "pass")
    pod = Pod(tmp_path / "pod")
    pod.mount(secret_data(bundle, plan_of("t-1")))
    (pod.base / "secret" / "..2026" / "pod.json").write_bytes(b"{}")
    ran = pod.run_to_end()
    assert (ran.status, ran.end["code"]) == (87, "RunnerFault")


def test_a_python_that_is_too_old_is_told_from_a_fault(tmp_path):
    pod = simple(tmp_path)
    program = (
        "import runpy, sys\n"
        "sys.version_info = (3, 9, 1)\n"
        f"runpy.run_path({str(pod.base / 'secret' / 'runner.zip')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], env=pod.environment(), capture_output=True)
    end = json.loads(pod.end.read_bytes())
    assert (done.returncode, end["code"]) == (84, "EnvironmentFailed")
    assert "3.9" in end["detail"]["what"]
    assert reason_of(end).code == "PythonMismatch"


def test_the_entry_can_be_read_by_older_pythons():
    source = Path(stream.__file__).with_name("pod_entry.py").read_text()
    ast.parse(source, feature_version=(3, 7))


def test_a_disk_without_room_for_the_runner_is_told(tmp_path):
    pod = simple(tmp_path)
    pod.run.rmdir()
    pod.run.write_bytes(b"")  # as good as none
    ran = pod.run_to_end()
    assert (ran.status, ran.end["code"]) == (87, "RunnerFault")
    assert "cannot be unpacked" in ran.end["evalue"]


# What is made, and how long it is there ------------------------------------------------------------------------------


def test_nobody_waits_for_a_job_that_made_nothing_large(tmp_path):
    began = time.monotonic()
    ran = simple(tmp_path).run_to_end()
    assert (ran.end["stored"], ran.end["lingers"]) == (False, 0)
    assert time.monotonic() - began < 20


def test_without_a_store_the_container_waits_until_all_was_fetched(tmp_path):
    pod = pod_of(tmp_path, make_bundle(tmp_path, LARGE, outputs=["out"]), plan_of("t-1"))
    process = pod.start()
    until(b'"kind":"end"', pod.run / "log" / "0.0")
    assert json.loads(pod.end.read_bytes())["lingers"] == 60
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    (name,) = (entry.name for entry in (pod.run / "out" / "objects").iterdir())
    got = pod.tool("get", str(pod.run / "out" / "objects"), input=json.dumps({"objects": {name: 0}}).encode() + b"\n")
    head, _, body = got.stdout.partition(b"\n")
    assert json.loads(head)["sizes"][name] == len(body) >= 100_000
    assert finish(process, pod).status == 0


def test_a_container_that_waits_can_be_let_go(tmp_path):
    pod = pod_of(tmp_path, make_bundle(tmp_path, LARGE, outputs=["out"]), plan_of("t-1"))
    process = pod.start()
    until(b'"kind":"end"', pod.run / "log" / "0.0")
    pod.tool("release")
    assert finish(process, pod).status == 0


def test_nobody_waits_for_ever(tmp_path):
    pod = pod_of(tmp_path, make_bundle(tmp_path, LARGE, outputs=["out"]), plan_of("t-1"), linger=1)
    process = pod.start()
    until(b'"kind":"end"', pod.run / "log" / "0.0")
    began = time.monotonic()
    assert process.wait(20) == 0
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_whoever_fetches_holds_the_container(tmp_path):
    pod = pod_of(tmp_path, make_bundle(tmp_path, LARGE, outputs=["out"]), plan_of("t-1"), linger=1)
    process = pod.start()
    until(b'"kind":"end"', pod.run / "log" / "0.0")
    reader = subprocess.Popen(
        pod.command("tool", "read", str(pod.run / "never"), "0", "--follow"),
        env=pod.environment(),
        stdout=subprocess.PIPE,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    reader.kill()  # without a word
    reader.wait()
    assert process.wait(10) == 0


def test_a_container_that_is_stopped_from_outside_does_not_wait(tmp_path):
    pod = simple(tmp_path, "print('x' * 9_000_000, flush=True); import time; time.sleep(60)")
    process = pod.start(stdout=subprocess.DEVNULL)
    until(b"x\n", pod.run / "log" / "0.0")
    process.terminate()
    assert process.wait(20) == 82
    assert json.loads(pod.end.read_bytes())["lingers"] == 0


def test_a_log_that_the_kubelet_would_throw_away_is_worth_waiting_for(tmp_path):
    pod = pod_of(tmp_path, make_bundle(tmp_path, "for i in range(150_000): print(i)"), plan_of("t-1"), linger=0.5)
    ran = pod.run_to_end()
    assert len(ran.stream) < 8 << 20  # but each line has a head of its own there
    assert ran.end["lingers"] == 0.5


def test_what_is_made_is_kept_in_the_store(tmp_path):
    pod = pod_of(tmp_path, make_bundle(tmp_path, LARGE, outputs=["out"]), plan_of("t-1", claim="c"))
    ran = pod.run_to_end()
    assert (ran.end["stored"], ran.end["lingers"]) == (True, 0)
    kept = pod.kept
    assert (kept / "log" / "0.0").read_bytes() == ran.stream
    assert len(list((kept / "out" / "objects").iterdir())) == 1
    assert not (pod.run / "out").exists()


def test_nothing_stays_in_the_store_of_a_job_that_made_nothing(tmp_path):
    pod = simple(tmp_path, claim="c")
    assert pod.run_to_end().end["stored"] is False
    assert list(pod.kept.parent.iterdir()) == []


def test_a_checkpoint_is_kept(tmp_path):
    source = "import kube_nb as kn, os; open(os.path.join(kn.checkpoint_dir(), 'c'), 'w').write('1')"
    pod = simple(tmp_path, source, claim="c")
    assert pod.run_to_end().end["stored"] is True
    assert (pod.kept / "checkpoints" / "c").read_text() == "1"


def test_a_try_that_another_follows_leaves_all_in_its_place(tmp_path):
    plan = plan_of("t-1", claim="c")
    pod = pod_of(tmp_path, make_bundle(tmp_path, "1 / 0"), plan, retries=1)
    assert pod.run_to_end().end["stored"] is True
    assert pod.run_to_end(KUBE_NB_FAILURES="1").end["stored"] is True  # the log of the first try is worth it
    assert (pod.kept / "log" / "0.0").exists()


def test_a_node_leaves_alone_what_another_one_made(tmp_path):
    pod = simple(tmp_path, claim="c")
    other = pod.kept / "log" / "1.0"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x")
    secret = pod.base / "secret" / "..2026" / "pod.json"
    secret.write_text(json.dumps(json.loads(secret.read_text()) | {"nodes": 2}))
    assert pod.run_to_end().end["stored"] is False
    assert [path.name for path in other.parent.iterdir()] == ["1.0"]
    assert not (pod.kept / "out").exists()


# Ways of the bundle ---------------------------------------------------------------------------------------------------


def test_a_bundle_in_the_store_is_read_where_it_lies(tmp_path):
    bundle = make_bundle(tmp_path, "print(sum(a))", {"a": bytes(200_000)})
    pod = pod_of(tmp_path, bundle, plan_of("t-1", transport="store", claim="c"))
    place = pod.kept / "bundle"
    place.mkdir(parents=True)
    (bundle.directory / "objects").rename(place / "objects")
    ran = pod.run_to_end()
    assert (ran.end["code"], ran.text) == ("Succeeded", b"0\n")


def test_a_bundle_is_waited_for_and_its_start_is_seen(tmp_path):
    bundle = make_bundle(tmp_path, "print(len(a))", {"a": b"x" * 3_000_000})
    pod = pod_of(tmp_path, bundle, plan_of("t-1", transport="upload"))
    process = pod.start()
    until(b'"step":"upload"', pod.run / "log" / "0.0")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    sent = Objects(bundle.directory / "objects")
    sizes = {path.name: path.stat().st_size for path in sent.directory.iterdir()}
    order = json.dumps({"objects": sizes}).encode() + b"\n" + b"".join(bytes(sent.read(name)) for name in sizes)
    answer = pod.tool("put", str(pod.run / "bundle" / "objects"), input=order)
    assert answer.returncode == 0, answer
    ran = finish(process, pod)
    assert (ran.end["code"], ran.text) == ("Succeeded", b"3000000\n")


def test_an_upload_can_be_cancelled(tmp_path):
    pod = simple(tmp_path, transport="upload")
    process = pod.start()
    until(b'"step":"upload"', pod.run / "log" / "0.0")
    pod.tool("signal", "INT")
    assert finish(process, pod).end["code"] == "Cancelled"


def test_a_bundle_that_never_comes_is_not_waited_for_for_ever(tmp_path):
    pod = pod_of(tmp_path, make_bundle(tmp_path, "pass"), plan_of("t-1", transport="upload"), patience=0.5)
    ran = pod.run_to_end()
    assert (ran.status, ran.end["code"]) == (87, "NotUploaded")


def test_a_sandbox_without_fifos_is_good_enough(tmp_path):
    bundle = make_bundle(tmp_path, "print(len(a))", {"a": b"x" * 3_000_000})
    pod = pod_of(tmp_path, bundle, plan_of("t-1", transport="upload"))
    (pod.run / "words").mkdir()  # where it would be
    process = pod.start()
    until(b'"step":"upload"', pod.run / "log" / "0.0")
    (pod.run / "bundle" / "objects").rmdir()
    (bundle.directory / "objects").rename(pod.run / "bundle" / "objects")
    ran = finish(process, pod)
    assert (ran.end["code"], ran.text) == ("Succeeded", b"3000000\n")
