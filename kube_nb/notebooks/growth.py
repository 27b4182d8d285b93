"""The notebook that grows at the output path while its job runs: a valid file at every moment.

Cells that have ended are kept as text, so that writing again costs what writing costs and nothing is made anew; and the
longer a write takes, the rarer it becomes, so that all writing together takes a small share of the time that passes.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kube_nb.errors import KubeNbError, StorageFailed
from kube_nb.events import Event, Text
from kube_nb.jobs.follow import Attempt

SHARE = 0.03
"""Of the time that passes, at most this much is spent writing."""
_SOONEST = 0.25
_LIVE = 256 * 1024
"""Characters of what the running cell has printed that the growing notebook shows; when it has ended, all."""

Read = Callable[[str, int], bytes | bytearray]
"""Gives an object that the job wrote, by digest and size."""


class Live:
    """The cells of a notebook as far as a job's stream has told of them.

    Args:
        base: the notebook that was sent.
        read: for cells that are too large for the stream.
        mark: what the metadata `kube_nb` says meanwhile.
    """

    def __init__(self, base: Mapping[str, Any], read: Read, mark: Mapping[str, Any]) -> None:
        self._base = base
        self._read = read
        self.mark = dict(mark)
        self._restart()

    def _restart(self) -> None:
        self._began = _now()
        self._cells = [json.dumps(_pending(cell)) for cell in self._base["cells"]]
        self._running: int | None = None
        self._outputs: list[dict[str, Any]] = []
        self._shown: dict[str, dict[str, Any]] = {}
        self._clears = False
        self._since = ""

    def take(self, batch: Iterable[Text | Event | Attempt]) -> bool:
        """What a batch of the stream changes; whether it changed anything."""
        changed = False
        for item in batch:
            if isinstance(item, Attempt):
                self._restart()
                changed = True
            elif isinstance(item, Text):
                changed |= self._text(item.data)
            elif item.rank == 0:
                changed |= self._event(item)
        return changed

    def pieces(self) -> list[str]:
        """The notebook as JSON, in pieces."""
        cells = self._cells
        if self._running is not None:
            cells = [*cells]
            cells[self._running] = json.dumps(self._running_cell(self._running))
        metadata = dict(self._base.get("metadata", {}))
        metadata["papermill"] = {**metadata.get("papermill", {}), "start_time": self._began, "end_time": None}
        metadata["kube_nb"] = {**metadata.get("kube_nb", {}), **self.mark}
        tail = json.dumps(
            {
                "metadata": metadata,
                "nbformat": self._base.get("nbformat", 4),
                "nbformat_minor": self._base.get("nbformat_minor", 5),
            }
        )
        return ['{"cells": [\n', ",\n".join(cells), "\n],\n", tail[1:], "\n"]

    def _running_cell(self, at: int) -> dict[str, Any]:
        cell = _pending(self._base["cells"][at])
        cell["outputs"] = self._outputs
        cell["metadata"]["papermill"] |= {"status": "running", "start_time": self._since}
        return cell

    def _text(self, data: bytes) -> bool:
        if self._running is None:
            return False
        self._clear_now()
        text = data.decode("utf-8", "replace")
        last = self._outputs[-1] if self._outputs else None
        if last is None or last["output_type"] != "stream":
            last = {"output_type": "stream", "name": "stdout", "text": ""}
            self._outputs.append(last)
        last["text"] = (last["text"] + text)[-_LIVE:]
        return True

    def _event(self, event: Event) -> bool:
        data = event.data
        if event.kind == "cell":
            return self._cell(data)
        if self._running is None or event.kind not in ("display", "clear"):
            return False
        if event.kind == "clear":
            self._clears = bool(data.get("wait"))
            if not self._clears:
                self._outputs.clear()
            return True
        return self._display(data)

    def _display(self, data: Mapping[str, Any]) -> bool:
        if "object" in data:  # what is large is seen when its cell has ended
            return False
        content = {"data": data.get("data", {}), "metadata": data.get("metadata", {})}
        known = self._shown.get(str(data.get("id")))
        if data.get("update"):
            if known is not None:
                known |= content
            return known is not None
        self._clear_now()
        shown = {"output_type": "display_data", **content}
        self._outputs.append(shown)
        if data.get("id"):
            self._shown[str(data["id"])] = shown
        return True

    def _clear_now(self) -> None:
        if self._clears:
            self._clears = False
            self._outputs.clear()

    def _cell(self, data: Mapping[str, Any]) -> bool:
        at = data.get("at")
        if not isinstance(at, int) or not 0 <= at < len(self._cells):
            return False
        self._outputs, self._shown, self._clears = [], {}, False
        if data.get("status") == "running":
            self._running, self._since = at, _now()
            return True
        self._running = None
        if "object" in data:
            try:
                self._cells[at] = self._read(str(data["object"]), int(data.get("size", 0))).decode()
            except KubeNbError:  # it cannot be had now; the executed notebook has it at the end
                return False
        elif isinstance(data.get("cell"), dict):
            self._cells[at] = json.dumps(data["cell"])
        return True


class Growth:
    """Writes what a job's stream tells to a file, from a thread of its own.

    Args:
        live: the cells.
        output: the file; its folder must be there.
    """

    def __init__(self, live: Live, output: Path) -> None:
        self._live = live
        self._output = output
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._changed.set()
        self._thread = threading.Thread(target=self._run, name=f"grow-{output.name}", daemon=True)
        self._thread.start()

    def take(self, batch: Iterable[Text | Event | Attempt]) -> None:
        """Remember what a batch of the stream says; it is written soon."""
        with self._lock:
            changed = self._live.take(batch)
        if changed:
            self._changed.set()

    def close(self) -> None:
        """No more is written when this returns."""
        self._closed.set()
        self._changed.set()
        self._thread.join()

    def end(self, state: str) -> None:
        """Write a last time, for a job that gives no executed notebook.

        Raises:
            StorageFailed: it cannot be written.
        """
        self.close()
        self._live.mark |= {"state": state}
        replace_file(self._output, self._live.pieces())

    def _run(self) -> None:
        while not self._closed.is_set():
            self._changed.wait()
            if self._closed.is_set():
                return
            self._changed.clear()
            began = time.monotonic()
            try:
                with self._lock:
                    pieces = self._live.pieces()
                replace_file(self._output, pieces)
            except StorageFailed:  # told when the whole notebook cannot be written either
                return
            self._closed.wait(max(_SOONEST, (time.monotonic() - began) / SHARE))


def replace_file(path: Path, pieces: Iterable[str]) -> None:
    """Put a file in the place of another in one step, so that whoever opens it sees one or the other, whole.

    Raises:
        StorageFailed: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident():x}.part")
    try:
        try:
            with draft.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(pieces)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StorageFailed(
            what=f"the executed notebook cannot be written to {path}",
            why=str(error.strerror or error),
            next="it is kept with its job: job.save(PATH) writes it elsewhere",
        ) from error


def _pending(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell as papermill has it before it runs."""
    blank = dict.fromkeys(("exception", "start_time", "end_time", "duration"))
    made = {**cell, "metadata": {**cell.get("metadata", {}), "papermill": {**blank, "status": "pending"}}}
    if cell["cell_type"] == "code":
        made |= {"outputs": [], "execution_count": None}
    return made


def _now() -> str:
    return datetime.now(UTC).isoformat()
