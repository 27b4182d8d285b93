"""From the text of a cell to what is sent: Python with the cell's own line numbers, and what there is to know of it.

What can only work in a kernel is refused on the way (`refusals.py`), before anything is made.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from kube_nb.capture.companions import attributes_in, shows_a_value
from kube_nb.capture.escapes import Transform, escape_of, to_python, unfold
from kube_nb.capture.flow import flow_of
from kube_nb.capture.imports import imports_of
from kube_nb.capture.names import Reads
from kube_nb.capture.paths import paths_in
from kube_nb.capture.refusals import check
from kube_nb.capture.touched import touched


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is sent of a cell.

    Attributes:
        raw: the text as it was typed.
        code: Python; its line N is line N of the person's cell.
        filename: what tracebacks call it.
        reads: names whose values from before the cell it may read.
        assigned: names that come back by default: what it assigns at the top level, functions and classes too.
        touched: names whose values it may change in place.
        announces: what in it reads names out of sight, such as `eval` and `df.query()`.
        imports: dotted names of modules that it may import.
        relative_paths: strings that look like files beside the notebook; whether they exist is the caller's question.
        needs_ipython: it uses magics; `!command` alone needs no IPython.
        shows: a notebook shows a value at its end, or in it by `display`.
        attributes: every name in it that follows a dot.
    """

    raw: str
    code: str
    filename: str
    reads: Reads
    assigned: frozenset[str]
    touched: frozenset[str]
    announces: frozenset[str]
    imports: frozenset[str]
    relative_paths: frozenset[str]
    needs_ipython: bool
    shows: bool
    attributes: frozenset[str]


def prepare(cell: str, *, filename: str, first_line: int = 1, transform: Transform | None = None) -> Source:
    """Make of a cell's text what is sent.

    Args:
        cell: the text below `%%kube_train`, or what follows `%kube_train` on its line.
        filename: what tracebacks shall call it, e.g. "Cell In[5]".
        first_line: the line of the person's cell on which `cell` begins.
        transform: the kernel's `shell.transform_cell`; None: IPython's own.

    Raises:
        SyntaxError: Python's own, with the line in the person's cell.
        CannotRunThere: it uses what only a kernel has.

    Example:
        >>> prepare("model = fit(X)", filename="Cell In[1]").assigned
        frozenset({'model'})
    """
    code = to_python(cell, first_line=first_line, transform=transform)
    unfolded = list(unfold(code, transform=transform, filename=filename))
    trees = [tree for _, tree in unfolded]
    for tree in trees:
        check(tree)
    escapes = [escape for tree in trees for node in ast.walk(tree) if (escape := escape_of(node))]
    flow = flow_of(code, transform=transform, filename=filename)
    return Source(
        raw=cell,
        code=code,
        filename=filename,
        reads=flow.reads,
        assigned=flow.assigned,
        touched=frozenset(touched(code, transform=transform)),
        announces=flow.announces,
        imports=frozenset(module for text, _ in unfolded for module in imports_of(text)),
        relative_paths=frozenset(path for tree in trees for path in paths_in(tree)),
        needs_ipython=any(escape.kind != "system" for escape in escapes) or any(map(_uses_ipython, trees)),
        shows=any(map(shows_a_value, trees)),
        attributes=frozenset(attribute for tree in trees for attribute in attributes_in(tree)),
    )


def _uses_ipython(tree: ast.Module) -> bool:
    """Whether `get_ipython()` is called for more than commands and magics."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    used = sum(1 for call in calls if escape_of(call))
    return sum(1 for call in calls if isinstance(call.func, ast.Name) and call.func.id == "get_ipython") > used
