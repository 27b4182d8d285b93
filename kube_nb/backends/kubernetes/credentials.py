"""Credentials: which a client has, and how others take their place once a cluster accepts them no more."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING

from kube_nb.errors import KubeNbError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

_AGAIN = 60.0
"""Seconds after which files that were not written anew are read again all the same: they may name a program to ask."""


def authorization(client: ApiClient) -> str | None:
    """The header that says who asks, renewed where it is about to expire; None: a certificate says it."""
    names = ("BearerToken", "authorization")  # of newer versions of the package, and of older ones
    return next(filter(None, map(client.configuration.get_api_key_with_prefix, names)), None)


class Renewal:
    """Reads credentials anew that were refused. Any thread may use it.

    Args:
        read: a client of what is written down now.
        stamps: another value once it was written anew, e.g. by a login.
    """

    def __init__(self, read: Callable[[], ApiClient], stamps: Callable[[], Hashable]) -> None:
        self._read = read
        self._stamps = stamps
        self._seen = stamps()
        self._asked = -math.inf
        self._latest: ApiClient | None = None
        self._turns: dict[int, threading.Lock] = {}
        """By process: a fork may find a lock held for ever."""

    def __call__(self, refused: ApiClient) -> ApiClient | None:
        """A client of the same cluster with other credentials than one that was refused; None: there are no others."""
        with self._turns.setdefault(os.getpid(), threading.Lock()):
            if self._latest in (None, refused) and self._is_due():
                self._latest = self._other(refused) or self._latest
            return None if self._latest is refused else self._latest

    def _is_due(self) -> bool:
        """A login may come hours later; what is refused every few seconds until then is not read as often."""
        stamps, now = self._stamps(), time.monotonic()
        if stamps == self._seen and now < self._asked + _AGAIN:
            return False
        self._seen, self._asked = stamps, now
        return True

    def _other(self, refused: ApiClient) -> ApiClient | None:
        try:
            found = self._read()
            who, before = _who(found), _who(refused)
        except (KubeNbError, OSError):  # just being written: it is read again once it was
            return None
        if found.configuration.host != refused.configuration.host:
            return None  # another cluster by the same name knows nothing of these jobs
        return found if who and who != before else None


def _who(client: ApiClient) -> tuple[str | bytes, ...]:
    """What tells one login from another; empty where a client has no credentials at all."""
    token, certificate = authorization(client), client.configuration.cert_file
    return (*([token] if token else []), *([Path(certificate).read_bytes()] if certificate else []))
