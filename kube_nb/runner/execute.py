"""Runs the sent code the way a notebook runs a cell: statements in order, then the value of the last expression."""

from __future__ import annotations
import __future__

import ast
import inspect
import linecache
import sys
from collections.abc import Mapping
from types import CodeType
from typing import Any

RESULT = "__kube_nb_result__"
"""The name under which the value of the last expression goes back where it is the result."""

_FUTURES = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
# In a kernel a loop runs already, so a cell may use one without awaiting anything; unless it starts one by itself.
_NEEDS_LOOP = frozenset({"create_task", "ensure_future", "get_running_loop", "get_event_loop"})
_STARTS_LOOP = frozenset({"run_until_complete", "run_forever"})


def remember(sources: Mapping[str, str]) -> None:
    """Make the text of sent code known to tracebacks and `inspect.getsource`, for good."""
    for filename, text in sources.items():
        # Without a time of change, linecache.checkcache leaves an entry alone.
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


class Code:
    """Compiled code of one cell, function call or file.

    Args:
        source: Python, already transformed by the kernel's IPython.
        filename: as tracebacks show it.
        returns: the value of the last expression is the result, and is not shown.
        plain: a Python file: nothing is shown by itself, and `await` stands in functions alone.

    Raises:
        SyntaxError: it is not Python.
    """

    def __init__(self, source: str, filename: str, *, returns: bool = False, plain: bool = False) -> None:
        flags = 0 if plain else ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile(source, filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        assert isinstance(tree, ast.Module)
        in_loop = not plain and _needs_loop(source, tree)
        last = tree.body.pop() if not plain and tree.body and isinstance(tree.body[-1], ast.Expr) else None
        self._parts = [compile(tree, filename, "exec", flags, dont_inherit=True)]
        self._shows = self._returns = False
        if isinstance(last, ast.Expr):
            self._returns = returns
            self._shows = not returns and not _silenced(source, last)
            flags |= self._parts[0].co_flags & _FUTURES  # a `from __future__` at the top holds for the last line too
            self._parts.append(compile(ast.Expression(last.value), filename, "eval", flags, dont_inherit=True))
        self._in_loop = in_loop or any(map(_awaits, self._parts))

    def run(self, namespace: dict[str, Any]) -> None:
        """Run it in `namespace`. Whatever it raises is raised; its own frames come after the last one of this file."""
        if self._in_loop:
            import asyncio

            with asyncio.Runner() as runner:
                runner.run(self._run_in_loop(namespace))
            return
        value = None
        for part in self._parts:
            value = eval(part, namespace)
        if self._returns and inspect.iscoroutine(value):  # a call of an `async def`
            import asyncio

            value = asyncio.run(value)
        self._conclude(value, namespace)

    async def _run_in_loop(self, namespace: dict[str, Any]) -> None:
        """One loop for the whole of it, so that a task made by one statement runs while another one awaits."""
        import asyncio

        value = None
        for part in self._parts:
            value = eval(part, namespace)
            if _awaits(part):
                value = await value
        if self._returns and inspect.iscoroutine(value):
            value = await value
        self._conclude(value, namespace)
        await asyncio.sleep(0)
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        if pending:
            which = "1 asyncio task was" if len(pending) == 1 else f"{len(pending)} asyncio tasks were"
            print(f"{which} still running when the code ended, and cancelled: await what must finish", file=sys.stderr)

    def _conclude(self, value: Any, namespace: dict[str, Any]) -> None:
        if self._returns:
            namespace[RESULT] = value
        elif self._shows:
            sys.displayhook(value)


def _awaits(part: CodeType) -> bool:
    return bool(part.co_flags & inspect.CO_COROUTINE)


def _needs_loop(source: str, tree: ast.Module) -> bool:
    if not any(name in source for name in _NEEDS_LOOP):
        return False
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            starts = node.attr == "run" and isinstance(node.value, ast.Name) and node.value.id == "asyncio"
            names.add("run_forever" if starts else node.attr)
        elif isinstance(node, ast.Name):
            names.add(node.id)
    return not names.isdisjoint(_NEEDS_LOOP) and names.isdisjoint(_STARTS_LOOP)


def _silenced(source: str, last: ast.Expr) -> bool:
    """Whether a semicolon ends the last expression."""
    line = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")[(last.end_lineno or 1) - 1]
    return line.encode()[last.end_col_offset :].lstrip().startswith(b";")
