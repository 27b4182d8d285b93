"""Objects reach a container and come back whole, and nothing is sent twice."""

from __future__ import annotations

import hashlib
import os
import resource
import threading
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.exec import Exec
from kube_nb.backends.kubernetes.snapshot import state
from kube_nb.backends.kubernetes.transfer import Container, Refusal, get_objects, put_objects
from kube_nb.errors import Corrupted, NotFound
from kube_nb.runner.objects import BLOCK, Objects
from tests.cluster.cells import IN_POD, place
from tests.cluster.cutter import wired
from tests.cluster.small_jobs import pod_when

SIZE = int(os.environ.get("KUBE_NB_TEST_MB", "64")) * 1_000_000
"""Bytes of the large array."""
WAITS = "import time; time.sleep(3600)"


@pytest.fixture
def container(cluster, tmp_path, unique):
    """A job's, which waits."""
    id = unique("carry")
    with place(cluster, tmp_path) as here:
        here.send(id, WAITS, store=IN_POD)
        pod = pod_when(cluster, id, lambda pod: state(pod, "running"))
        yield Container(cluster, pod["metadata"]["name"])


@pytest.fixture
def there(unique) -> str:
    return f"{names.RUN}/{unique('objects')}"


def written(folder: Path, *contents: bytes) -> dict[str, Path]:
    objects = Objects(folder)
    return {digest: folder / digest for digest in map(objects.write, contents)}


def large(folder: Path) -> dict[str, Path]:
    """An object of `SIZE` bytes that nothing can compress."""
    with Objects(folder).writer() as writer:
        for _ in range(SIZE // 1_000_000):
            writer.write(os.urandom(1_000_000))
        digest = writer.finish()
    return {digest: folder / digest}


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_objects_of_all_sizes_arrive_and_come_back(container, there, tmp_path):
    sent = written(
        tmp_path / "sent", b"", b"1", os.urandom(BLOCK), os.urandom(BLOCK + 1), *(b"%d" % i for i in range(300))
    )
    put_objects(container, there, sent)
    back = {digest: tmp_path / "back" / digest for digest in sent}
    (tmp_path / "back").mkdir()
    get_objects(container, there, back)
    assert {digest: path.read_bytes() for digest, path in back.items()} == {
        digest: path.read_bytes() for digest, path in sent.items()
    }


def test_what_is_there_is_not_sent_again(container, there, tmp_path):
    sent = written(tmp_path / "sent", b"one", b"other")
    assert put_objects(container, there, sent) == 8
    assert put_objects(container, there, sent | written(tmp_path / "sent", b"new")) == 3


def test_progress_is_told_up_to_all(container, there, tmp_path):
    sent, told = written(tmp_path / "sent", os.urandom(3_000_000)), []
    put_objects(container, there, sent, lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (3_000_000, 3_000_000)


def test_an_object_that_is_not_what_its_name_says_is_not_taken(container, there, tmp_path):
    sent = written(tmp_path / "sent", b"genuine")
    (path,) = sent.values()
    path.write_bytes(b"altered")
    with pytest.raises(Corrupted):
        put_objects(container, there, sent)
    with pytest.raises(NotFound):
        get_objects(container, there, {path.name: tmp_path / "back"})


def test_an_object_that_was_changed_in_the_pod_is_not_taken(container, there, tmp_path):
    sent = written(tmp_path / "sent", b"genuine")
    (digest,) = sent
    put_objects(container, there, sent)
    program = f"open('{there}/{digest}', 'wb').write(b'altered')"
    with run_in(container, program) as run:
        run.output()
    with pytest.raises(Corrupted):
        get_objects(container, there, {digest: tmp_path / digest})
    assert not (tmp_path / digest).exists()


def test_an_object_goes_on_where_the_connection_was_cut(cluster, container, there, tmp_path):
    sent = large(tmp_path / "sent")
    with wired(cluster) as (api, wire):
        over_wire = Container(api, container.pod)
        cut_at = iter(range(SIZE // 5, SIZE, SIZE // 5))
        cut = next(cut_at)

        def cut_often(done: int, total: int) -> None:
            nonlocal cut
            if done >= cut:
                cut = next(cut_at, SIZE * 2)
                wire.cut()

        moved = put_objects(over_wire, there, sent, cut_often)
        assert wire.cuts >= 3
        assert moved < SIZE * 1.5, "it began anew"
        cut_at = iter(range(SIZE // 5, SIZE, SIZE // 5))
        cut = next(cut_at)
        before = wire.cuts
        (tmp_path / "back").mkdir()
        back = {digest: tmp_path / "back" / digest for digest in sent}
        get_objects(over_wire, there, back, cut_often)
        assert wire.cuts >= before + 3
    assert {digest: sha256(path) for digest, path in back.items()} == {
        digest: sha256(path) for digest, path in sent.items()
    }


def test_a_large_object_takes_no_memory(container, there, tmp_path):
    sent = large(tmp_path / "sent")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    put_objects(container, there, sent)
    (tmp_path / "back").mkdir()
    get_objects(container, there, {digest: tmp_path / "back" / digest for digest in sent})
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < SIZE / 2


def test_two_who_send_the_same_object_at_once_do_not_disturb_each_other(container, there, tmp_path):
    sent = written(tmp_path / "sent", os.urandom(20_000_000))
    failures = []

    def send() -> None:
        try:
            put_objects(container, there, sent)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    (digest,) = sent
    get_objects(container, there, {digest: tmp_path / digest})


def test_a_folder_that_cannot_be_written_is_said_at_once(container, tmp_path):
    with pytest.raises(Refusal, match=r"denied|Read-only"):
        put_objects(container, "/etc/objects", written(tmp_path / "sent", b"x"))


def test_a_container_that_does_not_run_is_said_at_once(cluster, tmp_path):
    with pytest.raises(ApiError):
        put_objects(Container(cluster, "t-no-such-pod"), names.RUN, written(tmp_path / "sent", b"x"))


def run_in(container: Container, program: str) -> Exec:
    return Exec.start(container.api, container.pod, ["python3", "-c", program], stdin=False)
