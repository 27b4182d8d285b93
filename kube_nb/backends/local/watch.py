"""One thread that sees every change of every job of a state directory, whoever makes it, and calls back."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterable

from kube_nb.backends.base import JobStatus
from kube_nb.backends.local import lock, processes
from kube_nb.backends.local.bus import CROWDED, Listener, topic_of_changes
from kube_nb.backends.local.directory import JobDirectory, valid_id
from kube_nb.backends.local.status import Statuses
from kube_nb.backends.subscribed import Subscribed, renew_in_forks

_BACKSTOP = 2.0
"""Seconds after which it looks again although nothing was heard: the last resort where wake-ups get lost."""


class _Teller(Subscribed[JobStatus]):
    """A subscription that is told of each status once."""

    def __init__(self, callback: Callable[[JobStatus], None], drop: Callable[[_Teller], None]) -> None:
        super().__init__(callback, drop)
        self.told: dict[str, JobStatus] = {}
        """What it was told last; belongs to the watching thread."""

    def news(self, status: JobStatus) -> None:
        """Call back, unless it knows this already."""
        if self.told.get(status.id) != status:
            self.told[status.id] = status
            self.tell(status.id, status)


class Watch:
    """The subscriptions of one backend, and the thread that serves them while there are any.

    Args:
        state: directory of all jobs.
        bus: the runtime directory.
        statuses: what is known of them.
    """

    def __init__(self, state: str, bus: str, statuses: Statuses) -> None:
        self._state = state
        self._bus = bus
        self._statuses = statuses
        self.begin_anew()
        renew_in_forks(self)
        # Below: of the watching thread alone.
        self._live: dict[str, int | None] = {}
        self._known: set[str] = set()

    def begin_anew(self) -> None:
        """With nobody subscribed and no thread; a fork takes neither along, and may find the lock held for ever."""
        self._guard = threading.Lock()
        self._subscribed: tuple[_Teller, ...] = ()
        self._wake: int | None = None

    def add(self, callback: Callable[[JobStatus], None]) -> _Teller:
        """Begin to call back, first with every job as it stands."""
        subscribed = _Teller(callback, self.drop)
        with self._guard:
            self._subscribed = (*self._subscribed, subscribed)
            if self._wake is None:
                waits, self._wake = os.pipe()
                os.set_blocking(waits, False)
                arguments = (waits, self._wake)
                threading.Thread(target=self._serve, args=arguments, name="kube-nb-jobs", daemon=True).start()
            else:
                self._rouse()
        return subscribed

    def drop(self, subscribed: _Teller) -> None:
        with self._guard:
            self._subscribed = tuple(one for one in self._subscribed if one is not subscribed)
            if not self._subscribed:
                self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None:
            os.write(self._wake, b"!")

    def _over(self) -> bool:
        """Whether nobody listens any more; then the next subscription starts another thread."""
        with self._guard:
            if not self._subscribed:
                self._wake = None
            return self._wake is None

    def _serve(self, waits: int, wake: int) -> None:
        # The next thread may begin while this one ends: what this one closes is its own.
        live: dict[str, int | None] = {}
        self._live, self._known = live, set()
        try:
            with Listener(self._bus, topic_of_changes(self._state)) as listener:
                self._look_at(self._statuses.ids())
                while not self._over():
                    said, everyone = self._wait(listener, waits)
                    if everyone:
                        self._look_at(self._statuses.ids())
                        continue
                    if not said or len(said) >= CROWDED:  # what happened may have gone unheard
                        said = [*said, *self._known.symmetric_difference(self._statuses.ids())]
                    self._look_at({*said, *self._live})
        finally:
            for end in live.values():
                if end is not None:
                    os.close(end)
            os.close(waits)
            os.close(wake)

    def _wait(self, listener: Listener, waits: int) -> tuple[list[str], bool]:
        """Until something happens: the jobs that changed, and whether somebody new wants to hear of all of them."""
        poll = select.poll()
        for descriptor in (listener.fileno(), waits, *(end for end in self._live.values() if end is not None)):
            poll.register(descriptor, select.POLLIN)
        poll.poll(_BACKSTOP * 1000)
        said = listener.drain()
        try:
            return said, bool(os.read(waits, 512))
        except BlockingIOError:
            return said, False

    def _look_at(self, ids: Iterable[str]) -> None:
        for id in ids:
            status = self._statuses.read(id) if valid_id(id) else None
            if status is None:
                self._known.discard(id)
                for subscribed in self._subscribed:
                    subscribed.told.pop(id, None)
            else:
                self._known.add(id)
                for subscribed in self._subscribed:
                    subscribed.news(status)
            self._look_after(id, live=status is not None and not status.phase.final)

    def _look_after(self, id: str, *, live: bool) -> None:
        """Hear of the death of a live job's supervisor; once it is over, no more."""
        if live:
            if self._live.get(id) is None:
                self._live[id] = supervisor_end(self._statuses.directory(id))
        elif (end := self._live.pop(id, None)) is not None:
            os.close(end)


def supervisor_end(job: JobDirectory) -> int | None:
    """A descriptor that becomes readable when the job's supervisor ends; None: it has, or this cannot be known."""
    owner = next(iter(lock.recorded(job.lock)), None)
    if owner is None or not owner.here:
        return None
    end = processes.end_of(owner.pid)
    if end is not None and not owner.runs:  # the number belongs to somebody else by now
        os.close(end)
        return None
    return end
