"""What every backend is: the protocol, and the values that pass through it."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kube_nb.backends.leaving import Leaving
from kube_nb.errors import Refused
from kube_nb.spec import Digest, JobId, JobSpec, Phase, Platform, Resources

if TYPE_CHECKING:
    from kube_nb.config import Settings


Carried = Callable[[int, int], None]
"""Called with (bytes that are there, bytes in all) while they are carried to or from a target."""


class Capability(StrEnum):
    """What a backend may be unable to do. A test that needs one is skipped, and counted, where it is not declared."""

    CONTAINERS = "containers"
    """Honours images, secrets, volumes, queues and patches."""
    MEMORY_LIMIT = "memory-limit"
    """Ends a job that uses more memory than it asked for."""
    GPUS = "gpus"
    """Can give a job GPUs at all (whether one is free now is capacity's word)."""
    ADMISSION = "admission"
    """Decides itself who may run now, by what is free here, which it knows."""
    PROCESS_FAULTS = "process-faults"
    """A test can kill the job's processes from this machine, by the ids that the job prints."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a job is in its phase, or why a target refuses it.

    Attributes:
        code: stable, for programs: "OutOfMemory".
        what, why, next: for a person: what happened, the cause, the one thing to do.
    """

    code: str
    what: str
    why: str = ""
    next: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One answer of the preflight: an error stops the submit, `ignored` names a flag without effect."""

    level: Literal["error", "warning", "ignored", "unknown"]
    reason: Reason


def refuse(findings: Sequence[Finding]) -> None:
    """Let nothing go on that an error stands against.

    Raises:
        Refused: one of them is an error; the first one gives the words.
    """
    for reason in [finding.reason for finding in findings if finding.level == "error"]:
        raise Refused(what=reason.what, why=reason.why, next=reason.next, findings=tuple(findings))


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a job needs from its kernel, on disk and content-addressed.

    Attributes:
        digest: of the manifest's bytes.
        directory: holds `manifest.json`, `manifest.hmac` and `objects/<sha256>`. The backend may take it over (rename).
        runner: directory of the runner object, shared by many jobs, named by its digest.
        key: signs the manifest and the results; kept 0600, never on a command line.
        size: bytes of all objects.
        env: variables of the job. Secret: never written into a spec, label, log or record.
        notes: sentences that only packing found out.
    """

    digest: Digest
    directory: Path
    runner: Path
    key: bytes = field(repr=False)
    size: int = 0
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a submit would do, found out with nothing made.

    Attributes:
        findings: what stands against it, by the numbers that it would have.
        resources: what each node would ask for, the target's defaults among it.
        rows: what else a person should know, each a word and a sentence: how what it needs gets there, where what it
            makes is kept.
        objects: what would be made, as manifests that other tools take, secrets left out; empty where nothing is.
    """

    findings: list[Finding]
    resources: Resources
    rows: tuple[tuple[str, str], ...] = ()
    objects: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """What a backend knows of one job.

    Attributes:
        id, name, label: as submitted.
        phase: where it stands; reason: why, or None where there is nothing to say.
        created, started, ended: seconds since the epoch by the backend's clock.
        attempt: which try runs or ran last, from 0.
        nodes: how many streams each attempt has.
        owner: who submitted it.
        asks: what each node was given, the target's defaults among it; None: what the spec says.
        end: the runner's last word (`runner/ending.py`), empty before.
        unheard: nothing newer is known, as `reason` says: this is how it was last seen.
    """

    id: JobId
    name: str
    label: str
    phase: Phase
    reason: Reason | None = None
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    attempt: int = 0
    nodes: int = 1
    owner: str = ""
    asks: Resources | None = None
    end: Mapping[str, Any] = field(default_factory=dict[str, Any])
    unheard: bool = False


@dataclass(frozen=True)
class Cursor:
    """A place in a node's log: byte `offset` of the stream of try `attempt`."""

    attempt: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Chunk:
    """Bytes of a stream and the place where they begin."""

    at: Cursor
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What is free and what there is; None: not known to this user.

    Attributes:
        note: why not, with the missing right. yaml: what somebody with more rights would apply.
    """

    cpu: tuple[float, float] | None = None
    memory: tuple[int, int] | None = None
    gpus: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    note: str = ""
    yaml: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that was looked at.

    Attributes:
        name: what was looked at, in a word.
        state: `warning`: it works without, or nobody knows; `error`: jobs cannot run.
        text: one sentence.
        yaml: what somebody with more rights would apply, where something is missing.
    """

    name: str
    state: Literal["ok", "warning", "error"] = "ok"
    text: str
    yaml: str = ""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """One thing that was, or would be, removed to make room.

    Attributes:
        kind: in a word: "job", "environment", "bundle", "result", "transfer", "store".
        name: of a job its id.
        size: bytes that it took; 0 where nobody counted them.
    """

    kind: str
    name: str
    size: int = 0


class Subscription(Protocol):
    def close(self) -> None:
        """No callback begins after this returns. Closing twice is fine."""


class Backend(Protocol):
    """Where jobs run. A backend knows nothing of magics, notebooks or studies; callers know nothing of pods.

    Every method may be called from any thread. Methods raise only children of KubeNbError.
    """

    name: str
    """How a person calls this target: "local", a context, a named target."""
    capabilities: frozenset[Capability]

    @property
    def where(self) -> str:
        """Cluster, namespace and user, or this machine, as shown on every card."""
        ...

    def site(self, settings: Settings) -> Settings:
        """These settings with what the target itself says for all who use it.

        Raises:
            BadValue: what it says means nothing.
            Locked: a layer overrides what the target locks.
        """
        ...

    def check(self, spec: JobSpec) -> list[Finding]:
        """What stands against this job here, before it is packed, so by the least that it will ask for. Nothing is
        changed."""
        ...

    def rehearse(self, spec: JobSpec, bundle: Bundle) -> Rehearsal:
        """What `submit` would do with these. Nothing is changed.

        Raises:
            Refused: what `submit` would refuse, and `check` does not look at.
        """
        ...

    def platform(self, spec: JobSpec) -> Platform | None:
        """What packages are installed for; None: the job has the kernel's own interpreter and packages."""
        ...

    def submit(self, spec: JobSpec, bundle: Bundle, progress: Carried | None = None) -> JobId:
        """Start the job `spec.id` and return that id.

        Calling again with the same id finds the same job: a lost answer makes no second one.

        Raises:
            Refused: the target said no; `.findings` tells why.
            StorageFailed: there is no room for the job, or its place cannot be written.
            Unreachable: nobody answered; nothing was started, or the next `submit` will find it.
        """
        ...

    def list(self, ids: frozenset[JobId] | None = None, *, all_users: bool = False) -> list[JobStatus]:
        """These jobs (unknown ids are left out), or all of one's own, newest first, as they stand now.

        Raises:
            Refused: the target knows the user no more, or lets them no more.
            Unreachable: nobody answered.
        """
        ...

    def subscribe(self, callback: Callable[[JobStatus], None], id: JobId | None = None) -> Subscription:
        """Call back with every job's status, or one's, now and at each change, from a thread of the backend's own.

        One watch serves all jobs. A deleted job is no more heard of. While the target does not answer, the reason of
        each job that has not ended says so.
        """
        ...

    def stream(
        self,
        id: JobId,
        node: int = 0,
        cursor: Cursor = Cursor(),
        *,
        follow: bool = True,
        leaving: Leaving | None = None,
    ) -> Iterator[Chunk]:
        """The bytes of a node's stream from `cursor` on, through all later attempts.

        With `follow`, blocks while the job may still write and returns when it has ended; else returns what is there.

        Args:
            leaving: returns within seconds, too, once the reader leaves.

        Raises:
            NotFound: there is no such job.
            Refused: the target knows the user no more, or lets them no more.
            Unreachable: the target has not answered for minutes.
        """
        ...

    def fetch(self, id: JobId, digest: Digest, destination: Path, progress: Carried | None = None) -> Path:
        """Put an object the job wrote at `destination`, or say where it already lies on this machine.

        Returns:
            the path where it lies; the caller verifies its digest.

        Raises:
            NotFound: the job wrote no such object, or it was removed.
        """
        ...

    def bundle(self, id: JobId) -> Path:
        """Where the bundle of a job lies on this machine.

        Raises:
            NotFound: it was removed, or was never here.
        """
        ...

    def cancel(self, id: JobId, *, force_lost: bool = False) -> None:
        """Ask the job to end: SIGTERM to every rank, grace, SIGKILL. Returns at once; a final job is left as it is.

        Args:
            force_lost: do not wait for machines that are not heard of any more; what runs there may go on.
        """
        ...

    def delete(self, id: JobId) -> None:
        """Remove a job and all that is left of it; a live one is cancelled first. Waits until nothing is left."""
        ...

    def clean(self, *, max_age: float, dry_run: bool = False) -> builtins.list[Removed]:
        """Keep what one's own jobs left here within an age in seconds and the retention's size; of live jobs nothing.

        What all share and nobody uses, such as installed packages, goes by the same rule. What submits left that were
        cut off goes as soon as that is sure.

        Returns:
            what was, or with `dry_run` would be, removed.

        Raises:
            StorageFailed, Unreachable: something could not be removed.
        """
        ...

    def clean_store(self, *, dry_run: bool = False) -> builtins.list[Removed]:
        """Remove the store that all jobs of this place share, with whatever is in it.

        Raises:
            Refused: a live job needs it, or it is not ours.
        """
        ...

    def capacity(self) -> Capacity:
        """What is free here."""
        ...

    def grant(self) -> str:
        """The least that somebody must be allowed here, as YAML for whoever grants it; empty where nobody has to."""
        ...

    def examine(self) -> list[Row]:
        """What the doctor says of this target beyond what is free: who asks, what they may, what is missing."""
        ...
