"""What of the state directory goes, and when: finished jobs, unused runners and environments,
bundles that were sent elsewhere, half-made submits."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from kube_nb.backends.local import lock
from kube_nb.backends.local.directory import JobDirectory, job_ids
from kube_nb.store import bundles
from kube_nb.store.directory import LEAVING, Entry, changed, remove, size_of, surplus

MAKING = ".making-"
"""Begins the name of a job's directory until it can be seen."""
MAX_AGE = 7 * 86400.0
MAX_BYTES = 20 * 10**9
_ORPHANED = 3600.0
_FINAL = frozenset({"Succeeded", "Failed", "Cancelled"})


def clean(state: Path, *, max_bytes: float = MAX_BYTES, max_age: float = MAX_AGE, dry_run: bool = False) -> list[Entry]:
    """Remove what is older than `max_age` seconds, then the oldest until the rest fits `max_bytes`; no live job ever.

    Returns:
        what was, or with `dry_run` would be, removed.

    Raises:
        OSError: something could not be removed.
    """
    now = time.time()
    going = [*surplus(_entries(state, now), max_bytes=max_bytes, max_age=max_age, now=now), *_orphans(state, now)]
    if not dry_run:
        for entry in going:
            remove(entry.path)
    return going


def sweep(stamp: str, *, max_bytes: float, max_age: float) -> None:
    """`clean` the directory where `stamp` lies, and renew it. What cannot be removed now is tried again next time.

    Where the last time seems longer ago than anything is kept, the clock may have jumped, which must not cost anybody a
    result: then nothing is old, until the next time.
    """
    try:
        since = abs(time.time() - os.stat(stamp).st_mtime) if os.path.exists(stamp) else 0.0
        Path(stamp).touch(0o600)
        max_age = float("inf") if since > max_age else max_age
        clean(Path(stamp).parent, max_bytes=max_bytes, max_age=max_age)
    except OSError as failed:
        print(f"retention: {failed}")


def _entries(state: Path, now: float) -> Iterator[Entry]:
    runners: set[str] = set()
    oldest_live = now
    for name in job_ids(f"{state}/jobs"):
        job = JobDirectory(f"{state}/jobs/{name}")
        status = job.read_state()
        if status is None:
            continue  # not ours
        busy = status.get("phase") not in _FINAL and lock.alive(job.lock)
        used = status.get("ended") or status.get("created") or now
        if busy:
            runners.add(str(status.get("runner")))
            oldest_live = min(oldest_live, status.get("created") or now)
        path = Path(job.path)
        yield Entry(path=path, kind="job", used=used, size=size_of(path), busy=busy)
    for path, used in _children(state / "runners"):
        busy = str(path) in runners
        yield Entry(path=path, kind="runner", used=used, size=size_of(path), busy=busy or now - used < _ORPHANED)
    for path, used in _children(state / "environments"):
        # Each job that uses one marks it so when it starts.
        busy = used >= oldest_live or now - used < _ORPHANED
        yield Entry(path=path, kind="environment", used=used, size=size_of(path), busy=busy)
    yield from bundles.kept(state, now)


def _orphans(state: Path, now: float) -> Iterator[Entry]:
    """Submits and removals that were killed half-way."""
    for directory in (state / "jobs", state / "runners", state / "environments"):
        for path, used in _children(directory, hidden=True):
            if path.name.startswith((MAKING, LEAVING)) and now - used > _ORPHANED:
                yield Entry(path=path, kind="half-made job", used=used, size=size_of(path))


def _children(directory: Path, *, hidden: bool = False) -> Iterator[tuple[Path, float]]:
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        path = directory / name
        if name.startswith(".") == hidden and path.is_dir() and not path.is_symlink():
            yield path, changed(path)
