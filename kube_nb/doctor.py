"""What works here, what is free, and what is missing, with how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kube_nb.errors import KubeNbError
from kube_nb.jobs.outputs import size_text
from kube_nb.spec import Phase

if TYPE_CHECKING:
    from kube_nb.client import Client

_LITTLE = 2 * 1024**3


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: its name, `ok`, `warning` or `error`, and a sentence.

    Attributes:
        yaml: what somebody with more rights would apply, where something is missing.
    """

    name: str
    state: Literal["ok", "warning", "error"]
    text: str
    yaml: str = ""


def examine(client: Client) -> list[Check]:
    """Look at everything; a failing check is a row, never an exception.

    Args:
        client: for the target that is examined.
    """
    return [*_python(), *_storage(Path(client.settings.get("state_dir"))), *_target(client)]


def where(client: Client) -> str:
    """Which target was examined; empty where it does not answer."""
    try:
        return client.backend.where
    except KubeNbError:
        return ""


def to_apply(checks: list[Check]) -> str:
    """What to ask the platform team for, as YAML; empty where nothing is missing."""
    wanted = dict.fromkeys(check.yaml for check in checks if check.yaml)
    return "# For whoever may grant it:\n" + "---\n".join(wanted) if wanted else ""


def _python() -> Iterator[Check]:
    version = platform.python_version()
    supported = (3, 11) <= sys.version_info < (3, 15)
    yield Check("python", "ok" if supported else "error", version if supported else f"{version}; 3.11 to 3.14 work")
    if shutil.which("uv") or find_spec("uv"):
        yield Check("packages", "ok", "--packages installs with uv")
    elif find_spec("pip"):
        yield Check("packages", "ok", "--packages installs with pip; uv would be faster")
    else:
        yield Check("packages", "warning", "neither uv nor pip is here: --packages cannot install; pip install uv")


def _storage(state: Path) -> Iterator[Check]:
    place = next(path for path in (state, *state.parents) if path.exists())
    if not os.access(place, os.W_OK):
        yield Check("storage", "error", f"{state} cannot be written; name another with %kube_config state_dir=PATH")
        return
    free = shutil.disk_usage(place).free
    text = f"{state}: {size_text(free)} free"
    yield Check("storage", "ok" if free > _LITTLE else "warning", text)


def _target(client: Client) -> Iterator[Check]:
    try:
        for row in client.backend.examine():
            yield Check(row.name, row.state, row.text, row.yaml)
        for finding in client.check():
            if finding.level == "unknown":
                continue  # said by whoever looked at rights
            level = "error" if finding.level == "error" else "warning"
            reason = finding.reason
            yield Check("target", level, " ".join(part for part in (reason.what, reason.why, reason.next) if part))
        capacity = client.backend.capacity()
        statuses = client.statuses()
    except KubeNbError as error:
        yield Check("target", "error", str(error))
        return
    if capacity.cpu:
        yield Check("cpu", "ok", f"{capacity.cpu[0]:g} of {capacity.cpu[1]:g} cores are free for jobs")
    if capacity.memory:
        yield Check("memory", "ok", f"{size_text(capacity.memory[0])} of {size_text(capacity.memory[1])} are free")
    if capacity.gpus:
        for kind, (free, total) in capacity.gpus.items():
            yield Check("gpus", "ok", f"{free} of {total} {kind} are free")
    elif not capacity.note:
        yield Check("gpus", "ok", "none here: jobs that ask for --gpus are refused")
    if capacity.note:
        yield Check("free", "warning", capacity.note, capacity.yaml)
    alive = [status for status in statuses if not status.phase.final]
    waiting = [status for status in alive if status.phase is Phase.PENDING]
    yield Check("jobs", "ok", f"{len(statuses)} kept, {len(alive) - len(waiting)} running, {len(waiting)} waiting")
