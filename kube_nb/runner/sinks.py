"""What takes the bytes of a pickle and the buffers that go with it: stores, counts or hashes them."""

from __future__ import annotations

import base64
import hashlib
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from .objects import Objects, Writer

_SPILL = 1024 * 1024
_HASHED_AT_ONCE = 8 * 1024 * 1024


class Sink(Protocol):
    """What takes the bytes of a pickle.

    Attributes:
        error: of the sink itself, and not of a value.
    """

    error: BaseException | None

    def write(self, data: Any, /) -> int: ...

    def buffer(self, buffer: pickle.PickleBuffer, /) -> bool:
        """Take a buffer; true where it shall be part of the pickle instead."""
        ...


class Store:
    """Stores a pickle: in memory while it is small, then as an object; and its buffers."""

    def __init__(self, objects: Objects, in_band: int) -> None:
        self.error: BaseException | None = None
        self._objects = objects
        self._in_band = in_band
        self._size = 0
        self._buffers: list[str] = []
        self._small = b""
        self._writer: Writer | None = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, data: Any) -> int:
        with self._noting():
            count = memoryview(data).nbytes
            self._size += count
            if self._writer is None and len(self._small) + count <= _SPILL:
                self._small += data
            else:
                if self._writer is None:
                    self._writer = self._objects.writer()
                    self._writer.write(self._small)
                self._writer.write(data)
            return count

    def buffer(self, buffer: pickle.PickleBuffer) -> bool:
        with self._noting(), buffer.raw() as view:
            if view.nbytes < self._in_band:
                return True
            self._size += view.nbytes
            self._buffers.append(self._objects.write(view))
            return False

    def reference(self, inline: int) -> dict[str, Any]:
        if not self._buffers and self._writer is None and len(self._small) <= inline:
            return {"pickle": None, "buffers": [], "size": self._size, "data": base64.b64encode(self._small).decode()}
        digest = self._objects.write(self._small) if self._writer is None else self._writer.finish()
        return {"pickle": digest, "buffers": self._buffers, "size": self._size}

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error
            raise


class Counting:
    error: BaseException | None = None

    def __init__(self, deadline: float | None = None) -> None:
        self.size = 0
        self._deadline = deadline

    def write(self, data: Any) -> int:
        _in_time(self._deadline)
        count = memoryview(data).nbytes
        self.size += count
        return count

    def buffer(self, buffer: pickle.PickleBuffer) -> bool:
        self.write(buffer)
        return False


class Hashing:
    error: BaseException | None = None

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        with pickle.PickleBuffer(data).raw() as view:
            for start in range(0, view.nbytes, _HASHED_AT_ONCE):
                _in_time(self._deadline)
                with view[start : start + _HASHED_AT_ONCE] as part:
                    self._digest.update(part)
            return view.nbytes

    def buffer(self, buffer: pickle.PickleBuffer) -> bool:
        self.write(buffer)
        return False

    def digest(self) -> bytes:
        return self._digest.digest()


def _in_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError("there was no time to pickle all of it")
