"""Writes a cargo down as a bundle.

Everything is content-addressed and listed in one manifest, which carries the digest and the size of every object and is
signed with the job's key. Source never goes into a command line, a variable or a shell.
"""

from __future__ import annotations

import ast
import hashlib
import hmac
import json
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import CodeType
from typing import Any

from kube_nb.backends.base import Bundle
from kube_nb.capture.cargo import Cargo, size_of
from kube_nb.capture.cells import cell_sources
from kube_nb.capture.packages_job import credentials
from kube_nb.capture.runner_object import runner_object
from kube_nb.capture.travel import explain
from kube_nb.errors import NotFound, StorageFailed
from kube_nb.runner import graph
from kube_nb.runner.objects import Objects
from kube_nb.spec import Digest, JobSpec
from kube_nb.store.directory import link

Progress = Callable[[float, float | None, str], None]
"""Called with (done, total, words) during work that may take long."""
AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def pack(cargo: Cargo, spec: JobSpec, *, state: Path, key: bytes, progress: Progress | None = None) -> Bundle:
    """Write a cargo below `state`, signed with `key`.

    Raises:
        CannotTravel: a value cannot be sent; the path to what hinders it is named.
        StorageFailed: there is no room, or the directory cannot be written.
    """
    directory = state / "bundles" / spec.id
    try:
        directory.mkdir(parents=True, mode=0o700)
        try:
            return _write(cargo, spec, state, directory, key, progress)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
    except OSError as error:
        raise StorageFailed(
            what="the job was not started: what it needs cannot be written",
            why=f"{directory}: {error.strerror or error}",
            next="free space there, or name another directory with %kube_config state_dir=PATH",
        ) from error


def repack(bundle: Path, spec: JobSpec, *, state: Path, key: bytes, index: Sequence[str] = ()) -> Bundle:
    """The same bundle for another job: its objects are linked, its manifest is signed anew.

    Args:
        index: package indexes of the settings; what a bundle was made with never holds their credentials.

    Raises:
        NotFound: the bundle is gone.
        StorageFailed: the directory cannot be written.
    """
    directory = state / "bundles" / spec.id
    try:
        manifest = json.loads((bundle / "manifest.json").read_bytes())
    except OSError as error:
        raise NotFound(
            what="the job cannot be run again", why="what it was sent with is gone", next="run its cell again"
        ) from error
    try:
        (directory / "objects").mkdir(parents=True, mode=0o700)
        for name in manifest["sizes"]:
            link(bundle / "objects" / name, directory / "objects" / name)
    except OSError as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise StorageFailed(what="the job was not started", why=f"{directory}: {error.strerror}") from error
    again = _sign(manifest | {"job": spec.id, "created": time.time()}, directory, key, runner_object(state))
    return replace(again, env=_index_env(manifest, index))


def reopen(directory: Path, *, state: Path, key: bytes, index: Sequence[str] = ()) -> Bundle:
    """The bundle that was packed in a directory and never sent, without the job's variables.

    Args:
        index: as `repack` says.

    Raises:
        NotFound: it is gone.
        StorageFailed: `state` cannot be written.
    """
    try:
        content = (directory / "manifest.json").read_bytes()
    except OSError as error:
        raise NotFound(
            what="the job's bundle is gone", why=f"{directory}: {error.strerror}", next="send it again"
        ) from error
    return replace(_bundle(content, directory, key, runner_object(state)), env=_index_env(json.loads(content), index))


def _index_env(manifest: Mapping[str, Any], index: Sequence[str]) -> dict[str, str]:
    """Secret: how the packages of a bundle are reached by a job that is made now."""
    packages = manifest["packages"]
    installs = packages["pins"] or packages.get("wished")
    return credentials(index, elsewhere="inferred" in packages) if installs else {}


