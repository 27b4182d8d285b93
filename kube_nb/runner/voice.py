"""How a rank talks to its runner: one JSON line for each message, acknowledged, over a Unix socket."""

from __future__ import annotations

import json
import os
from _socket import AF_UNIX, socket  # the C half: what `socket` adds to it takes longer to import than all of this
from collections.abc import Callable
from typing import Any


class Voice:
    """Says things to the runner, from any thread, signal handler or forked child. There is no lock to be left held.

    A message goes out on a connection that nobody else uses at that moment; connections are kept for the next one. A
    forked child makes its own. When `say` returns, the runner has written the message behind all text written before.

    Args:
        address: path of the runner's socket.
        token: tells the runner which rank this is.
        flush: empties the buffers of standard output, so that what was printed before comes before.
    """

    def __init__(self, address: str, token: str, flush: Callable[[], None]) -> None:
        self._address = address
        self._token = token
        self._flush = flush
        self._pid = os.getpid()
        self._idle: list[socket] = []

    def say(self, kind: str, /, **data: Any) -> None:
        """Say one thing and wait until the runner has written it.

        Raises:
            ConnectionError: the runner is gone.
            TypeError: `data` is no JSON.
        ValueError: the runner refuses it, and says why.
        """
        message = json.dumps({"kind": kind, **data}, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        self._flush()
        if not self._exchange(message, fresh=False):
            self._exchange(message, fresh=True)

    def _exchange(self, message: bytes, *, fresh: bool) -> bool:
        """Send and wait for the answer; False: the runner has cut off an idle connection to make room for others."""
        kept = None if fresh else self._kept()
        connection = kept or self._connect()
        try:
            answer = _answer(connection, message)
        except BaseException as error:
            connection.close()  # half a message may be under way
            if kept is not None and isinstance(error, ConnectionError):
                return False
            raise
        self._idle.append(connection)
        if answer:
            raise ValueError(answer.removeprefix("! "))
        return True

    def _kept(self) -> socket | None:
        if self._pid != os.getpid():
            self._pid, self._idle = os.getpid(), []
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _connect(self) -> socket:
        connection = socket(AF_UNIX)
        try:
            connection.connect(self._address)
            connection.sendall(self._token.encode() + b"\n")
        except BaseException:
            connection.close()
            raise
        return connection


def _answer(connection: socket, message: bytes) -> str:
    """Empty, or why the runner does not take it."""
    connection.sendall(message)
    answer = b""
    while not answer.endswith(b"\n"):
        piece = connection.recv(4096)
        if not piece:
            raise ConnectionResetError("the runner of this job is gone")
        answer += piece
    return answer.decode("utf-8", "replace").strip()
