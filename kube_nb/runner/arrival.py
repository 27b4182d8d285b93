"""How a bundle comes to its pod: in the Secret, in a folder of the store, or from the kernel while the pod waits."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress

from . import ending

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from .pod import Place
    from .stream import Stream
    from .visits import Hall


def unpack(pod: Place) -> None:
    """The bundle as a folder, from the Secret and, where it is larger, from the store.

    Raises:
        CannotGoOn: BundleCorrupted.
    """
    import zlib
    from zipimport import ZipImportError, zipimporter

    objects = os.path.join(pod.bundle, "objects")
    if pod.transport == "store" and not pod.url:
        os.makedirs(pod.bundle, mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.symlink(os.path.join(pod.kept, "bundle", "objects"), objects)
    else:
        os.makedirs(objects, mode=0o700, exist_ok=True)
    try:
        # Reads any zip, and is there already: `zipfile` takes longer to import than all of this.
        archive = zipimporter(os.path.join(pod.secret, "bundle.zip"))
        names = archive.get_data("files.txt").decode().splitlines()
        for name in names:
            folder, _, last = name.rpartition("/")
            if folder not in ("", "objects") or last in ("", ".", ".."):
                raise ending.CannotGoOn("BundleCorrupted", f"`{name[:200]}` does not belong into a bundle")
            write(os.path.join(pod.bundle, name), archive.get_data(name))
    except (ZipImportError, zlib.error, OSError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and ending.disk_is_full(error):
            raise
        raise ending.CannotGoOn("BundleCorrupted", f"bundle.zip cannot be unpacked: {error}") from error


def wait_for_upload(pod: Place, stream: Stream, hall: Hall) -> None:
    """Wait until every object that the manifest names is there; whoever sends them says when one is.

    Raises:
        CannotGoOn: NotUploaded: nothing came for a long time.
        Interrupted: somebody wants the job to end.
    """
    with open(os.path.join(pod.bundle, "manifest.json"), encoding="utf-8") as file:
        sizes: dict[str, int] = json.load(file)["sizes"]
    size = size_text(sum(sizes.values()))
    stream.state(
        "Pending", "upload", f"uploading: {size} come from the kernel that sent the job, which must live till then"
    )
    heard = time.monotonic()
    while missing := [name for name, size in sizes.items() if not _arrived(pod, name, size)]:
        left = heard + pod.patience - time.monotonic()
        if left <= 0 and hall.empty:
            what = f"{len(missing)} of {len(sizes)} files never came"
            raise ending.CannotGoOn("NotUploaded", what, {"missing": len(missing)})
        if hall.hear(max(left, 1.0)):
            heard = time.monotonic()


def _arrived(pod: Place, name: str, size: int) -> bool:
    try:
        return os.stat(os.path.join(pod.bundle, "objects", os.path.basename(name))).st_size == size
    except FileNotFoundError:
        return False


def write(path: str, data: bytes) -> None:
    """A new file of ours, whole."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) or 0 :]


def size_text(count: int) -> str:
    """Bytes for a person: `12.5 MB`."""
    return f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count} bytes"
