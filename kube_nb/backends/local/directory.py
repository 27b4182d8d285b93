"""A job's directory: where each file lies, and how state is written so that a reader never sees half of it.

Shared by the kernel and the supervisor; imports nothing that a supervisor has not loaded anyway.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
RESERVE = 16 * 1024
"""Bytes set aside in every job so that its last state can be written on a full disk."""


class JobDirectory:
    """The paths of one job.

    Args:
        path: `<state>/jobs/<id>`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.id = os.path.basename(path)
        self.spec = f"{path}/spec.json"
        self.state = f"{path}/state.json"
        self.key = f"{path}/key"
        self.lock = f"{path}/lock"
        self.log = f"{path}/supervisor.log"
        self.bundle = f"{path}/bundle"
        self.out = f"{path}/out"
        self.checkpoints = f"{path}/checkpoints"
        self.cancel = f"{path}/cancel"
        """Exists once somebody asked the job to end: a supervisor that is still starting cannot take a signal."""
        self.reserve = f"{path}/reserve"

    def stream(self, node: int, attempt: int) -> str:
        return f"{self.path}/stream.{node}.{attempt}"

    def end(self, node: int, attempt: int) -> str:
        return f"{self.path}/end.{node}.{attempt}.json"

    def work(self, node: int, nodes: int) -> str:
        return f"{self.path}/work.{node}" if nodes > 1 else f"{self.path}/work"

    def reserve_space(self) -> None:
        """Set the reserve aside.

        Raises:
            OSError: there is no room.
        """
        _write(self.reserve, b" " * RESERVE, 0o600)

    def write_state(self, state: Mapping[str, Any], *, last: bool = False) -> None:
        """Replace state.json in one step; the `last` state may use the reserve.

        Raises:
            OSError: it could not be written.
        """
        import json

        data = json.dumps(state, separators=(",", ":")).encode()
        try:
            write_atomic(self.state, data)
        except OSError as fault:
            if not last or fault.errno not in FULL:
                raise
            self._write_into_reserve(data)

    def _write_into_reserve(self, data: bytes) -> None:
        # Overwriting blocks that the file has needs no new ones; neither does the rename.
        descriptor = os.open(self.reserve, os.O_WRONLY)
        try:
            os.pwrite(descriptor, data[:RESERVE], 0)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)
        os.replace(self.reserve, self.state)

    def read_state(self) -> dict[str, Any] | None:
        """The job's state; None where there is none, or none that can be read: then this is no job."""
        return read_json(self.state)


def write_atomic(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a whole file or nothing.

    Raises:
        OSError: it could not be written; the old file is as it was.
    """
    directory, _, name = path.rpartition("/")
    beside = f"{directory}/.{name}.{os.getpid()}.{_next()}"
    try:
        _write(beside, data, mode)
        os.replace(beside, path)
    except OSError:
        remove_file(beside)
        raise


def read_json(path: str) -> dict[str, Any] | None:
    """The object in a small file, or None where there is none."""
    import json

    try:
        with open(path, "rb", buffering=0) as file:
            value = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def remove_file(path: str) -> None:
    try:  # noqa: SIM105 - contextlib takes longer to import than all of this file
        os.unlink(path)
    except OSError:
        pass  # it is gone, or its directory is: nobody will read it


def tail(path: str, size: int = 1500) -> str:
    """The last words of a log; "" where there are none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def valid_id(name: str) -> bool:
    """Whether a name is a DNS label, the only kind of job id that becomes a path."""
    return (
        0 < len(name) <= 63
        and name.isascii()
        and name.lower() == name
        and name.replace("-", "a").isalnum()
        and name[0] != "-"
        and name[-1] != "-"
    )


def job_ids(jobs: str) -> Iterator[str]:
    """The names in the directory of all jobs that may be jobs; half-made and alien ones are not."""
    try:
        with os.scandir(jobs) as entries:
            yield from (entry.name for entry in entries if valid_id(entry.name))
    except FileNotFoundError:
        return


def _write(path: str, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


_counter = iter(range(1 << 62))
_next = _counter.__next__
