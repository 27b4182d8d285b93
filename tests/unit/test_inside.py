"""`kn.*`: in a job through a real runner, outside of one by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb import inside
from kube_nb.runner import graph
from kube_nb.runner.objects import Objects
from tests.unit.one_node import OneNode, Ran

USE = "import os, sys, time; sys.path.insert(0, spec['runner'] + '/small'); import kube_nb as kn\n"


@pytest.fixture
def node(tmp_path: Path) -> OneNode:
    return OneNode(tmp_path)


@pytest.fixture(autouse=True)
def in_a_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Outside of any job, in an empty folder, with nothing said before."""
    for name in ("KUBE_NB_SOCKET", "KUBE_NB_TOKEN", "KUBE_NB_OUT", "KUBE_NB_CHECKPOINTS", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inside, "outputs", {})
    monkeypatch.setattr(inside, "_bar", inside._Bar())


def load(node: OneNode, record: dict[str, Any]) -> Any:
    if "value" in record:
        return record["value"]
    return graph.load(record["graph"], namespace={}, objects=Objects(node.out / "objects"))["value"]


# In a kernel


def test_a_report_is_one_line(capsys: pytest.CaptureFixture[str]):
    inside.report({"val/loss": 0.123456789}, step=4, acc=np.float32(0.5))
    inside.report(n=3)
    assert capsys.readouterr().out == "step 4  val/loss=0.123457  acc=0.5\nn=3\n"


@pytest.mark.parametrize("value", ["0.3", None, [1.0], 1j, np.zeros(2), object()])
def test_what_is_no_number_is_refused_by_name(value: Any):
    with pytest.raises(TypeError, match="`loss` is no number"):
        inside.report(loss=value)


@pytest.mark.parametrize("value", [True, np.int64(1), np.array([1.0]), Decimal(1), Fraction(1)])
def test_numbers_of_any_kind_are_numbers(value: Any):
    assert inside._number("x", value) == 1


def test_progress_is_drawn_in_one_line(capsys: pytest.CaptureFixture[str]):
    for done in range(1000):
        inside.progress(done + 1, 1000, "epoch")
    out = capsys.readouterr().out
    assert out.endswith(f"\repoch [{'#' * 30}] 1000/1000\n")
    assert out.count("\n") == 1
    assert out.count("\r") < 50


def test_progress_without_a_total_counts(capsys: pytest.CaptureFixture[str]):
    inside.progress(7)
    assert capsys.readouterr().out == "\r7"


def test_an_output_is_kept_and_shown(capsys: pytest.CaptureFixture[str]):
    inside.output("scores", [1, 2])
    assert inside.outputs == {"scores": [1, 2]}
    assert capsys.readouterr().out == "scores: [1, 2]\n"


def test_a_kernel_is_rank_0_of_1_and_has_a_place_for_checkpoints(tmp_path: Path):
    assert (inside.rank(), inside.world_size()) == (0, 1)
    assert inside.checkpoint_dir() == tmp_path / "checkpoints"
    assert (tmp_path / "checkpoints").is_dir()


def test_it_imports_in_a_bare_interpreter():
    code = "import sys, runpy; runpy.run_path(sys.argv[1])"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, inside.__file__], check=True)


# In a job


def test_a_report_of_a_job_is_an_event_after_what_was_printed_before(node: OneNode):
    ran = node.run(USE + "print('before'); kn.report(loss=0.5, step=2); print('after')")
    (metric,) = [event for event in ran.events if event.kind == "metric"]
    assert metric.data["values"] == {"loss": 0.5}
    assert metric.data["step"] == 2
    assert ran.text[0] == b"before\nafter\n"
    assert metric.offset == len(b"before\n")


def test_a_number_that_is_none_travels(node: OneNode):
    (metric,) = node.run(USE + "kn.report(a=float('nan'), b=-float('inf'))").of("metric")
    assert str(metric["values"]) == "{'a': nan, 'b': -inf}"


def test_progress_is_passed_on_now_and_then_and_at_the_end(node: OneNode):
    ran = node.run(USE + "for i in range(100_000): kn.progress(i + 1, 100_000, text='t')")
    said = ran.of("progress")
    assert said[-1] == {"done": 100_000, "total": 100_000, "text": "t"}
    assert 2 <= len(said) < 200


def test_threads_forks_and_children_all_get_through(node: OneNode):
    ran = node.run(
        USE
        + "import subprocess, threading\n"
        + "def many(who):\n"
        + "    for i in range(50): kn.report({f'{who}': i})\n"
        + "threads = [threading.Thread(target=many, args=(n,)) for n in range(8)]\n"
        + "[t.start() for t in threads]\n"
        + "if (child := os.fork()) == 0: many('fork'); os._exit(0)\n"
        + "[t.join() for t in threads]; os.waitpid(child, 0)\n"
        + "env = os.environ | {'PYTHONPATH': spec['runner'] + '/small'}\n"
        + "subprocess.run([sys.executable, '-c', 'import kube_nb; kube_nb.report(child=1)'], env=env, check=True)\n"
    )
    assert ran.code == "Succeeded", ran.of("error")
    names = [name for metric in ran.of("metric") for name in metric["values"]]
    assert {name: names.count(name) for name in names} == {str(n): 50 for n in range(8)} | {"fork": 50, "child": 1}


