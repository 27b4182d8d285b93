"""Content-addressed files: the name of an object is the digest of its bytes. Standard library only.

The digest of an object of at most 8 MiB (`BLOCK`) is its SHA-256. A larger one is cut into blocks of 8 MiB; its digest
is made of the first 32 bytes of the SHA-512 of its blocks' SHA-256 digests, one after the other. One SHA-256 over a
gigabyte is serial and slower than the page cache; blocks are hashed by several threads while others are read or
written. The root is SHA-512 so that no small object can be made that has the digest of a large one.

Nothing is handed out before all of its bytes were verified.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pickle import PickleBuffer
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Buffer  # pyright: ignore[reportAttributeAccessIssue]

BLOCK = 8 * 1024 * 1024
_STEP = 1024 * 1024  # read this much, then hash it while the processor's cache still holds it
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_THREADS = 4


class CorruptedObject(Exception):
    """An object is missing, or its bytes are not what its digest says. `digest` names it, `why` tells what is wrong."""

    def __init__(self, digest: str, why: str) -> None:
        super().__init__(f"object {digest[:80]} {why}")
        self.digest = digest
        self.why = why


class Objects:
    """The objects in one directory, which is made by the first write. Any thread and any process may write and read.

    Args:
        wrote: called with the number of bytes of each block that was written.

    Example:
        >>> objects = Objects(Path("bundle/objects"))  # doctest: +SKIP
        >>> bytes(objects.read(objects.write(b"abc")))  # doctest: +SKIP
        b'abc'
    """

    def __init__(self, directory: Path, wrote: Callable[[int], None] | None = None) -> None:
        self.directory = Path(directory)
        self._wrote = wrote

    def _temporary(self) -> _Temporary:
        return _Temporary(self.directory, self._wrote)

    def path(self, digest: str) -> Path:
        """Where the object lies, or would lie.

        Raises:
            CorruptedObject: `digest` is none, e.g. "../secret".
        """
        if not _DIGEST.fullmatch(digest):
            raise CorruptedObject(digest, "has no valid name")
        return self.directory / digest

    def has(self, digest: str) -> bool:
        """Whether there is such an object; its bytes are not verified."""
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """Its bytes.

        Raises:
            CorruptedObject: it is missing.
        """
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise CorruptedObject(digest, "is missing") from None

    def write(self, buffer: Buffer) -> str:
        """Store these bytes, which must not change meanwhile, and return their digest. Never copies them.

        Raises:
            OSError: there is no room, or the directory cannot be written; nothing is left behind.
        """
        with PickleBuffer(buffer).raw() as view:
            if view.nbytes <= BLOCK:
                digest = hashlib.sha256(view).hexdigest()
                if not self._present(digest, view.nbytes):
                    with self._temporary() as file:
                        file.write(view)
                        file.keep(self.path(digest))
                return digest
            with self._temporary() as file:
                blocks = [b""] * _count(view.nbytes)

                def hash_block(index: int) -> None:
                    with view[index * BLOCK : (index + 1) * BLOCK] as block:
                        blocks[index] = hashlib.sha256(block).digest()

                with _Threads(hash_block, len(blocks)):
                    for start in range(0, view.nbytes, BLOCK):
                        with view[start : start + BLOCK] as block:
                            file.write(block)
                    file.sync()
                digest = _root(blocks)
                if not self._present(digest, view.nbytes):
                    file.keep(self.path(digest))
                return digest

    def write_file(self, path: Path) -> str:
        """Store a copy of a file and return its digest; what is read is what is stored, should the file change."""
        with open(path, "rb", buffering=0) as source, self.writer() as writer:
            room = memoryview(bytearray(min(BLOCK, max(1, os.fstat(source.fileno()).st_size))))
            while count := source.readinto(room):
                writer.write(room[:count])
            return writer.finish()

    def writer(self) -> Writer:
        """A binary file to write to, whose `finish()` stores it and returns its digest."""
        return Writer(self)

    def read(self, digest: str, size: int | None = None) -> bytearray:
        """All bytes of an object, verified.

        Args:
            size: how many there must be, where that is known.

        Raises:
            CorruptedObject: it is missing, or not what the digest or the size says.
        """
        with self._open(digest, size) as file:
            count = os.fstat(file.fileno()).st_size
            if count <= BLOCK:
                data = bytearray(count)
                blocks = [_read_block(file.fileno(), 0, memoryview(data))]
            else:
                data = _uninitialised(count)
                blocks = [b""] * _count(count)

                def read_block(index: int) -> None:
                    start = index * BLOCK
                    with memoryview(data)[start : start + BLOCK] as block:
                        blocks[index] = _read_block(file.fileno(), start, block)

                with _Threads(read_block, len(blocks)):
                    pass
        if _root(blocks) != digest:
            raise CorruptedObject(digest, "does not hold the bytes that its digest names")
        return data

    def open(self, digest: str, size: int | None = None) -> IO[bytes]:
        """A binary file of the object's bytes, verified before this returns; for what should not be in memory at once.

        Raises:
            CorruptedObject: it is missing, or not what the digest or the size says.
        """
        file = self._open(digest, size)
        try:
            count = os.fstat(file.fileno()).st_size
            blocks = [b""] * max(1, _count(count))

            def check_block(index: int) -> None:
                with memoryview(bytearray(_STEP)) as room:
                    blocks[index] = _hash_block(file.fileno(), index * BLOCK, min(BLOCK, count - index * BLOCK), room)

            with _Threads(check_block, len(blocks)):
                pass
            if _root(blocks) != digest:
                raise CorruptedObject(digest, "does not hold the bytes that its digest names")
        except BaseException:
            file.close()
            raise
        return io.BufferedReader(file, BLOCK)

    def verify(self, digest: str, size: int | None = None) -> None:
        """Raise CorruptedObject unless the object is there and is what its digest and its size say."""
        self.open(digest, size).close()

    def sync(self) -> None:
        """Make the names of the objects written so far survive a power cut (their bytes already do)."""
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _open(self, digest: str, size: int | None) -> io.FileIO:
        try:
            # A FIFO that somebody put there must not block the reader, nor a link lead out of the directory.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = io.FileIO(os.open(self.path(digest), flags), "rb")
        except FileNotFoundError:
            raise CorruptedObject(digest, "is missing") from None
        except OSError as error:
            raise CorruptedObject(digest, f"cannot be read ({error.strerror})") from error
        found = os.fstat(file.fileno()).st_size
        if size is not None and found != size:
            file.close()
            raise CorruptedObject(digest, f"has {found} bytes instead of {size}")
        return file

    def _present(self, digest: str, size: int) -> bool:
        try:
            return self.path(digest).stat().st_size == size
        except FileNotFoundError:
            return False


class Writer(io.RawIOBase):
    """A file whose digest is known when it is finished; closed before that, it leaves nothing behind."""

    _file: _Temporary | None = None  # so that one that could not be made can be closed

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._file = objects._temporary()
        self._digester = Digester()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        assert self._file is not None
        with PickleBuffer(data).raw() as view:
            for start in range(0, view.nbytes, _STEP):  # hashed and written while the processor's cache holds it
                with view[start : start + _STEP] as piece:
                    self._digester.update(piece)
                    self._file.write(piece)
            self.size += view.nbytes
            return view.nbytes

    @property
    def digest(self) -> str:
        """Of what was written so far."""
        return self._digester.hexdigest()

    def finish(self) -> str:
        """Store what was written; its digest."""
        assert self._file is not None
        digest = self.digest
        if not self._objects._present(digest, self.size):
            self._file.keep(self._objects.path(digest))
        self.close()
        return digest

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


class Digester:
    """The digest of an object whose bytes come one after the other."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._block = hashlib.sha256()
        self._room = BLOCK

    def update(self, view: memoryview) -> None:
        start = 0
        while start < view.nbytes:
            if self._room == 0:
                self._blocks.append(self._block.digest())
                self._block = hashlib.sha256()
                self._room = BLOCK
            with view[start : start + self._room] as piece:
                self._block.update(piece)
                self._room -= piece.nbytes
                start += piece.nbytes

    def hexdigest(self) -> str:
        """Of all bytes so far."""
        return _root([*self._blocks, self._block.digest()])


