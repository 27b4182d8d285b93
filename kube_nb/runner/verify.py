"""A bundle is what its manifest says, and the manifest is what the key's owner wrote; only then is it used."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator

from .ending import CannotGoOn

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from typing import IO, Any

_HEX = frozenset("0123456789abcdef")
_ONE_BLOCK = 8 << 20
"""An object up to this size is named by the SHA-256 of its bytes, a larger one by its blocks (`objects.py`)."""
_CHUNK = 1 << 20


def _corrupted(why: str, **detail: Any) -> CannotGoOn:
    return CannotGoOn("BundleCorrupted", why, detail)


def read_manifest(bundle: str, key: bytes) -> dict[str, Any]:
    """The manifest, once its HMAC is right.

    Raises:
        CannotGoOn: BundleCorrupted: it is missing, or not what the key's owner signed.
    """
    try:
        with open(os.path.join(bundle, "manifest.json"), "rb") as file:
            data = file.read()
        with open(os.path.join(bundle, "manifest.hmac"), "rb") as file:
            signature = file.read().strip()
    except OSError as error:
        raise _corrupted(f"the manifest cannot be read: {error}") from error
    if not hmac.compare_digest(hmac.digest(key, data, "sha256").hex().encode(), signature):
        raise _corrupted(
            "the manifest's signature is wrong: it was changed after it was signed, or the key is another's"
        )
    manifest = json.loads(data)
    if manifest.get("version") != 1:
        raise CannotGoOn("RunnerFault", f"the manifest has version {manifest.get('version')}, this runner reads 1")
    return manifest


def check_objects(bundle: str, manifest: dict[str, Any]) -> None:
    """Every object that the manifest names is there, with its size and its digest.

    Raises:
        CannotGoOn: BundleCorrupted.
    """
    sizes: dict[str, int] = manifest["sizes"]
    for digest in _named(manifest):
        if digest not in sizes:
            raise _corrupted(f"the manifest gives no size for object {digest}", object=digest)
    for digest, size in sizes.items():
        if size <= _ONE_BLOCK:
            _check(bundle, digest, size)
        else:
            _check_blocks(bundle, digest, size)


def _named(manifest: dict[str, Any]) -> Iterator[str]:
    yield manifest["task"]["source"]
    yield manifest["graph"]["pickle"]
    yield from manifest["graph"]["buffers"]
    yield from manifest["sources"].values()
    yield from manifest["files"].values()
    if manifest["modules"] is not None:
        yield manifest["modules"]


def object_path(bundle: str, digest: str) -> str:
    """Where an object lies.

    Raises:
        CannotGoOn: BundleCorrupted: the digest is none, and might lead anywhere as a path.
    """
    if len(digest) != 64 or not _HEX.issuperset(digest):
        raise _corrupted(f"{digest[:80]!r} is not a digest", object=digest[:80])
    return os.path.join(bundle, "objects", digest)


def _check(bundle: str, digest: str, size: int) -> None:
    path = object_path(bundle, digest)
    try:
        # Not to block on what pretends to be a file; symbolic links are how a Secret is mounted.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _corrupted(f"object {digest} is not a file", object=digest)
            if found.st_size != size:
                raise _corrupted(f"object {digest} has {found.st_size} bytes instead of {size}", object=digest)
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise _corrupted(f"object {digest} is missing", object=digest) from error
    if content != digest:
        raise _corrupted(f"object {digest} holds other bytes, with digest {content}", object=digest)


def _check_blocks(bundle: str, digest: str, size: int) -> None:
    from pathlib import Path

    from .objects import CorruptedObject, Objects

    try:
        Objects(Path(bundle, "objects")).verify(digest, size)
    except CorruptedObject as error:
        raise _corrupted(str(error), object=digest[:80]) from error


def check_interpreter(manifest: dict[str, Any]) -> None:
    """Functions travel as byte code, which another minor version of Python does not understand.

    Raises:
        CannotGoOn: EnvironmentFailed.
    """
    ours, theirs = sys.version_info[:2], tuple(manifest["python"][:2])
    if ours != theirs:
        here, there = (".".join(map(str, version)) for version in (ours, theirs))
        what = f"the job runs on Python {here}, its code comes from Python {there}"
        why = "functions travel as byte code, which differs from one to the other"
        next = f"use an image with Python {there}"
        detail = {"what": what, "why": why, "next": next, "code": "PythonMismatch"}
        raise CannotGoOn("EnvironmentFailed", what, detail)


def make_work(path: str, *, used_before: bool) -> None:
    """The folder in which the code runs: fresh for each attempt.

    Args:
        used_before: an earlier attempt of this job ran in it; what it left is removed.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    if not used_before:
        return
    import shutil

    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def place_files(bundle: str, files: dict[str, str], work: str) -> None:
    """Put the files that travelled with the cell where it expects them.

    Raises:
        CannotGoOn: BundleCorrupted: a path leads out of the work folder.
    """
    for path, digest in files.items():
        with open(object_path(bundle, digest), "rb", buffering=0) as source:
            _write(work, path, source)


def extract_modules(bundle: str, digest: str, directory: str) -> None:
    """Unpack the local modules.

    Raises:
        CannotGoOn: BundleCorrupted: it is no zip, or a path in it leads out of `directory`.
    """
    import zipfile  # slow to import, so only where there are modules

    os.mkdir(directory, 0o700)
    try:
        with zipfile.ZipFile(object_path(bundle, digest)) as archive:
            for member in archive.infolist():
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise _corrupted(f"`{member.filename}` is a symbolic link")
                if member.is_dir():
                    _make_directories(directory, _parts(member.filename.rstrip("/")))
                    continue
                with archive.open(member) as source:
                    _write(directory, member.filename, source)
    except zipfile.BadZipFile as error:
        raise _corrupted(f"the local modules cannot be unpacked: {error}", object=digest) from error


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    if "\0" in path or not {"", ".", ".."}.isdisjoint(parts):
        raise _corrupted(f"the path {path[:200]!r} leads out of the job's folder")
    return parts


def _make_directories(base: str, parts: Iterable[str]) -> str:
    for part in parts:
        base = os.path.join(base, part)
        try:
            os.mkdir(base)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(base).st_mode):
                raise _corrupted(f"`{base}` is both a file and a folder") from None
    return base


def _write(base: str, path: str, source: IO[bytes]) -> None:
    *folders, name = _parts(path)
    target = os.path.join(_make_directories(base, folders), name)
    if os.path.lexists(target):
        if stat.S_ISDIR(os.lstat(target).st_mode):
            raise _corrupted(f"`{path}` is both a file and a folder")
        os.unlink(target)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with open(fd, "wb", buffering=0) as file:
        while chunk := source.read(_CHUNK):
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) or 0 :]
