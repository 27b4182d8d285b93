"""The backend of a cluster: one namespace, seen by one user. It wires the parts; each knows one thing."""

from __future__ import annotations

import builtins
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from kube_nb.backends.base import (
    Bundle,
    Capability,
    Capacity,
    Carried,
    Chunk,
    Cursor,
    Finding,
    JobStatus,
    Rehearsal,
    Removed,
    Row,
    Subscription,
    refuse,
)
from kube_nb.backends.kubernetes import ending, examine, planning, preflight, site, stream, submit
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.capacity import capacity
from kube_nb.backends.kubernetes.cleaning import Cleaning
from kube_nb.backends.kubernetes.connect import Place, connection, user_of
from kube_nb.backends.kubernetes.fetch import fetch
from kube_nb.backends.kubernetes.image import platform_of
from kube_nb.backends.kubernetes.keeping import Keeping
from kube_nb.backends.kubernetes.kinds import JOBS
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.names import of_jobs, owner_of
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.reasons.refusals import refused
from kube_nb.backends.kubernetes.reconcile import Reconciling
from kube_nb.backends.kubernetes.snapshot import age_order
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.backends.kubernetes.store import Stores, memory_of
from kube_nb.backends.kubernetes.stream import Ended
from kube_nb.backends.kubernetes.tidying import Tidying
from kube_nb.backends.kubernetes.upload import Uploads
from kube_nb.backends.kubernetes.watch import Snapshot, Watch, read
from kube_nb.backends.leaving import Leaving
from kube_nb.config import Settings
from kube_nb.errors import NotFound, Refused
from kube_nb.spec import Digest, JobId, JobSpec, Platform, new_job_id
from kube_nb.store.url import is_url, needs_of


