"""A kernel within the test process: a real IPython shell with the magics loaded, and a frontend that keeps its output.

The frontend does what JupyterLab and nbclient do with the messages of a kernel: text of one stream that follows itself
is joined, carriage returns overwrite, an update replaces every output with that display id, `clear_output` clears.
"""

from __future__ import annotations

import atexit
import io
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from kube_nb import Client, Job
from kube_nb.spec import JobId

CARD = "kube-nb-card-"
"""How the display ids of job cards begin."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Piece:
    """One output of a cell: text of a stream, or a MIME bundle."""

    stream: str = ""
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    id: str | None = None

    @property
    def is_card(self) -> bool:
        return (self.id or "").startswith(CARD)

    def __str__(self) -> str:
        return f"<{self.stream}: {self.text!r}>" if self.stream else f"<display: {', '.join(self.data)}>"


@dataclass(frozen=True)
class Error:
    """The `error` message as the frontend gets it."""

    ename: str
    evalue: str
    traceback: list[str]

    @property
    def text(self) -> str:
        """The traceback without colours."""
        return _ANSI.sub("", "\n".join(self.traceback))


class Shown:
    """What the frontend shows below one cell."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.error: Error | None = None
        self.value: Any = None
        """The value of the cell's last expression."""
        self.submitted: list[JobId] = []
        self._clear_next = False

    @property
    def text(self) -> str:
        """Standard output, as a person sees it: carriage returns have overwritten."""
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        return self._stream("stderr")

    @property
    def displays(self) -> list[dict[str, Any]]:
        """The MIME bundles in order, without the job card."""
        return [piece.data for piece in self.pieces if not piece.stream and not piece.is_card]

    @property
    def cards(self) -> list[dict[str, Any]]:
        """The job cards, each in its last state."""
        return [piece.data for piece in self.pieces if piece.is_card]

    @property
    def card(self) -> str:
        """The text of the one job card."""
        assert len(self.cards) == 1, f"one card was expected, not {len(self.cards)}: {self}"
        return str(self.cards[0]["text/plain"])

    @property
    def job(self) -> Job:
        """The one job that this cell submitted."""
        assert len(self.submitted) == 1, f"one job was expected, not {self.submitted}"
        return Client().job(self.submitted[0])

    def _stream(self, name: str) -> str:
        return overwritten("".join(piece.text for piece in self.pieces if piece.stream == name))

    def __str__(self) -> str:
        return " ".join(map(str, self.pieces)) + (f" {self.error.text}" if self.error else "")

    # What the kernel's messages do ----------------------------------------------------------------------------------

    def write(self, stream: str, text: str) -> None:
        self._before_output()
        if self.pieces and self.pieces[-1].stream == stream:
            self.pieces[-1].text += text
        else:
            self.pieces.append(Piece(stream=stream, text=text))

    def display(self, piece: Piece) -> None:
        self._before_output()
        self.pieces.append(piece)

    def clear(self, wait: bool) -> None:
        if wait:
            self._clear_next = True
        else:
            self.pieces.clear()

    def _before_output(self) -> None:
        if self._clear_next:
            self._clear_next = False
            self.pieces.clear()


