"""A directory as a store: how much lies in it, what of it may go, and how it goes.

Knows nothing of jobs: who keeps things there says what is in use.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LEAVING = ".leaving-"
"""Begins the name of what is being removed: it is gone for everybody the moment it is renamed."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that is kept as a whole.

    Attributes:
        path: where it lies.
        kind: for a person: "job", "runner", "environment".
        used: when it was used last, seconds since the epoch.
        size: bytes on disk.
        busy: somebody needs it now.
    """

    path: Path
    kind: str
    used: float
    size: int
    busy: bool = False


def changed(path: Path) -> float:
    """When a file or folder was changed, in seconds since the epoch; 0 where it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def link(source: Path, target: Path) -> None:
    """Let a file lie at `target` too, whole or not at all; what is there already stays.

    Raises:
        OSError: there is no such file, or no room for a copy where the file system makes no link.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:  # another file system, or one without links
        fd, draft = tempfile.mkstemp(prefix=".link-", dir=target.parent)
        os.close(fd)
        try:
            shutil.copyfile(source, draft)
            os.replace(draft, target)
        except BaseException:
            os.unlink(draft)
            raise


def size_of(path: Path) -> int:
    """Bytes that removing `path` would free, about; what vanishes meanwhile counts nothing."""
    total = 0
    waiting = [str(path)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    try:
                        found = entry.stat(follow_symlinks=False)
                        total += found.st_blocks * 512 // max(1, found.st_nlink)
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                    except OSError:
                        continue
        except OSError:
            continue
    return total


def surplus(entries: Iterable[Entry], *, max_bytes: float, max_age: float, now: float) -> list[Entry]:
    """What has to go: all that was not used for `max_age` seconds, then the oldest until `max_bytes` hold the rest.

    Example:
        >>> old = Entry(path=Path("a"), kind="job", used=0, size=5)
        >>> new = Entry(path=Path("b"), kind="job", used=9, size=5)
        >>> [e.path.name for e in surplus([new, old], max_bytes=5, max_age=100, now=10)]
        ['a']
    """
    everything = sorted(entries, key=lambda entry: entry.used)
    total = sum(entry.size for entry in everything)
    going = []
    for entry in everything:
        if not entry.busy and (now - entry.used > max_age or total > max_bytes):
            going.append(entry)
            total -= entry.size
    return going


def remove(path: Path) -> None:
    """Remove a directory, gone for everybody at once, read-only parts of it too.

    Raises:
        OSError: it could not be removed; what is left has a name that nobody looks for.
    """
    if not path.name.startswith(LEAVING):
        leaving = path.with_name(f"{LEAVING}{path.name}.{secrets.token_hex(4)}")
        try:
            path.rename(leaving)
        except FileNotFoundError:
            return
        path = leaving
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        _make_writable(path)
        shutil.rmtree(path)


def _make_writable(path: Path) -> None:
    """Directories alone: what is in one may be removed when the directory itself may be written."""
    path.chmod(0o700)
    for directory, names, _ in os.walk(path):
        for name in names:
            child = Path(directory, name)
            if not child.is_symlink():
                child.chmod(0o700)
