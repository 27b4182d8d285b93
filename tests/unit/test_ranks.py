"""Several ranks, signals, time-outs, and processes that do not want to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kube_nb.runner import processes
from tests.conformance.sending import gone
from tests.unit.one_node import OneNode

SLEEP = "import os, time; print('pid', os.getpid(), '.', flush=True); time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


@pytest.fixture
def node(tmp_path: Path) -> OneNode:
    return OneNode(tmp_path)


def pid_in(stream: bytes) -> int:
    return int(stream.partition(b"pid ")[2].split()[0])


# Several ranks


def test_the_ranks_have_the_variables_of_torchrun(node: OneNode):
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR"]
    source = f"import os; print(*[os.environ[name] for name in {names}]); assert 0 < int(os.environ['MASTER_PORT'])"
    ran = node.start(source, procs=2).wait()
    assert ran.code == "Succeeded"
    assert ran.text == {0: b"0 0 2 2 0 127.0.0.1\n", 1: b"1 1 2 2 0 127.0.0.1\n"}


def test_the_second_of_two_nodes_has_the_higher_ranks(node: OneNode, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MASTER_ADDR", "first")
    monkeypatch.setenv("MASTER_PORT", "1234")
    source = "import os; print(os.environ['RANK'], os.environ['GROUP_RANK'], os.environ['MASTER_ADDR'])"
    running = node.start(source, node=1, nodes=2, procs=2)
    ran = running.wait()
    lines = [line for line in ran.stream.split(b"\n") if line.startswith((b"2 ", b"3 "))]
    assert sorted(lines) == [b"2 1 first", b"3 1 first"]
    assert ran.end["rank"] == 2


def test_lines_of_several_ranks_stay_whole(node: OneNode):
    source = (
        "import os, random, time\nrandom.seed(RANK)\n"
        "data = b''.join(b'%d:%d %s\\n' % (RANK, i, b'x' * random.randrange(300)) for i in range(3000))\n"
        "while data:\n    n = random.randrange(1, 2000); os.write(1, data[:n]); data = data[n:]\n"
    )
    ran = node.run(source, procs=3)
    for rank in range(3):
        lines = ran.text[rank].split(b"\n")[:-1]
        assert [line.split()[0] for line in lines] == [b"%d:%d" % (rank, i) for i in range(3000)]
    # As a person reads the stream, too: no line is cut by another rank's.
    plain = [line for line in ran.stream.split(b"\n") if line and not line.startswith(b"\x1e")]
    assert len(plain) == 9000
    assert all(line.split(b":")[0] in (b"0", b"1", b"2") for line in plain)


@pytest.mark.slow
def test_the_beginning_of_a_line_waits_for_its_rest_only_so_long(node: OneNode):
    source = "import time; print('start', RANK, end='', flush=True); time.sleep(20)"
    running = node.start(source, procs=2, grace=0.2)
    running.until(b"start 0", 10)
    running.until(b"start 1", 10)
    running.process.send_signal(signal.SIGINT)
    assert running.wait().code == "Cancelled"


def test_the_beginning_of_a_line_comes_before_an_event_of_its_rank(node: OneNode):
    ran = node.run("print('loss:', end=' '); say('metric', values={'r': RANK}); print(RANK)", procs=2)
    assert ran.text == {0: b"loss: 0\n", 1: b"loss: 1\n"}
    for rank in range(2):
        before = ran.stream.partition(b'"values":{"r":%d}' % rank)[0]
        assert before.count(b"loss: ") >= 1


def test_a_very_long_line_of_one_rank_passes_in_pieces(node: OneNode):
    ran = node.run("import os; os.write(1, bytes([97 + RANK]) * 3_000_000)", procs=2)
    assert ran.text == {0: b"a" * 3_000_000, 1: b"b" * 3_000_000}


def test_displays_come_with_their_rank_and_results_from_rank_0_alone(node: OneNode):
    ran = node.run("say('display', data={'text/plain': str(RANK)}); say('result', index={'r': RANK})", procs=2)
    shown = {event.rank: event.data["data"]["text/plain"] for event in ran.events if event.kind == "display"}
    assert shown == {0: "0", 1: "1"}
    assert [result["index"] for result in ran.of("result")] == [{"r": 0}]


@pytest.mark.parametrize(
    ("death", "code"),
    [
        ("os.kill(os.getpid(), 9)", "Signal"),
        ("os._exit(0)", "Exited"),
        ("sys.exit(4)", "SystemExit"),
        ("1 / 0", "Exception"),
    ],
)
def test_one_failing_rank_ends_all_and_is_the_reason(node: OneNode, death: str, code: str):
    source = (
        "import os, signal, sys, time\n"
        "def last(*_): print('tail of', RANK, flush=True); os._exit(9)\n"
        "signal.signal(signal.SIGTERM, last)\n"
        "print('ready', RANK, flush=True)\n"
        "if RANK == 1:\n"
        f"    time.sleep(0.5); {death}\n"
        "time.sleep(60)\n"
    )
    ran = node.run(source, procs=3)
    assert (ran.code, ran.end["rank"]) == (code, 1)
    assert ran.text[0].endswith(b"tail of 0\n")
    assert ran.text[2].endswith(b"tail of 2\n")
    assert ran.seconds < 15


@pytest.mark.slow
def test_a_victim_that_speaks_first_is_not_the_reason(node: OneNode):
    source = (
        "import os, socket, time\n"
        "path = os.path.join(os.path.dirname(os.environ['KUBE_NB_SOCKET']), 'peer')\n"
        "if RANK == 0:\n"
        "    s = socket.socket(socket.AF_UNIX); s.bind(path); s.listen(); c, _ = s.accept(); c.recv(1)\n"
        "    c.recv(1) or 1 / 0\n"
        "while not os.path.exists(path): time.sleep(0.01)\n"
        "c = socket.socket(socket.AF_UNIX); time.sleep(0.1); c.connect(path); c.send(b'x')\n"
        "os.kill(os.getpid(), 11)\n"
    )
    for _ in range(5):
        ran = node.run(source, procs=2)
        assert (ran.code, ran.end["rank"], ran.end["signal"]) == ("Signal", 1, 11)


# Cancel, stop, time-out


def test_a_cancel_lets_the_code_say_its_last_words(node: OneNode):
    running = node.start(
        "import os, signal, sys, time\n"
        "def stop(*_): os.write(1, b'saving\\n'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    running.until(b"ready\n")
    running.process.send_signal(signal.SIGINT)
    ran = running.wait()
    assert (ran.code, ran.status) == ("Cancelled", 81)
    assert ran.text[0] == b"ready\nsaving\n"


def test_a_stop_from_outside_is_no_cancel(node: OneNode):
    running = node.start(SLEEP)
    running.until(b"pid")
    running.process.send_signal(signal.SIGTERM)
    ran = running.wait()
    assert (ran.code, ran.status) == ("Stopped", 82)


def test_who_does_not_end_in_time_is_killed(node: OneNode):
    running = node.start(DEAF, grace=0.5)
    running.until(b"pid")
    began = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    ran = running.wait()
    assert ran.code == "Cancelled"
    assert 0.4 < time.monotonic() - began < 5
    assert gone(pid_in(ran.text[0]))


def test_a_second_interrupt_kills_at_once(node: OneNode):
    running = node.start(DEAF, grace=60)
    running.until(b"pid")
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert running.process.poll() is None
    running.process.send_signal(signal.SIGINT)
    assert running.wait(10).code == "Cancelled"


@pytest.mark.slow
def test_the_time_out_counts_from_the_start_of_the_code(node: OneNode):
    source = "import time; time.sleep(0.7); say('state', phase='Running', step='run', text=''); time.sleep(60)"
    ran = node.run(source, timeout=1.0)
    assert (ran.code, ran.status) == ("TimedOut", 80)
    assert 1.6 < ran.seconds < 10
    assert ran.end["detail"] == {"timeout": 1.0}


@pytest.mark.slow
def test_a_stopped_process_is_ended_too(node: OneNode):
    ran = node.run("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", timeout=0.5, grace=0.5)
    assert ran.code == "TimedOut"
    ran = node.run(
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.kill(os.getpid(), signal.SIGSTOP); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(60)",
        timeout=0.5,
        grace=0.5,
    )
    assert ran.code == "TimedOut"
    assert ran.seconds < 10


# Nobody is left behind


def test_a_child_left_running_ends_with_the_code(node: OneNode):
    ran = node.run("import subprocess; print('pid', subprocess.Popen(['sleep', '60']).pid, '.')")
    assert ran.code == "Succeeded"
    assert ran.seconds < 10
    assert gone(pid_in(ran.text[0]))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its descendants")
def test_a_daemon_that_holds_the_pipe_neither_hangs_the_runner_nor_outlives_it(node: OneNode):
    ran = node.run(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        print('pid', os.getpid(), '.', flush=True)\n"
        "        while True: os.write(1, b'still here\\n'); time.sleep(0.001)\n"
        "    os._exit(0)\n"
        "time.sleep(0.5)"
    )
    assert ran.code == "Succeeded"
    assert ran.seconds < 10
    assert gone(pid_in(ran.text[0]))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
@pytest.mark.parametrize("victim", ["parent", "runner"])
def test_the_death_of_the_parent_is_the_end_of_all(node: OneNode, victim: str):
    node.sign(node.manifest(DEAF, grace=60))
    parent = (
        "import os, subprocess, sys, time\n"
        "runner = subprocess.Popen([*sys.argv[1:], '--parent', str(os.getpid())], stdout=open('stream', 'wb'))\n"
        "print(runner.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", parent, *node.command()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=node.folder, text=True) as process:
        assert process.stdout is not None
        runner = int(process.stdout.readline())
        stream, deadline = node.folder / "stream", time.monotonic() + 20
        while b"pid " not in stream.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        rank = pid_in(stream.read_bytes())
        os.kill(process.pid if victim == "parent" else runner, signal.SIGKILL)
        assert gone(rank)
        assert gone(runner)
        process.kill()


def test_a_crowd_of_threads_does_not_hang_the_runner(node: OneNode):
    ran = node.run(
        "import threading, time\n"
        "for _ in range(1500): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "print('started', flush=True); say('metric', values={})\n",
        timeout=60.0,
    )
    assert ran.code == "Succeeded"
    assert ran.text[0] == b"started\n"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="without /proc there is no list of children")
def test_children_are_found_without_the_kernels_list_too():
    with subprocess.Popen(["sleep", "60"]) as child:
        assert child.pid in processes._children()
        assert sorted(processes._children()) == sorted(processes._children_by_parent())
        child.kill()


# The socket


def talk(node_source: str) -> str:
    """Source that talks to the socket by itself; `answers(token, *lines)` gives what came back."""
    return (
        "import os, socket, json\n"
        "def answers(token, *lines, connection=None):\n"
        "    c = connection or socket.socket(socket.AF_UNIX)\n"
        "    c.connect(os.environ['KUBE_NB_SOCKET']); c.sendall(token.encode() + b'\\n' + b''.join(lines))\n"
        "    c.shutdown(socket.SHUT_WR)\n"
        "    data = b''\n"
        "    while part := c.recv(100): data += part\n"
        "    return data.decode()\n"
        "token = os.environ['KUBE_NB_TOKEN']\n"
    ) + node_source


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind":"end","code":"Succeeded"}\n',
        b'{"kind":"account","account":{}}\n',
        b'{"kind":"rank"}\n',
        b'{"kind":"metric","seq":5}\n',
        b'{"kind":"metric","rank":5}\n',
        b'{"kind":["metric"]}\n',
        b'{"kind":"result"}\n',
        b"[1]\n",
        b"no JSON\n",
        b"[" * 100_000 + b"\n",
        b'{"kind":"metric","x":"' + b"x" * 4_300_000 + b'"}\n',
    ],
    ids=lambda line: line[:30].decode(),
)
def test_what_is_no_message_is_refused_and_leaves_no_trace(node: OneNode, line: bytes):
    (node.folder / "line").write_bytes(line)
    source = (
        f"line = open({str(node.folder / 'line')!r}, 'rb').read()\n"
        "try: print(repr(answers(token, line)[:2]))\nexcept ConnectionError: print(repr('! '))\n"
    )
    ran = node.run(talk(source))
    assert ran.code == "Succeeded"
    assert ran.text[0] == b"'! '\n"
    assert [event.kind for event in ran.events] == ["state", "account", "end"]


def test_a_wrong_token_is_cut_off(node: OneNode):
    ran = node.run(talk("print(repr(answers('x' * 48, b'{\"kind\":\"metric\"}\\n')))"))
    assert ran.text[0] == b"''\n"
    assert not ran.of("metric")


def test_more_connections_than_descriptors_all_get_through(node: OneNode):
    source = (
        "held = []\n"
        "for i in range(600):\n"
        "    c = socket.socket(socket.AF_UNIX); c.connect(os.environ['KUBE_NB_SOCKET']); held.append(c)\n"
        '    c.sendall(token.encode() + b\'\\n{"kind":"metric","values":{"i":%d}}\\n\' % i)\n'
        "    assert c.recv(10) == b'\\n', i\n"
    )
    ran = node.run(talk(source))
    assert ran.code == "Succeeded", ran.of("error")
    assert [metric["values"]["i"] for metric in ran.of("metric")] == list(range(600))


def test_who_sends_without_reading_does_not_hold_up_the_others(node: OneNode):
    source = (
        "c = socket.socket(socket.AF_UNIX); c.connect(os.environ['KUBE_NB_SOCKET'])\n"
        "c.sendall(token.encode() + b'\\n')\n"
        "try:\n"
        "    for i in range(200_000): c.sendall(b'x\\n' * 50)\n"
        "except OSError: print('cut off')\n"
        "say('metric', values={'a': 1})\n"
    )
    ran = node.run(talk(source), timeout=60.0)
    assert ran.code == "Succeeded"
    assert ran.text[0] == b"cut off\n"
    assert len(ran.of("metric")) == 1


def test_a_message_of_a_child_counts_for_its_rank(node: OneNode):
    child = node.folder / "child.py"
    child.write_text(talk('print(repr(answers(token, b\'{"kind":"metric"}\\n\')))'))
    ran = node.run(f"import sys, subprocess; subprocess.run([sys.executable, {str(child)!r}])", procs=2)
    assert ran.text == {0: b"'\\n'\n", 1: b"'\\n'\n"}
    assert sorted(event.rank for event in ran.events if event.kind == "metric") == [0, 1]
