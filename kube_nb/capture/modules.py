"""The modules that a job cannot install from an index because they are the person's own: found, and made a zip.

Local is what lies beside the notebook, in a directory that was put on sys.path, or in the source of an editable
install; in short every module with a file that is neither the standard library's nor an installed distribution's.
"""

from __future__ import annotations

import io
import os
import sys
import sysconfig
import tokenize
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from types import ModuleType

from kube_nb.capture.imports import imports_of, needs_all_of_kube_nb
from kube_nb.capture.locate import Place, editables, locate
from kube_nb.errors import CannotTravel

LIMIT = 64 * 1024 * 1024
"""Bytes of local modules that a job takes along."""
_MANY = 20_000
_NEVER_SENT = frozenset({"__pycache__", "node_modules"})
_COMPILED = (".so", ".pyd", ".dylib", ".dll")
_METADATA = ("METADATA", "PKG-INFO", "entry_points.txt", "top_level.txt")


@dataclass(frozen=True)
class LocalModules:
    """The person's own modules that a job needs.

    Attributes:
        files: path inside a directory of sys.path, with slashes -> the file on this machine.
        names: the top-level names that they provide.
        external: dotted names of installed modules that these modules and the sent code import.
        lines: what a person should know, one sentence each.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    external: frozenset[str] = frozenset()
    lines: tuple[str, ...] = ()

    def zip_bytes(self) -> bytes:
        """One zip archive; the same files always give the same bytes.

        Raises:
            CannotTravel: a file cannot be read.
        """
        return _zip(tuple((arc, str(path), *_stamp(path)) for arc, path in sorted(self.files.items())))


def local_modules(
    names: Iterable[str],
    *,
    root: Path,
    already: Mapping[str, ModuleType] | None = None,
    platform: str | None = None,
    limit: int = LIMIT,
) -> LocalModules:
    """The local modules among `names`, and those that they import in turn.

    A package goes whole, with its data files. A folder without `__init__.py` gives the files that lie directly in it,
    and its subfolders where something in them is imported. Nothing is imported to find out.

    Args:
        names: dotted names of modules that the sent code and its values refer to (`imports_of`, `__module__`); names
            of attributes among them do no harm.
        root: the notebook's directory.
        already: the modules that the kernel has loaded; default: sys.modules.
        platform: where the job runs, as `sysconfig.get_platform()` says it; default: as here.
        limit: bytes that may travel.

    Raises:
        CannotTravel: more than `limit`, built for another platform, or unreadable; the directory is named.
    """
    wanted = sorted(set(names))
    search = _Search(
        root=root.absolute(),
        already=sys.modules if already is None else already,
        foreign=platform is not None and platform != sysconfig.get_platform(),
        limit=limit,
    )
    if not needs_all_of_kube_nb(wanted):
        search.places["kube_nb"] = None  # what every job has of it is enough
    search.follow(wanted)
    return LocalModules(
        files=dict(sorted(search.files.items())),
        names=frozenset(name for name, place in search.places.items() if _local(place) and "." not in name),
        external=frozenset(search.external),
        lines=tuple(search.lines),
    )


def _local(place: Place | None) -> bool:
    return place is not None and place.kind == "local"


@dataclass
class _Search:
    root: Path
    already: Mapping[str, ModuleType]
    foreign: bool
    limit: int
    places: dict[str, Place | None] = field(default_factory=lambda: {"__main__": None, "__mp_main__": None})
    files: dict[str, Path] = field(default_factory=dict)
    external: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)
    bytes: int = 0

    def follow(self, names: Iterable[str]) -> None:
        """Take these modules, their packages, and all that they import."""
        waiting, seen = list(names), set[str]()
        while waiting:
            name = waiting.pop()
            for dotted in accumulate(name.split("."), "{}.{}".format):
                if dotted in seen:
                    continue
                seen.add(dotted)
                place = self._place(dotted)
                if place is None or place.kind != "local":
                    continue
                self._take(dotted, place)
                self._check()
                waiting += self._imported_by(dotted)
                if "." not in dotted:
                    waiting += [loaded for loaded in list(self.already) if loaded.startswith(f"{dotted}.")]

    def _place(self, dotted: str) -> Place | None:
        if dotted not in self.places:
            self.places[dotted] = place = self._locate(dotted)
            if place is not None and place.kind == "installed" and place.regular:
                self.external.add(dotted)
        return self.places[dotted]

    def _locate(self, dotted: str) -> Place | None:
        parent, _, _ = dotted.rpartition(".")
        if not parent:
            place = locate(dotted, root=self.root, already=self.already)
            if place is not None and place.kind == "archive":
                self.lines.append(
                    f"`{dotted}` comes from the archive {place.file}, which does not travel: "
                    "unpack it beside the notebook, or install it"
                )
            return place
        package = self.places[parent]
        if package is None or not package.path or package.kind == "python":
            return None
        if package.kind == "installed" and package.regular:
            return None  # the distribution is known, what lies in it does not matter
        return locate(dotted, root=self.root, already=self.already, path=package.path)

    def _take(self, dotted: str, place: Place) -> None:
        arc = dotted.replace(".", "/")
        if place.file is not None:
            self._take_module(dotted, arc, place.file)
        for directory in place.directories:
            if place.regular:
                self._take_package(arc, directory)
            elif not self._went_whole(dotted):
                self._take_folder(arc, directory)
        if "." not in dotted:
            self._take_metadata(dotted, (*place.directories, place.file)[0])

    def _take_module(self, dotted: str, arc: str, file: Path) -> None:
        if self.foreign and file.name.endswith(_COMPILED) and "." not in dotted:
            raise CannotTravel(
                what=f"the module `{dotted}` cannot be sent to the job",
                why=f"{file} is compiled for {sysconfig.get_platform()}, and the job runs elsewhere",
                next="install it from an index that has it for both, with --packages",
                path=str(file),
            )
        self._add(arc + file.name[file.name.find(".") :], file)

    def _went_whole(self, dotted: str) -> bool:
        parents = list(accumulate(dotted.split(".")[:-1], "{}.{}".format))
        return any((place := self.places[parent]) is not None and place.regular for parent in parents)

    def _take_package(self, arc: str, directory: Path) -> None:
        if f"{arc}/__init__.py" in self.files:
            return  # it went with the package that it is part of
        for path in _walk(directory):
            self._add(f"{arc}/{path.relative_to(directory).as_posix()}", path)
            self._check()

    def _take_folder(self, arc: str, directory: Path) -> None:
        data: dict[Path, int] = {}
        for path in sorted(_entries(directory)):
            if path.suffix == ".py" or path.name.endswith(_COMPILED):
                self._add(f"{arc}/{path.name}", path)
            elif path.is_file() and _sent(path):
                data[path] = _stamp(path)[1]
        # A plain folder with modules in it may also be where somebody keeps a data set.
        if self.bytes + sum(data.values()) > self.limit or len(self.files) + len(data) > _MANY:
            self.lines.append(
                f"only the modules of {directory} are sent, not its {len(data):,} other files "
                f"({_megabytes(sum(data.values()))}): name those that the job needs with --include"
            )
            return
        for path in data:
            self._add(f"{arc}/{path.name}", path)

    def _take_metadata(self, top: str, place: Path | None) -> None:
        """The metadata of an editable install: packages ask for their own version when they are imported."""
        if place is None:
            return
        real = place.resolve()
        sources = {info: source for info, source in editables().items() if real.is_relative_to(source)}
        if sources:
            infos = [max(sources, key=lambda info: len(sources[info].parts))]
        else:
            infos = [info for info in real.parent.glob("*.egg-info") if top in _read(info / "top_level.txt").split()]
        for info in infos:
            for name in _METADATA:
                if (info / name).is_file():
                    self._add(f"{info.name}/{name}", info / name)

    def _add(self, arc: str, path: Path) -> None:
        if arc in self.files or not _sent(path):
            return
        if self.foreign and path.name.endswith(_COMPILED):
            self.lines.append(f"{path} is compiled for {sysconfig.get_platform()} and stays here")
            return
        self.bytes += _stamp(path)[1]
        self.files[arc] = path

    def _imported_by(self, dotted: str) -> Iterable[str]:
        arc = dotted.replace(".", "/")
        for file, package in ((f"{arc}/__init__.py", dotted), (f"{arc}.py", dotted.rpartition(".")[0])):
            if file in self.files:
                path = self.files[file]
                return _imports(str(path), package, *_stamp(path))
        return ()

    def _check(self) -> None:
        if self.bytes <= self.limit and len(self.files) <= _MANY:
            return
        places = {name: place for name, place in self.places.items() if place is not None and _local(place)}
        found = [(name, *_largest(directory)) for name, place in places.items() for directory in place.directories]
        found += [(name, place.file, *_stamp(place.file)[1:], 1) for name, place in places.items() if place.file]
        name, largest, size, number = max(found, key=lambda one: (one[2], one[3]))
        raise CannotTravel(
            what=f"the local package `{name}` is too large to be sent: "
            f"all local modules together may have {_megabytes(self.limit)} and {_MANY:,} files",
            why=f"{largest} alone holds {_megabytes(size)} in {number:,} files",
            next=f"move {largest} out of the package, and name what the job needs of it with --include",
            path=str(largest),
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _walk(directory: Path) -> Iterator[Path]:
    """Every file of a package that may travel, links followed, sorted within each directory."""
    seen: set[str] = set()
    for place, directories, files in os.walk(directory, followlinks=True, onerror=_raise):
        real = os.path.realpath(place)
        directories[:] = [] if real in seen else sorted(name for name in directories if _entered(place, name))
        if real not in seen:
            yield from (Path(place, name) for name in sorted(files) if os.path.isfile(os.path.join(place, name)))
        seen.add(real)


def _entered(place: str, name: str) -> bool:
    if name in _NEVER_SENT or name.startswith("."):
        return False
    return not os.path.exists(os.path.join(place, name, "pyvenv.cfg"))


def _largest(directory: Path) -> tuple[Path, int, int]:
    """The directory right below that holds most, its bytes and its number of files."""
    sizes: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    for looked_at, path in enumerate(_walk(directory)):
        if looked_at > 10 * _MANY:
            break  # enough is known
        below = path.relative_to(directory).parts
        child = directory / below[0] if len(below) > 1 else directory
        sizes[child] = sizes.get(child, 0) + _stamp(path)[1]
        counts[child] = counts.get(child, 0) + 1
    largest = max(sizes, key=lambda child: (sizes[child], counts[child]), default=directory)
    return largest, sizes.get(largest, 0), counts.get(largest, 0)


def _sent(path: Path) -> bool:
    return path.suffix not in (".pyc", ".pyo") and path.name != ".DS_Store"


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError as error:
        raise _unreadable(directory, error) from error


def _raise(error: OSError) -> None:
    raise _unreadable(Path(str(error.filename)), error) from error


def _unreadable(path: Path, error: OSError) -> CannotTravel:
    return CannotTravel(
        what=f"{path} cannot be sent with its package",
        why=error.strerror or str(error),
        next="make it readable, or move it out of the package",
        path=str(path),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=2048)
def _imports(path: str, package: str, mtime: int, size: int) -> tuple[str, ...]:
    """The imports of a file as it was then; a notebook sends the same modules again and again."""
    try:
        with tokenize.open(path) as file:
            return tuple(sorted(imports_of(file.read(), package)))
    except OSError as error:
        raise _unreadable(Path(path), error) from error
    except (SyntaxError, UnicodeDecodeError):  # a wrong encoding: importing the file fails too, in its own words
        return ()


@lru_cache(maxsize=2)
def _zip(files: tuple[tuple[str, str, int, int], ...]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for arc, path, _, _ in files:
            try:
                data, mode = Path(path).read_bytes(), os.stat(path).st_mode
            except OSError as error:
                raise _unreadable(Path(path), error) from error
            entry = zipfile.ZipInfo(arc, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = (0o100755 if mode & 0o100 else 0o100644) << 16
            archive.writestr(entry, data, compress_type=zipfile.ZIP_DEFLATED)
    return out.getvalue()
