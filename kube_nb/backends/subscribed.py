"""One callback of a watch, and what happens to watches in a fork: the same for every backend."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Subscribed(Generic[T]):
    """One callback. Its lock makes sure that none begins after `close`.

    Args:
        callback: gets what changed, from the watch's thread.
        drop: takes the subscription out of its watch.
    """

    def __init__(self, callback: Callable[[T], None], drop: Callable[[Any], None]) -> None:
        self._callback = callback
        self._drop = drop
        self._lock = threading.RLock()  # a callback may close its own subscription
        self._closed = False

    def tell(self, id: str, change: T) -> None:
        """Call back, unless it was closed."""
        with self._lock:
            if self._closed:
                return
            try:
                self._callback(change)
            except Exception:  # noqa: BLE001 - it is logged whole
                # The other subscribers still want to hear of this job.
                _log.exception("a callback failed for job %s", id)

    def close(self) -> None:
        """No callback begins after this returns; waits for one that runs in another thread."""
        with self._lock:
            self._closed = True
        self._drop(self)


class Forkable(Protocol):
    """A watch, which has threads and locks; a fork has no threads, and may find a lock held for ever."""

    def begin_anew(self) -> None:
        """With no thread, nobody who listens and locks of its own."""
        ...


_watches: weakref.WeakSet[Forkable] = weakref.WeakSet()


def renew_in_forks(watch: Forkable) -> None:
    """Let a watch begin anew in every process that is forked from this one."""
    _watches.add(watch)


def _after_fork() -> None:
    for watch in _watches:
        watch.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
