"""`--on in-cluster`: kube-nb inside a pod, as the pod's own service account and in its namespace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.kinds import SERVICE_ACCOUNTS
from kube_nb.client import Client
from kube_nb.jobs.job import Job
from kube_nb.spec import Phase
from tests.cluster.conftest import ours
from tests.cluster.made import Made
from tests.cluster.users import KINDS, may_edit
from tests.conformance.backends import CLUSTER
from tests.conformance.sending import ended, tail

pytestmark = [pytest.mark.slow, pytest.mark.lab]

SENDS = """
import kubernetes
from kube_nb.client import Client

client = Client("in-cluster", cpu="0.01", memory="64Mi")
job = client.cell("import os\\nanswer = 6 * 7\\nwho = os.environ['KUBE_NB_JOB']", {"__name__": "__main__"})
try:
    job.wait(120)
    inner = str(job.phase), job.outputs["answer"], job.outputs["who"] == job.id
    listed = job.id in [known.id for known in client.jobs()]
    where = client.backend.where
finally:
    client.delete(job)
"""
IS_REFUSED = """
import kubernetes
from kube_nb.client import Client
from kube_nb.errors import KubeNbError

try:
    Client("in-cluster").cell("1", {"__name__": "__main__"})
    kind, said = "", ""
except KubeNbError as error:
    kind, said = type(error).__name__, str(error)
"""


@pytest.fixture
def account(cluster: Api, made: Made, unique: Callable[[str], str]) -> str:
    """A service account without any rights."""
    name = unique("robot")
    meta = {"name": name, "labels": ours(name)}
    made(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    return name


@pytest.fixture
def run(cluster: Api, state_dir: Path) -> Iterator[Callable[..., Job]]:
    """Runs a cell as a job that brings all of kube-nb along."""
    client = Client(CLUSTER.on, cpu="0.1", memory="512Mi", image="lab/python:3.11")
    jobs: list[Job] = []

    def cell(source: str, **options: object) -> Job:
        jobs.append(client.options(**options).cell(source, {"__name__": "__main__"}))
        job = ended(jobs[-1], 240)
        assert job.phase is Phase.SUCCEEDED, f"{job.reason}\n{tail(job)}"
        return job

    yield cell
    for job in jobs:
        client.delete(job)


def test_a_job_sends_another_one_as_its_service_account(cluster, account, made_by_admin, run):
    subject = {"kind": "ServiceAccount", "name": account, "namespace": cluster.namespace}
    made_by_admin(KINDS["RoleBinding"], may_edit(account, subject))
    job = run(SENDS, service_account=account)
    assert job.outputs["inner"] == ("Succeeded", 42, True)
    assert job.outputs["listed"]
    user = f"system:serviceaccount:{cluster.namespace}:{account}"
    assert job.outputs["where"] == f"in-cluster, namespace {cluster.namespace}, user {user}"


def test_a_service_account_without_rights_is_told_which_it_lacks(cluster, account, run):
    outputs = run(IS_REFUSED, service_account=account).outputs
    assert outputs["kind"] == "Refused"
    assert f"you may not run jobs in namespace {cluster.namespace}" in outputs["said"]
    assert "jobs.batch" in outputs["said"]
    assert "doctor --rbac" in outputs["said"]


def test_a_job_that_was_given_no_service_account_says_which_flag_gives_one(run):
    outputs = run(IS_REFUSED).outputs
    assert outputs["kind"] == "Unreachable"
    assert "--service-account" in outputs["said"]
