"""A kernel in a process of its own, spoken to as a frontend does: for what a signal or a second process decides."""

from __future__ import annotations

import os
import queue
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

import kube_nb

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_PATIENCE = 150.0


@dataclass
class Ran:
    """What the frontend got of one cell."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All that was printed, stdout and stderr."""
        return "".join(m["content"]["text"] for m in self.messages if m["msg_type"] == "stream")

    @property
    def error(self) -> dict[str, Any]:
        """The `error` message; empty where there was none."""
        return next((m["content"] for m in self.messages if m["msg_type"] == "error"), {})

    @property
    def traceback(self) -> str:
        """The error as a person reads it, without colours."""
        return _ANSI.sub("", "\n".join(self.error.get("traceback", [])))

    @property
    def card(self) -> str:
        """The last state of the job card, as text."""
        kinds = ("display_data", "update_display_data")
        shown = [m["content"]["data"].get("text/plain", "") for m in self.messages if m["msg_type"] in kinds]
        return next((text for text in reversed(shown) if text.startswith("job ")), "")

    def __str__(self) -> str:
        return f"{self.text}\n{self.card}\n{self.traceback}"


class SeparateKernel:
    """An ipykernel with the extension loaded.

    Args:
        folder: its working directory.
    """

    def __init__(self, folder: Path) -> None:
        self._manager = KernelManager(kernel_name="python3")
        root = str(Path(kube_nb.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._manager.start_kernel(cwd=str(folder), env={**os.environ, "PYTHONPATH": path})
        self._client = self._manager.client()
        self._client.start_channels()
        try:
            self._client.wait_for_ready(timeout=_PATIENCE)
            loaded = self.run("%load_ext kube_nb")
            assert loaded.reply["status"] == "ok", loaded
        except BaseException:
            self.close()
            raise

    def run(self, code: str, *, watched: bool = True, within: float = _PATIENCE) -> Ran:
        """Execute a cell and wait for its end.

        Args:
            watched: a person can answer; papermill and nbclient say that nobody can.
        """
        return self.start(code, watched=watched).finish(within)

    def start(self, code: str, *, watched: bool = True) -> Execution:
        """Execute a cell and come back at once."""
        return Execution(self, self._client.execute(code, allow_stdin=watched))

    def __getitem__(self, expression: str) -> str:
        """`repr` of an expression in the kernel."""
        id = self._client.execute("", user_expressions={"value": expression}, silent=True)
        value = self.reply(id, _PATIENCE)["user_expressions"]["value"]
        assert value["status"] == "ok", value
        return value["data"]["text/plain"]

    def interrupt(self) -> None:
        """What the stop button does."""
        self._manager.interrupt_kernel()

    def terminate(self) -> None:
        """What a batch system does to a kernel that takes too long."""
        self._manager.signal_kernel(signal.SIGTERM)

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def message(self, within: float) -> dict[str, Any]:
        """The next message that all frontends get."""
        return self._client.get_iopub_msg(timeout=within)

    def reply(self, id: str, within: float) -> dict[str, Any]:
        """The answer to one request."""
        deadline = time.monotonic() + within
        while True:
            reply = self._client.get_shell_msg(timeout=max(0.01, deadline - time.monotonic()))
            if reply["parent_header"].get("msg_id") == id:
                return reply["content"]


class Execution:
    """A cell that runs."""

    def __init__(self, kernel: SeparateKernel, id: str) -> None:
        self._kernel = kernel
        self._id = id
        self._idle = False
        self.ran = Ran()

    def until(self, text: str, within: float = _PATIENCE) -> Ran:
        """Wait until `text` was printed."""
        deadline = time.monotonic() + within
        while text not in self.ran.text:
            assert not self._idle, f"the cell ended without printing {text!r}:\n{self.ran}"
            self._take(deadline)
        return self.ran

    def finish(self, within: float = _PATIENCE) -> Ran:
        """Wait for the end of the cell."""
        deadline = time.monotonic() + within
        while not self._idle:
            self._take(deadline)
        self.ran.reply = self._kernel.reply(self._id, max(0.01, deadline - time.monotonic()))
        return self.ran

    def _take(self, deadline: float) -> None:
        try:
            message = self._kernel.message(max(0.01, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"the cell does not end:\n{self.ran}") from None
        if message["parent_header"].get("msg_id") != self._id:
            return
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            self._idle = True
        self.ran.messages.append(message)
