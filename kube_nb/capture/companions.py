"""What code needs to show things as its notebook does, beyond what it imports itself.

A notebook's kernel has IPython, and in most of them plotting works without an import. A job elsewhere has what its code
imports; what the libraries in use then look for by themselves is named here.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from importlib.util import find_spec

from kube_nb.capture.escapes import escape_of

_DRAWN = frozenset({"matplotlib", "plotly"})
"""Libraries whose pictures reach a notebook through IPython."""
_PLOTS = frozenset({"boxplot", "hist", "plot"})
"""By these methods pandas draws with matplotlib, which it imports only then."""
_OURS = frozenset({"report", "progress", "output"})


def companions(imports: Iterable[str], attributes: Collection[str], *, shows: bool) -> frozenset[str]:
    """Modules that are installed here and that the code will look for.

    Args:
        imports: dotted names of modules that it uses.
        attributes: every name in it that follows a dot.
        shows: a value is shown at its end, or in it by `display`.

    Example:
        >>> sorted(companions({"pandas"}, {"plot"}, shows=False))
        ['IPython', 'matplotlib']
    """
    used = {name.partition(".")[0] for name in imports}
    found = set[str]()
    if "pandas" in used and not _PLOTS.isdisjoint(attributes):
        found.add("matplotlib")
    if "plotly" in used:
        found.add("nbformat")  # its pictures are checked by the notebook's format
    if shows or not _DRAWN.isdisjoint(used | found):
        found.add("IPython")
    return frozenset(name for name in found if find_spec(name) is not None)


def attributes_in(tree: ast.Module) -> frozenset[str]:
    """Every name in a piece of code that follows a dot."""
    return frozenset(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def shows_a_value(tree: ast.Module) -> bool:
    """Whether a notebook shows the value of this cell's last expression, or it calls `display`.

    What certainly gives no value is left out: `print(…)`, `!command`, `kn.report(…)`, constants.

    Example:
        >>> shows_a_value(ast.parse("df.head()")), shows_a_value(ast.parse("x = 1"))
        (True, False)
    """
    if any(isinstance(node, ast.Name) and node.id == "display" for node in ast.walk(tree)):
        return True
    match tree.body[-1:]:
        case [ast.Expr(value=ast.Constant() | ast.Call(func=ast.Name(id="print")))]:
            return False
        case [ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(), attr=attr)))] if attr in _OURS:
            return False
        case [ast.Expr(value=value)]:
            return escape_of(value) is None
    return False
