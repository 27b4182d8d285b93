"""The backend `local`."""

from __future__ import annotations

import builtins
import contextlib
import getpass
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path

from kube_nb.backends.base import (
    Bundle,
    Capability,
    Capacity,
    Carried,
    Chunk,
    Cursor,
    Finding,
    JobStatus,
    Rehearsal,
    Removed,
    Row,
    Subscription,
    refuse,
)
from kube_nb.backends.leaving import Leaving
from kube_nb.backends.local import lock, memory
from kube_nb.backends.local.admission import Admission
from kube_nb.backends.local.bus import Bus, Listener, runtime_directory, topic_of_changes, topic_of_job
from kube_nb.backends.local.directory import JobDirectory, valid_id
from kube_nb.backends.local.follow import follow as follow_stream
from kube_nb.backends.local.follow import read as read_stream
from kube_nb.backends.local.inherit import inherited
from kube_nb.backends.local.machine import machine, may_have_gpus
from kube_nb.backends.local.order import Machine, Order
from kube_nb.backends.local.preflight import demand_of, findings
from kube_nb.backends.local.retention import MAX_AGE, MAX_BYTES, clean
from kube_nb.backends.local.status import Statuses
from kube_nb.backends.local.submit import start_job
from kube_nb.backends.local.watch import Watch, supervisor_end
from kube_nb.config import Settings
from kube_nb.errors import BadValue, KubeNbError, NotFound, Refused, StorageFailed
from kube_nb.spec import DEFAULT_GPU, Digest, JobId, JobSpec
from kube_nb.store.directory import remove

_PATIENCE = 30.0
"""Seconds beyond a job's grace after which `delete` gives up on a supervisor that does not end."""


