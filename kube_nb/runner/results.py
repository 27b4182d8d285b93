"""What goes back to the notebook: names, sizes, and why something does not."""

from __future__ import annotations

import glob
import os
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..events import IN_BAND
from . import graph
from .execute import RESULT
from .objects import Objects

_FILES = 10_000


class Results:
    """Makes the index of what comes back and writes the objects it names.

    Args:
        namespace: of the sent code.
        objects: where values and files go.
        received: names that the notebook has itself.
    """

    def __init__(self, namespace: dict[str, Any], objects: Objects, received: Iterable[str] = ()) -> None:
        self._namespace = namespace
        self._objects = objects
        self._received = frozenset(received)
        self._imports: dict[str, str] = {}
        self._unreturned: dict[str, str] = {}

    def exactly(self, names: Iterable[str]) -> list[str]:
        """The names that were asked for, without those that do not exist."""
        found = []
        for name in dict.fromkeys(names):
            if name not in self._namespace:
                self._unreturned[name] = "the code did not make it"
            elif isinstance(self._namespace[name], types.ModuleType):
                self._unreturned[name] = "it is a module: import it"
            else:
                found.append(name)
        return found

    def unasked(self, assigned: Iterable[str], changed: Iterable[str]) -> list[str]:
        """What comes back by itself: what the code assigned or changed, if it still exists; no modules."""
        names = dict.fromkeys([*assigned, *changed])
        return [
            name
            for name in names
            if name in self._namespace and not isinstance(self._namespace[name], types.ModuleType)
        ]

    def index(
        self,
        names: Iterable[str],
        *,
        limit: int | None,
        unchecked: Iterable[str] = (),
        files: Mapping[str, dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Write the values and say where they are.

        Args:
            limit: bytes in all; the largest values beyond it stay with the job, each as a graph of its own.
                None: all come back, whatever their size.

        Raises:
            OSError: there is no room.
        """
        sizes = self._measure(names)
        back, remote = self._divide(sizes, limit)
        reference = self._write(back)
        apart = {name: self._write([name], inline=False) for name in remote}
        index = {
            "graph": reference,
            "names": {name: self._entry(name, sizes) for name in back},
            "remote": {name: self._entry(name, sizes) | {"graph": ref} for name, ref in apart.items() if ref},
            "imports": {name: origin for name, origin in self._imports.items() if name not in sizes},
            "unchecked": list(unchecked),
            "unreturned": self._unreturned,
            "files": dict(files or {}),
        }
        if os.path.isdir(self._objects.directory):
            self._objects.sync()
        return index

    def files(self, patterns: Iterable[str], work: str) -> dict[str, dict[str, Any]]:
        """Store the files below `work` that the patterns name.

        Raises:
            OSError: there is no room, or a file cannot be read.
        """
        found: dict[str, str] = {}
        for pattern in patterns:
            matches = _matches(pattern, work)
            if not matches:
                self._unreturned[f"--collect {pattern}"] = "there is no such file in the job's folder"
            elif len(matches) > _FILES:
                why = f"these are {len(matches)} files, and at most {_FILES} come back: pack them into an archive"
                self._unreturned[f"--collect {pattern}"] = why
            else:
                found |= matches
        stored = {}
        for relative, path in found.items():
            digest = self._objects.write_file(Path(path))
            stored[relative] = {"object": digest, "size": self._objects.size(digest)}
        return stored

    def _measure(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes of each name that can be pickled."""
        sizes = {}
        for name in names:
            try:
                sizes[name] = self._size(self._namespace[name])
            except Exception as error:  # noqa: BLE001 - pickling runs foreign code, which raises what it likes
                self._hindered(name, error)
        return sizes

    def _size(self, value: Any) -> int:
        return graph.size(value, namespace=self._namespace)

    def _divide(self, sizes: Mapping[str, int], limit: int | None) -> tuple[list[str], list[str]]:
        """Names that come back, and those for which there is no room: the small ones come first."""
        if limit is None:
            return list(sizes), []
        total, back = 0, set()
        for name in sorted(sizes, key=lambda name: sizes[name]):
            total += sizes[name]
            if total > limit:
                break
            back.add(name)
        return [name for name in sizes if name in back], [name for name in sizes if name not in back]

    def _write(self, names: list[str], *, inline: bool = True) -> dict[str, Any] | None:
        """One graph of these names; `names` loses those that turn out not to be picklable."""
        while names:
            try:
                return graph.dump(
                    {name: self._namespace[name] for name in names},
                    namespace=self._namespace,
                    objects=self._objects,
                    classes=graph.notebook_classes(),
                    inline=IN_BAND if inline else 0,
                    also=self._further,
                )
            except graph.NotPicklable as error:
                self._hindered(error.name, error.error)
                names[:] = [name for name in names if name != error.name]
        return None

    def _further(self, names: Iterable[str]) -> dict[str, Any]:
        """What functions on their way back read and the notebook does not have: it imports what the code imported."""
        known = self._received | self._unreturned.keys()
        wanted = {name: self._namespace[name] for name in names if name in self._namespace and name not in known}
        origins = {name: _origin(value) for name, value in wanted.items()}
        self._imports |= {name: origin for name, origin in origins.items() if origin}
        return {name: value for name, value in wanted.items() if not origins[name]}

    def _entry(self, name: str, sizes: Mapping[str, int]) -> dict[str, Any]:
        return {"size": sizes[name], "type": type(self._namespace[name]).__name__}

    def _hindered(self, name: str, error: BaseException) -> None:
        from . import cause

        found = cause.find(name, self._namespace[name], error, self._namespace)
        place = "it" if found.path == name else found.path.replace(RESULT, "result", 1)
        called = type(found.value).__name__
        if found.kind == cause.OTHER:
            why = f"cannot be pickled: {type(found.error).__name__}: {found.error}"
        else:
            why = f"is {'an' if found.kind[0] in 'aeiou' else 'a'} {found.kind} ({called})"
        self._unreturned[name] = f"{place} {why}"


def _origin(value: Any) -> str:
    """Where a module (`numpy`) or something in it (`math:sqrt`) is imported from; empty: it is a value."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    module, path = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str) or module == "__main__":
        return ""
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return f"{module}:{path}" if found is value else ""


def _matches(pattern: str, work: str) -> dict[str, str]:
    """Files that a pattern names, by their path relative to `work`; a folder stands for all that is in it."""
    found: dict[str, str] = {}
    if os.path.isabs(pattern) or ".." in pattern.split("/"):
        return found
    for match in sorted(glob.glob(pattern, root_dir=work, recursive=True, include_hidden=True)):
        path = os.path.join(work, match)
        if os.path.isdir(path):
            inside = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in sorted(names)]
        else:
            inside = [path]
        found |= {os.path.relpath(file, work): file for file in inside if os.path.isfile(file)}
    return found
