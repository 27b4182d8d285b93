"""A node's stream on a cluster: every byte once, through all attempts, whatever breaks on the way.

The kubelet's log is followed while it is certain to be whole (see `log.py`); beyond that, and after a break, the
runner's own copy is read from the exact offset. Where neither can be had, the loss is said in a line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kube_nb.backends.base import Chunk, Cursor
from kube_nb.backends.kubernetes import log
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import ApiError, Forbidden, Unauthorized
from kube_nb.backends.kubernetes.exec import not_running
from kube_nb.backends.kubernetes.feed import LASTING
from kube_nb.backends.kubernetes.kept import kept
from kube_nb.backends.kubernetes.log import Beheaded, Enough, Heard
from kube_nb.backends.kubernetes.snapshot import (
    Snapshot,
    attempt_of,
    created,
    end_of,
    node_of,
    over,
    state,
)
from kube_nb.backends.kubernetes.status import is_last
from kube_nb.backends.kubernetes.store import Stores
from kube_nb.backends.kubernetes.transfer import Container
from kube_nb.backends.kubernetes.watch import Watch, read
from kube_nb.backends.leaving import Leaving
from kube_nb.errors import NotFound, StorageFailed, Unreachable
from kube_nb.store.url import UrlStore

_PATIENCE = 300.0
"""Seconds for which a cluster that does not answer is asked again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_REREAD = 1 << 16
"""After a break, so much is rather read again than asked for by exec."""
_BEGINS = 10.0
"""Seconds after a break in which a 403 says nothing of rights: an API server that begins refuses everybody."""
_DRAIN, _DRAIN_KILLED = 15.0, 1.0
"""Seconds without a byte after which nothing more comes of a container that has ended."""
_SETTLE = 5.0
"""Seconds until the cluster has said of a container whose connection ended whether it runs."""


Ended = Callable[[Object, str, Mapping[str, Any]], None]
"""Told of the Job, the name of a pod and the runner's last word in it, as soon as that was read."""


def stream(
    api: Api,
    watch: Watch,
    stores: Stores,
    id: str,
    node: int,
    cursor: Cursor,
    follow: bool,
    ended: Ended = lambda job, pod, end: None,
    leaving: Leaving | None = None,
) -> Iterator[Chunk]:
    """The bytes of a node's stream from `cursor` on, as the protocol says.

    A chunk that says what is lost stands at the place of the loss and is not part of the stream's bytes.

    Raises:
        NotFound: there is no such job.
        ApiError: status 401 or 403: it refuses to tell.
        Unreachable: the cluster does not answer any more.
    """
    jobs = _Jobs(api, watch, id, node, follow, leaving or Leaving())
    attempt, offset = cursor.attempt, cursor.offset
    while (found := jobs.attempt(attempt)) is not None:
        reading = _Attempt(api, stores, jobs, found, attempt, offset, ended)
        yield from reading.chunks()
        if reading.last or jobs.leaving.gone:
            return
        attempt, offset = attempt + 1, 0


@dataclass(frozen=True)
class _Found:
    """One attempt of the node, as the cluster shows it; `pod` is None where its pod is gone."""

    snapshot: Snapshot
    pod: Object | None

    @property
    def ended(self) -> bool:
        """Its container will write no more."""
        return self.pod is None or bool(state(self.pod, "terminated")) or over(self.pod)


