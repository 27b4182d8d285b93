"""Of jobs that run elsewhere: what was sent, so that a job can be run again, and what had to be brought here."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kube_nb.store.directory import Entry, changed, size_of

_FRESH = 3600.0
"""Seconds in which a bundle is still being made, or sent."""


def kept(state: Path, now: float) -> Iterator[Entry]:
    """All bundles and results below the state directory; `busy`: it is new, or somebody still sends it."""
    for folder, kind in (("bundles", "bundle"), ("results", "result")):
        try:
            names = os.listdir(state / folder)
        except OSError:
            continue
        for name in names:
            path = state / folder / name
            used = max(changed(path), changed(path / "objects"))
            if path.is_dir() and not path.is_symlink():
                busy = now - used < _FRESH or _held(path)
                yield Entry(path=path, kind=kind, used=used, size=size_of(path), busy=busy)


@contextmanager
def sending(bundle: Path) -> Iterator[None]:
    """Nobody removes it meanwhile, however old it is: a job may wait for it longer than things are kept."""
    fd = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def _held(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
