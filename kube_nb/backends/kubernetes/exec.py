"""A program in a running container, spoken to as over a pipe: Kubernetes' exec over one WebSocket.

The `kubernetes` package's own stream copies every frame several times and decodes text; results and bundles are large,
so the frames are written here (RFC 6455 section 5.2). The protocol is v5.channel.k8s.io with v4 as its elder: the first
byte of a frame is the channel: 0 stdin, 1 stdout, 2 stderr, 3 the status at the end.
"""

from __future__ import annotations

import contextlib
import select
import ssl
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from kube_nb.backends.kubernetes.api import USER_AGENT, Api
from kube_nb.backends.kubernetes.api_error import ApiError, Unauthorized, error_of, status_in
from kube_nb.backends.kubernetes.kinds import PODS
from kube_nb.backends.kubernetes.silence import unreachable
from kube_nb.backends.kubernetes.wire import keep_alive, proxied, shut_down, tls
from kube_nb.errors import Unreachable

if TYPE_CHECKING:
    from websocket import WebSocket

STDIN, STDOUT, STDERR, STATUS = range(4)
FRAME = 1 << 18
"""Bytes of one frame that we send."""
_STALLED = 60.0
"""Seconds in which nothing can be sent; then the connection is dead."""
_GLANCE = 0.5
"""Seconds after which a sender that cannot send looks whether it was told why."""
_GONE = ("not found", "not running", "NotFound", "not exist", "completed pod", "is in state", "exited", "stopped")
"""In what a node says of a container that does not run; there is no status of its own for that."""
_BINARY_FINAL = 0x82
_MASKED = 0x80


class ExecFailed(Unreachable):
    """The program could not be started, or its connection broke; `status` is its exit status where it has one."""

    def __init__(self, what: str, why: str = "", next: str = "", *, status: int | None = None) -> None:
        super().__init__(what, why, next)
        self.status = status


