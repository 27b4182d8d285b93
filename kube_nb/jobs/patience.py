"""Looking for the end of a job, also while its target does not answer, or refuses whom it will know in a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kube_nb.errors import Refused, Unreachable

if TYPE_CHECKING:
    from kube_nb.backends.base import JobStatus
    from kube_nb.jobs.job import Job

_NOT_BY_ITSELF = ("Unauthorized", "Forbidden")
"""Codes of refusals that end when a person does something."""
_LASTING = 15.0
"""Seconds for which a target that begins may refuse whom it will know in a moment."""
_log = logging.getLogger(__name__)


@contextmanager
def outages_told(job: Job) -> Iterator[None]:
    """Say it when nothing is heard of the target: a log that stands still looks like a job that does."""
    told = ""

    def heard(status: JobStatus) -> None:
        nonlocal told
        now = status.reason.what if status.unheard and status.reason else ""
        if now and now != told:
            _log.warning("job %s: %s", job.id, now)
        told = now

    subscription = job.subscribe(heard)
    try:
        yield
    finally:
        subscription.close()


class Patience:
    """Of one who waits for the end of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._refused: float | None = None
        """Since when."""
        self._told = False

    def sees_the_end(self) -> bool:
        """Raises: NotFound, Refused, Unreachable: as `Job.wait` does."""
        try:
            final = self._job.status().phase.final
        except (Refused, Unreachable) as error:
            self._bear(error)
            return False
        self._refused, self._told = None, False
        return final

    def _bear(self, error: Refused | Unreachable) -> None:
        status = self._job.last_seen(error)
        assert status.reason is not None
        if not isinstance(error, Refused) or status.reason.code not in _NOT_BY_ITSELF:
            self._refused = None
        elif self._refused is None:
            self._refused = time.monotonic()
        elif time.monotonic() - self._refused > _LASTING:
            raise error
        if not self._told:
            _log.warning("job %s: %s", self._job.id, status.reason.what)
            self._told = True
