"""Where what outlives a job's pods lies: the namespace's shared claim, a claim of the job's own, a URL, or nowhere.

The shared claim is proven by use: a pod of ours has mounted it and written to it. The proof stands on the claim itself,
for everybody; that there can be none is remembered in the state directory, for a while.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from kube_nb.backends.base import Bundle, Carried
from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import AlreadyExists, ApiError
from kube_nb.backends.kubernetes.kept import claim_of, kept
from kube_nb.backends.kubernetes.kinds import CLAIMS, JOBS
from kube_nb.backends.kubernetes.manifests import marks
from kube_nb.backends.kubernetes.manifests.claim import claim, shared_claim
from kube_nb.backends.kubernetes.manifests.job import indexed_job
from kube_nb.backends.kubernetes.manifests.transfer import template_digest
from kube_nb.backends.kubernetes.plan import JobPlan, Store
from kube_nb.backends.kubernetes.snapshot import Snapshot, annotation, end_of, job_id
from kube_nb.backends.kubernetes.transfer import Container, put_objects
from kube_nb.backends.kubernetes.transfer_pod import NoPod, TransferPods
from kube_nb.capture.runner_object import runner_object
from kube_nb.config import Settings
from kube_nb.errors import NotFound, Refused, Unreachable
from kube_nb.store.url import UrlStore, is_url, needs_of

RWX, RWO = "ReadWriteMany", "ReadWriteOnce"
PROOF = 90.0
"""Seconds in which the shared claim must be mounted by a pod, images and all."""
PLACE = 60.0
"""Seconds in which a pod that is as large as the job's must find a place, to fill the job's own claim before it."""
_REMEMBERED = {"volume": 86400.0, "refused": 86400.0, "late": 600.0}
"""Seconds after which it is tried again, by why there was no shared claim."""


_T = TypeVar("_T")


@dataclass(frozen=True)
class _Verdict:
    """Why there is no shared claim.

    Attributes:
        kind: `volume`: no volume for many nodes; `none`: no volume at all; `refused`: the claim may not be made;
            `late`: no answer in time; `untried`: there may be one.
    """

    kind: str
    why: str


_UNTRIED = _Verdict(
    "untried",
    "the submit makes it where it is missing and tries first whether pods of several nodes can mount it; where they "
    "cannot, the job has a claim of its own, or none",
)


def memory_of(api: Api, state: Path) -> Path:
    """Where a state directory keeps what was found out about a namespace."""
    host = f"{api.client.configuration.host}\0{api.namespace}"
    return state / "clusters" / f"{hashlib.sha256(host.encode()).hexdigest()[:16]}.json"


class Stores:
    """The stores of one user in one namespace. Any thread may use it.

    Args:
        user: as the cluster knows who asks.
    """

    def __init__(self, api: Api, settings: Settings, user: str) -> None:
        self._api = api
        self._settings = settings
        self._state = Path(settings.get("state_dir"))
        self.pods = TransferPods(api, user, lambda: runner_object(self._state))

    # Which ----------------------------------------------------------------------------------------------------------

    def foresee(self, plan: JobPlan, *, needed: bool = False) -> Store:
        """What `choose` would say, by what is known by now; nothing is made. `why` says what it would have to try."""
        return self._chosen(plan, needed, lambda found: self._known(found, plan))

    def choose(self, plan: JobPlan, *, needed: bool = False) -> Store:
        """The store of a job, by the setting `store` and by what the namespace can have.

        Args:
            plan: all but its store; says where a pod that proves the shared claim has to run.
            needed: the bundle is too large for a Secret.

        Raises:
            Refused: the setting names what there is not, or what cannot serve this job.
            ApiError, Unreachable: the cluster does not answer what it has.
        """
        return self._chosen(plan, needed, lambda found: self._shared(found, plan))

    def _chosen(self, plan: JobPlan, needed: bool, shared: Callable[[Object | None], _Verdict | None]) -> Store:
        setting: str = self._settings.get("store")
        if setting == "none":
            return Store(why="the setting `store` is `none`")
        if setting.startswith("claim:"):
            return self._named(setting.removeprefix("claim:"), plan)
        if is_url(setting):
            needs_of(setting)
            return Store(kind="url", url=setting.rstrip("/"), why="the setting `store` names it")
        found = self._api.find(CLAIMS, names.STORE_CLAIM)
        verdict = shared(found)
        if verdict is None or verdict.kind == "untried":
            why = verdict.why if verdict else "all jobs of the namespace share it"
            missing = verdict is not None and found is None
            return Store(kind="shared", claim=names.STORE_CLAIM, why=why, missing=missing, **self._how)
        return self._own(plan, verdict, needed)

    @property
    def url(self) -> str:
        """The URL that the setting `store` names; empty: none."""
        setting: str = self._settings.get("store")
        return setting.rstrip("/") if is_url(setting) else ""

    @property
    def shared_name(self) -> str:
        """The claim that jobs share by the setting `store`, whether it is there or not; empty: none."""
        setting: str = self._settings.get("store")
        return names.STORE_CLAIM if setting == "auto" else claim_of(setting)

    def _named(self, name: str, plan: JobPlan) -> Store:
        found = self._api.find(CLAIMS, name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            raise Refused(
                what=f"there is no claim `{name}` in the namespace {self._api.namespace}",
                next="kubectl get pvc lists them; the setting `store` names one, or is auto",
            )
        if RWX not in found["spec"]["accessModes"] and plan.spec.resources.nodes > 1:
            raise Refused(
                what=f"the claim `{name}` cannot serve {plan.spec.resources.nodes} nodes",
                why=f"it is {', '.join(found['spec']['accessModes'])}",
                next="name one that is ReadWriteMany, or leave --nodes at 1",
            )
        return Store(kind="shared", claim=name, why="the setting `store` names it")

    def _own(self, plan: JobPlan, verdict: _Verdict, needed: bool) -> Store:
        nodes = plan.spec.resources.nodes
        if verdict.kind in ("none", "refused"):
            return Store(why=verdict.why)
        if nodes > 1:
            if needed:
                raise Refused(
                    what=f"what {nodes} nodes need cannot be carried to them",
                    why=f"it is too large for a Secret, and there is no claim that many nodes mount: {verdict.why}",
                    next="name a URL (store=s3://bucket/dir) or a claim that is ReadWriteMany (store=claim:NAME)",
                )
            return Store(why=f"there is no claim that {nodes} nodes mount: {verdict.why}")
        return Store(kind="own", claim=plan.spec.id, why=verdict.why, **self._how)

    @property
    def _how(self) -> dict[str, Any]:
        return {"size": self._settings.get("store_size"), "storage_class": self._settings.get("storage_class")}

    # The shared claim -----------------------------------------------------------------------------------------------

    def _known(self, found: Object | None, plan: JobPlan) -> _Verdict | None:
        """What is known without a try. None: it is there, and proven."""
        if found is not None and found["metadata"].get("deletionTimestamp"):
            return _Verdict("late", f"the claim `{names.STORE_CLAIM}` is just being removed")
        if found is not None and self._is_proven(found):
            return None
        return self._remembered(plan) or _UNTRIED

    def _shared(self, found: Object | None, plan: JobPlan) -> _Verdict | None:
        """None: it is there, and proven."""
        known = self._known(found, plan)
        if known is not _UNTRIED:
            return known
        try:
            if found is None:
                found = self._api.create(CLAIMS, shared_claim(plan.labels, **self._how))
        except AlreadyExists:
            found = self._api.get(CLAIMS, names.STORE_CLAIM)
        except ApiError as error:
            return self._remember(_Verdict("refused", f"a claim may not be made: {error.message}"), plan)
        return self._prove(found, plan)

    def _is_proven(self, found: Object) -> bool:
        if annotation(found, names.PROVEN):
            return True
        return self._memory().get("proven") == found["metadata"]["uid"]

    def _prove(self, found: Object, plan: JobPlan) -> _Verdict | None:
        store = Store(kind="shared", claim=names.STORE_CLAIM)
        try:
            container = self.pods.open(
                names.STORE_CLAIM, lambda: indexed_job(replace(plan, store=store)), patience=PROOF
            )
            self._write(container)
        except NoPod as error:
            if not error.no_volume:
                return self._remember(_Verdict("late", error.why), plan)
            self._withdraw(found)
            missing = "storage class" in error.why or "storageclass" in error.why
            return self._remember(_Verdict("none" if missing else "volume", error.why), plan)
        self._say_proven(found)
        return None

    @staticmethod
    def _write(container: Container) -> None:
        with tempfile.TemporaryDirectory() as folder:
            content = b"kube-nb keeps logs, results, checkpoints and environments of jobs here\n"
            digest = hashlib.sha256(content).hexdigest()
            Path(folder, digest).write_bytes(content)
            put_objects(container, f"{names.STORE_MOUNT}/proof", {digest: Path(folder, digest)})

    def _withdraw(self, found: Object) -> None:
        """Leave no claim behind that waits for ever."""
        self.pods.close(names.STORE_CLAIM)
        if names.ROLE in (found["metadata"].get("labels") or {}):
            self._api.delete(CLAIMS, names.STORE_CLAIM, uid=found["metadata"]["uid"])

    def _say_proven(self, found: Object) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._write_memory({"proven": found["metadata"]["uid"]})
        with suppress(ApiError):  # without that right, each user proves it once
            self._api.patch(CLAIMS, names.STORE_CLAIM, {"metadata": {"annotations": {names.PROVEN: now}}})

    # What is remembered ---------------------------------------------------------------------------------------------

    def _remembered(self, plan: JobPlan) -> _Verdict | None:
        """What was found out; that a pod did not run in time holds for those alone that are made from the same."""
        memory = self._current()
        if not memory or (memory["kind"] == "late" and _template(plan) not in memory["templates"]):
            return None
        return _Verdict(str(memory["kind"]), str(memory["why"]))

    def _remember(self, verdict: _Verdict, plan: JobPlan) -> _Verdict:
        self._write_memory(
            {
                "kind": verdict.kind,
                "why": verdict.why,
                "until": time.time() + _REMEMBERED.get(verdict.kind, 600.0),
                "class": self._settings.get("storage_class"),
                "templates": [*self._current().get("templates", ()), _template(plan)],
            }
        )
        return verdict

    def _current(self) -> dict[str, Any]:
        """The memory of a verdict that still holds; empty: there is none."""
        memory = self._memory()
        same = memory.get("class") == self._settings.get("storage_class") and "templates" in memory
        return memory if same and memory.get("until", 0) > time.time() else {}

    @property
    def memory(self) -> Path:
        """The file in which it is kept what was found out about the namespace."""
        return memory_of(self._api, self._state)

    def _memory(self) -> dict[str, Any]:
        try:
            memory = json.loads(self.memory.read_bytes())
        except (OSError, ValueError):
            return {}
        return memory if isinstance(memory, dict) else {}

    def forget(self) -> None:
        """The shared claim is gone: find out anew what there can be."""
        self._write_memory({})

    def _write_memory(self, memory: dict[str, Any]) -> None:
        with suppress(OSError):  # what is not remembered is found out again
            self.memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self.memory.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(memory))
            draft.replace(self.memory)

    # Bundles --------------------------------------------------------------------------------------------------------

    def put_bundle(self, plan: JobPlan, bundle: Bundle, progress: Carried | None = None) -> bool:
        """Put what a job needs into its store, before the job is made; what is there already is not sent again.

        The job's own claim is made for it. Until `hand_over` it belongs to the transfer pod's Job, and goes with that.

        Returns:
            False: there is no place for the job now, so that its own claim cannot be filled. Nothing is left.

        Raises:
            NoPod: no pod could be had that mounts the claim.
            Corrupted, ApiError: as `put_objects`, or the cluster refuses the claim. Nothing is left of one of its own.
            Unreachable: as `put_objects`; the next call goes on.
        """
        objects = {path.name: path for path in (bundle.directory / "objects").iterdir()}
        path = f"{plan.kept.path}/bundle/objects"

        def put(container: Container) -> None:
            put_objects(container, f"{names.STORE_MOUNT}/{path}", objects, progress)

        if plan.store.url:
            UrlStore(plan.store.url).put(path, objects, progress)
            return True
        if plan.store.kind != "own":
            self.pods.use(plan.store.claim, lambda: indexed_job(plan), put)
            return True
        return self._fill_own(plan, put)

    def _fill_own(self, plan: JobPlan, put: Callable[[Container], None]) -> bool:
        job = indexed_job(plan)
        try:
            self._make_own(plan, self.pods.ensure(plan.store.claim, lambda: job, as_large=True))
            put(self.pods.open(plan.store.claim, lambda: job, as_large=True, patience=PLACE))
        except NoPod:
            self._drop_own(plan)
            return False
        except Unreachable:
            raise  # the same call goes on where this one ended; where none comes, the pod ends, and all goes with it
        except Exception:
            self._drop_own(plan)
            raise
        return True

    def _drop_own(self, plan: JobPlan) -> None:
        self.pods.close(plan.store.claim)
        claim = self._api.find(CLAIMS, plan.store.claim)
        if claim is not None and not _is_of(claim, plan):  # another call may have completed the job meanwhile
            self._api.delete(CLAIMS, plan.store.claim, uid=claim["metadata"]["uid"])

    def lost(self, plan: JobPlan) -> bool:
        """Whether the claim of a job's own may lack what it is filled with: the job is made its owner after that."""
        if plan.transport != "store" or plan.store.kind != "own":
            return False
        claim = self._api.find(CLAIMS, plan.store.claim)
        return claim is None or not _is_of(claim, plan)

    def hand_over(self, plan: JobPlan) -> None:
        """Leave the job its own claim, which the submit has made the job's: the pod that filled it ends."""
        if plan.store.kind == "own":
            with suppress(ApiError, Unreachable):  # the job is made and goes on; the pod has a limit of its own
                self.pods.close(plan.store.claim)

    def let_go(self, job: Object) -> None:
        """End what holds a job's own claim, so that it can go with the job."""
        if kept(job).own:
            self.pods.close(job_id(job))

    def remove(self, job: Object) -> None:
        """Remove what a store that outlives the job holds of it.

        Args:
            job: as the cluster keeps it, whole; it may be gone by now.

        Raises:
            NoPod, ApiError, Unreachable, StorageFailed.
        """
        store = kept(job)
        if store.url:
            UrlStore(store.url).remove(store.path)
        elif store.outlives:
            with suppress(NotFound):
                self.use(job, lambda container: container.tool("remove", store.place).output())

    def holds(self, snapshot: Snapshot) -> bool:
        """Whether the shared store may hold something of a job: its pods say so, and its bundle came that way."""
        store = kept(snapshot.job)
        if store.url or not store.outlives:
            return bool(store.url)
        ends = [end_of(pod) or {} for pod in snapshot.latest]
        if not ends:
            return annotation(snapshot.job, names.TRANSPORT) == "store"
        return any(end.get("stored", True) for end in ends)

    def use(self, job: Object, act: Callable[[Container], _T]) -> _T:
        """Do something in a pod that mounts the store of a job; once more should that pod end meanwhile.

        Args:
            job: as the cluster keeps it; what `watch.py` holds of it is enough.

        Raises:
            NotFound: the job has no store, or its claim is gone.
            NoPod, ApiError, Unreachable: no pod could be had, or `act` failed.
        """
        return self.pods.use(self._claim(job), lambda: self._whole(job), act)

    def open(self, job: Object) -> Container:
        """A pod that mounts the store of a job. Raises as `use` does."""
        return self.pods.open(self._claim(job), lambda: self._whole(job))

    def _whole(self, job: Object) -> Object:
        """A watch keeps less of a Job than a pod can be made from."""
        if "command" in job["spec"]["template"]["spec"]["containers"][0]:
            return job
        return self._api.get(JOBS, job["metadata"]["name"])

    def _claim(self, job: Object) -> str:
        name = kept(job).claim
        if not name or self._api.find(CLAIMS, name) is None:
            raise NotFound(what="the job's store is gone" if name else "the job has no store")
        return name

    def _make_own(self, plan: JobPlan, owner: Object) -> None:
        made = claim(
            plan.store.claim,
            marks.labels(plan, "store"),
            mode=RWO,
            size=plan.store.size,
            storage_class=plan.store.storage_class,
        )
        made["metadata"]["ownerReferences"] = marks.owned_by(owner)
        with suppress(AlreadyExists):
            self._api.create(CLAIMS, made)


def _is_of(claim: Object, plan: JobPlan) -> bool:
    """Whether it belongs to the job itself, and no more to the pod that fills it."""
    return any(owner["name"] == plan.spec.id for owner in claim["metadata"].get("ownerReferences") or ())


def _template(plan: JobPlan) -> str:
    return template_digest(indexed_job(plan))
