"""What the API server has told, kept by kind and found by job. Belongs to one lock; nobody is asked here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.kinds import EVENTS, JOBS, PODS, Kind
from kube_nb.backends.kubernetes.names import JOB
from kube_nb.backends.kubernetes.snapshot import (
    Snapshot,
    about,
    claims_of,
    created,
    job_id,
    job_of_pod_name,
    job_of_workload_name,
    last_seen,
    over,
    slim,
)

_MOST_EVENTS = 5000
"""Of a namespace where everything fails, the youngest are enough."""


@dataclass
class _Kept:
    """Objects of one kind by name. What is older than what is known already is left out."""

    objects: dict[str, Object] = field(default_factory=dict[str, Object])
    since: dict[str, float] = field(default_factory=dict[str, float])
    gone: dict[str, str] = field(default_factory=dict[str, str])
    """Name and uid of what was deleted lately: it does not come back by an answer that took longer."""

    def put(self, thing: Object) -> bool:
        name, uid = thing["metadata"]["name"], thing["metadata"].get("uid", "")
        known = self.objects.get(name)
        if self.gone.get(name) == uid or (known is not None and _older(thing, known)):
            return False
        self.objects[name] = slim(thing)
        self.since.setdefault(name, time.monotonic())
        return True

    def drop(self, name: str, uid: str = "") -> Object | None:
        known = self.objects.get(name)
        if known is None or (uid and known["metadata"].get("uid") != uid):
            return None
        self.gone[name] = known["metadata"].get("uid", "")
        if len(self.gone) > 1000:
            del self.gone[next(iter(self.gone))]
        self.since.pop(name, None)
        return self.objects.pop(name)

    def missing(self, names: Iterable[str], begun: float) -> list[str]:
        """What was known before a list was `begun` and is not in it."""
        listed = set(names)
        return [name for name in self.objects if name not in listed and self.since.get(name, 0.0) < begun]


class Mirror:
    """The objects of all jobs, and which job each belongs to."""

    def __init__(self) -> None:
        self._jobs, self._pods, self._events, self._workloads = _Kept(), _Kept(), _Kept(), _Kept()
        self._name_of: dict[str, str] = {}
        """The Job's own name by the job's id: another kind of object may have made and named it."""
        self._job_of: dict[str, str] = {}
        """The id by the name of each pod of a job, gone ones too."""
        self._pods_of: dict[str, dict[str, None]] = {}
        self._workloads_of: dict[str, dict[str, None]] = {}
        self._events_of: dict[tuple[str, str], dict[str, None]] = {}
        """Names of events by ("Job", id) or ("PersistentVolumeClaim", name)."""
        self._deleted: dict[str, Snapshot] = {}

    # Changes; each answers with the ids of the jobs that it touches ---------------------------------------------------

    def put(self, kind: Kind, thing: Object) -> set[str]:
        if not self._kept(kind).put(thing):
            return set()
        name = thing["metadata"]["name"]
        if kind is JOBS:
            id = job_id(thing)
            self._deleted.pop(id, None)
            self._name_of[id] = name
            return {id}
        if kind is PODS:
            return self._put_pod(name, thing)
        if kind is EVENTS:
            return self._put_event(name, thing)
        return self._put_workload(name, thing)

    def drop(self, kind: Kind, name: str, uid: str = "") -> set[str]:
        if kind is JOBS:
            return self._drop_job(name, uid)
        thing = self._kept(kind).drop(name, uid)
        if thing is None:
            return set()
        if kind is EVENTS:
            for key in self._keys(*about(thing)):
                self._events_of.get(key, {}).pop(name, None)
            return set()  # that a warning grew old changes nothing
        return {self._job_of.get(name, "")} if kind is PODS else _owners(thing)

    def replace(self, kind: Kind, things: list[Object], begun: float) -> set[str]:
        """Take a whole list, asked for at `begun` (monotonic): what is not in it is gone."""
        touched: set[str] = set()
        for name in self._kept(kind).missing((thing["metadata"]["name"] for thing in things), begun):
            touched |= self.drop(kind, name)
        for thing in things:
            touched |= self.put(kind, thing)
        return touched

    # What is known ----------------------------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        return [job_id(job) for job in self._jobs.objects.values()]

    def snapshot(self, id: str) -> Snapshot | None:
        job = self._jobs.objects.get(self._name_of.get(id, id))
        if job is None:
            return None
        pods = [self._pods.objects[name] for name in self._pods_of.get(id, ()) if name in self._pods.objects]
        keys = [("Job", id), *(("PersistentVolumeClaim", claim) for pod in pods for claim in claims_of(pod))]
        events = {name: self._events.objects[name] for key in keys for name in self._events_of.get(key, ())}
        workloads = [self._workloads.objects.get(name) for name in self._workloads_of.get(id, ())]
        return Snapshot(
            job,
            tuple(sorted(pods, key=created)),
            tuple(sorted(events.values(), key=last_seen)),
            tuple(workload for workload in workloads if workload is not None),
        )

    def take_deleted(self, id: str) -> Snapshot | None:
        """How a job that is gone was last seen; told once."""
        return self._deleted.pop(id, None)

    def unsettled(self, id: str) -> bool:
        """The Job is over, but a pod of it is not: its last word has not arrived."""
        snapshot = self.snapshot(id)
        return snapshot is not None and snapshot.ended and not all(map(over, snapshot.pods))

    # Inside -----------------------------------------------------------------------------------------------------------

    def _kept(self, kind: Kind) -> _Kept:
        return {JOBS: self._jobs, PODS: self._pods, EVENTS: self._events}.get(kind, self._workloads)

    def _put_pod(self, name: str, pod: Object) -> set[str]:
        id = (pod["metadata"].get("labels") or {}).get(JOB, "")
        self._job_of[name] = id
        self._pods_of.setdefault(id, {})[name] = None
        return {id}

    def _put_workload(self, name: str, workload: Object) -> set[str]:
        for id in _owners(workload):
            self._workloads_of.setdefault(id, {})[name] = None
        return _owners(workload)

    def _put_event(self, name: str, event: Object) -> set[str]:
        keys = list(self._keys(*about(event)))
        if not keys:
            self._events.drop(name)
            return set()
        for key in keys:
            self._events_of.setdefault(key, {})[name] = None
        if len(self._events.objects) > _MOST_EVENTS:
            self.drop(EVENTS, next(iter(self._events.objects)))
        claims = {subject for kind, subject in keys if kind != "Job"}
        return {id for kind, id in keys if kind == "Job"} | (self._mounting(claims) if claims else set())

    def _keys(self, kind: str, subject: str) -> Iterator[tuple[str, str]]:
        """Under what an event about something is kept; nothing: it cannot be of a job."""
        if kind == "PersistentVolumeClaim":
            yield kind, subject
            return
        job = ""
        if kind == "Job":
            job = subject
        elif kind == "Pod":
            job = self._job_of.get(subject) or job_of_pod_name(subject)
        elif kind == "Workload":
            job = job_of_workload_name(subject)
        if job:
            yield "Job", self._id_of(job)

    def _mounting(self, claims: set[str]) -> set[str]:
        """The jobs of which a pod that is not over mounts one of these claims."""
        pods = (pod for pod in self._pods.objects.values() if not over(pod))
        return {self._job_of.get(pod["metadata"]["name"], "") for pod in pods if claims.intersection(claims_of(pod))}

    def _drop_job(self, name: str, uid: str) -> set[str]:
        id = self._id_of(name)
        last = self.snapshot(id)
        if self._jobs.drop(name, uid) is None or last is None:
            return set()
        if not last.ended:
            self._deleted[id] = replace(last, deleted=True)
        self._name_of.pop(id, None)
        for pod in self._pods_of.pop(id, {}):
            self._job_of.pop(pod, None)
            self._pods.drop(pod)
        self._workloads_of.pop(id, None)
        for event in self._events_of.pop(("Job", id), {}):
            self._events.drop(event)
        return {id}

    def _id_of(self, name: str) -> str:
        job = self._jobs.objects.get(name)
        return job_id(job) if job else name


def _owners(workload: Object) -> set[str]:
    """The jobs that a workload stands for."""
    owners = workload["metadata"].get("ownerReferences") or []
    return {owner["name"] for owner in owners if owner.get("kind") in ("Job", "TrainJob")}


def _older(thing: Object, known: Object) -> bool:
    """Whether an answer was overtaken by a younger one. Versions are numbers on every API server there is."""
    new, old = (one["metadata"].get("resourceVersion", "") for one in (thing, known))
    return new.isdecimal() and old.isdecimal() and int(new) < int(old)
