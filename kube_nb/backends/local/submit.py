"""From a spec and a bundle to a running supervisor.

The supervisor is started first and told last: while its interpreter starts, the job's directory is made.
"""

from __future__ import annotations

import contextlib
import errno
import json
import marshal
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from kube_nb.backends.base import Bundle
from kube_nb.backends.local import lock
from kube_nb.backends.local.directory import JobDirectory
from kube_nb.backends.local.inherit import for_supervisor
from kube_nb.backends.local.order import Order
from kube_nb.backends.local.retention import MAKING
from kube_nb.errors import StorageFailed
from kube_nb.spec import JobSpec

_ENTRY = str(Path(__file__).resolve().with_name("entry.py"))


def start_job(state: Path, spec: JobSpec, bundle: Bundle, order: Order) -> None:
    """Make the job's directory, which is seen whole or not at all, and start its supervisor.

    Nothing is done where the job exists already.

    Raises:
        StorageFailed: the directory cannot be made; nothing is left of it, and the bundle lies where it lay.
    """
    final = JobDirectory(order["job"])
    if os.path.exists(final.path):
        return
    draft = JobDirectory(f"{state}/jobs/{MAKING}{spec.id}.{os.getpid()}.{os.urandom(3).hex()}")
    supervisor: _Supervisor | None = None
    try:
        try:
            os.mkdir(draft.path, 0o700)
            supervisor = _Supervisor(draft)
            _fill(draft, spec, bundle, order["header"])
            _touch(bundle.runner)
            _move(bundle.directory, draft.bundle)
        except OSError as failed:
            raise StorageFailed(
                what="the job was not started: its directory cannot be written",
                why=f"{state / 'jobs'}: {failed.strerror or failed}",
                next="free some space there, or name another directory with %kube_config state_dir=PATH",
            ) from failed
        try:
            os.rename(draft.path, final.path)
        except OSError as failed:
            if failed.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return  # another submit with this id was quicker: this is the same job
            _move(draft.bundle, bundle.directory)
            raise StorageFailed(
                what="the job was not started: its directory cannot be put in place",
                why=f"{state / 'jobs'}: {failed.strerror}",
            ) from failed
        supervisor.tell(order)
    finally:
        if supervisor:
            supervisor.let_go()
        shutil.rmtree(draft.path, ignore_errors=True)


class _Supervisor:
    """An interpreter that waits for its order, and holds the job's lock meanwhile.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, draft: JobDirectory) -> None:
        held = lock.take(draft.lock)
        try:
            with open(draft.log, "ab", buffering=0) as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", _ENTRY, str(held)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=for_supervisor(os.environ),
                    pass_fds=[held],
                    start_new_session=True,
                )
        finally:
            os.close(held)

    def tell(self, order: Order) -> None:
        """Where it has ended already, the job is found dead, and why stands in its log."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(marshal.dumps(cast(Any, order)))
            self._process.stdin.close()

    def let_go(self) -> None:
        """The supervisor leaves this process's family as soon as it starts; without an order it then ends."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def _fill(draft: JobDirectory, spec: JobSpec, bundle: Bundle, header: Mapping[str, Any]) -> None:
    os.mkdir(draft.out, 0o700)
    _write(draft.spec, json.dumps(asdict(spec), separators=(",", ":")).encode())
    _write(draft.key, bundle.key)
    draft.reserve_space()
    blank = {"phase": "Pending", "attempt": 0, "started": None, "ended": None, "reason": None, "end": {}}
    draft.write_state({**header, **blank})


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb", buffering=0) as file:
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _touch(runner: Path) -> None:
    """Retention counts from the last use. A runner that is gone fails here, before the job exists."""
    os.utime(runner)


def _move(source: Path | str, target: Path | str) -> None:
    try:
        os.rename(source, target)
    except OSError as failed:
        if failed.errno != errno.EXDEV:
            raise
        shutil.copytree(source, target)
        shutil.rmtree(source)
