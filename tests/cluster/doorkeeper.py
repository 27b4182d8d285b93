"""An HTTP proxy that lets nobody through whom it does not know."""

from __future__ import annotations

import base64
import socket
import threading
from contextlib import suppress


class Doorkeeper:
    """CONNECT alone, for one user alone.

    Args:
        address: of this machine, at which it stands.

    Attributes:
        known: the user's name and password as they stand in a URL.
        passed: HOST:PORT of everybody who was let through to.
    """

    known = "jo:se%20cret"

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.passed: list[str] = []
        self._listener = socket.create_server((address, 0))
        self.port = self._listener.getsockname()[1]
        self._wanted = b"proxy-authorization: basic " + base64.b64encode(b"jo:se cret").lower()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += near.recv(1 << 12)
        if self._wanted not in head.lower():
            near.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            near.close()
            return
        place = head.split()[1].decode()
        self.passed.append(place)
        host, _, port = place.rpartition(":")
        far = socket.create_connection((host, int(port)))
        near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=_pass_on, args=(far, near), daemon=True).start()
        _pass_on(near, far)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
