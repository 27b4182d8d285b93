"""A proxy that answers every request with its page to log in, as if nothing were wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from kube_nb.client import Client
from kube_nb.errors import Unreachable

PAGE = b"<!doctype html>\n<title>Log in</title>"


class Proxy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A context whose cluster lies behind such a proxy."""
    pytest.importorskip("kubernetes", reason="cluster: the kubernetes package is not installed")
    name = "behind"
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = {
            "clusters": [{"name": name, "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
            "users": [{"name": name, "user": {"token": "x"}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield name
        server.shutdown()


def test_a_page_to_log_in_is_told_from_a_cluster(behind: str) -> None:
    with pytest.raises(Unreachable) as raised:
        Client(on=behind).jobs()
    assert "no Kubernetes API server" in raised.value.what
    assert "<title>Log in</title>" in raised.value.why
    assert "log in" in raised.value.next
