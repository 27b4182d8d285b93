"""Processes of this machine: who they are beyond a number that is used again, when they end, what they use.

Linux through /proc and pidfds; macOS through `ps` and kqueue.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LINUX = sys.platform == "linux"


class Identity:
    """One process, for ever: a pid alone may have become somebody else.

    Attributes:
        pid: its number.
        start: when it started, in the system's own words, or "" where it has ended.
        boot: which boot of which machine, and which set of pids, the number belongs to.
    """

    __slots__ = ("boot", "pid", "start")

    def __init__(self, pid: int, start: str, boot: str) -> None:
        self.pid = pid
        self.start = start
        self.boot = boot

    @classmethod
    def of(cls, pid: int) -> Identity:
        return cls(pid, start_time(pid), boot())

    @property
    def here(self) -> bool:
        """Whether this machine, since its last start, can tell anything about it."""
        return self.boot == boot()

    @property
    def runs(self) -> bool:
        """Whether it is there now; meaningless where it is not `here`."""
        return bool(self.start) and start_time(self.pid) == self.start


def start_time(pid: int) -> str:
    """When a process started, in words that no later process of the same number repeats; "" where there is none."""
    if not LINUX:
        return _ps("-o", "lstart=", "-p", str(pid)).strip().replace(" ", "_")
    fields = _stat(pid)
    return fields[19].decode() if fields and fields[0] not in (b"Z", b"X") else ""


def boot() -> str:
    """Changes with every start of the machine and with every pid namespace."""
    global _boot
    if not _boot:
        if LINUX:
            with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
                _boot = file.read().decode().strip() + "/" + os.readlink("/proc/self/ns/pid")
        else:
            import subprocess

            shown = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, check=False)
            _boot = shown.stdout.decode().strip() or "unknown"
    return _boot


_boot = ""


def end_of(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends, or None where the system has no such thing.

    The caller closes it, and compares the start time after opening: the number may have changed hands before.
    """
    try:
        if LINUX:
            return os.pidfd_open(pid)
        return _kqueue(pid)
    except (OSError, AttributeError):
        return None


def _kqueue(pid: int) -> int | None:
    if sys.platform != "darwin":
        return None
    import select

    queue = select.kqueue()
    try:
        exits = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD | select.KQ_EV_ONESHOT, select.KQ_NOTE_EXIT)
        queue.control([exits], 0)
        return os.dup(queue.fileno())
    finally:
        queue.close()


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, without it."""
    if not LINUX:
        return _below(pid, ((int(p), int(pp)) for p, pp in map(str.split, _ps("-axo", "pid=,ppid=").splitlines())))
    found = []
    waiting = [pid]
    while waiting:
        for child in _children(waiting.pop()):
            found.append(child)
            waiting.append(child)
    return found


def resident(pids: Iterable[int]) -> dict[int, int]:
    """Bytes of physical memory that each process uses, pages that it shares with others counted in full."""
    if not LINUX:
        listed = ",".join(map(str, pids))
        rows = map(str.split, _ps("-o", "pid=,rss=", "-p", listed).splitlines()) if listed else ()
        return {int(pid): int(kilobytes) * 1024 for pid, kilobytes in rows}
    used = {}
    page = os.sysconf("SC_PAGE_SIZE")
    for pid in pids:
        data = _read(f"/proc/{pid}/statm")
        if data:
            used[pid] = int(data.split()[1]) * page
    return used


def proportional(pid: int) -> int | None:
    """Bytes of physical memory, shared pages divided among those that share them; None where nobody tells."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines() if LINUX else ():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return None


def kill_tree(pid: int, *, itself: bool = True) -> None:
    """SIGKILL to everything below a process, and to itself."""
    import contextlib
    import signal

    for target in [*descendants(pid), *([pid] if itself else [])]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    for thread in threads:
        found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    if not found and not _kernel_lists_children():
        return [p for p, parent in _parents() if parent == pid]
    return found


def _kernel_lists_children() -> bool:
    return os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children")


def _parents() -> list[tuple[int, int]]:
    pairs = []
    for name in os.listdir("/proc"):
        fields = _stat(int(name)) if name.isdigit() else []
        if fields:
            pairs.append((int(name), int(fields[1])))
    return pairs


def _below(pid: int, parents: Iterable[tuple[int, int]]) -> list[int]:
    of: dict[int, list[int]] = {}
    for child, parent in parents:
        of.setdefault(parent, []).append(child)
    found = list(of.get(pid, ()))
    for child in found:
        found.extend(of.get(child, ()))
    return found


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/<pid>/stat after the name, which may hold blanks and brackets: state, parent, ..."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""


def _ps(*arguments: str) -> str:
    import subprocess

    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout
