"""The runner in real pods: every image, every way in, every way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.names import RUN
from kube_nb.runner.objects import Objects
from tests.cluster.pods import HandMade, make_claim
from tests.unit.pod_files import make_bundle

LARGE = "import os\nout = os.urandom(300_000)\nprint('made')\n"
READ_ONLY = {
    "spec": {
        "template": {
            "spec": {"containers": [{"name": "job", "securityContext": {"readOnlyRootFilesystem": True}}]},
        }
    }
}


@pytest.fixture
def run(cluster: Api, unique: Callable[[str], str], tmp_path: Path) -> Callable[..., HandMade]:
    """Starts a job with this source; values by name; further words change the plan."""

    def start(
        source: str,
        values: dict[str, Any] | None = None,
        *,
        outputs: list[str] | None = None,
        packages: dict[str, Any] | None = None,
        **plan: Any,
    ) -> HandMade:
        job = unique("run")
        bundle = make_bundle(tmp_path / job, source, values, job=job, outputs=outputs, packages=packages)
        return HandMade(cluster, job, bundle, **plan)

    return start


@pytest.fixture
def claim(cluster: Api, unique: Callable[[str], str]) -> str:
    return make_claim(cluster, unique("claim"))


@pytest.mark.parametrize("image", ["python:3.11-slim", pytest.param("lab/python:3.11", marks=pytest.mark.lab)])
def test_a_cell_runs_and_its_stream_is_whole(run, image):
    source = "import os; print(os.getuid(), os.path.basename(os.getcwd()), a); b = a + 1"
    ran = run(source, {"a": 41}, outputs=["b"], image=image).attempt()
    assert (ran.status, ran.end["code"]) == (0, "Succeeded")
    assert ran.text == b"1000 work 41\n"
    assert [event.seq for event in ran.events] == list(range(len(ran.events)))
    assert ran.of("result")[0]["index"]["names"]["b"]["type"] == "int"
    assert ran.of("end")[0]["account"]["bytes"] == len(ran.text)


def test_a_root_that_cannot_be_written_and_a_user_without_a_name(run):
    source = (
        "import getpass, os, tempfile, pathlib\n"
        "tempfile.TemporaryFile(); open('here', 'w'); open('/dev/shm/x', 'w'); pathlib.Path.home().joinpath('x').touch()\n"
        "try: open('/x', 'w')\n"
        "except OSError as error: print(getpass.getuser(), error.strerror)\n"
    )
    ran = run(source, patches=(READ_ONLY,)).attempt()
    assert ran.text == b"kube-nb Read-only file system\n"


def test_a_cancelled_job_ends_for_good(run):
    job = run("import time; print('here', flush=True); time.sleep(100)", retries=3)
    job.until(b"here")
    job.tool("signal", "INT")
    ran = job.attempt()
    assert (ran.status, ran.end["code"]) == (81, "Cancelled")
    job.when(lambda pods: job.conditions().get("Failed") == "PodFailurePolicy")
    assert len(job.pods()) == 1


def test_a_failure_is_tried_again_and_known_as_such(run):
    job = run(
        "import kube_nb as kn, os; print(os.environ['KUBE_NB_ATTEMPT']); 1 / (int(os.environ['KUBE_NB_ATTEMPT']))",
        retries=1,
    )
    first, second = job.attempt(0), job.attempt(1)
    assert (first.status, first.text) == (1, b"0\n")
    assert (second.status, second.text) == (0, b"1\n")
    assert {event.attempt for event in second.events} == {1}


def test_a_disruption_is_tried_again_without_being_counted(run):
    job = run(
        "import os, time; print('try', os.environ['KUBE_NB_ATTEMPT'], flush=True)\nif os.environ['KUBE_NB_ATTEMPT'] == '0': time.sleep(100)"
    )
    job.until(b"try 0")
    job.tool("signal", "TERM")
    first, second = job.attempt(0), job.attempt(1)
    assert (first.status, first.end["code"]) == (82, "Stopped")
    assert (second.status, second.text) == (0, b"try 1\n")
    job.when(lambda pods: "Complete" in job.conditions())


def test_a_log_is_read_from_the_copy_while_the_container_runs(run):
    job = run("import time\nfor i in range(1000): print(i)\nprint('end', flush=True); time.sleep(3); print('last')")
    job.until(b"end")
    got = job.follow("read", f"{RUN}/log/0.0", "0", "--follow")
    ran = job.attempt()
    assert got == ran.stream


def test_without_a_store_a_container_waits_for_who_fetches(run):
    job = run(LARGE, outputs=["out"])
    job.until(b'"kind":"end"')
    listed = job.tool("get", f"{RUN}/out/objects", send=json.dumps({"objects": {"0" * 64: 0}}).encode() + b"\n")
    assert json.loads(listed) == {"sizes": {"0" * 64: None}}
    job.tool("release")
    ran = job.attempt(seconds=20)
    assert (ran.status, ran.end["stored"], ran.end["lingers"]) == (0, False, 60)


def test_a_bundle_is_streamed_to_the_waiting_container(run, tmp_path):
    job = run("print(len(a))", {"a": b"x" * 3_000_000}, transport="upload")
    job.until(b'"step":"upload"')
    sent = Objects(tmp_path / job.name / "bundle" / "objects")
    sizes = {path.name: path.stat().st_size for path in sent.directory.iterdir()}
    order = json.dumps({"objects": sizes}).encode() + b"\n" + b"".join(bytes(sent.read(name)) for name in sizes)
    answer = job.tool("put", f"{RUN}/bundle/objects", send=order)
    assert json.loads(answer.splitlines()[-1])["stored"] == sum(sizes.values())
    ran = job.attempt()
    assert (ran.end["code"], ran.text) == ("Succeeded", b"3000000\n")


def test_a_checkpoint_survives_its_container(run, claim):
    source = (
        "import kube_nb as kn, os\n"
        "place = os.path.join(kn.checkpoint_dir(), 'step')\n"
        "if os.path.exists(place): print('found', open(place).read())\n"
        "else:\n"
        "    open(place, 'w').write('7'); print('kept', flush=True); os._exit(1)\n"
    )
    job = run(source, claim=claim, retries=1)
    first, second = job.attempt(0), job.attempt(1)
    assert (first.end["code"], first.end["stored"]) == ("Exited", True)
    assert (second.text, second.end["stored"]) == (b"found 7\n", True)


def test_a_result_lies_in_the_store_when_its_container_is_gone(run, claim):
    ran = run(LARGE, outputs=["out"], claim=claim).attempt()
    assert (ran.end["stored"], ran.end["lingers"]) == (True, 0)
    (digest,) = ran.of("result")[0]["index"]["graph"]["buffers"] or [ran.of("result")[0]["index"]["graph"]["pickle"]]
    source = (
        "import glob, os, re\n"
        "place = '/kube-nb/store/jobs'\n"
        f"print(sorted(os.path.basename(p) for p in glob.glob(place + '/*/*/out/objects/*')) == [{digest!r}])\n"
        "print([os.path.basename(p) for p in sorted(glob.glob(place + '/*/*/log/*')) if os.environ['KUBE_NB_JOB'] not in p])"
    )
    seen = run(source, claim=claim).attempt()
    assert seen.text == b"True\n['0.0', '0.0.end']\n"
