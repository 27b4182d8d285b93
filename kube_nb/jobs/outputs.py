"""What a job gives back: verified, unpickled, bound to the kernel's own classes."""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kube_nb.errors import Corrupted, NotFound

if TYPE_CHECKING:
    from kube_nb.jobs.job import Job

RESULT = "__kube_nb_result__"
"""Under this name travels the value of a function call or of the line form."""

KERNEL_SETTINGS = "_kube_nb_settings"
"""Attribute of the shell that keeps what `%kube_config` has set."""


def size_text(size: float) -> str:
    """Bytes for a person: `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def signature(key: bytes, job: str, attempt: int, **content: Any) -> str:
    """What the runner signs an index or an error with: HMAC-SHA256 over canonical JSON, bound to job and attempt."""
    record = {"job": job, "attempt": attempt, **content}
    return hmac.new(key, json.dumps(record, sort_keys=True, separators=(",", ":")).encode(), hashlib.sha256).hexdigest()


def kernel_namespace() -> dict[str, Any]:
    """The names of the notebook, or of the program where there is no IPython."""
    shell = _shell()
    return shell.user_ns if shell is not None else sys.modules["__main__"].__dict__


def kernel_settings() -> Mapping[str, Any] | None:
    """What `%kube_config` has set in this kernel; None: nothing."""
    return getattr(_shell(), KERNEL_SETTINGS, None)


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


@dataclass(frozen=True, kw_only=True)
class RemoteValue:
    """A value that stayed with its job because it is large.

    A later job that reads the name takes the value from there, not through the kernel.

    Attributes:
        name, type: what it is called and what it is.
        size: bytes.
        job: the id of the job that made it.
    """

    name: str
    type: str
    size: int
    job: str
    _graph: dict[str, Any] = field(repr=False)
    _job: Job = field(repr=False, compare=False)

    def get(self) -> Any:
        """Bring the value into this process, whatever its size.

        Raises:
            NotFound: the job or what it wrote was removed.
            Corrupted: the bytes are not what the job signed.
        """
        return self._job.load(self._graph)[self.name]

    def __kube_nb_remote__(self) -> tuple[dict[str, Any], Path]:
        """Where the value lies: its graph, and the directory of the graph's objects. A bundle links them."""
        return self._graph, self._job.place_of(self._graph)

    def __repr__(self) -> str:
        return f"<{self.type} `{self.name}`, {size_text(self.size)}, with job {self.job}: .get() brings it here>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"`{self.name}` is with job {self.job}: send it under a name of its own, or call .get() first")


class Outputs(Mapping[str, Any]):
    """The names a job gives back, loaded together when the first one is asked for, so that aliases stay aliases."""

    def __init__(self, job: Job, index: dict[str, Any], produced: dict[str, tuple[int, dict[str, Any]]]) -> None:
        self._job = job
        self._index = index
        self._produced = produced
        self._values: dict[str, Any] | None = None

    @property
    def sizes(self) -> dict[str, tuple[str, int]]:
        """Type and bytes of each name that comes back."""
        return {name: (entry["type"], entry["size"]) for name, entry in self._index.get("names", {}).items()}

    @property
    def files(self) -> dict[str, int]:
        """Relative path and bytes of each file that `--collect` brought."""
        return {path: entry["size"] for path, entry in self._index.get("files", {}).items()}

    @property
    def imports(self) -> dict[str, str]:
        """Names that functions which came back read and the cell imported: `numpy`, `math:sqrt`."""
        return dict(self._index.get("imports", {}))

    @property
    def unchecked(self) -> list[str]:
        """Names for which there was no time to see whether the cell changed them."""
        return list(self._index.get("unchecked", []))

    @property
    def unreturned(self) -> dict[str, str]:
        """Names that could not come back, and why."""
        return dict(self._index.get("unreturned", {}))

    def values_now(self) -> dict[str, Any]:
        """All names with their values; large ones as RemoteValue.

        Raises:
            Corrupted: the bytes are not what the job signed.
            NotFound: what the job wrote was removed.
        """
        if self._values is None:
            graph = self._index.get("graph")
            values = dict(self._job.load(graph)) if graph else {}
            for name, entry in self._index.get("remote", {}).items():
                values[name] = RemoteValue(
                    name=name,
                    type=entry["type"],
                    size=entry["size"],
                    job=self._job.id,
                    _graph=entry["graph"],
                    _job=self._job,
                )
            self._values = values
        return self._values

    def save_files(self, directory: Path) -> list[Path]:
        """Put the collected files below `directory`, which they cannot leave."""
        saved = []
        for path, entry in self._index.get("files", {}).items():
            target = (directory / path).resolve()
            if not target.is_relative_to(directory.resolve()):
                raise Corrupted(
                    what=f"the job names a file outside the directory: {path}",
                    next="look at the job before you trust it",
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._job.read_object(entry["object"], entry["size"]))
            saved.append(target)
        return saved

    def __getitem__(self, name: str) -> Any:
        if name in self._produced:
            return self._job.produced(*self._produced[name])
        values = self.values_now()
        if name in values:
            return values[name]
        self._job.raise_if_failed()
        why = self.unreturned.get(name, "the job gave back: " + (", ".join(self) or "nothing"))
        raise NotFound(what=f"job {self._job.id} has no output `{name}`", why=why)

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)

    def __iter__(self) -> Iterator[str]:
        names = [*self._index.get("names", {}), *self._index.get("remote", {}), *self._produced]
        return iter(dict.fromkeys(name for name in names if name != RESULT))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<outputs of {self._job.id}: {', '.join(self) or 'none'}>"
