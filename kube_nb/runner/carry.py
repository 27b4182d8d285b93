"""Objects on their way between a directory here and a pipe: the far end of a transfer (`tool put`, `tool get`).

Both ends know every object's size before its bytes come, so the pipe carries the bytes alone, between lines of JSON:

    put: the client says {"objects": {digest: size}}; we answer {"need": {digest: offset}}: what is not here whole, and
         from where on; the client sends those bytes in that order; we answer {"stored": bytes} or {"error": digest}.
    get: the client says {"objects": {digest: offset}}; we answer {"sizes": {digest: size or null}} and send the bytes
         from each offset on, in that order.

What a broken connection left of an object stays beside the others and is continued. Nothing gets its name before its
digest was verified. Memory is constant whatever the size. Standard library only.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from contextlib import nullcontext, suppress
from pathlib import Path

from .objects import Digester, Objects
from .pipes import BrokenOff, In, Out

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PIECE = 1 << 20
"""Bytes that are held at once."""
WORTH_SYNCING = 1 << 20
"""Smaller objects are left to the system: to wait for the disk at each of hundreds takes longer than to send them."""
SYNC_EVERY = 64 << 20
"""Bytes after which writing them to the disk begins, so that there is little left to wait for at the end."""


def put(directory: str, say: Callable[[str], object]) -> int:
    """Take objects from stdin into `directory`; the exit status.

    Args:
        say: called with "coming" while bytes come, with "put" when an object is whole.
    """
    source, out = In(lambda: say("coming")), Out()
    objects = Objects(Path(directory))
    wanted: dict[str, int] = json.loads(source.line())["objects"]
    os.makedirs(directory, mode=0o700, exist_ok=True)
    missing = [d for d, size in wanted.items() if not (objects.has(d) and objects.size(d) == size)]
    begun = {digest: part for digest in missing if (part := Part.begun(objects.path(digest)))}
    try:
        _say(out, need={digest: begun[digest].offset if digest in begun else 0 for digest in missing})
        stored = 0
        for digest in missing:
            with begun.pop(digest, None) or Part(objects.path(digest)) as part:
                stored += part.fill(source, wanted[digest])
                if not part.keep(digest):
                    _say(out, error=digest)
                    return 1
            say("put")
        if missing:
            objects.sync()
        _say(out, stored=stored)
    except BrokenOff:
        return 1
    finally:
        for part in begun.values():
            part.close()
    return 0


def get(directory: str, sent: Callable[[str], object]) -> int:
    """Write objects of `directory` to stdout; the exit status.

    Args:
        sent: called with the path of each object that was sent to its end.
    """
    source, out = In(lambda: None), Out()
    objects = Objects(Path(directory))
    wanted: dict[str, int] = json.loads(source.line())["objects"]
    sizes = {digest: objects.size(digest) if objects.has(digest) else None for digest in wanted}
    _say(out, sizes=sizes)
    for digest, offset in wanted.items():
        with open(objects.path(digest), "rb", buffering=0) if sizes[digest] is not None else nullcontext() as file:
            while file is not None and (count := out.send_file(file.fileno(), offset, PIECE)):
                offset += count
        if sizes[digest] is not None:
            sent(str(objects.path(digest)))
    return 0


class Part:
    """An object that is not whole yet: the file beside the others in which it grows.

    Args:
        path: where it lies once it is whole.
        again: go on with what is there of it already.
    """

    def __init__(self, path: Path, *, again: bool = False) -> None:
        self._path = path
        self._fd, self._part = _locked(part_of(path))
        if self._fd < 0:  # somebody else fills it, or the file system knows no locks
            self._fd, self._part = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        self._digester = Digester()
        self.offset = 0
        if again:
            self._read_again()
        else:
            os.ftruncate(self._fd, 0)

    @classmethod
    def begun(cls, path: Path) -> Part | None:
        """What is there of it already; None: nothing."""
        return cls(path, again=True) if part_of(path).exists() else None

    def fill(self, source: In, size: int) -> int:
        """Read what is missing to `size`; how much it was.

        Raises:
            BrokenOff: it ended before; what came is kept.
        """
        room = memoryview(bytearray(PIECE))
        began = synced = self.offset
        with _Syncing(self._fd) as disk:
            while self.offset < size:
                with room[: min(PIECE, size - self.offset)] as piece:
                    count = source.fill(piece)
                    self.add(piece[:count])
                    if count < piece.nbytes:
                        raise BrokenOff
                if self.offset - synced >= SYNC_EVERY:
                    synced = self.offset
                    disk.begin()
        return self.offset - began

    def add(self, piece: memoryview) -> None:
        """The next bytes."""
        self._digester.update(piece)
        written = 0
        while written < piece.nbytes:
            written += os.pwrite(self._fd, piece[written:], self.offset + written)
        self.offset += piece.nbytes

    def keep(self, digest: str) -> bool:
        """Give it its name; False: it is not what the digest says, and is gone."""
        if self._digester.hexdigest() != digest:
            os.unlink(self._part)
            return False
        if self.offset >= WORTH_SYNCING:
            os.fsync(self._fd)
        os.replace(self._part, self._path)
        return True

    def close(self) -> None:
        os.close(self._fd)
        if self._part != str(part_of(self._path)):  # nobody would find it again
            with suppress(FileNotFoundError):  # it has its name
                os.unlink(self._part)

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_again(self) -> None:
        room = memoryview(bytearray(PIECE))
        while count := os.preadv(self._fd, [room], self.offset):
            self._digester.update(room[:count])
            self.offset += count


def part_of(path: Path) -> Path:
    """Where the beginning of an object grows that will lie at `path`."""
    return path.with_name(f".part-{path.name}")


class _Syncing:
    """Writes a file to the disk while it grows; at most one thread at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._sync, daemon=True)
            self._thread.start()

    def _sync(self) -> None:
        with suppress(OSError):  # the sync at the end says so again
            os.fdatasync(self._fd)

    def __enter__(self) -> _Syncing:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.join()


def _locked(path: Path) -> tuple[int, str]:
    """The file, opened and ours alone; -1 where that cannot be."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path, follow_symlinks=False).st_ino == os.fstat(fd).st_ino:
            return fd, str(path)
    except OSError:
        pass
    os.close(fd)
    return -1, ""


def _say(out: Out, **record: Any) -> None:
    out.send(json.dumps(record).encode() + b"\n")
