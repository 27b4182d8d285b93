"""The stream of one node and attempt: user text and events, encoded and written to stdout."""

from __future__ import annotations

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
_PATIENCE = 30.0


class Output:
    """Writes to a descriptor without being held up by a reader that does not read.

    A file takes everything at once. A pipe takes what it has room for; the rest waits here, and whoever produces it
    looks at `full` and pauses. When writing fails for good, `broken` says why and all further bytes are dropped.
    """

    def __init__(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        self.fd = fd
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

    @property
    def _encoder(self) -> Encoder:
        if self._made is None:
            # Importing it takes as long as starting the interpreter, so the ranks are started before.
            from ..events import Encoder

            self._made = Encoder(self.rank, self._attempt)
        return self._made

    def text(self, rank: int, data: bytes) -> None:
        encoder = self._encoder
        since = encoder.account.bytes + len(data) - self._accounted
        if since < ACCOUNT_EVERY:
            self.output.write(encoder.text(rank, data))
            return
        # An account between two lines leaves the lines whole; a line without end cannot wait for one for ever.
        cut = data.rfind(b"\n") + 1
        if not cut and since > 2 * ACCOUNT_EVERY:
            cut = len(data)
        if not cut:
            self.output.write(encoder.text(rank, data))
            return
        self.output.write(encoder.text(rank, data[:cut]))
        self.account()
        self.output.write(encoder.text(rank, data[cut:]))

    def event(self, kind: str, rank: int, /, **data: Any) -> None:
        """Write one event.

        Raises:
            ValueError: `data` uses a key of the envelope.
        """
        self.output.write(self._encoder.event(kind, rank, **data))

    def account(self) -> dict[str, Any]:
        """Write how much text there was so far."""
        account = self._encoder.account.summary()
        self._accounted = account["bytes"]
        self.event("account", self.rank, account=account)
        return account

    def state(self, phase: str, step: str, text: str) -> None:
        self.event("state", self.rank, phase=phase, step=step, text=text)
