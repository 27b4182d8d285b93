"""Brings the names of a job into a namespace: all in one step, nothing that was changed since, nothing stale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from kube_nb.jobs.outputs import RESULT, RemoteValue, size_text
from kube_nb.spec import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kube_nb.jobs.job import Job

ABSENT = object()
"""Stands for a name that did not exist at the submit."""
BEFORE = "before"
JOURNAL = "journal"


@dataclass(frozen=True, kw_only=True)
class Return:
    """What came back.

    Attributes:
        values: name -> value, to be bound in one step.
        row: the line for the card: what came back and what did not, with sizes and why.
    """

    values: dict[str, Any]
    row: tuple[tuple[str, str], ...]


def returned(job: Job, namespace: dict[str, Any]) -> Return:
    """What to bind in `namespace` now that the job has ended.

    A job that did not succeed gives back only what was asked for by name. A name that was rebound or changed in the
    kernel since the submit is left as it is.

    Raises:
        Corrupted: the bytes are not what the job signed.
    """
    if job.phase is not Phase.SUCCEEDED and job._read().result is None:
        return Return(values={}, row=())
    outputs = job.outputs
    values = {name: value for name, value in outputs.values_now().items() if name != RESULT}
    left = outputs.unreturned
    for name, origin in outputs.imports.items():
        module, _, path = origin.partition(":")
        try:
            found = attrgetter(path)(import_module(module)) if path else import_module(module)
        except Exception as error:  # noqa: BLE001 - what the job could import may fail here in any way
            left[name] = f"`{module}` cannot be imported here: {error}"
            continue
        if namespace.get(name) is not found:
            values[name] = found
    kept = [name for name in values if _moved(job, name, namespace)]
    back, with_job = [], []
    for name, value in values.items():
        if name in kept:
            continue
        if isinstance(value, RemoteValue):
            with_job.append(f"{name} ({value.type}, {size_text(value.size)})")
        else:
            kind, size = outputs.sizes.get(name, (type(value).__name__, 0))
            back.append(f"{name} (imported)" if name in outputs.imports else f"{name} ({kind}, {size_text(size)})")
    rows = [("came back", ", ".join(back))] if back else []
    if with_job:
        rows.append(
            ("stays", ", ".join(with_job) + ": over the return limit; .get() brings it, a later job takes it as it is")
        )
    if kept:
        rows.append(("kept", ", ".join(f"{n}: changed here since; the job's is in job.outputs[{n!r}]" for n in kept)))
    if outputs.unchecked:
        rows.append(("unchecked", ", ".join(outputs.unchecked) + ": no time to see whether it changed; use -o"))
    rows += [("left", f"{name}: {why}") for name, why in left.items()]
    if outputs.files:
        rows.append(("files", ", ".join(f"{path} ({size_text(size)})" for path, size in outputs.files.items())))
    return Return(values={n: v for n, v in values.items() if n not in kept}, row=tuple(rows))


def _moved(job: Job, name: str, namespace: dict[str, Any]) -> bool:
    """Whether the kernel's own value is another one than at the submit."""
    now = namespace.get(name, ABSENT)
    before: dict[str, Any] | None = job.shared.get(BEFORE)
    if before is not None and name in before and before[name] is not now:
        return True
    if before is not None and not job.shared.get("detached"):
        return False  # the kernel waited for the job: nothing else ran
    if now is ABSENT or job.entry is None:
        return False
    known = job.entry.before.get(name)
    return known is None or known != fingerprint_text(now)


def let_go(job: Job) -> None:
    """The kernel goes on while the job runs: write down what its names hold now, so that changes are noticed later."""
    before, journal = job.shared.get(BEFORE), job.shared.get(JOURNAL)
    if job.entry is not None and before is not None and journal is not None:
        job.shared["detached"] = True
        job.remember(replace(job.entry, before=fingerprints(before)), journal)


def fingerprints(values: Mapping[str, Any]) -> dict[str, str | None]:
    """What the journal keeps of the names that a job may give back; None: the name does not exist."""
    return {name: None if value is ABSENT else fingerprint_text(value) for name, value in values.items()}


def fingerprint_text(value: Any) -> str:
    """The digest of a value as it is now; empty where it has none."""
    from kube_nb.runner.graph import fingerprint

    try:
        return fingerprint(value).hex()
    except Exception:  # noqa: BLE001 - what cannot be pickled has no fingerprint: it counts as changed
        return ""
