"""A submit whose answers were lost: the process that sent it asks whether the job was made, and completes it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.reasons.refusals import in_doubt
from kube_nb.errors import KubeNbError, Unreachable

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
"""Seconds until a cluster that does not answer is asked again."""
_log = logging.getLogger(__name__)


def reconcile(id: str, begun: Callable[[], bool], complete: Callable[[], object]) -> None:
    """Complete a job once the cluster answers, if anything of it was made, and make none otherwise. Returns at once.

    Args:
        begun: asks the cluster whether the job is there.
        complete: does what is missing, and may be called when nothing is.
    """
    threading.Thread(target=_work, args=(id, begun, complete), name=f"kube-nb-reconcile-{id}", daemon=True).start()


def _work(id: str, begun: Callable[[], bool], complete: Callable[[], object]) -> None:
    pause = _FIRST_PAUSE
    while True:
        try:
            if begun():
                complete()
            return
        except (Unreachable, ApiError) as error:
            if isinstance(error, ApiError) and not in_doubt(error):
                _log.info("whether job %s was made is not told: %s", id, error)
                return
        except KubeNbError as error:  # e.g. it is being deleted; who looks at the job hears what it lacks
            _log.info("job %s is left as it is: %s", id, error)
            return
        threading.Event().wait(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
