"""What a job writes arrives whole, once and in order, whatever happens on the way; what cannot arrive is said."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from kube_nb.backends.base import Cursor
from kube_nb.backends.kubernetes import stream
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.kinds import PODS
from kube_nb.backends.kubernetes.snapshot import state
from kube_nb.backends.leaving import Leaving
from kube_nb.errors import NotFound
from kube_nb.events import Decoder, Text
from tests.cluster.alone import BINDINGS
from tests.cluster.cells import IN_POD, place, read_all
from tests.cluster.cutter import wired
from tests.cluster.small_jobs import pod_when, pods
from tests.cluster.users import applied, user
from tests.conformance.backends import CLUSTER
from tests.conformance.gate import Gate
from tests.conformance.sending import until

SHARED = None
"""What the namespace can have: the claim that all jobs share."""


@pytest.fixture
def here(cluster, tmp_path):
    with place(cluster, tmp_path) as found:
        yield found


def printed(count: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(count))


def texts(chunks) -> dict[int, bytes]:
    """The text of each attempt, in the order in which they came."""
    found: dict[int, bytes] = {}
    decoders: dict[int, Decoder] = {}
    for chunk in chunks:
        decoder = decoders.setdefault(chunk.at.attempt, Decoder())
        for item in decoder.feed(chunk.data):
            if isinstance(item, Text):
                found[chunk.at.attempt] = found.get(chunk.at.attempt, b"") + item.data
    return found


@pytest.mark.parametrize("store", [SHARED, IN_POD], ids=["store", "no-store"])
def test_a_stream_ends_with_its_end_and_reads_the_same_again(here, unique, store):
    id = unique("stream")
    here.send(id, "for i in range(1000): print('line', i)", store=store)
    read = read_all(here.stream(id))
    assert read.text == printed(1000)
    assert read.end["code"] == "Succeeded"
    again = read_all(here.stream(id, follow=False))
    assert again.sha256 == read.sha256


def test_a_stream_goes_on_from_any_place(here, unique):
    id = unique("stream")
    here.send(id, "for i in range(1000): print('line', i)")
    read = read_all(here.stream(id))
    rest = b"".join(chunk.data for chunk in here.stream(id, cursor=Cursor(0, read.size - 100)))
    assert len(rest) == 100
    assert list(here.stream(id, cursor=Cursor(0, read.size))) == []


def test_the_first_lines_are_there_while_the_job_runs(here, unique):
    id = unique("stream")
    here.send(id, "import time; print('now', flush=True); time.sleep(600)")
    seen = b""
    for chunk in here.stream(id):
        seen += chunk.data
        if b"now\n" in seen:
            break
    assert b"now\n" in b"".join(chunk.data for chunk in here.stream(id, follow=False))


@pytest.mark.parametrize("source", ["kubelet", "copy", "nothing yet"])
def test_one_who_leaves_a_silent_job_waits_for_nothing_more(here, unique, source):
    id, leaving = unique("leave"), Leaving()
    memory = 1 << 50 if source == "nothing yet" else 512 << 20  # more than any node has
    here.send(id, "import time; print('x' * 100_000, flush=True); time.sleep(600)", memory=memory)
    heard = threading.Event()

    def read() -> None:
        for chunk in here.stream(id, cursor=Cursor(0, 90_000 if source == "copy" else 0), leaving=leaving):
            if chunk.data:
                heard.set()

    reader = threading.Thread(target=read)
    reader.start()
    if source == "nothing yet":
        assert not heard.wait(1)
    else:
        assert heard.wait(60)
    assert reader.is_alive()
    leaving.leave()
    reader.join(30)
    assert not reader.is_alive()


def test_nobody_streams_a_job_that_is_not_there(here):
    with pytest.raises(NotFound):
        next(iter(here.stream("t-no-such-job")))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("store", [SHARED, IN_POD], ids=["store", "no-store"])
def test_a_connection_that_is_cut_50_times_loses_no_line_and_brings_none_twice(cluster, unique, tmp_path, store):
    id = unique("cut")
    source = """
import time
for i in range(100_000):
    print('line', i)
    if i % 250 == 249:
        time.sleep(0.2)
