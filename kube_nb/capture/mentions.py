"""Names that code reads by way of a string, and what reads names out of sight."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kube_nb.capture.escapes import escape_of, expressions

OPAQUE = frozenset({"eval", "exec", "globals"})
"""Builtins that read names out of sight, from wherever they are called."""
_NAMESPACES = frozenset({"globals", "locals", "vars"})
_QUERIES = frozenset({"query", "eval", "sql"})
_PANDAS = frozenset({"pd", "pandas"})
_QUERIED = re.compile(r"@\s*([^\W\d]\w*)|\b(?:from|join)\s+([^\W\d]\w*)", re.IGNORECASE)


@dataclass(frozen=True)
class Mentioned:
    """Names that the strings of a call read, and what of it may read further ones."""

    names: frozenset[str] = frozenset()
    announces: frozenset[str] = frozenset()


def mentioned(call: ast.Call) -> Mentioned:
    """What a call reads by its strings: `!cmd {name}`, `df.query("a > @name")`, `eval("name + 1")`.

    Example:
        >>> mentioned(ast.parse("df.query('a > @least')", mode="eval").body)
        Mentioned(names=frozenset({'least'}), announces=frozenset({'.query()'}))
    """
    escape = escape_of(call)
    if escape is not None:
        return Mentioned(_named(expressions(escape)))
    texts = [text for argument in call.args for text in _strings(argument)]
    match call.func:
        case ast.Attribute(value=ast.Name(id=name), attr="eval") if name in _PANDAS:
            return Mentioned(_named(texts), frozenset({".eval()"}))
        case ast.Attribute(attr=method) if method in _QUERIES and _may_be_text(call.args):
            names = frozenset(found for text in texts for pair in _QUERIED.findall(text) for found in pair if found)
            open_end = not isinstance(call.args[0], ast.Constant)
            return Mentioned(names, frozenset({f".{method}()"} if names or open_end else ()))
        case ast.Name(id="eval" | "exec"):
            return Mentioned(_named(texts))
        case ast.Attribute(value=namespace, attr="get" | "pop" | "setdefault") if is_namespace(namespace):
            return Mentioned(frozenset(texts[:1]))
        case _:
            return Mentioned()


def names_in(node: ast.AST) -> frozenset[str]:
    """What an annotation or type parameter names, in its strings too: it may be evaluated now, later or never."""
    loaded = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return _named(_strings(node)) | loaded


def is_namespace(node: ast.AST) -> bool:
    """`globals()`, and `locals()` or `vars()` without an argument."""
    match node:
        case ast.Call(func=ast.Name(id=name), args=[], keywords=[]):
            return name in _NAMESPACES
        case _:
            return False


def _named(texts: Iterator[str] | list[str]) -> frozenset[str]:
    found: set[str] = set()
    for text in texts:
        try:
            tree = ast.parse(text.strip())
        except (SyntaxError, ValueError, RecursionError):
            continue
        found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return frozenset(found)


def _strings(node: ast.AST) -> Iterator[str]:
    return (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def _may_be_text(arguments: list[ast.expr]) -> bool:
    return bool(arguments) and not (isinstance(arguments[0], ast.Constant) and not isinstance(arguments[0].value, str))
