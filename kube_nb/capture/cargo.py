"""What a source needs from its kernel, decided; nothing is written yet."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from kube_nb.capture.companions import companions
from kube_nb.capture.modules import LocalModules, local_modules
from kube_nb.capture.names import closure
from kube_nb.capture.notebook_source import not_here, prepare_notebook
from kube_nb.capture.packages_job import Packages, packages_of
from kube_nb.capture.source import Source, prepare
from kube_nb.capture.travel import explain
from kube_nb.capture.work import Choice, Work
from kube_nb.errors import BadValue, MissingName
from kube_nb.runner import graph

_UNCHANGED = (ModuleType, type, str, bytes, int, float, complex, type(None))
_ALWAYS_THERE = sys.stdlib_module_names | {"__main__", "__mp_main__"}
_RESULTS = re.compile(r"_{1,3}|_\d+")
"""IPython's own names for what cells have shown."""


@dataclass(frozen=True, kw_only=True)
class Cargo:
    """What travels, decided but not yet written.

    Attributes:
        work, choice: what the person wrote and chose.
        source: what runs.
        values: what travels by value.
        remote: names whose values lie with an earlier job: (graph reference, directory of its objects).
        assigned: names that the cell assigns, itself or by `global` in a function.
        check: names that the cell may change in place.
        modules, files: local modules; files beside the notebook, by relative path.
        notes: sentences that go with the job.
        packages: what is installed before the code starts.
        imports: dotted names of modules that the source imports or the values come from.
    """

    work: Work
    choice: Choice
    source: Source
    values: dict[str, Any]
    remote: dict[str, tuple[dict[str, Any], Path]]
    assigned: frozenset[str]
    check: tuple[str, ...]
    modules: LocalModules
    files: dict[str, Path]
    notes: tuple[str, ...]
    packages: Packages
    imports: frozenset[str] = frozenset()

    def further(self, names: Iterable[str]) -> dict[str, Any]:
        """Values that functions deep inside the values read, found only while these are packed."""
        if self.choice.send is not None:
            return {}
        found = closure(names, self.work.namespace).values
        return {name: found[name] for name in found if name not in self.choice.keep and not _is_remote(found[name])}

    def importing(self, modules: Iterable[str]) -> Cargo:
        """This cargo where the packed values come from these modules too; some lie too deep to be seen before."""
        more = {name for name in modules if name.partition(".")[0] not in _ALWAYS_THERE}
        if {name.partition(".")[0] for name in more} <= {name.partition(".")[0] for name in self.imports}:
            return self
        imports = self.imports | more
        local, packages = _needed(self.work, self.choice, self.source, imports)
        known = {*self.modules.lines, *self.packages.lines}
        return replace(
            self,
            imports=imports,
            modules=local,
            packages=packages,
            notes=(*self.notes, *(line for line in (*local.lines, *packages.lines) if line not in known)),
        )

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
                found[name] = graph.size(value, namespace=self.work.namespace)
            except Exception as error:
                raise explain(name, value, error, self.work.namespace) from error
        return found


def load_cargo(work: Work, choice: Choice) -> Cargo:
    """Decide what a source needs; nothing is written.

    Raises:
        SyntaxError: it is not Python.
        CannotRunThere: it uses what only a kernel has.
        MissingName: it reads a name that does not exist.
        BadValue: a name of `send` does not exist, or `include` fits nothing.
    """
    kind, namespace, values, kept = work.task.kind, work.namespace, work.values, choice.keep
    if kind == "notebook":
        choice = replace(choice, packages=(*choice.packages, *not_here(work.how, choice.packages)))
    source = _source(work)
    captured = closure(source.reads, namespace, extra=values)
    source = replace(
        source,
        needs_ipython=source.needs_ipython or captured.needs_ipython,
        attributes=source.attributes | captured.attributes,
    )
    wanted = dict(captured.values)
    if choice.send is not None:
        absent = sorted(choice.send - set(namespace))
        if absent:
            raise BadValue(what=f"`{absent[0]}` is not a name of this notebook", next="look at what follows -i")
        wanted = {name: value for name, value in namespace.items() if name in choice.send}
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
    files = _included(choice.include, work.root)
    imports = source.imports | captured.modules | _module_names(values)
    modules, packages = _needed(work, choice, source, imports)
    notes = [*modules.lines, *packages.lines]
    notes += [*_notes(source.announces | captured.announces, source.relative_paths, files, work.root)]
    touched = source.touched | captured.touched
    by_itself = choice.outputs is None and kind == "cell"
    if choice.send is None and by_itself:
        others = _other_names({name: wanted[name] for name in touched & set(wanted)}, namespace, kept)
        wanted |= others
        touched |= set(others)
    wanted |= values
    return Cargo(
        work=work,
        choice=choice,
        source=source,
        values=wanted,
        remote=remote,
        assigned=frozenset(source.assigned | captured.assigned) - kept,
        check=tuple(sorted(touched & (set(wanted) | set(remote)))) if by_itself else (),
        modules=modules,
        files=files,
        notes=tuple(notes),
        packages=packages,
        imports=imports,
    )


def _source(work: Work) -> Source:
    if work.task.kind == "notebook":
        return prepare_notebook(work.source, filename=work.filename, how=work.how, transform=work.transform)
    transform = str if work.task.kind == "script" else work.transform
    return prepare(work.source, filename=work.filename, first_line=work.first_line, transform=transform)


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


def _needed(work: Work, choice: Choice, source: Source, imports: Iterable[str]) -> tuple[LocalModules, Packages]:
    """The modules that travel, and the distributions that the job installs."""
    target = choice.target
    platform = None if target is None else f"{target.system.lower()}-{target.machine}"
    local = local_modules(imports, root=work.root, platform=platform)
    shows = source.shows and work.task.kind == "cell"
    beside = companions(local.external, source.attributes, shows=shows)
    return local, packages_of(choice, source.imports, local, needs_ipython=source.needs_ipython, companions=beside)


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
