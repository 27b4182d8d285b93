"""Which modules a piece of Python source imports, without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

INSIDE = frozenset({"report", "progress", "output", "checkpoint_dir", "rank", "world_size"})
"""What the small `kube_nb` that travels with every job offers; code that uses more of kube_nb needs all of it."""
_IMPORTERS = frozenset({"import_module", "__import__"})


def imports_of(source: str, package: str = "", *, aliases: Iterable[str] = ()) -> frozenset[str]:
    """The dotted names of modules that `source` may import, wherever in it and under whatever condition.

    `from a import b` gives both `a` and `a.b`, because only the file system knows whether `b` is a module. The use of
    an attribute of kube_nb counts as its import, so that `kn.Client` is seen. Source with a syntax error imports
    nothing.

    Args:
        package: what relative imports are relative to.
        aliases: names by which the source reaches kube_nb without importing it itself.

    Example:
        >>> sorted(imports_of("from .net import Layer; import numpy as np", "models"))
        ['models.net', 'models.net.Layer', 'numpy']
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # ValueError: NUL bytes
        return frozenset()
    nodes = list(ast.walk(tree))
    names = {name for node in nodes for name in _imported(node, package)}
    ours = set(aliases) | {alias for node in nodes for alias in _aliases(node)}
    return frozenset(names | {f"kube_nb.{attribute}" for node in nodes for attribute in _attributes(node, ours)})


def needs_all_of_kube_nb(names: Iterable[str]) -> bool:
    """Whether code that imports `names` uses more of kube_nb than every job has anyway."""
    return any(top == "kube_nb" and name and name.partition(".")[0] not in INSIDE for top, name in map(_split, names))


def _split(dotted: str) -> tuple[str, str]:
    top, _, rest = dotted.partition(".")
    return top, rest


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            base = absolute(module or "", level, package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in names if alias.name != "*")
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(value=str(name)), *_]):
            if called in _IMPORTERS:
                bare = name.lstrip(".")
                found = absolute(bare, len(name) - len(bare), package)
                if found:
                    yield found


def absolute(module: str, level: int, package: str) -> str:
    """The absolute name of a relative import (`level` dots); empty where it leaves the package."""
    if level == 0:
        return module
    parts = package.split(".") if package else []
    if len(parts) < level:
        return ""
    return ".".join([*parts[: len(parts) - level + 1], *([module] if module else [])])


def _aliases(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name == "kube_nb" or (alias.name.startswith("kube_nb.") and alias.asname is None):
                yield alias.asname or "kube_nb"


def _attributes(node: ast.AST, ours: set[str]) -> Iterator[str]:
    match node:
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in ours:
            if not attribute.startswith("__") or attribute == "__version__":
                yield attribute
