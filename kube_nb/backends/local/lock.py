"""The lock that a supervisor holds for its life, and the record in it of who that is.

The kernel takes the lock before the job can be seen and hands it to the supervisor, so that a job whose lock is free
is dead at any moment of its life. The file holds one line for each process: pid, start time, boot; the supervisor
first, then its runners.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from kube_nb.backends.local.processes import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    import fcntl
    from collections.abc import Iterable, Iterator
elif os.name == "posix":
    import fcntl


def take(path: str) -> int:
    """Make the lock of a new job; the descriptor holds it for as long as any process has it open.

    Raises:
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


@contextmanager
def alone(directory: str) -> Iterator[None]:
    """One at a time does what is inside, of all processes and threads that say so of this directory.

    Raises:
        OSError: it is gone.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    with suppress(OSError):  # a network's file system locks no directories: there, all do it
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        # Said and not left to close(): a process that was forked off meanwhile has the descriptor too.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def record(descriptor: int, processes: Iterable[Identity]) -> None:
    """Write who holds the lock.

    Raises:
        OSError: the disk is full.
    """
    lines = "".join(f"{one.pid} {one.start} {one.boot}\n" for one in processes).encode()
    os.pwrite(descriptor, lines, 0)
    os.ftruncate(descriptor, len(lines))


def recorded(path: str) -> list[Identity]:
    """Who wrote the record, the supervisor first; empty while it starts."""
    try:
        with open(path, "rb", buffering=0) as file:
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        pid, _, rest = line.partition(" ")
        start, _, boot = rest.partition(" ")
        if not pid.isdigit():
            return []
        found.append(Identity(int(pid), start, boot))
    return found


def alive(path: str) -> bool:
    """Whether the job's supervisor lives: the lock is held, and by the process that says so.

    A process that was forked off while the lock was handed over may hold it for ever; the record tells them apart.
    On another machine or in another container the record cannot be checked, and the lock alone decides.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = next(iter(recorded(path)), None)
        return owner is None or not owner.here or owner.runs
    except OSError:
        return True  # a file system without locks: nothing says that it is dead
    finally:
        os.close(descriptor)
    return False
