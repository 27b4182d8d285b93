"""The pod of one node of a job, and what every pod of ours has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kube_nb.backends.kubernetes import names
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.manifests import marks
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.kubernetes.snapshot import DISRUPTIONS, FAILURES, INDEX, QUEUE_LABEL
from kube_nb.spec import Gpu, Resources

MARGIN = 20
"""Seconds beyond the code's grace in which the runner writes down what it knows."""
START = 3600
"""Seconds from a pod's start to the start of its code that the backstop of a time-out allows: images, packages."""
_LOST = 30
"""Seconds after which a pod is given up on a node that does not answer."""
_PRODUCT = {"amd.com": "amd.com/gpu.product-name"}
"""Where a vendor calls a GPU's model otherwise than `<vendor>/gpu.product`."""


def job_pod(plan: JobPlan) -> Object:
    """The template of a Job's pods: metadata and spec."""
    return {"metadata": {"labels": pod_labels(plan)}, "spec": pod_spec(plan)}


def pod_labels(plan: JobPlan, role: marks.Role = "job") -> dict[str, str]:
    """Of a pod and of its Job alike: a queue admits either by the same label."""
    queue = plan.spec.placement.queue
    return marks.labels(plan, role) | ({QUEUE_LABEL: queue} if queue else {})


def pod_spec(plan: JobPlan) -> Object:
    policy = plan.spec.policy
    spec = placed(plan) | {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(policy.grace) + MARGIN,
        "containers": [_container(plan)],
        "volumes": list(_volumes(plan)),
    }
    if plan.spec.resources.nodes > 1:
        spec["subdomain"] = plan.spec.id
    if policy.timeout is not None:
        # The runner keeps the time; this ends a pod whose runner cannot. Counted from the pod's start, not the Job's:
        # waiting for a place and earlier tries take nothing from it.
        spec["activeDeadlineSeconds"] = int(policy.timeout + policy.grace) + MARGIN + START
    return spec


def placed(plan: JobPlan) -> Object:
    """Where and as whom a pod of ours runs: the same for a job's pods and for those that carry files for it."""
    placement = plan.spec.placement
    spec: Object = {
        "automountServiceAccountToken": placement.service_account is not None,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.UID,
            "runAsGroup": names.UID,
            "fsGroup": names.UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": _tolerations(plan),
    }
    optional: dict[str, Any] = {
        "nodeSelector": dict(placement.node_selector),
        "affinity": affinity(plan.affinity, plan.spec.resources.gpu),
        "priorityClassName": placement.priority_class,
        "runtimeClassName": placement.runtime_class,
        "serviceAccountName": placement.service_account,
        "imagePullSecrets": [{"name": plan.pull_secret}] if plan.pull_secret else None,
    }
    return spec | {key: value for key, value in optional.items() if value}


