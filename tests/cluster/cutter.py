"""A wire to the API server that can be cut: a TCP relay on this machine."""

from __future__ import annotations

import copy
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from kube_nb.backends.kubernetes.api import Api


class Wire:
    """Relays connections to one address until they are cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cuts = 0
        self._dead = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Cut every connection that stands now; how many there were."""
        with self._lock:
            standing, self._open = self._open, set()
        for one in standing:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.cuts += bool(standing)
        return len(standing)

    @contextmanager
    def dead(self) -> Iterator[None]:
        """Nobody answers for a while."""
        self._dead = True
        self.cut()
        yield
        self._dead = False

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._dead:
                near.close()
                continue
            far = socket.create_connection(self._target)
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, sink}


@contextmanager
def wired(api: Api) -> Iterator[tuple[Api, Wire]]:
    """The same cluster over a wire that can be cut."""
    from kubernetes.client import ApiClient

    address = urlsplit(api.client.configuration.host)
    wire = Wire(address.hostname or "", address.port or 443)
    configuration = copy.copy(api.client.configuration)
    configuration.host = f"https://127.0.0.1:{wire.port}"
    configuration.tls_server_name = address.hostname
    try:
        yield Api(ApiClient(configuration), api.namespace, api.server), wire
    finally:
        wire.close()
