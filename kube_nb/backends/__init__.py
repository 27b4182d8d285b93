"""The targets a job can run on. Callers open one by the name a person gave it and never ask which kind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kube_nb.errors import NotFound

if TYPE_CHECKING:
    from kube_nb.backends.base import Backend
    from kube_nb.config import Settings


def open_backend(target: str, settings: Settings) -> Backend:
    """The backend of a target, e.g. "local".

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
    raise NotFound(
        what=f"there is no target `{target}`",
        why="this version runs jobs on this machine alone; clusters come with the next one",
        next="leave --on away, or write --on local",
    )


def targets(settings: Settings) -> list[str]:
    """Names that `--on` takes, known without asking anybody."""
    return ["local", *(settings.get("targets") or {})]
