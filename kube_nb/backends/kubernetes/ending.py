"""How a job is asked to end, and how all of it goes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from kube_nb.backends.kubernetes import names, trainjob
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.kept import kept
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS, PODS, SECRETS, SERVICES, Kind
from kube_nb.backends.kubernetes.manifests.trainjob import RUNTIMES, TRAIN_JOBS
from kube_nb.backends.kubernetes.reasons.ends import why_leaving
from kube_nb.backends.kubernetes.snapshot import Snapshot, over, state
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.backends.kubernetes.transfer import Container
from kube_nb.backends.kubernetes.watch import Watch
from kube_nb.errors import KubeNbError, Unreachable

_OVER: Object = {"spec": {"activeDeadlineSeconds": 1}}
"""Makes the cluster end a Job: its pods go, it stays and can be looked at."""
_OVER_IN_QUEUE: Object = {"spec": {"activeDeadlineSeconds": 1, "parallelism": 0}}
"""The same for one that is suspended, for which no deadline counts: a queue lets a Job without pods pass at once."""
_AT_ONCE = 16
_PATIENCE = 60.0
"""Seconds beyond a pod's own grace that its removal may take."""


def cancel(api: Api, snapshot: Snapshot, *, force_lost: bool = False) -> None:
    """Ask the runners to end their ranks; what never started goes at once. A job that has ended is left as it is.

    Args:
        force_lost: remove pods on nodes that are not heard of, those of a job that has ended, too; their containers run
            on where a node is cut off alone.

    Raises:
        ApiError, Unreachable.
    """
    lost = _lost(snapshot) if force_lost else []
    if not status_of(snapshot).phase.final:  # the runner's last word comes seconds before the cluster's
        _ask_to_end(api, snapshot, lost)
    for pod in lost:
        api.delete(PODS, pod["metadata"]["name"], grace=0, uid=pod["metadata"]["uid"])


def _ask_to_end(api: Api, snapshot: Snapshot, lost: list[Object]) -> None:
    running = [pod for pod in snapshot.latest if state(pod, "running") and pod not in lost]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    asked: Object = {"metadata": {"annotations": {names.CANCELLED: now} | ({names.LOST: now} if lost else {})}}
    if not running:
        asked |= _OVER_IN_QUEUE if snapshot.job["spec"].get("suspend") else _OVER
    name = snapshot.job["metadata"]["name"]  # Kubeflow Trainer calls it otherwise than the job's id
    api.patch(JOBS, name, asked)
    if running:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            heard = list(pool.map(lambda pod: _signal(api, pod), running))
        if not any(heard):
            api.patch(JOBS, name, _OVER)


def _lost(snapshot: Snapshot) -> list[Object]:
    reasons = ((pod, why_leaving(snapshot, pod)) for pod in snapshot.pods if not over(pod))
    return [pod for pod, reason in reasons if reason is not None and reason.code == "NodeLost"]


def _signal(api: Api, pod: Object) -> bool:
    """Interrupt the runner, which an image's own tools may be unable to; False: it could not be told and still runs."""
    name = pod["metadata"]["name"]
    try:
        with Container(api, name).tool("signal", "INT") as program:
            program.output()
    except (ApiError, Unreachable):
        now = api.find(PODS, name)
        return now is not None and over(now) and bool(now["status"]["phase"] == "Succeeded")
    return True


def delete(api: Api, watch: Watch, snapshot: Snapshot) -> None:
    """Remove a job and all it owns; runners end their ranks as at a cancel. Waits until nothing is left.

    Raises:
        KubeNbError: a pod does not go, for its node does not answer.
        ApiError, Unreachable.
    """
    id, meta = snapshot.id, snapshot.job["metadata"]
    # In the foreground: the Job goes when its pods are gone.
    via = trainjob.made(snapshot.job)
    if via:
        api.delete(TRAIN_JOBS, id, propagation="Foreground")
    else:
        api.delete(JOBS, meta["name"], propagation="Foreground", uid=meta.get("uid", ""))
    api.delete(SECRETS, id)
    if snapshot.nodes > 1:  # else there is none, and nobody needs the right to remove one
        api.delete(SERVICES, id)
    gone = watch.wait(id, lambda now: True if now is None or now.deleted else None, _grace(snapshot) + _PATIENCE)
    if gone is None:
        raise _stuck(watch.snapshot(id) or snapshot)
    if via:
        wait_until_gone(api, TRAIN_JOBS, id)
        api.delete(RUNTIMES, id)  # not before: Trainer lets nobody change a TrainJob whose runtime is gone
        wait_until_gone(api, RUNTIMES, id)
    claim = _own_claim(snapshot)
    if claim:
        _remove_claim(api, claim)


def tidy(api: Api, snapshot: Snapshot) -> bool:
    """Remove the Secret of a job that has ended: etcd is no place to keep a bundle. True: there was one."""
    return snapshot.ended and api.delete(SECRETS, snapshot.id)


def _own_claim(snapshot: Snapshot) -> str:
    store = kept(snapshot.job)
    return store.claim if store.own else ""


def _remove_claim(api: Api, name: str) -> None:
    """The pods are gone, so it goes as soon as the cluster has seen that."""
    api.delete(CLAIMS, name)
    wait_until_gone(api, CLAIMS, name)


def wait_until_gone(api: Api, kind: Kind, name: str) -> None:
    """Wait for the end of a removal that was asked for.

    Raises:
        KubeNbError: it is still there after a minute.
    """
    found = api.find(kind, name)
    if found is None:
        return
    version = found["metadata"]["resourceVersion"]
    with api.watching(kind, version=version, fields=f"metadata.name={name}", seconds=int(_PATIENCE)) as changes:
        for change in changes:
            if change["type"] == "DELETED":
                return
    raise KubeNbError(
        what=f"{name} is still there, of {kind.plural}", why="something uses it, or what looks after it does not answer"
    )


def _grace(snapshot: Snapshot) -> float:
    given = [pod["spec"].get("terminationGracePeriodSeconds") or 30 for pod in snapshot.pods]
    return float(max(given, default=0))


def _stuck(snapshot: Snapshot) -> KubeNbError:
    left = [f"{pod['metadata']['name']} on {pod['spec'].get('nodeName', 'no node')}" for pod in snapshot.pods]
    return KubeNbError(
        what=f"job {snapshot.id} is not yet gone",
        why="still there: " + (", ".join(left) or "the Job itself"),
        next="a node that does not answer keeps its pods: they go when it is back, or with %kube_cancel --force-lost",
    )
