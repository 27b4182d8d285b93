"""What a job without a store made lies in its container alone, which waits for a reader: here is who brings it.

The process that submits such a job reads its streams along. Once the runner has said that its container waits, all that
the job made is brought into the state directory, and the container ends. Who follows such a job of theirs from another
process does the same. So the submitting process, or one that follows, must live until the job has ended.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Api, ApiError, Object
from kube_nb.backends.kubernetes.exec import not_running
from kube_nb.backends.kubernetes.snapshot import annotation, job_id
from kube_nb.backends.kubernetes.transfer import Container, get_objects
from kube_nb.errors import KubeNbError

_OBJECTS = f"{names.RUN}/out/objects"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class Keeping:
    """What was brought from containers, for all jobs of one user. Any thread may use it.

    Args:
        folder: where it is kept, in a folder for each job.
        user: as the cluster knows who asks: what other people's jobs made is not theirs to take.
    """

    def __init__(self, api: Api, folder: Path, user: str) -> None:
        self._api = api
        self._folder = folder
        self._user = user
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def start(self, id: str, streams: Iterable[Callable[[], Iterable[object]]]) -> None:
        """Read these streams of a job to their ends, in the background; `ended` is told of each end."""
        for node, stream in enumerate(streams):
            name = f"kube-nb-keep-{id}-{node}"
            threading.Thread(target=self._read, args=(id, stream), name=name, daemon=True).start()

    def ended(self, job: Object, pod: str, end: Mapping[str, Any]) -> None:
        """Bring what the job made, where its runner has just said that the container waits for that."""
        if not end.get("lingers") or annotation(job, names.USER) != self._user:
            return
        id = job_id(job)
        try:
            with self._turns[id]:  # of many that follow, one brings it
                self._bring(id, Container(self._api, pod))
        except (KubeNbError, OSError, ValueError) as error:
            gone = isinstance(error, ApiError) and not_running(error)  # e.g. the job was deleted
            _log.log(
                logging.INFO if gone else logging.WARNING,
                "what job %s made was not brought from %s: %s",
                id,
                pod,
                error,
            )

    def fetch(self, id: str, digest: str, destination: Path) -> bool:
        """Put an object at `destination` if it was brought here."""
        kept = self._folder / id / digest
        if not kept.is_file():
            return False
        destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            try:
                os.link(kept, destination)
            except OSError:  # another file system, or one that knows no links
                draft = destination.with_name(f".kept-{destination.name}")
                shutil.copyfile(kept, draft)
                draft.replace(destination)
        return True

    def remove(self, id: str) -> None:
        """Forget what was brought of a job."""
        shutil.rmtree(self._folder / id, ignore_errors=True)

    def _read(self, id: str, stream: Callable[[], Iterable[object]]) -> None:
        try:
            for _ in stream():
                pass
        except KubeNbError as error:  # nobody waits for this; who asks for the values hears what became of them
            _log.info("the log of job %s is not read along any more: %s", id, error)

    def _bring(self, id: str, container: Container) -> None:
        with container.tool("list", _OBJECTS) as program:
            there = json.loads(program.output())
        wanted = [name for name in there if _DIGEST.fullmatch(name)]
        folder = self._folder / id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        get_objects(container, _OBJECTS, {digest: folder / digest for digest in wanted})
