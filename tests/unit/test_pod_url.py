"""Process 1 of a job's container whose store is at a URL: here a folder, reached through fsspec like any other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kube_nb.runner import ending
from tests.conformance.sending import until
from tests.unit.pod_files import Attempt, Pod, make_bundle, plan_of, pod_of

pytest.importorskip("fsspec")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="a pod is Linux")]
SLOW = """
import os, sys, time
if sys.orig_argv[-1].endswith("remote.py") and os.path.exists({after!r}):
    time.sleep({seconds})
"""


def slow_store(folder: Path, seconds: float, after: Path = Path("/")) -> dict[str, str]:
    """Variables with which each call of the store takes so long, once there is the file `after`."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOW.format(seconds=seconds, after=str(after)))
    # As in the bucket of an object store, folders need not be made.
    return {"PYTHONPATH": str(folder), "FSSPEC_FILE": json.dumps({"auto_mkdir": True})}


def pods(folder: Path, source: str, *, nodes: int = 1, silence: float = 30, **of_bundle: Any) -> list[Pod]:
    """The pods of one job with a store at a URL; the nodes reach each other on the loopback interface."""
    url = (folder / "bucket").as_uri()
    bundle = make_bundle(folder, source, nodes=nodes, **of_bundle)
    # Node 0 is `<first>.<service>`, which is an address here.
    told = {"url": url, "silence": silence} | ({"first": "127.0", "service": "0.1"} if nodes > 1 else {})
    plan = plan_of("t-1", nodes=nodes)
    return [pod_of(_made(folder / str(node)), bundle, plan, **told) for node in range(nodes)]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def finish(process: subprocess.Popen[bytes], pod: Pod) -> Attempt:
    try:
        out, err = process.communicate(timeout=90)
    finally:
        process.kill()
    return Attempt(process.returncode, out, err, ending.read_end(str(pod.end)) or {})


@pytest.mark.xdist_group("port-29470")
def test_a_slow_store_is_no_silent_node(tmp_path):
    slow = slow_store(tmp_path / "slow", 4)
    first, other = pods(tmp_path, "print('done')", nodes=2, silence=2)
    # A second attempt, which brings its checkpoints back before and puts all away after.
    again = {"KUBE_NB_FAILURES": "1"}
    processes = [first.start(**again, **slow), other.start(**again, **slow, KUBE_NB_NODE="1")]
    ran = [finish(process, pod) for process, pod in zip(processes, (first, other), strict=True)]
    assert [one.end["code"] for one in ran] == ["Succeeded", "Succeeded"]
    assert [one.status for one in ran] == [0, 0]


def test_a_cancel_does_not_wait_for_a_store_that_takes_what_was_made(tmp_path):
    (pod,) = pods(tmp_path, "import os\nout = os.urandom(100_000)\nprint('made')", outputs=["out"])
    slow = slow_store(tmp_path / "slow", 600, after=pod.end)
    process = pod.start(**slow)
    until(pod.end.exists, what="its first last word, before it puts away what it made")
    os.kill(int((pod.run / "pid").read_text()), signal.SIGINT)
    ran = finish(process, pod)
    assert ran.end["code"] == "Cancelled"
    assert not ran.end["stored"]