class _Jobs:
    """What the cluster says of the job's pods, waited for where the reader follows."""

    def __init__(self, api: Api, watch: Watch, id: str, node: int, follow: bool, leaving: Leaving) -> None:
        self._api = api
        self._watch = watch
        self.id = id
        self.node = node
        self.follow = follow
        self.leaving = leaving
        self._known = False

    @property
    def cluster_answers(self) -> bool:
        """Whether the cluster can tell who follows what becomes of the job."""
        try:
            return self.follow and bool(read(self._api, ids=(self.id,)))
        except (ApiError, Unreachable):
            return False

    def attempt(self, number: int) -> _Found | None:
        """The attempt of that number, once it has begun; None: there is none, and with `follow` there will be none."""
        if not self.follow:
            found = self._look(self._once(), number)
            return found if isinstance(found, _Found) else None
        with self.leaving.ends(self._watch.rouse):
            found = self._watch.wait(self.id, lambda snapshot: self._look(snapshot, number))
        return found if isinstance(found, _Found) else None

    def now(self, number: int, *, ended: bool = False, timeout: float = 0.0) -> _Found | None:
        """The attempt as it stands; with `ended`: once its container has ended, or after `timeout` seconds."""

        def look(snapshot: Snapshot | None) -> _Found | None:
            found = self._of(snapshot, number) if snapshot else None
            return found if found is not None and (found.ended or not ended) else None

        if not self.follow:
            return look(self._once())
        found = self._watch.wait(self.id, look, timeout)
        if found is None and (snapshot := self._watch.snapshot(self.id)) is not None:
            found = self._of(snapshot, number)
        return found

    def _once(self) -> Snapshot | None:
        """What stands now; a watch may be a moment behind, which matters no more once the job is over."""
        if self._watch.live and (known := self._watch.snapshot(self.id)) is not None and known.ended:
            return known
        return next(iter(read(self._api, ids=(self.id,))), None)

    def _look(self, snapshot: Snapshot | None, number: int) -> _Found | Literal["none"] | None:
        """None: it may yet come."""
        if self.leaving.gone:
            return "none"
        if snapshot is None:
            if self._known:
                return "none"  # it was deleted meanwhile
            raise NotFound(what=f"there is no job {self.id}", next="list your jobs with %kube_jobs")
        self._known = True
        found = self._of(snapshot, number)
        if found is not None and found.pod is None and not (self._has_copy(snapshot) or found.snapshot.pods):
            return "none"
        if found is not None:
            begun = found.pod is None or found.ended or state(found.pod, "running")
            return found if begun else ("none" if snapshot.over else None)
        return "none" if snapshot.over else None

    def _of(self, snapshot: Snapshot, number: int) -> _Found | None:
        pods = [pod for pod in snapshot.pods if node_of(pod) == self.node]
        same = [pod for pod in pods if attempt_of(pod) == number]
        if same:
            return _Found(snapshot, max(same, key=created))
        later = any(attempt_of(pod) > number for pod in pods)
        gone = snapshot.ended and number == 0 and not pods
        return _Found(snapshot, None) if later or gone else None

    @staticmethod
    def _has_copy(snapshot: Snapshot) -> bool:
        return kept(snapshot.job).stored


class _Away(Exception):
    """The kubelet has no such container (any more), or does not answer the API server."""


class _Begins(_Away):
    """An API server that begins does not know the rules yet."""