class Exec:
    """One program that runs in a container; used by one thread.

    Example:
        >>> with Exec.start(api, "x-0", ["cat"]) as program:  # doctest: +SKIP
        ...     program.send(b"hello")
        ...     next(program.receive())
        (1, b'hello')
    """

    def __init__(self, wire: WebSocket, server: str) -> None:
        self._socket = wire
        self._server = server
        self._held: deque[tuple[int, bytes]] = deque()
        self.status: int | None = None
        """Exit status, once the program has ended."""
        self.message = ""

    @classmethod
    def start(cls, api: Api, pod: str, command: Sequence[str], *, container: str = "job", stdin: bool = True) -> Exec:
        """Start a program.

        Raises:
            ApiError: the cluster refuses (403: no right to exec; 404 or 500: the container does not run).
            Unreachable: nobody answers.
        """
        query = [("container", container), ("stdout", "true"), ("stderr", "true"), ("stdin", str(stdin).lower())]
        query += [("command", word) for word in command]
        client = api.client
        try:
            wire = _dial(api, pod, urlencode(query))
        except Unauthorized:
            if not api.renewed(client):
                raise
            wire = _dial(api, pod, urlencode(query))
        return cls(wire, api.server)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Write to the program's stdin.

        Raises:
            ExecFailed: the connection broke, or the program has ended.
        """
        view = memoryview(data).cast("B")
        for start in range(0, view.nbytes, FRAME):
            self._frame(STDIN, view[start : start + FRAME])

    def receive(self) -> Iterator[tuple[int, bytes]]:
        """What the program writes, as (channel, bytes), until it has ended; `status` is then known.

        Raises:
            ExecFailed: the connection broke before the program had ended.
        """
        while True:
            while self._held:
                yield self._held.popleft()
            if self.status is not None:
                return
            self._take_frame()

    def output(self) -> bytes:
        """All that the program writes to stdout, until it has ended.

        Raises:
            ExecFailed: it ended with another status than 0; `why` is what it wrote to stderr.
        """
        out, err = bytearray(), bytearray()
        for channel, data in self.receive():
            (out if channel == STDOUT else err).extend(data)
        if self.status:
            said = err.decode("utf-8", "replace").strip()
            raise ExecFailed(
                what=f"a program in the job's container ended with status {self.status}",
                why=said or self.message,
                status=self.status,
            )
        return bytes(out)

    def close(self) -> None:
        """End the connection; the program sees the end of its stdin."""
        with contextlib.suppress(Exception):
            self._socket.close(timeout=0)

    def abort(self) -> None:
        """Break the connection from another thread: whoever sends or receives gets ExecFailed, at once."""
        if self._socket.sock is not None:
            shut_down(self._socket.sock)

    def __enter__(self) -> Exec:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _frame(self, channel: int, data: memoryview) -> None:
        # A client's frames are masked so that no proxy mistakes what a web page makes it send; a mask of zeros is a
        # mask, and leaves the bytes as they are.
        size = data.nbytes + 1
        if size < 126:
            header = struct.pack("!BB", _BINARY_FINAL, _MASKED | size)
        elif size < 1 << 16:
            header = struct.pack("!BBH", _BINARY_FINAL, _MASKED | 126, size)
        else:
            header = struct.pack("!BBQ", _BINARY_FINAL, _MASKED | 127, size)
        self._send(memoryview(header + b"\0\0\0\0" + bytes([channel])))
        self._send(data)

    def _send(self, data: memoryview) -> None:
        """Send it all. A program that has ended reads no more: who waits for it to read would wait for ever."""
        connection = self._connection
        connection.settimeout(_GLANCE)
        moved = time.monotonic()
        while data:
            try:
                data = data[connection.send(data) :]
                moved = time.monotonic()
            except TimeoutError:
                connection.settimeout(None)
                self._glance()
                connection.settimeout(_GLANCE)
                if time.monotonic() - moved > _STALLED:
                    raise _broken("nothing could be sent for a minute") from None
            except OSError as error:
                raise _broken(str(error)) from error
        connection.settimeout(None)

    def _glance(self) -> None:
        """Take what has come while we send.

        Raises:
            ExecFailed: the program has ended.
        """
        while self._readable():
            self._take_frame()
            if self.status is not None:
                raise ExecFailed(what="the program has ended before it had read all", why=self.message)

    def _readable(self) -> bool:
        connection = self._connection
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        poll = select.poll()  # select() takes no descriptor from 1024 on
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(0))

    def _take_frame(self) -> None:
        """Read one frame, and hold what the program wrote."""
        from websocket import ABNF, WebSocketException

        try:
            frame = self._socket.recv_frame()
        except (WebSocketException, OSError) as error:
            raise _broken(str(error)) from error
        data = frame.data if isinstance(frame.data, bytes) else bytes(frame.data, "utf-8")
        if frame.opcode == ABNF.OPCODE_CLOSE:
            if self.status is None:
                raise _broken("the server closed it")
        elif frame.opcode == ABNF.OPCODE_PING:
            self._socket.pong(data)
        elif frame.opcode in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT, ABNF.OPCODE_CONT) and data:
            if data[0] == STATUS:
                self._take_status(data[1:])
            elif len(data) > 1:
                self._held.append((data[0], data[1:]))

    @property
    def _connection(self) -> Any:
        if self._socket.sock is None:
            raise _broken("it was closed")
        return self._socket.sock

    def _take_status(self, data: bytes) -> None:
        """The program's exit status; or the cluster's refusal, which may come after the connection was made.

        Raises:
            ApiError: the program was not started, or the container is gone.
        """
        status = status_in(data)
        self.message = status.get("message", "")
        if status.get("status") == "Success":
            self.status = 0
            return
        causes = (status.get("details") or {}).get("causes") or []
        codes = [cause["message"] for cause in causes if cause.get("reason") == "ExitCode"]
        self.status = int(codes[0]) if codes and codes[0].isdigit() else 255
        if not codes:
            raise error_of(status.get("code") or 500, status, "create", "pods/exec")


def _dial(api: Api, pod: str, query: str) -> WebSocket:
    """Raises: ApiError, Unreachable."""
    from websocket import WebSocket, WebSocketBadStatusException, WebSocketException

    configuration = api.client.configuration
    host = urlsplit(configuration.host)
    scheme = "wss" if host.scheme == "https" else "ws"
    path = host.path.rstrip("/") + PODS.path(api.namespace, pod, "exec")
    token = api.authorization()
    wire = WebSocket(sslopt=tls(configuration), enable_multithread=False, skip_utf8_validation=True)
    try:
        wire.connect(
            f"{scheme}://{host.netloc}{path}?{query}",
            header=[f"User-Agent: {USER_AGENT}", *([f"Authorization: {token}"] if token else [])],
            subprotocols=["v5.channel.k8s.io", "v4.channel.k8s.io"],
            timeout=30,
            suppress_origin=True,
            sockopt=keep_alive(),
            **proxied(configuration),
        )
        wire.settimeout(None)
    except WebSocketBadStatusException as error:
        body = getattr(error, "resp_body", b"") or b""
        raise error_of(error.status_code, status_in(body), "create", "pods/exec", pod) from error
    except (WebSocketException, OSError) as error:
        raise unreachable(api.server, error) from error
    return wire


def not_running(error: ApiError) -> bool:
    """Whether exec was refused because there is no such container, or it does not run (any more)."""
    return error.status in (400, 404) or (error.status == 500 and any(word in error.message for word in _GONE))


def _broken(why: str) -> ExecFailed:
    return ExecFailed(what="the connection to the job's container broke", why=why, next="it is tried again")
