"""kube-nb: send a notebook's cell, function or script to where the compute is, and get its results back.

In a notebook: `%load_ext kube_nb`, then `%%kube_train`. In Python: `import kube_nb as kn`, then `kn.Client()`,
`kn.on(...)`, `@kn.remote(...)`. Inside a job: `kn.report(...)`, `kn.progress(...)`, `kn.output(...)`,
`kn.checkpoint_dir()`, `kn.rank()`, `kn.world_size()`.

Names are loaded when they are first used: loading the extension must cost a notebook nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from kube_nb.client import Client, Remote, on, remote
    from kube_nb.errors import JobFailed, KubeNbError
    from kube_nb.inside import checkpoint_dir, output, progress, rank, report, world_size
    from kube_nb.jobs.job import Job
    from kube_nb.jobs.outputs import RemoteValue

__version__ = "0.1.0"
__all__ = [
    "Client",
    "Job",
    "JobFailed",
    "KubeNbError",
    "Remote",
    "RemoteValue",
    "checkpoint_dir",
    "on",
    "output",
    "progress",
    "rank",
    "remote",
    "report",
    "world_size",
]

_HOME = {
    "Client": "client",
    "Remote": "client",
    "on": "client",
    "remote": "client",
    "Job": "jobs.job",
    "RemoteValue": "jobs.outputs",
    "JobFailed": "errors",
    "KubeNbError": "errors",
} | dict.fromkeys(("checkpoint_dir", "output", "progress", "rank", "report", "world_size"), "inside")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `kube_nb` has no attribute `{name}`")
    value = getattr(import_module(f"kube_nb.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """What `%load_ext kube_nb` calls: registers the magics and their completion. Doing it again changes nothing."""
    from kube_nb.magics import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """What `%unload_ext kube_nb` calls: takes the magics and their completion away again."""
    from kube_nb.magics import unload

    unload(shell)
