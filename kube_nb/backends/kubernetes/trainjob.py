"""Jobs that Kubeflow Trainer makes: from a plan to a TrainJob, and from the Job below it back to it."""

from __future__ import annotations

import time

from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import AlreadyExists, ApiError
from kube_nb.backends.kubernetes.kinds import JOBS, Kind
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.manifests.marks import owned_by
from kube_nb.backends.kubernetes.manifests.trainjob import RUNTIMES, TRAIN_JOBS, train_job, training_runtime
from kube_nb.backends.kubernetes.names import selector
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.reasons.refusals import in_doubt

_PATIENCE = 15
_NOT_HEARD_OF = "must be created before"
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


def make(api: Api, plan: JobPlan) -> Object | None:
    """Make the TrainJob and what it refers to; None: there is one of this name already.

    Raises:
        ApiError: the cluster said no; nothing is left then.
        Unreachable: nobody answered.
    """
    body = training_runtime(plan)
    runtime = _create(api, RUNTIMES, body)
    try:
        owner = _create_train_job(api, plan)
    except ApiError as error:
        if runtime is not None and not in_doubt(error):
            api.delete(RUNTIMES, plan.spec.id)
        raise
    try:
        adopt(api, owner or api.get(TRAIN_JOBS, plan.spec.id))
    except ApiError as error:
        if owner is not None and not in_doubt(error):
            # Not in the foreground: Trainer lets nobody change a TrainJob whose runtime is gone, not even to let it go.
            api.delete(TRAIN_JOBS, plan.spec.id)
            api.delete(RUNTIMES, plan.spec.id)
        raise
    return owner


def adopt(api: Api, owner: Object) -> None:
    """The runtime goes when its TrainJob goes. Trainer wants it to be there first, so it cannot be born so."""
    references = {"metadata": {"ownerReferences": owned_by(owner)}}
    api.patch(RUNTIMES, owner["metadata"]["name"], references)


def job_of(api: Api, plan: JobPlan, owner: Object) -> Object:
    """The Job that Trainer makes of it; where that takes long, what it will be."""
    labels = selector(job=plan.spec.id)
    found, version = api.list(JOBS, labels=labels)
    if found:
        return found[0]
    with api.watching(JOBS, version=version, labels=labels, seconds=_PATIENCE) as changes:
        for change in changes:
            if change["type"] == "ADDED":
                return change["object"]
    job = indexed_job(plan)
    known = {name: owner["metadata"].get(name) for name in ("uid", "namespace", "creationTimestamp", "resourceVersion")}
    return job | {"metadata": job["metadata"] | known | {"name": plan.job_name}}


def made(job: Object) -> bool:
    """Whether Trainer has made this Job."""
    owners = job["metadata"].get("ownerReferences") or []
    return any(owner.get("kind") == "JobSet" for owner in owners)


def _create_train_job(api: Api, plan: JobPlan) -> Object | None:
    """Trainer refuses a TrainJob whose runtime it has not heard of yet, and nothing tells when it has."""
    for pause in _PAUSES:
        try:
            return _create(api, TRAIN_JOBS, train_job(plan))
        except ApiError as error:
            if _NOT_HEARD_OF not in error.message:
                raise
        time.sleep(pause)
    return _create(api, TRAIN_JOBS, train_job(plan))


def _create(api: Api, kind: Kind, body: Object) -> Object | None:
    try:
        return api.create(kind, body)
    except AlreadyExists:
        return None
