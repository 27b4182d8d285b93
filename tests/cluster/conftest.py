"""A live cluster, seen by its tenant and by its admin, and the removal of whatever a test made there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube_nb.backends.kubernetes import kinds
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import Forbidden
from kube_nb.backends.kubernetes.connect import Place, connect, user_of
from kube_nb.backends.kubernetes.kinds import Kind
from kube_nb.backends.kubernetes.names import JOB, MANAGED_BY, OURS, STORE_CLAIM, selector
from kube_nb.backends.kubernetes.watch import Watch
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.spec import new_job_id
from tests.cluster import webhooks
from tests.cluster.alone import alone, fresh  # noqa: F401 - fixtures
from tests.cluster.handmade import Seen, job, submit
from tests.cluster.made import Made
from tests.cluster.users import KINDS, may_edit
from tests.conformance.backends import CLUSTER
from tests.conformance.sending import until

NAMESPACES = Kind("namespaces", namespaced=False)
_ELSEWHERE = "cluster: not the lab (no LAB_CLUSTER)"
_LABELLED = (kinds.JOBS, kinds.PODS, kinds.SECRETS, kinds.SERVICES, kinds.CLAIMS, kinds.CONFIG_MAPS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker("cluster")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("lab") and not os.environ.get("LAB_CLUSTER"):
        pytest.skip(_ELSEWHERE)


@pytest.fixture(scope="session")
def cluster() -> Api:
    """The cluster of KUBECONFIG's current context, as its user, in its namespace."""
    return _connect("KUBECONFIG")


@pytest.fixture(scope="session")
def admin(cluster: Api) -> Api:
    """The same cluster and namespace, as somebody who may do everything there."""
    api = _connect("LAB_ADMIN_KUBECONFIG")
    api.namespace = cluster.namespace
    return api


@pytest.fixture(scope="session")
def lab() -> Callable[..., None]:
    """Runs the command that made the cluster, to break and mend it; LAB_CLUSTER is its path."""
    command = os.environ.get("LAB_CLUSTER")
    if not command:
        pytest.skip(_ELSEWHERE)

    def run(*words: str) -> None:
        subprocess.run([command, *words], check=True, capture_output=True)

    return run


@pytest.fixture
def unique(cluster: Api) -> Iterator[Callable[[str], str]]:
    """Makes names that nobody else has. What carries one as its `kube-nb/job` label is removed after the test."""
    names: list[str] = []

    def make(stem: str = "t") -> str:
        names.append(new_job_id(f"t-{stem}"))
        return names[-1]

    yield make
    for some in (names[at : at + 50] for at in range(0, len(names), 50)):  # a selector is part of an address
        for kind in _LABELLED:
            _remove_all(cluster, kind, f"{JOB} in ({','.join(some)})")


@pytest.fixture(scope="session")
def watch(cluster: Api) -> Iterator[Watch]:
    """One watch of all jobs in the namespace, for all tests."""
    watch = Watch(cluster, selector())
    yield watch
    watch.close()


@pytest.fixture
def shared_store(cluster: Api, tmp_path: Path) -> None:
    """The namespace's claim, which its first job makes and proves."""
    if cluster.find(kinds.CLAIMS, STORE_CLAIM) is None:
        settings = Settings.load(environ={"KUBE_NB_STATE_DIR": str(tmp_path / "first")})
        client = Client(CLUSTER.on, settings=settings, cpu="0.05", memory="64Mi")
        client.delete(client.cell("x = 1", {"__name__": "__main__"}).wait(100))


@pytest.fixture
def by_hand(cluster: Api, watch: Watch, unique: Callable[[str], str]) -> Callable[..., Seen]:
    """Makes a Job as `handmade.job` does, under a name that begins with the stem, and looks at it."""

    def make(stem: str, code: str = "", **changes: Any) -> Seen:
        return submit(cluster, watch, job(unique(stem), code, **changes))

    return make


@pytest.fixture
def made(cluster: Api) -> Iterator[Made]:
    """Makes objects as the tenant and removes them after the test, the last one first."""
    objects = Made(cluster)
    yield objects
    objects.remove()


@pytest.fixture
def made_by_admin(admin: Api) -> Iterator[Made]:
    """Makes objects as the admin and removes them after the test, the last one first."""
    objects = Made(admin)
    yield objects
    objects.remove()


@pytest.fixture
def own_namespace(admin: Api) -> Iterator[Api]:
    """A namespace of the test's own, as its admin, where rules for all of it disturb nobody."""
    name = new_job_id("t-ns")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    admin.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    own = replace(admin, namespace=name)
    with own.watching(kinds.SERVICE_ACCOUNTS, version="0", seconds=60) as changes:
        next(item for item in changes if item["object"]["metadata"].get("name") == "default")
    yield own
    admin.delete(NAMESPACES, name)


@pytest.fixture
def own_tenant(own_namespace: Api, cluster: Api) -> Api:
    """The tenant in that namespace, with the role `edit` as in their own."""
    own_namespace.create(KINDS["RoleBinding"], may_edit("t-tenant", {"kind": "User", "name": user_of(cluster)}))
    tenant = replace(cluster, namespace=own_namespace.namespace)
    until(lambda: _admitted(tenant))
    return tenant


@pytest.fixture
def own_watch(own_tenant: Api) -> Iterator[Watch]:
    """All jobs of that namespace, as the tenant sees them."""
    watch = Watch(own_tenant, selector())
    yield watch
    watch.close()


@pytest.fixture(scope="module")
def webhook_server(admin: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webhooks.Server]:
    server = webhooks.Server(
        replace(admin, namespace=webhooks.NAMESPACE), new_job_id("t-hook"), tmp_path_factory.mktemp("tls")
    )
    yield server
    server.remove()


@pytest.fixture
def webhook(webhook_server: webhooks.Server, made_by_admin: Made, unique: Callable[[str], str]) -> Callable[..., str]:
    """Makes the cluster ask the webhook about `pods` or `jobs` that carry the label which it returns."""

    def make(resource: str, *, answers: bool = True) -> str:
        name = unique("hook")
        mark = f"kube-nb.test/{name}"
        service = webhook_server.name if answers else "nobody"
        made_by_admin(
            webhooks.WEBHOOKS, webhooks.configuration(name, mark, resource, service, webhook_server.authority)
        )
        return mark

    return make


def ours(job: str) -> dict[str, str]:
    """The labels by which a test's objects are ours, and are removed with the name `job`."""
    return {MANAGED_BY: OURS, JOB: job}


def _admitted(api: Api) -> bool:
    """Whether a new right has reached the API server."""
    try:
        api.list(kinds.JOBS)
    except Forbidden:
        return False
    return True


def _remove_all(api: Api, kind: Kind, labels: str) -> None:
    for found in api.list(kind, labels=labels)[0]:
        api.delete(kind, found["metadata"]["name"], grace=0 if kind is kinds.PODS else None)


def _connect(variable: str) -> Api:
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"cluster: no {variable}")
    pytest.importorskip("kubernetes", reason="cluster: the kubernetes package is not installed")
    return connect(Place("lab", _current_context(path), kubeconfig=path))


def _current_context(path: str) -> str:
    from kubernetes import config

    return config.list_kube_config_contexts(config_file=path)[1]["name"]
