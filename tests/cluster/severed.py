"""A connection to the API server that a test can cut: a proxy on this machine that passes bytes on."""

from __future__ import annotations

import contextlib
import copy
import socket
import threading
from urllib.parse import urlsplit

from kube_nb.backends.kubernetes.api import Api


class Proxy:
    """Passes connections on to a host while it is `open`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._guard = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._held: set[tuple[socket.socket, socket.socket]] = set()
        self._closed = False
        self.open = True
        self.taken = 0
        """Connections so far."""
        threading.Thread(target=self._accept, daemon=True).start()

    def sever(self) -> int:
        """Cut all connections; how many were there?"""
        with self._guard:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _end(*pair)
        return len(pairs)

    def hold(self) -> None:
        """From now on the connections that stand lead nowhere, and nobody is told: as if a machine had vanished."""
        with self._guard:
            self._held.update(self._pairs)

    @property
    def standing(self) -> int:
        """Connections that stand now."""
        with self._guard:
            return len(self._pairs)

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        self.sever()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.open:
                _end(near)
                continue
            far = socket.create_connection(self._target)
            pair = (near, far)
            with self._guard:
                self.taken += 1
                self._pairs.append(pair)
            for ends in (pair, pair[::-1]):
                threading.Thread(target=self._pass_on, args=(*ends, pair), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if pair not in self._held:
                    sink.sendall(data)
        with self._guard:
            if pair in self._pairs:
                self._pairs.remove(pair)
        _end(*pair)


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def through(api: Api) -> tuple[Api, Proxy]:
    """The same user at the same API server, through a proxy."""
    from kubernetes.client import ApiClient

    configuration = copy.copy(api.client.configuration)
    address = urlsplit(configuration.host)
    proxy = Proxy(address.hostname or "", address.port or 443)
    configuration.tls_server_name = address.hostname
    configuration.host = f"https://127.0.0.1:{proxy.port}"
    return Api(ApiClient(configuration), api.namespace, api.server), proxy