def _write(cargo: Cargo, spec: JobSpec, state: Path, directory: Path, key: bytes, progress: Progress | None) -> Bundle:
    objects = Objects(directory / "objects", _counted(progress, cargo.values.values()))
    imports: set[str] = set()
    try:
        reference = graph.dump(
            cargo.values,
            namespace=cargo.work.namespace,
            objects=objects,
            codes=_codes(cargo),
            also=cargo.further,
            modules=imports,
        )
    except graph.NotPicklable as error:
        value = cargo.values.get(error.name, cargo.work.namespace.get(error.name))
        raise explain(error.name, value, error.error, cargo.work.namespace) from error
    told = len(cargo.notes)
    cargo = cargo.importing(imports)
    source = objects.write(cargo.source.code.encode())
    texts = {} if cargo.work.task.kind == "notebook" else cell_sources(cargo)
    sources = {name: objects.write(text.encode()) for name, text in texts.items()}
    modules = objects.write(cargo.modules.zip_bytes()) if cargo.modules.files else None
    files = {relative: objects.write_file(path) for relative, path in cargo.files.items()}
    remotes = {}
    for name, (remote, place) in cargo.remote.items():
        for digest in filter(None, [*remote["buffers"], None if "data" in remote else remote["pickle"]]):
            link(place / digest, directory / "objects" / digest)
        remotes[name] = remote
    manifest = {
        "version": 1,
        "job": spec.id,
        "created": time.time(),
        "python": list(sys.version_info[:2]),
        "platform": sysconfig.get_platform(),
        "task": {
            "kind": cargo.work.task.kind,
            "label": cargo.work.task.label,
            "filename": cargo.source.filename,
            "source": source,
            "returns": cargo.work.returns,
            "how": dict(cargo.work.how),
        },
        "graph": reference,
        "remotes": remotes,
        "sources": sources,
        "modules": modules,
        "files": files,
        "collect": list(cargo.choice.collect),
        "outputs": {
            "names": None if cargo.choice.outputs is None else list(cargo.choice.outputs),
            "assigned": sorted(cargo.assigned) if cargo.work.task.kind == "cell" else [],
            "check": list(cargo.check),
            "limit": cargo.choice.limit,
            "budget": cargo.choice.budget,
        },
        "packages": cargo.packages.manifest,
        "nodes": spec.resources.nodes,
        "procs": spec.resources.procs,
        "retries": spec.policy.retries,
        "timeout": spec.policy.timeout,
        "grace": spec.policy.grace,
        "sizes": {entry.name: entry.stat().st_size for entry in os.scandir(directory / "objects") if entry.is_file()},
    }
    bundle = _sign(manifest, directory, key, runner_object(state))
    return replace(bundle, env=cargo.packages.env, notes=cargo.notes[told:])


def _codes(cargo: Cargo) -> list[CodeType]:
    """The code that runs with the values; a notebook's runs in a kernel of its own."""
    if cargo.work.task.kind == "notebook":
        return []
    return [compile(cargo.source.code, cargo.source.filename, "exec", AWAIT, dont_inherit=True)]


def _counted(progress: Progress | None, values: Iterable[Any]) -> Callable[[int], None] | None:
    """Tells how far packing is; how much there is to pack is known of arrays and tables alone."""
    if progress is None:
        return None
    total = sum(size for size in (getattr(value, "nbytes", 0) for value in values) if isinstance(size, int))
    written = 0

    def wrote(count: int) -> None:
        nonlocal written
        written += count
        progress(written, total if total > written else None, f"{size_of(written)} packed")

    return wrote


def _sign(manifest: dict[str, Any], directory: Path, key: bytes, runner: Path) -> Bundle:
    content = json.dumps(manifest, sort_keys=True).encode()
    (directory / "manifest.json").write_bytes(content)
    (directory / "manifest.hmac").write_text(hmac.new(key, content, hashlib.sha256).hexdigest())
    return _bundle(content, directory, key, runner)


def _bundle(content: bytes, directory: Path, key: bytes, runner: Path) -> Bundle:
    return Bundle(
        digest=Digest(hashlib.sha256(content).hexdigest()),
        directory=directory,
        runner=runner,
        key=key,
        size=sum(json.loads(content)["sizes"].values()),
    )
