"""What a test made in the cluster, and how it is removed."""

from __future__ import annotations

from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.kinds import PODS, QUOTAS, Kind
from kube_nb.backends.kubernetes.snapshot import condition


class Made:
    """The objects that a test made by one user."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._made: list[tuple[Kind, str]] = []

    def __call__(self, kind: Kind, body: Object) -> Object:
        created = self.api.create(kind, body)
        self._made.append((kind, created["metadata"]["name"]))
        return created

    def remove(self) -> None:
        while self._made:
            kind, name = self._made.pop()
            self.api.delete(kind, name, grace=1 if kind is PODS else None)


def wait_until_ready(api: Api, pod: Object) -> Object:
    """A pod once its probe answers."""
    name, version = pod["metadata"]["name"], pod["metadata"]["resourceVersion"]
    with api.watching(PODS, version=version, fields=f"metadata.name={name}", seconds=60) as changes:
        return next(item["object"] for item in changes if condition(item["object"], "Ready"))


def set_quota(api: Api, name: str, **hard: str) -> None:
    """Make a quota, and wait until it counts."""
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": {"hard": hard}}
    version = api.create(QUOTAS, body)["metadata"]["resourceVersion"]
    with api.watching(QUOTAS, version=version, fields=f"metadata.name={name}", seconds=60) as changes:
        next(item for item in changes if item["object"].get("status", {}).get("hard"))
