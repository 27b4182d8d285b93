"""Real cells as jobs on a cluster, without the faces: a bundle, a plan, the objects; and reading what they wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kube_nb.backends.base import Bundle, Chunk, Cursor
from kube_nb.backends.kubernetes import names, stream, submit
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.connect import user_of
from kube_nb.backends.kubernetes.kinds import JOBS
from kube_nb.backends.kubernetes.payload import fits
from kube_nb.backends.kubernetes.plan import JobPlan, Store
from kube_nb.backends.kubernetes.store import Stores
from kube_nb.backends.kubernetes.watch import Watch
from kube_nb.backends.leaving import Leaving
from kube_nb.config import Settings
from kube_nb.events import Decoder, Event, Text
from kube_nb.spec import Policy
from tests.cluster.small_jobs import plan
from tests.unit.pod_files import make_bundle

IN_POD = Store()


@dataclass
class Place:
    """One namespace with all that a backend has."""

    api: Api
    watch: Watch
    stores: Stores
    folder: Path

    def send(
        self,
        id: str,
        source: str,
        *,
        values: Mapping[str, Any] | None = None,
        store: Store | None = None,
        memory: int = 512 << 20,
        retries: int = 0,
        outputs: list[str] | None = None,
    ) -> tuple[JobPlan, Bundle]:
        """Submit a cell; its bundle goes where it fits. `store` None: what the namespace can have."""
        sent = make_bundle(self.folder / id, source, values, job=id, retries=retries, outputs=outputs)
        draft = plan(
            self.api,
            id,
            resources={"cpu": "50m"},
            policy=Policy(grace=1, retries=retries),
            memory=memory,
            user=user_of(self.api),
            digest=sent.digest,
        )
        chosen = store or self.stores.choose(draft, needed=not fits(sent))
        transport = "secret" if fits(sent) else "store" if chosen.claim else "upload"
        made = replace(draft, store=chosen, transport=transport)
        if transport == "store":
            assert self.stores.put_bundle(made, sent)
        job = submit.create(self.api, made, sent)
        if transport == "store":
            self.stores.hand_over(made)
        self.watch.remember(job)
        return made, sent

    def stream(
        self,
        id: str,
        node: int = 0,
        cursor: Cursor = Cursor(),
        *,
        follow: bool = True,
        leaving: Leaving | None = None,
    ) -> Iterator[Chunk]:
        return stream.stream(self.api, self.watch, self.stores, id, node, cursor, follow, leaving=leaving)

    def job(self, id: str) -> Object:
        return self.api.get(JOBS, id)


@contextmanager
def place(api: Api, folder: Path, **settings: Any) -> Iterator[Place]:
    """Everything a backend has, for a while."""
    loaded = Settings.load(cwd=folder, kernel={"state_dir": str(folder / "state"), "store_size": "2Gi", **settings})
    watch = Watch(api, labels=names.of_jobs())
    try:
        yield Place(api, watch, Stores(api, loaded, user_of(api)), folder)
    finally:
        watch.close()


@dataclass
class Read:
    """A stream, read: its bytes' digest, the user's text, the events."""

    sha256: str
    size: int
    text: bytes
    events: list[Event]

    @property
    def end(self) -> dict[str, Any]:
        return next(event.data for event in reversed(self.events) if event.kind == "end")


def read_all(chunks: Iterator[Chunk], seen: Callable[[Chunk], None] | None = None) -> Read:
    """Read a stream of one attempt to its end; every chunk begins where the last one ended."""
    digest, decoder, at = hashlib.sha256(), Decoder(), 0
    text, events = bytearray(), []
    for chunk in chunks:
        assert chunk.at.offset == at, f"a chunk at {chunk.at}, after {at} bytes"
        at += len(chunk.data)
        digest.update(chunk.data)
        for item in decoder.feed(chunk.data):
            if isinstance(item, Text):
                text += item.data
            else:
                events.append(item)
        if seen is not None:
            seen(chunk)
    return Read(digest.hexdigest(), at, bytes(text), events)
