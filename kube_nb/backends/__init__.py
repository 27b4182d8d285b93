"""The targets a job can run on. Callers open one by the name a person gave it and never ask which kind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kube_nb.backends.base import Backend
    from kube_nb.config import Settings


def open_backend(target: str, settings: Settings) -> Backend:
    """The backend of a target: `local`, `in-cluster`, a named target, else a kubeconfig context; /NAMESPACE may follow.

    Nobody is asked: a cluster hears of it at the first call.

    Raises:
        NotFound: there is no such target.
    """
    if target == "local":
        from pathlib import Path

        from kube_nb.backends.local.backend import LocalBackend

        return LocalBackend(
            Path(settings.get("state_dir")),
            max_age=settings.get("retention_days") * 86400,
            max_bytes=settings.get("retention_bytes"),
        )
    from kube_nb.backends.kubernetes.backend import KubernetesBackend
    from kube_nb.backends.kubernetes.connect import place_of

    return KubernetesBackend(place_of(target, settings), settings)


def targets(settings: Settings) -> list[str]:
    """Names that `--on` takes, known without asking anybody."""
    from kube_nb.backends.kubernetes.connect import IN_CLUSTER, contexts

    named = settings.get("targets") or {}
    return list(dict.fromkeys(["local", IN_CLUSTER, *named, *contexts()]))
