"""Which notebook a kernel belongs to, as saved, and what of it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kube_nb.errors import NotFound

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_MOST = 5


def saved_notebook(shell: InteractiveShell) -> Path:
    """The file of the notebook that this kernel serves.

    Raises:
        NotFound: nothing tells which it is.
    """
    for told in (shell.user_ns.get("__vsc_ipynb_file__"), os.environ.get("JPY_SESSION_NAME")):
        if told and Path(str(told)).is_file():
            return Path(str(told))
    raise NotFound(
        what="which notebook this is cannot be told",
        why="neither VS Code nor Jupyter Server has said where it is saved",
        next="save it and write its path: %kube_notebook NAME.ipynb",
    )


def unsaved(shell: InteractiveShell, path: Path) -> str:
    """A sentence about the cells that ran in this kernel and are not in the file; empty: there are none.

    Example: `In[3], In[5] ran here and are not in train.ipynb as it is saved: save it first`.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # the submit says what is wrong with it
    saved = {_bare("".join(cell.get("source", ""))) for cell in cells if isinstance(cell, dict)}
    ran = shell.history_manager.input_hist_raw if shell.history_manager else []
    missing = [number for number, text in enumerate(ran[:-1]) if _bare(text) and _bare(text) not in saved]
    if not missing:
        return ""
    listed = ", ".join(f"In[{number}]" for number in missing[:_MOST]) + (" …" if len(missing) > _MOST else "")
    return f"{listed} ran here and is not in {path.name} as it is saved: save it first if the job needs it"


def _bare(text: str) -> str:
    return text.strip()
