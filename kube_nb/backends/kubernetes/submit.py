"""From a plan and a bundle to the objects of one job: made once, whole or not at all.

The Job comes first and owns all others, so nothing is left when it goes. The Secret comes last: the kubelet waits for
it, so no pod starts before all it needs is there. A submit that was cut off between the two leaves a Job that waits,
which the same call completes, with the store that the Job names, and `clean` removes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, cast

from kube_nb.backends.base import Bundle, Finding
from kube_nb.backends.kubernetes import names, trainjob
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import AlreadyExists, ApiError, Unauthorized
from kube_nb.backends.kubernetes.kept import kept
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, PODS, SECRETS, SERVICES, Kind
from kube_nb.backends.kubernetes.manifests import marks
from kube_nb.backends.kubernetes.manifests.claim import own_claim, shared_claim
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.manifests.secret import bundle_secret, shown_secret
from kube_nb.backends.kubernetes.manifests.service import headless_service
from kube_nb.backends.kubernetes.manifests.trainjob import RUNTIMES, TRAIN_JOBS, train_job, training_runtime
from kube_nb.backends.kubernetes.payload import secret_data
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.reasons.creation import reason_of_denial
from kube_nb.backends.kubernetes.reasons.refusals import in_doubt, reason_of_refusal, unanswered
from kube_nb.backends.kubernetes.snapshot import annotation, condition
from kube_nb.errors import KubeNbError, Refused, Unreachable

_PASSES = frozenset({"QuotaExceeded", "WebhookUnavailable"})
"""Why pods are not made for a while only: the Job controller tries again."""


class Unsure(Unreachable):
    """The answers to a submit were lost: whether its job was made is not known."""


def create(api: Api, plan: JobPlan, bundle: Bundle, *, fill: Callable[[Object], None] | None = None) -> Object:
    """Make the Job, then what it owns. Calling again with the same bundle finds the same Job and completes it as it was
    begun, whatever store a plan of now would have.

    Args:
        fill: called with the Job before its pods can start, e.g. to put the bundle into a claim that is made with it.

    Returns:
        the Job, as the cluster keeps it.

    Raises:
        Refused: another job has this id.
        ApiError: the cluster said no. What `fill` raises. Nothing is left then of what this call knows to have made.
        Unsure: nobody answered; nothing was made, or the next call finds and completes it.
    """
    try:
        return _create(api, plan, bundle, fill)
    except Unreachable as error:
        raise _unsure(plan, error) from error
    except ApiError as error:
        if not in_doubt(error):
            raise
        raise _unsure(plan, error) from error


def begun(api: Api, plan: JobPlan) -> Object | None:
    """The Job, or TrainJob, that an earlier call with the same id has made; None: there is none.

    Raises:
        Refused: another job has this id.
        ApiError, Unreachable.
    """
    job = api.find(_kind(plan), plan.spec.id)
    return None if job is None else _same(job, plan)


def complete(
    api: Api, plan: JobPlan, bundle: Bundle, job: Object, *, fill: Callable[[Object], None] | None = None
) -> Object:
    """Make what an earlier call has not made for its Job, or TrainJob, with the store that this names. No Job is made,
    and none is removed: it may run.

    Returns:
        the Job.

    Raises:
        ApiError, Unreachable: something is missing still, or it is not known.
    """
    if not is_over(job):
        if plan.via_trainer:
            trainjob.adopt(api, job)
        plan = as_begun(plan, job)
        _make_rest(api, plan, secret_data(bundle, plan), job, fill)
    return job_of(api, plan, job)


def job_of(api: Api, plan: JobPlan, made: Object) -> Object:
    """The Job of what a submit has made: that itself, or the one that Trainer makes of a TrainJob."""
    return trainjob.job_of(api, plan, made) if plan.via_trainer else made


def as_begun(plan: JobPlan, job: Object) -> JobPlan:
    """The plan with what its Job says of the store and of the way there: the pods have been made for these."""
    where = kept(job)
    kind = "own" if where.own else "shared" if where.claim else "url" if where.url else "none"
    transport = cast("Literal['secret', 'store', 'upload']", annotation(job, names.TRANSPORT, plan.transport))
    return replace(plan, store=replace(plan.store, kind=kind, claim=where.claim, url=where.url), transport=transport)


def _create(api: Api, plan: JobPlan, bundle: Bundle, fill: Callable[[Object], None] | None) -> Object:
    data = secret_data(bundle, plan)
    try:
        job = trainjob.make(api, plan) if plan.via_trainer else _make(api, JOBS, indexed_job(plan))
    except ApiError:
        # A quota refuses before anybody looks whether there is one of that name, which may be what has used it up.
        made = begun(api, plan)
        if made is None:
            raise
        return complete(api, plan, bundle, made, fill=fill)
    if job is None:
        return complete(api, plan, bundle, _same(api.get(_kind(plan), plan.spec.id), plan), fill=fill)
    try:
        _make_rest(api, plan, data, job, fill)
    except Exception as error:
        unknown = isinstance(error, Unreachable) or (isinstance(error, ApiError) and in_doubt(error))
        if not unknown:
            api.delete(_kind(plan), plan.spec.id, uid=job["metadata"]["uid"])
        raise
    return job_of(api, plan, job)


def _make_rest(
    api: Api, plan: JobPlan, data: Mapping[str, bytes], job: Object, fill: Callable[[Object], None] | None
) -> None:
    """What a Job owns, the Secret last."""
    if plan.store.kind == "own" and _make(api, CLAIMS, own_claim(plan, job)) is None:
        # It was filled before, by a pod that will not stay.
        api.patch(CLAIMS, plan.store.claim, {"metadata": {"ownerReferences": marks.owned_by(job)}})
    if plan.spec.resources.nodes > 1 and not plan.via_trainer:
        _make(api, SERVICES, headless_service(plan, job))
    if fill is not None:
        fill(job)
    _make(api, SECRETS, bundle_secret(plan, data, job))


def objects(plan: JobPlan) -> list[Object]:
    """What a submit would make, for people and other tools: what the Secret holds is not shown."""
    if plan.via_trainer:
        made = [training_runtime(plan), train_job(plan), shown_secret(plan)]
    else:
        made = [indexed_job(plan), shown_secret(plan)]
    if plan.spec.resources.nodes > 1 and not plan.via_trainer:
        made.append(headless_service(plan))
    if plan.store.kind == "own":
        made.append(own_claim(plan))
    if plan.store.missing:
        made.append(shared_claim(plan.labels, size=plan.store.size, storage_class=plan.store.storage_class))
    for one in made:
        one["metadata"]["namespace"] = plan.namespace
    return made


def dry_run(api: Api, plan: JobPlan) -> list[Finding]:
    """What the cluster's admission says of the job, with nothing made.

    The pod is tried too: it is the Job controller that would hear of quotas and Pod Security, and a Job's own dry run
    only warns of them.

    Raises:
        Unreachable: nobody answered.
    """
    job = indexed_job(plan)
    template = job["spec"]["template"]
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": template["metadata"] | {"name": f"{plan.spec.id}-0-dry"},
        "spec": template["spec"],
    }
    first = (RUNTIMES, training_runtime(plan)) if plan.via_trainer else (JOBS, job)
    for kind, body in (first, (PODS, pod)):
        try:
            api.create(kind, body, dry_run=True)
        except ApiError as error:
            if isinstance(error, Unauthorized) or in_doubt(error):
                raise
            return [_finding(error, api.namespace)]
    return []


def _kind(plan: JobPlan) -> Kind:
    """Of the object that has the job's id and owns all others."""
    return TRAIN_JOBS if plan.via_trainer else JOBS


