"""What etcd holds of a job goes as soon as the job is over: the Secrets of one's own jobs.

Of a job whose kernel was closed before it ended, whoever next lists or sends jobs as the same user does it, from behind
and without asking for anything but the removal itself: what was tidied up is remembered in the state directory.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.ending import tidy
from kube_nb.backends.kubernetes.names import OWNER
from kube_nb.backends.kubernetes.reasons.refusals import in_doubt
from kube_nb.backends.kubernetes.snapshot import Snapshot
from kube_nb.backends.kubernetes.watch import Watch
from kube_nb.backends.subscribed import Subscribed
from kube_nb.errors import Unreachable

_MOST = 200
"""Jobs of other processes that one process tidies up after; the next one goes on."""
_log = logging.getLogger(__name__)


class Tidying:
    """Listens while there are jobs to tidy up after, and no longer.

    Args:
        owner: the label of whose jobs they are.
        memory: a file that remembers which have been tidied up.
    """

    def __init__(self, api: Api, watch: Watch, owner: str, memory: Path) -> None:
        self._api = api
        self._watch = watch
        self._owner = owner
        self._memory = memory
        self._lock = threading.Lock()
        self._live: set[str] = set()
        self._done: set[str] | None = None
        self._waiting: deque[Snapshot] = deque()
        self._busy = False
        self._looked = 0
        self._subscribed: Subscribed[Snapshot] | None = None

    def add(self, id: str) -> None:
        """Tidy up after this job once the cluster says that it has ended, and after those that ended unseen."""
        with self._lock:
            self._live.add(id)
            if self._subscribed is not None:
                return
            self._subscribed = self._watch.subscribe(self._heard)

    def look(self, snapshots: Iterable[Snapshot]) -> None:
        """Tidy up behind after those of one's own that have ended, and forget those that are gone. Returns at once.

        Args:
            snapshots: all jobs of one's own that there are, and any of others.
        """
        mine = {one.id: one for one in snapshots if not one.deleted and self._mine(one)}
        with self._lock:
            self._remembered().intersection_update(mine)
            for one in mine.values():
                self._unseen(one)

    def _unseen(self, snapshot: Snapshot) -> None:
        """Tidy up after one that ended while nobody was there to do it, unless it was done. The lock is held."""
        if snapshot.ended and snapshot.id not in self._remembered() and self._looked < _MOST:
            self._looked += 1
            self._queue(snapshot)

    def _heard(self, snapshot: Snapshot) -> None:
        if not (snapshot.ended or snapshot.deleted):
            return
        with self._lock:
            ours = snapshot.id in self._live
            self._live.discard(snapshot.id)
            over = None
            if ours and not self._live:
                over, self._subscribed = self._subscribed, None
            if ours and not snapshot.deleted:
                self._queue(snapshot)
            elif not snapshot.deleted and self._mine(snapshot):
                self._unseen(snapshot)
        if over is not None:
            over.close()

    def _mine(self, snapshot: Snapshot) -> bool:
        return (snapshot.job["metadata"].get("labels") or {}).get(OWNER) == self._owner

    # Behind -----------------------------------------------------------------------------------------------------------

    def _queue(self, snapshot: Snapshot) -> None:
        """For a thread of its own: the one that tells of changes must not wait for the cluster. The lock is held."""
        self._waiting.append(snapshot)
        self._remembered().add(snapshot.id)
        if not self._busy:
            self._busy = True
            threading.Thread(target=self._work, name="kube-nb-tidy", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._busy = bool(self._waiting)
                if not self._busy:
                    return
                snapshot = self._waiting.popleft()
            removed = self._tidy(snapshot)
            with self._lock:
                if not removed:
                    self._remembered().discard(snapshot.id)  # the next look tries again
                # Those that wait are not tidied up yet, should this process end now.
                self._write(self._remembered() - {one.id for one in self._waiting})

    def _tidy(self, snapshot: Snapshot) -> bool:
        """False: it is worth another try."""
        try:
            tidy(self._api, snapshot)
        except (ApiError, Unreachable) as error:
            # It goes with its Job all the same, a week later.
            _log.info("the Secret of %s was not removed: %s", snapshot.id, error.what)
            return isinstance(error, ApiError) and not in_doubt(error)
        return True

    # What is remembered -----------------------------------------------------------------------------------------------

    def _remembered(self) -> set[str]:
        """Ids of jobs whose Secret is gone, or is just being removed. The lock is held."""
        if self._done is None:
            try:
                self._done = set(json.loads(self._memory.read_bytes()))
            except (OSError, ValueError, TypeError):
                self._done = set()
        return self._done

    def _write(self, done: set[str]) -> None:
        with suppress(OSError):  # what is not remembered is tried again
            self._memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._memory.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(sorted(done)))
            draft.replace(self._memory)
