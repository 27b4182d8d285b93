"""What this user's machine remembers of each submit: written before anything is created, so that no job is ever lost.

One file per job, readable by its owner alone, because it holds the key that proves that a result is from one's own job.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kube_nb.errors import NotFound, StorageFailed
from kube_nb.spec import JobId

_SAFE_ID = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One act of this user.

    Attributes:
        id, name: of the job.
        target: how the target was called, e.g. "local".
        label: what was sent, e.g. "Cell In[5]".
        created: seconds since the epoch.
        key: HMAC key, hexadecimal.
        nodes: streams of each attempt.
        notebook: session of the kernel that sent it, to find "the last job" of a notebook.
        before: fingerprint of each name that may come back, as it was at the submit; None: it did not exist.
        notes: sentences of the submit that stay with the job (what was dropped, what has no effect).
        sent: names of the values that travelled.
        shipped: bytes of the bundle.
        spec: what was submitted, as `dataclasses.asdict` gives it, so that it can be submitted again.
        returns: the result is one value (function or line form), not names.
        run: of a notebook: what ran with which parameters, where it came from, and where its output goes.
    """

    id: JobId
    name: str
    target: str
    label: str
    created: float
    key: str = field(repr=False)
    nodes: int = 1
    procs: int = 1
    notebook: str = ""
    before: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    spec: dict[str, Any] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    shipped: int = 0
    returns: bool = False
    run: dict[str, Any] = field(default_factory=dict)


class Journal:
    """The entries under `<state>/journal`.

    Args:
        state: the user's state directory.
    """

    def __init__(self, state: Path) -> None:
        self._directory = state / "journal"

    def write(self, entry: Entry) -> None:
        """Keep an entry, durably.

        Raises:
            StorageFailed: the state directory cannot be written.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=self._directory, prefix=".new-")
            with os.fdopen(handle, "w") as file:  # mkstemp made it 0600
                json.dump(asdict(entry), file)
            os.replace(temporary, self._directory / f"{entry.id}.json")
        except OSError as error:
            raise StorageFailed(
                what="the job was not started: its journal cannot be written",
                why=f"{self._directory}: {error.strerror}",
                next="free space there, or name another directory with %kube_config state_dir=PATH",
            ) from error

    def read(self, id: str) -> Entry:
        """The entry of a job.

        Raises:
            NotFound: this machine has none.
        """
        if not _SAFE_ID.fullmatch(id):
            raise NotFound(what=f"`{id}` is not the id of a job", next="list your jobs with %kube_jobs")
        try:
            return Entry(**_known(json.loads((self._directory / f"{id}.json").read_text())))
        except (OSError, ValueError, TypeError) as error:
            raise NotFound(
                what=f"job `{id}` was not submitted from here", next="list your jobs with %kube_jobs"
            ) from error

    def remove(self, id: JobId) -> None:
        """Forget a job; one that is not there is forgotten already."""
        (self._directory / f"{id}.json").unlink(missing_ok=True)

    def ids(self) -> list[JobId]:
        """All jobs submitted from here, the last one first."""
        try:
            with os.scandir(self._directory) as entries:
                found = [(e.stat().st_mtime_ns, e.name[:-5]) for e in entries if e.name.endswith(".json")]
        except FileNotFoundError:
            return []
        return [JobId(name) for _, name in sorted(found, reverse=True)]


def _known(record: dict[str, Any]) -> dict[str, Any]:
    """Drop what a later version may have written."""
    return {key: value for key, value in record.items() if key in Entry.__dataclass_fields__}
