"""The Job: as many pods as the spec has nodes, tried again as its policy says."""

from __future__ import annotations

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.manifests import marks, pod
from kube_nb.backends.kubernetes.patch import patched
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.runner.ending import CODES

AGAIN = 88
"""Exit status of a node that ended because the whole gang starts again."""
_FINAL = ("TimedOut", "Cancelled", "BundleCorrupted", "EnvironmentFailed", "OutOfDisk", "RunnerFault")
_FINAL += ("RendezvousBlocked",)
"""Ends that another try would only repeat, or that somebody asked for."""


def indexed_job(plan: JobPlan) -> Object:
    """The Job of a plan, with its patches applied."""
    spec = plan.spec
    job: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": spec.id, "labels": pod.pod_labels(plan), "annotations": marks.notes(plan)},
        "spec": {
            "completionMode": "Indexed",
            "completions": spec.resources.nodes,
            "parallelism": spec.resources.nodes,
            "backoffLimitPerIndex": spec.policy.retries,
            "maxFailedIndexes": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "ttlSecondsAfterFinished": plan.retention,
            "template": pod.job_pod(plan),
        },
    }
    for patch in plan.patches:
        job = patched(job, patch)
    return job


def _failure_rules() -> list[Object]:
    """The first that fits counts; what fits none counts as a failure of the code."""

    def ends(action: str, *statuses: int) -> Object:
        exits = {"containerName": names.CONTAINER, "operator": "In", "values": sorted(statuses)}
        return {"action": action, "onExitCodes": exits}

    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ends("Ignore", CODES["Stopped"], AGAIN),
        ends("FailJob", *(CODES[code] for code in _FINAL)),
    ]
