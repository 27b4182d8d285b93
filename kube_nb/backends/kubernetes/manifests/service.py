"""The headless Service of a job of several nodes."""

from __future__ import annotations

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.manifests import marks
from kube_nb.backends.kubernetes.plan import JobPlan


def headless_service(plan: JobPlan, job: Object | None = None) -> Object:
    """The DNS names ID-0.ID, ID-1.ID by which the nodes of a job find each other, before they are ready too."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": plan.spec.id, "labels": marks.labels(plan)},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.JOB: plan.spec.id, names.ROLE: "job"},
        },
    }
    return marks.owned(service, job)
