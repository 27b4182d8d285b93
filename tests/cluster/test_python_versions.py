"""Another Python in the image than in the kernel: told before the submit where the image's name tells it, else by the
runner before any code runs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes import preflight, submit
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.snapshot import Snapshot, state
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.backends.kubernetes.watch import read
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import Refused
from kube_nb.spec import Phase
from tests.cluster.small_jobs import ended, fitting, plan
from tests.conformance.backends import CLUSTER
from tests.unit.pod_files import make_bundle

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        platform.python_version_tuple()[:2] != ("3", "11"), reason="image: the lab has images of Python 3.11 and 3.13"
    ),
]

OTHER = ["lab/python:3.13", "python:3.13-slim"]
SAME = ["lab/python:3.11", "python:3.11-slim"]


@pytest.mark.parametrize("image", OTHER)
def test_an_image_of_another_python_is_refused_before_the_submit(cluster: Api, state_dir: Path, image: str):
    client = Client(CLUSTER.on, settings=Settings.load(environ={"KUBE_NB_STATE_DIR": str(state_dir)}), image=image)
    with pytest.raises(Refused) as refused:
        client.cell("x = 1", {"__name__": "__main__"})
    (error,) = [found.reason for found in refused.value.findings if found.level == "error"]
    assert error.code == "PythonMismatch"
    assert error.what == f"the image {image} has Python 3.13, this kernel has 3.11"
    assert "byte code" in error.why
    assert error.next == "use an image with Python 3.11, or a kernel with 3.13"
    assert client.journal.ids() == []


@pytest.mark.parametrize("image", SAME)
def test_an_image_of_the_same_python_has_nothing_against_it(cluster: Api, image: str):
    found = preflight.check(replace(cluster), plan(cluster, "t-1", image=image))
    assert [one.reason.code for one in found if one.level == "error"] == []


@pytest.fixture
def run(cluster: Api, unique: Callable[[str], str], tmp_path: Path) -> Callable[[str], Snapshot]:
    """Runs a cell of this kernel in an image, past the preflight, as where the image's name tells nothing."""

    def run(image: str) -> Snapshot:
        id = unique("python")
        sent = make_bundle(tmp_path, "print('ran')", job=id)
        submit.create(cluster, fitting(plan(cluster, id, image=image, memory=256 << 20), sent), sent)
        ended(cluster, id)
        (snapshot,) = read(cluster, ids=[id])
        return snapshot

    return run


@pytest.mark.parametrize("image", OTHER)
def test_the_runner_tells_that_the_image_has_another_python(run: Callable[[str], Snapshot], image: str):
    snapshot = run(image)
    (pod,) = snapshot.pods
    assert (state(pod, "terminated") or {})["exitCode"] == 84
    assert "PodFailurePolicy" in str(snapshot.condition("Failed"))
    status = status_of(snapshot)
    assert status.phase is Phase.FAILED
    assert status.reason is not None
    assert status.reason.code == "PythonMismatch"
    assert status.reason.what == "the job runs on Python 3.13, its code comes from Python 3.11"
    assert "byte code" in status.reason.why
    assert status.reason.next == "use an image with Python 3.11"


@pytest.mark.parametrize("image", SAME)
def test_a_cell_runs_in_an_image_of_its_own_python(run: Callable[[str], Snapshot], image: str):
    assert status_of(run(image)).phase is Phase.SUCCEEDED
