"""Processes of a node: started, signalled, reaped, and none left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Container, Iterator
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PIPE_BYTES = 1 << 20
_PATIENCE = 5.0


def _load_prctl() -> Callable[..., int] | None:
    """Linux's prctl, or None: macOS has none, and an interpreter may be built without ctypes."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes

        return ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None


class Parent:
    """The process that started this one. When it dies this one gets SIGHUP, or sees it by asking now and then.

    Args:
        expected: its id where it said so, which closes the gap between our start and our first look.
    """

    def __init__(self, expected: int | None = None) -> None:
        self._pid = os.getppid() if expected is None else expected
        self.tells = False
        if os.getpid() != 1:  # a container's first process has no parent that it could lose
            prctl = _load_prctl()
            self.tells = prctl is not None and prctl(_PR_SET_PDEATHSIG, int(signal.SIGHUP), 0, 0, 0) == 0

    @property
    def dead(self) -> bool:
        return os.getppid() != self._pid


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none of them gets away."""
    prctl = _load_prctl()
    if prctl is not None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def output_pipe() -> tuple[int, int, int]:
    """A pipe as large as allowed: its read end (which does not block), its write end, and how many bytes it holds."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    if sys.platform != "linux":
        return read, write, 1 << 16
    try:
        return read, write, fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:  # the user's share of pipe memory is spent
        return read, write, fcntl.fcntl(read, fcntl.F_GETPIPE_SZ)


def spawn(command: list[str], *, cwd: str, env: dict[str, str], output: int) -> int:
    """Start `command` in its own session, with `output` as its stdout and stderr. It dies when this process dies.

    Raises:
        OSError: it could not be started.
    """
    prctl = _load_prctl()
    parent = os.getpid()
    failed, report = os.pipe()  # a successful exec closes it without a word
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if prctl is not None:
                prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
                if os.getppid() != parent:
                    os._exit(255)
            for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(ignored_by_python, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.dup2(report, 3, inheritable=False)
            os.closerange(4, _descriptors())
            os.chdir(cwd)
            os.execve(command[0], command, env)
        except OSError as error:
            os.write(3, str(error.errno or errno.EIO).encode())
        finally:
            os._exit(255)
    os.close(report)
    said = os.read(failed, 64)
    os.close(failed)
    if said:
        os.waitpid(pid, 0)
        raise OSError(int(said), os.strerror(int(said)), command[0])
    return pid


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if soft == resource.RLIM_INFINITY else min(soft, 1 << 16)


def send(leader: int, signum: int) -> None:
    """Signal every process of the group that `leader` leads."""
    with suppress(ProcessLookupError, PermissionError):  # all have ended; macOS says EPERM of zombies
        os.killpg(leader, signum)


def ended(leaders: Container[int]) -> Iterator[tuple[int, int]]:
    """Children that have ended, with their exit status (negative: a signal). A leader's group is killed with it."""
    while True:
        try:
            seen = _look()
            if seen in leaders:
                send(seen, signal.SIGKILL)
            pid, status = os.waitpid(seen, os.WNOHANG)
        except ChildProcessError:
            return
        if pid != seen and pid in leaders:
            send(pid, signal.SIGKILL)
        if not pid:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _look() -> int:
    """A child that has ended and is not reaped yet, so that nobody else can have its number; -1: any that there is."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return -1
    found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return -1 if found is None else found.si_pid


def kill_children() -> list[int]:
    """Kill every child, those that come to us by the death of their parents too.

    Returns:
        those that would not die within five seconds: they wait for a device.
    """
    give_up = time.monotonic() + _PATIENCE
    while True:
        living = _children()
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for _ in ended(()):
            pass
        if not living or time.monotonic() > give_up:
            return living
        time.sleep(0.001)


def _children() -> list[int]:
    """The children of this process where the system tells (Linux); zombies too."""
    try:
        found: list[int] = []
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
        return found
    except OSError:
        return _children_by_parent()


def _children_by_parent() -> list[int]:
    """The same, read from every process's own entry, for kernels that keep no list of children."""
    found: list[int] = []
    me = os.getpid()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command's name stands in parentheses and may hold anything.
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue  # it ended while we looked
        if parent == me:
            found.append(int(name))
    return found


_NO_LIMIT = 1 << 60


def oom_kills() -> int:
    """How many processes the kernel has killed for memory, here and in our control group; only the rise tells."""
    total = 0
    for path in _oom_counters():
        try:
            with open(path, "rb") as file:
                for line in file:
                    name, _, value = line.partition(b" ")
                    if name == b"oom_kill":
                        total += int(value)
        except (OSError, ValueError):
            pass  # not on this system
    return total


def memory_limit() -> int | None:
    """Bytes that our control group may use; None: no limit is known."""
    for group in _memory_groups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                with open(f"{group}/{name}", "rb") as file:
                    limit = int(file.read())
            except (OSError, ValueError):
                continue  # the other version of control groups, or `max`
            if limit < _NO_LIMIT:
                return limit
    return None


def _oom_counters() -> list[str]:
    counters = ("memory.events", "memory.oom_control")  # of either version of control groups
    return ["/proc/vmstat", *(f"{group}/{name}" for group in _memory_groups() for name in counters)]


def _memory_groups() -> list[str]:
    """Where our control group may lie: a container can see its whole path, and have only the group itself there."""
    found: list[str] = []
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            for line in file.read().splitlines():
                _, controllers, group = line.split(":", 2)
                if controllers in ("", "memory"):
                    mount = f"/sys/fs/cgroup/{controllers}".rstrip("/")
                    found += [f"{mount}{group}".rstrip("/"), mount]
    except (OSError, ValueError):
        pass  # not on this system
    return list(dict.fromkeys(found))
