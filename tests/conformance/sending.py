"""Jobs sent without a notebook, and what is left of them to look at."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kube_nb.backends.base import JobStatus
from kube_nb.client import Client
from kube_nb.events import Event, Text
from kube_nb.jobs.job import Job
from kube_nb.spec import Phase

FILENAME = "Cell In[1]"


class Notebook:
    """Names of a notebook and the cells that were run in it, without a kernel around them.

    Args:
        setup: its first cell, run here.
    """

    def __init__(self, setup: str = "", **names: Any) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__, **names}
        exec(compile(setup, "Cell In[0]", "exec"), self.names)


@dataclass(frozen=True)
class Sender:
    """Sends cells to one target.

    Attributes:
        client: of the target.
    """

    client: Client

    def __call__(self, source: str, names: Mapping[str, Any] | Notebook | None = None, **options: Any) -> Job:
        """Send a cell; its names are those of a fresh notebook unless one is given."""
        notebook = names if isinstance(names, Notebook) else Notebook(**(names or {}))
        return self.client.options(**options).cell(source, notebook.names, filename=FILENAME)

    def over(self, source: str, names: Mapping[str, Any] | Notebook | None = None, **options: Any) -> Job:
        """Send a cell and wait for its end."""
        return ended(self(source, names, **options))


def sent(client: Client, *others: Job) -> list[JobStatus]:
    """What the target still has of this test's jobs: a cluster has other people's too.

    Args:
        others: jobs that the journal has forgotten.
    """
    return client.backend.list(frozenset([*client.journal.ids(), *(job.id for job in others)]))


def remove_sent(client: Client) -> None:
    """Remove all that the client's state directory knows of, and the target still has."""
    for status in sent(client):
        client.backend.delete(status.id)


def own_jobs(client: Client) -> list[Job]:
    """The same as handles, newest first."""
    return [client.job(status.id) for status in sent(client)]


def ended(job: Job, within: float = 150) -> Job:
    """The job once it has ended; a job that does not is a failure of the test that tells what is known of it."""
    job.wait(timeout=within)
    assert job.phase.final, f"{job.id} is {job.phase} after {within} s\n{tail(job)}"
    return job


def running(job: Job, said: str = "ready", within: float = 150) -> list[str]:
    """The lines of a job up to the one that holds `said`."""
    deadline = time.monotonic() + within
    lines = []
    for line in job.logs(follow=True):
        lines.append(line)
        if said in line:
            return lines
        assert time.monotonic() < deadline, f"{job.id} never said {said!r}\n{tail(job)}"
    raise AssertionError(f"{job.id} ended without saying {said!r}: {job.phase} {job.reason}\n{tail(job)}")


def became(job: Job, phase: Phase, within: float = 60) -> Job:
    """The job once it is in this phase; later phases count too."""
    order = list(Phase)
    deadline = time.monotonic() + within
    while order.index(job.phase) < order.index(phase):
        assert time.monotonic() < deadline, f"{job.id} is {job.phase}, not {phase}: {job.reason}"
        time.sleep(0.01)
    return job


def tail(job: Job, most: int = 3000) -> str:
    """The end of the job's log, for the message of a failed test."""
    return "".join(job.logs())[-most:]


def code(job: Job) -> str:
    """The code of the reason why it ended; empty where there is none."""
    return job.reason.code if job.reason else ""


def written(job: Job) -> bytes:
    """Each byte of user text, of all ranks, in the order of the stream."""
    return b"".join(item.data for batch in job.follow(wait=False) for item in batch if isinstance(item, Text))


def events(job: Job, kind: str) -> list[Event]:
    """The events of one kind, in the order of the stream."""
    found = [item for batch in job.follow(wait=False) for item in batch if isinstance(item, Event)]
    return [event for event in found if event.kind == kind]


def account(data: bytes) -> dict[str, Any]:
    """What the runner's account of this text must be."""
    return {"bytes": len(data), "lines": data.count(b"\n"), "sha256": hashlib.sha256(data).hexdigest()}


def until(holds: Callable[[], Any], seconds: float = 120, what: str = "") -> Any:
    """The value of `holds()` once it is true.

    Raises:
        AssertionError: it never is.
    """
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"never came true: {what or holds}"
        time.sleep(0.01)
    return found


def files_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """What a folder holds, without what goes while it is read: a job that has ended tidies up behind."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


def gone(pid: int, within: float = 10) -> bool:
    """Whether a process has ended, or ends within so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False
