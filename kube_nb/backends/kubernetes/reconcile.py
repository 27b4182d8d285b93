"""A submit whose answers were lost: the process that sent it asks whether the job was made, and completes it.

So it needs nobody who lists jobs, and what only this process can send is sent. Where nothing was made, nothing is.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kube_nb.backends.kubernetes.api_error import ApiError, Forbidden, Unauthorized
from kube_nb.backends.kubernetes.reasons.refusals import in_doubt
from kube_nb.errors import KubeNbError, Unreachable
from kube_nb.store.bundles import sending

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
"""Seconds until the cluster is asked again."""
_ABSENT = 90.0
"""Seconds after which a request that nobody answered makes no Job any more: it was on its way for a while."""
_PATIENCE = 3600.0
"""Seconds after which it is left to whoever lists the jobs."""
_BUSY = 429
_log = logging.getLogger(__name__)


class Reconciling:
    """The submits of this process that were not answered, one thread for each. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[tuple[int, str]] = set()
        """(process, job): a fork has the same memory, and not the threads."""

    def start(self, id: str, bundle: Path, complete: Callable[[], bool]) -> None:
        """Complete a job as soon as the cluster says that it was made. Returns at once.

        Args:
            bundle: the directory of what it was sent with; it stays until then.
            complete: does what is missing, and may be called when nothing is; False: there is no such job.
        """
        with self._lock:
            if (os.getpid(), id) in self._running:
                return
            self._running.add((os.getpid(), id))
        name = f"kube-nb-reconcile-{id}"
        threading.Thread(target=self._run, args=(id, bundle, complete), name=name, daemon=True).start()

    def _run(self, id: str, bundle: Path, complete: Callable[[], bool]) -> None:
        try:
            with sending(bundle):
                _until_told(complete)
        except (KubeNbError, OSError) as error:  # e.g. it is being deleted; who looks at the job hears what it lacks
            _log.info("job %s is left as it is: %s", id, error)
        finally:
            with self._lock:
                self._running.discard((os.getpid(), id))


def _until_told(complete: Callable[[], bool]) -> None:
    pause, began = _FIRST_PAUSE, time.monotonic()
    while True:
        threading.Event().wait(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        waited = time.monotonic() - began
        try:
            if complete() or waited > _ABSENT:
                return
        except (Unreachable, ApiError) as error:
            if not _passes(error) or waited > _PATIENCE:
                raise
            _log.info("whether a job was made is not known just now: %s", error)


def _passes(error: Unreachable | ApiError) -> bool:
    """Whether it may be another answer later; a cluster that begins refuses whom it will know in a moment."""
    if isinstance(error, Unreachable | Unauthorized | Forbidden):
        return True
    return in_doubt(error) or error.status == _BUSY
