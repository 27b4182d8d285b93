"""Nodes that start together and end together: real runners, and every way in which one of them can be lost."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube_nb.backends.reasons import reason_of
from kube_nb.runner import ending
from tests.conformance.sending import gone
from tests.unit.gang_nodes import Nodes, Puppet, connect

pytestmark = pytest.mark.slow

HERE = "import os, time; print('pid', os.getpid(), '.', flush=True)\n"
SLEEP = HERE + "time.sleep(60)"
LAST_WORDS = """
import os, signal, sys, time
def end(*_):
    time.sleep(0.3); os.write(1, f'last words of {RANK}\\n'.encode()); sys.exit(9)
signal.signal(signal.SIGTERM, end); print('ready', RANK, flush=True)
"""

Start = Callable[..., Nodes]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Start]:
    made: list[Nodes] = []

    def make(count: int = 2, **options: str) -> Nodes:
        made.append(Nodes(tmp_path / str(len(made)), count, **options))
        return made[-1]

    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    yield make
    for each in made:
        each.kill()


def pid_in(stream: bytes) -> int:
    return int(stream.partition(b"pid ")[2].split()[0])


def pids(gang: Nodes) -> list[int]:
    """The processes of the ranks, once all run."""
    for number in gang.running:
        gang.until(number, b" .\n")
    return [pid_in((gang.nodes[number].folder / "stream").read_bytes()) for number in gang.running]


# Together


def test_all_nodes_end_well_together(nodes: Start):
    ran = nodes(3).start("print('rank', RANK)").wait()
    assert [(each.status, each.code) for each in ran] == [(0, "Succeeded")] * 3
    assert [each.text[rank] for rank, each in enumerate(ran)] == [b"rank 0\n", b"rank 1\n", b"rank 2\n"]


def test_ranks_have_the_variables_of_torchrun(nodes: Start):
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR"]
    source = f"import os; print(*[os.environ[name] for name in {[*names, 'MASTER_PORT']}])"
    ran = nodes(2, service="job-1.somewhere.svc").start(source, procs=2).wait()
    master = "job-1-0.job-1.somewhere.svc 29500\n"
    texts = {rank: text.decode() for each in ran for rank, text in each.text.items()}
    assert texts == {
        0: f"0 0 4 2 0 0 {master}",
        1: f"1 1 4 2 0 0 {master}",
        2: f"2 0 4 2 1 1 {master}",
        3: f"3 1 4 2 1 1 {master}",
    }


def test_no_rank_starts_before_all_nodes_are_there(nodes: Start):
    gang = nodes(3)
    gang.start("import time; print('at', time.time())", 0, 1)
    gang.until(0, b"2 of 3 nodes are there; waiting for node 2")
    gang.until(1, b"waiting for the others")
    time.sleep(0.3)
    late = time.time()
    gang.start("import time; print('at', time.time())", 2)
    times = [float(each.text[rank].split()[1]) for rank, each in enumerate(gang.wait())]
    assert min(times) > late
    assert max(times) - min(times) < 2


def test_a_node_that_is_early_waits_for_node_0(nodes: Start):
    gang = nodes()
    gang.start("print('done')", 1)
    gang.until(1, b"nothing listens there")
    gang.start("print('done')", 0)
    assert [each.status for each in gang.wait()] == [0, 0]


def test_the_number_of_the_attempt_is_that_of_node_0(nodes: Start):
    gang = nodes()
    source = "import os; print('attempt', os.environ['KUBE_NB_ATTEMPT'])"
    gang.start(source, 0, attempt=2).start(source, 1, attempt=7)
    ran = gang.wait()
    assert [each.text[rank] for rank, each in enumerate(ran)] == [b"attempt 2\n"] * 2
    assert ran[1].events[-1].kind == "end"
    assert ran[1].events[-1].attempt == 2


def test_nobody_ends_well_before_all_have_ended(nodes: Start):
    gang = nodes()
    go = gang.nodes[0].folder / "go"
    source = f"import os, time\nwhile RANK and not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('done', RANK)"
    gang.start(source, procs=1)
    gang.until(0, b"done 0")
    time.sleep(0.5)
    assert gang.running[0].process.poll() is None
    go.touch()
    assert [each.status for each in gang.wait()] == [0, 0]


# A rank that fails


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_the_first_exception_is_how_the_job_ends(nodes: Start, culprit: int):
    source = (
        LAST_WORDS
        + f"time.sleep(0.5)\nif RANK == {culprit}:\n    raise ValueError('it was rank %d' % RANK)\ntime.sleep(60)"
    )
    ran = nodes(3).start(source).wait()
    assert (ran[0].status, ran[0].code, ran[0].end["rank"]) == (1, "Exception", culprit)
    assert (ran[0].end["ename"], ran[0].end["evalue"]) == ("ValueError", f"it was rank {culprit}")
    assert ran[0].end["line"] == source.split("\n").index("    raise ValueError('it was rank %d' % RANK)") + 1
    assert reason_of(ran[0].end).what == f"the code raised ValueError in Cell In[5], line {ran[0].end['line']}"
    assert [(each.status, each.code) for each in ran[1:]] == [(88, "Again")] * 2
    for rank, each in enumerate(ran):
        assert (b"last words of %d\n" % rank in each.text[rank]) == (rank != culprit), "all write to the end"


@pytest.mark.parametrize("culprit", [0, 1])
def test_a_death_comes_before_the_exceptions_that_it_causes(nodes: Start, culprit: int):
    gang = nodes()
    # The survivor holds a connection to the one that dies, as a collective operation would.
    source = f"""
