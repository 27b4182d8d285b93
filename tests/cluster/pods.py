"""Jobs made by hand from a plan: what only the runner in the pod is answerable for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from kube_nb.backends.base import Bundle
from kube_nb.backends.kubernetes import kinds, names
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.exec import STDOUT, Exec
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.manifests.secret import bundle_secret
from kube_nb.backends.kubernetes.payload import secret_data
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.runner import ending
from tests.cluster.conftest import ours
from tests.unit.pod_files import Attempt, plan_of

PYTHON = "python:3.11-slim"
TOOL = ["python3", "-I", "-S", f"{names.SECRET}/{names.RUNNER_ZIP}", "tool"]


class HandMade:
    """One Job and its Secret.

    Args:
        name: of both.
    """

    def __init__(self, api: Api, name: str, bundle: Bundle, *, retries: int = 0, **changes: Any) -> None:
        self.api = api
        self.name = name
        kept = {key: changes.pop(key) for key in ("transport", "claim") if key in changes}
        plan = plan_of(name, namespace=api.namespace, **kept)
        policy = replace(plan.spec.policy, retries=retries)
        self.plan: JobPlan = replace(
            plan,
            spec=replace(plan.spec, policy=policy),
            **{"image": PYTHON, "memory": 256 << 20, **changes},
        )
        job = api.create(kinds.JOBS, indexed_job(self.plan))
        api.create(kinds.SECRETS, bundle_secret(self.plan, secret_data(bundle, self.plan), job))

    def pods(self) -> list[Object]:
        """The oldest first."""
        found, _ = self.api.list(kinds.PODS, labels=f"{names.JOB}={self.name}")
        return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def pod(self, number: int = 0) -> str:
        """Name of the pod of this attempt, once there is one whose container runs or has run."""
        return self.when(lambda pods: len(pods) > number and state_of(pods[number]) and name_of(pods[number]))

    def when(self, what: Callable[[list[Object]], Any], seconds: float = 60) -> Any:
        """What `what` makes of the pods, once it makes something of them."""
        deadline = time.monotonic() + seconds
        while not (found := what(pods := self.pods())):
            assert time.monotonic() < deadline, [pod.get("status") for pod in pods]
            time.sleep(0.1)
        return found

    def ended(self, number: int = 0, seconds: float = 60) -> Mapping[str, Any]:
        """How the container of this attempt ended: `terminated` of its state."""
        return self.when(lambda pods: len(pods) > number and (state_of(pods[number]) or {}).get("terminated"), seconds)

    def attempt(self, number: int = 0, seconds: float = 60) -> Attempt:
        """All that is left of this attempt."""
        ended = self.ended(number, seconds)
        end = ending.parse_end(ended.get("message", "")) or {}
        return Attempt(ended["exitCode"], self.log(number), b"", end)

    def log(self, number: int = 0) -> bytes:
        with self.api.stream("GET", kinds.PODS, self.pod(number), "log") as response:
            return b"".join(self.api.pieces(response))

    def until(self, text: bytes, number: int = 0, seconds: float = 60) -> None:
        """Wait until the log holds `text`."""
        pod = self.pod(number)
        deadline, last = time.monotonic() + seconds, b""
        with self.api.stream("GET", kinds.PODS, pod, "log", query={"follow": "true"}) as response:
            for piece in self.api.pieces(response):
                last = last[-1000:] + piece
                if text in last:
                    return
                assert time.monotonic() < deadline, last[-1000:]
        raise AssertionError(f"{text!r} never came: {last[-1000:]!r}")

    def tool(self, *words: str, number: int = 0, send: bytes = b"") -> bytes:
        """What a tool writes that is started in the container."""
        with Exec.start(self.api, self.pod(number), [*TOOL, *words], stdin=bool(send)) as program:
            if send:
                program.send(send)
            return program.output()

    def follow(self, *words: str, number: int = 0) -> bytes:
        """The same for one that may be cut off."""
        got = b""
        with Exec.start(self.api, self.pod(number), [*TOOL, *words], stdin=False) as program:
            for channel, data in program.receive():
                got += data if channel == STDOUT else b""
        return got

    def conditions(self) -> dict[str, str]:
        """The Job's conditions that hold, with their reasons."""
        status = self.api.get(kinds.JOBS, self.name).get("status", {})
        held = [one for one in status.get("conditions") or [] if one["status"] == "True"]
        return {one["type"]: one.get("reason", "") for one in held}


def make_claim(api: Api, name: str) -> str:
    """A claim of that name that several pods may mount at once."""
    body = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": ours(name)},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    api.create(kinds.CLAIMS, body)
    return name


def name_of(pod: Object) -> str:
    return pod["metadata"]["name"]


def state_of(pod: Object) -> Mapping[str, Any] | None:
    """The container's state once it runs or has run."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        state = status.get("state", {})
        if "running" in state or "terminated" in state:
            return state
    return None
