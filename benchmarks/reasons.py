"""How long after the cluster a kernel knows what keeps a job from going on, or what ended it.

Each trouble is brought about for real, by a Job written by hand. The cluster knows it once its API shows it to anybody
who watches: a pod's state, or a warning. The kernel knows it once a subscriber of the backend is told the reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from kube_nb.backends.base import Backend, JobStatus
from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.kinds import EVENTS, JOBS, PODS, Kind
from kube_nb.backends.kubernetes.snapshot import condition, state
from tests.cluster.handmade import GREEDY, job

PATIENCE = 60.0
"""Seconds within which a trouble has come about and was told."""


@dataclass(frozen=True)
class Trouble:
    """One thing that goes wrong.

    Attributes:
        code: of the reason that tells of it.
        knows: whether an object, as the API shows it, tells of it.
        body: what makes it come about: arguments of `handmade.job`.
    """

    code: str
    kind: Kind
    knows: Callable[[Object], object]
    body: dict[str, Any] = field(default_factory=dict[str, Any])


def _waits(*why: str) -> Callable[[Object], bool]:
    return lambda pod: (state(pod, "waiting") or {}).get("reason") in why


def _warned(words: str) -> Callable[[Object], bool]:
    return lambda event: words in (event.get("message") or "")


TROUBLES = (
    Trouble("RegistryUnreachable", PODS, _waits("ErrImagePull"), {"container": {"image": "registry.invalid/x:1"}}),
    Trouble("InvalidImageName", PODS, _waits("InvalidImageName"), {"container": {"image": "Not An Image"}}),
    Trouble(
        "ConfigMapMissing",
        PODS,
        _waits("CreateContainerConfigError"),
        {"container": {"envFrom": [{"configMapRef": {"name": "bench-not-there"}}]}},
    ),
    Trouble(
        "NeverFits",
        PODS,
        lambda pod: condition(pod, "PodScheduled", "False"),
        {"pod": {"nodeSelector": {"example.org/no-such-node": "true"}}},
    ),
    Trouble(
        "ClaimMissing",
        PODS,
        lambda pod: condition(pod, "PodScheduled", "False"),
        {"pod": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "bench-not-there"}}]}},
    ),
    Trouble("PodSecurity", EVENTS, _warned("violates PodSecurity"), {"pod": {"hostNetwork": True}}),
    Trouble(
        "OutOfMemory",
        PODS,
        lambda pod: (state(pod, "terminated") or {}).get("reason") == "OOMKilled",
        {"code": GREEDY, "container": {"resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}}}},
    ),
)


def delays(api: Api, backend: Backend, count: int) -> dict[str, list[float]]:
    """Seconds from the cluster's knowing to the kernel's, by code, `count` of each."""
    return {trouble.code: [_delay(api, backend, trouble) for _ in range(count)] for trouble in TROUBLES}


def _delay(api: Api, backend: Backend, trouble: Trouble) -> float:
    name = f"bench-{uuid4().hex[:8]}"
    told: list[float] = []
    heard = threading.Event()

    def listen(status: JobStatus) -> None:
        if status.id == name and status.reason is not None and status.reason.code == trouble.code and not told:
            told.append(time.perf_counter())
            heard.set()

    _, version = api.list(trouble.kind)
    with ThreadPoolExecutor(1) as pool:
        known = pool.submit(_known, api, trouble, name, version)
        subscription = backend.subscribe(listen)
        try:
            api.create(JOBS, job(name, **trouble.body))
            if not heard.wait(PATIENCE):
                raise SystemExit(f"{trouble.code} was not told in {PATIENCE:.0f} s")
            return told[0] - known.result()
        finally:
            subscription.close()
            api.delete(JOBS, name)


def _known(api: Api, trouble: Trouble, name: str, version: str) -> float:
    """When the API first showed it, to a reader of its own."""
    labels = "" if trouble.kind is EVENTS else names.selector(job=name)
    with api.watching(trouble.kind, version=version, labels=labels, seconds=int(PATIENCE)) as changes:
        for change in changes:
            found = change["object"]
            about = trouble.kind is not EVENTS or found.get("involvedObject", {}).get("name") == name
            if change["type"] != "BOOKMARK" and about and trouble.knows(found):
                return time.perf_counter()
    raise SystemExit(f"the cluster never showed {trouble.code}")