import os, socket, time
path = {str(gang.nodes[0].folder / "s")!r}
if RANK == {culprit}:
    server = socket.socket(socket.AF_UNIX); server.bind(path + "."); server.listen(); os.rename(path + ".", path)
    peer, _ = server.accept(); time.sleep(0.3); os.kill(os.getpid(), 9)
while not os.path.exists(path): time.sleep(0.01)
peer = socket.socket(socket.AF_UNIX); peer.connect(path)
peer.recv(1); raise ConnectionResetError("the other one is gone")
"""
    ran = gang.start(source).wait()
    assert (ran[0].code, ran[0].end["rank"], ran[0].end["signal"]) == ("Signal", culprit, 9)
    assert [each.status for each in ran] == [1, 88]


def test_a_failed_rank_that_does_not_end_is_not_waited_for_without_limit(nodes: Start):
    # Nothing but its node's own time-out ends the rank that failed first; the others must not wait for it meanwhile.
    gang = nodes().start(HERE + "if RANK == 1: say('error', error={'ename': 'E', 'evalue': 'x'})\ntime.sleep(60)")
    first, second = pids(gang)
    assert gone(first)
    gang.signal(0, signal.SIGTERM)
    ran = gang.wait()
    assert (ran[0].code, ran[0].end["ename"], ran[0].end["rank"]) == ("Exception", "E", 1)
    assert gone(second)


def test_a_rank_that_leaves_early_ends_all(nodes: Start):
    ran = nodes().start("import os, time\nif RANK: os._exit(7)\ntime.sleep(60)").wait()
    assert (ran[0].status, ran[0].code, ran[0].end["exit"], ran[0].end["rank"]) == (1, "Exited", 7, 1)


def test_the_time_out_of_node_0_holds_for_all(nodes: Start):
    ran = nodes().start("import time\nif RANK: time.sleep(60)", timeout=1.0).wait()
    assert [(each.status, each.code) for each in ran] == [(80, "TimedOut"), (88, "Again")]


def test_the_next_attempt_of_all_can_end_well(nodes: Start):
    gang = nodes()
    source = "import os\nif RANK and os.environ['KUBE_NB_ATTEMPT'] == '0': 1 / 0"
    assert [each.status for each in gang.start(source).wait()] == [1, 88]
    assert [each.status for each in gang.start(source, attempt=1).wait()] == [0, 0]


# A node that is lost


def test_a_killed_runner_is_a_lost_rank(nodes: Start):
    gang = nodes(3).start(SLEEP, procs=1)
    ranks = pids(gang)
    gang.signal(1, signal.SIGKILL)
    ran = gang.wait()
    assert (ran[0].status, ran[0].code, ran[0].end["rank"]) == (1, "RankLost", 1)
    assert ran[0].end["detail"] == {"node": 1, "ranks": [1], "disruption": False}
    assert "node 1 (rank 1) was lost" in reason_of(ran[0].end).why
    assert (ran[2].status, ran[2].code) == (88, "Again")
    assert all(gone(pid) for pid in ranks)


def test_a_runner_that_stands_still_is_lost_and_counts_as_a_disruption(nodes: Start):
    gang = nodes(2, silence="1.5").start(SLEEP, procs=1)
    ranks = pids(gang)
    gang.signal(1, signal.SIGSTOP)
    first = gang.running[0].wait()
    assert (first.status, first.code) == (88, "RankLost")
    assert "silent for 1.5 s" in first.end["evalue"]
    gang.signal(1, signal.SIGCONT)
    second = gang.running[1].wait()
    assert (second.status, second.code) == (88, "Again")
    assert all(gone(pid) for pid in ranks)


def test_a_node_0_that_stood_still_for_too_long_starts_again_too(nodes: Start):
    """The others have gone meanwhile, for which nobody's code is to blame."""
    gang = nodes(2, silence="1.5").start(SLEEP, procs=1)
    pids(gang)
    gang.signal(0, signal.SIGSTOP)
    second = gang.running[1].wait()
    assert (second.status, second.code) == (88, "Again")
    gang.signal(0, signal.SIGCONT)
    first = gang.running[0].wait()
    assert (first.status, first.code) == (88, "RankLost")
    assert first.end["detail"]["disruption"] is True
    assert "heard nothing from node 0 for 1.5 s" in first.end["evalue"]


