"""Pods that carry files to and from claims while no pod of a job can: one for each user and claim, made on demand.

A pod ends two minutes after its last use, and the Job that made it goes with it. The Job has a label that follows from
user, claim and runner, so that every process finds the same one, and a name that two who need one at once both choose,
so that the API server makes sure of "one".
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import EVENTS, JOBS, PODS, SECRETS, Api, ApiError, Kind, Object
from kube_nb.backends.kubernetes.exec import not_running
from kube_nb.backends.kubernetes.feed import Feed
from kube_nb.backends.kubernetes.manifests.transfer import runner_secret, transfer_job
from kube_nb.backends.kubernetes.payload import runner_zip
from kube_nb.backends.kubernetes.snapshot import condition, last_seen, queue_of, state
from kube_nb.backends.kubernetes.transfer import Container
from kube_nb.errors import Unreachable

PATIENCE = 180.0
"""Seconds until its pod runs; images are pulled and volumes made in that time."""
_AT_ONCE = 10.0
"""Seconds in which two processes that both need a pod make the same one."""
_SETTLE = 5.0
"""Seconds for which a claim that got no volume may still get one."""
_NO_VOLUME = ("ProvisioningFailed", "FailedBinding")
_T = TypeVar("_T")


class NoPod(Unreachable):
    """No pod could be had that mounts the claim, in time.

    Attributes:
        no_volume: the cluster said that the claim gets no volume; `why` quotes it.
    """

    def __init__(self, what: str, why: str = "", next: str = "", *, no_volume: bool = False) -> None:
        super().__init__(what, why, next)
        self.no_volume = no_volume


class TransferPods:
    """The transfer pods of one user in one namespace. Any thread may use it.

    Args:
        user: as the cluster knows who asks.
        runner: makes the runner object's directory, when it is needed.
    """

    def __init__(self, api: Api, user: str, runner: Callable[[], Path]) -> None:
        self._api = api
        self._user = user
        self._runner = runner
        self._lock = threading.Lock()

    def use(self, claim: str, job: Callable[[], Object], act: Callable[[Container], _T]) -> _T:
        """Do something in the pod that mounts `claim`; once more with another pod, should this one end meanwhile.

        Args:
            job: the manifest of the Job for which it is done; asked for only where a pod has to be made.

        Raises:
            NoPod: there is none, and none could be had.
            ApiError, Unreachable: as `act` does.
        """
        container = self.open(claim, job)
        try:
            return act(container)
        except ApiError as error:
            if not not_running(error):
                raise
        return act(self.open(claim, job, instead_of=container.pod))

    def open(
        self,
        claim: str,
        job: Callable[[], Object],
        *,
        instead_of: str = "",
        as_large: bool = False,
        patience: float = PATIENCE,
    ) -> Container:
        """A running pod that mounts `claim`, found or made.

        Args:
            instead_of: a pod that was seen not to run any more.
            as_large: see `transfer_job`.

        Raises:
            NoPod: there is none, and none could be had.
            ApiError: the cluster refuses to make one.
        """
        name = self.name(claim)
        with self._lock:
            made = self._ensure(name, claim, job, instead_of, as_large)
            uid = made["metadata"]["uid"]
            running = _running(self._api.list(PODS, labels=_labels(uid))[0], instead_of)
            if running is None:
                self._ensure_secret(made)
                running = _wait(self._api, uid, claim, instead_of, patience)
        return Container(self._api, running)

    def close(self, claim: str) -> None:
        """Let the claim go now."""
        for job in self._api.list(JOBS, labels=f"{names.TRANSFER}={self.name(claim)}")[0]:
            self._end(job)

    def name(self, claim: str) -> str:
        """How the pods for a claim are called."""
        digest = hashlib.sha256("\0".join((self._user, claim, self._runner().name)).encode()).hexdigest()
        return f"kube-nb-transfer-{digest[:10]}"

    def ensure(self, claim: str, job: Callable[[], Object], *, as_large: bool = False) -> Object:
        """The Job that makes the claim's pod, which may not run yet."""
        made = self._ensure(self.name(claim), claim, job, "", as_large)
        self._ensure_secret(made)
        return made

    # Inside ---------------------------------------------------------------------------------------------------------

    def _ensure(self, name: str, claim: str, job: Callable[[], Object], instead_of: str, as_large: bool) -> Object:
        """Make the Job, unless there is one that lives."""
        there = self._api.list(JOBS, labels=f"{names.TRANSFER}={name}")[0]
        for found in there:
            useless = instead_of.startswith(found["metadata"]["name"] + "-") or _waits_elsewhere(found, job)
            if useless and not _dying(found):
                self._end(found)
                found["metadata"]["deletionTimestamp"] = "now"
        living = [found for found in there if not _dying(found)]
        if living:
            oldest = min(living, key=lambda found: found["metadata"]["name"])
            return {"apiVersion": JOBS.version, "kind": "Job"} | oldest  # which what was listed does not say
        # Whoever sees the same now makes one of the same name, so that there is one. But the name of one that has just
        # gone must not come again: the Job controller still waits for that one's pods, for minutes.
        before = "".join(sorted(found["metadata"]["uid"] for found in there)) + str(time.time() // _AT_ONCE)
        own = f"{name}-{hashlib.sha256(before.encode()).hexdigest()[:5]}"
        secret = f"{own}-{secrets.token_hex(3)}"
        made = transfer_job(job(), name=own, family=name, claim=claim, secret=secret, as_large=as_large)
        try:
            return self._api.create(JOBS, made)
        except ApiError as error:
            if error.cause != "AlreadyExists":
                raise
            return self._api.get(JOBS, own)  # another process was quicker

    def _end(self, job: Object) -> None:
        """It stays to be seen until its pod is gone."""
        self._api.delete(JOBS, job["metadata"]["name"], propagation="Foreground", uid=job["metadata"]["uid"])

    def _ensure_secret(self, made: Object) -> None:
        """Whoever made the Job may have died before this."""
        volumes = made["spec"]["template"]["spec"]["volumes"]
        secret = next(volume["secret"]["secretName"] for volume in volumes if volume["name"] == "runner")
        try:
            self._api.create(SECRETS, runner_secret(secret, runner_zip(self._runner()), made))
        except ApiError as error:
            if error.cause != "AlreadyExists":
                raise


def _waits_elsewhere(found: Object, job: Callable[[], Object]) -> bool:
    """Whether a queue keeps it from beginning, and this job is in none. (Kueue may put all into one, `default`.)"""
    return bool(found["spec"].get("suspend") and queue_of(found) not in ("", "default") and not queue_of(job()))


class _Seen:
    """What two feeds tell: the pods of one Job, and what is said against one claim."""

    def __init__(self) -> None:
        self.turn = threading.Condition()
        self.pods: dict[str, Object] = {}
        self.events: dict[str, Object] = {}

    def listed(self, kind: Kind, things: list[Object], begun: float) -> None:
        with self.turn:
            self._of(kind).clear()
            self._of(kind).update({thing["metadata"]["name"]: thing for thing in things})
            self.turn.notify_all()

    def changed(self, kind: Kind, change: Object) -> None:
        thing = change["object"]
        with self.turn:
            if change["type"] == "DELETED":
                self._of(kind).pop(thing["metadata"]["name"], None)
            else:
                self._of(kind)[thing["metadata"]["name"]] = thing
            self.turn.notify_all()

    def turned(self) -> None:
        pass

    def _of(self, kind: Kind) -> dict[str, Object]:
        return self.pods if kind is PODS else self.events


def _wait(api: Api, uid: str, claim: str, instead_of: str, patience: float) -> str:
    """Wait until the Job's pod runs; the pod's name."""
    seen, began = _Seen(), time.time()
    feeds = [
        Feed(api, PODS, seen, labels=_labels(uid)),
        Feed(api, EVENTS, seen, fields=f"involvedObject.name={claim}", optional=True),
    ]
    for feed in feeds:
        feed.start()
    give_up = time.monotonic() + patience
    refused_at: float | None = None
    try:
        with seen.turn:
            while True:
                running = _running(seen.pods.values(), instead_of)
                if running is not None:
                    return running
                word = _no_volume(seen.events.values(), began)
                now = time.monotonic()
                if word and refused_at is None:
                    refused_at = now
                left = (give_up if refused_at is None else min(give_up, refused_at + _SETTLE)) - now
                if left <= 0:
                    raise _no_pod(claim, word, list(seen.pods.values()), patience)
                seen.turn.wait(left)
    finally:
        for feed in feeds:
            feed.close()


def _no_pod(claim: str, word: str, pods: list[Object], patience: float) -> NoPod:
    if word:
        return NoPod(what=f"the claim `{claim}` gets no volume", why=word, no_volume=True)
    return NoPod(
        what=f"the pod that carries files to and from `{claim}` does not run after {patience:.0f} s",
        why=next(filter(None, map(_why, pods)), "it was not made: the cluster's own events tell more"),
        next="try again; if it stays so, show this to who runs the cluster",
    )


def _why(pod: Object) -> str:
    """What the cluster says of a pod that does not run."""
    waiting = state(pod, "waiting") or {}
    said = waiting.get("message") or waiting.get("reason") or ""
    unplaced = condition(pod, "PodScheduled", "False") or {}
    return unplaced.get("message") or said or (pod.get("status") or {}).get("message", "")


def _no_volume(events: Iterable[Object], since: float) -> str:
    """What the cluster says of a claim that gets no volume; empty: nothing, since then."""
    found = [event for event in events if event.get("reason") in _NO_VOLUME and last_seen(event) >= since - 2]
    return max(found, key=last_seen)["message"] if found else ""


def _running(pods: Iterable[Object], instead_of: str) -> str | None:
    """A pod that can be spoken to."""
    for pod in pods:
        meta = pod["metadata"]
        if state(pod, "running") and not meta.get("deletionTimestamp") and meta["name"] != instead_of:
            return meta["name"]
    return None


def _dying(job: Object) -> bool:
    return bool(
        job["metadata"].get("deletionTimestamp")
        or any(condition(job, kind) for kind in ("Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"))
    )


def _labels(uid: str) -> str:
    """Of the pods of a Job: one that was removed may have a pod that still runs."""
    return f"batch.kubernetes.io/controller-uid={uid}"