class LocalBackend:
    """Jobs on this machine: a directory and a detached supervisor each, so that they outlive the kernel.

    Args:
        state: the directory of all jobs; None: where this system keeps a user's state.
        max_age: seconds after which finished jobs are removed.
        max_bytes: size from which the oldest finished jobs are removed.
    """

    def __init__(self, state: Path | None = None, *, max_age: float = MAX_AGE, max_bytes: float = MAX_BYTES) -> None:
        if state is None:
            import platformdirs

            state = platformdirs.user_state_path("kube-nb")
        self.name = "local"
        self.where = f"this machine ({socket.gethostname()}), user {getpass.getuser()}"
        always = {Capability.MEMORY_LIMIT, Capability.ADMISSION, Capability.PROCESS_FAULTS}
        self.capabilities = frozenset(always | ({Capability.GPUS} if may_have_gpus() else set()))
        self._state = Path(os.path.abspath(state))
        self._retention = (int(max_bytes), float(max_age))
        self._statuses = Statuses(str(self._state))
        self._admission = Admission(str(self._state))

    def site(self, settings: Settings) -> Settings:
        """As the protocol says: what this machine says stands in a file, which has been read."""
        return settings

    def check(self, spec: JobSpec) -> list[Finding]:
        """As the protocol says."""
        if sys.platform == "win32":
            return findings(spec, Machine(cpu=0, memory=0, gpus=[]), samples=False)
        samples = bool(spec.resources.memory) and not _scope_program()
        return findings(spec, machine(os.environ, gpus=bool(spec.resources.gpu)), samples=samples)

    def rehearse(self, spec: JobSpec, bundle: Bundle) -> Rehearsal:
        """As the protocol says: a local job is a directory and processes, and asks for what its spec says."""
        return Rehearsal(findings=self.check(spec), resources=spec.resources)

    def platform(self, spec: JobSpec) -> None:
        """The kernel's own."""

    def submit(self, spec: JobSpec, bundle: Bundle, progress: Carried | None = None) -> JobId:
        """As the protocol says."""
        if not valid_id(spec.id):
            raise BadValue(what=f"`{spec.id}` is not a job id", next="use small letters, digits and dashes, 63 at most")
        refuse(self.check(spec))
        try:
            (self._state / "jobs").mkdir(parents=True, mode=0o700, exist_ok=True)
            number = self._admission.number()
        except OSError as failed:
            raise StorageFailed(
                what="the job was not started: its directory cannot be written",
                why=f"{failed.filename or self._state}: {failed.strerror or failed}",
                next="free some space there, or name another directory with %kube_config state_dir=PATH",
            ) from failed
        start_job(self._state, spec, bundle, self._order(spec, bundle, number))
        self._say(spec.id)
        return spec.id

    def list(self, ids: frozenset[JobId] | None = None, *, all_users: bool = False) -> builtins.list[JobStatus]:
        """As the protocol says; a state directory has one owner, so `all_users` finds no more."""
        names = self._statuses.ids() if ids is None else [id for id in ids if valid_id(id)]
        found = [status for status in map(self._statuses.read, names) if status]
        return sorted(found, key=lambda status: status.created, reverse=True)

    def subscribe(self, callback: Callable[[JobStatus], None], id: JobId | None = None) -> Subscription:
        """As the protocol says. `close` waits for a callback that is running in another thread."""
        if id is None:
            return self._watch.add(callback)
        return self._watch.add(lambda status: callback(status) if status.id == id else None)

    def stream(
        self,
        id: JobId,
        node: int = 0,
        cursor: Cursor = Cursor(),
        *,
        follow: bool = True,
        leaving: Leaving | None = None,
    ) -> Iterator[Chunk]:
        """As the protocol says."""
        job = self._job(id)
        if not follow:
            return read_stream(job, node, cursor)
        return follow_stream(job, str(self._state), self._bus, node, cursor, leaving or Leaving())

    def fetch(self, id: JobId, digest: Digest, destination: Path, progress: Carried | None = None) -> Path:
        """Where the object lies; `destination` is not needed here."""
        path = Path(self._job(id).out, "objects", digest)
        if len(digest) != 64 or not digest.isalnum() or not path.is_file():
            raise NotFound(what=f"job {id} has no object {digest[:12]}", why="it never wrote it, or it was removed")
        return path

    def bundle(self, id: JobId) -> Path:
        """As the protocol says."""
        path = Path(self._job(id).bundle)
        if not path.is_dir():
            raise NotFound(what=f"the bundle of job {id} is gone", next="send its cell again")
        return path

    def cancel(self, id: JobId, *, force_lost: bool = False) -> None:
        """As the protocol says: no machine but this one can be lost."""
        job = self._job(id)
        status = self._statuses.read(id)
        if status is None or status.phase.final:
            return
        with contextlib.suppress(OSError):  # a full disk: the signal is enough unless the supervisor is just starting
            os.close(os.open(job.cancel, os.O_WRONLY | os.O_CREAT, 0o600))
        owner = next(iter(lock.recorded(job.lock)), None)
        if owner is None:
            return  # it looks for the file once it can take signals
        if not owner.here:
            raise KubeNbError(
                what=f"job {id} cannot be cancelled from here",
                why="it runs on another machine or in another container that shares this directory",
                next="cancel it there",
            )
        if owner.runs:
            os.kill(owner.pid, signal.SIGINT)

    def delete(self, id: JobId) -> None:
        """As the protocol says."""
        job = self._job(id)
        status = self._statuses.read(id)
        if status is not None and not status.phase.final:
            self.cancel(id)
        self._wait_for_end(job)
        try:
            remove(Path(job.path))
        except OSError as failed:
            raise StorageFailed(
                what=f"job {id} could not be removed whole", why=f"{failed.filename}: {failed.strerror}"
            ) from failed
        self._say(id)

    def capacity(self) -> Capacity:
        """As the protocol says."""
        has = machine(os.environ, gpus=may_have_gpus())
        try:
            held = self._admission.held()
        except OSError:
            held = []
        gpus = len(has["gpus"])
        return Capacity(
            cpu=(max(0.0, has["cpu"] - sum(ticket.cpu for ticket in held)), has["cpu"]),
            memory=(max(0, has["memory"] - sum(ticket.memory for ticket in held)), has["memory"]),
            gpus={DEFAULT_GPU: (max(0, gpus - sum(ticket.gpus for ticket in held)), gpus)} if gpus else {},
        )

    def grant(self) -> str:
        """Nobody has to allow anything."""
        return ""

    def examine(self) -> builtins.list[Row]:
        """There is nothing that one of us may and another may not."""
        return []

    def clean(
        self, *, max_bytes: float | None = None, max_age: float | None = None, dry_run: bool = False
    ) -> builtins.list[Removed]:
        """As the protocol says: finished jobs, unused runners, environments and bundles."""
        most, longest = self._retention
        try:
            gone = clean(
                self._state,
                max_bytes=most if max_bytes is None else max_bytes,
                max_age=longest if max_age is None else max_age,
                dry_run=dry_run,
            )
        except OSError as failed:
            raise StorageFailed(
                what="not all could be removed", why=f"{failed.filename}: {failed.strerror}"
            ) from failed
        for entry in gone:
            if entry.kind == "job" and not dry_run:
                self._say(entry.path.name)
        return [Removed(kind=entry.kind, name=entry.path.name, size=entry.size) for entry in gone]

    def clean_store(self, *, dry_run: bool = False) -> builtins.list[Removed]:
        """As the protocol says: there is none."""
        raise Refused(
            what="there is no shared store on this machine",
            why="jobs here keep all in the state directory, each in its own folder",
            next="kube-nb clean removes what is old; kube-nb clean --store --on TARGET is for a cluster",
        )

    # Inside ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _bus(self) -> str:
        return runtime_directory(str(self._state), os.environ)

    @cached_property
    def _watch(self) -> Watch:
        return Watch(str(self._state), self._bus, self._statuses)

    def _job(self, id: str) -> JobDirectory:
        job = self._statuses.directory(id)
        if not valid_id(id) or not os.path.exists(job.state):
            raise NotFound(what=f"there is no job {id} on {self.where}", next="list your jobs with %kube_jobs")
        return job

    def _order(self, spec: JobSpec, bundle: Bundle, number: int) -> Order:
        has = machine(os.environ, gpus=bool(spec.resources.gpu))
        header = {
            "v": 1,
            "number": number,
            "id": spec.id,
            "name": spec.name,
            "label": spec.task.label,
            "owner": _owner(),
            "nodes": spec.resources.nodes,
            "runner": str(bundle.runner),
            "grace": spec.policy.grace,
            "created": time.time(),
        }
        return Order(
            job=self._statuses.directory(spec.id).path,
            state=str(self._state),
            bus=self._bus,
            header=header,
            python=sys.executable,
            runner=str(bundle.runner),
            nodes=spec.resources.nodes,
            retries=spec.policy.retries,
            grace=spec.policy.grace,
            demand=demand_of(spec, has),
            machine=has,
            parent=os.environ.get("KUBE_NB_JOB", ""),
            limit=spec.resources.memory or 0,
            scope=_scope_program() if spec.resources.memory else "",
            env={**inherited(os.environ), **bundle.env},
            retention=self._retention,
        )

    def _say(self, id: str) -> None:
        """Wake everybody who wants to know of this job."""
        bus = Bus(self._bus)
        try:
            bus.send(topic_of_changes(str(self._state)), id)
            bus.send(topic_of_job(str(self._state), id))
        finally:
            bus.close()

    def _wait_for_end(self, job: JobDirectory) -> None:
        """Until the supervisor has let go of the job's directory.

        Raises:
            KubeNbError: it does not end.
        """
        grace = (job.read_state() or {}).get("grace", 0.0)
        give_up = time.monotonic() + grace + _PATIENCE
        with Listener(self._bus, topic_of_job(str(self._state), job.id)) as listener:
            while lock.alive(job.lock):
                end = supervisor_end(job)
                poll = select.poll()
                poll.register(listener.fileno(), select.POLLIN)
                if end is not None:
                    poll.register(end, select.POLLIN)
                try:
                    poll.poll(1000)
                finally:
                    if end is not None:
                        os.close(end)
                listener.drain()
                if time.monotonic() > give_up:
                    raise KubeNbError(
                        what=f"job {job.id} does not end", why="its processes do not answer", next="try it again later"
                    )


@cache
def _scope_program() -> str:
    return memory.scope_program()


@cache
def _owner() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
