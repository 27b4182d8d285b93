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
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import interpreter
from .install_failure import EnvironmentFailed
from .installer import CREDENTIALS, Installer, Say
from .interpreter import Interpreter, name_of

__all__ = ["EnvironmentFailed", "prepare"]


def prepare(packages: Mapping[str, Any], store: Path, say: Say) -> list[str]:
    """Directories that go to the front of sys.path so that all packages of the job are there; empty where they are.

    An exception out of a signal handler ends a running installation and all its processes; what a killed one leaves
    behind never looks complete.

    Args:
        packages: of the manifest: "pins", "constraints", "install", "index", "requires_ipython".
        store: where installed packages are kept for later jobs.
        say: gets what is going on, one line at a time.

    Raises:
        EnvironmentFailed: something is missing and cannot or must not be installed.
    """
    secrets: dict[str, str] = json.loads(os.environ.pop(CREDENTIALS, "{}"))
    wanted = [str(pin) for pin in packages.get("pins", ())]
    if packages.get("requires_ipython") and not any(name_of(pin) == "ipython" for pin in wanted):
        wanted.append("ipython")
    if not wanted:
        return []
    found = _look(wanted)
    missing = found.missing
    if not missing:
        return []
    if packages.get("install") == "never":
        raise _forbidden(missing)
    constraints = [str(one) for one in packages.get("constraints", ())]
    met = [pin for pin in wanted if pin not in missing]
    index = packages.get("index") or {}
    facts = [sorted(missing), sorted(constraints), sorted(met), index, found.abi, found.installed]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]
    home = store / key
    try:
        if not _complete(home):
            say(f"installing {', '.join(missing)}")
            with _locked(store / f"{key}.lock", say):
                if not _complete(home):
                    installer = Installer(found, index, secrets, say)
                    _install(installer, home, list(missing), constraints, met)
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
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another job that installs the same packages")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