def test_what_a_silent_node_causes_in_others_is_not_the_reason(nodes: Start):
    gang = nodes(2, silence="2").start(HERE + "time.sleep(2.2 if RANK == 0 else 60); 1 / 0", procs=1)
    pids(gang)
    gang.signal(1, signal.SIGSTOP)
    assert gang.running[0].wait().code == "RankLost"


def test_a_quiet_gang_lives_on_signs_of_life(nodes: Start):
    ran = nodes(2, silence="0.6").start("import time; time.sleep(2)").wait()
    assert [each.status for each in ran] == [0, 0]


def test_a_pause_of_node_0_that_is_not_too_long_loses_nobody(nodes: Start):
    gang = nodes(2, silence="2").start(HERE + "time.sleep(2)", procs=1)
    pids(gang)
    gang.signal(0, signal.SIGSTOP)
    time.sleep(1)
    gang.signal(0, signal.SIGCONT)
    assert [each.status for each in gang.wait()] == [0, 0]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_without_node_0_the_others_end_to_start_again(nodes: Start, signum: int):
    gang = nodes(3, silence="1.5").start(SLEEP, procs=1)
    ranks = pids(gang)
    gang.signal(0, signum)
    for number in (1, 2):
        ran = gang.running[number].wait()
        assert (ran.status, ran.code) == (88, "Again")
        assert "node 0 was lost" in ran.end["evalue"]
        assert gone(ranks[number])


def test_a_node_that_is_lost_before_the_start_is_replaced(nodes: Start):
    gang = nodes(3).start("print('done')", 0, 1)
    gang.until(1, b"waiting for the others")
    gang.signal(1, signal.SIGKILL)
    gang.running.pop(1).process.wait()
    gang.until(0, b"waiting for nodes 1-2")
    gang.start("print('done')", 1, 2)
    assert [each.status for each in gang.wait()] == [0, 0, 0]


def test_the_others_wait_for_the_next_node_0_where_it_is_lost_before_the_start(nodes: Start):
    gang = nodes(3).start("print('done')", 0, 1)
    gang.until(1, b"waiting for the others")
    gang.signal(0, signal.SIGTERM)
    assert gang.running.pop(0).wait().status == 82
    gang.start("print('done')", 0, 2, attempt=1)
    assert [each.status for each in gang.wait()] == [0, 0, 0]


def test_a_node_that_was_killed_after_the_end_comes_back_to_hear_of_it(nodes: Start):
    gang = nodes().start("print('done')", 0)
    puppet = Puppet(gang.port, 1)
    puppet.until("go")
    puppet.wire.send("ended", end=ending.end("Succeeded", 1))
    assert puppet.until("release")["code"] == "Succeeded"
    puppet.wire.close()  # and no last word
    gang.start("print('never')", 1)
    ran = gang.wait()
    assert [(each.status, each.code) for each in ran] == [(0, "Succeeded")] * 2
    assert b"never" not in ran[1].stream


