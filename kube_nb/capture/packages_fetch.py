"""Pages of package indexes over the network: few, small, soon given up, and remembered for a while."""

from __future__ import annotations

import base64
import ssl
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from urllib.parse import unquote, urlsplit

from kube_nb.capture.packages_index import Fetch, Index

_SECONDS = 4.0
"""For all pages of one submit together: who is slower is not asked."""
_LARGEST = 32 * 1024 * 1024
_FRESH = 600.0
_SILENT = 60.0
"""Seconds for which a page, and a server that did not answer, are remembered."""
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclass
class _Answer:
    at: float
    page: bytes | None = None
    error: OSError | None = None


_known: dict[tuple[str, str], _Answer] = {}
_silent: dict[str, float] = {}


def fetching(index: Index, *, seconds: float = _SECONDS) -> Fetch:
    """Gets pages of this index within so many seconds in all.

    It runs in a thread that nobody waits for any longer than that: the resolution of a name knows no time-out.
    """
    give_up: list[float] = []  # counted from the first page on

    def fetch(url: str) -> bytes | None:
        now = time.monotonic()
        give_up[:] = give_up or [now + seconds]
        key = (url, _credential(index, url))
        known = _known.get(key)
        if known is not None and now - known.at < _FRESH:
            return known.page
        host = urlsplit(url).netloc
        if now - _silent.get(host, -_SILENT) < _SILENT or now >= give_up[0]:
            raise TimeoutError(f"{host} does not answer in time")
        answer = _in_time(_Request(url, key[1], index), give_up[0])
        if answer.error is not None:
            _silent[host] = now
            raise answer.error
        _known[key] = answer
        return answer.page

    return fetch


@dataclass(frozen=True)
class _Request:
    url: str
    credential: str = field(repr=False)
    index: Index

    def get(self, give_up: float) -> bytes | None:
        """The page; None: there is none."""
        request = urllib.request.Request(self.url, headers={"Accept": _ACCEPT, "User-Agent": "kube-nb"})
        if self.credential:
            word = base64.b64encode(unquote(self.credential).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {word}")
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=_tls(self.index, self.url)))
        try:
            with opener.open(request, timeout=max(0.1, give_up - time.monotonic())) as response:
                return self._read(response, give_up)
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                return None
            raise

    def _read(self, response: HTTPResponse, give_up: float) -> bytes:
        page = bytearray()
        while piece := response.read1(1 << 16):
            page += piece
            if len(page) > _LARGEST:
                raise OSError(f"{self.url} is larger than any page of an index")
            if time.monotonic() > give_up:
                raise TimeoutError(f"{self.url} does not answer in time")
        return bytes(page)


def _in_time(request: _Request, give_up: float) -> _Answer:
    answers: list[_Answer] = []
    done = threading.Event()

    def ask() -> None:
        got = _Answer(time.monotonic())
        try:
            got.page = request.get(give_up)
        except OSError as error:
            got.error = error
        except (ValueError, HTTPException) as error:  # no URL that can be asked; an answer that is no HTTP
            got.error = OSError(str(error))
        answers.append(got)
        done.set()

    threading.Thread(target=ask, name="kube-nb-index", daemon=True).start()
    done.wait(max(0.0, give_up - time.monotonic()))
    silence = TimeoutError(f"{request.url} does not answer in time")
    return answers[0] if answers else _Answer(time.monotonic(), error=silence)


def _tls(index: Index, url: str) -> ssl.SSLContext:
    host = urlsplit(url)
    if index.insecure and (host.hostname in index.insecure or host.netloc in index.insecure):
        return ssl._create_unverified_context()
    context = ssl.create_default_context()
    if index.ca is not None and index.ca.is_file():
        context.load_verify_locations(cafile=str(index.ca))
    return context


def _credential(index: Index, url: str) -> str:
    """`user:password` of the index that a page belongs to."""
    fits = [known for known in index.credentials if url == known or url.startswith(known.rstrip("/") + "/")]
    return index.credentials[max(fits, key=len)] if fits else ""
