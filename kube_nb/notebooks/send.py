"""From a prepared notebook to its job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kube_nb.capture.work import Work
from kube_nb.errors import BadFlag, BadValue, NotFound
from kube_nb.jobs.submit import DryRun, Plan
from kube_nb.notebooks.job import NotebookJob
from kube_nb.notebooks.prepare import Prepared
from kube_nb.notebooks.record import record_of
from kube_nb.spec import Task, seconds


@dataclass(frozen=True, kw_only=True)
class Running:
    """How the cells are executed.

    Attributes:
        html: a rendering is kept with the job.
        traits: of nbclient, as JSON holds them.
    """

    html: bool = False
    traits: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def parse(
        cls, *, html: bool = False, cell_timeout: str | float | None = None, start_timeout: str | float = 60
    ) -> Running:
        """From what a person writes.

        Raises:
            BadValue: a duration means nothing.
        """
        traits: dict[str, Any] = {"startup_timeout": max(1, round(seconds(start_timeout)))}
        if cell_timeout is not None:
            traits["timeout"] = max(1, round(seconds(cell_timeout)))
        return cls(html=html, traits=traits)


@dataclass(frozen=True, kw_only=True)
class NotebookPlan:
    """A submit of a notebook that has not happened yet.

    Attributes:
        plan: what would run and travel, and what stands against it.
        prepared: the notebook with its parameters.
    """

    plan: Plan
    prepared: Prepared

    @classmethod
    def make(
        cls, plan: Callable[[Work], Plan], prepared: Prepared, running: Running, *, session: str = ""
    ) -> NotebookPlan:
        """Look at everything that can be known before anything is written.

        Raises:
            BadFlag: several processes were asked for.
            BadValue, NotFound: the output cannot be written there.
            Refused: the target says no.
        """
        _check_output(prepared)
        work = Work(
            source=prepared.text,
            namespace={},
            task=Task(kind="notebook", label=prepared.label),
            name=prepared.stem,
            filename=prepared.label,
            root=prepared.root,
            notebook=session,
            how={
                "kernel": prepared.kernel,
                "language": prepared.language,
                "html": running.html,
                "traits": dict(running.traits),
            },
            record=record_of(prepared, html=running.html),
        )
        made = plan(work)
        if made.spec.resources.world_size > 1:
            raise BadFlag(
                what="a notebook runs as one process",
                why=f"{made.spec.resources.world_size} were asked for with --nodes and --procs",
                next="leave them out, or train on several with %%kube_train inside the notebook",
            )
        return cls(plan=made, prepared=prepared)

    def dry_run(self) -> DryRun:
        """As `Plan.dry_run`."""
        found = self.plan.dry_run()
        rows = [row for row in found.rows if row[0] not in ("sends", "returns")]
        parameters = ", ".join(f"{name} = {value!r}" for name, value in self.prepared.parameters.items())
        rows.insert(2, ("parameters", parameters or "none"))
        rows.insert(3, ("output", self.prepared.output or "with the job alone"))
        return DryRun(rows=rows, manifests=found.manifests)

    def submit(self, *, detached: bool = False) -> NotebookJob:
        """Pack, write it down, create.

        Raises:
            StorageFailed, Refused, Unreachable: as the target says.
        """
        return NotebookJob.of(self.plan.submit(detached=detached), mine=True)


def _check_output(prepared: Prepared) -> None:
    output = prepared.output
    if not output or "://" in output or output == "-":
        return
    path = Path(output)
    if not path.parent.is_dir():
        raise NotFound(what=f"there is no folder `{path.parent}` for the executed notebook", next="make it first")
    if path.is_dir():
        raise BadValue(what=f"`{output}` is a folder", next="write the name of the executed notebook too")
    if path.exists() and Path(prepared.source).exists() and path.samefile(prepared.source):
        raise BadValue(
            what=f"the executed notebook would take the place of `{prepared.source}` itself",
            next="write it beside, e.g. --output " + path.with_stem(path.stem + "-out").name,
        )
