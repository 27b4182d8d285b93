"""Images of a registry that asks for a password: the settings `image_map` and `pull_secret` on the way of a real job."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.kinds import PODS, SECRETS
from kube_nb.backends.kubernetes.names import JOB
from kube_nb.backends.kubernetes.snapshot import state
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.spec import Phase, new_job_id
from tests.cluster.conftest import ours
from tests.cluster.made import Made
from tests.conformance.backends import CLUSTER
from tests.conformance.sending import code, ended, until

pytestmark = pytest.mark.slow

REGISTRY, USER, PASSWORD = "10.200.0.1:5001", "lab", "lab-password"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
DEFAULT = f"python:{PYTHON}-slim"
# Read when this file is imported: later the tests have a home of their own.
IMAGES = Path(os.environ.get("LAB_CACHE") or Path.home() / ".cache" / "kube-lab") / "images"


@pytest.fixture(scope="module")
def image(lab: Callable[..., None]) -> str:
    """The default image under a name that no node has pulled yet, in the registry with a password."""
    archive = IMAGES / f"{DEFAULT.replace(':', '_')}.tar"
    if not archive.is_file():
        pytest.skip(f"cluster: no archive of {DEFAULT} to push into its registry")
    name = f"{new_job_id('t-private')}:1"
    lab("push", str(archive), name)
    return f"{REGISTRY}/{name}"


@pytest.fixture
def client(cluster: Api, image: str, tmp_path: Path) -> Callable[..., Client]:
    """A client whose settings map the default image to the private one."""

    def make(**settings: Any) -> Client:
        layer = {"image_map": {DEFAULT: image}, "state_dir": str(tmp_path / "state"), "store": "none", **settings}
        return Client(CLUSTER.on, settings=Settings.load(cwd=tmp_path, kernel=layer), cpu="0.01", memory="64Mi")

    return make


def test_a_mapped_image_of_a_private_registry_runs_with_its_pull_secret_and_waits_without(
    cluster: Api, image: str, client: Callable[..., Client], made: Made, unique: Callable[[str], str]
):
    without = client()
    waits = without.cell("where = 1", {})
    try:
        until(lambda: code(waits) == "ImagePullDenied")
        assert waits.phase is Phase.STARTING, "a secret may yet be given to its service account"
        assert waits.reason is not None
        assert image in waits.reason.what
        assert "pull_secret" in waits.reason.next
        (pod,) = cluster.list(PODS, labels=f"{JOB}={waits.id}")[0]
        assert "401 Unauthorized" in str(state(pod, "waiting"))
    finally:
        without.delete(waits)
    name = unique("pull")
    login = {"auths": {REGISTRY: {"username": USER, "password": PASSWORD}}}
    made(
        SECRETS,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": ours(name)},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": json.dumps(login)},
        },
    )
    allowed = client(pull_secret=name)
    job = allowed.cell("import sys\nwhere = sys.version_info[:2]", {})
    try:
        ended(job)
        assert job.phase is Phase.SUCCEEDED, job.reason
        assert job.outputs["where"] == sys.version_info[:2]
        (pod,) = cluster.list(PODS, labels=f"{JOB}={job.id}")[0]
        assert pod["spec"]["containers"][0]["image"] == image
        assert pod["status"]["containerStatuses"][0]["image"] == image, "not the one that it stands in for"
    finally:
        allowed.delete(job)


def test_an_image_that_is_not_in_the_map_stays_as_it_is(cluster: Api, client: Callable[..., Client]):
    own = client(image_map={"python:2.7": "nobody/has:this"})
    job = own.cell("where = 1", {})
    try:
        ended(job)
        assert job.phase is Phase.SUCCEEDED, job.reason
        (pod,) = cluster.list(PODS, labels=f"{JOB}={job.id}")[0]
        assert pod["spec"]["containers"][0]["image"] == DEFAULT
    finally:
        own.delete(job)
