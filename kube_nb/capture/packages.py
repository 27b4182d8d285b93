"""From the modules that code imports to the distributions that a job must have installed."""

from __future__ import annotations

import json
import os
import platform as this_platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PathDistribution
from itertools import accumulate
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kube_nb.capture.locate import stamps
from kube_nb.capture.packages_index import Serves, nobody
from kube_nb.capture.packages_rules import Installed, Pins, requirements, resolve_for
from kube_nb.errors import BadValue, CannotTravel
from kube_nb.spec import Platform

_Stamps = tuple[tuple[str, int], ...]


class Kernel:
    """What is installed in an interpreter; read when it is asked for, and again when something was installed.

    Args:
        path: the directories that it imports from; default: those of this process.
    """

    def __init__(self, path: Sequence[str] | None = None) -> None:
        self._path = path

    def installed(self, name: str) -> Installed | None:
        """The record of one distribution."""
        return _installed(name, self._stamps())

    def distributions(self, modules: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The names of the distributions that provide each of these modules.

        Dotted names count where several distributions share a package, such as google.cloud.storage.
        """
        return _providers(frozenset(modules), self._stamps())

    def closure(self, names: Iterable[str]) -> list[Installed]:
        """The records of these distributions and of all that they require on any platform."""
        found: dict[str, Installed] = {}
        waiting, places = list(names), self._stamps()
        while waiting:
            key = canonicalize_name(waiting.pop())
            one = None if key in found else _installed(key, places)
            if one is not None:
                found[key] = one
                waiting += [requirement.name for requirement in requirements(one)]
        return list(found.values())

    def _stamps(self) -> _Stamps:
        return stamps([Path(place) for place in (sys.path if self._path is None else self._path) if place])


def here() -> Platform:
    """The platform of this process."""
    return Platform(
        system=this_platform.system(), machine=this_platform.machine(), python=this_platform.python_version()
    )


def pins(
    modules: Iterable[str],
    *,
    kernel: Kernel,
    target: Platform | None = None,
    packages: Sequence[str] = (),
    serves: Serves = nobody,
) -> Pins:
    """What is installed before the code starts.

    Args:
        modules: dotted names that the sent code, its values and its local modules import (`LocalModules.external`).
        kernel: where they are installed now.
        target: where the job runs; None: in the kernel's own interpreter, which has everything but `packages`.
        packages: requirements that the person asked for; they come before what the kernel has.
        serves: asked what the person's index has.

    Raises:
        BadValue: one of `packages` is no requirement.
        CannotTravel: something was installed, or is asked for, from a path that only this machine has.
    """
    wanted = [_requirement(text) for text in packages]
    asked = {requirement.name: str(requirement) for requirement in wanted}
    if target is None:
        return Pins(pins=tuple(asked.values()))
    _refuse_paths(wanted)
    imported = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}
    providers = kernel.distributions(imported)
    chosen = {canonicalize_name(name) for name in asked}
    roots = {canonicalize_name(name) for names in providers.values() for name in names} - chosen
    found = resolve_for(kernel.closure(roots), target, serves, roots=roots, here=here())
    unknown = sorted({name.partition(".")[0] for name in imported} - {name.partition(".")[0] for name in providers})
    missing = f"imported, but not installed here, so the image has to have it: {', '.join(unknown)}; or add --packages"
    return Pins(
        pins=(*asked.values(), *found.pins),
        constraints=tuple(
            text for text in found.constraints if canonicalize_name(Requirement(text).name) not in chosen
        ),
        lines=(*found.lines, *([missing] if unknown else [])),
    )


def _requirement(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise BadValue(
            what=f"--packages `{text}` is not a requirement",
            why=str(error).splitlines()[0],
            next="write it like lightgbm, lightgbm==4.5.0 or `mylib @ file:///path/mylib-1.0-py3-none-any.whl`",
        ) from error


def _refuse_paths(requirements: Iterable[Requirement]) -> None:
    for one in requirements:
        if one.url and urlsplit(one.url).scheme in ("", "file"):
            raise CannotTravel(
                what=f"--packages `{one}` cannot be installed in the job",
                why="it names a path of this machine, which the job does not have",
                next="install it here as editable (pip install -e PATH), then its source travels; or from an index",
                path=one.url,
            )


@lru_cache(maxsize=4)
def _by_name(places: _Stamps) -> Mapping[str, Path]:
    """The metadata directory of each distribution; what comes first on the path hides the rest."""
    found: dict[str, Path] = {}
    for place, _ in places:
        for entry in os.scandir(place) if os.path.isdir(place) else ():
            stem, dot, kind = entry.name.rpartition(".")
            if dot and kind in ("dist-info", "egg-info") and entry.is_dir():
                found.setdefault(canonicalize_name(stem.partition("-")[0]), Path(entry.path))
    return found


def _installed(name: str, places: _Stamps) -> Installed | None:
    place = _by_name(places).get(canonicalize_name(name))
    return _record(place, place.stat().st_mtime_ns) if place else None


@lru_cache(maxsize=1024)
def _record(place: Path, mtime: int) -> Installed:
    distribution = PathDistribution(place)
    wheel = distribution.read_text("WHEEL") or ""
    url = distribution.read_text("direct_url.json")
    said = _said(distribution.read_text("METADATA") or "")
    old = not said.get("Name")  # before wheels, the requirements stood in a file of their own
    return Installed(
        name=distribution.name if old else said["Name"][0],
        version=distribution.version if old else said["Version"][0],
        installer=(distribution.read_text("INSTALLER") or "").strip(),
        requires=tuple(distribution.requires or ()) if old else tuple(said.get("Requires-Dist", ())),
        tags=tuple(line.partition(":")[2].strip() for line in wheel.splitlines() if line.startswith("Tag:")),
        url=json.loads(url) if url else None,
    )


def _said(metadata: str) -> dict[str, list[str]]:
    """The headers of METADATA. `importlib.metadata` reads the whole file, with its long description, for each."""
    found: dict[str, list[str]] = {}
    header: list[str] = []
    for line in metadata.replace("\r\n", "\n").split("\n"):
        if not line:
            break
        if line[0] in " \t" and header:
            header[-1] += " " + line.strip()
            continue
        key, _, value = line.partition(":")
        header = found.setdefault(key, [])
        header.append(value.strip())
    return found


@lru_cache(maxsize=64)
def _providers(modules: frozenset[str], places: _Stamps) -> dict[str, tuple[str, ...]]:
    """Found in the lists of installed files as they are: `packages_distributions` parses every one of them first."""
    known = _by_name(places)
    found: dict[str, tuple[str, ...]] = {}
    for module in modules:  # most distributions are called like their module
        top = module.partition(".")[0]
        place = known.get(canonicalize_name(top))
        if place is not None and _is_regular(top, _files(place)):
            found[module] = (canonicalize_name(top),)
    rest = modules - set(found)
    if not rest:
        return found
    prefixes = {prefix for module in rest for prefix in _prefixes(module)}
    owners: dict[str, list[str]] = {}
    regular: set[str] = set()
    for key, place in known.items():
        files = _files(place)
        for prefix in prefixes:
            if _holds(prefix, files):
                owners.setdefault(prefix, []).append(key)
                if _is_regular(prefix, files):
                    regular.add(prefix)
    for module in rest:
        prefix = next((prefix for prefix in _prefixes(module) if prefix in owners), None)
        if prefix is not None:
            # A folder that many distributions share is nobody's; what was imported from it has a longer name.
            shared = len(owners[prefix]) > 1 and prefix not in regular
            found[module] = () if shared else tuple(owners[prefix])
    return found


def _prefixes(module: str) -> list[str]:
    """`a.b.c`, `a.b`, `a`."""
    return list(accumulate(module.split("."), "{}.{}".format))[::-1]


def _holds(module: str, files: bytes) -> bool:
    place = b"\n" + module.replace(".", "/").encode()
    return place + b"/" in files or place + b"." in files


def _is_regular(module: str, files: bytes) -> bool:
    place = b"\n" + module.replace(".", "/").encode()
    return place + b"/__init__." in files or place + b"." in files


def _files(place: Path) -> bytes:
    """The files of a distribution, each after a newline."""
    try:
        return b"\n" + (place / "RECORD").read_bytes()
    except OSError:
        pass  # some systems keep no such list
    try:
        return b"".join(b"\n" + name + b"/__init__.py" for name in (place / "top_level.txt").read_bytes().split())
    except OSError:
        return b""
