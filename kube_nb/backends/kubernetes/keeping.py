"""What a job without a store made lies in its container alone, which waits for a reader: here is who brings it.

The process that submits such a job reads its streams along. Once the runner has said that its container waits, all that
the job made is brought into the state directory, and the container ends. Who follows such a job on the submitter's
machine from another process does the same. So one of the two must live until the job has ended.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import ApiError, Unauthorized
from kube_nb.backends.kubernetes.snapshot import job_id
from kube_nb.backends.kubernetes.transfer import Container, get_objects, list_objects
from kube_nb.errors import KubeNbError, NotFound, Unreachable
from kube_nb.store.directory import link

_OBJECTS = f"{names.RUN}/out/objects"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PAUSE = 5.0
"""Seconds until what could not be read is read again."""
_log = logging.getLogger(__name__)


class Keeping:
    """What was brought from containers. Any thread may use it, and any process that was forked from it.

    Args:
        state: the state directory; a job is brought to it if it was sent from it.
    """

    def __init__(self, api: Api, state: Path) -> None:
        self._api = api
        self._folder = state / "results"
        self._sent = state / "bundles"
        self._read_here: set[tuple[int, str]] = set()
        """(process, job): a fork has the same memory, and not the threads."""
        self._turns: defaultdict[tuple[int, str], threading.Lock] = defaultdict(threading.Lock)
        self._brought: set[str] = set()
        """Names of pods."""

    def start(self, id: str, streams: Iterable[Callable[[], Iterable[object]]]) -> None:
        """Read these streams of a job to their ends, in the background; each tells `bring` of its end."""
        if self._reads(id):
            return
        self._read_here.add((os.getpid(), id))
        for node, stream in enumerate(streams):
            name = f"kube-nb-keep-{id}-{node}"
            threading.Thread(target=self._read, args=(id, stream), name=name, daemon=True).start()

    def heard(self, job: Object, pod: str, end: Mapping[str, Any]) -> None:
        """Somebody else read an end: bring what there is, unless this process reads the job along anyway."""
        if not self._reads(job_id(job)):
            self.bring(job, pod, end)

    def bring(self, job: Object, pod: str, end: Mapping[str, Any]) -> None:
        """Bring what the job made, where its runner has just said that the container waits for that."""
        id = job_id(job)
        if not end.get("lingers") or not (self._sent / id).is_dir():
            return
        give_up = time.monotonic() + end["lingers"]
        try:
            with self._turns[os.getpid(), pod]:
                while pod not in self._brought:
                    try:
                        self._bring(id, Container(self._api, pod))
                        self._brought.add(pod)
                    except (ApiError, Unreachable) as error:
                        if not _passes(error) or time.monotonic() > give_up:
                            raise
                        time.sleep(_PAUSE)
        except (KubeNbError, OSError, ValueError) as error:
            # E.g. it was taken while it ran, or the job was deleted. Who asks for what is not there hears of it.
            _log.info("what job %s made was not brought from %s: %s", id, pod, error)

    def fetch(self, id: str, digest: str, destination: Path) -> bool:
        """Put an object at `destination` if it was brought here."""
        return bool(_DIGEST.fullmatch(digest)) and _linked(self._folder / id / digest, destination)

    def add(self, id: str, digest: str, path: Path) -> None:
        """Keep what was fetched of a job that is read along: its container counts it as taken."""
        if self._reads(id) and _DIGEST.fullmatch(digest):
            with suppress(OSError):  # the one who asked has it
                _linked(path, self._folder / id / digest)

    def remove(self, id: str) -> None:
        """Forget what was brought of a job."""
        shutil.rmtree(self._folder / id, ignore_errors=True)

    def _reads(self, id: str) -> bool:
        return (os.getpid(), id) in self._read_here

    def _read(self, id: str, stream: Callable[[], Iterable[object]]) -> None:
        while True:
            try:
                for _ in stream():
                    pass
                return
            except NotFound:  # it was deleted
                return
            except KubeNbError as error:  # e.g. the network is away, or a login has to be renewed
                _log.info("the log of job %s cannot be read along: %s", id, error)
            time.sleep(_PAUSE)

    def _bring(self, id: str, container: Container) -> None:
        wanted = filter(_DIGEST.fullmatch, list_objects(container, _OBJECTS))
        folder = self._folder / id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        get_objects(container, _OBJECTS, {digest: folder / digest for digest in wanted})


def _passes(error: ApiError | Unreachable) -> bool:
    """Whether it may be another answer in a moment: the network comes back, or somebody logs in."""
    return isinstance(error, Unreachable | Unauthorized)


def _linked(source: Path, destination: Path) -> bool:
    """Whether there was a file at `source`, which lies at `destination` too, now."""
    if not source.is_file():
        return False
    destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        link(source, destination)
    except FileNotFoundError:  # the job was deleted just now
        return False
    return True
