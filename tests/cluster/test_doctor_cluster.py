"""The doctor on a cluster: who asks, what they may, what there is, and what helps when something is missing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kube_nb import cli
from kube_nb.backends.base import Row
from kube_nb.backends.kubernetes import addons, examine
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.capacity import capacity
from kube_nb.backends.kubernetes.connect import user_of
from kube_nb.backends.kubernetes.kinds import QUOTAS
from kube_nb.client import Client
from kube_nb.doctor import Check, to_apply
from kube_nb.doctor import examine as doctor
from tests.cluster.conftest import Made
from tests.cluster.users import User, applied, user
from tests.conformance.sending import until


@pytest.fixture
def nobody(admin: Api, tmp_path: Path) -> Iterator[User]:
    with user(admin, tmp_path) as somebody:
        yield somebody


@pytest.fixture
def looking(nobody: User, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Check]]:
    """What the doctor says when they ask it. A right that they are given arrives a moment later."""
    monkeypatch.setenv("KUBECONFIG", str(nobody.kubeconfig))
    return lambda: doctor(Client(on=nobody.context))


def rows(api: Api) -> list[Row]:
    """What the doctor says now: the connection is the same each time, and remembers things for others."""
    return examine.rows(api, user_of(api))


def named(found: list[Row], name: str) -> Row:
    return next(row for row in found if row.name == name)


def test_the_tenant_learns_who_and_where_they_are_and_that_jobs_can_run(cluster):
    found = rows(cluster)
    who = named(found, "user").text
    assert user_of(cluster) in who
    assert cluster.namespace in who
    assert named(found, "rights").state == "ok"
    assert "restricted" in named(found, "namespace").text
    assert [row.text for row in found if row.state == "error"] == []


@pytest.mark.lab
def test_nodes_are_told_to_those_who_may_read_them(cluster, admin):
    assert named(rows(cluster), "nodes").state == "warning"
    told = named(rows(admin), "nodes")
    assert told.state == "ok"
    assert "nvidia.com/gpu (Lab-GPU)" in told.text


def test_every_add_on_has_its_row_and_is_there_where_the_cluster_offers_it(cluster):
    found = rows(cluster)
    there = addons.present(replace(cluster))
    for one in addons.ADD_ONS:
        assert named(found, one.name).text.startswith("there" if there[one.name] else "not there")


def test_what_is_missing_comes_with_the_yaml_that_mends_it(admin, nobody):
    before = named(rows(nobody.api), "rights")
    assert before.state == "error"
    with applied(admin, before.yaml, suffix=f"-{nobody.context}"):
        found = rows(nobody.api)
        assert named(found, "rights").state == "ok"
        assert [row.text for row in found if row.state == "error"] == []
        nodes = named(found, "nodes")
        assert nodes.state == "warning"
        with applied(admin, nodes.yaml, suffix=f"-{nobody.context}"):
            assert named(rows(nobody.api), "nodes").state == "ok"


@pytest.mark.lab
def test_what_is_free_is_told_once_what_was_printed_is_applied(admin, nobody, looking):
    with applied(admin, to_apply(looking()), suffix=f"-{nobody.context}"):
        free = until(lambda: [check.text for check in looking() if check.name == "gpus"])
        assert [text for text in free if re.fullmatch(r"\d+ of \d+ nvidia\.com/gpu \(\S+\) are free", text)], free


def test_who_may_read_nodes_alone_is_told_what_shows_what_is_free(admin, nobody, looking):
    role, *others = yaml.safe_load_all(named(rows(nobody.api), "nodes").yaml)
    given = role | {"rules": [rule for rule in role["rules"] if rule["resources"] == ["nodes"]]}
    with (
        applied(admin, named(rows(nobody.api), "rights").yaml, suffix=f"-{nobody.context}"),
        applied(admin, yaml.safe_dump_all([given, *others]), suffix=f"-{nobody.context}"),
    ):
        [free] = until(lambda: [check for check in looking() if check.name == "free"], 30)
        assert "list pods" in free.text
        assert list(yaml.safe_load_all(free.yaml)) == [role, *others]


def test_pods_that_are_too_many_to_read_are_no_missing_right(admin, monkeypatch):
    monkeypatch.setattr("kube_nb.backends.kubernetes.capacity._MANY", 0)
    told = capacity(admin, "admin")
    assert "more than 0 pods" in told.note
    assert told.yaml == ""


def test_a_namespace_that_does_not_exist_is_an_error_for_those_who_can_know(admin):
    elsewhere = replace(admin, namespace="t-no-such-namespace")
    found = examine.rows(elsewhere, "admin")
    row = named(found, "namespace")
    assert row.state == "error"
    assert yaml.safe_load(row.yaml)["metadata"]["name"] == "t-no-such-namespace"


def test_quotas_are_shown_with_what_is_in_use(cluster, made_by_admin: Made, unique: Callable[[str], str]):
    name = unique("quota")
    made_by_admin(
        QUOTAS,
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": name},
            "spec": {"hard": {"count/replicationcontrollers": "7"}},
        },
    )
    shown = [row.text for row in rows(cluster) if row.name == "quota" and row.text.startswith(name)]
    assert len(shown) == 1
    assert "7" in shown[0]


def test_the_doctor_shows_it_all_with_one_text_to_hand_on(cluster):
    checks = doctor(Client(on=_context()))
    found = {check.name: check.state for check in checks}
    assert found["user"] == "ok"
    assert found["free"] == "warning"
    assert "gpus" not in found  # what is not known is not said to be missing
    text = to_apply(checks)
    assert {body["kind"] for body in yaml.safe_load_all(text)} >= {"ClusterRole", "ClusterRoleBinding"}


def test_the_command_prints_a_role_that_kubectl_takes(cluster, capsys):
    assert cli.main(["doctor", "--rbac", "--on", _context()]) == 0
    role, binding = yaml.safe_load_all(capsys.readouterr().out)
    assert (role["kind"], binding["kind"]) == ("Role", "RoleBinding")
    assert role["metadata"]["namespace"] == cluster.namespace
    assert binding["subjects"][0]["name"] == user_of(cluster)
    assert cli.main(["doctor", "--json", "--on", _context()]) == 0
    assert "nodes" in {check["name"] for check in json.loads(capsys.readouterr().out)}


def test_nobody_has_to_allow_local_jobs(capsys):
    assert cli.main(["doctor", "--rbac", "--on", "local"]) == 0
    assert list(yaml.safe_load_all(capsys.readouterr().out)) in ([], [None])


def _context() -> str:
    return yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())["current-context"]