class _Attempt:
    """One attempt of one node, read to its end."""

    def __init__(
        self, api: Api, stores: Stores, jobs: _Jobs, found: _Found, number: int, offset: int, ended: Ended
    ) -> None:
        self._api = api
        self._tell_end = ended
        self._stores = stores
        self._jobs = jobs
        self._found = found
        self._number = number
        self._heard = Heard(at=offset)
        self._rotated = False
        self._all = False
        """What was read is all there is."""
        self._store = kept(found.snapshot.job)
        self._path = log.copy_path(self._store.folder, jobs.node, number)
        self._broken_at = -_BEGINS
        """When a connection broke, or ended, or there was none: the last time."""
        self.last = False
        """No other attempt follows this one; known by its own last word."""

    def chunks(self) -> Iterator[Chunk]:
        pause, moved, began = _FIRST_PAUSE, self._heard.at, time.monotonic()
        failing: float | None = None
        refused: float | None = None
        while True:
            ended, whole = self._found.ended, True
            try:
                yield from self._read(ended)
                failing = refused = None
            except ApiError as error:
                whole, now = False, time.monotonic()
                refused = refused or now
                if not isinstance(error, Unauthorized) or now - refused > LASTING:
                    raise
            except (Unreachable, _Away) as error:
                whole, now = False, time.monotonic()
                if isinstance(error, Unreachable):
                    self._broken_at = now
                failing = now if failing is None or self._heard.at != moved else failing
                if now - failing > _PATIENCE:
                    if not self._jobs.cluster_answers:
                        raise self._unreadable(error) from error
                    failing = None  # a job may be silent for hours, its node away for long: it is waited for
            if self._jobs.leaving.gone:
                return
            if self._heard.end is not None:
                if not self._found.ended:
                    self._tell_end(self._found.snapshot.job, self._name, self._heard.end)
                self.last = is_last(self._heard.end, self._found.snapshot.job, self._found.pod)
                return
            if whole and not ended and not self._jobs.follow:
                return
            if self._heard.at != moved:
                pause, moved, began = _FIRST_PAUSE, self._heard.at, time.monotonic()
                self._broken_at = began
            if whole and ended and self._all:
                return
            if whole and ended and self._has_settled(time.monotonic() - began):
                if self._is_cut:
                    yield self._loss(None, "the node does not show its end")
                return
            if not whole or ended:
                # The server is away, or cuts connections, or the node has not written all down: nothing tells when.
                self._jobs.leaving.pause(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            self._look_again(whole)

    def _unreadable(self, error: Unreachable | _Away) -> Unreachable:
        if isinstance(error, Unreachable):
            return error
        return Unreachable(
            what=f"the log of job {self._jobs.id} cannot be read",
            why=str(error),
            next="try again; %kube_attach goes on with it",
        )

    def _meant(self, error: ApiError) -> Exception:
        """What a refusal to read a log or to exec means."""
        if isinstance(error, Unauthorized) or self._is_forbidden(error):
            return error
        return (_Begins if isinstance(error, Forbidden) else _Away)(error.message)

    def _is_forbidden(self, error: ApiError) -> bool:
        return isinstance(error, Forbidden) and time.monotonic() - self._broken_at > _BEGINS

    def _has_settled(self, silence: float) -> bool:
        """A container ends before its node has written down its last lines."""
        return silence > (_DRAIN if self._is_cut else _DRAIN_KILLED)

    @property
    def _is_cut(self) -> bool:
        """The end is still missing: a runner that was not killed has written an end event."""
        return self._found.pod is not None and end_of(self._found.pod) is not None

    def _look_again(self, whole: bool) -> None:
        """What was followed has ended, so the container has: that is told by another connection, somewhat later."""
        try:
            found = self._jobs.now(self._number, ended=True, timeout=_SETTLE if whole else 0.0)
        except (ApiError, Unreachable):
            return  # the next read finds out
        if found is not None:
            self._found = found

    # Sources --------------------------------------------------------------------------------------------------------

    def _read(self, ended: bool) -> Iterator[Chunk]:
        """From the best source there is, to its end."""
        self._all = False
        if self._found.pod is not None and self._kubelet_first(ended):
            try:
                yield from self._from_kubelet(self._jobs.follow and not ended, bounded=not ended)
                return
            except Beheaded:
                self._rotated = True
            except Enough:
                pass
            except _Away:
                if not ended:
                    raise
        if ended:
            yield from self._after_all()
        else:
            yield from self._while_it_runs()

    def _kubelet_first(self, ended: bool) -> bool:
        """Whether it has all and is not slower than the other ways."""
        if self._rotated:
            return False
        if not ended:
            return self._heard.at < _REREAD
        if not self._store.stored:
            return True
        end = end_of(self._found.pod) if self._found.pod else None
        if end is None:
            return self._heard.at < _REREAD
        return not end.get("stored", True) or bool(self._broken) or end["account"].get("bytes", 0) < log.ENOUGH

    @property
    def _broken(self) -> str:
        """Why the runner's copy does not go to the end; empty: it does, as far as is known."""
        end = end_of(self._found.pod) if self._found.pod else None
        told = end["detail"].get("log") if end else None
        return f"the copy of the log broke off: {told.get('why')}" if isinstance(told, dict) else ""

    def _while_it_runs(self) -> Iterator[Chunk]:
        """The copy, in the job's own container."""
        follow = self._jobs.follow
        try:
            here = Container(self._api, self._name)
            copy = log.from_copy(here, self._path, self._heard.at, follow=follow, leaving=self._jobs.leaving)
            yield from self._take(copy)
        except NotFound as error:
            yield from self._without_copy(follow, error.why)
        except ApiError as error:
            if self._is_forbidden(error):
                yield from self._without_copy(follow, error.message)
            elif not not_running(error):
                raise self._meant(error) from error
            # Else it ended just now, which the caller looks for.

    def _after_all(self) -> Iterator[Chunk]:
        """What can be read once the container has ended: the store's copy, else what the kubelet has."""
        why = "there is none"
        if self._store.stored and (self._found.pod is None or (end_of(self._found.pod) or {}).get("stored", True)):
            try:
                yield from self._take(self._from_store())
                why = self._broken
                if not why:
                    self._all = True
                    return
            except (NotFound, StorageFailed) as error:
                why = error.why or error.what  # nothing was worth keeping, or somebody removed it
            except ApiError as error:
                if not self._is_forbidden(error):
                    raise self._meant(error) from error  # e.g. that pod ended just now
                why = error.message
        if self._found.pod is not None:
            try:
                yield from self._without_copy(False, why)
            except _Begins:
                raise
            except _Away as error:
                yield self._loss(None, f"the node does not show its log: {error}")
        elif self._found.snapshot.pods:
            yield self._loss(None, "its pod was removed, and there is no copy")

    def _from_store(self) -> Iterator[tuple[int, bytes]]:
        if self._store.url:
            path = log.copy_path(self._store.path, self._jobs.node, self._number)
            return UrlStore(self._store.url).read(path, self._heard.at)
        there, leaving = self._stores.open(self._found.snapshot.job), self._jobs.leaving
        return log.from_copy(there, self._path, self._heard.at, follow=False, leaving=leaving)

    def _without_copy(self, follow: bool, why: str) -> Iterator[Chunk]:
        try:
            yield from self._from_kubelet(follow, bounded=False)
            return
        except Beheaded:
            self._rotated = True
        why = f"the node has rotated its log, and the copy cannot be read: {why}"
        if self._heard.at:
            yield self._loss(None, why)
            if follow:
                yield from self._take(log.from_now(self._api, self._name, self._heard.at, self._jobs.leaving))
            return
        data, missing = log.what_is_left(self._api, self._name)
        if missing != 0:
            yield self._loss(missing, why)
        self._all = not follow
        yield from self._take(iter([(0, data)]))

    def _from_kubelet(self, follow: bool, *, bounded: bool) -> Iterator[Chunk]:
        leaving = self._jobs.leaving
        source = log.from_kubelet(self._api, self._name, follow=follow, bounded=bounded, leaving=leaving)
        try:
            for chunk in self._take(source):
                yield chunk
                if self._heard.end is not None:
                    return  # the container may stay long after its last word
        except ApiError as error:
            raise self._meant(error) from error

    def _take(self, source: Iterator[tuple[int, bytes]]) -> Iterator[Chunk]:
        for place, data in source:
            heard = self._heard
            known = max(0, heard.at - place)
            heard.take(data, known)
            if len(data) > known:
                yield Chunk(Cursor(self._number, place + known), data[known:])

    def _loss(self, lines: int | None, why: str) -> Chunk:
        self._all = True
        how_many = "lines" if lines is None else f"{lines} lines"
        text = f"[kube-nb: {how_many} of this log are lost: {why}]\n"
        start = "" if self._heard.line_start else "\n"
        return Chunk(Cursor(self._number, self._heard.at), f"{start}{text}".encode())

    @property
    def _name(self) -> str:
        assert self._found.pod is not None
        return self._found.pod["metadata"]["name"]
