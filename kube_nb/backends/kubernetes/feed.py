"""One list and one watch of one kind, in a thread of its own, kept up whatever happens to the connection."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Protocol

from kube_nb.backends.kubernetes.api import Api, Changes, Object
from kube_nb.backends.kubernetes.api_error import ApiError, Forbidden, Missing, Unauthorized
from kube_nb.backends.kubernetes.kinds import Kind
from kube_nb.errors import KubeNbError, Unreachable

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
_SHORT = 1.0
"""Seconds; whoever ends a watch sooner is not asked again at once."""
_TOO_OLD = 410
LASTING = 15.0
"""Seconds for which an API server that begins refuses whom it will know in a moment."""
_SELDOM = 120.0
"""Seconds after which it is looked whether the user may read a kind by now."""
_SECONDS = 300
"""How long one watch goes on before the server is asked anew."""
_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Who is told. Called from the feed's thread."""

    def listed(self, kind: Kind, things: list[Object], begun: float) -> None:
        """All there are; asked for at `begun` (monotonic)."""
        ...

    def changed(self, kind: Kind, change: Object) -> None:
        """One ADDED, MODIFIED or DELETED item."""
        ...

    def turned(self) -> None:
        """`ready`, `trouble`, `outage` or `refusal` of a feed is another one now."""
        ...


class Feed:
    """Tells a sink of all objects that fit, and of each change, until it is closed.

    Args:
        optional: where the user may not read this kind, go on without it.
    """

    def __init__(
        self, api: Api, kind: Kind, sink: Sink, *, labels: str = "", fields: str = "", optional: bool = False
    ) -> None:
        self.kind = kind
        self.ready = False
        """It was listed once, or never will be."""
        self.trouble: KubeNbError | None = None
        """Why nothing comes just now."""
        self.outage: KubeNbError | None = None
        """That trouble, once a second try did not mend it either."""
        self.refusal: ApiError | None = None
        """That trouble, once it is certain that the cluster knows the user and lets them no more."""
        self._tries = 0
        self._refused: float | None = None
        """Since when."""
        self._api = api
        self._sink = sink
        self._labels = labels
        self._fields = fields
        self._optional = optional
        self._closing = threading.Event()
        self._changes: Changes | None = None
        self._began: float | None = None
        self._version = ""
        self._allowed = False

    def start(self) -> None:
        name = f"kube-nb-watch-{self.kind.plural}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def close(self) -> None:
        """Nothing more is asked. An item that is under way may still be told."""
        self._closing.set()
        changes = self._changes
        if changes is not None:
            changes.stop()

    def list(self) -> str:
        """Ask for all there are, now, in the caller's thread.

        Returns:
            the version from which on changes are to come.

        Raises:
            ApiError, Unreachable.
        """
        begun = time.monotonic()
        things, version = self._api.list(self.kind, labels=self._labels, fields=self._fields)
        self._sink.listed(self.kind, things, begun)
        return version

    def _run(self) -> None:
        pause, stale = FIRST_PAUSE, False
        while not self._closing.is_set():
            self._began = None
            try:
                self._once()
                if self._stood() > _SHORT:  # its time was over
                    stale = False
                    continue
            except (ApiError, Unreachable) as error:
                if self._closing.is_set():
                    return
                if isinstance(error, ApiError):
                    self._version = ""  # too old, or not to be had any more
                    again, stale = stale and self._stood() <= _SHORT, error.status == _TOO_OLD
                    if stale and not again:
                        continue
                    if self._may_do_without(error):
                        _log.info("%s are not watched: %s", self.kind.plural, error.why)
                        self._tell(None, ready=True)
                        self._closing.wait(_SELDOM)
                        continue
                self._tell(error)
            if self._stood() > pause:
                pause = FIRST_PAUSE  # it stood for a while: a new interruption, not the last one again
            # Not all clients of a cluster that comes back ask in the same moment.
            self._closing.wait(pause * random.uniform(0.75, 1.25))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _stood(self) -> float:
        """Seconds since the watch began; 0.0: none did."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def _may_do_without(self, error: ApiError) -> bool:
        """Whether the user may not read this kind; an API server that begins refuses everybody for a moment."""
        return self._optional and isinstance(error, Forbidden | Missing) and (not self._allowed or self._lasts())

    def _lasts(self) -> bool:
        return self._refused is not None and time.monotonic() - self._refused > LASTING

    def _once(self) -> None:
        """List where need be, then watch until the watch ends."""
        if not self._version:
            self._version = self.list()
            self._allowed = True
            self._tell(None, ready=True)
        with self._api.watching(
            self.kind, version=self._version, labels=self._labels, fields=self._fields, seconds=_SECONDS
        ) as changes:
            self._changes, self._began = changes, time.monotonic()
            self._tell(None, ready=True)
            try:
                if self._closing.is_set():  # before there was anything to stop
                    return
                for change in changes:
                    if self._closing.is_set():
                        return
                    self._version = change["object"]["metadata"]["resourceVersion"]
                    if change["type"] != "BOOKMARK":
                        self._sink.changed(self.kind, change)
            finally:
                self._changes = None

    def _tell(self, trouble: KubeNbError | None, *, ready: bool = False) -> None:
        before = self._standing
        refused = trouble if isinstance(trouble, Unauthorized | Forbidden) else None
        self._tries = self._tries + 1 if trouble else 0
        self._refused = (self._refused or time.monotonic()) if refused else None
        self.trouble, self.ready = trouble, self.ready or ready
        self.outage = trouble if self._tries > 1 else None
        self.refusal = refused if refused and self._lasts() else None
        if self._standing != before:
            self._sink.turned()

    @property
    def _standing(self) -> tuple[object, ...]:
        """What the sink is told changes of."""
        return self.ready, self.trouble is None, str(self.outage), self.refusal is None
