"""The kinds of objects that are asked for, and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True)
class Kind:
    """A kind of object and where the API server keeps it: `Kind("jobs", "batch/v1")`."""

    plural: str
    version: str = "v1"
    namespaced: bool = True

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        root = "/api/v1" if self.version == "v1" else f"/apis/{self.version}"
        parts = [root, f"namespaces/{namespace}"] if self.namespaced else [root]
        return "/".join([*parts, self.plural, *(quote(part, safe="") for part in (name, subresource) if part)])


JOBS = Kind("jobs", "batch/v1")
PODS = Kind("pods")
SECRETS = Kind("secrets")
SERVICES = Kind("services")
CLAIMS = Kind("persistentvolumeclaims")
CONFIG_MAPS = Kind("configmaps")
EVENTS = Kind("events")
NODES = Kind("nodes", namespaced=False)
QUOTAS = Kind("resourcequotas")
LIMITS = Kind("limitranges")
SERVICE_ACCOUNTS = Kind("serviceaccounts")
STORAGE_CLASSES = Kind("storageclasses", "storage.k8s.io/v1", namespaced=False)
RULES_REVIEWS = Kind("selfsubjectrulesreviews", "authorization.k8s.io/v1", namespaced=False)
SELF_REVIEWS = Kind("selfsubjectreviews", "authentication.k8s.io/v1", namespaced=False)
ACCESS_REVIEWS = Kind("selfsubjectaccessreviews", "authorization.k8s.io/v1", namespaced=False)
