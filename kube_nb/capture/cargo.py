"""What a source needs from its kernel, decided; nothing is written yet."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from kube_nb.capture.modules import LocalModules, local_modules
from kube_nb.capture.names import closure
from kube_nb.capture.source import Source, prepare
from kube_nb.capture.travel import explain
from kube_nb.errors import BadValue, MissingName
from kube_nb.runner import graph

_UNCHANGED = (ModuleType, type, str, bytes, int, float, complex, type(None))
_RESULTS = re.compile(r"_{1,3}|_\d+")
"""IPython's own names for what cells have shown."""


@dataclass(frozen=True, kw_only=True)
class Cargo:
    """What travels, decided but not yet written.

    Attributes:
        source: what runs; text: the cell as its person sees it, its magic lines included.
        namespace: the kernel's names; its identity stands for the job's own `__main__`.
        values: what travels by value.
        remote: names whose values lie with an earlier job: (graph reference, directory of its objects).
        send: only these travel; None: whatever is read. kept: these stay here.
        assigned: names that the cell assigns, itself or by `global` in a function.
        check: names that the cell may change in place.
        outputs: exactly these come back; None: what was assigned or changed.
        modules, files: local modules; files beside the notebook, by relative path.
        limit: bytes that come back unasked; budget: seconds for finding what changed.
        notes: sentences that go with the job.
        packages: what is installed before the code starts, as the runner reads it.
        index_env: credentials of the package index, which the runner takes away again; secret.
    """

    source: Source
    text: str
    kind: Literal["cell", "function", "script", "notebook"]
    label: str
    namespace: dict[str, Any]
    values: dict[str, Any]
    remote: dict[str, tuple[dict[str, Any], Path]]
    send: frozenset[str] | None
    kept: frozenset[str]
    assigned: frozenset[str]
    check: tuple[str, ...]
    outputs: tuple[str, ...] | None
    modules: LocalModules
    files: dict[str, Path]
    collect: tuple[str, ...]
    returns: bool
    limit: int
    budget: float
    notes: tuple[str, ...]
    packages: dict[str, Any]
    index_env: dict[str, str] = field(default_factory=dict, repr=False)

    def further(self, names: Iterable[str]) -> dict[str, Any]:
        """Values that functions deep inside the values read, found only while these are packed."""
        if self.send is not None:
            return {}
        found = closure(names, self.namespace).values
        return {name: found[name] for name in found if name not in self.kept and not _is_remote(found[name])}

    def describe(self) -> list[str]:
        """Each name that travels with its type and size."""
        sizes = self.sizes()
        return [f"{name} ({type(value).__name__}, {size_of(sizes[name])})" for name, value in self.values.items()] + [
            f"{name} (from its job)" for name in self.remote
        ]

    def sizes(self) -> dict[str, int]:
        """Bytes of each value; large arrays are not copied for it."""
        found = {}
        for name, value in self.values.items():
            try:
                found[name] = graph.size(value, namespace=self.namespace)
            except Exception as error:
                raise explain(name, value, error, self.namespace) from error
        return found


def load_cargo(
    text: str,
    namespace: dict[str, Any],
    *,
    kind: Literal["cell", "function", "script", "notebook"],
    label: str,
    values: Mapping[str, Any],
    send: Iterable[str] | None,
    keep: Iterable[str],
    outputs: tuple[str, ...] | None,
    include: Iterable[str],
    collect: tuple[str, ...],
    filename: str,
    first_line: int,
    whole: str | None,
    transform: Callable[[str], str] | None,
    returns: bool,
    plain: bool,
    packages: Sequence[str],
    install: str,
    root: Path,
    limit: int,
    budget: float,
) -> Cargo:
    """Decide what a source needs; nothing is written.

    Raises:
        SyntaxError: it is not Python.
        CannotRunThere: it uses what only a kernel has.
        MissingName: it reads a name that does not exist.
        BadValue: a name of `send` does not exist, or `include` fits nothing.
    """
    source = prepare(
        text, filename=filename, first_line=first_line, transform=(lambda code: code) if plain else transform
    )
    captured = closure(source.reads, namespace, extra=values)
    wanted = dict(captured.values)
    kept = set(keep)
    if send is not None:
        chosen = set(send)
        absent = sorted(chosen - set(namespace))
        if absent:
            raise BadValue(what=f"`{absent[0]}` is not a name of this notebook", next="look at what follows -i")
        wanted = {name: value for name, value in namespace.items() if name in chosen}
    elif captured.missing:
        name, line = next(iter(sorted(captured.missing.items(), key=lambda item: item[1])))
        if name not in kept:
            near = captured.suggestions.get(name, [])
            raise MissingName(
                what=f"the cell reads `{name}` (line {line}), which does not exist",
                why="neither this notebook nor the cell defines it",
                next=f"did you mean `{near[0]}`?" if near else "run the cell that defines it first",
            )
    remote = {}
    for name in list(wanted):
        if name in kept:
            del wanted[name]
        elif _is_remote(wanted[name]):
            remote[name] = wanted.pop(name).__kube_nb_remote__()
    files = _included(include, root)
    modules = local_modules(source.imports | captured.modules | _module_names(values), root=root)
    notes = [*modules.lines, *_notes(source.announces | captured.announces, source.relative_paths, files, root)]
    touched = source.touched | captured.touched
    if send is None and outputs is None and kind == "cell":
        others = _other_names({name: wanted[name] for name in touched & set(wanted)}, namespace, kept)
        wanted |= others
        touched |= set(others)
    asked, index_env, lines = _packages(packages)
    notes += lines
    wanted |= values
    return Cargo(
        source=source,
        text=text if whole is None else whole,
        kind=kind,
        label=label,
        namespace=namespace,
        values=wanted,
        remote=remote,
        send=None if send is None else frozenset(send),
        kept=frozenset(kept),
        assigned=frozenset(source.assigned | captured.assigned) - kept,
        check=tuple(sorted(touched & (set(wanted) | set(remote)))) if outputs is None and kind == "cell" else (),
        outputs=outputs,
        modules=modules,
        files=files,
        collect=collect,
        returns=returns,
        limit=limit,
        budget=budget,
        notes=tuple(notes),
        packages=asked | {"install": install, "requires_ipython": False},
        index_env=index_env,
    )


