"""Where the running cell is: what tracebacks call it, and on which of its lines the sent body begins."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


@dataclass(frozen=True, kw_only=True)
class Place:
    """The cell a person looks at.

    Attributes:
        filename: the name under which IPython knows the cell, so that its own tracebacks find the source.
        label: `Cell In[5]`.
        text: the whole cell as typed, its magic lines included.
        first_line: the line of `text` on which the body begins, from 1.
    """

    filename: str
    label: str
    text: str
    first_line: int


def place_of(shell: InteractiveShell, body: str) -> Place:
    """The place of a magic's body, under however many other magics it stands."""
    history = shell.history_manager.input_hist_raw if shell.history_manager else [""]
    text, number = history[-1], len(history) - 1
    at = text.rfind(body.rstrip("\n"))
    if not body.strip() or at < 0:
        text, at = body, 0
    filename = shell.compile.cache(text, number, raw_code=text)
    return Place(filename=filename, label=f"Cell In[{number}]", text=text, first_line=text[:at].count("\n") + 1)


def session_of(shell: InteractiveShell) -> str:
    """What tells the jobs of this kernel from those of others."""
    kernel = getattr(shell, "kernel", None)
    return str(kernel.session.session) if kernel is not None else f"pid-{os.getpid()}"
