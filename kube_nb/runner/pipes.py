"""Stdin and stdout of a tool, whose other ends may be dead without a word."""

from __future__ import annotations

import errno
import os
import select
from contextlib import suppress

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from collections.abc import Callable

_F_SETPIPE_SZ = 1031
_ROOM = 1 << 20
_STALLED = 120.0
"""Seconds in which whoever reads takes nothing, or whoever sends sends nothing: the connection is dead."""
_LONGEST_LINE = 1 << 26


class BrokenOff(Exception):
    """The other end went away before all was said."""


class In:
    """Stdin: lines, and bytes of a known number.

    Args:
        coming: called about once a second while bytes come.
    """

    def __init__(self, coming: Callable[[], object]) -> None:
        import fcntl
        import time

        self._clock = time.monotonic
        self._coming = coming
        self._said = self._clock()
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)
        with suppress(OSError):  # not a pipe, or too many large pipes already
            fcntl.fcntl(0, _F_SETPIPE_SZ, _ROOM)

    def line(self) -> bytes:
        """One line; nothing beyond it is read."""
        line = bytearray()
        one = memoryview(bytearray(1))
        while not line.endswith(b"\n"):
            if not self.fill(one) or len(line) > _LONGEST_LINE:
                raise BrokenOff
            line += one
        return bytes(line)

    def fill(self, room: memoryview) -> int:
        """Read until `room` is full or stdin ends; how much it was."""
        done = 0
        while done < room.nbytes:
            if not self._poll.poll(int(_STALLED * 1000)):
                break
            count = os.readv(0, [room[done:]])
            if count == 0:
                break
            done += count
        if self._clock() - self._said > 1:
            self._said = self._clock()
            self._coming()
        return done


class Out:
    """Stdout, which may be a pipe that nobody reads."""

    def __init__(self) -> None:
        import fcntl

        self.fd = 1
        with suppress(OSError):
            fcntl.fcntl(1, _F_SETPIPE_SZ, _ROOM)
        os.set_blocking(1, False)
        self._poll = select.poll()
        self._poll.register(1, select.POLLOUT)
        self._copies = False

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            with suppress(BlockingIOError):
                rest = rest[os.write(1, rest) :]
                continue
            self._wait()

    def send_file(self, source: int, offset: int, count: int) -> int:
        """Send at most so many bytes of a file; how many: 0 at its end."""
        while not self._copies:
            try:
                return os.sendfile(1, source, offset, count)
            except BlockingIOError:
                self._wait()
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                self._copies = True
        data = os.pread(source, count, offset)
        self.send(data)
        return len(data)

    def _wait(self) -> None:
        if not self._poll.poll(int(_STALLED * 1000)):
            raise TimeoutError(errno.ETIMEDOUT, "nobody reads")
