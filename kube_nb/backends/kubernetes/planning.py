"""From a spec and the settings to a plan: every default of a cluster is decided here."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kube_nb.backends.base import Bundle
from kube_nb.backends.kubernetes.patch import load_patches
from kube_nb.backends.kubernetes.payload import fits
from kube_nb.backends.kubernetes.plan import JobPlan
from kube_nb.backends.reasons import size_text
from kube_nb.config import Settings
from kube_nb.spec import JobSpec

LEAST_MEMORY = 2 * 1024**3
TIMES_SHIPPED = 3
"""What travels is there once as bytes, once as objects, and the code makes something of it."""
SHORTEST_RETENTION = 3600
"""Seconds for which an ended job stays in any case: somebody wants to read how it ended."""
CORES = 0.5
"""Asked for where nobody says how many; more is taken where it is free."""


def image_of(spec: JobSpec, settings: Settings) -> str:
    """The image that runs: the spec's, else the slim Python of this kernel's version; then what `image_map` says."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    image = spec.environment.image or f"python:{version}-slim"
    table: Mapping[str, str] = settings.get("image_map") or {}
    return table.get(image, image)


def plan_of(
    spec: JobSpec,
    settings: Settings,
    *,
    namespace: str,
    user: str,
    bundle: Bundle | None = None,
) -> JobPlan:
    """Decide everything that a submit needs to know but its store.

    Args:
        bundle: what travels; None: it is not packed yet, as in a preflight.

    Raises:
        BadValue: a patch cannot be read.
    """
    resources = spec.resources
    if resources.cpu is None:
        spec = replace(spec, resources=replace(resources, cpu=CORES))
    return JobPlan(
        spec=spec,
        namespace=namespace,
        user=user,
        image=image_of(spec, settings),
        transport="secret" if bundle is None or fits(bundle) else "upload",
        digest=bundle.digest if bundle else "",
        memory=memory_of(spec, bundle),
        labels=settings.get("labels") or {},
        tolerations=tuple(settings.get("tolerations") or ()),
        affinity=settings.get("affinity") or {},
        pull_secret=settings.get("pull_secret"),
        patches=tuple(_patches(spec, settings)),
        retention=max(SHORTEST_RETENTION, int(settings.get("retention_days") * 86400)),
    )


def memory_of(spec: JobSpec, bundle: Bundle | None = None) -> int:
    """Bytes that each node asks for; `bundle` None: it is not packed yet, and the least is told."""
    return spec.resources.memory or max(LEAST_MEMORY, TIMES_SHIPPED * (bundle.size if bundle else 0))


def rows(plan: JobPlan, bundle: Bundle) -> tuple[tuple[str, str], ...]:
    """What a person should know of a plan beside what it asks for: the way to the pods, and where results are kept."""
    ways = {
        "secret": "in the job's Secret",
        "store": "through the store",
        "upload": "from this kernel straight to the waiting pod: it must live until the job has started",
    }
    kept = plan.store.mark.replace(":", " ", 1) if plan.store.claim else plan.store.mark
    return (
        ("ships", f"{size_text(bundle.size)} {ways[plan.transport]}"),
        ("store", f"{kept}: {plan.store.why}" if plan.store.why else kept),
    )


def _patches(spec: JobSpec, settings: Settings) -> Iterator[Mapping[str, Any]]:
    """The site's first, so that a person's own can add to it."""
    said = settings.get("patch")
    if isinstance(said, str):
        yield from load_patches(Path(said).expanduser())
    elif said:
        yield said
    for file in spec.placement.patches:
        yield from load_patches(Path(file).expanduser())
