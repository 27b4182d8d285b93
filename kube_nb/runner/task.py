"""The life of the sent code in its rank: its values are loaded, it runs, and what it made goes back.

What only the end needs is imported then: nothing should stand between the submit and the first line of the code.
"""

from __future__ import annotations

import atexit
import builtins
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from . import execute, graph, imports
from .changes import Baseline
from .display import Displays
from .objects import CorruptedObject, Objects
from .shell import Session
from .voice import Voice

_WORTH_SAYING = 64 * 1024 * 1024
_EXCEPTION = 64 * 1024
_NAMED = 8


class Task:
    """Runs one task in this process, once.

    Args:
        spec: what the node says: the bundle, where results go, which rank this is.
        voice: to the runner.
        main: the `__main__` of the sent code.
    """

    def __init__(self, spec: dict[str, Any], voice: Voice, main: ModuleType) -> None:
        self._spec = spec
        self._voice = voice
        self._main = main
        self._namespace: dict[str, Any] = main.__dict__
        with open(os.path.join(spec["bundle"], "manifest.json"), encoding="utf-8") as file:
            self._manifest = json.load(file)
        self._task = self._manifest["task"]
        self._outputs = self._manifest["outputs"]
        self._sent = Objects(Path(spec["bundle"], "objects"))
        self._made = Objects(Path(spec["out"], "objects"))
        self._session = Session(main, Displays(voice, self._made))
        self._received: set[str] = set()
        self._baseline: Baseline | None = None
        self._pid = os.getpid()
        self._bye: dict[str, Any] = {"status": "error", "exit": 1}

    def run(self) -> int:
        """Do all of it; the exit status. The goodbye is said when everything else in this process has ended."""
        atexit.register(self._say_goodbye)
        try:
            code = self._prepare()
        except (CorruptedObject, ImportError) as error:
            kind = "BundleCorrupted" if isinstance(error, CorruptedObject) else "EnvironmentFailed"
            return self._fail(error, code=kind)
        except BaseException as error:  # noqa: BLE001 - whatever a constructor of the person's values raises
            return self._fail(error)
        error: BaseException | None = None
        try:
            code.run(self._namespace)
        except BaseException as raised:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of the sent code too
            error = raised
        if os.getpid() != self._pid:
            return self._end_child(error)
        try:
            self._session.finish(error)
        except Exception as trouble:  # noqa: BLE001 - a figure that fails to draw does not fail a cell
            from . import failure

            sys.stderr.write(failure.text(trouble) + "\n")
        return self._conclude(error)

    # Before ---------------------------------------------------------------------------------------------------------

    def _prepare(self) -> execute.Code:
        """All that comes before the first line of the sent code."""
        task = self._task
        sources = {name: self._text(digest) for name, digest in self._manifest["sources"].items()}
        source = self._text(task["source"])
        execute.remember({task["filename"]: source} | sources)
        plain = task["kind"] == "script"
        self._furnish(task["filename"] if plain else None)
        code = execute.Code(source, task["filename"], returns=task["returns"], plain=plain)
        try:
            self._load()
        except ImportError as error:
            error.add_note("The values that the code reads could not be loaded: add what is missing with --packages.")
            raise
        if self._spec["rank"] == 0 and self._outputs["names"] is None and self._outputs["check"]:
            self._baseline = Baseline(self._outputs["check"], self._namespace, self._outputs["budget"])
        self._say_state("run", "running")
        return code

    def _furnish(self, script: str | None) -> None:
        """What a cell finds around it in a notebook, or a file in Python."""
        session = self._session
        imports.watch(session).install()
        found = {"exit": sys.exit, "quit": sys.exit, "display": session.display, "get_ipython": session.get_ipython}
        for name, value in found.items():
            setattr(builtins, name, value)
        sys.displayhook = session.show_result
        sys.argv[:] = [script or ""]
        if script is not None:
            placed = os.path.join(self._spec["work"], os.path.basename(script))
            self._main.__file__ = placed if os.path.exists(placed) else os.path.abspath(script)

    def _load(self) -> None:
        """Load what travelled; then what lies with earlier jobs, which may be made of the classes that travelled."""
        size = self._manifest["graph"].get("size", 0)
        if size > _WORTH_SAYING and self._leads:
            self._voice.say("state", phase="Starting", step="load", text=f"loading {size / 1e6:.0f} MB")
        namespace = self._namespace
        graph.load(self._manifest["graph"], namespace=namespace, objects=self._sent, arrived=namespace.update)
        self._received.update(namespace)
        for name, reference in self._manifest.get("remotes", {}).items():
            namespace[name] = graph.load(reference, namespace=namespace, objects=self._sent)[name]

    def _text(self, digest: str) -> str:
        return self._sent.read(digest).decode()

    # After ----------------------------------------------------------------------------------------------------------

    def _conclude(self, error: BaseException | None) -> int:
        """Give back what there is to give, then say how it ended."""
        failed = error is not None and not (isinstance(error, SystemExit) and _exit_code(error) == 0)
        if self._spec["rank"] == 0:
            try:
                self._give_back(failed)
            except Exception as trouble:  # noqa: BLE001 - no room, or a file that cannot be read
                if not failed:
                    return self._fail(trouble)
        if error is not None and failed:
            return self._fail(error)
        self._bye = {"status": "ok", "exit": 0} if error is None else {"status": "exit", "exit": 0}
        return 0

    def _give_back(self, failed: bool) -> None:
        """Write and announce what comes back; of code that failed, only what was asked for by name."""
        from .results import Results

        results = Results(self._namespace, self._made, self._received)
        asked: list[str] | None = self._outputs["names"]
        unchecked: list[str] = []
        if asked is not None:
            names = results.exactly(asked)
        elif failed:
            names = []
        else:
            changed, unchecked = self._baseline.compare() if self._baseline is not None else ([], [])
            names = results.unasked(self._outputs["assigned"], changed)
        if not failed and self._task["returns"] and execute.RESULT in self._namespace:
            names = list(dict.fromkeys([*names, execute.RESULT]))
        collect = self._manifest["collect"]
        if failed and not asked and not collect:
            return
        if names or collect:
            words = ["the result" if name == execute.RESULT else name for name in [*names, *collect]]
            more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
            self._say_state("return", f"returning {', '.join(words[:_NAMED])}{more}")
        files = results.files(collect, self._spec["work"])
        limit = None if asked is not None else self._outputs["limit"]
        self._voice.say("result", index=results.index(names, limit=limit, unchecked=unchecked, files=files))

    def _fail(self, error: BaseException, *, code: str | None = None) -> int:
        """Say what the code ended with; the exit status that goes with it."""
        from . import failure
        from .ending import disk_is_full

        if isinstance(error, OSError) and disk_is_full(error):
            code = "OutOfDisk"
        status = 1
        if isinstance(error, SystemExit):
            status = _exit_code(error)
            if error.code is not None and not isinstance(error.code, int):
                print(error.code, file=sys.stderr)
        sources = {self._task["filename"], *self._manifest["sources"]}
        self._voice.say("error", error=failure.describe(error, pickled=self._pickled, sources=sources))
        self._bye = {"status": "exit" if isinstance(error, SystemExit) else "error", "exit": status}
        if code is not None:
            self._bye |= {"code": code, "ename": type(error).__name__, "evalue": str(error)[:500]}
        return status

    def _pickled(self, error: BaseException) -> dict[str, Any] | None:
        """The exception as a graph that is part of its record; None where it is large or cannot be pickled."""
        try:
            if graph.size(error, namespace=self._namespace) > _EXCEPTION:
                return None
            reference = graph.dump(
                {"exception": error},
                namespace=self._namespace,
                objects=self._made,
                classes=graph.notebook_classes(),
                in_band=sys.maxsize,
                inline=2 * _EXCEPTION,
            )
        except Exception:  # noqa: BLE001 - pickling runs the person's code, which may raise anything
            return None
        return reference if reference.get("data") else None

    def _end_child(self, error: BaseException | None) -> int:
        """A forked child ran on to the end of the code: it ends as a Python program does; the runner hears nothing."""
        if isinstance(error, SystemExit):
            raise error
        if error is not None:
            from . import failure

            sys.stderr.write(failure.text(error) + "\n")
        return int(error is not None)

    # Words ----------------------------------------------------------------------------------------------------------

    @property
    def _leads(self) -> bool:
        """Whether this is the first rank of its node, which speaks for all of them."""
        return os.environ.get("LOCAL_RANK", "0") == "0"

    def _say_state(self, step: str, text: str) -> None:
        if self._leads:
            self._voice.say("state", phase="Running", step=step, text=text)

    def _say_goodbye(self) -> None:
        if os.getpid() == self._pid:
            with suppress(ConnectionError):  # nobody is left to hear it
                self._voice.say("bye", **self._bye)


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    return int(error.code) if isinstance(error.code, int) else 1
