"""Where what a job made is kept: the store that its annotation `kube-nb/store` names, and the job's folder in it."""

from __future__ import annotations

from dataclasses import dataclass

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.snapshot import annotation, job_id
from kube_nb.store.url import is_url


@dataclass(frozen=True)
class Kept:
    """Where a job's log copy, results and checkpoints lie.

    Attributes:
        claim: that holds them; empty: none.
        url: of the store that holds them; empty: none.
        owner: the label of whose job it is.
        job: its id.
    """

    claim: str
    url: str
    owner: str
    job: str

    @property
    def stored(self) -> bool:
        """Whether they outlive the job's pods."""
        return bool(self.claim or self.url)

    @property
    def own(self) -> bool:
        """Whether the claim is this job's alone and goes with it."""
        return bool(self.claim) and self.claim == self.job

    @property
    def outlives(self) -> bool:
        """Whether the store stays when the job is deleted."""
        return self.stored and not self.own

    @property
    def place(self) -> str:
        """The job's folder below the folder of all jobs: its owner's folder is the owner's to tidy up."""
        return f"{self.owner}/{self.job}"

    @property
    def path(self) -> str:
        """The job's folder below the root of its store."""
        return path_of(self.place)

    @property
    def folder(self) -> str:
        """The job's folder as a container sees it that mounts its claim; without a claim, its own container alone."""
        return f"{names.STORE_MOUNT}/{self.path}" if self.claim else names.RUN


def kept(job: Object) -> Kept:
    """Where a Job as the cluster keeps it, or as a watch does, keeps what it made."""
    mark = annotation(job, names.STORE)
    owner = (job["metadata"].get("labels") or {}).get(names.OWNER, "")
    return Kept(claim_of(mark), mark if is_url(mark) else "", owner, job_id(job))


def path_of(place: str) -> str:
    """Below the root of a store, where the folder `<owner>/<id>` of a job lies, or the folder of all of an owner's."""
    return f"jobs/{place}"


def claim_of(mark: str) -> str:
    """The claim that a setting `store` or a job's mark names; empty: none.

    Example:
        >>> claim_of("claim:kube-nb-store")
        'kube-nb-store'
    """
    return mark.removeprefix("claim:") if mark.startswith("claim:") else ""
