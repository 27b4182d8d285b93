"""The life of a notebook in its rank: its kernel is a child, its cells run one after the other, all of it comes back.

What happened to the kernel is told by how its process ended, not by what was heard of it.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import resource
import sys
from typing import TYPE_CHECKING, Any

from .objects import CorruptedObject
from .task import Task

if TYPE_CHECKING:
    from .notebook_client import Broken, Execution

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FRAME = re.compile(r"(?:(Cell In ?\[\d+\])|File (\S.*?))(?:, line |:)(\d+)(?:, in (\S+?)(?:\(.*)?)?$")
_ARROW = re.compile(r"-+> \d+ ?(.*)")
_WORDS = 400


class NotebookTask(Task):
    """Runs a notebook, once."""

    def run(self) -> int:
        """Do all of it; the exit status."""
        atexit.register(self._say_goodbye)
        self._how: dict[str, Any] = self._task["how"]
        try:
            return self._execute()
        except CorruptedObject as error:
            return self._fail(error, code="BundleCorrupted")
        except OSError as error:  # no room for what came of it
            return self._fail(error)

    def _execute(self) -> int:
        os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        # Where it is installed, jsonschema makes a grammar of URIs at import: a second, for a check nobody asks for.
        sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
        try:
            import asyncio

            from nbformat import v4

            from .notebook_client import Broken, Execution, NoKernel, manager_for
        except ImportError as error:
            return self._refuse(
                "the job cannot run a notebook",
                f"{error.name or 'nbclient'} cannot be imported there: {error}",
                "add --packages nbclient,ipykernel",
            )
        notebook = v4.reads(self._text(self._task["source"]))
        try:
            manager = manager_for(
                self._how["kernel"], self._how["language"], os.path.dirname(os.environ["KUBE_NB_SOCKET"])
            )
        except NoKernel as none:
            return self._refuse(*none.args)
        execution = Execution(notebook, voice=self._voice, objects=self._made, manager=manager, **self._how["traits"])
        broken: Broken | None = None
        try:
            asyncio.run(execution.run())
        except Broken as error:
            broken = error
        except SystemExit:
            pass
        self._give_back_notebook(v4.writes(notebook), notebook)
        if broken is None:
            self._bye = {"status": "ok", "exit": 0}
            return 0
        return self._tell(broken, execution)

    # What comes back

    def _give_back_notebook(self, text: str, notebook: Any) -> None:
        """The executed notebook, whole or in part, and the files that were asked for."""
        from .results import Results

        results = Results({}, self._made)
        files = results.files(self._manifest["collect"], self._spec["work"])
        index: dict[str, Any] = {"notebook": self._stored(text), "usage": _usage()}
        if self._how.get("html"):
            html = self._html(notebook)
            index |= {"html": self._stored(html)} if html else {}
        # A lone surrogate, which UTF-8 has no bytes for, becomes the escape that JSON knows.
        self._voice.say("result", index=index | results.index([], limit=None, files=files))

    def _stored(self, text: str) -> dict[str, Any]:
        content = text.encode("utf-8", "backslashreplace")
        return {"object": self._made.write(content), "size": len(content)}

    def _html(self, notebook: Any) -> str:
        try:
            from nbconvert import HTMLExporter
        except ImportError as error:
            print(f"there is no HTML of this notebook: {error}; add --packages nbconvert", file=sys.stderr)
            return ""
        return HTMLExporter().from_notebook_node(notebook)[0]

    # How it ended

    def _refuse(self, what: str, why: str, next: str) -> int:
        """Nothing was run."""
        return self._bad_end("EnvironmentFailed", what, why, next)

    def _tell(self, broken: Broken, execution: Execution) -> int:
        place = execution.place(broken.cell) if broken.cell else "the notebook"
        name, _, heading = place.partition(": ")
        cell = f"{name} ({heading})" if heading else name
        if broken.kind == "error":
            return self._error(broken.output, cell, execution.source(broken.cell))
        if broken.kind == "timeout":
            limit = self._how["traits"].get("timeout")
            return self._bad_end(
                "TimedOut",
                f"{cell} was stopped: its time was over",
                f"it ran longer than {limit:g} s, the most that a cell may take",
                "give cells more time with --cell-timeout, or less to do",
            )
        if broken.kind == "start" and broken.status is None:
            return self._refuse(
                "the kernel of the notebook did not start",
                _short(broken.output),
                "look at %kube_logs; --start-timeout gives it more time",
            )
        if broken.kind == "stopped":
            self._bye = {"status": "error", "exit": 1, "ename": "Stopped", "evalue": f"in {cell}", "place": cell}
            return 1
        return self._dead(broken.status, cell)

    def _dead(self, status: int | None, cell: str) -> int:
        """The kernel's process is gone: by which signal or with which status."""
        how = {"exit": status, "signal": None} if status is None or status >= 0 else {"exit": None, "signal": -status}
        self._bye = {"status": "died", **how, "evalue": f"in {cell}", "place": cell}
        return 1

    def _error(self, output: Any, cell: str, source: str) -> int:
        name, words = str(output["ename"]), str(output["evalue"])
        lines = _COLOURS.sub("", "\n".join(output.get("traceback") or ())).splitlines()
        frames = _frames(lines, f"{self._task['label']}, {cell}", source)
        line = next((frame["line"] for frame in frames if frame["own"]), None)
        for frame in frames:
            del frame["own"]
        record: dict[str, Any] = {"ename": name, "evalue": words, "qualified": name, "text": "\n".join(lines)}
        record |= {"frames": frames, "cause": None, "context": None, "group": [], "notes": [], "pickle": None}
        if len(json.dumps(record)) > 1024 * 1024:
            record |= {"text": record["text"][:100_000], "evalue": words[:30_000]}
        self._voice.say("error", error=record)
        what = f"{cell} raised {name}" + (f" in line {line}" if line else "")
        detail = {"what": what, "why": _short(words), "next": "mend the cell and send the notebook again"}
        self._bye = {"status": "error", "exit": 1, "ename": name, "evalue": words[:500], "line": line, "detail": detail}
        return 1

    def _bad_end(self, code: str, what: str, why: str, next: str) -> int:
        detail = {"what": what, "why": why, "next": next}
        self._bye = {"status": "error", "exit": 1, "code": code, "evalue": what, "detail": detail}
        return 1


def _frames(lines: list[str], cell: str, source: str) -> list[dict[str, Any]]:
    """The frames of a traceback as IPython prints it; those in the cell itself are its own."""
    found: list[dict[str, Any]] = []
    texts = source.splitlines()
    first = ""
    for at, line in enumerate(lines):
        match = _FRAME.match(line.strip())
        if match is None:
            continue
        number = int(match[3])
        first = first or match[1] or ""
        own = bool(match[1]) and match[1] == first
        code = texts[number - 1].strip() if own and number <= len(texts) else _code(lines[at + 1 : at + 8])
        file = cell if own else match[1] or match[2]
        found.append({"file": file, "line": number, "name": match[4] or "", "code": code, "end": number, "own": own})
    return found[:100]


def _code(lines: list[str]) -> str:
    return next((match[1].strip() for match in map(_ARROW.match, lines) if match), "")


def _short(text: Any) -> str:
    words = str(text).strip()
    return words if len(words) <= _WORDS else words[:_WORDS] + " …"


def _usage() -> dict[str, float]:
    """What the kernel and what it started have used, and the memory of what executed the cells."""
    used, own = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    seconds = round(used.ru_utime + used.ru_stime, 3)
    return {"cpu_seconds": seconds, "peak_memory": used.ru_maxrss * unit, "executor_memory": own.ru_maxrss * unit}
