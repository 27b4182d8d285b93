"""The Role that `kube-nb doctor --rbac` prints: it is enough, and what is missing is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kube_nb.backends.kubernetes import examine, preflight
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, NODES, PODS, SECRETS
from kube_nb.backends.kubernetes.names import STORE_CLAIM
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.rights import OPTIONAL, RIGHTS, can, rights
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.spec import JobSpec, Phase, new_job_id
from tests.cluster.users import User, applied, tenant, user
from tests.conformance.sending import running


@pytest.fixture
def nobody(admin: Api, tmp_path: Path) -> Iterator[User]:
    """Somebody with no rights of their own."""
    with user(admin, tmp_path) as somebody:
        yield somebody


@pytest.fixture
def minimal(admin: Api, nobody: User) -> Iterator[User]:
    """Somebody who has what `kube-nb doctor --rbac` prints for them, and nothing else."""
    with applied(admin, examine.grant(nobody.api, nobody.name), suffix=f"-{nobody.context}"):
        yield replace(nobody, api=replace(nobody.api))


def plan(api: Api) -> JobPlan:
    spec = JobSpec(id=new_job_id("t"), name="t")
    return JobPlan(spec=spec, namespace=api.namespace, user="u", image="python:3.11-slim", memory=64 * 2**20)


def test_without_any_right_a_submit_is_refused_and_each_missing_right_is_named(nobody):
    findings = preflight.check(nobody.api, plan(nobody.api))
    errors = [found.reason for found in findings if found.level == "error"]
    assert [reason.code for reason in errors] == ["Forbidden"]
    assert "create, get, list, watch, patch, delete jobs.batch" in errors[0].why
    assert "create, get pods/exec" in errors[0].why
    assert "--rbac" in errors[0].next


def test_the_printed_role_leaves_nothing_to_be_wished_for(minimal):
    assert rights(minimal.api).missing(RIGHTS) == []
    assert [found for found in preflight.check(minimal.api, plan(minimal.api)) if found.level == "error"] == []


def test_the_printed_role_gives_nothing_beyond_itself(minimal):
    known = rights(minimal.api)
    assert known.complete
    for verb, resource, group in (
        ("list", "secrets", ""),
        ("update", "secrets", ""),
        ("get", "nodes", ""),
        ("create", "deployments", "apps"),
        ("create", "pods/portforward", ""),
        ("create", "rolebindings", "rbac.authorization.k8s.io"),
        ("list", "configmaps", ""),
    ):
        assert known.may(verb, resource, group=group) is False, f"{verb} {resource}"
    assert known.may("get", "configmaps", name="kube-nb-defaults")
    assert not known.may("get", "configmaps", name="kube-root-ca.crt")


def test_the_cluster_agrees_with_what_is_said_of_rights(minimal):
    with pytest.raises(ApiError) as caught:
        minimal.api.list(SECRETS)
    assert caught.value.status == 403
    with pytest.raises(ApiError) as caught:
        minimal.api.list(NODES)
    assert caught.value.status == 403
    minimal.api.list(JOBS)
    minimal.api.list(PODS)


def test_what_the_tenant_may_is_told_as_the_cluster_tells_it(cluster):
    assert can(cluster, "create", "jobs.batch") is True
    assert can(cluster, "list", "nodes") is False
    assert can(cluster, "create", "pods/exec") is True
    assert can(cluster, "create", "roles.rbac.authorization.k8s.io") is False


def test_each_rule_has_its_reason_above_it(cluster):
    text = examine.grant(cluster, "somebody")
    lines = text.split("\n")
    rules = [number for number, line in enumerate(lines) if line.startswith("  - apiGroups")]
    assert all(lines[number - 1].strip().startswith("# ") for number in rules)
    role, binding = yaml.safe_load_all(text)
    optional = [right for group in OPTIONAL.values() for right in group]
    shown = {(rule["apiGroups"][0], rule["resources"][0]) for rule in role["rules"]}
    assert {(right.group, right.resource) for right in RIGHTS} <= shown
    assert shown <= {(right.group, right.resource) for right in (*RIGHTS, *optional)}
    assert binding["subjects"] == [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "somebody"}]


@pytest.fixture
def client(admin: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Client]:
    """Sends jobs as somebody who has the printed Role alone, in a namespace in which there is nothing else yet."""
    with tenant(admin, tmp_path) as somebody:
        monkeypatch.setenv("KUBECONFIG", str(somebody.kubeconfig))
        yield Client(on=somebody.context, settings=Settings.load(tmp_path), memory="64Mi", cpu="0.05")


@pytest.mark.slow
def test_a_job_runs_and_gives_its_results_back_with_the_printed_role_alone(client, admin):
    there = replace(admin, namespace=client.backend.where.split("namespace ")[1].split(",")[0])
    job = client.cell("big = bytes(200_000)\nprint('hello')\nx = 1", {"__name__": "__main__"})
    assert "".join(job.logs(follow=True)) == "hello\n"
    assert job.wait(90).phase is Phase.SUCCEEDED
    assert job.outputs["x"] == 1
    assert len(job.outputs["big"]) == 200_000
    assert there.find(CLAIMS, STORE_CLAIM) is not None
    client.delete(job)
    assert client.statuses() == []


@pytest.mark.slow
def test_a_job_of_several_nodes_is_cancelled_with_the_printed_role_alone(client):
    source = "import time\nprint('up', flush=True)\ntime.sleep(600)"
    job = client.options(nodes=2).cell(source, {"__name__": "__main__"})
    running(job, "up")
    job.cancel()
    assert job.wait(90).phase is Phase.CANCELLED