def test_a_node_that_cannot_begin_ends_the_job_in_its_own_words(nodes: Start):
    gang = nodes()
    source = "print('never')"
    gang.sign(1, source)
    victim = next(path for path in (gang.nodes[1].bundle / "objects").iterdir() if path.read_text() == source)
    victim.write_text("print('other')")
    gang.start(source, 0)
    gang.launch(1)
    ran = gang.wait()
    assert (ran[0].status, ran[0].code, ran[0].end["rank"]) == (83, "BundleCorrupted", 1)
    assert (ran[1].status, ran[1].code) == (88, "Again")


# Asked to end


@pytest.mark.parametrize("asked", [0, 1])
def test_a_cancel_anywhere_is_one_everywhere(nodes: Start, asked: int):
    gang = nodes().start(LAST_WORDS + "time.sleep(60)")
    gang.until(0, b"ready 0\n")
    gang.until(1, b"ready 1\n")
    gang.signal(asked, signal.SIGINT)
    ran = gang.wait()
    assert [(each.status, each.code) for each in ran] == [(81, "Cancelled"), (88, "Again")]
    for rank, each in enumerate(ran):
        assert each.text[rank] == b"ready %d\nlast words of %d\n" % (rank, rank)


def test_a_cancel_of_all_nodes_at_once_is_one_cancel(nodes: Start):
    gang = nodes().start(SLEEP, procs=1)
    pids(gang)
    for number in (0, 1):
        gang.signal(number, signal.SIGINT)
    ran = gang.wait()
    assert (ran[0].status, ran[0].code) == (81, "Cancelled")
    assert ran[1].status in (81, 88)


@pytest.mark.parametrize("asked", [0, 1])
def test_a_cancel_before_all_are_there_ends_all(nodes: Start, asked: int):
    gang = nodes(3).start("print('never')", 0, 1)
    gang.until(1, b"waiting for the others")
    gang.signal(asked, signal.SIGINT)
    ran = gang.wait()
    assert (ran[0].status, ran[0].code) == (81, "Cancelled")
    assert ran[1].status in (81, 88)
    assert not any(b"never" in each.stream for each in ran)


def test_a_node_is_cancelled_that_cannot_reach_node_0(nodes: Start):
    gang = nodes().start("print('never')", 1)
    gang.until(1, b"nothing listens there")
    gang.signal(1, signal.SIGINT)
    assert [(each.status, each.code) for each in gang.wait()] == [(81, "Cancelled")]


def test_a_node_that_is_stopped_stops_all_to_start_again(nodes: Start):
    gang = nodes().start(SLEEP, procs=1)
    pids(gang)
    gang.signal(1, signal.SIGTERM)
    ran = gang.wait()
    assert [(each.status, each.code) for each in ran] == [(82, "Stopped"), (82, "Stopped")]
    assert ran[0].end["detail"]["node"] == 1


def test_node_0_that_is_stopped_stops_all_to_start_again(nodes: Start):
    gang = nodes().start(SLEEP, procs=1)
    pids(gang)
    gang.signal(0, signal.SIGTERM)
    assert [(each.status, each.code) for each in gang.wait()] == [(82, "Stopped"), (88, "Again")]


# Nodes that do not find each other


def test_node_0_says_who_never_came(nodes: Start):
    gang = nodes(3, join="1.5").start("print('never')", 0, 1)
    ran = gang.wait()
    assert (ran[0].status, ran[0].code) == (89, "RendezvousBlocked")
    assert ran[0].end["detail"]["nodes"] == [2]
    reason = reason_of(ran[0].end)
    assert f"node 2 never reached node 0 at 127.0.0.1, port {gang.port}" in reason.what
    assert "kube-nb/job=job-1" in reason.next
    assert ran[1].status == 88


def test_a_node_says_where_nobody_answered(nodes: Start):
    gang = nodes(join="1.5").start("print('never')", 1)
    (ran,) = gang.wait()
    assert (ran.status, ran.code) == (89, "RendezvousBlocked")
    reason = reason_of(ran.end)
    assert f"node 1 could not reach node 0 at 127.0.0.1, port {gang.port}" in reason.what
    assert "nothing listens there" in reason.why
    assert "NetworkPolicy" in reason.next


def test_a_node_says_that_a_name_is_not_known(nodes: Start):
    gang = nodes(join="1.5")
    gang.sign(1, "print('never')")
    ran = gang.launch(1, address="nobody.invalid:1").wait()
    assert (ran.status, ran.code) == (89, "RendezvousBlocked")
    assert "its name is not known" in reason_of(ran.end).why


