"""What stands against a job on this machine, and what of its wishes has no effect here."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from kube_nb.backends.base import Finding, Reason
from kube_nb.backends.local.order import Demand, Machine
from kube_nb.backends.reasons import size_text
from kube_nb.spec import DEFAULT_GPU, JobSpec


def demand_of(spec: JobSpec, machine: Machine) -> Demand:
    """What the whole job takes: a rank without a word about cores counts one, up to all there are."""
    resources = spec.resources
    if resources.cpu is None:
        cpu = min(float(resources.world_size), machine["cpu"])
    else:
        cpu = resources.cpu * resources.nodes
    return Demand(
        cpu=cpu,
        memory=(resources.memory or 0) * resources.nodes,
        gpus=resources.gpu.count * resources.nodes if resources.gpu else 0,
    )


def findings(spec: JobSpec, machine: Machine, *, samples: bool) -> list[Finding]:
    """The answers of the preflight.

    Args:
        samples: a memory limit would be held by looking now and then.
    """
    if sys.platform == "win32":
        return [_no_windows()]
    return [*_too_large(spec, machine), *_memory(spec, samples), *_ignored(spec)]


def _no_windows() -> Finding:
    return _error(
        "NoLocalTarget",
        "jobs cannot run on this machine",
        "the local target needs Linux or macOS",
        "start Jupyter inside WSL, or send the job to a cluster with --on",
    )


def _too_large(spec: JobSpec, machine: Machine) -> Iterator[Finding]:
    demand = demand_of(spec, machine)
    gpu = spec.resources.gpu
    each = " in all" if spec.resources.nodes > 1 else ""
    if demand["cpu"] > machine["cpu"]:
        yield _error(
            "NotEnoughCpu",
            f"the job asks for {demand['cpu']:g} cores{each}",
            f"this machine has {machine['cpu']:g}",
            "ask for fewer with --cpu, or send it to a cluster with --on",
        )
    if demand["memory"] > machine["memory"]:
        yield _error(
            "NotEnoughMemory",
            f"the job asks for {size_text(demand['memory'])} of memory{each}",
            f"this machine has {size_text(machine['memory'])}",
            "ask for less with --memory, or send it to a cluster with --on",
        )
    if gpu and gpu.resource != DEFAULT_GPU:
        yield _error(
            "NoGpu",
            f"the job asks for {gpu.resource}",
            f"the local target knows {DEFAULT_GPU} alone",
            "leave --gpus away to run here without, or send it to a cluster with --on",
        )
    elif gpu and demand["gpus"] > len(machine["gpus"]):
        found = len(machine["gpus"])
        has = f"this machine has {found}" if found else "this machine has no GPU that its driver shows"
        yield _error(
            "NoGpu",
            f"the job asks for {demand['gpus']} GPU{'s'[: demand['gpus'] != 1]}{each}",
            has,
            "leave --gpus away to run here without, or send it to a cluster with --on",
        )


def _memory(spec: JobSpec, samples: bool) -> Iterator[Finding]:
    if spec.resources.memory and samples:
        yield Finding(
            level="warning",
            reason=Reason(
                code="ApproximateMemoryLimit",
                what="--memory is held approximately here",
                why="no systemd of this user answers, so the job's memory is measured a few times a second",
            ),
        )


def _ignored(spec: JobSpec) -> Iterator[Finding]:
    placement = spec.placement
    resources = spec.resources
    wishes = {
        "--gpu-product": resources.gpu and resources.gpu.products,
        "--shm": resources.shm,
        "--disk": resources.disk,
        "--image": spec.environment.image,
        "--namespace": placement.namespace,
        "--secret": placement.secrets,
        "--volume": placement.volumes,
        "--node-selector": placement.node_selector,
        "--priority-class": placement.priority_class,
        "--runtime-class": placement.runtime_class,
        "--service-account": placement.service_account,
        "--queue": placement.queue,
        "--via": placement.via,
        "--patch": placement.patches,
    }
    for flag, value in wishes.items():
        if value:
            reason = Reason(
                code="NoEffect",
                what=f"{flag} has no effect here",
                why="the local target runs plain processes on this machine",
            )
            yield Finding(level="ignored", reason=reason)


def _error(code: str, what: str, why: str, next: str) -> Finding:
    return Finding(level="error", reason=Reason(code=code, what=what, why=why, next=next))
