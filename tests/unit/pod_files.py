"""A pod's folders on this machine: the Secret as a kubelet mounts it, and the container's own; and bundles for them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kube_nb.backends.base import Bundle
from kube_nb.backends.kubernetes.names import owner_of
from kube_nb.backends.kubernetes.payload import secret_data
from kube_nb.backends.kubernetes.plan import JobPlan, Store
from kube_nb.capture.runner_object import runner_object
from kube_nb.events import Decoder, Event, Text
from kube_nb.runner import ending, graph
from kube_nb.runner.objects import Objects
from kube_nb.spec import Digest, JobId, JobSpec, Resources, Task

KEY = b"k" * 32
_NO_PACKAGES = {"pins": [], "constraints": [], "install": "missing", "index": {}, "requires_ipython": False}


def make_bundle(
    folder: Path,
    source: str,
    values: Mapping[str, Any] | None = None,
    *,
    job: str = "t-1",
    env: Mapping[str, str] | None = None,
    packages: Mapping[str, Any] | None = None,
    outputs: list[str] | None = None,
    **changes: Any,
) -> Bundle:
    """A bundle of a cell with this source, signed with `KEY`; `changes` to its manifest."""
    objects = Objects(folder / "bundle" / "objects")
    graph_ref = graph.dump(dict(values or {}), namespace={}, objects=objects)
    manifest: dict[str, Any] = {
        "version": 1,
        "job": job,
        "created": 0.0,
        "python": list(sys.version_info[:2]),
        "platform": "any",
        "task": {
            "kind": "cell",
            "label": "Cell In[5]",
            "filename": "<cell 5>",
            "source": objects.write(source.encode()),
            "returns": False,
        },
        "graph": graph_ref,
        "remotes": {},
        "sources": {},
        "modules": None,
        "files": {},
        "collect": [],
        "outputs": {"names": outputs or [], "assigned": [], "check": [], "limit": 1 << 30, "budget": 1},
        "packages": {**_NO_PACKAGES, **(packages or {})},
        "nodes": 1,
        "procs": 1,
        "retries": 0,
        "timeout": None,
        "grace": 5.0,
    } | changes
    manifest["sizes"] = {path.name: path.stat().st_size for path in objects.directory.iterdir()}
    data = json.dumps(manifest).encode()
    (folder / "bundle" / "manifest.json").write_bytes(data)
    (folder / "bundle" / "manifest.hmac").write_text(hmac.digest(KEY, data, "sha256").hex())
    return Bundle(
        digest=Digest(hashlib.sha256(data).hexdigest()),
        directory=folder / "bundle",
        runner=runner_object(folder / "state"),
        key=KEY,
        size=sum(manifest["sizes"].values()),
        env=env or {},
    )


def plan_of(job: str, *, transport: Any = "secret", claim: str = "", nodes: int = 1, namespace: str = "ns") -> JobPlan:
    spec = JobSpec(
        id=JobId(job),
        name=job,
        task=Task(kind="cell", label="Cell In[5]"),
        resources=Resources(nodes=nodes),
    )
    store = Store(kind="shared", claim=claim) if claim else Store()
    return JobPlan(spec=spec, namespace=namespace, user="somebody", image="none", store=store, transport=transport)


class Pod:
    """The folders of one container.

    Args:
        folder: empty; stands for /kube-nb.
    """

    def __init__(self, folder: Path) -> None:
        self.base = folder
        self.run = folder / "run"
        self.store = folder / "store"
        self.kept = self.store / "jobs" / owner_of("somebody") / "t-1"
        self.end = folder / "end"
        self.run.mkdir(parents=True)

    def mount(self, data: Mapping[str, bytes], **told: Any) -> None:
        """Mount a Secret; `told` changes `pod.json`."""
        pod = json.loads(data["pod.json"]) | told
        data = {**data, "pod.json": json.dumps(pod).encode()}
        hidden = self.base / "secret" / "..2026"
        hidden.mkdir(parents=True)
        (self.base / "secret" / "..data").symlink_to("..2026")
        for name, content in data.items():
            (hidden / name).write_bytes(content)
            (self.base / "secret" / name).symlink_to(f"..data/{name}")

    def environment(self, **more: str) -> dict[str, str]:
        given = {"KUBE_NB_BASE": str(self.base), "KUBE_NB_END": str(self.end), "KUBE_NB_NODE": "0"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KUBE_NB_")}
        return kept | {"HOME": str(self.run / "home")} | given | more

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-I", "-S", str(self.base / "secret" / "runner.zip"), *words]

    def start(self, stdout: int = subprocess.PIPE, **env: str) -> subprocess.Popen[bytes]:
        """Start process 1; its stream is a pipe."""
        return subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=self.environment(**env),
        )

    def run_to_end(self, **env: str) -> Attempt:
        process = self.start(**env)
        out, err = process.communicate(timeout=60)
        return Attempt(process.returncode, out, err, ending.read_end(str(self.end)) or {})

    def tool(self, *words: str, input: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
        command = self.command("tool", *words)
        return subprocess.run(command, input=input, capture_output=True, env=self.environment(**env), timeout=60)


class Attempt:
    """What is left of one run of process 1."""

    def __init__(self, status: int, stream: bytes, errors: bytes, end: dict[str, Any]) -> None:
        self.status = status
        self.stream = stream
        self.errors = errors
        self.end = end
        decoder = Decoder()
        self.order = [*decoder.feed(stream), *decoder.close()]
        self.events = [item for item in self.order if isinstance(item, Event)]
        self.text = b"".join(item.data for item in self.order if isinstance(item, Text))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.kind == kind]


def pod_of(folder: Path, bundle: Bundle, plan: JobPlan, **told: Any) -> Pod:
    """A pod with this bundle's Secret."""
    pod = Pod(folder / "pod")
    pod.mount(secret_data(bundle, plan), **told)
    if plan.store.claim:
        pod.store.mkdir()
    return pod