def _make(api: Api, kind: Kind, body: Object) -> Object | None:
    """Make it; None: it was made already. Where the answer is lost, whether it was is asked by making it again.

    Raises:
        ApiError: the cluster said no.
        Unreachable: whether it was made is not known. A no to the second try says nothing of the first, e.g. where a
            quota is used up by what that has made.
    """
    for last in (False, True):
        try:
            return api.create(kind, body)
        except Unreachable:
            if last:
                raise
        except AlreadyExists:
            return None
        except ApiError as error:
            if last:
                raise unanswered(error) from error
            if not in_doubt(error):
                raise


def _unsure(plan: JobPlan, error: KubeNbError) -> Unsure:
    """For a person who would else send it a second time."""
    id = plan.spec.id
    return Unsure(
        what=f"whether job {id} was made is not known",
        why=": ".join(part for part in (error.what, error.why) if part),
        next=f"do not send it again before you have looked, as it may run: once the cluster answers, %kube_jobs shows "
        f"{id} if it was made, and what is missing of it is completed; %kube_attach {id} brings its results",
    )


def _same(job: Object, plan: JobPlan) -> Object:
    """The Job, or TrainJob, of an earlier call with the same bundle."""
    if annotation(job, names.DIGEST) != plan.digest or job["metadata"].get("deletionTimestamp"):
        raise Refused(
            what=f"there is another job `{plan.spec.id}` on the cluster",
            why="it was sent with something else, or is being deleted",
            next="send it again: it gets a name of its own",
        )
    return job


def is_over(job: Object) -> bool:
    """Whether a Job, or TrainJob, has ended already: its Secret is gone for good."""
    return any(condition(job, kind) for kind in ("Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"))


def _finding(error: ApiError, namespace: str) -> Finding:
    """What admission said. Who may not make pods learns of their pods' admission from the Job alone."""
    reason = reason_of_refusal(error, namespace)
    if error.resource == PODS.plural and reason.code == "Forbidden":
        return Finding(level="unknown", reason=reason)
    if error.resource == PODS.plural and reason.code in _PASSES:
        waits = reason_of_denial(error.message, what="the job's pods cannot be made just now") or reason
        return Finding(level="warning", reason=replace(waits, next="it waits: the cluster tries again by itself"))
    return Finding(level="error", reason=reason)
