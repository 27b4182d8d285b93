"""Executes the cells of a notebook with nbclient, as papermill does, and tells the runner of each.

Imported in the rank alone, and only where the task is a notebook: nbclient and what it needs are the job's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from datetime import UTC, datetime
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.util import ensure_async
from nbformat import NotebookNode

from .display import Displays
from .objects import Objects
from .voice import Voice

IN_BAND = 16 * 1024
"""Bytes of an executed cell that go with the log; what is larger becomes a file."""
PYTHON = "python"
_HEADING = re.compile(r" {0,3}#{1,6}\s+(.+?)\s*#*\s*$")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_MARKUP = re.compile(r"[*_`]|\[([^\]]*)\]\([^)]*\)|<[^>]+>")
_LONGEST_HEADING = 80


class NoKernel(Exception):
    """There is nothing here that runs this notebook; the three sentences say what, why, what next."""


class Broken(Exception):
    """The notebook did not run to its end.

    Attributes:
        cell: number of the cell among those that run, from 1; 0: before the first.
        kind: "error": the cell raised; "dead": its kernel died; "timeout"; "stopped": from outside; "start".
        output: of "error": the `error` output. status: of "dead": how the kernel ended, as Popen says it.
    """

    def __init__(self, kind: str, cell: int = 0, *, output: Any = None, status: int | None = None) -> None:
        super().__init__(kind, cell)
        self.kind = kind
        self.cell = cell
        self.output = output
        self.status = status


class OwnKernel(AsyncKernelManager):
    """A kernel of this interpreter, with the packages and modules of this job; no kernelspec is needed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language=PYTHON)


def manager_for(name: str, language: str, folder: str) -> AsyncKernelManager:
    """The kernel a notebook asks for where it exists here, else one of this interpreter if the notebook is Python.

    Args:
        folder: for the kernel's sockets and their key; private, with a short path.

    Raises:
        NoKernel: the notebook is in another language, and this job has no kernel of that name.
    """
    connection = os.path.join(folder, "kernel.json")
    if name not in ("", "python3", "python") and name in KernelSpecManager().find_kernel_specs():
        return AsyncKernelManager(kernel_name=name, connection_file=connection)
    if language.lower() not in ("", PYTHON, "python3", "ipython"):
        raise NoKernel(
            f"the notebook is in {language}, and the job has no kernel for it",
            f"no kernelspec `{name}` is installed where the job runs",
            "choose an --image that has this kernel, or install it there",
        )
    try:
        import ipykernel  # noqa: F401
    except ImportError as error:
        raise NoKernel(
            "the job cannot run a notebook", f"ipykernel cannot be imported there: {error}", "add --packages ipykernel"
        ) from error
    # Sockets with a path: no port that others on this machine could reach.
    return OwnKernel(kernel_name="python3", transport="ipc", connection_file=connection)


def runs(cell: NotebookNode) -> bool:
    """Whether nbclient executes this cell."""
    tags = cell.metadata.get("tags", [])
    return cell.cell_type == "code" and bool(cell.source.strip()) and "skip-execution" not in tags


def headings(notebook: NotebookNode) -> list[str]:
    """For each cell the nearest heading at or above it; empty where there is none.

    Example:
        >>> headings(NotebookNode(cells=[NotebookNode(cell_type="markdown", source="## *Train* it")]))
        ['Train it']
    """
    found, last = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            fenced = False
            for line in cell.source.splitlines():
                fenced ^= bool(_FENCE.match(line))
                heading = None if fenced else _HEADING.match(line)
                if heading:
                    last = _MARKUP.sub(lambda mark: mark[1] or "", heading[1]).strip()[:_LONGEST_HEADING]
        found.append(last)
    return found