"""
    with wired(cluster) as (api, wire), place(api, tmp_path) as there:
        there.send(id, source, store=store)
        cut_at = 0

        def seen(chunk) -> None:
            nonlocal cut_at
            if chunk.at.offset >= cut_at:
                cut_at = chunk.at.offset + 5_000
                wire.cut()

        read = read_all(there.stream(id), seen)
        assert wire.cuts >= 50
    assert hashlib.sha256(read.text).hexdigest() == hashlib.sha256(printed(100_000)).hexdigest()
    assert read.end["account"]["sha256"] == hashlib.sha256(read.text).hexdigest()


class Once:
    """Does something beside a reader, from when a text has come."""

    def __init__(self, text: bytes, act: Callable[[], None]) -> None:
        self._text = text
        self._act = act
        self.begun = False

    def seen(self, chunk) -> None:
        if self._text in chunk.data and not self.begun:
            self.begun = True
            threading.Thread(target=self._act, daemon=True).start()


def test_a_server_that_is_away_for_a_while_is_waited_for(cluster, unique, tmp_path):
    id = unique("away")
    with wired(cluster) as (api, wire), place(api, tmp_path) as there:
        there.send(id, "import time\nfor i in range(200):\n    print('line', i, flush=True)\n    time.sleep(0.05)")

        def away() -> None:
            with wire.dead():
                threading.Event().wait(3)

        at = Once(b"line 20\n", away)
        read = read_all(there.stream(id), at.seen)
        assert at.begun
    assert read.text == printed(200)


def test_a_server_that_refuses_everybody_as_it_begins_is_waited_for(alone, admin, unique, tmp_path):
    """Its rules come to it a moment after it has begun to answer: here the rule itself does."""
    id = unique("begins")
    rules = replace(admin, namespace=alone.namespace)
    with wired(alone) as (api, wire), place(api, tmp_path) as there:
        source = "import time\nfor i in range(200):\n    print('line', i, flush=True)\n    time.sleep(0.05)"
        there.send(id, source, store=IN_POD)

        def begins() -> None:
            binding = rules.get(BINDINGS, "tenant")
            with wire.dead():
                rules.delete(BINDINGS, "tenant")
                threading.Event().wait(1)
            threading.Event().wait(2)
            del binding["metadata"]["resourceVersion"], binding["metadata"]["uid"]
            rules.create(BINDINGS, binding)

        at = Once(b"line 20\n", begins)
        read = read_all(there.stream(id), at.seen)
        assert at.begun
    assert read.text == printed(200)


def test_a_silent_job_is_followed_however_often_its_connections_are_cut(cluster, unique, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_PATIENCE", 1.0)
    id = unique("silent")
    with wired(cluster) as (api, wire), place(api, tmp_path) as there:
        there.send(id, "import time\nprint('line', 0, flush=True)\ntime.sleep(12)\nprint('line', 1)")

        def cut() -> None:
            for _ in range(3):
                threading.Event().wait(3)
                wire.cut()

        read = read_all(there.stream(id), Once(b"line 0\n", cut).seen)
        assert wire.cuts == 3
    assert read.text == printed(2)


MILLION = """
for i in range(900_000): print('line', i)
{wait}
for i in range(900_000, 1_000_000): print('line', i)
"""
"""Before its end the node has begun the container's log anew, whatever the moment at which it looks at its size."""


@pytest.fixture
def gate():
    gate = Gate(CLUSTER.address)
    yield gate
    gate.close()


def kept_by_the_node(api: Api, id: str, **how: str) -> bytes:
    """What `kubectl logs` shows."""
    (pod,) = pods(api, id)
    with api.stream("GET", PODS, pod["metadata"]["name"], "log", query=how) as response:
        return b"".join(api.pieces(response))


def until_rotated(api: Api, id: str) -> None:
    """Wait until the log that the node shows no longer begins as it did."""

    def beginning() -> bytes:
        return kept_by_the_node(api, id, limitBytes="4096").partition(b"\n")[0]

    pod_when(api, id, lambda pod: state(pod, "running"))
    first = until(beginning)
    until(lambda: beginning() != first, what="a rotated log")


@pytest.mark.alone
@pytest.mark.parametrize("store", [SHARED, IN_POD], ids=["store", "no-store"])
def test_a_million_lines_at_full_speed_arrive_across_rotations(here, cluster, unique, gate, store):
    id = unique("million")
    here.send(id, MILLION.format(wait=gate.wait), store=store)
    with ThreadPoolExecutor() as beside:
        rotated = beside.submit(until_rotated, cluster, id)
        rotated.add_done_callback(lambda _: gate.open())
        read = read_all(here.stream(id))
        rotated.result()
    assert hashlib.sha256(read.text).hexdigest() == hashlib.sha256(printed(1_000_000)).hexdigest()
    assert read.end["account"]["lines"] == 1_000_000
    assert kept_by_the_node(cluster, id).count(b"\n") < 1_000_000, "the node never rotated the log"


def test_a_million_lines_are_in_the_store_when_the_job_has_long_ended(here, cluster, unique, gate):
    id = unique("million")
    here.send(id, MILLION.format(wait=gate.wait))
    until_rotated(cluster, id)
    gate.open()
    pod_when(cluster, id, lambda pod: state(pod, "terminated"))
    assert kept_by_the_node(cluster, id).count(b"\n") < 1_000_000, "the node never rotated the log"
    read = read_all(here.stream(id, follow=False))
    assert hashlib.sha256(read.text).hexdigest() == hashlib.sha256(printed(1_000_000)).hexdigest()