class Frontend:
    """All cells of a notebook, and the one whose turn it is."""

    def __init__(self) -> None:
        self.cells: list[Shown] = [Shown()]

    @property
    def cell(self) -> Shown:
        return self.cells[-1]

    def update(self, id: str, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Replace every output with this id, whichever cell shows it; where there is none, nothing happens."""
        for cell in self.cells:
            for piece in cell.pieces:
                if piece.id == id:
                    piece.data, piece.metadata = data, metadata


class _Stream(io.TextIOBase):
    def __init__(self, frontend: Frontend, name: str) -> None:
        self._frontend = frontend
        self.name = name

    encoding = "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text:
            self._frontend.cell.write(self.name, text)
        return len(text)


class _Publisher(DisplayPublisher):
    frontend: Frontend

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_: Any,
    ) -> None:
        id = (transient or {}).get("display_id")
        if update:
            assert id, "an update names the display it updates"
            self.shell.frontend.update(id, dict(data), dict(metadata or {}))
        else:
            self.shell.frontend.cell.display(Piece(data=dict(data), metadata=dict(metadata or {}), id=id))

    def clear_output(self, wait: bool = False) -> None:
        self.shell.frontend.cell.clear(wait)


class _Hook(DisplayHook):
    def write_output_prompt(self) -> None: ...
    def finish_displayhook(self) -> None:
        self._is_active = False

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        self.shell.frontend.cell.display(Piece(data=dict(format_dict), metadata=dict(md_dict or {})))


class _Shell(InteractiveShell):
    """A shell with what the magics look for in a kernel; nobody answers its prompts, as with nbclient."""

    display_pub_class = _Publisher
    displayhook_class = _Hook

    def __init__(self, **options: Any) -> None:
        self.frontend = Frontend()
        self.kernel = SimpleNamespace(session=SimpleNamespace(session="conformance"), _allow_stdin=False)
        super().__init__(**options)

    def enable_gui(self, gui: str | None = None) -> None: ...

    def _showtraceback(self, etype: type, evalue: BaseException, stb: list[str]) -> None:
        self.frontend.cell.error = Error(etype.__name__, str(evalue), list(stb))


class Kernel:
    """A notebook's kernel: `kernel["x"]` is its name `x`; `text`, `displays` and the like are the last sent cell's."""

    def __init__(self) -> None:
        config = Config()
        config.HistoryManager.enabled = False
        config.HistoryManager.hist_file = ":memory:"
        config.InteractiveShell.colors = "nocolor"
        self.shell = _Shell.instance(config=config)
        self._stdout, self._stderr = (_Stream(self.shell.frontend, name) for name in ("stdout", "stderr"))
        self.sent: Shown | None = None
        self.run("%load_ext kube_nb")

    def run(self, code: str, *, fails: bool = False) -> Shown:
        """Run a cell.

        Args:
            fails: it ends with an error, which `.error` then holds; else an error fails the test.
        """
        if code.startswith("\n"):  # a text of several lines in a test
            code = textwrap.dedent(code[1:])
        journal = Client().journal
        before, shown = set(journal.ids()), Shown()
        self.shell.frontend.cells.append(shown)
        with redirect_stdout(self._stdout), redirect_stderr(self._stderr):
            shown.value = self.shell.run_cell(code, store_history=True).result
        shown.submitted = [id for id in journal.ids() if id not in before]
        if fails:
            assert shown.error, f"the cell was to fail, and did not: {shown}"
        elif shown.error:
            raise AssertionError(f"the cell failed: {shown.error.text}\n{shown}")
        return shown

    def send(self, body: str, flags: str = "", *, fails: bool = False) -> Shown:
        """Run a cell as a job."""
        if body.startswith("\n"):
            body = textwrap.dedent(body[1:])
        try:
            return self.run(f"%%kube_train {flags}\n{body}", fails=fails)
        finally:
            self.sent = self.shell.frontend.cell

    def __getitem__(self, name: str) -> Any:
        return self.shell.user_ns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.shell.user_ns

    @property
    def _last(self) -> Shown:
        assert self.sent is not None, "no cell was sent"
        return self.sent

    @property
    def text(self) -> str:
        return self._last.text

    @property
    def displays(self) -> list[dict[str, Any]]:
        return self._last.displays

    @property
    def pieces(self) -> list[Piece]:
        """Text and displays in order, without the job card."""
        return [piece for piece in self._last.pieces if not piece.is_card]

    @property
    def card(self) -> str:
        return self._last.card

    @property
    def error(self) -> Error:
        assert self._last.error is not None, "the cell did not fail"
        return self._last.error

    @property
    def job(self) -> Job:
        return self._last.job

    def close(self) -> None:
        """Leave the process as it was."""
        atexit.unregister(self.shell.atexit_operations)
        self.shell.atexit_operations()
        self.shell.restore_sys_module_state()
        _Shell.clear_instance()


@contextmanager
def own_kernel() -> Iterator[Kernel]:
    """A kernel, and afterwards the process as it was before: there can be only one at a time."""
    main, modules = sys.modules["__main__"], set(sys.modules)
    kernel = Kernel()
    try:
        yield kernel
    finally:
        kernel.close()
        sys.modules["__main__"] = main
        # Modules beside the notebook have names that the next test uses too.
        for name in set(sys.modules) - modules:
            if not _installed(sys.modules[name]):
                del sys.modules[name]


def _installed(module: Any) -> bool:
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
    return not file or "site-packages" in file or file.startswith((sys.base_prefix, sys.prefix)) or "kube_nb" in file


def overwritten(text: str) -> str:
    r"""The text with `\r` as a terminal and a notebook show it.

    Example:
        >>> overwritten("1%\r99%\nok\n")
        '99%\nok\n'
    """
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown)
    return "\n".join(lines)
