"""One job as the cluster shows it: its Job, its pods, and what the cluster warns of. Values, and what can be read off
them; nobody is asked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.errors import KubeNbError
from kube_nb.runner.ending import parse_end

INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES = "batch.kubernetes.io/job-index-failure-count"
DISRUPTIONS = "batch.kubernetes.io/job-index-ignored-failure-count"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_OF_INDEXED_JOB = re.compile(r"(.+)-\d+-[a-z0-9]{5}")
"""How the Job controller names a pod: job, index, five random signs."""
_OF_KUEUE = re.compile(r"(?:train)?job-(.+)-[a-z0-9]{5}")


@dataclass(frozen=True)
class Snapshot:
    """One job at one moment. The objects are without what nobody needs (`slim`).

    Attributes:
        job: the Job.
        pods: all that there are, of all nodes and attempts, the oldest first.
        events: warnings about the Job, its pods, their claims and its place in a queue, the oldest first.
        workloads: what Kueue knows of it.
        deleted: the Job is gone; this is how it was last seen.
        outage: why nothing newer is known; this is how it was last seen.
    """

    job: Object
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    workloads: tuple[Object, ...] = ()
    deleted: bool = False
    outage: KubeNbError | None = None

    @cached_property
    def id(self) -> str:
        return job_id(self.job)

    @property
    def nodes(self) -> int:
        return self.job["spec"].get("completions") or 1

    def pod(self, node: int = 0) -> Object | None:
        """The pod of a node's latest attempt; None: there is none (yet)."""
        found = [pod for pod in self.pods if node_of(pod) == node]
        return max(found, key=lambda pod: (attempt_of(pod), created(pod)), default=None)

    @cached_property
    def latest(self) -> tuple[Object, ...]:
        """The pod of each node's latest attempt, where there is one."""
        return tuple(pod for pod in map(self.pod, range(self.nodes)) if pod is not None)

    def condition(self, kind: str) -> Object | None:
        """A condition of the Job that is true."""
        return condition(self.job, kind)

    @property
    def ended(self) -> bool:
        """The cluster itself says that the Job is over."""
        return any(map(self.condition, ("Complete", "Failed")))

    @property
    def given_up(self) -> bool:
        """It was cancelled in its queue: it ends, without a pod, as soon as that lets it begin."""
        spec = self.job["spec"]
        asked = annotation(self.job, names.CANCELLED) and spec.get("parallelism") == 0
        return bool(asked and spec.get("suspend") and not self.pods)

    @property
    def over(self) -> bool:
        """No pod of it will ever begin any more."""
        return self.ended or self.given_up


# Jobs ---------------------------------------------------------------------------------------------------------------


def job_id(job: Object) -> str:
    meta = job["metadata"]
    return (meta.get("labels") or {}).get(names.JOB) or meta["name"]


def annotation(thing: Object, name: str, default: str = "") -> str:
    return (thing["metadata"].get("annotations") or {}).get(name, default)


def condition(thing: Object, kind: str, status: str = "True") -> Object | None:
    """A condition with that status; None: there is none."""
    for found in (thing.get("status") or {}).get("conditions") or []:
        if found.get("type") == kind and found.get("status") == status:
            return found
    return None


def seconds_of(stamp: str | None) -> float | None:
    """A Kubernetes time as seconds since the epoch."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else None


def queue_of(job: Object) -> str:
    """The queue of Kueue's that a Job waits in, or what Kubeflow Trainer made it of; empty: none."""
    return (job["metadata"].get("labels") or {}).get(QUEUE_LABEL) or annotation(job, names.QUEUE)


def age_order(job: Object) -> tuple[float, float]:
    """What jobs are put in order by: when the cluster made them; within a second, when they were submitted.

    Example:
        >>> age_order({"metadata": {"creationTimestamp": "1970-01-01T00:00:07Z"}})
        (7.0, 0.0)
    """
    try:
        return created(job), float(annotation(job, names.SUBMITTED, "0"))
    except ValueError:  # others may write annotations, too
        return created(job), 0.0


def created(thing: Object) -> float:
    return seconds_of(thing["metadata"].get("creationTimestamp")) or 0.0


# Pods ---------------------------------------------------------------------------------------------------------------


