"""From a plan and a bundle to the objects of one job: made once, whole or not at all.

The Job comes first and owns all others, so nothing is left when it goes. The Secret comes last: the kubelet waits for
it, so no pod starts before all it needs is there. A submit that was cut off between the two leaves a Job that waits,
which the same call completes and `clean` removes.
"""

from __future__ import annotations

from collections.abc import Callable

from kube_nb.backends.base import Bundle, Finding
from kube_nb.backends.kubernetes import names, trainjob
from kube_nb.backends.kubernetes.api import CLAIMS, JOBS, PODS, SECRETS, SERVICES, Api, ApiError, Kind, Object
from kube_nb.backends.kubernetes.manifests import marks
from kube_nb.backends.kubernetes.manifests.claim import own_claim
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.manifests.secret import bundle_secret, shown_secret
from kube_nb.backends.kubernetes.manifests.service import headless_service
from kube_nb.backends.kubernetes.manifests.trainjob import RUNTIMES, TRAIN_JOBS, train_job, training_runtime
from kube_nb.backends.kubernetes.payload import secret_data
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.reasons.refusals import reason_of_refusal
from kube_nb.backends.kubernetes.snapshot import annotation, condition
from kube_nb.errors import Refused, Unreachable


def create(api: Api, plan: JobPlan, bundle: Bundle, *, fill: Callable[[Object], None] | None = None) -> Object:
    """Make the Job, then what it owns. Calling again with the same plan finds the same Job and completes it.

    Args:
        fill: called with the Job before its pods can start, e.g. to put the bundle into a claim that is made with it.

    Returns:
        the Job, as the cluster keeps it.

    Raises:
        Refused: another job has this id.
        ApiError: the cluster said no. What `fill` raises. Nothing is left then.
        Unreachable: nobody answered; nothing was made, or the next call finds and completes it.
    """
    data = secret_data(bundle, plan)
    via = plan.spec.placement.via == trainjob.KIND
    kind = TRAIN_JOBS if via else JOBS
    job = (trainjob.make(api, plan) if via else _make(api, JOBS, indexed_job(plan))) or _found(api, kind, plan)
    if _over(job):
        return trainjob.job_of(api, plan, job) if via else job
    try:
        if plan.store.kind == "own" and _make(api, CLAIMS, own_claim(plan, job)) is None:
            # It was filled before, by a pod that will not stay.
            api.patch(CLAIMS, plan.store.claim, {"metadata": {"ownerReferences": marks.owned_by(job)}})
        if plan.spec.resources.nodes > 1 and not via:
            _make(api, SERVICES, headless_service(plan, job))
        if fill is not None:
            fill(job)
        _make(api, SECRETS, bundle_secret(plan, data, job))
    except Unreachable:
        raise
    except Exception:
        api.delete(kind, plan.spec.id, uid=job["metadata"]["uid"])
        raise
    return trainjob.job_of(api, plan, job) if via else job


def objects(plan: JobPlan) -> list[Object]:
    """What `create` would make, for people and other tools: what the Secret holds is not shown."""
    if plan.spec.placement.via == trainjob.KIND:
        made = [training_runtime(plan), train_job(plan), shown_secret(plan)]
    else:
        made = [indexed_job(plan), shown_secret(plan)]
    if plan.spec.resources.nodes > 1 and plan.spec.placement.via != trainjob.KIND:
        made.append(headless_service(plan))
    if plan.store.kind == "own":
        made.append(own_claim(plan))
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
    via = plan.spec.placement.via == trainjob.KIND
    first = (RUNTIMES, training_runtime(plan)) if via else (JOBS, job)
    for kind, body in (first, (PODS, pod)):
        try:
            api.create(kind, body, dry_run=True)
        except ApiError as error:
            if error.status == 401:
                raise
            return [_finding(error, api.namespace)]
    return []


def _make(api: Api, kind: Kind, body: Object) -> Object | None:
    """Make it; None: it was made already. Where the answer is lost, whether it was is asked by making it again."""
    for last in (False, True):
        try:
            return api.create(kind, body)
        except Unreachable:
            if last:
                raise
        except ApiError as error:
            if error.cause != "AlreadyExists":
                raise
            return None


def _found(api: Api, kind: Kind, plan: JobPlan) -> Object:
    """The Job, or TrainJob, of an earlier call."""
    job = api.get(kind, plan.spec.id)
    if annotation(job, names.DIGEST) != plan.digest or job["metadata"].get("deletionTimestamp"):
        raise Refused(
            what=f"there is another job `{plan.spec.id}` on the cluster",
            why="it was sent with something else, or is being deleted",
            next="send it again: it gets a name of its own",
        )
    return job


def _over(job: Object) -> bool:
    """Ended already: the Secret is gone for good."""
    return any(condition(job, kind) for kind in ("Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"))


def _finding(error: ApiError, namespace: str) -> Finding:
    """What admission said. Who may not make pods learns of their pods' admission from the Job alone."""
    reason = reason_of_refusal(error, namespace)
    not_known = reason.code == "Forbidden" and error.resource == PODS.plural
    return Finding(level="unknown" if not_known else "error", reason=reason)
