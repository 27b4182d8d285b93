"""Bytes that are not what was sent or signed: nothing of them is used."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube_nb.backends.base import Bundle, Chunk
from kube_nb.errors import Corrupted, JobFailed, StorageFailed
from kube_nb.jobs.job import Job
from kube_nb.spec import JobSpec, Phase
from tests.conformance.sending import Notebook, Sender, code, ended, sent, tail

Tamper = Callable[[Bundle], None]
LARGE = "x" * 300_000


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def objects(bundle: Bundle) -> list[Path]:
    return sorted((bundle.directory / "objects").iterdir(), key=lambda path: path.stat().st_size, reverse=True)


def flip_object(bundle: Bundle) -> None:
    flip(objects(bundle)[0])


def flip_every_small_object(bundle: Bundle) -> None:
    for path in objects(bundle)[1:]:
        flip(path)


def cut_object(bundle: Bundle) -> None:
    with open(objects(bundle)[0], "r+b") as file:
        file.truncate(10)


def lengthen_object(bundle: Bundle) -> None:
    with open(objects(bundle)[0], "ab") as file:
        file.write(b"more")


def remove_object(bundle: Bundle) -> None:
    objects(bundle)[0].unlink()


def link_object(bundle: Bundle) -> None:
    path = objects(bundle)[0]
    path.unlink()
    path.symlink_to("/etc/passwd")


def flip_manifest(bundle: Bundle) -> None:
    flip(bundle.directory / "manifest.json")


def change_manifest(bundle: Bundle) -> None:
    path = bundle.directory / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["timeout"] = 12345
    path.write_text(json.dumps(manifest, sort_keys=True))


def remove_manifest(bundle: Bundle) -> None:
    (bundle.directory / "manifest.json").unlink()


def flip_signature(bundle: Bundle) -> None:
    flip(bundle.directory / "manifest.hmac")


def remove_signature(bundle: Bundle) -> None:
    (bundle.directory / "manifest.hmac").unlink()


def sign_with_another_key(bundle: Bundle) -> None:
    object.__setattr__(bundle, "key", bytes(32))


@pytest.fixture
def on_the_way(send: Sender, monkeypatch: pytest.MonkeyPatch) -> Callable[[Tamper], None]:
    """Lets somebody change a bundle after it was packed and before the target has it."""

    def arm(tamper: Tamper) -> None:
        backend = send.client.options().backend
        submit = type(backend).submit

        def tampered(self: Any, spec: JobSpec, bundle: Bundle, progress: Any = None) -> Any:
            bundle = replace(bundle)
            tamper(bundle)
            return submit(self, spec, bundle, progress)

        monkeypatch.setattr(type(backend), "submit", tampered)

    return arm


@pytest.mark.parametrize(
    "tamper",
    [
        flip_object,
        flip_every_small_object,
        cut_object,
        lengthen_object,
        remove_object,
        link_object,
        flip_manifest,
        change_manifest,
        flip_signature,
        sign_with_another_key,
    ],
)
def test_a_changed_bundle_is_not_run(send: Sender, on_the_way: Callable[[Tamper], None], tamper: Tamper) -> None:
    on_the_way(tamper)
    job = send.over("print('ran')\nlen(text)", {"text": LARGE})

    assert (job.phase, code(job)) == (Phase.FAILED, "BundleCorrupted")
    assert tail(job) == ""
    assert job.reason is not None
    assert job.reason.next


@pytest.mark.parametrize("tamper", [remove_manifest, remove_signature])
def test_a_bundle_that_is_not_whole_any_more_is_not_run(
    send: Sender, on_the_way: Callable[[Tamper], None], tamper: Tamper
) -> None:
    on_the_way(tamper)
    try:
        job = send.over("print('ran')")
    except StorageFailed:  # noticed by who reads it here to carry it there
        assert sent(send.client) == []
        return
    assert (job.phase, code(job)) == (Phase.FAILED, "BundleCorrupted")
    assert tail(job) == ""


def test_a_bundle_that_is_left_alone_is_run(send: Sender, on_the_way: Callable[[Tamper], None]) -> None:
    on_the_way(lambda bundle: None)

    assert tail(send.over("print('ran')", {"text": LARGE})) == "ran\n"


def test_a_changed_bundle_is_not_tried_again(send: Sender, on_the_way: Callable[[Tamper], None]) -> None:
    on_the_way(flip_object)

    assert send.over("len(text)", {"text": LARGE}, retries=3).status().attempt == 0


# Results ----------------------------------------------------------------------------------------------------------------


def on_the_way_back(
    monkeypatch: pytest.MonkeyPatch,
    job: Job,
    *,
    stream: Callable[[bytes], bytes] = lambda data: data,
    file: Callable[[Path], None] = lambda path: None,
) -> None:
    """Lets somebody change what a job wrote before its reader has it."""
    kind = type(job._backend)
    read, fetch = kind.stream, kind.fetch

    def streamed(self: Any, *args: Any, **options: Any) -> Iterator[Chunk]:
        whole: dict[Any, bytes] = {}
        for chunk in read(self, *args, **options):
            whole.setdefault(chunk.at.attempt, b"")
            whole[chunk.at.attempt] += chunk.data
        for attempt, data in whole.items():
            yield Chunk(replace(args[2] if len(args) > 2 else chunk.at, attempt=attempt, offset=0), stream(data))

    def fetched(self: Any, id: Any, digest: Any, destination: Path, progress: Any = None) -> Path:
        original = fetch(self, id, digest, destination, progress)
        destination.parent.mkdir(parents=True, exist_ok=True)
        copy = destination.with_name(original.name)
        copy.write_bytes(original.read_bytes())
        file(copy)
        return copy

    monkeypatch.setattr(kind, "stream", streamed)
    monkeypatch.setattr(kind, "fetch", fetched)


class Alarm:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def forged(path: Path) -> str:
    return base64.b64encode(pickle.dumps(({"x": Alarm(str(path))}, None))).decode()


def test_a_changed_result_in_the_stream_is_not_loaded(
    send: Sender, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = send.over("x = 1")
    trace = tmp_path / "trace"

    def forge(data: bytes) -> bytes:
        lines = data.split(b"\n")
        for at, line in enumerate(lines):
            if line.startswith(b"\x1e{") and json.loads(line[1:])["kind"] == "result":
                event = json.loads(line[1:])
                event["index"]["graph"] = {"pickle": None, "buffers": [], "size": 1, "data": forged(trace)}
                lines[at] = b"\x1e" + json.dumps(event).encode()
        return b"\n".join(lines)

    on_the_way_back(monkeypatch, job, stream=forge)
    with pytest.raises(Corrupted):
        job.outputs["x"]
    assert not trace.exists()


def test_a_changed_exception_in_the_stream_is_not_loaded(
    send: Sender, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = send.over("raise ValueError('mine')")
    trace = tmp_path / "trace"

    def forge(data: bytes) -> bytes:
        lines = data.split(b"\n")
        for at, line in enumerate(lines):
            if line.startswith(b"\x1e{") and json.loads(line[1:])["kind"] == "error":
                event = json.loads(line[1:])
                event["error"]["pickle"] = {"pickle": None, "buffers": [], "size": 1, "data": forged(trace)}
                lines[at] = b"\x1e" + json.dumps(event).encode()
        return b"\n".join(lines)

    on_the_way_back(monkeypatch, job, stream=forge)
    with pytest.raises((Corrupted, JobFailed)):
        job.result()
    assert not trace.exists()


def test_a_result_of_another_attempt_or_job_does_not_pass_for_this_one(
    send: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = b"".join(chunk.data for chunk in send.client.backend.stream(send.over("x = 'other'").id, follow=False))
    job = send.over("x = 'own'")

    on_the_way_back(monkeypatch, job, stream=lambda _: other)
    with pytest.raises(Corrupted):
        job.outputs["x"]


@pytest.mark.parametrize(
    "tamper",
    [flip, lambda path: path.write_bytes(path.read_bytes()[:100]), lambda path: path.unlink()],
    ids=["flipped", "cut", "removed"],
)
def test_a_damaged_result_file_is_not_loaded(
    send: Sender, monkeypatch: pytest.MonkeyPatch, tamper: Callable[[Path], None]
) -> None:
    job = send.over("x = bytearray(b'x' * 2_000_000)\ny = 'y'")

    on_the_way_back(monkeypatch, job, file=tamper)
    with pytest.raises(Corrupted):
        job.outputs["y"]


def test_a_result_that_is_left_alone_is_loaded(send: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    job = send.over("x = bytearray(b'x' * 2_000_000)")

    on_the_way_back(monkeypatch, job)
    assert job.outputs["x"] == bytearray(b"x" * 2_000_000)


def test_nothing_of_a_job_that_is_not_ones_own_is_unpickled(send: Sender, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    setup = "class Alarm:\n    def __init__(self, path): self.path = path\n    def __reduce__(self): return open, (self.path, 'w')"
    job = ended(send("print('text')\nalarm = Alarm(path)", Notebook(setup, path=str(trace))))
    trace.unlink(missing_ok=True)  # the job itself has looked whether the value can be loaded, or not
    send.client.journal.remove(job.id)
    other = send.client.job(job.id)

    assert other.phase is Phase.SUCCEEDED
    assert list(other.logs()) == ["text\n"]
    with pytest.raises(Corrupted):
        other.outputs["alarm"]
    with pytest.raises(Corrupted):
        other.result()
    assert not trace.exists()
    other.delete()


def test_the_exception_of_a_job_that_is_not_ones_own_is_not_unpickled(send: Sender, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    setup = (
        "class Alarm(Exception):\n    def __init__(self, path): self.path = path\n"
        "    def __reduce__(self): return open, (self.path, 'w')"
    )
    job = ended(send("raise Alarm(path)", Notebook(setup, path=str(trace))))
    trace.unlink(missing_ok=True)
    send.client.journal.remove(job.id)
    other = send.client.job(job.id)

    assert code(other) == "Exception"
    with pytest.raises((Corrupted, JobFailed)):
        other.result()
    assert not trace.exists()
    other.delete()