def test_a_port_that_is_taken_is_said(nodes: Start):
    gang = nodes()
    with socket.create_server(("", gang.port)):
        (ran,) = gang.start("print('never')", 0).wait()
    assert (ran.status, ran.code) == (89, "RendezvousBlocked")
    assert str(gang.port) in ran.end["evalue"]


# Strangers


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\x00\n",
        b"[" * 20_000 + b"\n",
        b"x" * 100_000,
        b"{}\n",
        b'{"v":1,"job":"job-1","node":1,"nonce":7}\n',
        b'{"v":1,"job":"another","node":1,"nonce":"' + b"0" * 64 + b'"}\n',
        b'{"v":1,"job":"job-1","node":0,"nonce":"' + b"0" * 64 + b'"}\n',
        b'{"v":1,"job":"job-1","node":2,"nonce":"' + b"0" * 64 + b'"}\n',
        b'{"v":1,"job":"job-1","node":true,"nonce":"' + b"0" * 64 + b'"}\n',
        b'{"v":1,"job":"job-1","node":1,"nonce":"' + b"0" * 64 + b'"}\n{"proof":"\xc3\xa4"}\n',
        b'{"v":1,"job":"job-1","node":1,"nonce":"' + b"0" * 64 + b'"}\n{"proof":"' + b"0" * 32 + b'"}\n',
    ],
    ids=range(13),
)
def test_a_stranger_changes_nothing(nodes: Start, said: bytes):
    gang = nodes().start("import time; time.sleep(0.5); print('done')", 0)
    stranger = connect(gang.port)
    stranger.sendall(said)
    gang.start("import time; time.sleep(0.5); print('done')", 1)
    late = connect(gang.port)
    late.sendall(said)
    assert [each.status for each in gang.wait()] == [0, 0]
    stranger.close()
    late.close()


def test_many_strangers_do_not_keep_a_node_out(nodes: Start):
    gang = nodes().start("print('done')", 0)
    crowd = [connect(gang.port) for _ in range(200)]
    gang.start("print('done')", 1)
    assert [each.status for each in gang.wait()] == [0, 0]
    for each in crowd:
        each.close()


def test_a_node_with_another_key_is_not_let_in(nodes: Start):
    gang = nodes(join="3")
    gang.start("print('never')", 0)
    gang.options = {"join": "1"}
    other = b"o" * 32
    gang.nodes[1].key.write_bytes(other)
    gang.sign(1, "print('never')", key=other)
    gang.launch(1)
    ran = gang.wait()
    assert [each.code for each in ran] == ["RendezvousBlocked"] * 2
    assert "did not take this node in" in ran[1].end["evalue"]


def test_who_answers_with_another_key_is_not_believed(nodes: Start):
    gang = nodes(join="2").start("print('never')", 1)
    impostor = nodes(2)
    other = b"o" * 32
    impostor.port, impostor.address = gang.port, gang.address
    impostor.nodes[0].key.write_bytes(other)
    impostor.sign(0, "print('never')", key=other)
    impostor.launch(0)
    assert gang.wait()[0].code == "RendezvousBlocked"


def test_a_proof_serves_only_once(nodes: Start):
    gang = nodes().start("print('done')", 0)
    puppet = Puppet(gang.port, 1)
    puppet.until("welcome")
    replay = connect(gang.port)
    replay.sendall(b'{"v":1,"job":"job-1","node":1,"nonce":"' + b"0" * 64 + b'"}\n')
    theirs = json.loads(replay.makefile("rb").readline())
    replay.sendall(json.dumps({"proof": theirs["proof"]}).encode() + b"\n")  # its own proof, sent back
    assert replay.recv(1) == b""
    puppet.wire.send("ended", end=ending.end("Succeeded", 1))
    puppet.until("release")
    puppet.wire.send("bye", status=0)
    assert gang.wait()[0].status == 0


def test_a_line_that_was_changed_on_its_way_ends_the_connection(nodes: Start):
    gang = nodes().start(SLEEP, 0)
    puppet = Puppet(gang.port, 1)
    puppet.until("go")
    puppet.connection.sendall(b"0" * 32 + b' {"kind":"bye"}\n')
    puppet.until_lost()
    ran = gang.wait()
    assert (ran[0].code, ran[0].end["rank"]) == ("RankLost", 1)
