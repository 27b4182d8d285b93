"""Content-addressed files: what is read is what was written, or it is refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kube_nb.runner.objects import BLOCK, CorruptedObject, Objects

SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path / "made" / "objects")


def some(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_is_read(objects: Objects, size: int) -> None:
    data = some(size)
    digest = objects.write(data)
    assert objects.read(digest) == data
    assert objects.read(digest, size) == data
    assert objects.size(digest) == size
    with objects.open(digest) as file:
        assert file.read() == data
    objects.verify(digest, size)


@pytest.mark.parametrize("size", SIZES)
def test_every_way_of_writing_gives_the_same_digest(objects: Objects, tmp_path: Path, size: int) -> None:
    data = some(size)
    (tmp_path / "file").write_bytes(data)
    digest = objects.write(data)
    assert objects.write_file(tmp_path / "file") == digest
    with objects.writer() as writer:
        pieces = random.Random(1)
        start = 0
        while start < size:
            part = pieces.choice([1, 1000, BLOCK, 2 * BLOCK])
            writer.write(data[start : start + part])
            start += part
        assert writer.finish() == digest
    assert [path.name for path in objects.directory.iterdir()] == [digest]


def test_a_small_object_is_named_by_its_sha256(objects: Objects) -> None:
    assert objects.write(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_no_small_object_has_the_digest_of_a_large_one(objects: Objects) -> None:
    data = some(2 * BLOCK)
    digest = objects.write(data)
    blocks = b"".join(hashlib.sha256(data[start : start + BLOCK]).digest() for start in (0, BLOCK))
    assert objects.write(blocks) != digest
    objects.path(digest).write_bytes(blocks)
    with pytest.raises(CorruptedObject):
        objects.read(digest)


@pytest.mark.parametrize(
    "array", [np.arange(12.0).reshape(3, 4), np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.array(3.0)]
)
def test_any_contiguous_buffer_is_written_as_it_lies_in_memory(objects: Objects, array: np.ndarray) -> None:
    assert objects.read(objects.write(array)) == array.tobytes("A")


def test_what_is_read_can_be_changed(objects: Objects) -> None:
    digest = objects.write(some(BLOCK + 1))
    objects.read(digest)[0] ^= 1
    objects.verify(digest)


@pytest.mark.parametrize("size", [1, 1000, BLOCK, BLOCK + 1, 2 * BLOCK + 100])
@given(position=st.floats(0, 1, exclude_max=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=5)
def test_one_changed_byte_is_found(objects: Objects, size: int, position: float) -> None:
    digest = objects.write(some(size))
    data = bytearray(some(size))
    data[int(position * size)] ^= 1
    objects.path(digest).write_bytes(data)
    for use in (objects.read, objects.open, objects.verify):
        with pytest.raises(CorruptedObject) as caught:
            use(digest)
        assert caught.value.digest == digest
    objects.path(digest).unlink()


@pytest.mark.parametrize("size", [5, BLOCK + 5])
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_a_cut_or_longer_file_is_found(objects: Objects, size: int, change) -> None:
    digest = objects.write(some(size))
    objects.path(digest).write_bytes(change(some(size)))
    with pytest.raises(CorruptedObject):
        objects.read(digest)
    with pytest.raises(CorruptedObject, match="instead of"):
        objects.read(digest, size)


def test_a_missing_object_says_so(objects: Objects) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    assert not objects.has(digest)
    for use in (objects.read, objects.open, objects.verify, objects.size):
        with pytest.raises(CorruptedObject, match="missing"):
            use(digest)


@pytest.mark.parametrize("name", ["", "abc", "../" + "a" * 61, "A" * 64, "a" * 64 + "\n", "a" * 65, "/etc/passwd"])
def test_only_a_digest_is_used_as_a_path(objects: Objects, name: str) -> None:
    for use in (objects.path, objects.has, objects.read, objects.size):
        with pytest.raises(CorruptedObject, match="name"):
            use(name)


def test_neither_a_link_nor_a_pipe_nor_a_directory_is_read(objects: Objects, tmp_path: Path) -> None:
    digest = objects.write(b"abc")
    path = objects.path(digest)
    (tmp_path / "elsewhere").write_bytes(b"abc")
    for replace in (lambda: path.symlink_to(tmp_path / "elsewhere"), lambda: os.mkfifo(path), path.mkdir):
        path.unlink()
        replace()
        with pytest.raises(CorruptedObject):
            objects.read(digest)
        if path.is_dir():
            path.rmdir()
            path.touch()


def test_only_its_owner_may_read_an_object(objects: Objects) -> None:
    before = os.umask(0)
    try:
        path = objects.path(objects.write(b"secret"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(objects.directory.stat().st_mode) == 0o700


def test_an_object_that_is_there_is_not_written_again(objects: Objects) -> None:
    first = objects.path(objects.write(some(BLOCK + 1))).stat().st_ino
    assert objects.path(objects.write(some(BLOCK + 1))).stat().st_ino == first


def test_many_threads_may_write_the_same_object(objects: Objects) -> None:
    data, digests = some(2 * BLOCK), []
    threads = [threading.Thread(target=lambda: digests.append(objects.write(data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 8
    assert len(set(digests)) == 1
    assert objects.read(digests[0]) == data
    assert len(list(objects.directory.iterdir())) == 1


def test_a_writer_that_is_not_finished_leaves_nothing(objects: Objects) -> None:
    with objects.writer() as writer:
        writer.write(b"abc")
    assert list(objects.directory.iterdir()) == []


FULL = """
import resource, sys
from pathlib import Path
from kube_nb.runner.objects import BLOCK, Objects
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for size in (2000, BLOCK + 1):
    try:
        Objects(Path(sys.argv[1])).write(bytes(size))
    except OSError as error:
        print(error.errno)
"""


def test_where_there_is_no_room_nothing_is_left(objects: Objects) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(objects.directory)], capture_output=True, text=True, check=True
    )
    assert len(done.stdout.split()) == 2
    assert list(objects.directory.iterdir()) == []


MEMORY = """
import resource, sys
from pathlib import Path
from kube_nb.runner.objects import Objects
objects = Objects(Path(sys.argv[1]))
size = 256 << 20
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
if sys.argv[2] == "write":
    data = bytearray(size)
    for start in range(0, size, 4096): data[start] = start & 255 | 1
    print(objects.write(data))
else:
    objects.read(sys.argv[2])
print((peak() - before) / size)
"""


def test_memory_holds_the_bytes_once(objects: Objects) -> None:
    def measure(what: str) -> list[str]:
        command = [sys.executable, "-c", MEMORY, str(objects.directory), what]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    digest, written = measure("write")
    (read,) = measure(digest)
    assert float(written) <= 1.1
    assert float(read) <= 1.1


def test_an_interrupt_ends_the_threads(objects: Objects) -> None:
    digest = objects.write(some(4 * BLOCK))
    before = set(threading.enumerate())

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def read_on() -> None:
        while True:
            objects.read(digest)

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            read_on()
    finally:
        signal.signal(signal.SIGALRM, handler)
    ours = set(threading.enumerate()) - before
    for thread in ours:
        with contextlib.suppress(RuntimeError):  # it was interrupted while it was started
            thread.join(10)
    assert not any(thread.is_alive() for thread in ours)
