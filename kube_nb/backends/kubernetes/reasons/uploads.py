"""A job whose bundle fits neither a Secret nor a store: it waits for the kernel that sends it."""

from __future__ import annotations

from dataclasses import replace

from kube_nb.backends.base import Reason
from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.snapshot import Snapshot, annotation, over, state

_KEEP = "keep the kernel that sent it alive until the job has started"


def awaited(snapshot: Snapshot) -> bool:
    """Whether a pod of the job, or one that is yet to come, has to be sent what it needs."""
    if annotation(snapshot.job, names.TRANSPORT) != "upload":
        return False
    served = set(annotation(snapshot.job, names.UPLOADED).split(","))
    alive = [pod for pod in snapshot.latest if not (over(pod) or state(pod, "terminated"))]
    return len(snapshot.latest) < snapshot.nodes or any(pod["metadata"]["name"] not in served for pod in alive)


def why_uploading(snapshot: Snapshot, other: Reason | None) -> Reason:
    """What is said of a job that awaits it.

    Args:
        other: what keeps it from going on beside that; it comes first, and the kernel must live all the same.
    """
    if other is not None:
        return replace(other, next=f"{other.next}; {_KEEP}" if other.next else _KEEP)
    runs = any(state(pod, "running") for pod in snapshot.latest)
    return Reason(
        code="Uploading",
        what=f"uploading: the kernel that sent the job sends what it needs straight to its pod"
        f"{'' if runs else ' as soon as that runs'}",
        why=f"it is too large for a Secret, and no store can hold it: "
        f"{annotation(snapshot.job, names.STORE_WHY) or 'the job has none'}",
        next=f"{_KEEP}; with a store (setting `store`) it need not wait",
    )
