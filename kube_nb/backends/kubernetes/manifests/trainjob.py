"""A TrainJob (Kubeflow Trainer v2) that runs our Job, and the TrainingRuntime with our pod template that it needs.

Trainer makes a JobSet of them, and that makes one Job, `<id>-node-0` (`JobPlan.job_name`), with the labels,
annotations, policy and pods that `job.py` says. So what watches, reads or cancels a job sees the same Job as without
Trainer. The JobSet makes the headless Service of all nodes, also of one.
"""

from __future__ import annotations

from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.kinds import Kind
from kube_nb.backends.kubernetes.manifests import marks
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.snapshot import QUEUE_LABEL

_GROUP = "trainer.kubeflow.org"
_VERSION = f"{_GROUP}/v1alpha1"
TRAIN_JOBS = Kind("trainjobs", _VERSION)
RUNTIMES = Kind("trainingruntimes", _VERSION)
_STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
"""Label of that part of a runtime whose nodes a TrainJob counts."""
_NODES = "node"
"""What that part is called, as in Trainer's own runtimes."""


def train_job(plan: JobPlan) -> Object:
    """What the user asked for: it owns all the rest. A queue takes it in, not the Job below it."""
    queue = plan.spec.placement.queue
    labels = marks.labels(plan) | ({QUEUE_LABEL: queue} if queue else {})
    return {
        "apiVersion": _VERSION,
        "kind": "TrainJob",
        "metadata": {"name": plan.spec.id, "labels": labels, "annotations": marks.notes(plan)},
        "spec": {"runtimeRef": {"apiGroup": _GROUP, "kind": "TrainingRuntime", "name": plan.spec.id}},
    }


def training_runtime(plan: JobPlan) -> Object:
    """The template of one job. It must be there before its TrainJob, which is made its owner afterwards."""
    job = indexed_job(plan)
    spec = {key: value for key, value in job["spec"].items() if key != "ttlSecondsAfterFinished"}
    for labelled in (job["metadata"], spec["template"]["metadata"]):
        labelled["labels"].pop(QUEUE_LABEL, None)
    labels = job["metadata"]["labels"] | {_STEP: "trainer"}
    part = {
        "name": _NODES,
        "template": {
            "metadata": {"labels": labels, "annotations": job["metadata"]["annotations"]},
            "spec": spec,
        },
    }
    jobs: Object = {
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True, "subdomain": plan.spec.id},
        "replicatedJobs": [part],
        "ttlSecondsAfterFinished": plan.retention,
    }
    return {
        "apiVersion": _VERSION,
        "kind": "TrainingRuntime",
        "metadata": {"name": plan.spec.id, "labels": marks.labels(plan)},
        "spec": {"mlPolicy": {"numNodes": plan.spec.resources.nodes}, "template": {"spec": jobs}},
    }
