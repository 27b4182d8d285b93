"""Runs a piece of code in a real rank, with a small stand-in for the runner on the other end of its socket."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kube_nb.capture.runner_object import runner_object
from kube_nb.runner import graph
from kube_nb.runner.objects import Objects

_RANK = "import sys; sys.path.insert(0, sys.argv.pop(1)); from _kube_nb_job.runner.rank import main; main()"


@dataclass
class Ran:
    """What came out of a rank: text and messages in their order, and how it ended."""

    items: list[str | dict[str, Any]]
    status: int
    out: Path
    work: Path
    namespace: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "".join(item for item in self.items if isinstance(item, str))

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.items if isinstance(item, dict) and item["kind"] == kind]

    @property
    def shown(self) -> list[dict[str, Any]]:
        return self.said("display")

    @property
    def results(self) -> list[Any]:
        return [message["data"]["text/plain"] for message in self.shown if message["result"]]

    @property
    def error(self) -> dict[str, Any] | None:
        errors = self.said("error")
        return errors[0]["error"] if errors else None

    @property
    def bye(self) -> dict[str, Any] | None:
        byes = self.said("bye")
        return byes[0] if byes else None

    @property
    def index(self) -> dict[str, Any] | None:
        results = self.said("result")
        return results[0]["index"] if results else None

    @property
    def objects(self) -> Objects:
        return Objects(self.out / "objects")

    @property
    def values(self) -> dict[str, Any]:
        """What came back, loaded as a kernel would."""
        assert self.index is not None, (self.text, self.error)
        reference = self.index["graph"]
        if reference is None:
            return {}
        return graph.load(reference, namespace=self.namespace, objects=self.objects)


def run_rank(
    source: str,
    values: dict[str, Any] | None = None,
    *,
    namespace: dict[str, Any] | None = None,
    kind: str = "cell",
    filename: str = "Cell In[1]",
    shown_source: str | None = None,
    returns: bool = False,
    names: list[str] | None = None,
    assigned: list[str] | None = None,
    check: list[str] | None = None,
    limit: int = 10**9,
    budget: float = 5.0,
    collect: list[str] | None = None,
    rank: int = 0,
    env: dict[str, str] | None = None,
    python: str = sys.executable,
    options: tuple[str, ...] = (),
    files: dict[str, str] | None = None,
    modules: dict[str, str] | None = None,
    env_path: list[str] | None = None,
    before: Callable[[Path], None] = lambda bundle: None,
    timeout: float = 60,
) -> Ran:
    """Run `source` in a rank of its own and wait for its end."""
    place = Path(tempfile.mkdtemp(prefix="rank-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    bundle, out, work = place / "bundle", place / "out", place / "work"
    for folder in (bundle, out, work):
        folder.mkdir()
    for name, text in (files or {}).items():
        (work / name).write_text(text)
    for name, text in (modules or {}).items():
        (place / "modules").mkdir(exist_ok=True)
        (place / "modules" / name).write_text(text)
    objects = Objects(bundle / "objects")
    namespace = {} if namespace is None else namespace
    manifest = {
        "task": {
            "kind": kind,
            "label": filename,
            "filename": filename,
            "source": objects.write(source.encode()),
            "returns": returns,
        },
        "graph": graph.dump(values or {}, namespace=namespace, objects=objects),
        "sources": {filename: objects.write((source if shown_source is None else shown_source).encode())},
        "collect": collect or [],
        "outputs": {
            "names": names,
            "assigned": assigned or [],
            "check": check or [],
            "limit": limit,
            "budget": budget,
        },
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    before(bundle)
    runner = _runner_object()
    spec = {
        "bundle": str(bundle),
        "out": str(out),
        "work": str(work),
        "modules": str(place / "modules") if modules else None,
        "env_path": env_path or [],
        "runner": str(runner),
        "rank": rank,
        "attempt": 0,
    }
    (place / "spec.json").write_text(json.dumps(spec))
    runner_end = _Runner(place / "socket")
    environment = os.environ | {
        "KUBE_NB_RANK_SPEC": str(place / "spec.json"),
        "KUBE_NB_SOCKET": str(place / "socket"),
        "KUBE_NB_TOKEN": "token",
        "KUBE_NB_OUT": str(out),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        [python, *options, "-c", _RANK, str(runner)],
        cwd=work,
        env=environment | (env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    items, status = runner_end.serve(process, timeout)
    return Ran(items, status, out, work, namespace)


@functools.cache
def _runner_object() -> Path:
    state = Path(tempfile.mkdtemp(prefix="runners-"))
    atexit.register(shutil.rmtree, state, ignore_errors=True)
    return runner_object(state)


class _Runner:
    """Drains the rank's pipe before each message is taken, as the real one does."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._lock = threading.Lock()
        self._items: list[str | dict[str, Any]] = []

    def serve(self, process: subprocess.Popen[bytes], timeout: float) -> tuple[list[str | dict[str, Any]], int]:
        assert process.stdout is not None
        self._pipe = process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        threading.Thread(target=self._accept, daemon=True).start()
        reader = threading.Thread(target=self._read_always, args=(process,), daemon=True)
        reader.start()
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        reader.join(5)
        self._drain()
        self._listener.close()
        return self._items, status

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            if lines.readline() != b"token\n":
                return
            for line in lines:
                with self._lock:
                    self._drain_locked()
                    self._items.append(json.loads(line))
                connection.sendall(b"\n")

    def _read_always(self, process: subprocess.Popen[bytes]) -> None:
        import select

        while process.poll() is None:
            select.select([self._pipe], [], [], 0.05)
            self._drain()

    def _drain(self) -> None:
        with self._lock:
            self._drain_locked()

    def _drain_locked(self) -> None:
        while True:
            try:
                data = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                return
            self._items.append(data.decode("utf-8", "replace"))
