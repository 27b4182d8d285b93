"""The packages that a job needs and its interpreter lacks: found out, and installed once for all jobs that need them.

They go into a plain directory for sys.path, `<store>/<key>/site`, never a virtual environment: that would point at the
interpreter of one image. Standard library only: ships with the job.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import interpreter
from .install_failure import EnvironmentFailed
from .installer import CREDENTIALS, PROXIES, Installer, Say
from .interpreter import Interpreter, name_of

__all__ = ["EnvironmentFailed", "forget", "prepare"]

CACHE = "cache"
"""Beside the environments: what installers have fetched, where it is not the person's own cache."""
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
_MAY_BE_THE_WISHES = frozenset({"BuildFailed", "Conflict", "PackageNotFound"})
"""Why an installation may fail that goes well without what is only wished for."""
_held: list[int] = []
"""Locks of the environments that this process uses."""


def prepare(packages: Mapping[str, Any], store: Path, say: Say) -> list[str]:
    """Directories that go to the front of sys.path so that all packages of the job are there; empty where they are.

    An exception out of a signal handler ends a running installation and all its processes; what a killed one leaves
    behind never looks complete.

    Args:
        packages: of the manifest: "pins", "inferred" (those of them that nobody asked for by name), "constraints",
            "install", "index", "requires_ipython", "wished" (what the job shows less without).
        store: where installed packages are kept for later jobs.
        say: gets what is going on, one line at a time.

    Raises:
        EnvironmentFailed: something is missing and cannot or must not be installed.
    """
    secrets: dict[str, str] = json.loads(os.environ.pop(CREDENTIALS, "{}"))
    proxies: dict[str, str] = json.loads(os.environ.pop(PROXIES, "{}"))
    wanted = [str(pin) for pin in packages.get("pins", ())]
    if packages.get("requires_ipython") and not any(name_of(pin) == "ipython" for pin in wanted):
        wanted.append("ipython")
    never = packages.get("install") == "never"
    wished = [] if never else [str(pin) for pin in packages.get("wished", ())]
    if not wanted and not wished:
        return []
    found = _look([*wanted, *wished])
    if never:
        _make_do(found.missing, frozenset(packages.get("inferred", ())), say)
        return []
    alone = all(pin in wished for pin in found.missing)  # then the job rather goes without than waits for an index

    def installer(found: Interpreter) -> Installer:
        return Installer(found, packages.get("index") or {}, secrets, proxies, say, hurried=alone)

    try:
        return _added(packages, [*wanted, *wished], found, store, say, installer)
    except EnvironmentFailed as error:
        if not wished or not (alone or error.code in _MAY_BE_THE_WISHES):
            raise
        say(f"values are shown plainly, without {', '.join(map(name_of, wished))}: {error.what}")
    return _added(packages, wanted, _look(wanted), store, say, installer)


def _added(
    packages: Mapping[str, Any],
    wanted: list[str],
    found: Interpreter,
    store: Path,
    say: Say,
    installer: Callable[[Interpreter], Installer],
) -> list[str]:
    """The directory in the store with what is wanted and was not found; it is installed where it is not there yet."""
    missing = found.missing
    if not missing:
        return []
    constraints = [str(one) for one in packages.get("constraints", ())]
    met = [pin for pin in wanted if pin not in missing]
    index = packages.get("index") or {}
    facts = [sorted(missing), sorted(constraints), sorted(met), index, found.abi, found.installed]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]
    home = store / key
    try:
        _hold(store, key)
        if not _complete(home):
            say(f"installing {', '.join(missing)}")
            with _locked(store / f"{key}.lock", say):
                if not _complete(home):
                    _hold(store, CACHE)
                    _install(installer(found), home, list(missing), constraints, met)
        os.utime(home)
    except OSError as error:
        raise _no_room(store, error) from error
    return [str(home / "site")]


def _look(wanted: Sequence[str]) -> Interpreter:
    """Asked in a process of its own: the runner is started without site-packages, the code is not."""
    answer = subprocess.run(
        [sys.executable, "-P", interpreter.__file__],
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise EnvironmentFailed(
            what="the interpreter of the job does not start",
            why=(answer.stderr.strip().splitlines() or ["it said nothing"])[-1],
            next=f"try {sys.executable} -c pass",
            code="InstallFailed",
        )
    return Interpreter(**json.loads(answer.stdout.splitlines()[-1]))


def _complete(home: Path) -> bool:
    return (home / "complete").exists()


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another job that installs the same packages")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise  # some shared disks know none: then two jobs at once install twice
        yield


def _hold(store: Path, key: str) -> None:
    """Use an environment until this process ends: nobody removes it meanwhile."""
    store.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(store / f"{key}.used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _held.append(fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)  # whoever removes it right now is soon done
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def forget(store: Path, key: str) -> bool:
    """Remove an environment, or the installers' `CACHE`; False: it is in use, and stays.

    Raises:
        OSError: it cannot be removed.
    """
    if not re.fullmatch(rf"[0-9a-f]{{40}}|{CACHE}", key):
        raise OSError(errno.EINVAL, f"{key[:80]!r} is no environment")
    with open(store / f"{key}.used", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        home, leaving = store / key, store / f".leaving-{key}"
        with suppress(FileNotFoundError):
            home.rename(leaving)  # what is removed half must not look complete
        if leaving.exists():
            shutil.rmtree(leaving)
    return True


def _install(installer: Installer, home: Path, wanted: list[str], constraints: list[str], met: list[str]) -> None:
    home.mkdir(exist_ok=True, mode=0o700)
    for leftover in home.glob("draft-*"):  # of installations that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    # A draft of its own for every try: an installer that outlived its killed runner may still be writing into another.
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=home))
    try:
        (draft / "site").mkdir()
        plan = installer.plan(draft, wanted, constraints, met)
        if plan:
            installer.install(draft, plan)
        if (home / "site").exists():
            (home / "site").rename(draft / "incomplete")
        (draft / "site").rename(home / "site")
        (draft / "complete").write_text("\n".join(plan) + "\n", encoding="utf-8")
        (draft / "complete").rename(home / "complete")
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _make_do(missing: Mapping[str, str], inferred: frozenset[str], say: Say) -> None:
    """Where nothing may be installed, another version of what the kernel has is better than none; it is said.

    Raises:
        EnvironmentFailed: something is not there at all, or not as the person asked for it.
    """
    absent = {pin: version for pin, version in missing.items() if not version or pin not in inferred}
    if absent:
        raise _forbidden(absent)
    for pin, version in missing.items():
        say(f"{name_of(pin)} is {version} here; the kernel has {pin}")


def _forbidden(missing: Mapping[str, str]) -> EnvironmentFailed:
    named = [f"{pin} (here is {version})" if version else pin for pin, version in missing.items()]
    return EnvironmentFailed(
        what=f"not installed where the job runs: {', '.join(named)}",
        why="the setting `install = never` forbids to install anything",
        next="run it where they are installed, or allow it: install = missing",
        code="InstallForbidden",
    )


def _no_room(store: Path, error: OSError) -> EnvironmentFailed:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return EnvironmentFailed(
        what=f"packages cannot be stored in {store}",
        why=error.strerror or str(error),
        next="free some space there" if full else "make it writable",
        code="OutOfDisk" if full else "StoreFailed",
    )
