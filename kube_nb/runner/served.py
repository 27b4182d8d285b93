"""What of a container that lingers was taken by somebody: once that is all of it, nothing holds the container."""

from __future__ import annotations

import os
from contextlib import suppress

from . import visits
from .stream import KUBELET_KEEPS

_FOLDER = "served"
_LONG_LOG = KUBELET_KEEPS // 8
"""A log of fewer bytes may be whole in the kubelet's, which has some 60 bytes more for each line: nobody must read it
here."""


def note(run: str, path: str) -> None:
    """Somebody took this file, below the folder `run`, to its end; whoever waits for the last of them is told."""
    if not path.startswith(f"{run}/"):
        return
    with suppress(OSError):  # then it waits for as long as it was told to
        folder = os.path.join(run, _FOLDER)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        os.close(os.open(os.path.join(folder, os.path.basename(path)), os.O_WRONLY | os.O_CREAT, 0o600))
        if all_taken(run):
            visits.Visit(run).say("release")


def all_taken(run: str) -> bool:
    """Whether the job has ended and somebody has all of it: who reads its last word may be quicker than its end."""
    taken = _names(os.path.join(run, _FOLDER))
    return bool(taken) and _ended(run) and all(name in taken for name in _wanted(run))


def _ended(run: str) -> bool:
    return any(name.endswith(".end") for name in _names(os.path.join(run, "log")))


def _wanted(run: str) -> list[str]:
    """What is nowhere else: the objects, and a log that is too long for the kubelet."""
    folder = os.path.join(run, "log")
    logs = [name for name in _names(folder) if not name.endswith((".end", ".live"))]
    long = [name for name in logs if os.stat(os.path.join(folder, name)).st_size >= _LONG_LOG]
    objects = [name for name in _names(os.path.join(run, "out", "objects")) if not name.startswith(".")]
    return [*objects, *long]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