def test_a_retry_comes_after_the_attempt_before_it(here, unique):
    id = unique("retry")
    source = "import os\nprint('attempt', os.environ['KUBE_NB_ATTEMPT'])\nassert os.environ['KUBE_NB_ATTEMPT'] == '1'"
    here.send(id, source, retries=1)
    assert texts(here.stream(id)) == {0: b"attempt 0\n", 1: b"attempt 1\n"}
    assert texts(here.stream(id, follow=False)) == {0: b"attempt 0\n", 1: b"attempt 1\n"}
    assert texts(here.stream(id, cursor=Cursor(1, 0))) == {1: b"attempt 1\n"}


WAITS_THE_FIRST_TIME = """
import os, time
print('attempt', os.environ['KUBE_NB_ATTEMPT'], flush=True)
if os.environ['KUBE_NB_ATTEMPT'] == '0':
    time.sleep(600)
"""


@pytest.mark.parametrize("store", [SHARED, IN_POD], ids=["store", "no-store"])
def test_what_a_pod_wrote_that_was_removed_is_in_the_store_or_is_said_to_be_lost(here, cluster, unique, store):
    id = unique("gone")
    here.send(id, WAITS_THE_FIRST_TIME, store=store)
    pod = pod_when(cluster, id, lambda pod: state(pod, "running"))
    stream = here.stream(id)
    seen = b""
    while b"attempt 0\n" not in seen:
        seen += next(stream).data
    cluster.delete(PODS, pod["metadata"]["name"], grace=0)
    rest = texts(stream)
    assert rest[1] == b"attempt 1\n"
    later = texts(here.stream(id, follow=False))
    assert later[1] == b"attempt 1\n"
    if store is SHARED:
        assert later[0] == b"attempt 0\n"
    else:
        assert b"[kube-nb: " in later[0]
        assert b" lost" in later[0]


COPY_BREAKS_OFF = """
import os, resource
resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # as if the disk of the store were full
for i in range(200_000): print('line', i)
"""


def test_what_is_not_in_the_stores_copy_is_read_from_the_node(here, cluster, unique):
    id = unique("full")
    here.send(id, COPY_BREAKS_OFF)
    assert read_all(here.stream(id)).text == printed(200_000)
    pod_when(cluster, id, lambda pod: state(pod, "terminated"))
    later = read_all(here.stream(id, follow=False))
    assert later.text == printed(200_000)
    assert later.end["detail"]["log"]["lost"] > 0


VIEWS = """
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}}
subjects: [{{kind: ServiceAccount, name: {name}, namespace: {namespace}}}]
"""
FILLS_THEN_TICKS = """
import time
for _ in range(2):
    for i in range(200_000): print('line', i)
    print(end='', flush=True)
    time.sleep(11)
for i in range(400):
    print('tick', i, flush=True)
    time.sleep(0.25)
"""


@pytest.mark.slow
def test_who_may_not_exec_hears_once_what_is_lost_and_then_follows(here, cluster, admin, unique, tmp_path):
    id = unique("looks-on")
    here.send(id, FILLS_THEN_TICKS, store=IN_POD)
    whole = here.stream(id)
    heard = b""
    while b"tick 0\n" not in heard:
        heard = heard[-100:] + next(whole).data
    with (
        user(admin, tmp_path) as somebody,
        applied(admin, VIEWS.format(name=somebody.context, namespace=admin.namespace)),
        place(somebody.api, tmp_path / "other") as other,
    ):
        # It begins in the middle, where the node has no more of what came before.
        followed = other.stream(id, cursor=Cursor(0, 1 << 20))
        seen = b""
        while seen.count(b"tick") < 20:
            seen += next(followed).data
    assert seen.count(b" lost") == 1
    ticks = [int(line.split()[1]) for line in seen.splitlines() if line.startswith(b"tick")]
    assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))


ROTATES = """
import time
for _ in range(3):
    for i in range(200_000): print('line', i)
    print(end='', flush=True)
    time.sleep(11)
print('last')
"""


@pytest.mark.slow
def test_lines_that_the_node_has_rotated_away_are_counted_once_nothing_else_has_them(here, cluster, unique):
    id = unique("rotated")
    here.send(id, ROTATES, store=IN_POD)
    whole = read_all(here.stream(id))
    assert whole.text.count(b"\n") == 600_001
    pod_when(cluster, id, lambda found: state(found, "terminated"))
    left = b"".join(chunk.data for chunk in here.stream(id, follow=False))
    first, _, rest = left.partition(b"\n")
    assert first.startswith(b"[kube-nb: ")
    assert b" lost" in first
    text = b"".join(item.data for item in Decoder().feed(rest) if isinstance(item, Text))
    assert whole.text.endswith(text)  # nothing of it, where the node rotates as the container ends
    assert int(first.split()[1]) + text.count(b"\n") == 600_001
