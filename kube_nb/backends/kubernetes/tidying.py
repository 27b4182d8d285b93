"""What etcd holds of a job goes as soon as the job is over: the Secrets of the jobs that this process submitted."""

from __future__ import annotations

import logging
import threading

from kube_nb.backends.kubernetes.api import Api, ApiError
from kube_nb.backends.kubernetes.ending import tidy
from kube_nb.backends.kubernetes.snapshot import Snapshot
from kube_nb.backends.kubernetes.watch import Watch
from kube_nb.backends.subscribed import Subscribed
from kube_nb.errors import Unreachable

_log = logging.getLogger(__name__)


class Tidying:
    """Listens while there are jobs to tidy up after, and no longer."""

    def __init__(self, api: Api, watch: Watch) -> None:
        self._api = api
        self._watch = watch
        self._lock = threading.Lock()
        self._live: set[str] = set()
        self._subscribed: Subscribed[Snapshot] | None = None

    def add(self, id: str) -> None:
        """Tidy up after this job once the cluster says that it has ended."""
        with self._lock:
            self._live.add(id)
            if self._subscribed is not None:
                return
            self._subscribed = self._watch.subscribe(self._heard)

    def _heard(self, snapshot: Snapshot) -> None:
        if not (snapshot.ended or snapshot.deleted):
            return
        with self._lock:
            if snapshot.id not in self._live:
                return
            self._live.remove(snapshot.id)
            over = self._subscribed if not self._live else None
            if over is not None:
                self._subscribed = None
        if over is not None:
            over.close()
        if not snapshot.deleted:
            # In a thread of its own: the one that tells of changes must not wait for the cluster.
            threading.Thread(target=self._tidy, args=(snapshot,), name=f"tidy-{snapshot.id}", daemon=True).start()

    def _tidy(self, snapshot: Snapshot) -> None:
        try:
            tidy(self._api, snapshot)
        except (ApiError, Unreachable) as error:
            # It goes with its Job all the same, a week later.
            _log.info("the Secret of %s was not removed: %s", snapshot.id, error.what)
