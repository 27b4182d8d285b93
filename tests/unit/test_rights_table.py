"""The table of rights against the code that asks the API server: the printed Role has all that is asked for, and no more."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from kube_nb.backends.kubernetes import addons, capacity, examine, kinds, network
from kube_nb.backends.kubernetes.kinds import Kind
from kube_nb.backends.kubernetes.manifests import trainjob
from kube_nb.backends.kubernetes.rights import CLUSTER, OPTIONAL, RIGHTS, Rights, cluster_role_yaml, role_yaml

SOURCES = sorted(Path(kinds.__file__).parent.rglob("*.py"))
VERBS = {
    "create": ("create",),
    "get": ("get",),
    "find": ("get",),
    "list": ("list",),
    "watching": ("watch",),
    "patch": ("patch",),
    "delete": ("delete",),
    "Feed": ("list", "watch"),
}
KINDS = {
    name: value
    for module in (kinds, trainjob, capacity, examine, addons, network)
    for name, value in vars(module).items()
    if isinstance(value, Kind)
}
TOLERATED = {"storageclasses", "namespaces"}
"""What is of the whole cluster: read where it may be read, and done without elsewhere."""
EVERYBODYS = {"selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"}
OPTIONALS = [right for group in OPTIONAL.values() for right in group]


UNNAMED = {
    ("create", "pods"),  # the dry run of a job's pod, after that of the Job
    ("get", "pods/log"),
    ("create", "pods/exec"),
    ("get", "pods/exec"),  # for the same call, where WebSockets begin with a GET
    ("get", "localqueues"),
    ("list", "localqueues"),
    ("list", "workloads"),
    ("watch", "workloads"),
}
"""What is asked for by calls that do not name a kind: subresources, and kinds whose version the cluster tells."""


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def named(call: ast.Call) -> list[str]:
    """The names among the first arguments, where a kind stands."""
    return [argument.id for argument in call.args[:2] if isinstance(argument, ast.Name)]


def by_way_of(source: ast.Module) -> Mapping[str, tuple[str, ...]]:
    """Verbs that a function asks of the kind it is given."""
    found: dict[str, tuple[str, ...]] = {}
    for function in ast.walk(source):
        if isinstance(function, ast.FunctionDef):
            given = {one.arg for one in function.args.args if getattr(one.annotation, "id", "") == "Kind"}
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and given & set(named(node))]
            verbs = tuple(verb for call in calls for verb in VERBS.get(called(call), ()))
            if verbs:
                found[function.name] = verbs
    return found


TREES = {source: ast.parse(source.read_text()) for source in SOURCES}
HELPERS = {name: verbs for tree in TREES.values() for name, verbs in by_way_of(tree).items()}


def asked_for(source: Path) -> Iterator[tuple[str, Kind]]:
    """Verb and kind of each call that names its kind."""
    for node in ast.walk(TREES[source]):
        if isinstance(node, ast.Call):
            for name in named(node):
                if name in KINDS:
                    yield from ((verb, KINDS[name]) for verb in (VERBS | HELPERS).get(called(node), ()))


def rules(text: str) -> list[dict[str, list[str]]]:
    role, _ = yaml.safe_load_all(text)
    return role["rules"]


def group_of(kind: Kind) -> str:
    return kind.version.rpartition("/")[0]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_role_covers_what_the_code_asks_for(source):
    everything = Rights(rules(role_yaml("x", "anna", OPTIONAL)), complete=True)
    for verb, kind in asked_for(source):
        if not kind.namespaced:
            continue
        names = [name for right in RIGHTS if right.resource == kind.plural for name in right.names]
        allowed = everything.may(verb, kind.plural, group=group_of(kind), name="".join(names[:1]))
        assert allowed, f"{source.name} asks to {verb} {kind.plural}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_cluster_role_covers_what_the_code_asks_for_of_the_whole_cluster(source):
    everything = Rights(rules(cluster_role_yaml("anna")), complete=True)
    for verb, kind in asked_for(source):
        if not kind.namespaced and kind.plural not in TOLERATED | EVERYBODYS:
            assert everything.may(verb, kind.plural), f"{source.name} asks to {verb} {kind.plural}"


@pytest.mark.parametrize(
    ("right", "namespaced"), [(right, True) for right in (*RIGHTS, *OPTIONALS)] + [(right, False) for right in CLUSTER]
)
def test_no_rule_of_the_roles_is_idle(right, namespaced):
    asked = {
        (verb, kind.plural, group_of(kind))
        for source in SOURCES
        for verb, kind in asked_for(source)
        if kind.namespaced is namespaced
    }
    asked |= {(verb, resource, right.group) for verb, resource in UNNAMED if namespaced}
    for verb in right.verbs:
        assert (verb, right.resource, right.group) in asked, f"nobody asks to {verb} {right.resource}"


def test_the_code_is_read_at_all():
    assert {(verb, kind.plural) for source in SOURCES for verb, kind in asked_for(source)} >= {
        ("create", "jobs"),
        ("delete", "secrets"),
        ("list", "resourcequotas"),
    }


def test_rules_are_read_as_the_authorizer_reads_them():
    rights = Rights(
        [
            {"verbs": ["*"], "apiGroups": ["batch"], "resources": ["*"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/log"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"]},
        ],
        complete=True,
    )
    assert rights.may("delete", "jobs", group="batch")
    assert rights.may("get", "pods/log")
    assert not rights.may("get", "pods/exec")
    assert not rights.may("get", "jobs")
    assert rights.may("get", "secrets", name="mine")
    assert not rights.may("get", "secrets")
    assert not rights.may("list", "pods")


def test_where_an_authorizer_does_not_tell_nothing_is_known_to_be_missing():
    rights = Rights([], complete=False)
    assert rights.may("create", "jobs", group="batch") is None
    assert rights.missing(RIGHTS) == []


def test_what_is_printed_for_one_user_takes_nothing_from_another():
    """The names of all that is applied twice are those of what both have in common."""
    for make in (cluster_role_yaml, lambda user: role_yaml("team-a", user)):
        (role, anna), (same, berta) = (list(yaml.safe_load_all(make(user))) for user in ("anna", "berta"))
        assert role == same
        assert anna["metadata"]["name"] != berta["metadata"]["name"]
        assert anna["roleRef"] == berta["roleRef"]


def test_a_service_account_is_bound_as_one():
    text = role_yaml("team-a", "system:serviceaccount:hub:anna")
    assert "kind: ServiceAccount" in text
    assert "name: anna" in text
    assert "namespace: hub" in text
