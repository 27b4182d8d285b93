"""Objects to and from a container, through exec: verified, in constant memory, continued after a broken connection.

The far end is `kube_nb/runner/carry.py`, which also says what passes between the two.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kube_nb.backends.base import Carried
from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.exec import STDERR, STDOUT, Exec, ExecFailed, not_running
from kube_nb.errors import Corrupted, KubeNbError, NotFound, Unreachable
from kube_nb.runner.carry import PIECE, Part

TOOL = ("python3", "-I", "-S", f"{names.SECRET}/{names.RUNNER_ZIP}", "tool")
PATIENCE = 60.0
"""Seconds for which a broken connection is made again while no byte moves."""
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_T = TypeVar("_T")


@dataclass(frozen=True)
class Container:
    """A running container with the runner in it: a job's, or a transfer pod's."""

    api: Api
    pod: str
    name: str = names.CONTAINER

    def tool(self, *words: str, stdin: bool = False) -> Exec:
        """Start a verb of the runner's tool.

        Raises:
            ApiError: the cluster refuses; 404 or 500: the container does not run any more.
            Unreachable: nobody answers.
        """
        return Exec.start(self.api, self.pod, [*TOOL, *words], container=self.name, stdin=stdin)


def put_objects(
    container: Container,
    directory: str,
    objects: Mapping[str, Path],
    progress: Carried | None = None,
) -> int:
    """Put files, named by their digests, below `directory` of a container; what is there already is not sent again.

    Returns:
        the bytes that were sent.

    Raises:
        Corrupted: what arrived is not what its digest says: the file here changed, or something on the way did.
        ApiError: the container does not run any more, or there is no right to exec.
        Unreachable: the connection broke and could not be made again.
    """
    if not objects:
        return 0
    put = _Put({digest: (path, path.stat().st_size) for digest, path in objects.items()}, progress)
    _again(lambda: put.once(container, directory), lambda: put.sent)
    return put.sent


def get_objects(
    container: Container,
    directory: str,
    destinations: Mapping[str, Path],
    progress: Carried | None = None,
) -> None:
    """Bring objects from `directory` of a container, each to its own path; what came before is not asked for again.

    Raises:
        NotFound: the container has no such object.
        Corrupted: what arrived is not what its digest says.
        ApiError: the container does not run any more, or there is no right to exec.
        Unreachable: the connection broke and could not be made again.
    """
    get = _Get({digest: path for digest, path in destinations.items() if not path.exists()}, progress)
    if get.missing:
        _again(lambda: get.once(container, directory), lambda: get.received)


def list_objects(container: Container, directory: str) -> dict[str, int]:
    """The names of what lies below `directory` of a container, and their bytes.

    Raises:
        ApiError, Unreachable: as `get_objects`.
    """

    def ask() -> dict[str, int]:
        with container.tool("list", directory) as program:
            return json.loads(program.output())

    return _again(ask, lambda: 0)


class _Put:
    def __init__(self, objects: Mapping[str, tuple[Path, int]], progress: Carried | None) -> None:
        self._objects = objects
        self._progress = progress
        self._total = sum(size for _, size in objects.values())
        self.sent = 0

    def once(self, container: Container, directory: str) -> None:
        """One connection's worth: all that is missing, unless the connection breaks."""
        with container.tool("put", directory, stdin=True) as program:
            answers = _Answers(program)
            program.send(_line({"objects": {digest: size for digest, (_, size) in self._objects.items()}}))
            need: dict[str, int] = answers.line()["need"]
            there = self._total - sum(self._objects[digest][1] - offset for digest, offset in need.items())
            self._tell(there)
            try:
                for digest, offset in need.items():
                    there = self._send(program, *self._objects[digest], offset, there)
            except ExecFailed as error:
                raise answers.why(error) from error
            answer = answers.line()
            if "error" in answer:
                if need.get(answer["error"]):  # what was left of an earlier try was not good; it is gone now
                    raise ExecFailed(what="an object has to be sent anew")
                raise Corrupted(
                    what=f"object {answer['error'][:12]} did not arrive as it was sent",
                    why="its bytes are not what its digest says",
                    next="send the cell again; if it happens again, look at this machine's disk",
                )
            answers.finish()

    def _send(self, program: Exec, path: Path, size: int, offset: int, there: int) -> int:
        room = memoryview(bytearray(PIECE))
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            while offset < size:
                count = file.readinto(room[: min(PIECE, size - offset)])
                if not count:
                    raise Corrupted(what=f"{path.name[:12]} became shorter while it was sent")
                program.send(room[:count])
                offset += count
                there += count
                self.sent += count
                self._tell(there)
        return there

    def _tell(self, there: int) -> None:
        if self._progress is not None:
            self._progress(there, self._total)


