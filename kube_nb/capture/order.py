"""Which names are certainly assigned at a point of a cell, and which are read before they are.

The walk through the statements is in `flow.py`; here is what it remembers on its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LAST_RESULTS = frozenset({"_", "__", "___"})
"""IPython's own names for results; a cell that assigns one means a value it does not want."""

State = set[str | tuple[int, str]] | None
"""What is certainly assigned: names of the module, and (number of the class, name) inside class bodies.

None: this point is never reached.
"""


@dataclass
class ClassScope:
    """The body of a class: its names are seen by what stands directly in it, and by nothing else."""

    name: str
    number: int
    globals: set[str] = field(default_factory=set)


@dataclass
class ComprehensionScope:
    """A comprehension and the names of its targets."""

    names: set[str]


class Order:
    """What has happened to names so far.

    Attributes:
        reads: read while the value from before the cell may still be there.
        lines: read for certain, and found nowhere in the cell before: the line of the first time.
        lazy: read by functions that exist but that nothing can have called yet.
        assigned: what the cell may assign.
        state: what is certainly assigned here.
        opaque: from here on names may have been assigned out of sight.
        keeps: assignments are the cell's (those of `%timeit` are not).
    """

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.lines: dict[str, int] = {}
        self.lazy: set[str] = set()
        self.assigned: set[str] = set()
        self.state: State = set()
        self.opaque = False
        self.keeps = True
        self._bound: set[str] = set()
        self._certain = True
        self._depth = 0
        self._scopes: list[ClassScope | ComprehensionScope] = []

    # -- names

    def load(self, name: str, line: int | None = None) -> bool:
        """The name is read here; True: its value may be from before the cell."""
        if self.state is None:
            return False
        name = self.mangled(name)
        for depth, scope in enumerate(reversed(self._scopes)):
            if isinstance(scope, ComprehensionScope):
                if name in scope.names:
                    return False
            elif depth == 0 and (scope.number, name) in self.state:
                return False
        if name in self.state:
            return False
        self.reads.add(name)
        if line is not None and self._certain and not self.opaque and name not in self._bound:
            self.lines.setdefault(name, line)
        return True

    def store(self, name: str, *, keep: bool = True) -> None:
        """The name is assigned; `keep`: the value is one that the cell means to keep, no module or caught exception."""
        name = self.mangled(name)
        for scope in reversed(self._scopes):
            if isinstance(scope, ComprehensionScope):
                if name in scope.names:
                    return
            elif name in scope.globals:
                break
            else:
                if self.state is not None:
                    self.state.add((scope.number, name))
                return
        self._bound.add(name)
        if self.state is not None:
            self.state.add(name)
        if keep:
            self._keep({name})

    def delete(self, name: str, line: int) -> None:
        """The name is deleted, which fails where it does not exist: that counts as a read."""
        self.load(name, line)
        name = self.mangled(name)
        scope = self._scopes[-1] if self._scopes else None
        if isinstance(scope, ClassScope) and name not in scope.globals:
            if self.state is not None:
                self.state.discard((scope.number, name))
            return
        if self.state is not None:
            self.state.add(name)  # whatever it was before the cell is gone
        if self._depth == 0:
            self.assigned.discard(name)

    def written_by_functions(self, names: Iterable[str]) -> None:
        """Functions that now exist assign these, if they are called."""
        self._bound.update(names)
        self._keep(names)

    def _keep(self, names: Iterable[str]) -> None:
        if self.keeps:
            self.assigned.update(name for name in names if name not in LAST_RESULTS)

    def mangled(self, name: str) -> str:
        """As the compiler renames it inside a class."""
        if name.startswith("__") and not name.endswith("__"):
            owner = next((scope.name for scope in reversed(self._scopes) if isinstance(scope, ClassScope)), "")
            owner = owner.lstrip("_")
            return f"_{owner}{name}" if owner else name
        return name

    # -- functions: what they read counts from the moment at which something may call them

    def later(self, names: Iterable[str], *, now: bool = False) -> None:
        """Functions made here read these names; `now`: they may be called at once."""
        if self.state is None:
            return
        new = {name for name in names if name not in self.state}
        if now:
            self.reads |= new
        else:
            self.lazy |= new

    def flush(self) -> None:
        """Something may call any function here."""
        if self.state is None or not self.lazy:
            return
        new = {name for name in self.lazy if name not in self.state}
        self.reads |= new
        if self._depth == 0 and not self._scopes:
            self.lazy.clear()  # the rest is assigned, on whatever way
        else:
            self.lazy -= new

    # -- scopes and branches

    @contextmanager
    def inside(self, scope: ClassScope | ComprehensionScope) -> Iterator[None]:
        self._scopes.append(scope)
        yield
        self._scopes.pop()

    def new_class(self, name: str) -> ClassScope:
        number = len(self._scopes)
        if self.state is not None:  # forget the names of an earlier class at this place
            self.state = {key for key in self.state if isinstance(key, str) or key[0] < number}
        return ClassScope(name, number)

    @property
    def scope(self) -> ClassScope | ComprehensionScope | None:
        return self._scopes[-1] if self._scopes else None

    @contextmanager
    def branch(self, *, certain: bool = False) -> Iterator[None]:
        """What may not run to its end; `certain`: its beginning does run, or failing would be noticed."""
        before = self._certain
        self._certain = before and certain
        self._depth += 1
        yield
        self._depth -= 1
        self._certain = before

    def copy(self) -> State:
        return copied(self.state)


def copied(state: State) -> State:
    return None if state is None else set(state)


def join(one: State, other: State) -> State:
    """What is certain after either of two ways."""
    if one is None or other is None:
        return other if one is None else one
    return one & other
