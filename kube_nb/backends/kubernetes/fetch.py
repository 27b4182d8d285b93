"""What a job wrote, brought here: from a pod of it that still runs, else from its store."""

from __future__ import annotations

from pathlib import Path

from kube_nb.backends.base import Carried
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.exec import not_running
from kube_nb.backends.kubernetes.kept import kept
from kube_nb.backends.kubernetes.snapshot import Snapshot, over, state
from kube_nb.backends.kubernetes.store import Stores
from kube_nb.backends.kubernetes.transfer import Container, get_objects
from kube_nb.backends.kubernetes.watch import Watch, read
from kube_nb.errors import NotFound
from kube_nb.store.url import UrlStore


def fetch(
    api: Api,
    watch: Watch,
    stores: Stores,
    id: str,
    digest: str,
    destination: Path,
    progress: Carried | None = None,
) -> Path:
    """Put an object that the job wrote at `destination`, verified; what came before a break is not asked for again.

    A container without a store, which lingers until all is fetched, ends by itself after the last object.

    Raises:
        NotFound: there is no such job, it wrote no such object, or what it wrote is gone.
        Corrupted: it arrived otherwise than it was written.
        ApiError, Unreachable: the cluster refuses or does not answer; StorageFailed: a store at a URL does.
    """
    snapshot = watch.snapshot(id) if watch.live else None
    snapshot = snapshot or next(iter(read(api, [id])), None)
    if snapshot is None:
        raise NotFound(what=f"there is no job {id}", next="list your jobs with %kube_jobs")
    if destination.exists():
        return destination
    destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = kept(snapshot.job)
    folder = f"{store.folder}/out/objects"
    if _from_running(api, snapshot, folder, digest, destination, progress):
        return destination
    if store.url:
        UrlStore(store.url).get(f"{store.path}/out/objects/{digest}", digest, destination)
        return destination
    if not store.claim:
        for fresh in read(api, [id]):  # a watch may be a moment behind
            if _from_running(api, fresh, folder, digest, destination, progress):
                return destination
        raise NotFound(
            what=f"job {id} has no object {digest[:12]} any more",
            why="its pods have ended, and it had no store: " + _why(snapshot),
            next="run it again with a store, and see %kube_doctor for what this namespace lacks",
        )
    stores.use(snapshot.job, lambda pod: get_objects(pod, folder, {digest: destination}, progress))
    return destination


def _from_running(
    api: Api, snapshot: Snapshot, folder: str, digest: str, destination: Path, progress: Carried | None
) -> bool:
    """Whether one of the job's own containers had it."""
    for pod in snapshot.pods:
        if not state(pod, "running") or over(pod):
            continue
        try:
            get_objects(Container(api, pod["metadata"]["name"]), folder, {digest: destination}, progress)
            return True
        except NotFound:
            continue  # another node wrote it
        except ApiError as error:
            if not not_running(error):
                raise
    return False


def _why(snapshot: Snapshot) -> str:
    return "its container waits for a minute only" if snapshot.pods else "its pods were removed"
