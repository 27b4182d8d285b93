"""Somebody whose login can be withdrawn, and who can log in again: a token in a kubeconfig."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import Unauthorized
from kube_nb.backends.kubernetes.connect import Place, connect
from kube_nb.backends.kubernetes.kinds import JOBS, SECRETS, Kind
from tests.cluster.users import User, tenant
from tests.conformance.sending import until


class Login:
    """One user of a namespace of their own.

    Args:
        admin: of that namespace.
        user: with the rights that `kube-nb doctor --rbac` prints.
    """

    def __init__(self, admin: Api, user: User) -> None:
        self.admin = admin
        self.user = user
        self.place = Place(user.context, user.context, kubeconfig=str(user.kubeconfig))
        self._holder = ""
        self._logins = 0
        self.again()

    def again(self) -> None:
        """Log in."""
        self.write({"token": self.token()})

    def token(self) -> str:
        """What a login brings."""
        self._logins += 1
        self._holder = f"{self.user.context}-{self._logins}"
        made = self.admin.create(SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self._holder}})
        bound = {"apiVersion": "v1", "kind": "Secret", "name": self._holder, "uid": made["metadata"]["uid"]}
        ask = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600, "boundObjectRef": bound},
        }
        return self.admin.create(Kind(f"serviceaccounts/{self.user.context}/token"), ask)["status"]["token"]

    def write(self, credentials: dict[str, Any]) -> None:
        """Let these be the credentials of the kubeconfig."""
        content = yaml.safe_load(self.user.kubeconfig.read_text())
        content["users"][0]["user"] = credentials
        self.user.kubeconfig.write_text(yaml.safe_dump(content))

    def withdraw(self) -> None:
        """From now on the last login is worth nothing."""
        known = connect(self.place)
        self.admin.delete(SECRETS, self._holder)
        until(lambda: _refused(known), 60)  # a token that was seen lately is believed for a few seconds more


@contextmanager
def logged_in(admin: Api, directory: Path) -> Iterator[Login]:
    with tenant(admin, directory) as somebody:
        yield Login(replace(admin, namespace=somebody.api.namespace), somebody)


def _refused(api: Api) -> bool:
    try:
        api.list(JOBS)
    except Unauthorized:
        return True
    return False