def node_of(pod: Object) -> int:
    """Which node of the job the pod is."""
    return _number(annotation(pod, INDEX))


def attempt_of(pod: Object) -> int:
    """Which attempt of its node: failures that count and disruptions that do not, before it."""
    return failures_of(pod) + _number(annotation(pod, DISRUPTIONS))


def failures_of(pod: Object) -> int:
    return _number(annotation(pod, FAILURES))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def container(pod: Object, name: str = names.CONTAINER) -> Object | None:
    """The status of a container; None: the kubelet has not told yet."""
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        if status.get("name") == name:
            return status
    return None


def state(pod: Object, kind: str, name: str = names.CONTAINER) -> Object | None:
    """The `waiting`, `running` or `terminated` state of a container, where it is in that state."""
    return ((container(pod, name) or {}).get("state") or {}).get(kind)


def end_of(pod: Object) -> Mapping[str, Any] | None:
    """The runner's last word; None: it has not ended, or left none."""
    terminated = state(pod, "terminated")
    return parse_end(terminated["message"]) if terminated and terminated.get("message") else None


def over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def claims_of(pod: Object) -> list[str]:
    """The claims that a pod mounts."""
    volumes = pod["spec"].get("volumes") or []
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]


# Events -------------------------------------------------------------------------------------------------------------


def about(event: Object) -> tuple[str, str]:
    """Kind and name of what an event is about."""
    involved = event.get("involvedObject") or {}
    return involved.get("kind", ""), involved.get("name", "")


def last_seen(event: Object) -> float:
    """When it happened last."""
    series = event.get("series") or {}
    stamps = (event.get("lastTimestamp"), series.get("lastObservedTime"), event.get("eventTime"))
    return max((seconds_of(stamp) or 0.0 for stamp in stamps), default=0.0) or created(event)


def job_of_pod_name(name: str) -> str:
    """The Job that would have a pod of this name; empty: none."""
    match = _OF_INDEXED_JOB.fullmatch(name)
    return match[1] if match else ""


def job_of_workload_name(name: str) -> str:
    """The Job that would have a Kueue Workload of this name; empty: none."""
    match = _OF_KUEUE.fullmatch(name)
    return match[1] if match else ""


# Smaller ------------------------------------------------------------------------------------------------------------

_CONTAINER_KEYS = ("name", "image", "resources")
_POD_KEYS = (
    *("nodeName", "nodeSelector", "serviceAccountName", "schedulerName", "priorityClassName", "runtimeClassName"),
    *("restartPolicy", "schedulingGates", "tolerations", "activeDeadlineSeconds", "terminationGracePeriodSeconds"),
)
_EVENT_KEYS = ("involvedObject", "reason", "message", "type", "lastTimestamp", "eventTime", "series", "count")
_META_KEYS = (
    *("name", "namespace", "uid", "resourceVersion", "labels", "annotations", "creationTimestamp"),
    *("deletionTimestamp", "ownerReferences"),
)


def slim(thing: Object) -> Object:
    """An object without what nobody here reads: a thousand jobs are held in memory at once."""
    kept = {key: value for key, value in thing.items() if key != "metadata"}
    kept["metadata"] = _only(thing["metadata"], _META_KEYS)
    if "involvedObject" in thing:
        return _only(thing, _EVENT_KEYS) | {"metadata": kept["metadata"]}
    spec = thing.get("spec") or {}
    if "template" in spec:
        template = spec["template"]
        kept["spec"] = spec | {"template": {"spec": _slim_pod_spec(template.get("spec") or {})}}
    elif "containers" in spec:
        kept["spec"] = _slim_pod_spec(spec)
    return kept


def _slim_pod_spec(spec: Object) -> Object:
    kept = _only(spec, _POD_KEYS)
    for key in ("containers", "initContainers"):
        if spec.get(key):
            kept[key] = [_only(one, (*_CONTAINER_KEYS, "restartPolicy")) for one in spec[key]]
    volumes = [volume for volume in spec.get("volumes") or [] if "persistentVolumeClaim" in volume]
    return kept | {"volumes": volumes} if volumes else kept


def _only(thing: Mapping[str, Any], keys: Iterable[str]) -> Object:
    return {key: thing[key] for key in keys if key in thing}
