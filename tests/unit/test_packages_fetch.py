"""Pages of an index over a real connection: asked once, soon given up, credentials shown to nobody else."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kube_nb.capture import packages_fetch
from kube_nb.capture.packages import here
from kube_nb.capture.packages_fetch import fetching
from kube_nb.capture.packages_index import Index, Offer, serving
from kube_nb.capture.packages_rules import Installed, resolve_for, tags_of
from kube_nb.spec import Platform

PAGE = {"files": [{"filename": "torch-2.5.1-cp311-cp311-manylinux1_x86_64.whl", "size": 906_400_000}]}
TARGET = Platform(system="Linux", machine="x86_64", python="3.11.9")


class Server(ThreadingHTTPServer):
    """An index that remembers what it was asked.

    Attributes:
        asked: path, Authorization of each request. pages: path -> body; others do not exist.
        moved: path -> URL. gate: answers wait for it.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.pages: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.server.gate.wait(10)
        if self.path in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[self.path])
            self.end_headers()
            return
        page = self.server.pages.get(self.path)
        self.send_response(404 if page is None else 200)
        self.end_headers()
        self.wfile.write(page or b"")

    def log_message(self, *_: object) -> None: ...


def serve() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


server = pytest.fixture(serve)
other_server = pytest.fixture(serve)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages_fetch, "_known", {})
    monkeypatch.setattr(packages_fetch, "_silent", {})
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_page_is_asked_for_once_in_all_submits(server: Server) -> None:
    server.pages["/simple/torch/"] = json.dumps(PAGE).encode()
    index = Index(url=server.url)
    for _ in range(2):
        offer = serving(index, tags_of(TARGET), fetching(index))("torch", "2.5.1")
        assert offer == Offer(found=True, size=906_400_000)
    assert [path for path, _ in server.asked] == ["/simple/torch/"]


def test_a_page_that_does_not_exist_is_an_answer(server: Server) -> None:
    index = Index(url=server.url)
    assert serving(index, tags_of(TARGET), fetching(index))("mine", "1.0") == Offer(found=False)


def test_a_local_version_label_that_the_index_lacks_is_dropped_and_the_download_is_told(server: Server) -> None:
    server.pages["/simple/torch/"] = json.dumps(PAGE).encode()
    index = Index(url=server.url)
    installed = [Installed(name="torch", version="2.5.1+cpu", installer="pip")]
    found = resolve_for(installed, TARGET, serving(index, tags_of(TARGET), fetching(index)))
    assert found.pins == ("torch==2.5.1",)
    assert "906 MB" in found.lines[0]


def test_who_is_slow_is_given_up_and_not_asked_again(server: Server) -> None:
    server.gate.clear()
    index = Index(url=server.url)
    begun = time.monotonic()
    offers = [serving(index, tags_of(TARGET), fetching(index, seconds=0.3))(name, "1.0") for name in ("a", "b", "c")]
    assert time.monotonic() - begun < 2
    assert offers == [Offer()] * 3
    assert [path for path, _ in server.asked] == ["/simple/a/"]


def test_nobody_there_is_not_known() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        index = Index(url=f"http://127.0.0.1:{taken.getsockname()[1]}/simple")
        assert serving(index, tags_of(TARGET), fetching(index))("torch", "2.5.1+cpu") == Offer()


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1:1/simple", "http://[::1/simple"])
def test_what_is_no_address_is_not_known(url: str) -> None:
    index = Index(url=url)
    assert serving(index, tags_of(TARGET), fetching(index, seconds=1))("torch", "1.0") == Offer()


def test_an_answer_that_is_no_page_is_not_known(server: Server) -> None:
    server.pages["/simple/torch/"] = b'{"files": [{'
    index = Index(url=server.url)
    assert serving(index, tags_of(TARGET), fetching(index))("torch", "1.0") == Offer()


def test_credentials_go_to_their_own_index_alone(server: Server, other_server: Server) -> None:
    server.moved["/simple/torch/"] = f"{other_server.url}/torch/"
    other_server.pages["/simple/torch/"] = json.dumps(PAGE).encode()
    index = Index(url=server.url, extra=(other_server.url,), credentials={server.url: "me:pass%40word"})
    assert serving(index, tags_of(TARGET), fetching(index))("torch", "2.5.1").found
    expected = "Basic " + base64.b64encode(b"me:pass@word").decode()
    assert server.asked == [("/simple/torch/", expected)]
    assert {authorization for _, authorization in other_server.asked} == {None}


def test_without_a_configured_main_index_nothing_is_known_to_be_lacking(server: Server) -> None:
    index = Index(extra=(server.url,))
    serves = serving(index, tags_of(here()), fetching(index))
    assert serves("torch", "2.5.1") == Offer()
