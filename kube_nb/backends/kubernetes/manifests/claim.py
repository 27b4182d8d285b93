"""Claims: the namespace's shared store, and the store of one job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.manifests import marks
from kube_nb.backends.kubernetes.plan import JobPlan

AccessMode = Literal["ReadWriteMany", "ReadWriteOnce"]


def claim(
    name: str,
    labels: dict[str, str],
    *,
    mode: AccessMode,
    size: int,
    storage_class: str | None = None,
) -> Object:
    """A claim; without a storage class the cluster's default makes its volume."""
    spec: Object = {"accessModes": [mode], "resources": {"requests": {"storage": str(size)}}}
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }


def shared_claim(labels: Mapping[str, str], *, size: int, storage_class: str | None = None) -> Object:
    """The one claim of a namespace that all jobs mount. It is of nobody: it stays when its jobs are gone.

    Args:
        labels: the settings'.
    """
    given = {key: names.label_value(value) for key, value in labels.items()}
    ours = {names.MANAGED_BY: names.OURS, names.ROLE: "store"}
    return claim(names.STORE_CLAIM, {**given, **ours}, mode="ReadWriteMany", size=size, storage_class=storage_class)


def own_claim(plan: JobPlan, job: Object | None = None) -> Object:
    """The claim of a job of one node; it goes with its Job."""
    made = claim(
        plan.store.claim,
        marks.labels(plan, "store"),
        mode="ReadWriteOnce",
        size=plan.store.size,
        storage_class=plan.store.storage_class,
    )
    return marks.owned(made, job)
