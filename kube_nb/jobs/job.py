"""A job: the handle a person holds. Truth is where the job is; what is here is only what was read of it."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kube_nb.backends.base import Backend, Carried, JobStatus, Reason, Subscription
from kube_nb.backends.reasons import unheard
from kube_nb.errors import Corrupted, JobFailed, NotFound, Refused, Unreachable
from kube_nb.events import Text
from kube_nb.jobs.failure import exception_of, failed
from kube_nb.jobs.follow import follow
from kube_nb.jobs.lines import Lines
from kube_nb.jobs.outputs import RESULT, Outputs, kernel_namespace, signature
from kube_nb.jobs.patience import Patience, outages_told
from kube_nb.jobs.replay import Replay
from kube_nb.runner import graph
from kube_nb.runner.classes import own_class
from kube_nb.runner.objects import CorruptedObject, Objects
from kube_nb.spec import JobId, Phase, Resources, spec_from

if TYPE_CHECKING:
    from kube_nb.jobs.journal import Entry, Journal


_LOOK_AGAIN = 5.0
"""Seconds after which one who waits for a job asks whether it is still there."""


class Job:
    """A cell, function or script that was sent to a target.

    Attributes:
        id: what the target calls it.
        name: what the person called it.
        target: where it is, as `--on` names it.

    Example:
        >>> job = Client().train(sum, [1, 2, 3])  # doctest: +SKIP
        >>> job.wait().phase, job.result()  # doctest: +SKIP
        (Succeeded, 6)
    """

    def __init__(self, backend: Backend, id: JobId, entry: Entry | None = None, *, key: bytes | None = None) -> None:
        self._backend = backend
        self.id = id
        self._entry = entry
        self._key = key if key is not None else bytes.fromhex(entry.key) if entry else None
        self._replay: Replay | None = None
        self._outputs: Outputs | None = None
        self._status: JobStatus | None = None
        self.shared: dict[str, Any] = {}
        """Classes and values of the submitting kernel; empty where another process holds the job."""
        self.fetching: Carried | None = None
        """Told how far it is when something large is brought here."""

    # What it is -----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._entry.name if self._entry else self.status().name

    @property
    def target(self) -> str:
        return self._backend.name

    @property
    def where(self) -> str:
        """Cluster, namespace and user, or this machine."""
        return self._backend.where

    @property
    def entry(self) -> Entry | None:
        """What this machine's journal knows of the submit; None: it was submitted elsewhere."""
        return self._entry

    def remember(self, entry: Entry, journal: Journal) -> None:
        """Replace what the journal knows of the submit."""
        journal.write(entry)
        self._entry = entry

    def status(self) -> JobStatus:
        """What the target says now.

        Raises:
            NotFound: the job was deleted.
            Refused, Unreachable: the target does not tell.
        """
        if self._status is None or not self._status.phase.final:
            found = self._backend.list(frozenset({self.id}))
            if not found:
                raise NotFound(
                    what=f"job {self.id} is not on {self.target} any more",
                    why="it was deleted, or its retention has ended",
                    next="list your jobs with %kube_jobs",
                )
            self._status = found[0]
        return self._status

    def last_seen(self, error: Refused | Unreachable) -> JobStatus:
        """What the target said last; the reason is that it tells nothing newer.

        Raises:
            Refused, Unreachable: it has said nothing yet.
        """
        if self._status is None:
            raise error
        return replace(self._status, reason=unheard(error), unheard=True)

    @property
    def phase(self) -> Phase:
        """Pending, Starting, Running, Succeeded, Failed or Cancelled."""
        return self.status().phase

    @property
    def reason(self) -> Reason | None:
        """Why it is in its phase: a stable `code` and `what`, `why`, `next` in words; None: nothing to say."""
        return self.status().reason

    @property
    def asks(self) -> Resources:
        """What each node was given: the target's defaults among it, where it has some."""
        return self.asks_by(self.status())

    def asks_by(self, status: JobStatus) -> Resources:
        """The same, by what the target has said before."""
        given = status.asks
        try:
            sent = spec_from(self._entry.spec).resources if self._entry else Resources()
        except (KeyError, TypeError):  # written by another version
            sent = Resources()
        return sent if given is None else replace(given, procs=sent.procs)

    # What it wrote --------------------------------------------------------------------------------------------------

    def follow(self, *, wait: bool = True) -> Iterator[list[Any]]:
        """Batches of text and events from the first byte on; ends when the job has ended."""
        status_nodes = (self._entry.nodes, self._entry.procs) if self._entry else (self.status().nodes, 1)
        replay = Replay()
        for batch in follow(self._backend, self.id, nodes=status_nodes[0], procs=status_nodes[1], wait=wait):
            replay.take(batch)
            yield batch
        with suppress(Refused, Unreachable):  # who waits for its end goes on waiting; the stream is then read again
            if self.status().phase.final:
                self._replay = replay

    def logs(self, follow: bool = False, rank: int | None = None) -> Iterator[str]:
        """The text of the job, line by line, each with its newline.

        Args:
            follow: go on until the job has ended.
            rank: of this rank alone; None: of all, each line prefixed with its rank when there is more than one.
        """
        world = self._entry.nodes * self._entry.procs if self._entry else self.status().nodes
        lines = Lines(prefixed=rank is None and world > 1, only=rank)
        with outages_told(self) if follow else nullcontext():
            for batch in self.follow(wait=follow):
                for item in batch:
                    if isinstance(item, Text):
                        yield from lines.add(item.rank, item.data)
            yield from lines.close()

    def metrics(self) -> list[dict[str, Any]]:
        """What the job reported with `kn.report`: one dict each, with rank, attempt, step and time."""
        return list(self._read().metrics)

    def _read(self) -> Replay:
        """All the stream has said; read again unless the job has ended and it was read to its end."""
        if self._replay is not None:
            return self._replay
        replay = Replay()
        nodes, procs = (self._entry.nodes, self._entry.procs) if self._entry else (self.status().nodes, 1)
        for batch in follow(self._backend, self.id, nodes=nodes, procs=procs, wait=False):
            replay.take(batch)
        if self.status().phase.final:
            self._replay = replay
        return replay

    # Waiting --------------------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> Job:
        """Return when the job has ended, whatever its end, or after `timeout` seconds.

        A target that does not answer any more is waited for: the job goes on there.

        Raises:
            NotFound: the job was deleted.
            Refused: the target no longer accepts who asks, and has not for a while.
            Unreachable: the target has not answered even once.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        ended = threading.Event()

        def heard(status: JobStatus) -> None:
            if status.phase.final:
                self._status = status
                ended.set()

        patience = Patience(self)
        subscription = self.subscribe(heard)
        try:
            # A deleted job is no more heard of, so it is looked for now and then.
            while not patience.sees_the_end():
                left = _LOOK_AGAIN if give_up is None else min(_LOOK_AGAIN, give_up - time.monotonic())
                if left <= 0:
                    break
                ended.wait(left)
        finally:
            subscription.close()
        return self

    def subscribe(self, callback: Callable[[JobStatus], None]) -> Subscription:
        """Call back, from another thread, with the status of this job now and at each change."""
        return self._backend.subscribe(callback, self.id)

    def __await__(self) -> Generator[Any, None, Job]:
        return asyncio.get_running_loop().run_in_executor(None, self.wait).__await__()

    # What it gives back ---------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> Outputs:
        """The names the job gives back, and what it named with `kn.output`. Waits for the end of the job.

        Raises:
            JobFailed: it failed and gave nothing back; the original exception is the cause where it can be loaded.
            NotFound: it succeeded, and the part of its log that says what it gave back is lost.
        """
        if self._outputs is None:
            self.wait()
            read = self._read()
            if read.result is None and not read.produced:
                self.raise_if_failed()
                self._raise_if_lost()
            index = self._verified(*read.result, "index") if read.result else {}
            self._outputs = Outputs(self, index, read.produced)
        return self._outputs

    def result(self) -> Any:
        """What the function returned; for a cell, a dict of the names that came back. Waits for the end of the job.

        Raises:
            JobFailed: the job failed; the original exception is the cause where it can be loaded.
        """
        self.wait()
        self.raise_if_failed()
        values = self.outputs.values_now()
        return values.get(RESULT) if self._entry is None or self._entry.returns else dict(values)

    def exception(self) -> BaseException | None:
        """The exception the user's code ended with, as the notebook shows it; None: it ended otherwise. Waits."""
        self.wait()
        read = self._read()
        if self.phase is not Phase.FAILED or read.error is None:
            return None
        error = self._verified(*read.error, "error")
        return exception_of(error, self._original(error), self.id)

    def raise_if_failed(self) -> None:
        """Say so where the job did not succeed.

        Raises:
            JobFailed: with the original exception as its cause where it can be loaded.
        """
        status = self.status()
        if status.phase is Phase.SUCCEEDED:
            return
        reason = status.reason or Reason(code=str(status.phase), what=f"it is {status.phase}")
        raise failed(self.id, reason) from self.exception()

    def _raise_if_lost(self) -> None:
        """Say so where a job that succeeded has, or may have, announced a result that its log does not show."""
        if self.status().end.get("result", "unknown") is not None:
            raise NotFound(
                what=f"what job {self.id} gave back is not known",
                why="the end of its log, which says it, is lost or cannot be read",
                next="look at %kube_logs " + self.id + ", or send it again",
            )

    def _original(self, error: dict[str, Any]) -> BaseException | None:
        reference = error.get("pickle")
        if not reference:
            return None
        try:
            loaded = self.load(reference)["exception"]
        except Exception:  # noqa: BLE001 - any failure of foreign __setstate__ means: show it by name instead
            return None
        return loaded if isinstance(loaded, BaseException) else None

    def _verified(self, attempt: int, data: dict[str, Any], field: str) -> dict[str, Any]:
        """The content of a signed event.

        Raises:
            Corrupted: it was not signed by this user's own job.
        """
        if self._key is None:
            raise Corrupted(
                what=f"the values of job {self.id} are not loaded",
                why="it was not submitted by you from this machine, so nothing proves who wrote them",
                next="its text and displays still show: %kube_logs " + self.id,
            )
        content = data.get(field, {})
        if signature(self._key, self.id, attempt, **{field: content}) != data.get("hmac"):
            raise Corrupted(
                what=f"the values of job {self.id} are not what the job signed",
                why="its stream was changed after it was written",
                next="run it again: nothing of it was loaded",
            )
        return content

    def load(self, reference: dict[str, Any]) -> dict[str, Any]:
        """The values of a graph the job signed, bound to this kernel's names and classes."""
        try:
            return graph.load(
                reference, namespace=kernel_namespace(), objects=self._objects(reference), classes=self._class
            )
        except CorruptedObject as error:
            raise self._corrupted(error) from error

    def read_object(self, digest: str, size: int | None = None) -> bytes | bytearray:
        """An object the job wrote, verified."""
        try:
            return self._objects({"buffers": [digest]}).read(digest, size)
        except CorruptedObject as error:
            raise self._corrupted(error) from error

    def produced(self, attempt: int, record: dict[str, Any]) -> Any:
        """What a `kn.output` record stands for: the value, or the bytes of a file.

        Raises:
            Corrupted: it is a pickle that this user's own job has not signed, or a file that was changed.
        """
        if "graph" in record:
            content = {key: value for key, value in record.items() if key != "hmac"}
            signed = self._verified(attempt, {"output": content, "hmac": record.get("hmac")}, "output")
            return self.load(signed["graph"])["value"]
        if "object" in record:
            return self.read_object(record["object"], record.get("size"))
        return record.get("value")

    def place_of(self, reference: dict[str, Any]) -> Path:
        """The directory on this machine that holds the objects of a graph."""
        return self._objects(reference).directory

    def _corrupted(self, error: CorruptedObject) -> Corrupted:
        return Corrupted(
            what=f"what job {self.id} wrote is damaged", why=str(error), next=f"run it again: %kube_rerun {self.id}"
        )

    def _objects(self, reference: dict[str, Any]) -> Objects:
        """The directory on this machine that holds all objects of a reference, fetched where they lie elsewhere."""
        digests = [*reference.get("buffers", []), *([] if "data" in reference else [reference.get("pickle")])]
        local: Path | None = None
        for digest in filter(None, digests):
            local = self._backend.fetch(self.id, digest, self._cache() / digest, self.fetching).parent
        return Objects(local or self._cache())

    def _cache(self) -> Path:
        if "cache" not in self.shared:
            self.shared["cache"] = tempfile.TemporaryDirectory(prefix="kube-nb-")
        return Path(self.shared["cache"].name)

    def _class(self, identity: graph.ClassId) -> type:
        """The kernel's own class for one that travelled; where the kernel has none, as it was sent."""
        try:
            return own_class(identity, kernel_namespace())
        except graph.UnknownClass:
            # Another kernel than the one that sent the job: the bundle, which is one's own, holds the definition.
            bundle = self._backend.bundle(self.id)
            manifest = json.loads((bundle / "manifest.json").read_bytes())
            graph.load(manifest["graph"], namespace=kernel_namespace(), objects=Objects(bundle / "objects"))
            for cls, known in graph.notebook_classes().items():
                if known == identity:
                    return cls
            raise

    # Ending it ------------------------------------------------------------------------------------------------------

    def cancel(self, *, force_lost: bool = False) -> None:
        """Ask the job to end; returns at once. A job that has ended stays as it is.

        Args:
            force_lost: do not wait for machines that are not heard of any more; what runs there may go on.
        """
        self._backend.cancel(self.id, force_lost=force_lost)

    def delete(self) -> None:
        """Remove the job and all that is left of it; a live one is cancelled first."""
        self._backend.delete(self.id)

    # Showing it -----------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<job {self.id} on {self.target}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from kube_nb.jobs.card import bundle, snapshot

        if self.shared.pop("drawn", False):  # its live card stands right above
            return {"text/plain": repr(self)}
        return bundle(snapshot(self))


def elapsed(status: JobStatus) -> float:
    """Seconds from the start of the code to its end, or till now."""
    start = status.started or status.created
    return max(0.0, (status.ended or time.time()) - start)


__all__ = ["Job", "JobFailed", "elapsed"]
