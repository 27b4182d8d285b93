"""The socket by which code in a rank, and in any child of it, reaches the runner.

A client says its rank's token in the first line and then one JSON object a line. Each is answered by one line once it
stands in the stream: empty, or `! why` where it is refused. A client whose token is wrong is cut off.
"""

from __future__ import annotations

import errno
import hmac
import json
from _socket import AF_UNIX, socket  # the C half: what `socket` adds to it takes longer to import than all of this

from .loop import Loop

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LONGEST_LINE = 4 << 20
_SURELY_FITS = _LONGEST_LINE // 8
_LONGEST_EVENT = _LONGEST_LINE - (64 << 10)  # a reader takes no event beyond 4 MiB; signature and envelope are added
_READ = 1 << 16
_READS = 16  # at one go: a client that never pauses must not keep the loop from signals and timers
_CONNECTIONS = 200
_DESCRIPTORS_SPENT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Channel:
    """The runner's half of the socket.

    Args:
        path: of the socket; its folder is for this user alone.
        tokens: token -> rank.
        receive: called for each rank's message, in the order in which they come; says why it is refused, or nothing.
    """

    def __init__(
        self, path: str, tokens: dict[str, int], receive: Callable[[int, dict[str, Any]], str], loop: Loop
    ) -> None:
        self._tokens = tokens
        self._receive = receive
        self._loop = loop
        self._clients: dict[int, _Client] = {}  # by descriptor; who spoke last stands last
        self._listener = socket(AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1024)
        self._listener.setblocking(False)
        loop.watch(self._listener.fileno(), self._accept)

    def drain(self) -> None:
        """Take everything that was sent before now."""
        self._accept()
        for fd in list(self._clients):
            self._read(fd)

    def close(self) -> None:
        for fd in list(self._clients):
            self._drop(fd)
        self._loop.forget(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        while True:
            if len(self._clients) >= _CONNECTIONS and not self._make_room():
                return
            try:
                fd, _ = self._listener._accept()  # pyright: ignore[reportAttributeAccessIssue]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _DESCRIPTORS_SPENT and self._make_room():
                    continue
                if error.errno in _DESCRIPTORS_SPENT | {errno.ECONNABORTED}:
                    return
                raise
            connection = socket(fileno=fd)
            connection.setblocking(False)
            self._clients[fd] = _Client(connection)
            self._loop.watch(fd, lambda fd=fd: self._read(fd))
            self._read(fd)

    def _make_room(self) -> bool:
        """Cut off who has been silent longest: it connects again when it has something to say."""
        for fd in list(self._clients):
            self._read(fd)
            if fd not in self._clients:
                return True
            if not self._clients[fd].line:
                break
        else:
            fd = next(iter(self._clients), -1)
        if fd in self._clients:
            self._drop(fd)
        return fd >= 0

    def _read(self, fd: int) -> None:
        client = self._clients[fd]
        for _ in range(_READS):
            try:
                data = client.connection.recv(_READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._drop(fd)
                return
            self._clients[fd] = self._clients.pop(fd)
            if not self._feed(client, data):
                self._drop(fd)
                return

    def _feed(self, client: _Client, data: bytes) -> bool:
        """Take what a client sent; False: it is to be cut off."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            client.line.append(line)
            whole, client.line, client.length = b"".join(client.line), [], 0
            if client.rank is None:
                client.rank = self._rank_of(whole)
                if client.rank is None:
                    return False
            elif not client.answer(self._message(client.rank, whole)):
                return False
        if rest:
            client.line.append(rest)
            client.length += len(rest)
        if client.length > _LONGEST_LINE:
            client.answer("the message is too long")
            return False
        return True

    def _rank_of(self, said: bytes) -> int | None:
        for token, rank in self._tokens.items():
            if hmac.compare_digest(token.encode(), said):
                return rank
        return None

    def _message(self, rank: int, line: bytes) -> str:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return "the message is not JSON"
        if not isinstance(message, dict):
            return "the message is not an object"
        if len(line) > _SURELY_FITS and len(json.dumps(message)) > _LONGEST_EVENT:
            return "the message is too long"
        return self._receive(rank, message)

    def _drop(self, fd: int) -> None:
        self._loop.forget(fd)
        self._clients.pop(fd).connection.close()


class _Client:
    def __init__(self, connection: socket) -> None:
        self.connection = connection
        self.rank: int | None = None
        self.line: list[bytes] = []
        """The line that is not complete yet, in the pieces that came."""
        self.length = 0

    def answer(self, refusal: str) -> bool:
        """Whether the client took the answer; one that sends for ever and reads nothing does not."""
        reply = f"! {refusal}\n".encode() if refusal else b"\n"
        try:
            return self.connection.send(reply) == len(reply)
        except OSError:
            return False
