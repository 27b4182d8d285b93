"""Which add-ons a cluster has, found by API discovery alone: what they install cannot be listed by a tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError, Forbidden, Missing
from kube_nb.backends.kubernetes.kinds import Kind

_FRESH = 600.0
_UNAVAILABLE = 503
"""Of HTTP: an add-on's own API server is down."""


@dataclass(frozen=True)
class AddOn:
    """An add-on.

    Attributes:
        name: as people call it. group: of its API. resource: which tells it from others with the same group.
        use: what kube-nb can do with it.
    """

    name: str
    group: str
    resource: str
    use: str


ADD_ONS: Sequence[AddOn] = (
    AddOn("Kueue", "kueue.x-k8s.io", "localqueues", "--queue lets jobs wait for a quota"),
    AddOn("JobSet", "jobset.x-k8s.io", "jobsets", "nothing of ours needs it; Kubeflow Trainer does"),
    AddOn("Kubeflow Trainer", "trainer.kubeflow.org", "trainjobs", "--via trainjob"),
    AddOn("KServe", "serving.kserve.io", "inferenceservices", "models can be served as InferenceServices"),
    AddOn("Argo Workflows", "argoproj.io", "workflows", "pipelines can run as Workflows"),
    AddOn("Gateway API", "gateway.networking.k8s.io", "httproutes", "served models can get an address"),
    AddOn("Prometheus Operator", "monitoring.coreos.com", "podmonitors", "served models can be scraped"),
    AddOn("metrics-server", "metrics.k8s.io", "pods", "kubectl top, and scaling by CPU"),
)


def present(api: Api) -> dict[str, bool]:
    """Each add-on by name, and whether the cluster has it."""
    return {one.name: kind(api, one.group, one.resource) is not None for one in ADD_ONS}


def kind(api: Api, group: str, resource: str) -> Kind | None:
    """The kind of an add-on's objects in the version that the cluster prefers; None: it does not have them."""
    versions = api.remember("api groups", lambda: _groups(api), seconds=_FRESH)
    version = versions.get(group)
    if version is None:
        return None
    try:
        known = api.remember(f"api group {group}", lambda: _resources(api, version), seconds=_FRESH)
    except (Forbidden, Missing):
        return None
    except ApiError as error:
        if error.status != _UNAVAILABLE:
            raise
        return None  # its server does not answer: asked again at the next look
    return Kind(resource, version, known[resource]) if resource in known else None


def _groups(api: Api) -> Mapping[str, str]:
    """Group -> preferred version, `group/version`."""
    return {one["name"]: one["preferredVersion"]["groupVersion"] for one in api.raw("/apis").get("groups") or ()}


def _resources(api: Api, version: str) -> Mapping[str, bool]:
    """Resources of a group, and whether they live in namespaces."""
    found = api.raw(f"/apis/{version}").get("resources") or ()
    return {one["name"]: bool(one.get("namespaced")) for one in found}
