"""The Secret of a job: the runner, the bundle or the way to it, the key that signs, the variables."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.manifests import marks
from kube_nb.backends.kubernetes.plan import JobPlan

KEYS = ("runner.zip", "bundle.zip", "key", "env.json", "pod.json")
PLACEHOLDER = "<filled in by kube-nb at the submit>"


def bundle_secret(plan: JobPlan, data: Mapping[str, bytes], job: Object) -> Object:
    """Owned by the Job and immutable: what is in it is what was signed."""
    content = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return marks.owned(_secret(plan) | {"data": content}, job)


def shown_secret(plan: JobPlan) -> Object:
    """What a person is shown of it: everything but its content."""
    return _secret(plan) | {"stringData": dict.fromkeys(KEYS, PLACEHOLDER)}


def _secret(plan: JobPlan) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": plan.spec.id, "labels": marks.labels(plan)},
        "type": "Opaque",
        "immutable": True,
    }
