"""One rank: the process in which the sent code runs, made ready for it."""

from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import json
import os
import sys
from types import ModuleType
from typing import Any, NoReturn

from .streams import Streams
from .voice import Voice


def main() -> NoReturn:
    """Run the sent code and exit as Python would have. `KUBE_NB_RANK_SPEC` names the file that says what to run."""
    with open(os.environ.pop("KUBE_NB_RANK_SPEC"), encoding="utf-8") as file:
        spec = json.load(file)
    streams = Streams()
    streams.install()
    voice = Voice(os.environ["KUBE_NB_SOCKET"], os.environ["KUBE_NB_TOKEN"], streams.flush)
    _load_cloudpickle(os.path.join(spec["runner"], "vendor"))
    from .task import Task  # after cloudpickle, which it needs

    if spec.get("notebook"):
        from .notebook import NotebookTask as Task
    _set_path(spec)
    builtins.input = _no_input
    raise SystemExit(Task(spec, voice, _fresh_main()).run())


def _fresh_main() -> ModuleType:
    """A `__main__` that holds the sent code alone; without a file, so that a spawned child does not run it again."""
    _kept.append(sys.modules["__main__"])
    sys.modules["__main__"] = fresh = ModuleType("__main__")
    fresh.__dict__["__builtins__"] = builtins
    return fresh


_kept: list[ModuleType] = []
"""A module that nobody refers to loses its names, which code that still runs may need."""


def _load_cloudpickle(vendor: str) -> None:
    """Import the kernel's version of cloudpickle, whatever the environment has."""
    if not os.path.isdir(vendor):
        return  # in the kernel's own process, whose version it is
    sys.path.insert(0, vendor)
    try:
        importlib.import_module("cloudpickle.cloudpickle")
    finally:
        sys.path.remove(vendor)


def _set_path(spec: dict[str, Any]) -> None:
    """What the sent code imports, and what Python programs that it starts do."""
    work, runner = spec["work"], spec["runner"]
    small = os.path.join(runner, "small")
    before = [*([spec["modules"]] if spec["modules"] else []), *spec["env_path"]]
    given = [entry for entry in sys.path if entry not in ("", runner, work)]
    sys.path[:] = [work, *before, *given, small]
    # There is no way to put a folder last on the path of a program that is started, so the small kube_nb is put first
    # only where there is no other.
    full = importlib.machinery.PathFinder.find_spec("kube_nb", sys.path[:-1]) is not None
    children = [*before, *([] if full else [small]), *filter(None, [os.environ.get("PYTHONPATH")])]
    if children:
        os.environ["PYTHONPATH"] = os.pathsep.join(children)
    shared = filter(os.path.isdir, (os.path.join(entry, "share", "jupyter") for entry in spec["env_path"]))
    if places := [*shared, *filter(None, [os.environ.get("JUPYTER_PATH")])]:  # templates, kernels
        os.environ["JUPYTER_PATH"] = os.pathsep.join(places)
    programs = filter(os.path.isdir, (os.path.join(entry, "bin") for entry in spec["env_path"]))
    os.environ["PATH"] = os.pathsep.join([*programs, os.environ.get("PATH", os.defpath)])


def _no_input(prompt: object = "", /) -> str:
    raise EOFError("input() has nobody to ask: a job runs without a keyboard; send the value with the code instead")