class KubernetesBackend:
    """Jobs in one namespace of one cluster.

    Args:
        place: which cluster and namespace; nobody is asked before the first call.
        settings: defaults of what a job does not say itself.
    """

    capabilities = frozenset({Capability.CONTAINERS, Capability.MEMORY_LIMIT, Capability.GPUS})

    def __init__(self, place: Place, settings: Settings) -> None:
        self.name = place.name
        self._place = place
        self._given = settings
        self._bundles = Path(settings.get("state_dir")) / "bundles"

    @property
    def where(self) -> str:
        """Cluster, namespace and user."""
        return f"{self._place.context or 'in-cluster'}, namespace {self._api.namespace}, user {self._user}"

    def site(self, settings: Settings) -> Settings:
        """As the protocol says: a ConfigMap of the namespace."""
        with refused(self._api.namespace):
            return site.joined(self._api, settings)

    def check(self, spec: JobSpec) -> list[Finding]:
        """As the protocol says."""
        with refused(self._api.namespace):
            return self._findings(self._plan(spec))

    def rehearse(self, spec: JobSpec, bundle: Bundle) -> Rehearsal:
        """As the protocol says: which store it would have is told by the settings and what the namespace has now."""
        with refused(self._api.namespace):
            plan = self._foreseen(self._plan(spec, bundle))
            return Rehearsal(
                findings=self._findings(plan),
                resources=replace(plan.spec.resources, memory=plan.memory),
                rows=planning.rows(plan, bundle),
                objects=tuple(submit.objects(plan)),
            )

    def platform(self, spec: JobSpec) -> Platform:
        """As the protocol says."""
        with refused(self._api.namespace):
            found = platform_of(self._api, planning.image_of(spec, self._settings))
        setting: str = self._settings.get("store")
        return replace(found, needs=needs_of(setting)) if is_url(setting) else found

    def submit(self, spec: JobSpec, bundle: Bundle, progress: Carried | None = None) -> JobId:
        """As the protocol says. Where answers were lost, what was begun is completed once the cluster answers again."""
        with refused(self._api.namespace):
            plan = self._plan(spec, bundle)
            made = None if plan.transport == "secret" else submit.begun(self._api, plan)
            if made is None and plan.memory != planning.memory_of(spec):  # `check` has looked at less
                refuse(preflight.room(self._api, plan))
            plan = self._stored(plan, made, bundle, progress)
            try:
                job = submit.create(self._api, plan, bundle)
            except submit.Unsure:
                complete = partial(self._complete, plan, bundle, progress)
                self._reconciling.start(spec.id, bundle.directory, complete)
                raise
            plan = submit.as_begun(plan, job)
            self._stores.hand_over(plan)
        self._attend(plan, job, bundle, progress)
        return spec.id

    def list(self, ids: frozenset[JobId] | None = None, *, all_users: bool = False) -> builtins.list[JobStatus]:
        """As the protocol says."""
        mine = ids is None and not all_users
        with refused(self._api.namespace):
            if self._watch.live:
                found = self._watch.snapshots()
            else:
                found = read(self._api, ids, owner_of(self._user) if mine else None)
        if ids is None:
            self._tidying.look(found)
        wanted = [snapshot for snapshot in found if ids is None or snapshot.id in ids]
        wanted.sort(key=lambda snapshot: age_order(snapshot.job), reverse=True)
        statuses = map(status_of, wanted)
        return [status for status in statuses if not mine or status.owner == self._user]

    def subscribe(self, callback: Callable[[JobStatus], None], id: JobId | None = None) -> Subscription:
        """As the protocol says."""
        told: dict[str, JobStatus] = {}

        def changed(snapshot: Snapshot) -> None:
            if id is not None and snapshot.id != id:
                return
            status = self._status_of(snapshot)
            if told.get(status.id) != status:  # much of what a cluster tells changes nothing for a person
                told[status.id] = status
                callback(status)

        with refused(self._api.namespace):
            return self._watch.subscribe(changed)

    def stream(
        self,
        id: JobId,
        node: int = 0,
        cursor: Cursor = Cursor(),
        *,
        follow: bool = True,
        leaving: Leaving | None = None,
    ) -> Iterator[Chunk]:
        """As the protocol says."""
        return self._stream(id, node, cursor, follow, self._keeping.heard, leaving)

    def fetch(self, id: JobId, digest: Digest, destination: Path, progress: Carried | None = None) -> Path:
        """As the protocol says."""
        if self._keeping.fetch(id, digest, destination):
            return destination
        try:
            with refused(self._api.namespace):
                fetch(self._api, self._watch, self._stores, id, digest, destination, progress)
        except NotFound:
            if not self._keeping.fetch(id, digest, destination):  # it was brought meanwhile, and its container went
                raise
        self._keeping.add(id, digest, destination)
        return destination

    def bundle(self, id: JobId) -> Path:
        """As the protocol says: the submitter's state directory keeps it."""
        path = self._bundles / id
        if not path.is_dir():
            raise NotFound(what=f"the bundle of job {id} is not on this machine", next="send its cell again")
        return path

    def cancel(self, id: JobId, *, force_lost: bool = False) -> None:
        """As the protocol says."""
        with refused(self._api.namespace):
            ending.cancel(self._api, self._snapshot(id), force_lost=force_lost)

    def delete(self, id: JobId) -> None:
        """As the protocol says."""
        with refused(self._api.namespace):
            snapshot = self._snapshot(id)
            job = self._api.find(JOBS, snapshot.job["metadata"]["name"])
            if job is None:  # somebody else was quicker
                raise self._no_job(id)
            self._stores.let_go(job)
            ending.delete(self._api, self._watch, snapshot)
            if self._stores.holds(snapshot):
                self._stores.remove(job)
        self._keeping.remove(id)
        shutil.rmtree(self._bundles / id, ignore_errors=True)

    def clean(self, *, max_age: float, dry_run: bool = False) -> builtins.list[Removed]:
        """As the protocol says: folders in the shared claim, installed packages, TrainJobs, bundles kept here."""
        with refused(self._api.namespace):
            return self._cleaning.clean(max_age=max_age, dry_run=dry_run)

    def clean_store(self, *, dry_run: bool = False) -> builtins.list[Removed]:
        """As the protocol says: the claim `kube-nb-store`."""
        with refused(self._api.namespace):
            return self._cleaning.clean_store(dry_run=dry_run)

    def capacity(self) -> Capacity:
        """As the protocol says."""
        with refused(self._api.namespace):
            return capacity(self._api, self._user)

    def grant(self) -> str:
        """As the protocol says: a Role."""
        with refused(self._api.namespace):
            return examine.grant(self._api, self._user)

    def examine(self) -> builtins.list[Row]:
        """As the protocol says."""
        with refused(self._api.namespace):
            return examine.rows(self._api, self._user)

    # Inside ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _api(self) -> Api:
        return connection(self._place)

    @cached_property
    def _user(self) -> str:
        with refused(self._api.namespace):
            return user_of(self._api)

    @cached_property
    def _settings(self) -> Settings:
        return self.site(self._given)

    @cached_property
    def _watch(self) -> Watch:
        return self._api.remember("watch", lambda: Watch(self._api, of_jobs()))

    @cached_property
    def _status_of(self) -> Callable[[Snapshot], JobStatus]:
        return self._api.remember("status", lambda: _once_for_all(status_of))

    @cached_property
    def _tidying(self) -> Tidying:
        memory = memory_of(self._api, self._bundles.parent).with_suffix(".tidied")
        return Tidying(self._api, self._watch, owner_of(self._user), memory)

    @cached_property
    def _cleaning(self) -> Cleaning:
        settings = self._settings
        nothing = JobSpec(id=new_job_id("clean"), name="clean")
        return Cleaning(
            self._api,
            self._watch,
            self._stores,
            self._user,
            state=Path(settings.get("state_dir")),
            retention=(settings.get("retention_bytes"), settings.get("retention_days") * 86400),
            manifest=lambda: indexed_job(self._plan(nothing)),
        )

    @cached_property
    def _uploads(self) -> Uploads:
        return Uploads(self._api, self._watch)

    @cached_property
    def _reconciling(self) -> Reconciling:
        return self._api.remember("reconciling", Reconciling)

    @cached_property
    def _keeping(self) -> Keeping:
        return Keeping(self._api, self._bundles.parent)

    @cached_property
    def _stores(self) -> Stores:
        return Stores(self._api, self._settings, self._user)

    def _stream(
        self, id: str, node: int, cursor: Cursor, follow: bool, ended: Ended, leaving: Leaving | None = None
    ) -> Iterator[Chunk]:
        with refused(self._api.namespace):
            yield from stream.stream(self._api, self._watch, self._stores, id, node, cursor, follow, ended, leaving)

    def _complete(self, plan: JobPlan, bundle: Bundle, progress: Carried | None) -> bool:
        """Complete a job whose submit was not answered; False: there is no such job.

        Raises:
            KubeNbError: something is missing still.
        """
        made = submit.begun(self._api, plan)
        if made is None:
            return False
        plan = submit.as_begun(plan, made)
        self._attend(plan, submit.job_of(self._api, plan, made), bundle, progress)
        self._refill(plan, made, bundle, progress)
        submit.complete(self._api, plan, bundle, made)
        self._stores.hand_over(plan)
        return True

    def _attend(self, plan: JobPlan, job: Object, bundle: Bundle, progress: Carried | None) -> None:
        """Begin what this process does for a job that is there, until that has ended. Once more does no harm."""
        id = plan.spec.id
        self._watch.remember(job)
        self._tidying.add(id)
        self._cleaning.after(id, plan.store)
        if plan.transport == "upload":
            self._uploads.start(plan, bundle, progress)
        if plan.store.kind == "none":
            nodes = range(plan.spec.resources.nodes)
            along = (partial(self._stream, id, node, Cursor(), True, self._keeping.bring) for node in nodes)
            self._keeping.start(id, along)

    def _snapshot(self, id: str) -> Snapshot:
        for snapshot in read(self._api, [id]):
            return snapshot
        raise self._no_job(id)

    def _no_job(self, id: str) -> NotFound:
        return NotFound(what=f"there is no job {id} on {self.name}", next="list your jobs with %kube_jobs")

    def _plan(self, spec: JobSpec, bundle: Bundle | None = None) -> JobPlan:
        """What a submit would do; a store is not chosen yet."""
        return planning.plan_of(spec, self._settings, namespace=self._api.namespace, user=self._user, bundle=bundle)

    def _foreseen(self, plan: JobPlan) -> JobPlan:
        """The plan with the store that it would have."""
        large = plan.transport != "secret"
        plan = replace(plan, store=self._stores.foresee(plan, needed=large))
        return replace(plan, transport="store") if large and plan.store.outside else plan

    def _findings(self, plan: JobPlan) -> builtins.list[Finding]:
        findings = preflight.check(self._api, plan)
        if any(finding.level == "error" for finding in findings):
            return findings
        told = {finding.reason.code for finding in findings}
        admission = submit.dry_run(self._api, plan)
        return [*findings, *(one for one in admission if one.level != "warning" or one.reason.code not in told)]

    def _stored(self, plan: JobPlan, made: Object | None, bundle: Bundle, progress: Carried | None) -> JobPlan:
        """The plan with its store, which holds what is too large for the Secret.

        Args:
            made: what an earlier call has made, where the store matters for what is sent.

        Raises:
            Refused: it was begun before, and what it needs was lost since.
        """
        if plan.transport == "secret":
            return replace(plan, store=self._stores.choose(plan))
        if made is not None:
            plan = submit.as_begun(plan, made)
            self._refill(plan, made, bundle, progress)
            return plan
        plan = replace(plan, store=self._stores.choose(plan, needed=True))
        if plan.store.outside and self._stores.put_bundle(replace(plan, transport="store"), bundle, progress):
            return replace(plan, transport="store")
        if plan.store.outside:
            no_place = "no node has a place for the job just now, and until it has one its own claim cannot be filled"
            return replace(plan, store=replace(plan.store, why=no_place))
        return plan

    def _refill(self, plan: JobPlan, made: Object, bundle: Bundle, progress: Carried | None) -> None:
        """Put what a job that was begun before needs into its claim, where nothing proves that all of it is there.

        Raises:
            Refused: there is no place for that.
        """
        if submit.is_over(made) or not self._stores.lost(plan):
            return
        if not self._stores.put_bundle(plan, bundle, progress):
            raise Refused(
                what=f"job {plan.spec.id} cannot be completed",
                why="its claim is gone with what it needs, and there is no place to fill another one",
                next=f"remove it with %kube_delete {plan.spec.id}, and send it again",
            )


def _once_for_all(find: Callable[[Snapshot], JobStatus]) -> Callable[[Snapshot], JobStatus]:
    """What `find` says of a snapshot, worked out once for all who are told of it one after the other."""
    last: tuple[Snapshot, JobStatus] | None = None

    def found(snapshot: Snapshot) -> JobStatus:
        nonlocal last
        known = last
        if known is None or known[0] is not snapshot:
            known = last = (snapshot, find(snapshot))
        return known[1]

    return found
