"""One connection between two nodes of a job: both ends prove that they know the job's key, then speak in signed lines.

Who calls says its node and a nonce; who is called answers with a nonce of its own and the proof; the caller proves in
turn. A proof is an HMAC with the job's key over who proves it, the job, the node and both nonces, so none can be used
a second time, for another node, or by the other end. Each line after that is JSON behind an HMAC with a key that only
this connection has, over its direction and its number. Nothing of it is secret, and nothing of it is a pickle.
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import time
from collections.abc import Callable, Generator

from .loop import Loop

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from typing import Any

_LONGEST = 32 << 10
"""Bytes of a line: an END has at most 4 KiB, which JSON in JSON may make longer."""
_ROOM = 256 << 10
_READ = 64 << 10
_NONCE = 32
_MAC = 32
"""Hexadecimal digits."""
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))
"""Half a minute until the loss of a machine is noticed that has not begun to give signs of life; names of Linux."""
_FOREIGN = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What comes of reading a line that none of this job's nodes has written."""


class Secret:
    """What the two ends prove to know.

    Args:
        key: the job's.
        job: its id.
        nodes: how many it has.
    """

    def __init__(self, key: bytes, job: str, nodes: int) -> None:
        self.job = job
        self.nodes = nodes
        self._key = key

    def mac(self, *parts: object) -> str:
        return _mac(self._key, "kube-nb nodes", self.job, *parts)


class Wire:
    """One end of a connection.

    Attributes:
        node: which one calls; -1 until the other end has proven it.
        known: both have proven that they belong to the job.
        open: it can still be written to and heard.
        since, heard, said: when it was made, when the last bytes came and went, on the monotonic clock.

    Args:
        connection: connected.
        caller: the node at this end, which called the other one; None: this end was called.
        received: called for each message.
        lost: called once when the connection ends, with the reason. Not called by `close`.
        joined: called once both ends are known to each other.
    """

    def __init__(
        self,
        connection: socket.socket,
        loop: Loop,
        secret: Secret,
        caller: int | None,
        *,
        received: Callable[[Wire, dict[str, Any]], object],
        lost: Callable[[Wire, str], object],
        joined: Callable[[Wire], object] = lambda wire: None,
    ) -> None:
        self.node = -1
        self.known = False
        self.open = True
        self.since = self.heard = self.said = time.monotonic()
        self._socket = connection
        self._loop = loop
        self._secret = secret
        self._joined = joined
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._session = b""
        self._sent = 0
        self._taken = 0
        self._end = "called" if caller is None else "caller"
        self._other_end = "caller" if caller is None else "called"
        connection.setblocking(False)
        # What is sent is short and seldom: if it does not fit in here, the other end has not read for a long time.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        loop.watch(connection.fileno(), self.hear, urgent=True)
        self._steps = self._be_called() if caller is None else self._call(caller)
        next(self._steps)

    def send(self, kind: str, **message: Any) -> None:
        """Say something; where that fails the connection is lost."""
        body = _encode({"kind": kind} | message)
        mac = _mac(self._session, self._end, self._sent, body.decode())
        self._sent += 1
        self._put(f"{mac} ".encode() + body)

    def hear(self) -> None:
        """Take what has come."""
        if not self.open:
            return
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error.strerror or type(error).__name__)
            return
        if not data:
            self._lose("it was closed")
            return
        self.heard = time.monotonic()
        self._buffer += data
        while self.open and (cut := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:cut])
            del self._buffer[: cut + 1]
            self._take(line)
        if len(self._buffer) > _LONGEST:
            self._lose("it sent a line without an end")

    def close(self) -> None:
        if self.open:
            self.open = False
            self._loop.forget(self._socket.fileno())
            self._socket.close()

    def _lose(self, why: str) -> None:
        if self.open:
            self.close()
            self._lost(self, why)

    def _put(self, line: bytes) -> None:
        if not self.open:
            return
        data = line + b"\n"
        try:
            whole = self._socket.send(data) == len(data)
        except BlockingIOError:
            whole = False
        except OSError as error:
            self._lose(error.strerror or type(error).__name__)
            return
        if not whole:
            self._lose("it does not read what it is sent")
        self.said = time.monotonic()

    def _take(self, line: bytes) -> None:
        try:
            message = self._open(line) if self.known else _decode(line)
        except _FOREIGN:
            self._lose("what it sent was not written by a node of this job")
            return
        if self.known:
            self._received(self, message)
            return
        try:
            self._steps.send(message)
        except StopIteration:
            self.known = True
            self._joined(self)
        except _FOREIGN:
            self._lose("it does not know this job's key")

    def _open(self, line: bytes) -> dict[str, Any]:
        mac, body = line[:_MAC].decode("ascii"), line[_MAC + 1 :]
        if not hmac.compare_digest(mac, _mac(self._session, self._other_end, self._taken, body.decode())):
            raise ValueError("a wrong signature")
        self._taken += 1
        return _decode(body)

    # How they come to know each other

    def _call(self, node: int) -> Generator[None, dict[str, Any], None]:
        mine = _nonce()
        self._put(_encode({"v": 1, "job": self._secret.job, "node": node, "nonce": mine}))
        answer = yield
        about = (node, mine, _checked(answer["nonce"]))
        self._prove(answer["proof"], "called", *about)
        self._put(_encode({"proof": self._secret.mac("caller", *about)}))
        self._agree(node, about)

    def _be_called(self) -> Generator[None, dict[str, Any], None]:
        hello = yield
        node = hello["node"]
        if hello["v"] != 1 or hello["job"] != self._secret.job or type(node) is not int:
            raise ValueError("of another job")
        if not 0 < node < self._secret.nodes:
            raise ValueError("no such node")
        about = (node, _checked(hello["nonce"]), _nonce())
        self._put(_encode({"nonce": about[2], "proof": self._secret.mac("called", *about)}))
        answer = yield
        self._prove(answer["proof"], "caller", *about)
        self._agree(node, about)

    def _prove(self, proof: str, end: str, *about: object) -> None:
        if not hmac.compare_digest(proof, self._secret.mac(end, *about)):
            raise ValueError("another key")

    def _agree(self, node: int, about: tuple[object, ...]) -> None:
        self.node = node
        self._session = self._secret.mac("session", *about).encode()


def _mac(key: bytes, *parts: object) -> str:
    return hmac.digest(key, _encode(parts), "sha256").hex()[:_MAC]


def _nonce() -> str:
    return os.urandom(_NONCE).hex()


def _checked(nonce: str) -> str:
    if len(bytes.fromhex(nonce)) != _NONCE:
        raise ValueError("no nonce")
    return nonce


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _decode(line: bytes) -> dict[str, Any]:
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("no message")
    return message
