"""What a person wants to run, as they wrote it, and what they chose to send and to have back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kube_nb.spec import Platform, Task


@dataclass(frozen=True, kw_only=True)
class Work:
    """A cell, a call, a script or a notebook.

    Attributes:
        source: what runs; of a notebook, all of it as JSON.
        namespace: the kernel's names; its identity stands for the job's own `__main__`.
        task: which kind of work it is, and how the person calls it.
        values: names that travel beside those the source reads.
        name: of the job where the person gives none.
        filename, first_line: where the person sees the source; text: the whole cell, None: the source is all of it.
        transform: IPython's own, of the kernel; None: a fresh one.
        returns: the value of the last expression is the result.
        root: the directory whose modules and files travel.
        notebook: session of the kernel, to find its last job.
        how: of a notebook: how it is executed, as the runner reads it.
        record: what the journal keeps of it beside the spec.
    """

    source: str
    namespace: dict[str, Any] = field(repr=False)
    task: Task = field(default_factory=lambda: Task(kind="cell", label="cell"))
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    name: str = "cell"
    filename: str = "<cell>"
    first_line: int = 1
    text: str | None = None
    transform: Callable[[str], str] | None = None
    returns: bool = False
    root: Path = field(default_factory=Path.cwd)
    notebook: str = ""
    how: Mapping[str, Any] = field(default_factory=dict[str, Any])
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the person, or a setting, says about what travels.

    Attributes:
        send: only these names travel; None: what is read. keep: these stay here.
        outputs: exactly these come back; None: what was assigned or changed.
        include: patterns of files that travel; collect: of files that come back.
        packages: requirements; install: "missing" or "never"; index: package indexes of the settings.
        target: where packages are installed; None: in the kernel's own interpreter.
        limit: bytes that come back unasked; budget: seconds for finding what changed.
    """

    send: frozenset[str] | None = None
    keep: frozenset[str] = frozenset()
    outputs: tuple[str, ...] | None = None
    include: tuple[str, ...] = ()
    collect: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    install: str = "missing"
    index: tuple[str, ...] = ()
    target: Platform | None = None
    limit: int
    budget: float