class _Get:
    def __init__(self, destinations: Mapping[str, Path], progress: Carried | None) -> None:
        self.missing = dict(destinations)
        self._progress = progress
        self._total = 0
        self.received = 0

    def once(self, container: Container, directory: str) -> None:
        """One connection's worth: all that is missing, unless the connection breaks."""
        begun = {digest: part for digest, path in self.missing.items() if (part := Part.begun(path))}
        try:
            with container.tool("get", directory, stdin=True) as program:
                self._receive_all(program, begun)
        finally:
            for part in begun.values():
                part.close()

    def _receive_all(self, program: Exec, begun: dict[str, Part]) -> None:
        answers = _Answers(program)
        offsets = {digest: begun[digest].offset if digest in begun else 0 for digest in self.missing}
        program.send(_line({"objects": offsets}))
        sizes: dict[str, int | None] = answers.line()["sizes"]
        total = 0
        for digest, offset in offsets.items():
            size = sizes.get(digest)
            if size is None:
                raise NotFound(what=f"there is no object {digest[:12]}", why="it was never written, or it was removed")
            total += size - offset
        self._total = max(self._total, self.received + total)
        for digest, path in list(self.missing.items()):
            with begun.pop(digest, None) or Part(path) as part:
                self._receive(answers, part, sizes[digest] or 0)
                if not part.keep(digest):
                    raise Corrupted(
                        what=f"object {digest[:12]} did not arrive as the job wrote it",
                        why="its bytes are not what its digest says",
                        next="look at the job before you trust it",
                    )
            del self.missing[digest]
        answers.finish()

    def _receive(self, answers: _Answers, part: Part, size: int) -> None:
        while part.offset < size:
            piece = answers.some(size - part.offset)
            part.add(piece)
            self.received += piece.nbytes
            if self._progress is not None:
                self._progress(self.received, self._total)


class _Answers:
    """What the far end says: lines of JSON, and bytes of a known number."""

    def __init__(self, program: Exec) -> None:
        self._program = program
        self._pieces = self._stdout()
        self._held = memoryview(b"")
        self._said = bytearray()

    def line(self) -> dict[str, Any]:
        line = bytearray()
        while not line.endswith(b"\n"):
            piece = bytes(self.some(1 << 26))
            end = piece.find(b"\n") + 1 or len(piece)
            line += piece[:end]
            self._held = memoryview(piece)[end:]
        return json.loads(line)

    def some(self, most: int) -> memoryview:
        """The next bytes, at least one.

        Raises:
            ExecFailed: the far end has ended or the connection broke.
        """
        if not self._held:
            self._held = memoryview(next(self._pieces, b""))
            if not self._held:
                raise self._failed()
        piece, self._held = self._held[:most], self._held[most:]
        return piece

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            ExecFailed: it failed.
        """
        for _ in self._pieces:
            pass
        if self._program.status:
            raise self._failed()

    def why(self, error: ExecFailed) -> KubeNbError:
        """What the far end said before it went away; `error` where it said nothing."""
        with suppress(ExecFailed):
            for _ in self._pieces:
                pass
        return self._failed() if self._said else error

    def _stdout(self) -> Iterator[bytes]:
        for channel, data in self._program.receive():
            if channel == STDOUT:
                yield data
            elif channel == STDERR:
                self._said += data

    def _failed(self) -> KubeNbError:
        said = self._said.decode("utf-8", "replace").strip()
        if said:
            return Refusal(what="the files could not be carried over", why=said.splitlines()[-1])
        return ExecFailed(what="the connection to the container broke", why=self._program.message)


class Refusal(KubeNbError):
    """The far end said no, e.g. as its disk is full: trying again changes nothing."""


def _again(once: Callable[[], _T], moved: Callable[[], int]) -> _T:
    """Do it until it is done; a broken connection is made anew as long as bytes move, and a while beyond that."""
    last, began, pause = moved(), time.monotonic(), _FIRST_PAUSE
    while True:
        try:
            return once()
        except (ApiError, Unreachable) as error:
            if isinstance(error, ApiError) and (not_running(error) or error.status < 500):
                raise
            if moved() != last:
                last, began, pause = moved(), time.monotonic(), _FIRST_PAUSE
            if time.monotonic() - began > PATIENCE:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"
