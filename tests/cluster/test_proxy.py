"""A cluster behind a proxy that lets nobody through whom it does not know."""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from kube_nb.backends.kubernetes.connect import Place, connect
from kube_nb.backends.kubernetes.exec import Exec
from kube_nb.backends.kubernetes.kinds import JOBS
from kube_nb.errors import Unreachable
from tests.cluster.handmade import FOREVER

KNOWN = "jo:se cret"


class Doorkeeper:
    """An HTTP proxy: CONNECT alone, for one user alone."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._wanted = b"proxy-authorization: basic " + base64.b64encode(KNOWN.encode()).lower()
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
        host, _, port = head.split()[1].decode().rpartition(":")
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


@pytest.fixture
def doorkeeper() -> Iterator[Doorkeeper]:
    made = Doorkeeper()
    yield made
    made.close()


def place(doorkeeper: Doorkeeper, directory: Path, who: str) -> Place:
    content = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    for entry in content["clusters"]:
        entry["cluster"]["proxy-url"] = f"http://{who}127.0.0.1:{doorkeeper.port}"
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return Place("proxied", content["current-context"], kubeconfig=str(path))


def test_requests_and_programs_pass_with_the_name_and_password_of_the_address(doorkeeper, by_hand, tmp_path):
    api = connect(place(doorkeeper, tmp_path, "jo:se%20cret@"))
    seen = by_hand("proxied", FOREVER)
    seen.running()
    assert api.get(JOBS, seen.id)["metadata"]["name"] == seen.id
    pod = seen.snapshot().pods[0]["metadata"]["name"]
    with Exec.start(api, pod, ["echo", "hello"], stdin=False) as program:
        assert program.output() == b"hello\n"


def test_without_them_nobody_passes(cluster, doorkeeper, tmp_path):
    with pytest.raises(Unreachable):
        connect(place(doorkeeper, tmp_path, "")).list(JOBS)
