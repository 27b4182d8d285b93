"""Wake-ups between processes: whoever waits has a datagram socket in one private directory, whoever changes something
sends to all sockets there that are named for it. A wake-up may get lost or come twice: it says "look again", no more.
"""

from __future__ import annotations

import _socket as socket  # the module `socket` adds nothing here but 10 ms to a supervisor's start
import contextlib
import os
import stat
import time
from zlib import crc32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 100
"""Bytes of a socket's path that every system takes (macOS 103, Linux 107)."""
CROWDED = 8
"""So many datagrams at once may mean that more were dropped: Linux holds back no more than 10."""


def runtime_directory(state: str, environ: Mapping[str, str]) -> str:
    """The directory of the sockets, made if need be; "" where no place will do, and waiting falls back to looking.

    The same for all processes of one person whatever their environment, as far as that is possible; never one that
    others can write.
    """
    user = os.getuid()
    session = environ.get("XDG_RUNTIME_DIR", "")
    for parent, name in (
        (session, "kube-nb"),
        (f"/run/user/{user}", "kube-nb"),
        # Not TMPDIR, which differs between processes.
        ("/tmp", f"kube-nb-{user}"),
        (state, "bus"),
    ):
        path = f"{parent}/{name}"
        if parent.startswith("/") and len(os.fsencode(path)) <= _LONGEST - 40 and _made_private(path, user):
            return path
    return ""


def _made_private(path: str, user: int) -> bool:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError:
        return False
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o077


def topic_of_job(state: str, job: str) -> str:
    """For those who follow one job."""
    return f"{crc32(f'{state}/{job}'.encode()):08x}"


def topic_of_changes(state: str) -> str:
    """For those who want to know of every job's changes; the datagram holds the job's id."""
    return f"s{crc32(state.encode()):08x}"


def topic_of_queue(state: str) -> str:
    """For the jobs that wait for tickets."""
    return f"q{crc32(state.encode()):08x}"


class Listener:
    """A socket that wakes this process; use as a context manager. Where none can be made, nothing is ever heard.

    Args:
        directory: the runtime directory, or "".
        topic: what to be woken for.
    """

    def __init__(self, directory: str, topic: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._path = ""
        if directory:
            path = f"{directory}/{topic}-{os.getpid():x}-{time.monotonic_ns():x}"
            try:
                os.makedirs(directory, 0o700, exist_ok=True)  # logging out removes /run/user/<uid>
                self._socket.bind(path)
                self._path = path
            except OSError:
                pass  # whoever waits looks again now and then

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> list[str]:
        """What was said since the last time."""
        said = []
        while True:
            try:
                said.append(self._socket.recv(256).decode(errors="replace"))
            except (BlockingIOError, InterruptedError):
                return said

    def close(self) -> None:
        if self._path:
            with contextlib.suppress(OSError):  # logging out may have removed the directory
                os.unlink(self._path)
            self._path = ""
        self._socket.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Bus:
    """Sends wake-ups. Never blocks and never fails.

    Args:
        directory: the runtime directory, or "".
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._changed = -1
        self._names: list[str] = []

    def send(self, topic: str, word: str = "") -> None:
        """Wake everybody who listens to the topic."""
        for name in self._listeners():
            if name.startswith(topic):
                self._wake(f"{self._directory}/{name}", word.encode())

    def close(self) -> None:
        self._socket.close()

    def _listeners(self) -> list[str]:
        if not self._directory:
            return []
        try:
            # A directory's time changes with every name that comes or goes. It has the grain of the system's tick,
            # so a listing that is younger than that is not trusted.
            changed = os.stat(self._directory).st_mtime_ns
            if changed != self._changed:
                self._names = os.listdir(self._directory)
                self._changed = changed if time.time_ns() - changed > 50_000_000 else -1
        except OSError:
            return []
        return self._names

    def _wake(self, path: str, word: bytes) -> None:
        try:
            self._socket.sendto(word, path)
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):  # its process died without a word
                os.unlink(path)
        except OSError:
            pass  # full: it will wake anyway; gone: it left meanwhile
