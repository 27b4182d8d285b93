"""What a client starts in a container by exec: reads a log, moves objects, signals the runner, tidies the store.

`python3 -I -S runner.zip tool VERB ...`; an image needs no shell, no `tail`, no `tar`, no `kill`.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import stat
import sys
from contextlib import suppress

from . import served, visits
from .pipes import BrokenOff, Out

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_BLOCK = 1 << 20
_INPUT = 0
_LISTENS_SOON = 10.0
"""Seconds in which a runner that was started hears signals."""
_LOOK_AGAIN = 1.0
"""Seconds between two looks at a file that another machine may be writing, of which no event tells."""


class Refused(Exception):
    """The tool was asked for something that it must not or cannot do; its words are for a person."""


def main(argv: list[str]) -> NoReturn:
    """Do what the words say and exit: 0, 1 where it failed, 2 where it was refused; the why goes to stderr."""
    base = os.environ.get("KUBE_NB_BASE", "/kube-nb")
    run = os.path.join(base, "run")
    verbs: dict[str, Callable[[], int]] = {
        "read": lambda: read(*argv[1:], run=run),
        "put": lambda: put(*argv[1:], tell=run),
        "get": lambda: get(*argv[1:], run=run),
        "list": lambda: listing(*argv[1:]),
        "signal": lambda: send_signal(run, *argv[1:]),
        "release": lambda: release(run),
        "remove": lambda: remove(os.path.join(base, "store", "jobs"), *argv[1:]),
        "forget": lambda: forget(os.path.join(base, "store", "environments"), *argv[1:]),
        "usage": lambda: usage(os.path.join(base, "store"), *argv[1:]),
        "idle": lambda: idle(run, *argv[1:]),
    }
    status = 2
    try:
        if not argv or argv[0] not in verbs:
            raise Refused(f"there is no tool {' '.join(argv[:1])!r}; there are {', '.join(verbs)}")
        if argv[0] == "idle":
            status = verbs[argv[0]]()
        else:
            with visits.Visit(run):
                status = verbs[argv[0]]()
    except (Refused, TypeError, ValueError) as error:
        _complain(error)
    except (OSError, BrokenOff) as error:
        status = 1
        _complain(error)
    os._exit(status)


# Reading --------------------------------------------------------------------------------------------------------------


def read(path: str, offset: str = "0", follow: str = "", *, run: str = "") -> int:
    """The bytes of a file from `offset` on, to stdout; with `--follow` until `PATH.end` is there and all was read.

    Raises:
        OSError: there is no such file (with `--follow` it may yet come), or nobody takes what is read.
    """
    place, following = int(offset), follow == "--follow"
    out = Out()
    changes = _Changes(path, out.fd) if following else None
    source = _open(path, changes)
    while True:
        ended = changes is None or os.path.exists(f"{path}.end")  # asked before the last look at the bytes
        while count := out.send_file(source, place, _BLOCK):
            place += count
        if ended:
            served.note(run, path)
            return 0
        assert changes is not None
        changes.wait()


def _open(path: str, changes: _Changes | None) -> int:
    while True:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if changes is None or os.path.exists(f"{path}.end"):
                raise
        changes.wait()


class _Changes:
    """Tells when a file, or one beside it that begins with its name, may have changed.

    Where the kernel cannot tell (no inotify, no ctypes, a disk of another machine) it is looked at once a second.
    """

    def __init__(self, path: str, reader: int) -> None:
        self._poll = select.poll()
        self._poll.register(reader, 0)  # whether somebody still reads
        # A container runtime goes on to take what is written when the client's connection is gone; what it does is to
        # close the input, where the client has asked for one.
        if stat.S_ISFIFO(os.fstat(_INPUT).st_mode):
            self._poll.register(_INPUT, select.POLLIN)
        self._reader = reader
        self._fd = _inotify(os.path.dirname(os.path.abspath(path)))
        if self._fd >= 0:
            self._poll.register(self._fd, select.POLLIN)

    def wait(self) -> None:
        """Until something may have changed.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        for fd, _ in self._poll.poll(int(_LOOK_AGAIN * 1000) if self._fd >= 0 else 100):
            if fd == self._reader or (fd == _INPUT and not os.read(_INPUT, 1 << 12)):
                raise BrokenPipeError(errno.EPIPE, "nobody reads any more")
            if fd == _INPUT:
                continue
            with suppress(BlockingIOError):
                while os.read(self._fd, 1 << 16):
                    pass


def _inotify(folder: str) -> int:
    """A descriptor that becomes readable when a file of the folder is written or appears; -1: there is no such thing.

    The folder is watched and not the file, which may not be there yet.
    """
    try:
        import ctypes

        library = ctypes.CDLL(None, use_errno=True)
        fd = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        modified, moved_to, created = 0x2, 0x80, 0x100
        if fd >= 0 and library.inotify_add_watch(fd, os.fsencode(folder), modified | moved_to | created) < 0:
            os.close(fd)
            return -1
        return fd
    except (ImportError, OSError, AttributeError):
        return -1


# Moving objects -------------------------------------------------------------------------------------------------------


def put(directory: str, *, tell: str) -> int:
    """Store the objects that come on stdin below `directory` (`carry.py`); process 1 hears of each."""
    from . import carry

    return carry.put(directory, visits.Visit(tell).say)


def get(directory: str, *, run: str = "") -> int:
    """Write the objects that stdin names to stdout (`carry.py`)."""
    from . import carry

    return carry.get(directory, lambda path: served.note(run, path))


def listing(directory: str) -> int:
    """The objects below `directory` and their bytes, as JSON: {name: bytes}; none where there is no such folder."""
    found: dict[str, int] = {}
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        found = {entry.name: entry.stat().st_size for entry in entries if not entry.name.startswith(".")}
    _say(found)
    return 0


# The rest -------------------------------------------------------------------------------------------------------------


def send_signal(run: str, name: str) -> int:
    """Signal the runner, once it can hear it: what comes before is lost to the first process of a container."""
    import time

    if name not in ("INT", "TERM"):
        raise Refused("the runner is sent INT or TERM")
    path = os.path.join(run, "pid")
    changes, until = _Changes(path, 1), time.monotonic() + _LISTENS_SOON
    while not os.path.exists(path) and time.monotonic() < until:
        changes.wait()
    with open(path, encoding="ascii") as file:
        os.kill(int(file.read()), signal.SIGINT if name == "INT" else signal.SIGTERM)
    return 0


def release(run: str) -> int:
    """Tell a container that lingers that all was fetched."""
    visits.Visit(run).say("release")
    return 0


def remove(jobs: str, *paths: str) -> int:
    """Remove files and folders below the folder of jobs; answers {"removed": [...], "failed": {path: why}}."""
    import shutil

    removed: list[str] = []
    failed: dict[str, str] = {}
    for path in paths:
        target = os.path.normpath(os.path.join(jobs, path))
        # The folder that holds it must be below ours in truth: a link that the job made leads anywhere.
        holder = os.path.realpath(os.path.dirname(target))
        ours = os.path.realpath(jobs)
        if not f"{holder}/".startswith(f"{ours}/") or os.path.basename(target) in ("", ".", ".."):
            failed[path] = "it is not below the folder of jobs"
            continue
        try:
            if os.path.isdir(target) and not os.path.islink(target):
                shutil.rmtree(target)
            else:
                os.unlink(target)
            removed.append(path)
        except FileNotFoundError:
            removed.append(path)
        except OSError as error:
            failed[path] = str(error)
    _say({"removed": removed, "failed": failed})
    return 1 if failed else 0


def forget(environments: str, *keys: str) -> int:
    """Remove environments that no job uses; answers {"removed": [...], "busy": [...], "failed": {key: why}}."""
    from pathlib import Path

    from . import environment

    answer: dict[str, Any] = {"removed": [], "busy": [], "failed": {}}
    for key in keys:
        try:
            answer["removed" if environment.forget(Path(environments), key) else "busy"].append(key)
        except OSError as error:
            answer["failed"][key] = str(error)
    _say(answer)
    return 1 if answer["failed"] else 0


def usage(store: str, owner: str = "") -> int:
    """What lies in the store, as JSON: {"jobs": {id: {"bytes", "changed"}}, "environments": {...}, "free", "size"}.

    Of jobs those of one owner; without one, the owners' folders. Nobody's job waits for this: it looks slowly.

    Files that environments share with the installers' cache (which is listed as `cache`) count for the environments.
    """
    found: dict[str, Any] = {}
    seen: set[tuple[int, int]] = set()
    with suppress(OSError):
        os.nice(10)
    for part, below in (("jobs", owner), ("environments", "")):
        folder = os.path.join(store, part, below)
        found[part] = {}
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(folder), key=lambda name: (name == "cache", name)):
                path = os.path.join(folder, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    size, changed = _weigh(path, seen)
                    found[part][name] = {"bytes": size, "changed": changed}
    disk = os.statvfs(store)
    _say(found | {"free": disk.f_bavail * disk.f_frsize, "size": disk.f_blocks * disk.f_frsize})
    return 0


def _weigh(folder: str, seen: set[tuple[int, int]]) -> tuple[int, float]:
    """Bytes on disk below a folder and when the folder or a file in it changed last; each of `seen` counts once."""
    total, changed = 0, os.stat(folder).st_mtime
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                found = os.lstat(os.path.join(parent, name))
                changed = max(changed, found.st_mtime)
                if (found.st_dev, found.st_ino) not in seen:
                    total += found.st_blocks * 512
                if found.st_nlink > 1:
                    seen.add((found.st_dev, found.st_ino))
    return total, changed


def idle(run: str, seconds: str) -> int:
    """Stay until no tool has been running for so many seconds: what a pod does that carries files."""
    from .loop import Signals

    signals = Signals()
    signals.raising = False
    signals.install()
    visits.wait_until_left(visits.Hall(run, signals), float(seconds), float("inf"))
    return 0


def _say(answer: dict[str, Any]) -> None:
    Out().send(json.dumps(answer).encode() + b"\n")


def _complain(error: Exception) -> None:
    with suppress(OSError):
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
