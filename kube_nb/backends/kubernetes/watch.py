"""All jobs of a namespace, seen through one list and one watch of each kind, whoever and however many want to know."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import Forbidden, Missing
from kube_nb.backends.kubernetes.kinds import EVENTS, JOBS, PODS, Kind
from kube_nb.backends.kubernetes.mirror import Mirror
from kube_nb.backends.kubernetes.session import OF_JOBS, WARNINGS, Session, kueue_workloads
from kube_nb.backends.kubernetes.snapshot import Snapshot, job_id, queue_of
from kube_nb.backends.subscribed import Subscribed, renew_in_forks
from kube_nb.errors import KubeNbError

T = TypeVar("T")
_IDLE = 60.0
"""Seconds after the last use after which nothing is watched any more."""
_NAMED = 50
"""Jobs that are asked for by name; a selector is part of an address, which may not be long."""
_log = logging.getLogger(__name__)

__all__ = ["Snapshot", "Watch", "read"]


@dataclass
class _Waiter:
    """One who waits for a change of one job."""

    id: str
    changed: threading.Event = field(default_factory=threading.Event)


class Watch:
    """What the cluster tells of all jobs that fit, kept up to date while anybody wants to know. Any thread may use it.

    Args:
        api: of the namespace.
        labels: selector of Jobs and pods.
        idle: seconds after the last use after which the connections are closed; the next use opens them again.
    """

    def __init__(self, api: Api, labels: str, *, idle: float = _IDLE) -> None:
        self._api = api
        self._labels = labels
        self._idle = idle
        self.begin_anew()
        renew_in_forks(self)

    def begin_anew(self) -> None:
        """With no session and nobody who listens; a fork has no threads, and may find the lock held for ever."""
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._subscribed: tuple[Subscribed[Snapshot], ...] = ()
        self._waiters: tuple[_Waiter, ...] = ()
        self._used = 0.0

    # What is known ----------------------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether `snapshots` answers without asking the cluster, and tells what is so now."""
        with self._lock:
            return self._session is not None and self._session.ready and self._session.trouble is None

    @property
    def trouble(self) -> KubeNbError | None:
        """Why nothing is heard of the cluster just now; it is tried again all the time."""
        with self._lock:
            return self._session.trouble if self._session else None

    def snapshot(self, id: str) -> Snapshot | None:
        """One job as it stands; None: there is none.

        Raises:
            ApiError, Unreachable: nothing could be read so far.
        """
        return self._opened().snapshot(id)

    def snapshots(self) -> list[Snapshot]:
        """All jobs as they stand.

        Raises:
            ApiError, Unreachable: nothing could be read so far.
        """
        return self._opened().snapshots()

    def remember(self, job: Object) -> None:
        """Know of a Job that was made just now, before the cluster tells of it."""
        with self._lock:
            session = self._ensure()
        session.changed(JOBS, {"type": "ADDED", "object": job})

    # Changes ----------------------------------------------------------------------------------------------------------

    def subscribe(self, callback: Callable[[Snapshot], None]) -> Subscribed[Snapshot]:
        """Call back with every job now and at each change, from one thread of the watch's own.

        A job that is deleted before it has ended is told of once more, with `deleted`; then it is no more heard of.
        While the cluster does not answer, or refuses, each job says so with `outage`.
        """
        subscribed = Subscribed(callback, self.drop)
        with self._lock:
            session = self._ensure()
            self._subscribed = (*self._subscribed, subscribed)
        session.greet(subscribed)
        return subscribed

    def drop(self, subscribed: Subscribed[Snapshot]) -> None:
        with self._lock:
            self._subscribed = tuple(one for one in self._subscribed if one is not subscribed)
            self._used = time.monotonic()

    def wait(self, id: str, until: Callable[[Snapshot | None], T | None], timeout: float | None = None) -> T | None:
        """Look at a job now and at each change until there is an answer other than None.

        A connection that breaks meanwhile is waited for.

        Returns:
            the answer; None: there was none within `timeout` seconds.

        Raises:
            ApiError, Unreachable: nothing could be read at all.
            ApiError: status 401 or 403: the cluster has refused to tell more for a while.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        waiter = _Waiter(id)
        with self._lock:
            self._ensure()
            self._waiters = (*self._waiters, waiter)
        try:
            while True:
                waiter.changed.clear()
                session = self._opened()
                answer = until(session.snapshot(id))
                if answer is not None:
                    return answer
                if session.refusal is not None:
                    raise session.refusal
                left = None if give_up is None else give_up - time.monotonic()
                if (left is not None and left <= 0) or not waiter.changed.wait(left):
                    return None
        finally:
            with self._lock:
                self._waiters = tuple(one for one in self._waiters if one is not waiter)
                self._used = time.monotonic()

    def close(self) -> None:
        """End all connections now."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    # For the session --------------------------------------------------------------------------------------------------

    def audience(self, ids: Iterable[str]) -> tuple[Subscribed[Snapshot], ...]:
        """Wake those who wait for these jobs; who else wants to hear of them?"""
        touched = set(ids)
        with self._lock:
            waiters, subscribed = self._waiters, self._subscribed
        for waiter in waiters:
            if waiter.id in touched:
                waiter.changed.set()
        return subscribed

    def rouse(self) -> None:
        """Wake all who wait."""
        with self._lock:
            waiters = self._waiters
        for waiter in waiters:
            waiter.changed.set()

    def left(self) -> float:
        """Seconds before which it will not be idle for long enough; the end of a last use wakes nobody."""
        with self._lock:
            used = time.monotonic() if self._subscribed or self._waiters else self._used
            return used + self._idle - time.monotonic()

    def retire(self, session: Session) -> bool:
        """Let go of a session unless somebody came back to it in this moment."""
        with self._lock:
            if self._session is not session:
                return True
            if self._subscribed or self._waiters or self._used + self._idle > time.monotonic():
                return False
            self._session = None
            return True

    # Inside -----------------------------------------------------------------------------------------------------------

    def _ensure(self) -> Session:
        """The session, begun where there is none. The lock is held."""
        self._used = time.monotonic()
        if self._session is None:
            self._session = Session(self, self._api, self._labels)
            self._session.start()
        return self._session

    def _opened(self) -> Session:
        with self._lock:
            session = self._ensure()
        session.wait_until_ready()
        return session


