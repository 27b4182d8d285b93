"""What was decided before a job's objects are made: values that the manifests and the submit are made from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.kept import Kept
from kube_nb.spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where a job's log copy, large objects, checkpoints and environments lie.

    Attributes:
        kind: `none`: in the pod alone; `shared`: the namespace's claim, mounted by all jobs at once; `own`: a claim
            of this job, which one node mounts; `url`: an fsspec URL.
        claim: name of the claim, for `shared` and `own`.
        url: for `url`.
        why: for a person: why it is this one.
        size: bytes; storage_class: None: the cluster's default. Of a claim that is made for this job.
        missing: the shared claim is not there yet: the submit makes it.
    """

    kind: Literal["none", "shared", "own", "url"] = "none"
    claim: str = ""
    url: str = ""
    why: str = ""
    size: int = 20 << 30
    storage_class: str | None = None
    missing: bool = False

    @property
    def outside(self) -> bool:
        """Whether it can be filled before there is a pod of the job."""
        return bool(self.claim or self.url)

    @property
    def mark(self) -> str:
        """The value of the annotation `kube-nb/store`."""
        return f"claim:{self.claim}" if self.claim else self.url or "none"


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """One submit, decided.

    Attributes:
        spec: what was asked; namespace, user: where and who.
        image: what runs, after `image_map`.
        store: where what outlives the pod lies.
        transport: how the bundle reaches the pod: in the Secret, through the store, or streamed to the waiting pod.
        digest: of the bundle's manifest.
        memory: bytes each node asks for.
        labels: further labels of every object, from the settings.
        tolerations, affinity, pull_secret: from the settings.
        join: seconds in which all nodes of the job must have found each other.
        patches: strategic-merge patches of the Job, in the order in which they are applied.
        retention: seconds that the ended Job, and what it owns, stays.
        submitted: when, as seconds since the epoch by this machine's clock.
    """

    spec: JobSpec
    namespace: str
    user: str
    image: str
    store: Store = Store()
    transport: Literal["secret", "store", "upload"] = "secret"
    digest: str = ""
    memory: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict[str, Any])
    pull_secret: str | None = None
    join: float = 600.0
    patches: tuple[Mapping[str, Any], ...] = ()
    retention: int = 7 * 86400
    submitted: float = field(default_factory=time.time)

    @property
    def kept(self) -> Kept:
        """Where what the job makes will lie."""
        return Kept(self.store.claim, self.store.url, names.owner_of(self.user), self.spec.id)

    @property
    def via_trainer(self) -> bool:
        """Whether a TrainJob runs it; Kubeflow Trainer makes its Job and its Service, later."""
        return self.spec.placement.via == "trainjob"

    @property
    def job_name(self) -> str:
        """What the Job itself is called: as its id, or as Kubeflow Trainer calls it."""
        return f"{self.spec.id}-node-0" if self.via_trainer else self.spec.id
