"""One list and one watch of one kind, in a thread of its own, kept up whatever happens to the connection."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Protocol

from kube_nb.backends.kubernetes.api import Api, ApiError, Changes, Kind, Object
from kube_nb.errors import KubeNbError, Unreachable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_SHORT = 1.0
"""Seconds; whoever ends a watch sooner is not asked again at once."""
_TOO_OLD = 410
_NOT_FOR_US = (403, 404)
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
        """`ready` or `trouble` of a feed is another one now."""
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
        self._api = api
        self._sink = sink
        self._labels = labels
        self._fields = fields
        self._optional = optional
        self._closing = threading.Event()
        self._changes: Changes | None = None
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
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            begun = time.monotonic()
            try:
                self._once()
                if time.monotonic() - begun > _SHORT:
                    continue  # its time was over
            except (ApiError, Unreachable) as error:
                if self._closing.is_set():
                    return
                if isinstance(error, ApiError):
                    self._version = ""  # too old, or not to be had any more
                    if error.status == _TOO_OLD:
                        continue
                    if self._may_do_without(error):
                        _log.info("%s are not watched: %s", self.kind.plural, error.why)
                        self._tell(None, ready=True)
                        self._closing.wait(_SELDOM)
                        continue
                self._tell(error)
            if time.monotonic() - begun > pause:
                pause = _FIRST_PAUSE  # it stood for a while: a new interruption, not the last one again
            # Not all clients of a cluster that comes back ask in the same moment.
            self._closing.wait(pause * random.uniform(0.75, 1.25))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _may_do_without(self, error: ApiError) -> bool:
        """Whether the user may not read this kind; an API server that begins refuses everybody for a moment."""
        return self._optional and not self._allowed and error.status in _NOT_FOR_US

    def _once(self) -> None:
        """List where need be, then watch until the watch ends."""
        if not self._version:
            self._version = self.list()
            self._allowed = True
            self._tell(None, ready=True)
        with self._api.watching(
            self.kind, version=self._version, labels=self._labels, fields=self._fields, seconds=_SECONDS
        ) as changes:
            self._changes = changes
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
        news = (trouble is None) != (self.trouble is None) or self.ready < ready
        self.trouble, self.ready = trouble, self.ready or ready
        if news:
            self._sink.turned()
