"""The runner object: the files that ship with every job, as one immutable directory that many jobs share."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import py_compile
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from kube_nb.errors import StorageFailed

PACKAGE = "_kube_nb_job"
_KUBE_NB = Path(__file__).resolve().parent.parent
_Stamp = tuple[str, str, int, int]  # place inside the object, file it comes from, mtime in ns, bytes


def runner_object(state: Path) -> Path:
    """The directory `<state>/runners/<digest>` with the runner of this installation; made where it is missing.

    The digest is over names and bytes, so jobs of one version of kube-nb and cloudpickle share one directory and an
    upgrade makes another one beside it.

    Raises:
        StorageFailed: `state` cannot be written.
    """
    stamps = tuple(_stamps())
    home = state / "runners" / _digest(stamps)
    if _whole(home, stamps):
        return home
    try:
        _make(home, stamps)
    except OSError as error:
        raise StorageFailed(
            what=f"the runner cannot be written to {home.parent}",
            why=error.strerror or str(error),
            next="free some space there, or name another place: %kube_config state_dir=DIR",
        ) from error
    return home


def _stamps() -> Iterator[_Stamp]:
    sources = {f"{PACKAGE}/events.py": _KUBE_NB / "events.py"}
    for path in sorted((_KUBE_NB / "runner").glob("*.py")):
        sources[f"{PACKAGE}/runner/{path.name}"] = path
    # The entries are scripts at the top of the object; copies of them inside the package would never be imported.
    # `__main__.py` is what a pod runs when the whole object is one zip.
    for place, name in (("main.py", "entry.py"), ("__main__.py", "pod_entry.py")):
        sources[place] = sources.pop(f"{PACKAGE}/runner/{name}", _KUBE_NB / "runner" / name)
    sources["small/kube_nb/__init__.py"] = _KUBE_NB / "inside.py"
    sources |= _cloudpickle()
    for place, path in sorted(sources.items()):
        stat = path.stat()
        yield place, str(path), stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=1)
def _cloudpickle() -> Mapping[str, Path]:
    spec = importlib.util.find_spec("cloudpickle")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'cloudpickle'", name="cloudpickle")
    package = Path(spec.submodule_search_locations[0])
    files = {f"vendor/cloudpickle/{path.name}": path for path in package.glob("*.py")}
    # Found by name: reading the records of all installed distributions takes longer than all else here. Where no
    # licence file is installed, cloudpickle.py still carries its licence at its top.
    for licence in sorted(package.parent.glob("cloudpickle-*.dist-info/**/LICENSE*")):
        files["vendor/cloudpickle/LICENSE"] = licence
    return files


@lru_cache(maxsize=4)
def _digest(stamps: tuple[_Stamp, ...]) -> str:
    total = hashlib.sha256()
    for place, path, _, _ in stamps:
        total.update(place.encode() + b"\0" + hashlib.sha256(Path(path).read_bytes()).digest())
    return total.hexdigest()


def _whole(home: Path, stamps: tuple[_Stamp, ...]) -> bool:
    """Whether every file is there: cleaners of old files may have been at it."""
    try:
        return all(os.stat(home / place).st_size == size for place, _, _, size in stamps)
    except OSError:
        return False


def _make(home: Path, stamps: tuple[_Stamp, ...]) -> None:
    home.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=home.parent))
    try:
        for place, source, _, _ in stamps:
            target = draft / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Path(source).read_bytes())
        (draft / PACKAGE / "__init__.py").touch()
        (draft / PACKAGE / "runner" / "__init__.py").touch()
        _compile(draft, home)
        _publish(draft, home, stamps)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _compile(draft: Path, home: Path) -> None:
    """Byte code beside the sources, never checked against them: the directory does not change any more."""
    for path in draft.rglob("*.py"):
        if path.name not in ("main.py", "__main__.py"):
            final = home / path.relative_to(draft)
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(path), dfile=str(final), doraise=True, invalidation_mode=mode)


def _publish(draft: Path, home: Path, stamps: tuple[_Stamp, ...]) -> None:
    try:
        draft.rename(home)
        return
    except OSError:
        if not home.is_dir():
            raise
    if _whole(home, stamps):
        return  # another process was quicker with the same bytes
    damaged = Path(tempfile.mkdtemp(prefix=".damaged-", dir=home.parent))
    try:
        home.rename(damaged / home.name)
        draft.rename(home)
    finally:
        shutil.rmtree(damaged, ignore_errors=True)