class _Temporary:
    """A file beside the objects that becomes one of them by `keep`, or is gone."""

    def __init__(self, directory: Path, wrote: Callable[[int], None] | None) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._wrote = wrote
        self._fd, self._path = tempfile.mkstemp(prefix=".new-", dir=directory)  # mode 0600
        self._open = True
        self._synced = False

    def __enter__(self) -> _Temporary:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, view: memoryview) -> None:
        written = 0
        while written < view.nbytes:
            written += os.write(self._fd, view[written:] if written else view)
        self._synced = False
        if self._wrote is not None:
            self._wrote(view.nbytes)

    def sync(self) -> None:
        os.fsync(self._fd)
        self._synced = True

    def keep(self, path: Path) -> None:
        if not self._synced:
            self.sync()
        os.replace(self._path, path)
        self._path = ""

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._fd)
        if self._path:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            self._path = ""


class _Threads:
    """Calls `work(0)` to `work(count - 1)` in several threads while its `with` block runs, and finishes at its end.

    The thread that leaves the block helps; what `work` raises, it raises.
    """

    def __init__(self, work: Callable[[int], Any], count: int) -> None:
        self._work = work
        self._count = count
        self._next = 0
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        threads = min(_MOST_THREADS, _processors(), count - 1)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> None:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # no thread can be made, or an interrupt
            self._next = self._count
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._run()
        finally:
            self._next = self._count
            for thread in self._threads:
                thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._lock:
                index = self._next
                self._next += 1
            if index >= self._count:
                return
            try:
                self._work(index)
            except BaseException as error:  # noqa: BLE001 - raised again at the end of the block
                self._error = self._error or error
                self._next = self._count


def _read_block(fd: int, start: int, block: memoryview) -> bytes:
    """Fill `block` from the file and return the digest of what was read."""
    digest = hashlib.sha256()
    done = 0
    while done < block.nbytes:
        with block[done : done + _STEP] as step:
            count = os.preadv(fd, [step], start + done)
            if count == 0:
                return b""  # the file was cut meanwhile: no digest
            digest.update(step[:count])
        done += count
    return digest.digest()


def _hash_block(fd: int, start: int, length: int, room: memoryview) -> bytes:
    digest = hashlib.sha256()
    done = 0
    while done < length:
        with room[: min(_STEP, length - done)] as step:
            count = os.preadv(fd, [step], start + done)
            if count == 0:
                return b""
            digest.update(step[:count])
        done += count
    return digest.digest()


def _root(blocks: list[bytes]) -> str:
    if len(blocks) == 1:
        return blocks[0].hex()
    return hashlib.sha512(b"".join(blocks)).digest()[:32].hex()


def _count(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def _uninitialised(size: int) -> bytearray:
    """A bytearray whose bytes were never written: to fill a gigabyte with zeros takes as long as to read it."""
    try:
        import ctypes
    except ImportError:  # an interpreter that was built without it
        return bytearray(size)
    prototype = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)
    return prototype(("PyByteArray_FromStringAndSize", ctypes.pythonapi))(None, size)
