"""What a job's Secret holds: the runner, the small part of the bundle, the key, and what the pod is told."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from kube_nb.backends.base import Bundle
from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.errors import StorageFailed

LIMIT = 1_000_000
"""Bytes of a whole Secret; a cluster takes 1 MiB."""
LINGER = 60
"""Seconds that a container without a store stays until somebody has fetched what it made."""
PATIENCE = 300.0
"""Seconds in which nothing comes from who uploads; then nobody does any more. One pod is served after another."""
_ROOM = 4096
"""For `pod.json`, the key and the names."""
_WORTH_PACKING = 4 * LIMIT
"""A bundle beyond this is not tried: it would have to shrink to less than a quarter."""
_INDEX = "files.txt"
"""Entry of each zip that names the others: who unpacks it there reads one by one, without `zipfile`."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def runner_zip(runner: Path) -> bytes:
    """The runner object as a zip that Python runs; the same bytes for the same object.

    It is kept in the object, so that a new kernel need not pack it again.
    """
    return _runner_zip(runner, runner.name)


def secret_data(bundle: Bundle, plan: JobPlan) -> dict[str, bytes]:
    """The keys of the job's Secret and their bytes."""
    whole = plan.transport == "secret"
    return {
        names.RUNNER_ZIP: runner_zip(bundle.runner),
        "bundle.zip": _bundle_zip(bundle.directory, bundle.digest, whole),
        "key": bundle.key,
        "env.json": _json(dict(bundle.env)),
        "pod.json": _json(_told(plan)),
    }


def fits(bundle: Bundle) -> bool:
    """Whether all of the bundle can travel in the Secret."""
    if bundle.size > _WORTH_PACKING:
        return False
    fixed = len(runner_zip(bundle.runner)) + len(_json(dict(bundle.env))) + _ROOM
    return fixed + len(_bundle_zip(bundle.directory, bundle.digest, True)) <= LIMIT


def _told(plan: JobPlan) -> Mapping[str, object]:
    resources = plan.spec.resources
    return {
        "v": 1,
        "job": plan.spec.id,
        "nodes": resources.nodes,
        "procs": resources.procs,
        "retries": plan.spec.policy.retries,
        "store": bool(plan.store.claim),
        "url": f"{plan.kept.url}/{plan.kept.path}" if plan.kept.url else "",
        "place": plan.kept.path,
        "transport": plan.transport,
        "service": f"{plan.spec.id}.{plan.namespace}.svc" if resources.nodes > 1 else "",
        "first": f"{plan.job_name}-0",
        "join": plan.join,
        "linger": LINGER,
        "patience": PATIENCE * resources.nodes,
    }


@lru_cache(maxsize=2)
def _runner_zip(runner: Path, digest: str) -> bytes:
    kept = runner / names.RUNNER_ZIP
    with suppress(OSError):
        data = kept.read_bytes()
        if hashlib.sha256(data[:-64]).hexdigest().encode() == data[-64:]:
            return data[:-64]
    # Without byte code, which would save 45 ms of the start and make each job's Secret three times as large.
    files = (path for path in runner.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".zip"))
    data = _zip({path.relative_to(runner).as_posix(): path for path in files})
    with suppress(OSError):  # it is made again next time
        fd, draft = tempfile.mkstemp(prefix=".draft-", suffix=".zip", dir=runner)
        with open(fd, "wb") as file:
            file.write(data + hashlib.sha256(data).hexdigest().encode())
        os.replace(draft, kept)
    return data


@lru_cache(maxsize=2)
def _bundle_zip(directory: Path, digest: str, whole: bool) -> bytes:
    """Packed once for the question whether it fits and for the answer; `digest` is what its bytes depend on."""
    chosen = ["manifest.json", "manifest.hmac"]
    if whole:
        chosen += sorted(f"objects/{entry.name}" for entry in os.scandir(directory / "objects"))
    try:
        return _zip({name: directory / name for name in chosen})
    except FileNotFoundError as lost:
        raise StorageFailed(
            what="what was packed for this job is not whole any more",
            why=f"{lost.filename} was removed",
            next="send it again",
        ) from lost


def _zip(files: Mapping[str, Path]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, _INDEX, "".join(f"{name}\n" for name in sorted(files)).encode())
        for name in sorted(files):
            _add(archive, name, files[name].read_bytes())
    return memory.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
