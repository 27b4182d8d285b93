"""The names that a job needs from its kernel: what the cell reads, closed over the functions and classes it reaches.

`reads` looks at the cell, `closure` follows the values of what it reads: a function of the notebook brings the names
that its code reads, and so on. It looks into containers and objects only so far; what the pickler meets beyond that is
asked with `globals_of`.
"""

from __future__ import annotations

import builtins
import difflib
import functools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

from kube_nb.capture.bytecode import Globals, globals_in
from kube_nb.capture.escapes import Transform
from kube_nb.capture.flow import MODULE_NAMES, Reads, flow_of
from kube_nb.capture.mentions import OPAQUE
from kube_nb.capture.touched import touched

__all__ = ["Captured", "Reads", "closure", "globals_of", "reads", "touched"]

_HISTORY = re.compile(r"_i{1,3}|_i\d+|_ih|_dh|_sh|In|exit|quit|get_ipython|display|open")
"""Names that IPython puts into every kernel; the job has its own, or needs none."""
_GIVEN = frozenset({"get_ipython", "display", "exit", "quit", "In", "Out", "_ih", "_oh", "_dh", "_exit_code"})
_MAGICS = frozenset({"run_line_magic", "run_cell_magic"})
_ATOMS = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None), type(...), range, slice})
_OBJECTS = 50_000
_ELEMENTS = 1_000
_LAZY_ANNOTATIONS = sys.version_info >= (3, 14)


@dataclass(frozen=True, kw_only=True)
class Captured:
    """What the job's `__main__` must have.

    Attributes:
        values: the names and their values.
        missing: names that the cell certainly reads and nothing defines, each with its line.
        suggestions: names that look like a missing one.
        modules: dotted names of the modules that the values come from, or that functions among them import.
        touched: names that functions among the values read: they may change these in place when the cell calls them.
        assigned: names that functions among the values assign by `global`.
        announces: what in these functions reads names out of sight, such as `eval`.
        needs_ipython: a function among them uses magics.
        attributes: every name in these functions that follows a dot.
    """

    values: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    suggestions: dict[str, list[str]] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    assigned: frozenset[str] = frozenset()
    announces: frozenset[str] = frozenset()
    needs_ipython: bool = False
    attributes: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.values)


def reads(code: str, *, transform: Transform | None = None) -> Reads:
    """The names whose values from before the cell transformed code may read, builtins among them.

    Raises:
        SyntaxError: Python's own.

    Example:
        >>> sorted(reads("x = a; y = x + k", transform=str))
        ['a', 'k']
    """
    return flow_of(code, transform=transform).reads


def globals_of(function: Any) -> set[str]:
    """The names of its module that a function, and whatever is defined inside it, may read when it is called."""
    return set(_used(function).reads - MODULE_NAMES)


def closure(names: Iterable[str], namespace: Mapping[str, Any], *, extra: Mapping[str, Any] | None = None) -> Captured:
    """Follow names through the functions, classes and instances of the notebook that they reach.

    Args:
        names: what the cell reads; `Reads` knows the lines of names that do not exist.
        namespace: the kernel's names.
        extra: further values that travel under names of their own, such as the arguments of a call.
    """
    walk = _Walk(namespace)
    walk.look_at(*(extra or {}).values())
    values: dict[str, Any] = {}
    todo = sorted({*names, *walk.names}, reverse=True)
    seen = set(todo)
    while todo:
        name = todo.pop()
        if name in namespace and _travels(name, namespace[name], namespace):
            values[name] = namespace[name]
            walk.look_at(values[name])
        found = sorted(walk.names - seen, reverse=True)
        seen.update(found)
        todo.extend(found)
    results = getattr(names, "results", frozenset())
    for name in {"Out", "_oh"} & set(names) if results else ():
        values[name] = {number: value for number, value in namespace.get(name, {}).items() if number in results}
        walk.look_at(values[name])
    missing = {
        name: line
        for name, line in getattr(names, "lines", {}).items()
        if name not in namespace
        and name not in walk.assigned
        and name not in _GIVEN
        and name not in MODULE_NAMES
        and not hasattr(builtins, name)
        and name not in (extra or {})
    }
    known = [name for name in {*namespace, *dir(builtins)} if not name.startswith("_")] if missing else []
    return Captured(
        values=values,
        missing=missing,
        suggestions={name: difflib.get_close_matches(name, known) for name in missing},
        modules=frozenset(walk.modules - {"builtins"}),
        touched=frozenset(walk.names & set(values)),
        assigned=frozenset(walk.assigned),
        announces=frozenset((walk.names & OPAQUE) - set(values)),
        needs_ipython=walk.needs_ipython,
        attributes=frozenset(walk.attributes),
    )


