"""What is kept of a run so that it can be told from others and done again."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from kube_nb.notebooks.prepare import Prepared

_WITH = ("kube-nb", "ipykernel", "nbclient", "nbformat", "papermill")
_PATIENCE = 5.0


def record_of(prepared: Prepared, *, html: bool = False) -> dict[str, Any]:
    """Source, parameters, versions and commit of a run, as JSON holds them; what packing knows is added later."""
    return {
        "source": prepared.source,
        "sha256": prepared.digest,
        "parameters": dict(prepared.parameters),
        "output": str(Path(prepared.output).absolute()) if _local(prepared.output) else prepared.output,
        "html": html,
        "versions": _versions(),
        "git": git_state(prepared.root),
    }


def git_state(directory: Path) -> dict[str, Any] | None:
    """Commit of the working tree, and whether tracked files differ from it; None: there is none, or no git."""
    try:
        commit = _git(directory, "rev-parse", "HEAD")
        changed = _git(directory, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}


def _git(directory: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(directory), *words], capture_output=True, check=True, text=True, timeout=_PATIENCE
    )
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _WITH:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _local(output: str) -> bool:
    return bool(output) and output != "-" and "://" not in output
