"""The stream of one node and attempt: user text and events, encoded and written to stdout."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from contextlib import suppress

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from typing import Any

    from ..events import Encoder

ACCOUNT_EVERY = 1 << 20
"""Bytes of user text after which an account follows."""
_WAITING = 1 << 20
_CRI_HEAD = 60
_CRI_PIECE = 16 << 10
LONGEST_COPY = 4 << 30
"""Bytes of a copy: what a job prints must not fill the disk that others need."""
KUBELET_KEEPS = 8 << 20
"""A stream whose `kubelet_bytes` are fewer is whole in the kubelet's log: that is rotated at 10 MiB."""
_PATIENCE = 30.0


class Copy:
    """A file that gets every byte of a stream before its reader does; what a kubelet throws away is read here.

    Where it cannot be written, because the disk is full or it became too long, only the copying ends: `broken` says
    why, and the first `kept` bytes are whole. When the stream has ended a file `PATH.end` stands beside it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.bytes = 0
        self.lines = 0
        self.kept = 0
        self.broken: OSError | None = None
        self._fd = -1
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            # Made now and renamed at the end: that needs no room on a disk that is full by then.
            for name in (f"{path}.live", path):
                if self._fd >= 0:
                    os.close(self._fd)
                self._fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._break(error)

    def write(self, data: bytes) -> None:
        self.bytes += len(data)
        self.lines += data.count(b"\n")
        if self.broken is not None:
            return
        rest = memoryview(data)
        try:
            if self.kept + len(data) > LONGEST_COPY:
                raise OSError(errno.EFBIG, f"it is {LONGEST_COPY >> 30} GiB long")
            while rest:
                written = os.write(self._fd, rest)
                self.kept += written
                rest = rest[written:]
        except OSError as error:
            self._break(error)

    @property
    def kubelet_bytes(self) -> int:
        """How large a kubelet's own file of this stream is: each line, or 16 KiB of one, has a head of its own."""
        return self.bytes + _CRI_HEAD * (self.lines + self.bytes // _CRI_PIECE)

    def finish(self) -> None:
        """Say that the stream has ended; to be called after its last byte."""
        with suppress(OSError):  # it was never made, or somebody removed it: whoever follows hears of the end otherwise
            os.rename(f"{self.path}.live", f"{self.path}.end")
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _break(self, error: OSError) -> None:
        self.broken = error


class Output:
    """Writes to a descriptor without being held up by a reader that does not read.

    A file takes everything at once. A pipe takes what it has room for; the rest waits here, and whoever produces it
    looks at `full` and pauses. When writing fails for good, `broken` says why and all further bytes are dropped.

    Args:
        copy: gets everything, too, and first.
    """

    def __init__(self, fd: int, copy: Copy | None = None) -> None:
        mode = os.fstat(fd).st_mode
        self.fd = fd
        self.copy = copy
        self.broken: OSError | None = None
        self._waiting = bytearray()
        self._at_once = stat.S_ISREG(mode)
        self._most = select.PIPE_BUF  # what a pipe that is ready takes without blocking
        if stat.S_ISFIFO(mode):
            # O_NONBLOCK would hold for everybody who shares the pipe, so we open it once more for ourselves.
            with suppress(OSError):  # no Linux, or a pipe of another user
                self.fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self._most = _WAITING
        self._room = select.poll()
        self._room.register(self.fd, select.POLLOUT)

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        return len(self._waiting) > _WAITING

    def write(self, data: bytes) -> None:
        if self.copy is not None:
            self.copy.write(data)
        if self.broken is not None or not data:
            return
        if not self._at_once:
            self._waiting += data
            self.push()
            return
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self.fd, rest) :]
        except OSError as error:
            self._break(error)

    def push(self) -> None:
        """Write what fits without blocking."""
        try:
            while self._waiting and self._room.poll(0):
                written = os.write(self.fd, self._waiting[: self._most])
                del self._waiting[:written]
        except BlockingIOError:
            pass  # it became full
        except OSError as error:
            self._break(error)

    def finish(self) -> None:
        """Wait until all is written, unless the reader takes nothing for half a minute."""
        last, left = time.monotonic(), len(self._waiting)
        while self._waiting and time.monotonic() - last < _PATIENCE:
            self._room.poll(1000)
            self.push()
            if len(self._waiting) < left:
                last, left = time.monotonic(), len(self._waiting)

    def _break(self, error: OSError) -> None:
        self.broken = error
        self._waiting.clear()


class Stream:
    """Text and events in the order they are given; accounts in between.

    Args:
        rank: the first rank of the node.
    """

    def __init__(self, output: Output, rank: int, attempt: int) -> None:
        self.output = output
        self.rank = rank
        self._attempt = attempt
        self._accounted = 0
        self._made: Encoder | None = None
        self._phase = "Starting"
        self._copying = output.copy is not None

    @property
    def _encoder(self) -> Encoder:
        if self._made is None:
            # Importing it takes as long as starting the interpreter, so the ranks are started before.
            from ..events import Encoder

            self._made = Encoder(self.rank, self._attempt)
        return self._made

    def belongs_to(self, attempt: int) -> None:
        """The number of the attempt, where another node says it only now."""
        self._attempt = attempt
        if self._made is not None:
            self._made.attempt = attempt

    def text(self, rank: int, data: bytes) -> None:
        encoder = self._encoder
        since = encoder.account.bytes + len(data) - self._accounted
        if since < ACCOUNT_EVERY:
            self._write(encoder.text(rank, data))
            return
        # An account between two lines leaves the lines whole; a line without end cannot wait for one for ever.
        cut = data.rfind(b"\n") + 1
        if not cut and since > 2 * ACCOUNT_EVERY:
            cut = len(data)
        if not cut:
            self._write(encoder.text(rank, data))
            return
        self._write(encoder.text(rank, data[:cut]))
        self.account()
        self._write(encoder.text(rank, data[cut:]))

    def event(self, kind: str, rank: int, /, **data: Any) -> None:
        """Write one event.

        Raises:
            ValueError: `data` uses a key of the envelope.
        """
        if kind == "state":
            self._phase = str(data.get("phase"))
        self._write(self._encoder.event(kind, rank, **data))

    def _write(self, data: bytes) -> None:
        self.output.write(data)
        copy = self.output.copy
        if self._copying and copy is not None and copy.broken is not None:
            self._copying = False
            why = copy.broken.strerror or type(copy.broken).__name__
            self.state(self._phase, "log", f"the copy of the log cannot be written any more: {why}")

    def account(self) -> dict[str, Any]:
        """Write how much text there was so far."""
        account = self._encoder.account.summary()
        self._accounted = account["bytes"]
        self.event("account", self.rank, account=account)
        return account

    def state(self, phase: str, step: str, text: str) -> None:
        self.event("state", self.rank, phase=phase, step=step, text=text)
