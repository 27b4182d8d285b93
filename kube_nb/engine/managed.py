"""Runs a notebook for papermill's execution manager: what the engine does, apart from being found by papermill."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TextIO

from kube_nb.client import Client
from kube_nb.errors import KubeNbError
from kube_nb.events import Event, Text
from kube_nb.jobs.failure import failed
from kube_nb.jobs.follow import Attempt
from kube_nb.jobs.interrupts import Terminated, watched
from kube_nb.notebooks.executed import with_record
from kube_nb.notebooks.prepare import Prepared, settings_in, travelling
from kube_nb.notebooks.send import NotebookPlan, Running
from kube_nb.options import Options
from kube_nb.spec import Phase

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from papermill.engines import NotebookExecutionManager

    from kube_nb.notebooks.job import NotebookJob

_TRAITS = frozenset(
    {
        *("allow_errors", "allow_error_names", "force_raise_errors", "interrupt_on_timeout", "error_on_timeout"),
        *("iopub_timeout", "raise_on_iopub_timeout", "record_timing", "skip_cells_with_tag", "store_widget_state"),
        *("coalesce_streams", "ipython_hist_file", "extra_arguments", "shutdown_kernel"),
    }
)
"""What papermill hands on to nbclient, and so does this."""
_PAPERMILLS = frozenset({"timeout"})
"""Options of a job whose names papermill has given a meaning of its own."""
_DIED = frozenset({"Signal", "Exited", "OutOfMemory", "RankLost"})


def run(
    manager: NotebookExecutionManager,
    kernel: str,
    *,
    input_path: Any = None,
    log_output: bool = False,
    stdout_file: TextIO | None = None,
    stderr_file: TextIO | None = None,
    start_timeout: float = 60,
    execution_timeout: float | None = None,
    **more: Any,
) -> None:
    """Send the notebook as a job and tell papermill's manager of each cell; as `Engine.execute_managed_notebook`."""
    options, traits = _apart(more)
    timeout = execution_timeout or more.get("timeout")
    traits |= {"startup_timeout": start_timeout, "timeout": timeout, "raise_on_iopub_timeout": True} | traits
    prepared = _prepared(manager.nb, kernel, input_path)
    client = Client(**options).for_notebook(prepared.settings)
    plan = NotebookPlan.make(client.plan, prepared, Running(traits=traits))
    for note in plan.plan.notes:
        _log().warning("kube-nb: %s", note)
    job = plan.submit()
    _log().info("kube-nb: job %s on %s", job.id, job.where)
    listener = _Listener(manager, _Streams(log_output, stdout_file, stderr_file))
    try:
        with watched(interactive=False):
            for batch in job.follow():
                listener.take(batch, job)
            job.wait()
    except (KeyboardInterrupt, Terminated):
        job.cancel()
        job.wait()
        listener.finish(job)
        raise KeyboardInterrupt(f"job {job.id} was cancelled") from None
    listener.finish(job)
    _raise(job, listener)


