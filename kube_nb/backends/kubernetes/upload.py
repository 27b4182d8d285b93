"""A bundle that fits neither a Secret nor a store goes straight to the pods that wait for it, from this process.

So the process must live until the pods have it; a pod that is started again later needs it again. Which pods have it is
written on the Job, for whoever looks at it.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from kube_nb.backends.base import Bundle, Carried
from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import ApiError, Forbidden
from kube_nb.backends.kubernetes.kinds import JOBS
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.reasons.refusals import in_doubt
from kube_nb.backends.kubernetes.snapshot import Snapshot, over, state
from kube_nb.backends.kubernetes.transfer import Container, put_objects
from kube_nb.backends.kubernetes.watch import Watch
from kube_nb.errors import KubeNbError, Unreachable
from kube_nb.store.bundles import sending

_PAUSE = 1.0
"""Seconds until a pod is tried again that could not be spoken to."""
_log = logging.getLogger(__name__)


class Uploads:
    """The uploads of this process, one thread for each job. Any thread may use it."""

    def __init__(self, api: Api, watch: Watch) -> None:
        self._api = api
        self._watch = watch
        self._lock = threading.Lock()
        self._running: dict[str, threading.Event] = {}

    def start(self, plan: JobPlan, bundle: Bundle, progress: Carried | None = None) -> None:
        """Send the bundle to each pod of the job as soon as it runs, until the job has ended. Returns at once."""
        id = plan.spec.id
        with self._lock:
            if id in self._running:
                return
            sent = self._running[id] = threading.Event()
        upload = _Upload(self._api, self._watch, plan, bundle.directory, progress, sent)
        threading.Thread(target=self._run, args=(upload,), name=f"kube-nb-upload-{id}", daemon=True).start()

    def wait(self, id: str, timeout: float | None = None) -> bool:
        """Wait until all pods of a job have its bundle, or it has ended; False: it takes longer than `timeout`."""
        with self._lock:
            sent = self._running.get(id)
        return sent is None or sent.wait(timeout)

    def _run(self, upload: _Upload) -> None:
        try:
            upload.run()
        except KubeNbError as error:
            # The pods say that nothing comes, and end by themselves.
            _log.warning("the upload for job %s ended: %s", upload.id, error)
        finally:
            upload.sent.set()
            with self._lock:
                self._running.pop(upload.id, None)


class _Upload:
    def __init__(
        self,
        api: Api,
        watch: Watch,
        plan: JobPlan,
        bundle: Path,
        progress: Carried | None,
        sent: threading.Event,
    ) -> None:
        self._api = api
        self._watch = watch
        self.id = plan.spec.id
        self._job = plan.job_name
        self._nodes = plan.spec.resources.nodes
        self._bundle = bundle
        self._objects = {path.name: path for path in (bundle / "objects").iterdir()}
        self._progress = progress
        self.sent = sent
        self._served: set[str] = set()

    def run(self) -> None:
        with sending(self._bundle):
            self._serve()

    def _serve(self) -> None:
        while True:
            try:
                pod = self._watch.wait(self.id, self._next)
                if not pod:
                    return
                name = pod["metadata"]["name"]
                put_objects(Container(self._api, name), f"{names.RUN}/bundle/objects", self._objects, self._progress)
            except Forbidden:
                raise
            except (ApiError, Unreachable) as error:
                _log.info("the bundle of job %s cannot be sent just now: %s", self.id, error)
                threading.Event().wait(_PAUSE)
                continue
            self._served.add(name)
            if len(self._served) >= self._nodes:
                self.sent.set()
            self._say_who_has_it()

    def _say_who_has_it(self) -> None:
        said: Object = {"metadata": {"annotations": {names.UPLOADED: ",".join(sorted(self._served))}}}
        while True:
            try:
                self._api.patch(JOBS, self._job, said)
                return
            except (ApiError, Unreachable) as error:
                _log.info("it was not written down which pods of %s have its bundle: %s", self.id, error)
                if isinstance(error, ApiError) and not in_doubt(error):
                    return  # the job is gone, or it may not be written: it runs all the same
            threading.Event().wait(_PAUSE)

    def _next(self, snapshot: Snapshot | None) -> Object | None:
        """A pod that runs and has nothing yet; empty: the job is over; None: wait."""
        if snapshot is None or snapshot.ended or snapshot.deleted:
            return {}
        for pod in snapshot.pods:
            if state(pod, "running") and not over(pod) and pod["metadata"]["name"] not in self._served:
                return pod
        return None
