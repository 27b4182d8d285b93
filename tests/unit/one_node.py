"""One node as a backend starts it: a real runner process, a bundle made by hand, and a small stand-in for the rank."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kube_nb.events
import kube_nb.inside
import kube_nb.runner
from kube_nb.events import Decoder, Event, Text
from kube_nb.runner import ending

KEY = b"k" * 32

# Runs the task's source with `say(kind, **data)` in its globals, and says goodbye as the real one does.
RANK = r"""
import json, os, socket, sys, traceback

def main():
    spec = json.load(open(os.environ["KUBE_NB_RANK_SPEC"]))

    def say(kind, **data):
        sys.stdout.flush()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.environ["KUBE_NB_SOCKET"])
            connection.sendall(os.environ["KUBE_NB_TOKEN"].encode() + b"\n")
            connection.sendall(json.dumps({"kind": kind, **data}).encode() + b"\n")
            return connection.recv(1000)

    manifest = json.load(open(spec["bundle"] + "/manifest.json"))
    source = open(spec["bundle"] + "/objects/" + manifest["task"]["source"]).read()
    if spec["modules"]:
        sys.path.insert(1, spec["modules"])
    names = {"say": say, "spec": spec, "__name__": "__main__", "RANK": spec["rank"]}
    try:
        exec(compile(source, manifest["task"]["filename"], "exec"), names)
    except SystemExit as error:
        say("bye", status="exit", exit=error.code)
        sys.exit(error.code)
    except BaseException as error:
        frames = [{"file": f.filename, "line": f.lineno} for f in traceback.extract_tb(error.__traceback__)]
        say("error", error={"ename": type(error).__name__, "evalue": str(error), "frames": frames})
        say("bye", status="error", exit=1)
        sys.exit(1)
    say("bye", status="ok", exit=0)
"""


@dataclass
class Ran:
    """What is left of one run: the exit status, the stream as it was written, and its parts."""

    status: int
    stream: bytes
    faults: bytes
    end: dict[str, Any]
    seconds: float
    first: int = 0
    """The node's first rank, whose text comes first."""
    events: list[Event] = field(default_factory=list)
    text: dict[int, bytes] = field(default_factory=dict)
    order: list[Text | Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        decoder = Decoder(self.first)
        self.order = [*decoder.feed(self.stream), *decoder.close()]
        self.events = [item for item in self.order if isinstance(item, Event)]
        texts = [item for item in self.order if isinstance(item, Text)]
        self.text = {item.rank: b"" for item in texts}
        for rank in self.text:
            self.text[rank] = b"".join(item.data for item in texts if item.rank == rank)

    @property
    def code(self) -> str:
        return self.end["code"]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.kind == kind]


class OneNode:
    """A folder with everything a runner needs.

    Args:
        folder: empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle = folder / "bundle"
        self.out = folder / "out"
        self.work = folder / "work"
        self.end = folder / "end.json"
        self.key = folder / "key"
        self.key.write_bytes(KEY)
        (self.bundle / "objects").mkdir(parents=True)
        self.runner = folder / "runner"
        package = self.runner / "_kube_nb_job"
        shutil.copytree(Path(kube_nb.runner.__file__).parent, package / "runner", ignore=lambda *_: ["__pycache__"])
        (package / "__init__.py").touch()
        shutil.copy(kube_nb.events.__file__, package / "events.py")
        shutil.copy(package / "runner" / "entry.py", self.runner / "main.py")
        (package / "runner" / "rank.py").write_text(RANK)
        (self.runner / "small" / "kube_nb").mkdir(parents=True)
        shutil.copy(kube_nb.inside.__file__, self.runner / "small" / "kube_nb" / "__init__.py")

    def object(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        (self.bundle / "objects" / digest).write_bytes(data)
        return digest

    def manifest(self, source: str, **changes: Any) -> dict[str, Any]:
        """A manifest of this source; `changes` to its keys."""
        code, graph = self.object(source.encode()), self.object(b"graph")
        manifest: dict[str, Any] = {
            "version": 1,
            "job": "job-1",
            "python": list(sys.version_info[:2]),
            "platform": "any",
            "task": {"kind": "cell", "label": "Cell In[5]", "filename": "<cell 5>", "source": code, "returns": False},
            "graph": {"pickle": graph, "buffers": []},
            "sources": {},
            "modules": None,
            "files": {},
            "collect": [],
            "outputs": {"names": None, "assigned": [], "check": [], "limit": 1, "budget": 1},
            "packages": {"pins": [], "constraints": [], "install": "missing", "index": {}, "requires_ipython": False},
            "nodes": 1,
            "procs": 1,
            "retries": 0,
            "timeout": None,
            "grace": 5.0,
        } | changes
        objects = (self.bundle / "objects").iterdir()
        return {"sizes": {path.name: path.stat().st_size for path in objects}} | manifest

    def sign(self, manifest: dict[str, Any], key: bytes = KEY) -> None:
        data = json.dumps(manifest).encode()
        (self.bundle / "manifest.json").write_bytes(data)
        (self.bundle / "manifest.hmac").write_text(hmac.digest(key, data, "sha256").hex())

    def command(self, *more: str, attempt: int = 0, node: int = 0) -> list[str]:
        places = {"bundle": self.bundle, "out": self.out, "work": self.work, "key": self.key, "end": self.end}
        arguments = [part for name, path in places.items() for part in (f"--{name}", str(path))]
        arguments += ["--node", str(node), "--attempt", str(attempt), *more]
        return [sys.executable, "-I", "-S", str(self.runner / "main.py"), *arguments]

    def start(self, source: str, *more: str, attempt: int = 0, node: int = 0, **changes: Any) -> Running:
        """Start a runner whose stream goes into a file, as the local backend does."""
        self.sign(self.manifest(source, **changes))
        return self.launch(*more, attempt=attempt, node=node)

    def launch(self, *more: str, attempt: int = 0, node: int = 0, stdout: Any = None) -> Running:
        """Start a runner on what lies there."""
        self.end.unlink(missing_ok=True)
        stream = self.folder / "stream"
        with open(stream, "wb") as file, open(self.folder / "faults", "wb") as faults:
            process = subprocess.Popen(
                self.command(*more, attempt=attempt, node=node),
                stdin=subprocess.DEVNULL,
                stdout=stdout or file,
                stderr=faults,
            )
        manifest = self.bundle / "manifest.json"
        procs = json.loads(manifest.read_bytes()).get("procs", 1) if manifest.exists() else 1
        return Running(process, self, time.monotonic(), node * procs)

    def run(self, source: str, *more: str, **changes: Any) -> Ran:
        return self.start(source, *more, **changes).wait()


@dataclass
class Running:
    """A runner that was started."""

    process: subprocess.Popen[bytes]
    node: OneNode
    began: float
    first: int = 0

    def wait(self, seconds: float = 30) -> Ran:
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            raise
        took = time.monotonic() - self.began
        stream, faults = ((self.node.folder / name).read_bytes() for name in ("stream", "faults"))
        return Ran(status, stream, faults, ending.read_end(str(self.node.end)) or {}, took, self.first)

    def until(self, text: bytes, seconds: float = 20) -> None:
        """Wait until the stream holds `text`."""
        deadline = time.monotonic() + seconds
        while text not in (self.node.folder / "stream").read_bytes():
            assert time.monotonic() < deadline, f"{text!r} never came"
            assert self.process.poll() is None, f"the runner ended before {text!r} came"
            time.sleep(0.005)