def container_security() -> Object:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def affinity(given: Mapping[str, Any], gpu: Gpu | None) -> Object:
    """What the settings ask for, and beside it one of the GPU's models: every term must hold it, as terms are an or."""
    if gpu is None or not gpu.products:
        return dict(given)
    vendor = gpu.resource.partition("/")[0]
    product = {"key": _PRODUCT.get(vendor, f"{vendor}/gpu.product"), "operator": "In", "values": list(gpu.products)}
    node = dict(given.get("nodeAffinity") or {})
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [
        {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), product]}
        for term in required.get("nodeSelectorTerms") or [{}]
    ]
    node["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    return {**given, "nodeAffinity": node}


def _tolerations(plan: JobPlan) -> list[Object]:
    """The settings', those of a GPU's own nodes, and leaving a node that does not answer."""
    found = [dict(toleration) for toleration in plan.tolerations]
    gpu = plan.spec.resources.gpu
    if gpu is not None:
        found.append({"key": gpu.resource, "operator": "Exists", "effect": "NoSchedule"})
    for condition in ("not-ready", "unreachable"):
        found.append(
            {
                "key": f"node.kubernetes.io/{condition}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": _LOST,
            }
        )
    return found


def _container(plan: JobPlan) -> Object:
    return {
        "name": names.CONTAINER,
        "image": plan.image,
        "imagePullPolicy": pull_policy(plan.image),
        "command": ["python3", "-I", "-S", f"{names.SECRET}/{names.RUNNER_ZIP}"],
        "workingDir": names.RUN,
        "env": _env(),
        "envFrom": [{"secretRef": {"name": use.name}} for use in plan.spec.placement.secrets if not use.path],
        "resources": requests(plan.spec.resources, plan.memory),
        "securityContext": container_security(),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": list(_mounts(plan)),
    }


def pull_policy(image: str) -> str:
    """What a tag names once is what it names; `latest`, and no tag at all, may change."""
    name = image.rpartition("/")[2]
    moves = "@" not in name and (":" not in name or name.endswith(":latest"))
    return "Always" if moves else "IfNotPresent"


def _env() -> list[Object]:
    """What the runner must know before it has read anything; nothing secret."""

    def annotation(variable: str, name: str) -> Object:
        field = {"fieldRef": {"fieldPath": f"metadata.annotations['{name}']"}}
        return {"name": variable, "valueFrom": field}

    return [
        annotation("KUBE_NB_NODE", INDEX),
        annotation("KUBE_NB_FAILURES", FAILURES),
        annotation("KUBE_NB_DISRUPTIONS", DISRUPTIONS),
        {"name": "HOME", "value": f"{names.RUN}/home"},
    ]


def requests(resources: Resources, memory: int | None) -> Object:
    """Memory and disk are limits too: who takes more than was set aside takes it from others. Cores may be borrowed."""
    asked: dict[str, str] = {}
    limits: dict[str, str] = {}
    if resources.cpu is not None:
        asked["cpu"] = f"{max(1, round(resources.cpu * 1000))}m"
    for name, amount in (("memory", memory), ("ephemeral-storage", resources.disk)):
        if amount is not None:
            asked[name] = limits[name] = str(amount)
    if resources.gpu is not None:
        limits[resources.gpu.resource] = str(resources.gpu.count)
    return {key: value for key, value in (("requests", asked), ("limits", limits)) if value}


def _volumes(plan: JobPlan) -> Iterator[Object]:
    spec = plan.spec
    shm: Object = {"medium": "Memory"} | ({"sizeLimit": str(spec.resources.shm)} if spec.resources.shm else {})
    yield {"name": "bundle", "secret": {"secretName": spec.id, "defaultMode": 0o440}}
    yield {"name": "run", "emptyDir": {}}
    yield {"name": "tmp", "emptyDir": {}}
    yield {"name": "shm", "emptyDir": shm}
    if plan.store.claim:
        yield {"name": "store", "persistentVolumeClaim": {"claimName": plan.store.claim}}
    for number, use in enumerate(spec.placement.secrets):
        if use.path:
            yield {"name": f"secret-{number}", "secret": {"secretName": use.name, "defaultMode": 0o440}}
    for number, claim in enumerate(dict.fromkeys(use.claim for use in spec.placement.volumes)):
        yield {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}


def _mounts(plan: JobPlan) -> Iterator[Object]:
    placement = plan.spec.placement
    taken = {use.path for use in (*placement.secrets, *placement.volumes)}
    yield {"name": "bundle", "mountPath": names.SECRET, "readOnly": True}
    yield {"name": "run", "mountPath": names.RUN}
    for name, path in (("tmp", "/tmp"), ("shm", "/dev/shm")):
        if path not in taken:
            yield {"name": name, "mountPath": path}
    if plan.store.claim:
        yield {"name": "store", "mountPath": names.STORE_MOUNT}
    for number, use in enumerate(placement.secrets):
        if use.path:
            yield {"name": f"secret-{number}", "mountPath": use.path, "readOnly": True}
    claims = list(dict.fromkeys(use.claim for use in placement.volumes))
    for use in placement.volumes:
        name = f"volume-{claims.index(use.claim)}"
        yield {"name": name, "mountPath": use.path} | ({"readOnly": True} if use.read_only else {})
