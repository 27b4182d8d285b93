"""What a job on a cluster has installed: what it imports, at the kernel's versions, and nothing else of the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.kinds import PODS
from kube_nb.backends.kubernetes.names import selector
from kube_nb.backends.kubernetes.snapshot import state
from kube_nb.client import Client
from kube_nb.jobs.job import Job
from kube_nb.spec import Phase
from tests.cluster.doorkeeper import Doorkeeper
from tests.conformance.backends import CLUSTER

pytestmark = pytest.mark.slow


@pytest.fixture
def run(cluster: Api) -> Iterator[Any]:
    """Runs a cell on the cluster and waits for it."""
    context = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())["current-context"]
    jobs: list[Job] = []

    def client(**options: Any) -> Client:
        return Client(on=context, cpu="0.05", memory="256Mi", **options)

    def cell(source: str, *, packages: Sequence[str] = (), **names: Any) -> Job:
        jobs.append(client(packages=packages).cell(source, {"__name__": "__main__", **names}))
        return jobs[-1].wait(150)

    yield cell
    for job in jobs:
        client().delete(job)


def exit_statuses(cluster: Api, job: Job) -> list[int]:
    """Of its containers, by the cluster."""
    pods = cluster.list(PODS, labels=selector(job=job.id))[0]
    return [(state(pod, "terminated") or {})["exitCode"] for pod in pods]


def test_a_package_that_the_code_imports_has_the_kernels_version(run):
    job = run("import yaml\nprint(yaml.__version__)")
    assert job.phase is Phase.SUCCEEDED, job.reason
    assert "".join(job.logs()) == f"{version('pyyaml')}\n"


def test_a_package_that_only_a_value_comes_from_is_there(run):
    from packaging.version import Version

    job = run("print(wanted.base_version)", wanted=Version("1.2+cpu"))
    assert job.phase is Phase.SUCCEEDED, job.reason
    assert "".join(job.logs()) == "1.2\n"


def test_what_nobody_imports_does_not_travel(run):
    import numpy

    assert numpy
    job = run("import importlib.util\nprint([n for n in ('numpy', 'IPython') if importlib.util.find_spec(n)])")
    assert job.phase is Phase.SUCCEEDED, job.reason
    assert "".join(job.logs()) == "[]\n"


def test_a_magic_finds_the_kernels_ipython(run):
    job = run("%time 1\nimport IPython\nprint(IPython.__version__)")
    assert job.phase is Phase.SUCCEEDED, job.reason
    assert version("ipython") in "".join(job.logs())


def test_a_package_that_cannot_be_installed_is_named_and_one_that_can_is_there(run, cluster):
    job = run("print(1)", packages=["iniconfig==0.0.999"])
    assert job.phase is Phase.FAILED
    assert job.reason.code == "PackageNotFound"
    assert exit_statuses(cluster, job) == [84]
    assert "iniconfig" in job.reason.what
    assert "was not found" in job.reason.what
    assert "name and version" in job.reason.next
    fine = run("import iniconfig\nprint(1)", packages=["iniconfig==2.0.0"])
    assert fine.phase is Phase.SUCCEEDED, fine.reason


def test_an_index_that_cannot_be_reached_is_named_and_not_the_package(run, cluster, monkeypatch):
    monkeypatch.setenv("KUBE_NB_INDEX", "https://kube-nb-test.invalid/simple")
    job = run("print(1)", packages=["iniconfig==2.0.0"])
    assert job.phase is Phase.FAILED
    assert job.reason.code == "IndexUnreachable"
    assert exit_statuses(cluster, job) == [84]
    assert "kube-nb-test.invalid" in job.reason.what
    assert "cannot be reached" in job.reason.what
    assert "iniconfig" not in job.reason.what
    assert "network" in job.reason.next


def test_the_index_is_asked_through_the_persons_proxy_whose_password_the_code_does_not_see(run, monkeypatch):
    monkeypatch.setenv("KUBE_NB_STORE", "none")  # what another job has installed would do
    doorkeeper = Doorkeeper(CLUSTER.address)
    look = "import iniconfig, os\nprint([name for name, value in os.environ.items() if 'cret' in value])"

    def proxied(who: str) -> Job:
        monkeypatch.setenv("PIP_PROXY", f"http://{who}@{CLUSTER.address}:{doorkeeper.port}")
        return run(look, packages=["iniconfig==2.0.0"])

    try:
        stranger = proxied("jo:s3cret")
        assert doorkeeper.passed == []
        assert stranger.reason.code == "IndexUnreachable"
        job = proxied(doorkeeper.known)
        assert job.phase is Phase.SUCCEEDED, job.reason
        assert "".join(job.logs()) == "[]\n"
        assert doorkeeper.passed
    finally:
        doorkeeper.close()
