"""Pods that carry files to and from claims while no pod of a job can: one for each user and claim, made on demand.

A pod ends two minutes after its last use, and the Job that made it goes with it. The Job has a label that follows from
user, claim and runner, so that every process finds the same one, and a name that two who need one at once both choose,
so that the API server makes sure of "one". Whose pod runs serves everybody; one that does not run yet is waited for by
those alone whose own would be the same: it may wait for an image, a node or a queue that is not theirs.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import AlreadyExists, ApiError, Missing
from kube_nb.backends.kubernetes.exec import not_running
from kube_nb.backends.kubernetes.feed import Feed
from kube_nb.backends.kubernetes.kinds import CLAIMS, EVENTS, JOBS, PODS, SECRETS, Kind
from kube_nb.backends.kubernetes.manifests.transfer import runner_secret, template_digest, transfer_job
from kube_nb.backends.kubernetes.payload import runner_zip
from kube_nb.backends.kubernetes.snapshot import annotation, condition, created, last_seen, state
from kube_nb.backends.kubernetes.transfer import Container
from kube_nb.errors import Unreachable

PATIENCE = 180.0
"""Seconds until its pod runs; images are pulled and volumes made in that time."""
_AT_ONCE = 10.0
"""Seconds in which two processes that both need a pod make the same one."""
_SETTLE = 5.0
"""Seconds for which a claim that got no volume may still get one."""
_NO_VOLUME = ("ProvisioningFailed", "FailedBinding")
_BEGINS = ("ContainerCreating", "PodInitializing")
"""What a container waits for that nothing is wrong with."""
_CONTROLLER = "batch.kubernetes.io/controller-uid"
"""Label of a pod: the uid of its Job."""
_T = TypeVar("_T")


class NoPod(Unreachable):
    """No pod could be had that mounts the claim, in time.

    Attributes:
        no_volume: the cluster said that the claim gets no volume; `why` quotes it.
        failed: the pod has failed at something, e.g. at its image, rather than waited for a place.
    """

    def __init__(
        self, what: str, why: str = "", next: str = "", *, no_volume: bool = False, failed: bool = False
    ) -> None:
        super().__init__(what, why, next)
        self.no_volume = no_volume
        self.failed = failed


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
        self._turns: defaultdict[tuple[int, str, str], threading.Lock] = defaultdict(threading.Lock)
        """By process, claim and template: of all threads that need the same pod one makes it; others go their way."""

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
        running = self._running(name, self._jobs(name, instead_of))
        if running is None:
            like = job()
            with self._turns[os.getpid(), name, template_digest(like, as_large=as_large)]:
                jobs = self._jobs(name, instead_of)
                running = self._running(name, jobs) or self._begin(claim, jobs, like, as_large, patience)
        return Container(self._api, running)

    def close(self, claim: str) -> None:
        """Let the claim go now."""
        for job in self._api.list(JOBS, labels=f"{names.TRANSFER}={self.name(claim)}")[0]:
            self.end(job)

    def name(self, claim: str) -> str:
        """How the pods for a claim are called."""
        digest = hashlib.sha256("\0".join((self._user, claim, self._runner().name)).encode()).hexdigest()
        return f"kube-nb-transfer-{digest[:10]}"

    def ensure(self, claim: str, job: Callable[[], Object], *, as_large: bool = False) -> Object:
        """The Job that makes the claim's pod, which may not run yet."""
        return self._ensure(claim, self._jobs(self.name(claim)), job(), as_large)

    def unused(self, age: float) -> list[Object]:
        """The user's Jobs, for whatever claim, that are older than this (seconds) and have no pod that runs."""
        labels = names.selector(owner=names.owner_of(self._user), role="transfer")
        old = [job for job in self._api.list(JOBS, labels=labels)[0] if created(job) < time.time() - age]
        used = {_job_of(pod) for pod in self._api.list(PODS, labels=labels)[0] if _runs(pod)} if old else set[str]()
        return [job for job in old if job["metadata"]["uid"] not in used and not _dying(job)]

    def end(self, job: Object) -> None:
        """End a Job of theirs. It stays to be seen until its pod is gone."""
        self._api.delete(JOBS, job["metadata"]["name"], propagation="Foreground", uid=job["metadata"]["uid"])

    # Inside ---------------------------------------------------------------------------------------------------------

    def _jobs(self, name: str, instead_of: str = "") -> list[Object]:
        """The Jobs of one claim, those that end included: such is, from now on, the one whose pod does not run."""
        jobs = self._api.list(JOBS, labels=f"{names.TRANSFER}={name}")[0]
        for found in jobs:
            if instead_of.startswith(found["metadata"]["name"] + "-") and not _dying(found):
                self.end(found)
                found["metadata"]["deletionTimestamp"] = "now"
        return jobs

    def _running(self, name: str, jobs: list[Object]) -> str | None:
        """A pod that can be spoken to: a Job that was removed may have one that still runs, for a moment."""
        living = {job["metadata"]["uid"]: job for job in jobs if not _dying(job)}
        pods = self._api.list(PODS, labels=f"{names.TRANSFER}={name}")[0] if living else []
        for pod in pods:
            if _runs(pod) and _job_of(pod) in living:
                self._lift_limit(living[_job_of(pod)])
                return pod["metadata"]["name"]
        return None

    def _begin(self, claim: str, jobs: list[Object], like: Object, as_large: bool, patience: float) -> str:
        """Make a pod, or find one that begins, and wait until it runs."""
        made = self._ensure(claim, jobs, like, as_large)
        try:
            running = _wait(self._api, made["metadata"]["uid"], claim, patience)
        except NoPod as error:
            if error.failed:  # whereas one that waits for a place keeps its turn, until its limit
                self.end(made)
            raise
        self._lift_limit(made)
        return running

    def _ensure(self, claim: str, jobs: list[Object], like: Object, as_large: bool) -> Object:
        """Make the Job and its Secret, unless there is one that lives and makes the same pod."""
        made = self._alike(jobs, template_digest(like, as_large=as_large)) or self._make(claim, jobs, like, as_large)
        self._ensure_secret(made)
        return made

    @staticmethod
    def _alike(jobs: list[Object], template: str) -> Object | None:
        alike = [job for job in jobs if not _dying(job) and annotation(job, names.TEMPLATE) == template]
        if not alike:
            return None
        chosen = min(alike, key=lambda job: job["metadata"]["name"])
        return {"apiVersion": JOBS.version, "kind": "Job"} | chosen  # which what was listed does not say

    def _make(self, claim: str, jobs: list[Object], like: Object, as_large: bool) -> Object:
        # Whoever sees the same now makes one of the same name, so that there is one. But the name of one that has just
        # gone must not come again: the Job controller still waits for that one's pods, for minutes.
        name = self.name(claim)
        template = template_digest(like, as_large=as_large)
        seen = "".join(sorted(job["metadata"]["uid"] for job in jobs)) + template + str(time.time() // _AT_ONCE)
        own = f"{name}-{hashlib.sha256(seen.encode()).hexdigest()[:5]}"
        secret = f"{own}-{secrets.token_hex(3)}"
        made = transfer_job(like, name=own, family=name, claim=claim, secret=secret, as_large=as_large)
        try:
            return self._api.create(JOBS, made)
        except AlreadyExists:
            return self._api.get(JOBS, own)  # another process was quicker

    def _lift_limit(self, job: Object) -> None:
        """Its pod runs, and ends by itself: it must not be cut off while it is used."""
        if not job["spec"].get("activeDeadlineSeconds"):
            return
        with suppress(Missing):  # it has just gone: who speaks to its pod hears of that
            self._api.patch(JOBS, job["metadata"]["name"], {"spec": {"activeDeadlineSeconds": None}})

    def _ensure_secret(self, made: Object) -> None:
        """Whoever made the Job may have died before this."""
        volumes = made["spec"]["template"]["spec"]["volumes"]
        secret = next(volume["secret"]["secretName"] for volume in volumes if volume["name"] == "runner")
        with suppress(AlreadyExists):
            self._api.create(SECRETS, runner_secret(secret, runner_zip(self._runner()), made))


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


def _wait(api: Api, uid: str, claim: str, patience: float) -> str:
    """Wait until the Job's pod runs; the pod's name."""
    seen, began = _Seen(), time.time()
    feeds = [
        Feed(api, PODS, seen, labels=f"{_CONTROLLER}={uid}"),
        Feed(api, EVENTS, seen, fields=f"involvedObject.name={claim}", optional=True),
    ]
    for feed in feeds:
        feed.start()
    give_up = time.monotonic() + patience
    refused_at: float | None = None
    made: Object | None = None
    try:
        with seen.turn:
            while True:
                for pod in filter(_runs, seen.pods.values()):
                    return pod["metadata"]["name"]
                against = _no_volume(seen.events.values(), began)
                if against and made is None:
                    made = api.find(CLAIMS, claim)  # one of its name may have been there before, and have had no volume
                word = _said_of(made, against)
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
        return NoPod(what=f"the claim `{claim}` gets no volume", why=word, no_volume=True, failed=True)
    return NoPod(
        what=f"the pod that carries files to and from `{claim}` does not run after {patience:.0f} s",
        why=next(filter(None, map(_why, pods)), "it was not made: the cluster's own events tell more"),
        next="try again; if it stays so, show this to who runs the cluster",
        failed=any((state(pod, "waiting") or {}).get("reason", _BEGINS[0]) not in _BEGINS for pod in pods),
    )


def _why(pod: Object) -> str:
    """What the cluster says of a pod that does not run."""
    waiting = state(pod, "waiting") or {}
    said = waiting.get("message") or waiting.get("reason") or ""
    unplaced = condition(pod, "PodScheduled", "False") or {}
    return unplaced.get("message") or said or (pod.get("status") or {}).get("message", "")


def _no_volume(events: Iterable[Object], since: float) -> list[Object]:
    """What the cluster has said since then of claims of a name that get no volume, the latest at the end."""
    found = [event for event in events if event.get("reason") in _NO_VOLUME and last_seen(event) >= since - 2]
    return sorted(found, key=last_seen)


def _said_of(claim: Object | None, events: list[Object]) -> str:
    """The last word of them about this claim; empty: there is none."""
    uid = claim["metadata"]["uid"] if claim else ""
    return next((one["message"] for one in reversed(events) if one["involvedObject"].get("uid") == uid), "")


def _runs(pod: Object) -> bool:
    """Whether it can be spoken to."""
    return bool(state(pod, "running") and not pod["metadata"].get("deletionTimestamp"))


def _job_of(pod: Object) -> str:
    return pod["metadata"]["labels"].get(_CONTROLLER, "")


def _dying(job: Object) -> bool:
    return bool(
        job["metadata"].get("deletionTimestamp")
        or any(condition(job, kind) for kind in ("Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"))
    )
