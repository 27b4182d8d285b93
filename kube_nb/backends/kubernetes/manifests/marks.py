"""What every object of a job carries: labels to find it by, annotations that tell of it, the Job that owns it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Literal

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.spec import JobSpec

Role = Literal["job", "transfer", "store"]


def labels(plan: JobPlan, role: Role = "job") -> dict[str, str]:
    """The settings' labels first: nobody can hide a job by naming one of ours.

    A transfer pod serves a user's jobs one after the other, so it is of no job.
    """
    ours = {names.MANAGED_BY: names.OURS, names.OWNER: names.owner_of(plan.user), names.ROLE: role}
    if role != "transfer":
        ours[names.JOB] = plan.spec.id
    return {**{key: names.label_value(value) for key, value in plan.labels.items()}, **ours}


def notes(plan: JobPlan) -> dict[str, str]:
    """What a Job tells of itself to whoever reads it, from any machine."""
    return {
        names.NAME: plan.spec.name,
        names.LABEL: plan.spec.task.label,
        names.USER: plan.user,
        names.SPEC: spec_summary(plan.spec),
        names.DIGEST: plan.digest,
        names.STORE: plan.store.mark,
        names.TRANSPORT: plan.transport,
        names.SUBMITTED: f"{plan.submitted:.6f}",
        **({names.STORE_WHY: plan.store.why} if plan.store.why else {}),
        **({names.QUEUE: plan.spec.placement.queue} if plan.spec.placement.queue else {}),
    }


def spec_summary(spec: JobSpec) -> str:
    """The spec as JSON; names of variables are in it, values never."""
    return json.dumps(asdict(spec), separators=(",", ":"))


def owned(made: Object, job: Object | None) -> Object:
    """The object as the Job's own; without a Job: as it is shown before there is one."""
    return made if job is None else made | {"metadata": made["metadata"] | {"ownerReferences": owned_by(job)}}


def owned_by(owner: Object) -> list[Object]:
    """Owner references to a Job (or TrainJob): what has them goes when it goes."""
    return [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": False,  # true needs a right on the owner's finalizers where a cluster is strict
        }
    ]
