"""Where a module lies: in Python itself, in an installed distribution, or among the person's own files."""

from __future__ import annotations

import json
import os
import site
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

_INSTALLED = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True)
class Place:
    """Where one module or package lies.

    Attributes:
        kind: "python": part of Python; "installed": a distribution's; "archive": inside a zip on sys.path;
            "local": the person's own.
        file: the file of a module that is no package; the archive.
        directories: those directories of a package that are the person's own.
        path: all directories of a package, where its submodules are looked for.
        regular: not a folder without `__init__.py`.
    """

    kind: Literal["python", "installed", "archive", "local"]
    file: Path | None = None
    directories: tuple[Path, ...] = ()
    path: tuple[str, ...] = ()
    regular: bool = True


def locate(
    name: str, *, root: Path, already: Mapping[str, ModuleType], path: Sequence[str] | None = None
) -> Place | None:
    """Find the module `name` without importing anything; None: there is none.

    Args:
        name: dotted; for a submodule, `path` is where its package looks.
        root: a directory that comes first where sys.path does not have it.
        already: the modules that the kernel has loaded, which are what its code refers to.
    """
    module = already.get(name)
    file, directories = _places_of(module) if module is not None else _search(name, root, path)
    if not file and not directories:
        known = module is not None or (path is None and name in sys.builtin_module_names)
        return Place("python") if known else None
    places = [Path(place).absolute() for place in directories or [file]]
    regular = bool(file)
    if all(_in_standard_library(place) for place in places):
        return Place("python", path=tuple(directories), regular=regular)
    archive = next((parent for place in places for parent in place.parents if parent.is_file()), None)
    if archive is not None:
        return Place("archive", file=archive)
    own = [place for place in places if (not directories or place.exists()) and not _installed(place, root)]
    if not directories:
        return Place("local", file=own[0]) if own else Place("installed")
    if regular or own:
        kind = "local" if own else "installed"
        return Place(kind, directories=tuple(own), path=tuple(directories), regular=regular)
    return Place("installed", path=tuple(directories), regular=False)


def _places_of(module: ModuleType) -> tuple[str, list[str]]:
    """File and directories of a loaded module, from its own dictionary: lazy modules import when they are asked."""
    known = getattr(module, "__dict__", {})
    file, path = known.get("__file__"), known.get("__path__")
    return file if isinstance(file, str) else "", [] if path is None or isinstance(path, str) else list(map(str, path))


def _search(name: str, root: Path, path: Sequence[str] | None) -> tuple[str, list[str]]:
    spec = None
    if path is None and not _on_path(root):
        spec = PathFinder.find_spec(name, [str(root)])
    finders = iter(sys.meta_path)
    while spec is None and (finder := next(finders, None)) is not None:
        find = getattr(finder, "find_spec", None)
        # By its last name alone: for a folder in a folder, both without `__init__.py`, the path finder would ask
        # sys.modules for the parent, which nobody imported.
        known_as = name.rpartition(".")[2] if finder is PathFinder and path is not None else name
        spec = find(known_as, path) if find else None
    if spec is None:
        return "", []
    return (spec.origin or "") if spec.has_location else "", list(spec.submodule_search_locations or ())


def _on_path(root: Path) -> bool:
    return str(root) in sys.path or ("" in sys.path and Path.cwd() == root)


def _installed(place: Path, root: Path) -> bool:
    if _INSTALLED.isdisjoint(place.parts):
        return place.parent != root and _has_metadata(place.parent)
    # Some tools install an editable package as a link from site-packages to its source.
    return not (place.is_symlink() and any(place.resolve().is_relative_to(source) for source in editables().values()))


@lru_cache(maxsize=64)
def _has_metadata(directory: Path) -> bool:
    """Whether distributions are installed there: `pip install --target` makes such directories."""
    try:
        return any(entry.name.endswith(".dist-info") for entry in os.scandir(directory))
    except OSError:
        return False


@lru_cache(maxsize=1)
def _standard_library() -> tuple[Path, ...]:
    places = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}
    return tuple({Path(form) for place in places for form in (place, os.path.realpath(place))})


def _in_standard_library(place: Path) -> bool:
    return _INSTALLED.isdisjoint(place.parts) and any(place.is_relative_to(library) for library in _standard_library())


def site_directories() -> list[Path]:
    """The directories of sys.path in which distributions are installed."""
    places = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path]
    if site.ENABLE_USER_SITE:
        places.append(site.getusersitepackages())
    return [
        place
        for place in map(Path, dict.fromkeys(filter(None, places)))
        if not _INSTALLED.isdisjoint(place.parts) or _has_metadata(place)
    ]


def editables() -> Mapping[Path, Path]:
    """The metadata directory of each editable install -> the directory of its source."""
    return _read_editables(stamps(site_directories()))


def stamps(directories: Sequence[Path]) -> tuple[tuple[str, int], ...]:
    """Directories that exist and when an entry of theirs last came or went: the key of what is read from them."""
    found: list[tuple[str, int]] = []
    for directory in directories:
        try:
            found.append((str(directory), directory.stat().st_mtime_ns))
        except OSError:
            continue
    return tuple(found)


@lru_cache(maxsize=4)
def _read_editables(places: tuple[tuple[str, int], ...]) -> Mapping[Path, Path]:
    found: dict[Path, Path] = {}
    for place, _ in places:
        for record in Path(place).glob("*.dist-info/direct_url.json"):
            try:
                recorded = json.loads(record.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if recorded.get("dir_info", {}).get("editable") and str(recorded.get("url")).startswith("file:"):
                found[record.parent] = path_of(recorded["url"]).resolve()
    return found


def path_of(url: str) -> Path:
    """The path that a `file:` URL names."""
    return Path(url2pathname(urlsplit(url).path))
