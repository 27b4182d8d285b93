"""A store at a URL, seen from the kernel: whatever fsspec reaches. The pod's side is `runner/remote.py`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from kube_nb.errors import Corrupted, NotFound, Refused, StorageFailed
from kube_nb.runner import remote
from kube_nb.runner.objects import Digester

Progress = Callable[[int, int], None]
"""Called with (bytes that are there, bytes in all) while they move."""
_PIECE = 8 << 20
_OF_ONE_MACHINE = frozenset({"file", "local", "memory"})


def is_url(setting: str) -> bool:
    """Whether a setting `store`, or the mark of a job, is a URL.

    Example:
        >>> is_url("s3://bucket/dir"), is_url("claim:x")
        (True, False)
    """
    return "://" in setting


def needs_of(url: str) -> tuple[str, ...]:
    """Modules that whoever uses the URL must have: fsspec, and what implements its protocol.

    Raises:
        Refused: they are not installed here.
    """
    protocol = url.partition("://")[0]
    if protocol in _OF_ONE_MACHINE:
        raise Refused(
            what=f"the store {url} cannot be used",
            why=f"{protocol}:// is another place on every machine",
            next="name a URL that pods and this machine reach alike, such as s3://bucket/dir, or leave it at auto",
        )
    try:
        from fsspec import get_filesystem_class

        module: str = get_filesystem_class(protocol).__module__
    except (ImportError, ValueError) as error:
        raise Refused(
            what=f"the store {url} cannot be used",
            why=str(error),
            next="pip install 'kube-nb[store]' and what the protocol needs, e.g. s3fs, gcsfs, adlfs",
        ) from error
    return tuple(dict.fromkeys(("fsspec", module.partition(".")[0])))


class UrlStore:
    """Files below a URL. Any thread may use it.

    Every method raises StorageFailed where the store says no or does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def put(self, folder: str, objects: Mapping[str, Path], progress: Progress | None = None) -> None:
        """Put files, by their names, into a folder; what is there with its size is not sent again."""
        total, done = sum(path.stat().st_size for path in objects.values()), 0
        with self._opened() as (system, place):
            below = f"{place}/{folder}"
            there = _sizes(system, below)
            for name, path in objects.items():
                if there.get(name) != path.stat().st_size:
                    system.put_file(str(path), f"{below}/{name}")
                done += path.stat().st_size
                if progress is not None:
                    progress(done, total)

    def get(self, path: str, digest: str, destination: Path) -> None:
        """Bring an object and verify it.

        Raises:
            NotFound: it is not there. Corrupted: it is not what its digest says.
        """
        # One of its own for each who asks: two may want the same object at once.
        draft = destination.with_name(f".part-{os.getpid()}-{threading.get_ident()}-{destination.name}")
        try:
            self._bring(path, draft)
            if _digest(draft) != digest:
                raise Corrupted(
                    what=f"object {digest[:12]} did not arrive as the job wrote it",
                    why="its bytes are not what its digest says",
                    next="look at the job, and at who can write to the store, before you trust it",
                )
            draft.replace(destination)
        finally:
            draft.unlink(missing_ok=True)

    def _bring(self, path: str, draft: Path) -> None:
        with self._opened() as (system, place):
            try:
                system.get_file(f"{place}/{path}", str(draft))
            except FileNotFoundError as error:
                raise _absent(f"{self.url}/{path}") from error

    def read(self, path: str, offset: int) -> Iterator[tuple[int, bytes]]:
        """Places and bytes of a file from `offset` on.

        Raises:
            NotFound: it is not there.
        """
        with self._opened() as (system, place):
            try:
                file = system.open(f"{place}/{path}", "rb")
            except FileNotFoundError as error:
                raise _absent(f"{self.url}/{path}") from error
            with file:
                file.seek(offset)
                while data := file.read(_PIECE):
                    yield offset, data
                    offset += len(data)

    def remove(self, folder: str) -> None:
        """Remove a folder; where there is none, nothing happens.

        Raises:
            ValueError: a part of its path is empty, so that it would be a folder above it.
        """
        if not all(folder.split("/")):
            raise ValueError(f"{folder!r} is no folder of one job")
        with self._opened() as (system, place):
            if system.exists(f"{place}/{folder}"):
                system.rm(f"{place}/{folder}", recursive=True)

    def usage(self, folder: str) -> dict[str, dict[str, float]]:
        """What lies in each folder below one: bytes, and when something in it changed last."""
        found: dict[str, dict[str, float]] = {}
        with self._opened() as (system, place):
            below = f"{place}/{folder}"
            for path, told in (system.find(below, detail=True) if system.exists(below) else {}).items():
                name = path[len(below) + 1 :].partition("/")[0]
                if not name:  # the mark by which some programs make an empty folder
                    continue
                one = found.setdefault(name, {"bytes": 0.0, "changed": 0.0})
                one["bytes"] += told["size"] or 0
                one["changed"] = max(one["changed"], _changed(told))
        return found

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        try:
            yield remote.opened(self.url)
        except (NotFound, Corrupted, GeneratorExit):
            raise
        except Exception as error:
            # Each protocol has errors of its own: what they say is passed on.
            raise StorageFailed(**remote.words(error, self.url)) from error


def _digest(path: Path) -> str:
    digester = Digester()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digester.update(memoryview(piece))
    return digester.hexdigest()


def _sizes(system: Any, folder: str) -> dict[str, int]:
    try:
        found = system.ls(folder, detail=True)
    except FileNotFoundError:
        return {}
    return {str(one["name"]).rpartition("/")[2]: int(one["size"] or 0) for one in found}


def _changed(told: Mapping[str, Any]) -> float:
    """When a file was written, by whichever name its protocol tells; where it tells nothing, nothing is old."""
    for key in ("LastModified", "last_modified", "updated", "mtime", "created"):
        value = told.get(key)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if value is not None:
            return value.timestamp() if isinstance(value, datetime) else float(value)
    return time.time()


def _absent(url: str) -> NotFound:
    return NotFound(what="it is not in the store", why=f"there is no {url}", next="it was removed, or never came there")
