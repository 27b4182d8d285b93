"""A namespace that nobody else uses, and what a backend has in it: for tests of what all jobs of a namespace share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from kube_nb.backends.kubernetes import kinds
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.connect import user_of
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, Kind
from kube_nb.spec import new_job_id
from tests.cluster.cells import Place, place

NAMESPACES = Kind("namespaces", namespaced=False)
BINDINGS = Kind("rolebindings", "rbac.authorization.k8s.io/v1")


@pytest.fixture(scope="module")
def alone(cluster, admin) -> Iterator[Api]:
    """A namespace that nobody else uses, as the tenant has it: `edit` and nothing else."""
    name = new_job_id("t-store")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    admin.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    own = replace(admin, namespace=name)
    with own.watching(kinds.SERVICE_ACCOUNTS, version="0", seconds=60) as changes:
        next(item for item in changes if item["object"]["metadata"].get("name") == "default")
    own.create(
        BINDINGS,
        {
            "apiVersion": BINDINGS.version,
            "kind": "RoleBinding",
            "metadata": {"name": "tenant"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user_of(cluster)}],
        },
    )
    yield replace(cluster, namespace=name)
    admin.delete(NAMESPACES, name)


@pytest.fixture
def fresh(alone, tmp_path) -> Iterator[Callable[..., Place]]:
    """Makes what a backend has, with these settings, in a namespace without a claim."""
    opened = []

    def make(folder: str = "a", **settings: str) -> Place:
        (tmp_path / folder).mkdir(exist_ok=True)
        found = place(alone, tmp_path / folder, **settings)
        opened.append(found)
        return found.__enter__()

    yield make
    for one in opened:
        one.__exit__(None, None, None)
    for kind in (JOBS, CLAIMS):
        for found in alone.list(kind)[0]:
            alone.delete(kind, found["metadata"]["name"])
    gone(alone, CLAIMS)


def gone(api: Api, kind: Kind, besides: str = "") -> None:
    """Wait until nothing of a kind is left in the namespace, besides one that stays."""
    found, version = api.list(kind)
    left = {one["metadata"]["name"] for one in found} - {besides}
    if not left:
        return
    with api.watching(kind, version=version, seconds=60) as changes:
        for change in changes:
            if change["type"] == "DELETED":
                left.discard(change["object"]["metadata"]["name"])
            if not left:
                return
    raise AssertionError(f"still there: {left}")
