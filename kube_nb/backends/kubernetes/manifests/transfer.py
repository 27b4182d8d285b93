"""The Job whose one pod carries files to and from a claim while no pod of a job can."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from typing import Any

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.manifests import marks

IDLE = 120
"""Seconds without any use after which it ends by itself."""
LIMIT = 600
"""Seconds that it has until its pod runs; then the cluster ends it, whoever is left to wait. Who finds it running lifts
this limit."""
_TRIES = 3
"""So often its pod is made anew, e.g. as its node went away."""
_THEIRS = ("batch.kubernetes.io/", "jobset.sigs.k8s.io/", "trainer.kubeflow.org/", "job-name", "controller-uid")
"""Labels by which controllers know what is theirs."""
_OF_A_JOB = ("subdomain", "hostname", "activeDeadlineSeconds", "initContainers", "restartPolicy", "volumes")
_SMALL: Object = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}


def transfer_job(job: Object, *, name: str, family: str, claim: str, secret: str, as_large: bool = False) -> Object:
    """A Job that is removed as soon as its pod has ended; the pod waits to be spoken to by exec.

    It is made from the manifest of the job that it carries for, patches and all: it stands in the same queue, runs the
    same image under the same policy, in the same place, so that a volume that binds late binds where the job can run.

    Args:
        job: the other Job, made already or not.
        family: by which those of one user and claim are found.
        secret: a Secret with the runner's zip.
        as_large: ask for what the job's pod asks for: then it is placed only where the job has room.
    """
    template = _template(job, as_large)
    labels = {**template["metadata"]["labels"], names.TRANSFER: family}
    volumes = [
        {"name": "runner", "secret": {"secretName": secret, "defaultMode": 0o440}},
        {"name": "run", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "store", "persistentVolumeClaim": {"claimName": claim}},
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "annotations": {names.TEMPLATE: _digest(template)}},
        "spec": {
            "backoffLimit": _TRIES,
            "activeDeadlineSeconds": LIMIT,
            "ttlSecondsAfterFinished": 0,
            "template": {"metadata": {"labels": labels}, "spec": {**template["spec"], "volumes": volumes}},
        },
    }


def template_digest(job: Object, *, as_large: bool = False) -> str:
    """The same for jobs whose transfer pods run the same image, stand in the same queue and have the same choice of
    nodes: one that cannot run for the one cannot for the other. It is the annotation `kube-nb/template`."""
    return _digest(_template(job, as_large))


def runner_secret(name: str, data: bytes, made: Object) -> Object:
    """What the pod runs; it goes with its Job."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "immutable": True,
        "metadata": {
            "name": name,
            "labels": made["metadata"]["labels"],
            "ownerReferences": marks.owned_by(made),
        },
        "data": {names.RUNNER_ZIP: base64.b64encode(data).decode()},
    }


def _digest(template: Object) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16]


def _template(job: Object, as_large: bool) -> Object:
    """What a pod is made from, but its volumes and whose it is."""
    given = job["spec"]["template"]["spec"]
    kept = {key: copy.deepcopy(value) for key, value in given.items() if key not in _OF_A_JOB}
    spec = {
        **kept,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 2,
        "containers": [_container(_main(given), as_large)],
    }
    return {"metadata": {"labels": _labels(job)}, "spec": spec}


def _labels(job: Object) -> dict[str, str]:
    kept = {
        key: value
        for key, value in (job["metadata"].get("labels") or {}).items()
        if key != names.JOB and not key.startswith(_THEIRS)
    }
    return {**kept, names.ROLE: "transfer"}


def _main(given: Object) -> Object:
    """The job's container that runs the code."""
    containers: list[Object] = given["containers"]
    return next((one for one in containers if one["name"] == names.CONTAINER), containers[0])


def _container(given: Object, as_large: bool) -> Object:
    kept: dict[str, Any] = {key: given[key] for key in ("image", "imagePullPolicy", "securityContext") if key in given}
    return {
        **copy.deepcopy(kept),
        "name": names.CONTAINER,
        "command": ["python3", "-I", "-S", f"{names.SECRET}/{names.RUNNER_ZIP}", "tool", "idle", str(IDLE)],
        "env": [{"name": "HOME", "value": f"{names.RUN}/home"}],
        "resources": copy.deepcopy(given.get("resources") or {}) if as_large else _SMALL,
        "volumeMounts": [
            {"name": "runner", "mountPath": names.SECRET, "readOnly": True},
            {"name": "run", "mountPath": names.RUN},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "store", "mountPath": names.STORE_MOUNT},
        ],
    }