def _other_names(values: Mapping[str, Any], namespace: Mapping[str, Any], kept: Collection[str]) -> dict[str, Any]:
    """The notebook's other names for what the cell may change: they are to see the change, and stay names for it."""
    objects = {id(value) for value in values.values() if not issubclass(type(value), _UNCHANGED)}
    return {
        name: value
        for name, value in namespace.items()
        if id(value) in objects and name not in values and name not in kept and not _RESULTS.fullmatch(name)
    }


def _included(patterns: Iterable[str], root: Path) -> dict[str, Path]:
    """Files below `root` that the patterns name, by their path relative to it."""
    found: dict[str, Path] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, root_dir=root, recursive=True, include_hidden=False))
        for match in matches:
            path = root / match
            inside = [path] if path.is_file() else [p for p in sorted(path.rglob("*")) if p.is_file()]
            for file in inside:
                if not file.resolve().is_relative_to(root.resolve()):
                    raise BadValue(what=f"`{pattern}` leads out of {root}", next="include files beside the notebook")
                found[file.relative_to(root).as_posix()] = file
        if not matches:
            raise BadValue(
                what=f"--include {pattern} fits no file", why=f"looked below {root}", next="check the pattern"
            )
    return found


def _packages(asked: Sequence[str]) -> tuple[dict[str, Any], dict[str, str], Sequence[str]]:
    """What the runner installs, the secret part of it, and lines to show. Here the job has all the kernel has."""
    if not asked:
        return {"pins": [], "constraints": [], "index": {}}, {}, ()
    from kube_nb.capture.packages import Kernel, pins
    from kube_nb.capture.packages_index import user_index

    found, index = pins((), kernel=Kernel(), packages=asked), user_index()
    said = {"pins": list(found.pins), "constraints": list(found.constraints), "index": index.manifest()}
    return said, index.env(), found.lines


def _is_remote(value: Any) -> bool:
    """Whether it only stands for a value that lies with an earlier job."""
    return hasattr(type(value), "__kube_nb_remote__")


def _notes(announces: Iterable[str], paths: Iterable[str], files: Mapping[str, Path], root: Path) -> list[str]:
    notes = []
    seen = ", ".join(sorted(announces))
    if seen:
        notes.append(f"what {seen} reads cannot be seen: name it with -i, or assign it in the cell")
    for path in sorted(paths):
        if path not in files and not any(file.startswith(path.rstrip("/") + "/") for file in files):
            place = root / path
            if place.exists() and place.resolve() != root.resolve():
                notes.append(f"`{path}` exists here and does not travel: add --include {path!r} where the job reads it")
    return notes


def _module_names(values: Mapping[str, Any]) -> set[str]:
    """Modules that the functions and arguments of a call come from."""
    found: set[str] = set()
    for value in values.values():
        for item in value if isinstance(value, tuple) else (value,):
            module = getattr(item, "__module__", None) or getattr(type(item), "__module__", None)
            if isinstance(module, str):
                found.add(module)
    return found


def size_of(size: float) -> str:
    """Bytes for a person: `1.2 MB`."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB" if size >= 1000 else f"{size:.0f} B"