# Without a watch ----------------------------------------------------------------------------------------------------


def read(api: Api, ids: Iterable[str] | None = None, owner: str | None = None) -> list[Snapshot]:
    """Jobs as they stand, asked for once: these, or all, or all of one owner (value of the label).

    Raises:
        ApiError, Unreachable.
    """
    labels = names.of_jobs() if owner is None else names.of_jobs(owner=owner)
    wanted = None if ids is None else frozenset(ids)
    if wanted is not None and len(wanted) <= _NAMED:
        if not wanted:
            return []
        labels += f",{names.JOB} in ({','.join(sorted(wanted))})"
    mirror = Mirror()
    jobs = [job for job in api.list(JOBS, labels=labels)[0] if wanted is None or job_id(job) in wanted]
    _fill(mirror, JOBS, jobs)
    if jobs:
        _fill(mirror, PODS, api.list(PODS, labels=labels)[0])
    found = [snapshot for snapshot in map(mirror.snapshot, mirror.ids()) if snapshot is not None]
    if all(snapshot.condition("Complete") for snapshot in found):
        return found
    _fill(mirror, EVENTS, _readable(api, EVENTS, fields=WARNINGS))
    if any(map(queue_of, jobs)) and (kind := kueue_workloads(api)):
        _fill(mirror, kind, _readable(api, kind, labels=OF_JOBS))
    return [snapshot for snapshot in map(mirror.snapshot, mirror.ids()) if snapshot is not None]


def _fill(mirror: Mirror, kind: Kind, things: list[Object]) -> None:
    for thing in things:
        mirror.put(kind, thing)


def _readable(api: Api, kind: Kind, *, labels: str = "", fields: str = "") -> list[Object]:
    """All that fit; none where the user may not read them."""
    try:
        return api.list(kind, labels=labels, fields=fields)[0]
    except (Forbidden, Missing):
        return []
