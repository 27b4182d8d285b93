"""Where the bytes of one attempt of one node can be read: the kubelet's log, and the runner's own copy.

The kubelet keeps a log only up to its rotation, and tells of no offset; what it shows is the whole stream exactly when
it begins with the stream's first event. The copy is exact from any offset: by exec while the container runs, through
the store afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Api, shut
from kube_nb.backends.kubernetes.exec import STDERR, STDOUT, ExecFailed
from kube_nb.backends.kubernetes.kinds import PODS
from kube_nb.backends.kubernetes.transfer import Container
from kube_nb.backends.leaving import Leaving
from kube_nb.errors import NotFound
from kube_nb.events import MARK
from kube_nb.runner.stream import KUBELET_KEEPS

ENOUGH = 1 << 19
_HEAD = 60
_PIECE = 16 << 10
_FIRST = b'"seq":0,'
_END = b'\n\x1e{"kind":"end"'
_LONGEST_END = 1 << 20
_REFUSAL = b"failed to create fsnotify watcher: "
_NOT_FOLLOWED = re.compile(_REFUSAL + rb"[^\n\x1e]{1,80}\Z")
"""What a kubelet writes behind a log which it cannot follow, as its machine has no inotify instance left."""


class Beheaded(Exception):
    """The kubelet's log does not begin where the stream began: it was rotated."""


class Enough(Exception):
    """So much was written that the kubelet's log is too slow a way to it, and may be rotated some time."""


@dataclass
class Heard:
    """What is known of an attempt's stream by reading it.

    Attributes:
        at: how many of its bytes were read.
        end: the data of its end event, once that was read.
        line_start: the next byte begins a line.
    """

    at: int = 0
    end: dict[str, Any] | None = None
    line_start: bool = True
    _held: bytes = b"\n"

    def take(self, data: bytes, known: int = 0) -> None:
        """Bytes, of which the first `known` were read before, and the others come next."""
        if len(data) > known:
            self.at += len(data) - known
            self.line_start = data.endswith(b"\n")
        look = self._held + data
        begin = look.rfind(_END)
        if begin < 0:
            self._held = look[-len(_END) :]
            return
        line, newline, _ = look[begin + 2 :].partition(b"\n")
        if newline:
            self.end = _record(line)
        self._held = look[-len(_END) :] if newline or len(line) > _LONGEST_END else look[begin:]


def from_kubelet(api: Api, pod: str, *, follow: bool, bounded: bool, leaving: Leaving) -> Iterator[tuple[int, bytes]]:
    """The places and bytes of the whole stream, of which the kubelet knows; with `follow` until the container ends.

    Args:
        bounded: stop after what is quicker read otherwise: a kubelet passes on some 30,000 lines a second.
        leaving: breaks it off.

    Raises:
        Beheaded: the beginning is gone.
        Enough: with `bounded`.
        ApiError: 400 or 404: the container has not started, or the pod is gone.
        Unreachable: the connection broke.
    """
    query = {"container": names.CONTAINER, "follow": str(follow).lower()}
    size = lines = 0
    head: bytes | None = b""
    with api.stream("GET", PODS, pod, "log", query=query) as response, leaving.ends(partial(shut, response)):
        pieces = api.pieces(response)
        for data in _without_refusal(pieces) if follow else pieces:
            if head is not None:  # the first line has not all come
                data = head = head + data
                if b"\n" not in head and len(head) < _PIECE:
                    continue
                _check(head)
                head = None
            yield size, data
            size += len(data)
            lines += data.count(b"\n")
            if bounded and size + _HEAD * lines >= ENOUGH:
                raise Enough
    if head:  # a torn first line is all there is
        yield 0, head


def _without_refusal(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """A followed log without the kubelet's own last words: counted as the job's, they would shift all that comes."""
    held = b""
    for piece in pieces:
        data = held + piece
        refusal = _NOT_FOLLOWED.search(data)
        begun = data[data.rfind(b"\n") + 1 :]
        held = refusal[0] if refusal else begun if _REFUSAL.startswith(begun) else b""
        if len(data) > len(held):
            yield data[: len(data) - len(held)]
    if held and not _NOT_FOLLOWED.match(held):
        yield held


def what_is_left(api: Api, pod: str) -> tuple[bytes, int | None]:
    """All that the kubelet has of a log that does not begin with the stream's first event.

    Returns:
        the bytes, and how many lines are missing before them; None: some, nobody knows how many.
    """
    with api.stream("GET", PODS, pod, "log", query={"container": names.CONTAINER}) as response:
        data = b"".join(api.pieces(response))
    if len(data) < KUBELET_KEEPS // 2 and b'\n\x1e{"kind":' not in data:
        return data, 0  # it was no stream: e.g. an interpreter that could not start
    data = data[data.find(b"\n") + 1 :]  # the first may be a part of a line
    lines = 0
    for line in data.split(b"\n"):
        if line.startswith(b'\x1e{"kind":"account"'):
            before = ((_record(line[1:]) or {}).get("account") or {}).get("lines")
            return data, before - lines if isinstance(before, int) else None
        event = line.startswith(MARK) and not line.startswith(MARK + MARK)
        lines += not event and not line.endswith(MARK)
    return data, None


def from_now(api: Api, pod: str, at: int, leaving: Leaving) -> Iterator[tuple[int, bytes]]:
    """What comes from this moment until the container ends, as if the stream went on at the place `at`.

    Raises:
        ApiError: the container does not run, or the pod is gone. Unreachable: the connection broke.
    """
    query = {"container": names.CONTAINER, "follow": "true", "tailLines": "0"}
    with api.stream("GET", PODS, pod, "log", query=query) as response, leaving.ends(partial(shut, response)):
        for data in _without_refusal(api.pieces(response)):
            yield at, data
            at += len(data)


def from_copy(
    container: Container, path: str, offset: int, *, follow: bool, leaving: Leaving
) -> Iterator[tuple[int, bytes]]:
    """The places and bytes of the runner's copy from `offset` on; with `follow` until the stream has ended.

    Raises:
        NotFound: there is no copy.
        ApiError: the container does not run.
        ExecFailed, Unreachable: the connection broke, or the container ended.
    """
    words = ["read", path, str(offset), *(["--follow"] if follow else [])]
    said = bytearray()
    # An open input is how the reader in the container hears that nobody listens any more.
    with container.tool(*words, stdin=follow) as program, leaving.ends(program.abort):
        for channel, data in program.receive():
            if channel == STDOUT:
                yield offset, data
                offset += len(data)
            elif channel == STDERR:
                said += data
    if program.status:
        why = said.decode("utf-8", "replace").strip()
        if "No such file" in why:
            raise NotFound(what="there is no copy of this log", why=why)
        raise ExecFailed(what="the copy of the log cannot be read", why=why or program.message, status=program.status)


def copy_path(folder: str, node: int, attempt: int) -> str:
    """Where the runner keeps its copy, below the folder of all that the job makes."""
    return f"{folder}/log/{node}.{attempt}"


def _check(head: bytes) -> None:
    """Raises: Beheaded: it is not where a stream begins; what is no stream at all too."""
    first = head.split(b"\n", 1)[0]
    if not first.startswith(MARK + b"{") or _FIRST not in first:
        raise Beheaded


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
