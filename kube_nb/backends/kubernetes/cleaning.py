"""What is left of a user's jobs goes in time: folders in the store, installed packages, TrainJobs, bundles kept here,
and what a submit that was cut off left outside any Job.

What a live job holds stays: its folder, and every environment that was used since the oldest live job was made. Folders
of other users are theirs.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kube_nb.backends.base import Removed
from kube_nb.backends.kubernetes import ending, names
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import Forbidden, Missing
from kube_nb.backends.kubernetes.exec import ExecFailed
from kube_nb.backends.kubernetes.kept import kept, path_of
from kube_nb.backends.kubernetes.kinds import CLAIMS
from kube_nb.backends.kubernetes.manifests.trainjob import RUNTIMES, TRAIN_JOBS
from kube_nb.backends.kubernetes.names import owner_of
from kube_nb.backends.kubernetes.plan import Store
from kube_nb.backends.kubernetes.quantity import number
from kube_nb.backends.kubernetes.snapshot import Snapshot, condition, created, over, seconds_of, state
from kube_nb.backends.kubernetes.status import status_of
from kube_nb.backends.kubernetes.store import Stores
from kube_nb.backends.kubernetes.transfer import Container
from kube_nb.backends.kubernetes.watch import Watch, read
from kube_nb.errors import KubeNbError, Refused
from kube_nb.store import bundles
from kube_nb.store.directory import Entry, surplus
from kube_nb.store.url import UrlStore

EVERY = 3600.0
"""Seconds between two looks at a store that a client takes by itself."""
FULL = 0.8
"""Of a claim's size: what one user's jobs and the environments may take, where the retention allows more."""
_FRESH = 3600.0
"""Seconds in which what has no Job, or no pod, may be waiting for it: a submit may be under way."""
_AT_ONCE = 50
"""Names that one command takes."""
Usage = Mapping[str, Mapping[str, Mapping[str, float]]]
"""`jobs` and `environments`, each by name: `bytes`, and when something `changed` last."""
_log = logging.getLogger(__name__)


class Cleaning:
    """The clean-up of one user in one namespace.

    Args:
        retention: bytes and seconds that the settings keep things for.
        manifest: a Job as this user's jobs are made, for the pod that mounts the store.
    """

    def __init__(
        self,
        api: Api,
        watch: Watch,
        stores: Stores,
        user: str,
        *,
        state: Path,
        retention: tuple[float, float],
        manifest: Callable[[], Object],
    ) -> None:
        self._api = api
        self._watch = watch
        self._stores = stores
        self._user = user
        self._state = state
        self._bytes, self._age = retention
        self._manifest = manifest
        self._looks: set[tuple[int, Path]] = set()
        """(process, stamp) of those under way: a fork has the same memory, and not the threads."""

    def clean(self, *, max_age: float, dry_run: bool = False) -> list[Removed]:
        """As the protocol says; makes a pod that mounts the shared claim, where there is one."""
        removed = self._train_jobs(max_age, dry_run) + self._transfers(dry_run) + self._bundles(max_age, dry_run)
        claim = self._api.find(CLAIMS, self._stores.shared_name) if self._stores.shared_name else None
        if claim is not None and not claim["metadata"].get("deletionTimestamp"):
            removed += self._stores.pods.use(
                claim["metadata"]["name"], self._manifest, lambda pod: self._sweep_claim(pod, claim, max_age, dry_run)
            )
        if self._stores.url:
            removed += self._sweep_url(self._stores.url, max_age, dry_run)
        return removed

    def after(self, id: str, store: Store) -> None:
        """Clean up in the background where an hour has gone by: a shared claim through the pod of the job `id`, which
        was just submitted."""
        stamp = stamp_of(self._stores.memory, here_only=store.kind not in ("shared", "url"))
        if (os.getpid(), stamp) in self._looks or (stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < EVERY):
            return
        self._looks.add((os.getpid(), stamp))
        threading.Thread(target=self._later, args=(id, store, stamp), name=f"clean-{id}", daemon=True).start()

    def _later(self, id: str, store: Store, stamp: Path) -> None:
        try:
            if store.kind == "url":
                self._sweep_url(store.url, self._age, dry_run=False)
            elif store.kind == "shared":
                pod = self._watch.wait(id, _running)
                claim = self._api.find(CLAIMS, store.claim)
                if not pod or claim is None:
                    return  # it was over before anybody could look: the next job is as good
                self._sweep_claim(Container(self._api, pod["metadata"]["name"]), claim, self._age, dry_run=False)
            self._train_jobs(self._age, dry_run=False)
            self._transfers(dry_run=False)
            self._bundles(self._age, dry_run=False)
            stamp.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            stamp.touch(0o600)
        except (KubeNbError, OSError) as error:
            _log.info("the store was not cleaned up: %s", error)  # the next job tries again
        finally:
            self._looks.discard((os.getpid(), stamp))

    # The store --------------------------------------------------------------------------------------------------------

    def _sweep_claim(self, pod: Container, claim: Object, max_age: float, dry_run: bool) -> list[Removed]:
        usage = _answer(pod, "usage", owner_of(self._user))
        capacity = number(((claim.get("status") or {}).get("capacity") or {}).get("storage", ""))
        size = min(self._bytes, FULL * capacity) if capacity > 0 else self._bytes

        def remove(places: list[str], environments: list[str]) -> set[str]:
            _tell(pod, "remove", places)
            return _tell(pod, "forget", environments)

        return self._sweep(usage, size, max_age, None if dry_run else remove)

    def _sweep_url(self, url: str, max_age: float, dry_run: bool) -> list[Removed]:
        store = UrlStore(url)

        def remove(places: list[str], _: list[str]) -> set[str]:
            for place in places:
                store.remove(path_of(place))
            return set()

        usage = {"jobs": store.usage(path_of(owner_of(self._user))), "environments": {}}
        return self._sweep(usage, self._bytes, max_age, None if dry_run else remove)

    def _sweep(
        self, usage: Usage, size: float, max_age: float, remove: Callable[[list[str], list[str]], set[str]] | None
    ) -> list[Removed]:
        """Decide, and remove: first the Jobs of what goes, then their folders.

        Args:
            usage: what lies there. It was asked for before the jobs are: a folder that is older than that, and has
                none then, has none any more.
            remove: removes folders of jobs and environments, and says what was busy.
        """
        jobs = {job.id: job for job in read(self._api)}
        found = entries(usage, list(jobs.values()), self._without_jobs(), time.time())
        going = surplus(found, max_bytes=size, max_age=max_age, now=time.time())
        if remove is not None:
            places = [entry.path.name for entry in going if entry.kind == "job"]
            for name in places:
                if name in jobs:
                    ending.delete(self._api, self._watch, jobs[name])
            environments = [entry.path.name for entry in going if entry.kind == "environment"]
            busy = remove([f"{owner_of(self._user)}/{name}" for name in places], environments)
            going = [entry for entry in going if entry.path.name not in busy]
        return [Removed(kind=entry.kind, name=entry.path.name, size=entry.size) for entry in going]

    def _without_jobs(self) -> set[str]:
        """TrainJobs that run or wait, whose Job may not have been made yet."""
        return {job["metadata"]["name"] for job in self._own_train_jobs() if _ended(job) is None}

    # TrainJobs --------------------------------------------------------------------------------------------------------

    def _train_jobs(self, max_age: float, dry_run: bool) -> list[Removed]:
        """Trainer removes the Job of one that has ended after its TTL, and never the TrainJob itself."""
        limit = time.time() - max_age
        gone = [job for job in self._own_train_jobs() if (ended := _ended(job)) is not None and ended < limit]
        for job in gone:
            name = job["metadata"]["name"]
            if not dry_run:
                self._api.delete(TRAIN_JOBS, name, propagation="Background", uid=job["metadata"]["uid"])
                self._api.delete(RUNTIMES, name)
        return [Removed(kind="job", name=job["metadata"]["name"]) for job in [*gone, *self._runtimes(dry_run)]]

    def _runtimes(self, dry_run: bool) -> list[Object]:
        """Those whose TrainJob was never made, as the submit was cut off between the two: nothing owns them."""
        limit = time.time() - _FRESH
        old = [one for one in self._own_runtimes() if created(one) < limit and not _goes_by_itself(one)]
        gone = [one for one in old if self._api.find(TRAIN_JOBS, one["metadata"]["name"]) is None]
        if not dry_run:
            for one in gone:
                self._api.delete(RUNTIMES, one["metadata"]["name"], uid=one["metadata"]["uid"])
        return gone

    def _own_train_jobs(self) -> list[Object]:
        return _listed(lambda: self._api.list(TRAIN_JOBS, labels=names.selector(owner=owner_of(self._user)))[0])

    def _own_runtimes(self) -> list[Object]:
        return _listed(lambda: self._api.list(RUNTIMES, labels=names.selector(owner=owner_of(self._user)))[0])

    # Transfer pods ----------------------------------------------------------------------------------------------------

    def _transfers(self, dry_run: bool) -> list[Removed]:
        """Jobs whose pod nobody waits for any more: the cluster ends most of them by itself, but none in a queue."""
        gone = self._stores.pods.unused(_FRESH)
        if not dry_run:
            for job in gone:
                self._stores.pods.end(job)
        return [Removed(kind="transfer", name=job["metadata"]["name"]) for job in gone]

    # Here -------------------------------------------------------------------------------------------------------------

    def _bundles(self, max_age: float, dry_run: bool) -> list[Removed]:
        now = time.time()
        gone = surplus(bundles.kept(self._state, now), max_bytes=self._bytes, max_age=max_age, now=now)
        if not dry_run:
            for entry in gone:
                shutil.rmtree(entry.path, ignore_errors=True)
        return [Removed(kind=entry.kind, name=entry.path.name, size=entry.size) for entry in gone]

    # The shared claim -------------------------------------------------------------------------------------------------

    def clean_store(self, *, dry_run: bool = False) -> list[Removed]:
        """Remove the claim that all jobs of the namespace share.

        Raises:
            Refused: live jobs need it, it is a claim that somebody else made, or something still mounts it.
            ApiError, Unreachable.
        """
        if self._stores.url:
            raise Refused(
                what=f"the store {self._stores.url} is not removed",
                why="what else lies at a URL, and whose it is, is not known here",
                next="kube-nb clean removes your own old jobs there; the rest with the tools of whoever keeps it",
            )
        name = self._stores.shared_name
        if name and name != names.STORE_CLAIM:
            raise Refused(
                what=f"the claim `{name}` is not removed",
                why="it was not made by kube-nb: the setting `store` names it",
                next=f"kubectl delete pvc {name}, if nothing else needs it",
            )
        claim = self._api.find(CLAIMS, names.STORE_CLAIM)
        if claim is None:
            return []
        holders = [job for job in read(self._api) if _mounts(job, names.STORE_CLAIM) and not status_of(job).phase.final]
        if holders:
            some = ", ".join(job.id for job in holders[:5])
            raise Refused(
                what=f"the claim `{names.STORE_CLAIM}` is not removed",
                why=f"{len(holders)} jobs that have not ended hold it: {some}",
                next="wait for them, or end your own with %kube_cancel; those of others are in %kube_jobs --all-users",
            )
        if not dry_run:
            self._stores.pods.close(names.STORE_CLAIM)
            self._api.delete(CLAIMS, names.STORE_CLAIM, uid=claim["metadata"]["uid"])
            ending.wait_until_gone(self._api, CLAIMS, names.STORE_CLAIM)
            self._stores.forget()
        size = number(claim["spec"]["resources"]["requests"]["storage"])
        return [Removed(kind="store", name=names.STORE_CLAIM, size=int(size))]


def stamp_of(memory: Path, *, here_only: bool) -> Path:
    """The file that says when it was cleaned up last: the store too, or what this machine keeps alone.

    Args:
        memory: what is known of the namespace, see `store.memory_of`.
    """
    return memory.with_suffix(".swept-here" if here_only else ".swept")


def entries(usage: Usage, jobs: Sequence[Snapshot], live: set[str], now: float) -> Iterator[Entry]:
    """What lies in a store, by what its tool told of one owner and what Jobs there are, of all owners.

    Args:
        live: further jobs that have not ended.
    """
    statuses = {job.id: status_of(job, now) for job in jobs}
    oldest = min((one.created for one in statuses.values() if not one.phase.final), default=now)
    for id, told in usage["jobs"].items():
        status = statuses.get(id)
        if status is None:
            busy, ended = id in live or now - told["changed"] < _FRESH, 0.0
        else:
            busy, ended = not status.phase.final, status.ended or 0.0
        yield Entry(path=Path(id), kind="job", used=max(told["changed"], ended), size=int(told["bytes"]), busy=busy)
    for key, told in usage["environments"].items():
        if not key.startswith("."):
            busy = told["changed"] >= oldest or now - told["changed"] < _FRESH
            yield Entry(path=Path(key), kind="environment", used=told["changed"], size=int(told["bytes"]), busy=busy)


def _tell(pod: Container, verb: str, words: Sequence[str]) -> set[str]:
    """Give a verb of the tool its words, some at a time; what was busy."""
    busy: set[str] = set()
    for at in range(0, len(words), _AT_ONCE):
        busy.update(_answer(pod, verb, *words[at : at + _AT_ONCE]).get("busy") or ())
    return busy


def _answer(pod: Container, verb: str, *words: str) -> dict[str, Any]:
    """What a verb of the tool answers; on a node that just stops it may end without a word, as if all were well.

    Raises:
        ExecFailed: it was cut off.
    """
    text = pod.tool(verb, *words).output()
    try:
        return json.loads(text)
    except ValueError as error:
        raise ExecFailed(what="a pod was cut off while it looked after the store", next="try again") from error


def _listed(ask: Callable[[], list[Object]]) -> list[Object]:
    """Objects of an add-on's: who may not read them, or where there is no such add-on, has none."""
    try:
        return ask()
    except (Forbidden, Missing):
        return []


def _goes_by_itself(thing: Object) -> bool:
    """It goes with its owner, or is going already."""
    return bool(thing["metadata"].get("ownerReferences") or thing["metadata"].get("deletionTimestamp"))


def _running(job: Snapshot | None) -> Object | None:
    """A pod that runs; empty: the job is over."""
    if job is None or job.ended or job.deleted:
        return {}
    return next((pod for pod in job.pods if state(pod, "running") and not over(pod)), None)


def _mounts(job: Snapshot, claim: str) -> bool:
    return kept(job.job).claim == claim


def _ended(train_job: Object) -> float | None:
    """When a TrainJob ended; None: it has not."""
    for kind in ("Complete", "Failed"):
        found = condition(train_job, kind)
        if found is not None:
            return seconds_of(found.get("lastTransitionTime")) or created(train_job)
    return None