def _travels(name: str, value: Any, namespace: Mapping[str, Any]) -> bool:
    """Whether the name is the person's, and none that Python or IPython put there."""
    if name in MODULE_NAMES:
        return False
    if name in ("Out", "_oh"):
        return value is not namespace.get("_oh")
    if name in ("In", "_ih"):
        return value is not namespace.get("_ih")
    if _HISTORY.fullmatch(name) is None:
        return True
    if name in ("open", "exit", "quit", "get_ipython", "display"):
        maker = getattr(value, "__module__", None) or type(value).__module__
        return maker.partition(".")[0] not in ("IPython", "ipykernel", "_sitebuiltins", "io", "_io")
    return not isinstance(value, str | list | ModuleType)


class _Walk:
    """Everything that values lead to, as far as it is the notebook's."""

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self.names: set[str] = set()
        self.assigned: set[str] = set()
        self.modules: set[str] = set()
        self.needs_ipython = False
        self.attributes: set[str] = set()
        self._namespace = namespace
        self._seen: dict[int, Any] = {}  # the objects are kept, so that no id is used twice
        self._home = namespace.get("__name__", "__main__")

    def look_at(self, *values: Any) -> None:
        todo = list(values)
        while todo and len(self._seen) < _OBJECTS:
            value = todo.pop()
            if type(value) in _ATOMS or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            todo.extend(self._parts(value))

    def _parts(self, value: Any) -> Iterator[Any]:
        # Everything here asks the type: `isinstance` and attributes of an object may run the person's code.
        kind = type(value)
        if issubclass(kind, ModuleType):
            self.modules.add(value.__name__)
        elif kind is FunctionType:
            yield from self._function(value)
        elif kind is CodeType:
            self._note(globals_in(value))
        elif issubclass(kind, type):
            yield from self._class(value)
        else:
            yield kind
            yield from self._object(value, kind)

    def _function(self, function: FunctionType) -> Iterator[Any]:
        if self._elsewhere(function):
            self.modules.add(function.__module__)
            return
        used = _used(function)
        if function.__globals__ is self._namespace or function.__module__ == self._home:
            self._note(used)
        else:  # made in another module, but sent by value: what it reads there may be the notebook's
            yield from (function.__globals__[name] for name in used.reads if name in function.__globals__)
        yield function.__defaults__
        yield function.__kwdefaults__
        yield from function.__dict__.values()
        yield from _annotations(function)
        for cell in function.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not yet filled
                continue

    def _class(self, kind: type) -> Iterator[Any]:
        if self._elsewhere(kind):
            self.modules.add(kind.__module__)
            return
        yield type(kind)
        yield from kind.__bases__
        yield from vars(kind).values()

    def _object(self, value: Any, kind: type) -> Iterator[Any]:
        if issubclass(kind, dict):
            yield from _first(dict.keys(value))
            yield from _first(dict.values(value))
        elif kind in (list, tuple, set, frozenset):
            yield from _first(value)
        elif issubclass(kind, list):
            yield from _first(list.__iter__(value))
        elif issubclass(kind, tuple):
            yield from _first(tuple.__iter__(value))
        elif issubclass(kind, MethodType):
            yield from (value.__self__, value.__func__)
        elif issubclass(kind, BuiltinFunctionType | MethodWrapperType):
            yield value.__self__
        elif issubclass(kind, property):
            yield from (value.fget, value.fset, value.fdel)
        elif issubclass(kind, staticmethod | classmethod):
            yield value.__func__
        elif issubclass(kind, functools.partial):
            yield from (value.func, value.args, value.keywords)
        yield from _attributes(value, kind)

    def _note(self, used: Globals) -> None:
        self.needs_ipython |= "get_ipython" in used.reads and not _MAGICS.isdisjoint(used.attributes)
        self.attributes |= used.attributes
        self.names |= used.reads - MODULE_NAMES
        self.assigned |= used.writes
        self.modules |= used.imports - {""}

    def _elsewhere(self, value: FunctionType | type) -> bool:
        """Whether a job finds it by importing its module."""
        module = value.__module__
        if not isinstance(module, str) or module in (self._home, "__main__"):
            return False
        found: Any = sys.modules.get(module)
        for part in value.__qualname__.split("."):
            found = getattr(found, "__dict__", {}).get(part)
            found = getattr(found, "__func__", found)
        return found is value


def _used(function: Any) -> Globals:
    code = function if isinstance(function, CodeType) else getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        raise TypeError(f"{type(function).__name__} has no code")
    return globals_in(code)


def _annotations(function: FunctionType) -> Iterator[Any]:
    if _LAZY_ANNOTATIONS:
        yield getattr(function, "__annotate__", None)  # a function that gives them; they are not evaluated here
    else:
        yield from function.__annotations__.values()


def _first(values: Iterable[Any]) -> Iterator[Any]:
    for number, value in enumerate(values):
        if number == _ELEMENTS:
            return
        yield value


def _attributes(value: Any, kind: type) -> Iterator[Any]:
    """The `__dict__` and the slots of an object, past whatever its class does on access."""
    for base in kind.__mro__:
        for name, descriptor in vars(base).items():
            if isinstance(descriptor, MemberDescriptorType) or (
                name == "__dict__" and isinstance(descriptor, GetSetDescriptorType)
            ):
                try:
                    yield descriptor.__get__(value)
                except AttributeError:  # not yet set
                    continue