def _apart(more: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the job, and traits of nbclient; what is neither has no effect, and that is said."""
    known = {field.name for field in fields(Options)} - _PAPERMILLS
    options = {name: value for name, value in more.items() if name in known}
    traits = {name: value for name, value in more.items() if name in _TRAITS}
    for name in more.keys() - options.keys() - traits.keys() - _PAPERMILLS:
        _log().warning("kube-nb: `%s` has no effect", name)
    return options, traits


def _prepared(notebook: NotebookNode, kernel: str, source: Any) -> Prepared:
    """What papermill has prepared, ready to travel."""
    path = source if isinstance(source, str) and source != "-" else "notebook.ipynb"
    spec = notebook.metadata.get("kernelspec", {})
    language = notebook.metadata.get("language_info", {}).get("name") or spec.get("language") or "python"
    return Prepared(
        text=travelling(notebook),
        label=PurePath(path).name,
        stem=PurePath(path).stem or "notebook",
        kernel=kernel,
        language=language,
        parameters=notebook.metadata.papermill.get("parameters", {}),
        source=path,
        digest="",
        settings=settings_in(notebook),
        output="",
        root=Path.cwd(),  # where papermill's own kernel would import from
    )


class _Streams:
    """Where papermill was asked to write what the notebook writes."""

    def __init__(self, log: bool, out: TextIO | None, err: TextIO | None) -> None:
        self._log = log
        self._files = {"stdout": out, "stderr": err}

    def write(self, outputs: Iterable[dict[str, Any]]) -> None:
        for output in outputs:
            if output["output_type"] == "stream":
                text = "".join(output["text"])
                if self._log:
                    (_log().info if output["name"] == "stdout" else _log().warning)(text)
                file = self._files.get(output["name"])
                if file is not None:
                    file.write(text)
                    file.flush()
            elif self._log and "text/plain" in output.get("data", {}):
                _log().info("".join(output["data"]["text/plain"]))


class _Listener:
    """Tells papermill's manager what the job's stream tells.

    Attributes:
        error: what nbclient raised in the job, where it was the notebook that failed.
    """

    def __init__(self, manager: NotebookExecutionManager, streams: _Streams) -> None:
        self._manager = manager
        self._streams = streams
        self._at = 0
        """The cell that is next."""

    def take(self, batch: Iterable[Text | Event | Attempt], job: NotebookJob) -> None:
        for item in batch:
            if isinstance(item, Attempt):
                self._at = 0
            elif isinstance(item, Event) and item.kind == "cell" and item.rank == 0:
                self._cell(item.data, job)
            elif isinstance(item, Text):
                self._manager.autosave_cell()

    def _cell(self, data: dict[str, Any], job: NotebookJob) -> None:
        at = data["at"]
        if data["status"] == "running":
            self._pass(at)
            self._manager.cell_start(self._cells[at], at)
            return
        if "object" in data:
            done = json.loads(job.read_object(data["object"], data["size"]))
        else:
            done = data["cell"]
        _take_over(self._cells[at], done)
        self._streams.write(done["outputs"])
        if data["status"] == "failed":
            self._manager.cell_exception(self._cells[at], cell_index=at)
        self._manager.cell_complete(self._cells[at], cell_index=at)
        self._at = at + 1

    def _pass(self, until: int) -> None:
        """Cells in between run nothing, and papermill counts them too."""
        for at in range(self._at, until):
            self._manager.cell_start(self._cells[at], at)
            self._manager.cell_complete(self._cells[at], cell_index=at)
        self._at = max(self._at, until)

    def finish(self, job: NotebookJob) -> None:
        """Take the executed notebook as the job wrote it."""
        if job.phase is Phase.SUCCEEDED and not any(self._failed(cell) for cell in self._cells):
            self._pass(len(self._cells))
        for at, cell in enumerate(self._cells):
            if cell.metadata.get("papermill", {}).get("status") == "running":  # nobody listened when it ended
                self._manager.cell_exception(cell, cell_index=at)
        if not job.has_notebook:
            return
        executed = json.loads(with_record(job.executed(), job.mark | {"outputs": job.outputs_in_brief()}))
        for cell, done in zip(self._cells, executed["cells"], strict=True):
            _take_over(cell, done)
        for key in ("language_info", "widgets", "kube_nb"):
            if key in executed["metadata"]:
                self._manager.nb.metadata[key] = _node(executed["metadata"][key])

    @staticmethod
    def _failed(cell: NotebookNode) -> bool:
        return cell.metadata.get("papermill", {}).get("status") == "failed"

    @property
    def _cells(self) -> list[NotebookNode]:
        return self._manager.nb.cells


def _take_over(cell: NotebookNode, done: dict[str, Any]) -> None:
    """What running the cell made; the times are papermill's own."""
    if cell.cell_type != "code":
        return
    cell.outputs = [_node(_joined(output)) for output in done["outputs"]]
    cell.execution_count = done["execution_count"]
    own = cell.metadata.get("papermill")
    cell.metadata = _node(done["metadata"])
    if own is not None:
        cell.metadata["papermill"] = own


def _joined(output: dict[str, Any]) -> dict[str, Any]:
    """Texts as one; a file has them as lists of lines."""
    from nbformat import from_dict
    from nbformat.v4.rwbase import rejoin_lines

    cell = {"cell_type": "code", "source": "", "outputs": [output]}
    return rejoin_lines(from_dict({"cells": [cell]}))["cells"][0]["outputs"][0]


def _node(value: Any) -> Any:
    import nbformat

    return nbformat.from_dict(value)


def _raise(job: NotebookJob, listener: _Listener) -> None:
    """Where it was not a cell that failed, which papermill finds by itself."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    status = job.status()
    if status.phase is Phase.SUCCEEDED or status.reason is None:
        return
    trouble: KubeNbError = failed(job.id, status.reason)
    code = status.reason.code
    if code in ("Exception", "SystemExit") and job.has_notebook:
        return
    if code in _DIED:
        raise DeadKernelError(str(trouble)) from trouble
    if code == "TimedOut" and status.reason.what.startswith("cell "):  # its own limit, not the job's
        raise CellTimeoutError(str(trouble)) from trouble
    raise trouble


def _log() -> Any:
    return sys.modules["papermill.log"].logger
