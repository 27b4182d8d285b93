"""Users with exactly these rights: a service account each, made by the admin, with a kubeconfig of its own."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from kube_nb.backends.kubernetes import examine
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.connect import Place, connect
from kube_nb.backends.kubernetes.kinds import SERVICE_ACCOUNTS, Kind
from kube_nb.backends.kubernetes.rights import cluster_role_yaml
from kube_nb.spec import new_job_id

RBAC = "rbac.authorization.k8s.io/v1"
NAMESPACES = Kind("namespaces", namespaced=False)
KINDS = {
    "Role": Kind("roles", RBAC),
    "RoleBinding": Kind("rolebindings", RBAC),
    "ClusterRole": Kind("clusterroles", RBAC, namespaced=False),
    "ClusterRoleBinding": Kind("clusterrolebindings", RBAC, namespaced=False),
    "ServiceAccount": SERVICE_ACCOUNTS,
}
_TOKEN_HOURS = 3


@dataclass(frozen=True)
class User:
    """Somebody of the cluster.

    Attributes:
        name: as the cluster knows them. kubeconfig: with one context, `context`.
    """

    name: str
    kubeconfig: Path
    context: str
    api: Api


@contextmanager
def user(admin: Api, directory: Path) -> Iterator[User]:
    """Somebody who may do nothing but what everybody may; removed afterwards."""
    account = new_job_id("t-user")
    admin.create(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}})
    try:
        path = directory / f"{account}.kubeconfig"
        path.write_text(yaml.safe_dump(_kubeconfig(admin, account, _token(admin, account))))
        path.chmod(0o600)
        name = f"system:serviceaccount:{admin.namespace}:{account}"
        yield User(name, path, account, connect(Place(account, account, kubeconfig=str(path))))
    finally:
        admin.delete(SERVICE_ACCOUNTS, account)


@contextmanager
def tenant(admin: Api, directory: Path, *, reads_nodes: bool = False) -> Iterator[User]:
    """Somebody with what `kube-nb doctor --rbac` prints, in a namespace of their own in which there is nothing yet.

    Args:
        reads_nodes: and with what the doctor prints for nodes, and for pods everywhere.
    """
    name = new_job_id("t-ns")
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "lab/tenant": "true"}
    admin.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    there = replace(admin, namespace=name)
    try:
        with ExitStack() as stack:
            somebody = stack.enter_context(user(there, directory))
            stack.enter_context(applied(there, examine.grant(somebody.api, somebody.name)))
            if reads_nodes:
                stack.enter_context(applied(there, cluster_role_yaml(somebody.name), suffix=f"-{name}"))
            yield replace(somebody, api=replace(somebody.api))
    finally:
        admin.delete(NAMESPACES, name)


@contextmanager
def applied(admin: Api, text: str, suffix: str = "") -> Iterator[list[Object]]:
    """What a text of YAML says, made by the admin; removed afterwards.

    Args:
        suffix: of every name, so that what stands there already is left alone.
    """
    with ExitStack() as removal:
        made = []
        for body in _renamed(list(yaml.safe_load_all(text)), suffix):
            kind = KINDS[body["kind"]]
            made.append(admin.create(kind, body))
            removal.callback(admin.delete, kind, body["metadata"]["name"])
        yield made


def may_edit(name: str, whom: Object) -> Object:
    """A RoleBinding that gives somebody the role `edit` in its namespace."""
    return {
        "apiVersion": RBAC,
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC.partition("/")[0], "kind": "ClusterRole", "name": "edit"},
        "subjects": [whom],
    }


def _renamed(bodies: Iterable[Any], suffix: str) -> Iterator[Object]:
    for body in bodies:
        if body:
            body["metadata"]["name"] += suffix
            if "roleRef" in body:
                body["roleRef"]["name"] += suffix
            yield body


def _token(admin: Api, account: str) -> str:
    kind = Kind(f"serviceaccounts/{account}/token")
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": _TOKEN_HOURS * 3600},
    }
    return admin.create(kind, body)["status"]["token"]


def _kubeconfig(admin: Api, name: str, token: str) -> dict[str, Any]:
    configuration = admin.client.configuration
    authority = Path(str(configuration.ssl_ca_cert)).read_bytes()
    server = {
        "server": configuration.host,
        "certificate-authority-data": base64.b64encode(authority).decode(),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": server}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": admin.namespace}}],
    }
