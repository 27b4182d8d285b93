"""What stands against a job on this cluster, as far as it can be known before anything is made.

Few requests, most of them remembered: a submit has a dozen. What the user may not read is `unknown` and names the right
that is missing; the scheduler and admission have the last word.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator

from kube_nb.backends.base import Finding, Reason
from kube_nb.backends.kubernetes import addons, fit, network, quota
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import Forbidden
from kube_nb.backends.kubernetes.image import python_of, well_formed
from kube_nb.backends.kubernetes.kinds import CLAIMS, SECRETS, Kind
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.names import CONTAINER
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.rights import RIGHTS, Right, rights
from kube_nb.backends.kubernetes.snapshot import QUEUE_LABEL

_SHUT = "a cluster shows nobody what is in an image before it runs"
_MOST = 12
"""Objects of one kind that are looked at by name; a job that names more is not held up for them."""


def check(api: Api, plan: JobPlan) -> list[Finding]:
    """The findings, errors first.

    Raises:
        Unreachable: nobody answers.
        ApiError: the credentials are not valid.
    """
    job = indexed_job(plan)
    pod = job["spec"]["template"]["spec"]
    found = [
        *_rights(api, plan),
        *_image(pod),
        *_packages(plan, pod),
        *_secrets(api, plan, pod),
        *_claims(api, plan, pod),
        *_queue(api, plan, job),
        *_via(api, plan),
        *network.findings(api, plan, job["spec"]["template"]["metadata"]["labels"]),
        *room(api, plan),
    ]
    order = {"error": 0, "warning": 1, "ignored": 2, "unknown": 3}
    return sorted(found, key=lambda finding: order[finding.level])


def room(api: Api, plan: JobPlan) -> list[Finding]:
    """The part that depends on how much is asked for: quotas and nodes. Raises as `check` does."""
    pod = indexed_job(plan)["spec"]["template"]["spec"]
    return [*quota.findings(api, plan, pod), *fit.findings(api, plan, pod)]


def _rights(api: Api, plan: JobPlan) -> Iterator[Finding]:
    wanted = [right for right in RIGHTS if right.needed and _used(right, plan)]
    missing = rights(api).missing(wanted)
    if missing:
        yield _error(
            "Forbidden",
            f"you may not run jobs in namespace {api.namespace}",
            f"missing: {'; '.join(right.shown for right in missing)}",
            "ask for the Role that `kube-nb doctor --rbac` prints, or name a namespace of yours with --namespace",
        )


def _used(right: Right, plan: JobPlan) -> bool:
    return right.resource != "services" or plan.spec.resources.nodes > 1


def _image(pod: Object) -> Iterator[Finding]:
    image = _image_of(pod)
    if not well_formed(image):
        yield _error(
            "BadImageName",
            f"`{image}` is not the name of an image",
            "a name is [registry/]path[:tag][@digest], the path in small letters",
            "check --image, or the settings `image` and `image_map`",
        )
        return
    here, there = tuple(map(int, platform.python_version_tuple()[:2])), python_of(image)
    if there is None:
        yield _unknown(
            f"whether the image {image} has Python {here[0]}.{here[1]}, as this kernel,",
            f"its name does not tell, and {_SHUT}",
        )
    elif there != here:
        kernel, job = (".".join(map(str, version)) for version in (here, there))
        yield _error(
            "PythonMismatch",
            f"the image {image} has Python {job}, this kernel has {kernel}",
            "functions travel as byte code, which differs from one to the other",
            f"use an image with Python {kernel}, or a kernel with {job}",
        )


def _packages(plan: JobPlan, pod: Object) -> Iterator[Finding]:
    if plan.spec.environment.install == "never":
        what = f"whether the image {_image_of(pod)} has the packages that the code imports"
        yield _unknown(what, f"none are installed, by the setting `install`, and {_SHUT}")


def _image_of(pod: Object) -> str:
    return next(one["image"] for one in pod["containers"] if one["name"] == CONTAINER)


def _secrets(api: Api, plan: JobPlan, pod: Object) -> Iterator[Finding]:
    for use in list(dict.fromkeys(use.name for use in plan.spec.placement.secrets))[:_MOST]:
        yield from _there(
            api, SECRETS, use, "Secret", "check --secret, or make it: kubectl create secret generic " + use
        )
    for name in [one.get("name", "") for one in pod.get("imagePullSecrets") or ()][:_MOST]:
        yield from _there(api, SECRETS, name, "image pull secret", "check the setting `pull_secret`")


def _claims(api: Api, plan: JobPlan, pod: Object) -> Iterator[Finding]:
    ours = {plan.store.claim, ""}
    volumes = [(one.get("persistentVolumeClaim") or {}).get("claimName", "") for one in pod.get("volumes") or ()]
    for name in [one for one in dict.fromkeys(volumes) if one not in ours][:_MOST]:
        found: list[Object] = []
        yield from _there(api, CLAIMS, name, "claim", "check --volume; kubectl get pvc lists them", found)
        for claim in found:
            yield from _claim(plan, name, claim)


def _claim(plan: JobPlan, name: str, claim: Object) -> Iterator[Finding]:
    modes = set((claim.get("spec") or {}).get("accessModes") or ())
    if (claim.get("status") or {}).get("phase") == "Lost":
        yield _error("ClaimLost", f"the claim `{name}` has lost its volume", "", "make it anew, or use another one")
    if claim["metadata"].get("deletionTimestamp"):
        yield _error("ClaimLost", f"the claim `{name}` is being deleted", "", "use another one")
    if plan.spec.resources.nodes > 1 and modes and not modes & {"ReadWriteMany", "ReadOnlyMany"}:
        alone = modes == {"ReadWriteOncePod"}
        what = f"the claim `{name}` can be mounted by {'one pod' if alone else 'the pods of one node'} at a time"
        why = f"it is {', '.join(sorted(modes))}, and the job has {plan.spec.resources.nodes} nodes"
        next = "use a ReadWriteMany claim, or --nodes 1"
        make = _error if alone else _warning
        yield make("OneNodeVolume", what, why if alone else f"{why}: on different machines one waits for ever", next)


def _there(
    api: Api, kind: Kind, name: str, called: str, next: str, found: list[Object] | None = None
) -> Iterator[Finding]:
    try:
        known = api.find(kind, name)
    except Forbidden:
        yield _unknown(f"whether the {called} `{name}` exists", f"you may not `get {kind.plural}`")
        return
    if known is None:
        code = {SECRETS.plural: "SecretMissing", CLAIMS.plural: "ClaimMissing"}[kind.plural]
        yield _error(code, f"there is no {called} `{name}` in namespace {api.namespace}", "", next)
    elif found is not None:
        found.append(known)


def _queue(api: Api, plan: JobPlan, job: Object) -> Iterator[Finding]:
    name = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL)
    if not name:
        return
    queues = addons.kind(api, "kueue.x-k8s.io", "localqueues")
    if queues is None:
        yield _error(
            "QueueMissing",
            f"there is no queue `{name}`",
            "this cluster has no Kueue, so nobody would admit the job by it",
            "leave --queue (or the setting `queue`) away",
        )
        return
    try:
        queue = api.find(queues, name)
        others = [] if queue else [one["metadata"]["name"] for one in api.list(queues)[0]]
    except Forbidden:
        why = "you may not `get, list localqueues.kueue.x-k8s.io`"
        yield _unknown(f"whether the queue `{name}` exists", why)
        return
    if queue is None:
        there = f"there are: {', '.join(others)}" if others else "it has none: ask who runs Kueue for a LocalQueue"
        yield _error("QueueMissing", f"there is no queue `{name}` in namespace {api.namespace}", there, "check --queue")
    elif (queue.get("spec") or {}).get("stopPolicy", "None") != "None":
        yield _warning(
            "QueueStopped",
            f"the queue `{name}` is stopped",
            "it admits nothing until somebody starts it again",
            "wait, or use another queue",
        )


def _via(api: Api, plan: JobPlan) -> Iterator[Finding]:
    via = plan.spec.placement.via
    if via == "trainjob" and addons.kind(api, "trainer.kubeflow.org", "trainjobs") is None:
        yield _error(
            "AddOnMissing",
            "--via trainjob needs Kubeflow Trainer",
            "this cluster does not offer trainjobs.trainer.kubeflow.org",
            "leave --via away: a plain Job runs the same code",
        )


def _error(code: str, what: str, why: str = "", next: str = "") -> Finding:
    return Finding(level="error", reason=Reason(code=code, what=what, why=why, next=next))


def _warning(code: str, what: str, why: str = "", next: str = "") -> Finding:
    return Finding(level="warning", reason=Reason(code=code, what=what, why=why, next=next))


def _unknown(what: str, why: str) -> Finding:
    return Finding(level="unknown", reason=Reason(code="NotReadable", what=f"{what} is not known", why=why))
