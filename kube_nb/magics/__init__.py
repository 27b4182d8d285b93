"""The IPython face: parse, call the client, show."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

NAMES = (
    "kube_train",
    "kube_notebook",
    "kube_jobs",
    "kube_logs",
    "kube_attach",
    "kube_cancel",
    "kube_delete",
    "kube_rerun",
    "kube_config",
    "kube_doctor",
)


def load(shell: InteractiveShell) -> None:
    """Register the magics and their completion; doing it again changes nothing."""
    from kube_nb.magics.complete import complete
    from kube_nb.magics.manage import JobMagics
    from kube_nb.magics.notebook import NotebookMagics
    from kube_nb.magics.setup import SetupMagics
    from kube_nb.magics.train import TrainMagics

    for magics in (TrainMagics, NotebookMagics, JobMagics, SetupMagics):
        shell.register_magics(magics)
    completer = getattr(shell, "Completer", None)
    if completer is not None and complete not in completer.custom_matchers:
        completer.custom_matchers.append(complete)


def unload(shell: InteractiveShell) -> None:
    """Take the magics and their completion away; doing it again changes nothing."""
    from kube_nb.magics.complete import complete

    for kind in ("line", "cell"):
        for name in NAMES:
            shell.magics_manager.magics[kind].pop(name, None)
    completer = getattr(shell, "Completer", None)
    if completer is not None and complete in completer.custom_matchers:
        completer.custom_matchers.remove(complete)
