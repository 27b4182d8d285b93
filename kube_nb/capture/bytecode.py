"""What compiled code does with the names of its module.

The instructions are what the interpreter executes, so names mangled by a class, code that the compiler dropped and
attributes that are called like a global are told apart without a second set of rules.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from weakref import WeakKeyDictionary

_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_GLOBAL", "DELETE_NAME"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"})
_WRITES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})


@dataclass(frozen=True)
class Globals:
    """Names of the module that a piece of code, with all code inside it, may read, rebinds, and modules it imports.

    Attributes:
        attributes: names behind a dot that it reads or calls.
    """

    reads: frozenset[str]
    writes: frozenset[str]
    imports: frozenset[str]
    attributes: frozenset[str] = frozenset()


_seen: WeakKeyDictionary[CodeType, Globals] = WeakKeyDictionary()


def globals_in(code: CodeType) -> Globals:
    """What `code` and the functions, classes and comprehensions inside it do with module names.

    Example:
        >>> sorted(globals_in((lambda x: len(x) + k).__code__).reads)
        ['k', 'len']
    """
    known = _seen.get(code)
    if known is None:
        known = _seen[code] = _globals_in(code)
    return known


def nested(code: CodeType) -> Iterator[CodeType]:
    """`code` and all code inside it."""
    todo = [code]
    while todo:
        one = todo.pop()
        yield one
        todo.extend(constant for constant in one.co_consts if isinstance(constant, CodeType))


def _globals_in(code: CodeType) -> Globals:
    reads: set[str] = set()
    writes: set[str] = set()
    imports: set[str] = set()
    attributes: set[str] = set()
    for one in nested(code):
        if not one.co_names:
            continue
        module = ""
        for instruction in dis.get_instructions(one):
            if instruction.opname in _READS:
                reads.add(instruction.argval)
            elif instruction.opname in _ATTRIBUTES:
                attributes.add(instruction.argval)
            if instruction.opname in _WRITES:
                writes.add(instruction.argval)
            elif instruction.opname == "IMPORT_NAME":
                imports.add(instruction.argval)
                module = instruction.argval
            elif instruction.opname == "IMPORT_FROM":  # only the file system knows whether this is a module
                imports.add(f"{module}.{instruction.argval}")
    return Globals(frozenset(reads), frozenset(writes), frozenset(imports), frozenset(attributes))
