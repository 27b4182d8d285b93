"""One stretch of watching: the feeds, what they told, and the thread that passes it on to whoever wants to know."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import ApiError, Forbidden, Missing
from kube_nb.backends.kubernetes.feed import Feed
from kube_nb.backends.kubernetes.kinds import EVENTS, JOBS, PODS, Kind
from kube_nb.backends.kubernetes.mirror import Mirror
from kube_nb.backends.kubernetes.snapshot import Snapshot, queue_of
from kube_nb.errors import KubeNbError, Unreachable

WARNINGS = "type=Warning"
OF_JOBS = "kueue.x-k8s.io/job-uid"
"""A label of every Workload that stands for a Job."""
_MOMENT = 1.0
"""Seconds by which one watch may be behind another."""
_AGAIN = 5.0
"""Seconds until it is asked again whether there is Kueue."""
_log = logging.getLogger(__name__)


class Listener(Protocol):
    """One who wants to hear of jobs."""

    def tell(self, id: str, change: Snapshot, /) -> None: ...


class Owner(Protocol):
    """Who opened the session, and knows who listens."""

    def audience(self, ids: Iterable[str]) -> Sequence[Listener]: ...

    def rouse(self) -> None: ...

    def left(self) -> float: ...

    def retire(self, session: Session) -> bool: ...


class Session:
    """The feeds of one stretch of use, what they told, and the thread that passes it on."""

    def __init__(self, owner: Owner, api: Api, labels: str) -> None:
        self._owner = owner
        self._api = api
        self._turn = threading.Condition()
        self._mirror = Mirror()
        self._pods = Feed(api, PODS, self, labels=labels)
        self._feeds = [
            Feed(api, JOBS, self, labels=labels),
            self._pods,
            Feed(api, EVENTS, self, fields=WARNINGS, optional=True),
        ]
        self._queues = False
        self._outage: KubeNbError | None = None
        """What was passed on."""
        self._settled: set[str] = set()
        self._touched: dict[str, None] = {}
        self._newcomers: list[Listener] = []
        self._closed = False

    def start(self) -> None:
        for feed in self._feeds:
            feed.start()
        threading.Thread(target=self._serve, name="kube-nb-watch", daemon=True).start()

    def close(self) -> None:
        with self._turn:
            self._closed = True
            self._turn.notify_all()
            feeds = list(self._feeds)
        for feed in feeds:
            feed.close()

    @property
    def ready(self) -> bool:
        return all(feed.ready for feed in self._feeds)

    @property
    def trouble(self) -> KubeNbError | None:
        return next((feed.trouble for feed in self._feeds if feed.trouble), None)

    @property
    def refusal(self) -> ApiError | None:
        """Why nothing will be heard any more unless a person does something."""
        return next((feed.refusal for feed in self._feeds if feed.refusal), None)

    def wait_until_ready(self) -> None:
        """Raises: ApiError, Unreachable: the first list failed; it is tried again behind."""
        with self._turn:
            while not self.ready and not self._closed:
                failed = next((feed.trouble for feed in self._feeds if feed.trouble and not feed.ready), None)
                if failed is not None:
                    raise failed
                self._turn.wait()

    def snapshot(self, id: str) -> Snapshot | None:
        with self._turn:
            return self._seen(id)

    def snapshots(self) -> list[Snapshot]:
        with self._turn:
            return [snapshot for snapshot in map(self._seen, self._mirror.ids()) if snapshot is not None]

    def greet(self, subscribed: Listener) -> None:
        """Tell somebody new of all jobs."""
        with self._turn:
            self._newcomers.append(subscribed)
            self._turn.notify_all()

    # What the feeds tell ----------------------------------------------------------------------------------------------

    def listed(self, kind: Kind, things: list[Object], begun: float) -> None:
        with self._turn:
            self._touch(self._mirror.replace(kind, things, begun))
        if kind is JOBS:
            for job in things:
                self._look_for_queue(job)

    def changed(self, kind: Kind, change: Object) -> None:
        thing = change["object"]
        with self._turn:
            if change["type"] == "DELETED":
                meta = thing["metadata"]
                touched = self._mirror.drop(kind, meta["name"], meta.get("uid", ""))
            else:
                touched = self._mirror.put(kind, thing)
            unsettled = {id for id in touched if kind is JOBS and self._mirror.unsettled(id)} - self._settled
            self._settled |= unsettled
        if unsettled:
            self._settle(unsettled)
        with self._turn:
            self._touch(touched)
        if kind is JOBS:
            self._look_for_queue(thing)

    def turned(self) -> None:
        with self._turn:
            outage = next((feed.outage for feed in self._feeds if feed.outage), None)
            if str(outage) != str(self._outage):
                self._outage = outage
                seen = map(self._mirror.snapshot, self._mirror.ids())
                self._touch(snapshot.id for snapshot in seen if snapshot and not snapshot.ended)
            self._turn.notify_all()
        if self.refusal:
            self._owner.rouse()

    def _seen(self, id: str) -> Snapshot | None:
        """A job as it stands, or stood when the cluster was heard of last."""
        snapshot = self._mirror.snapshot(id)
        return replace(snapshot, outage=self._outage) if snapshot and self._outage else snapshot

    def _touch(self, ids: Iterable[str]) -> None:
        ids = dict.fromkeys(ids)
        if ids:
            self._touched |= ids
            self._turn.notify_all()

    def _settle(self, ids: set[str]) -> None:
        """Jobs are over before their pods' last words came by another connection: wait for it a moment, else ask."""
        with self._turn:
            if self._turn.wait_for(lambda: not any(map(self._mirror.unsettled, ids)), _MOMENT):
                return
        try:
            self._pods.list()
        except (ApiError, Unreachable) as error:
            _log.info("the pods were not listed: %s", error)  # their own feed will bring them

    def _look_for_queue(self, job: Object) -> None:
        """Once a job waits in a queue of Kueue's, what Kueue says of it is watched too."""
        if self._queues or not queue_of(job):
            return
        self._queues = True
        threading.Thread(target=self._watch_queues, name="kube-nb-watch-kueue", daemon=True).start()

    def _watch_queues(self) -> None:
        kind = self._workloads()
        if kind is None:
            return
        feed = Feed(self._api, kind, self, labels=OF_JOBS, optional=True)
        feed.ready = True  # nobody waits for it
        with self._turn:
            if self._closed:
                return
            self._feeds.append(feed)
        feed.start()

    def _workloads(self) -> Kind | None:
        """As `kueue_workloads` does, however long nobody answers."""
        while not self._closed:
            try:
                return kueue_workloads(self._api)
            except (ApiError, Unreachable) as error:
                _log.info("nobody says whether the cluster has Kueue: %s", error)
            with self._turn:
                self._turn.wait_for(lambda: self._closed, _AGAIN)
        return None

    # Passing it on ----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while self._wait_for_news():
            with self._turn:
                newcomers, touched = self._newcomers, list(self._touched)
                self._newcomers, self._touched = [], {}
            for snapshot in self.snapshots() if newcomers else ():
                for subscribed in newcomers:
                    subscribed.tell(snapshot.id, snapshot)
            self._pass_on(touched)
        self.close()

    def _wait_for_news(self) -> bool:
        """False: it is over, because somebody closed it or nobody has wanted anything for a while."""
        with self._turn:
            # Jobs whose pods are not listed yet would be told as waiting, or worse.
            while not self.ready or not (self._touched or self._newcomers):
                if self._closed:
                    return False
                left = self._owner.left()
                if left <= 0 and self._owner.retire(self):
                    return False
                self._turn.wait(max(left, 0.01))
            return True

    def _pass_on(self, ids: list[str]) -> None:
        audience = self._owner.audience(ids)
        for id in ids:
            with self._turn:
                snapshot = self._seen(id) or self._mirror.take_deleted(id)
            if snapshot is not None:
                for subscribed in audience:
                    subscribed.tell(snapshot.id, snapshot)


def kueue_workloads(api: Api) -> Kind | None:
    """Kueue's Workloads, in the version that this cluster prefers; None: it has no Kueue, or does not say.

    Raises:
        ApiError, Unreachable: nobody knows just now.
    """
    try:
        group = api.raw("/apis/kueue.x-k8s.io")
    except (Forbidden, Missing):
        return None
    return Kind("workloads", group["preferredVersion"]["groupVersion"])