class Execution(NotebookClient):
    """One execution. Metadata, order and outputs are as papermill makes them.

    Args:
        notebook: is changed in place.
        voice: to the runner; objects: where large cells and displays go.
        manager: of the kernel.
        traits: further ones of nbclient, e.g. `timeout` of each cell.
    """

    def __init__(
        self, notebook: NotebookNode, *, voice: Voice, objects: Objects, manager: AsyncKernelManager, **traits: Any
    ) -> None:
        super().__init__(notebook, km=manager, **traits)
        self._voice = voice
        self._objects = objects
        self._displays = Displays(voice, objects)
        self._numbers = {
            index: number for number, index in enumerate((i for i, c in enumerate(notebook.cells) if runs(c)), start=1)
        }
        self._headings = headings(notebook)
        self._stopped = False
        self._process: Any = None

    def place(self, number: int) -> str:
        """`cell 4 of 12: Train the model`."""
        index = next((index for index, known in self._numbers.items() if known == number), None)
        heading = "" if index is None else self._headings[index]
        return f"cell {number} of {len(self._numbers)}" + (f": {heading}" if heading else "")

    def source(self, number: int) -> str:
        """The text of the cell with this number."""
        return next(self.nb.cells[index].source for index, known in self._numbers.items() if known == number)

    async def run(self) -> None:
        """Execute all cells. The notebook holds what came of it, whatever happens.

        Raises:
            Broken: it did not run to its end.
            SystemExit: a cell ended it with success.
        """
        task = asyncio.current_task()
        assert task is not None

        def stop() -> None:
            self._stopped = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        self.reset_execution_trackers()
        began = self._begin()
        try:
            await self._start()
            ended = await self._cells()
            await self._conclude()
            await self._shut_down()
        except asyncio.CancelledError:
            raise Broken("stopped") from None
        finally:
            await self._async_cleanup_kernel()
            self._end(began)
        if ended is not None:
            raise ended

    async def _start(self) -> None:
        self._voice.say("state", phase="Starting", step="load", text="starting the kernel")
        try:
            await self.async_start_new_kernel(cwd=os.getcwd())
            assert self.km is not None
            self._process = getattr(self.km.provisioner, "process", None)
            await self.async_start_new_kernel_client()
            self._voice.say("state", phase="Running", step="run", text="running")
        except (RuntimeError, OSError) as error:
            raise Broken("start", output=str(error), status=self._status()) from error

    async def _cells(self) -> BaseException | None:
        """Execute the cells; what a cell ended the notebook with while its kernel lives on."""
        for index, cell in enumerate(self.nb.cells):
            number = self._numbers.get(index, 0)
            self._cell_begins(cell, index, number)
            try:
                await self.async_execute_cell(cell, index)
            except CellExecutionError as error:
                self._mark_failed(cell)
                output = next((one for one in reversed(cell.outputs) if one.output_type == "error"), None)
                if error.ename == "SystemExit" and error.evalue in ("", "0"):
                    return SystemExit(0)
                return Broken("error", number, output=output or _bare(error))
            except CellTimeoutError:
                self._mark_failed(cell)
                raise Broken("timeout", number) from None
            except (DeadKernelError, asyncio.CancelledError):
                self._mark_failed(cell)
                kind = "stopped" if self._stopped else "dead"
                raise Broken(kind, number, status=self._status()) from None
            finally:
                self._cell_ends(cell, index, number)
        return None

    async def _conclude(self) -> None:
        """What the kernel says of itself; papermill asks after the last cell, and so does this."""
        assert self.kc is not None
        answer = await self.async_wait_for_reply(self.kc.kernel_info())
        if answer is not None:
            self.nb.metadata["language_info"] = answer["content"]["language_info"]
        self.set_widgets_metadata()

    async def _shut_down(self) -> None:
        """Ask the kernel to end. Its manager would interrupt it first, which a busy one tells in the log."""
        assert self.km is not None
        if self.shutdown_kernel == "graceful":
            await ensure_async(self.km.request_shutdown())
            await ensure_async(self.km.finish_shutdown())

    def _status(self) -> int | None:
        """How the kernel's process ended; None: not known."""
        if self._process is None:
            return None
        if self._stopped:
            return self._process.poll()
        try:
            return self._process.wait(timeout=5)
        except Exception:  # noqa: BLE001 - a provisioner of another kind has no such exit status
            return None

    # What is recorded, as papermill records it

    def _begin(self) -> datetime:
        began = _now()
        record = self.nb.metadata.setdefault("papermill", NotebookNode())
        record.update(start_time=began.isoformat(), end_time=None, duration=None, exception=None)
        for cell in self.nb.cells:
            blank = {"exception": None, "start_time": None, "end_time": None, "duration": None, "status": "pending"}
            cell.metadata["papermill"] = NotebookNode(blank)
            if cell.cell_type == "code":
                cell.execution_count = None
                cell.outputs = []
        return began

    def _end(self, began: datetime) -> None:
        ended = _now()
        self.nb.metadata.papermill.update(end_time=ended.isoformat(), duration=(ended - began).total_seconds())

    def _cell_begins(self, cell: NotebookNode, index: int, number: int) -> None:
        cell.metadata.papermill.update(start_time=_now().isoformat(), status="running", exception=False)
        if number:
            self._voice.say("progress", done=number - 1, total=len(self._numbers), text=self.place(number))
            self._voice.say("cell", at=index, status="running")

    def _mark_failed(self, cell: NotebookNode) -> None:
        cell.metadata.papermill.update(exception=True, status="failed")
        self.nb.metadata.papermill["exception"] = True

    def _cell_ends(self, cell: NotebookNode, index: int, number: int) -> None:
        record = cell.metadata.papermill
        ended = _now()
        record["end_time"] = ended.isoformat()
        record["duration"] = (ended - datetime.fromisoformat(record["start_time"])).total_seconds()
        if record["status"] != "failed":
            record["status"] = "completed"
        if not number:
            return
        self._tell(cell, index)
        if record["status"] == "completed":
            total = len(self._numbers)
            text = self.place(number) if number < total else "all cells have run"
            self._voice.say("progress", done=number, total=total, text=text)

    def _tell(self, cell: NotebookNode, index: int) -> None:
        """Say what became of a cell, so that whoever follows has exactly that."""
        said = {"at": index, "status": cell.metadata.papermill["status"]}
        text = json.dumps(cell)
        if len(text) <= IN_BAND and "NaN" not in text and "Infinity" not in text:
            self._voice.say("cell", **said, cell=cell)
            return
        self._voice.say("cell", **said, object=self._objects.write(text.encode()), size=len(text))

    # What is shown while it runs

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Take a message of the kernel, and show it at once."""
        kind, content = msg["msg_type"], msg["content"]
        output = super().process_message(msg, cell, cell_index)
        if kind == "update_display_data":
            self._show(content, update=True)
        elif kind == "clear_output":
            self._displays.clear(wait=bool(content.get("wait")))
        elif output is not None and kind == "stream":
            stream = sys.stderr if content.get("name") == "stderr" else sys.stdout
            stream.write(content["text"])
            stream.flush()
        elif output is not None and kind in ("display_data", "execute_result"):
            self._show(content, result=kind == "execute_result")
        elif output is not None and kind == "error":
            print("\n".join(content.get("traceback") or [f"{content['ename']}: {content['evalue']}"]), file=sys.stderr)
        return output

    def _show(self, content: dict[str, Any], *, update: bool = False, result: bool = False) -> None:
        id = (content.get("transient") or {}).get("display_id")
        if update and not id:
            return
        self._displays.show(content["data"], content.get("metadata"), id=id, update=update, result=result)


def _bare(error: CellExecutionError) -> NotebookNode:
    return NotebookNode(ename=error.ename, evalue=error.evalue, traceback=[])


def _now() -> datetime:
    return datetime.now(UTC)
