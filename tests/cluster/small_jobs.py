"""Plans of small jobs, and bundles whose runner is a few lines of a test."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from kube_nb.backends.base import Bundle
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import Missing
from kube_nb.backends.kubernetes.kinds import JOBS, PODS
from kube_nb.backends.kubernetes.names import JOB
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.snapshot import condition
from kube_nb.spec import Digest, JobId, JobSpec, Placement, Policy, Resources, Task

IMAGE = "python:3.11-slim"
SMALL: Mapping[str, Any] = {"cpu": "10m"}


def plan(
    api: Api,
    id: str,
    *,
    resources: Mapping[str, Any] = SMALL,
    placement: Placement = Placement(),
    policy: Policy = Policy(grace=1),
    **details: Any,
) -> JobPlan:
    """A job of one small pod, or what is said otherwise."""
    spec = JobSpec(
        id=JobId(id),
        name="a small job",
        task=Task(label="Cell In[1]"),
        resources=Resources.parse(**{**SMALL, **resources}),
        placement=placement,
        policy=policy,
    )
    given = {"image": IMAGE, "memory": 64 << 20, "digest": "d" * 64, "user": "somebody"} | details
    return JobPlan(spec=spec, namespace=api.namespace, **given)


def bundle(folder: Path, program: str = "print('done')", env: Mapping[str, str] | None = None) -> Bundle:
    """A bundle whose runner is this program."""
    runner = folder / "runners" / hashlib.sha256(program.encode()).hexdigest()
    runner.mkdir(parents=True, exist_ok=True)
    (runner / "__main__.py").write_text(program)
    place = folder / "bundle"
    (place / "objects").mkdir(parents=True, exist_ok=True)
    manifest = json.dumps({"sizes": {}}).encode()
    (place / "manifest.json").write_bytes(manifest)
    (place / "manifest.hmac").write_text("0" * 64)
    digest = Digest(hashlib.sha256(manifest).hexdigest())
    return Bundle(digest=digest, directory=place, runner=runner, key=os.urandom(32), env=env or {})


def fitting(plan: JobPlan, bundle: Bundle) -> JobPlan:
    """The plan of that bundle."""
    return replace(plan, digest=bundle.digest)


def ended(api: Api, id: str, seconds: int = 90) -> Object:
    """The Job, once it is over."""
    job = api.get(JOBS, id)
    if _over(job):
        return job
    version = job["metadata"]["resourceVersion"]
    with api.watching(JOBS, version=version, fields=f"metadata.name={id}", seconds=seconds) as changes:
        for change in changes:
            if change["type"] != "BOOKMARK" and _over(change["object"]):
                return change["object"]
    raise AssertionError(f"job {id} is not over after {seconds} s: {api.get(JOBS, id)['status']}")


def pod_when(api: Api, id: str, wanted: Any, seconds: int = 60) -> Object:
    """A pod of the job, once it is as wanted."""
    found, version = api.list(PODS, labels=f"{JOB}={id}")
    for pod in found:
        if wanted(pod):
            return pod
    with api.watching(PODS, version=version, labels=f"{JOB}={id}", seconds=seconds) as changes:
        for change in changes:
            if change["type"] != "BOOKMARK" and wanted(change["object"]):
                return change["object"]
    raise AssertionError(f"no pod of {id} is as wanted after {seconds} s: {pods(api, id)}")


def pods(api: Api, id: str) -> list[Object]:
    return api.list(PODS, labels=f"{JOB}={id}")[0]


def logs(api: Api, id: str) -> list[str]:
    """What the pods of a job printed, the oldest first, without those that go just now, as a failed job's do."""
    found = sorted(pods(api, id), key=lambda pod: pod["metadata"]["creationTimestamp"])
    texts = []
    for pod in found:
        with suppress(Missing), api.stream("GET", PODS, pod["metadata"]["name"], "log") as response:
            texts.append(b"".join(api.pieces(response)).decode())
    return texts


def _over(job: Object) -> bool:
    return any(condition(job, kind) for kind in ("Complete", "Failed"))