def test_a_report_in_a_signal_handler_does_not_wait_for_the_one_it_interrupted(node: OneNode):
    ran = node.run(
        USE
        + "import signal\n"
        + "signal.signal(signal.SIGALRM, lambda *_: kn.report(handler=1))\n"
        + "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        + "for i in range(300): kn.report(i=i)\n"
        + "signal.setitimer(signal.ITIMER_REAL, 0)\n",
        timeout=20.0,
    )
    assert ran.code == "Succeeded", ran.of("error")
    assert [m["values"]["i"] for m in ran.of("metric") if "i" in m["values"]] == list(range(300))


def test_a_connection_that_was_cut_off_is_made_again(node: OneNode):
    ran = node.run(
        USE
        + "import socket\n"
        + "kn.report(i=0); held = []\n"
        + "for _ in range(250):\n"
        + "    c = socket.socket(socket.AF_UNIX); c.connect(os.environ['KUBE_NB_SOCKET']); held.append(c)\n"
        + "    c.sendall(os.environ['KUBE_NB_TOKEN'].encode() + b'\\n{\"kind\":\"progress\"}\\n'); c.recv(9)\n"
        + "kn.report(i=1)\n"
    )
    assert ran.code == "Succeeded", ran.of("error")
    assert [metric["values"]["i"] for metric in ran.of("metric")] == [0, 1]


def test_without_its_runner_a_report_is_a_print(node: OneNode, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setenv("KUBE_NB_SOCKET", str(node.folder / "none"))
    monkeypatch.setenv("KUBE_NB_TOKEN", "x")
    inside.report(a=1)
    assert capsys.readouterr().out == "a=1\n"


def test_the_place_of_checkpoints_and_the_rank_are_the_jobs(node: OneNode):
    more = ("--checkpoints", str(node.folder / "checkpoints"))
    source = (
        USE + "print(kn.checkpoint_dir() == kn.Path(os.environ['KUBE_NB_CHECKPOINTS']), kn.rank(), kn.world_size())"
    )
    ran = node.run(source, *more, procs=2)
    assert ran.text == {0: b"True 0 2\n", 1: b"True 1 2\n"}


# Outputs


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_what_counts_as_json_comes_back_the_same(value: Any):
    assert inside._is_json(value)
    back = json.loads(json.dumps(value))
    assert repr(back) == repr(value)


@pytest.mark.parametrize("value", [(1,), {1: 2}, {1}, b"x", np.float64(1), [np.int64(1)], type("S", (str,), {})("x")])
def test_what_json_would_change_is_pickled(value: Any):
    assert not inside._is_json(value)


def test_outputs_of_a_job(node: OneNode):
    ran = node.run(
        USE
        + "kn.output('plain', {'a': [1, None, 'é']})\n"
        + "kn.output('pickled', ({1, 2}, lambda: 5))\n"
        + "kn.output('large', 'x' * 100_000)\n"
        + "open('w.bin', 'wb').write(bytes(9 << 20)); kn.output('file', 'w.bin'); kn.output('path', kn.Path('w.bin'))\n"
        + "kn.output('text', 'no file')\n"
    )
    assert ran.code == "Succeeded", ran.of("error")
    said = {output.pop("name"): output for output in ran.of("output")}
    assert said["plain"]["value"] == {"a": [1, None, "é"]}
    assert said["text"]["value"] == "no file"
    first, five = load(node, said["pickled"])
    assert (first, five()) == ({1, 2}, 5)
    assert "data" not in said["large"]["graph"]
    assert load(node, said["large"]) == "x" * 100_000
    for name in ("file", "path"):
        assert (said[name]["path"], said[name]["size"]) == ("w.bin", 9 << 20)
        assert Objects(node.out / "objects").read(said[name]["object"]) == bytes(9 << 20)
    assert all(len(output["hmac"]) == 64 for output in said.values())


def test_only_so_many_bytes_of_values_travel_with_the_log(node: OneNode):
    ran = node.run(USE + "for i in range(40): kn.output(f'v{i}', 'x' * 30_000)")
    assert 400_000 < sum(len(output.get("value", "")) for output in ran.of("output")) <= inside.IN_BAND_TOTAL
    assert all(load(node, output) == "x" * 30_000 for output in ran.of("output"))


def test_a_file_that_is_not_there_is_said(node: OneNode):
    ran = node.run(USE + "kn.output('x', kn.Path('nowhere'))")
    assert ran.end["ename"] == "FileNotFoundError"


def test_an_output_from_a_child_that_knows_no_runner(node: OneNode):
    code = "import kube_nb as kn; kn.output('a', {1, 2}); import sys; assert not [p for p in sys.path if 'vendor' in p]"
    ran = node.run(
        USE
        + "import subprocess; env = os.environ | {'PYTHONPATH': spec['runner'] + '/small'}\n"
        + f"subprocess.run([sys.executable, '-c', {code!r}], env=env, check=True)\n"
    )
    assert ran.code == "Succeeded", ran.of("error")
    assert load(node, ran.of("output")[0]) == {1, 2}


def test_a_cancel_in_the_middle_of_a_report_ends_the_code(node: OneNode):
    running = node.start(USE + "kn.report(i=0)\nwhile True: kn.report(i=1)", grace=5.0)
    running.until(b'"values"')
    running.process.send_signal(signal.SIGINT)
    ran: Ran = running.wait(15)
    assert ran.code == "Cancelled"
    assert os.path.exists(node.end)
