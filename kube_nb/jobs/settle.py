"""Submits that were cut off half-way: what was begun here is completed here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from kube_nb.backends.base import Backend, Bundle, JobStatus
from kube_nb.capture.bundle import reopen
from kube_nb.config import Settings
from kube_nb.errors import NotFound
from kube_nb.jobs.journal import Entry, Journal
from kube_nb.spec import JobId, JobSpec, spec_from

CUT_OFF = "IncompleteSubmit"
"""Code of the reason with which a target says that a job is there but not all that it was sent with."""


def cut_off(statuses: Iterable[JobStatus]) -> list[JobId]:
    """The jobs whose submit was cut off."""
    return [status.id for status in statuses if status.reason is not None and status.reason.code == CUT_OFF]


def complete(
    id: JobId, backend: Backend, journal: Journal, settings: Settings, environ: Mapping[str, str] = os.environ
) -> bool:
    """Submit a job again, under its own id; its variables, and what opens a package index to it, are this process's.

    Returns:
        False: it was sent from another machine, what it was sent with is gone, or a variable is not set here.

    Raises:
        Refused, Unreachable: as the target says.
    """
    try:
        entry = journal.read(id)
        spec = spec_from(entry.spec)
        bundle = _bundle(entry, spec, settings, environ)
    except (NotFound, TypeError, KeyError):
        return False
    backend.submit(spec, bundle)
    return True


def _bundle(entry: Entry, spec: JobSpec, settings: Settings, environ: Mapping[str, str]) -> Bundle:
    absent = [name for name in spec.environment.env_names if name not in environ]
    if absent:
        raise NotFound(what=f"the variable `{absent[0]}` is not set here")
    state = Path(settings.get("state_dir"))
    key = bytes.fromhex(entry.key)
    bundle = reopen(state / "bundles" / entry.id, state=state, key=key, index=settings.get("index"))
    return replace(bundle, env={name: environ[name] for name in spec.environment.env_names} | dict(bundle.env))
