"""Jobs written by hand, with the labels of ours: the cluster's side of a reason, without a submit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kube_nb.backends.base import JobStatus
from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.kinds import JOBS, PODS
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.manifests.pod import container_security
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.snapshot import Snapshot
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.backends.kubernetes.watch import Watch
from kube_nb.spec import JobId, JobSpec, Policy, Resources, Task

IMAGE = "python:3.11-slim"
PATIENCE = 30.0
"""Seconds that this cluster may take for a thing; what is ours is asserted apart."""
FOREVER = "import signal; signal.pause()"
GREEDY = "hoard = []\nwhile True: hoard.append(bytearray(1 << 20))"
"""A program that takes all the memory it is given, and more."""


def labels(job: str) -> dict[str, str]:
    return {names.MANAGED_BY: names.OURS, names.JOB: job, names.ROLE: "job"}


def program(code: str) -> list[str]:
    return ["python3", "-c", code]


def says(code: str, status: int, **record: Any) -> str:
    """A program that ends as the runner does: its last word in the termination message, then its status."""
    from kube_nb.runner.ending import end, shorten

    return f"open('/dev/termination-log', 'wb').write({shorten(end(code, 0, **record))!r}); raise SystemExit({status})"


STOPS = f"""
import signal
def stop(*_): {says("Stopped", 82)}
signal.signal(signal.SIGTERM, stop)
{FOREVER}
"""
"""What the runner does when its pod is deleted."""


def job(
    name: str,
    code: str = "",
    *,
    nodes: int = 1,
    retries: int = 0,
    container: Object | None = None,
    pod: Object | None = None,
    spec: Object | None = None,
    meta: Object | None = None,
) -> Object:
    """A Job that runs `code`, with what a test changes in its container, its pod, itself and its metadata."""
    main = {
        "name": names.CONTAINER,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": program(code),
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": container_security() | {"runAsUser": names.UID},
        **(container or {}),
    }
    pod_spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [main],
        **(pod or {}),
    }
    made = indexed_job(_plan(name, nodes, retries))
    template = {"metadata": {"labels": labels(name)}, "spec": pod_spec}
    return made | {
        "metadata": {"name": name, "labels": labels(name) | (meta or {}).get("labels", {}), "annotations": {}},
        "spec": made["spec"] | {"template": template} | (spec or {}),
    }


def _plan(name: str, nodes: int, retries: int) -> JobPlan:
    """Of a job that ends and is tried again as ours are: their own manifest says how."""
    spec = JobSpec(
        id=JobId(name),
        name=name,
        task=Task(label="Cell In[1]"),
        resources=Resources(nodes=nodes),
        policy=Policy(retries=retries),
    )
    return JobPlan(spec=spec, namespace="", user="somebody", image=IMAGE)


def sidecar(code: str = FOREVER, **more: Any) -> Object:
    """Another container."""
    return job("x", code, container={"name": "sidecar", **more})["spec"]["template"]["spec"]["containers"][0]


class Seen:
    """A job that a test made, looked at through one watch."""

    def __init__(self, api: Api, watch: Watch, id: str) -> None:
        self.api = api
        self.watch = watch
        self.id = id

    def until(self, holds: Callable[[JobStatus], object], timeout: float = PATIENCE) -> JobStatus:
        """The job's status once it is as wanted; a failure shows what it was instead."""
        seen: list[str] = []

        def look(snapshot: Snapshot | None) -> JobStatus | None:
            status = status_of(snapshot) if snapshot else None
            words = f"{status.phase} {status.reason}" if status else "no job"
            if words not in seen[-1:]:
                seen.append(words)
            return status if status and holds(status) else None

        status = self.watch.wait(self.id, look, timeout)
        if status is None:
            snapshot = self.watch.snapshot(self.id)
            raise AssertionError("\n".join([f"not in {timeout} s; it was:", *seen, repr(snapshot)]))
        return status

    def reason(self, code: str, timeout: float = PATIENCE) -> JobStatus:
        return self.until(lambda status: status.reason and status.reason.code == code, timeout)

    def final(self, timeout: float = PATIENCE) -> JobStatus:
        return self.until(lambda status: status.phase.final, timeout)

    def running(self, timeout: float = PATIENCE) -> JobStatus:
        return self.until(lambda status: status.phase == "Running", timeout)

    def remove(self) -> None:
        """Delete the Job and its pods at once, as somebody with kubectl does."""
        for pod in self.api.list(PODS, labels=names.selector(job=self.id))[0]:
            self.api.delete(PODS, pod["metadata"]["name"], grace=0)
        self.api.delete(JOBS, self.id)

    def snapshot(self) -> Snapshot:
        found = self.watch.snapshot(self.id)
        assert found is not None
        return found


def submit(api: Api, watch: Watch, body: Object) -> Seen:
    """Make a Job by hand and look at it."""
    watch.remember(api.create(JOBS, body))
    return Seen(api, watch, body["metadata"]["name"])
