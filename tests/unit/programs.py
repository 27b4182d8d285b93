"""Random programs over few names, and a namespace that records which of its values the interpreter really reads."""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Iterable
from typing import Any

NAMES = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "K", "__p"]
_EXCEPTIONS = ["Exception", "NameError", "ValueError", "(KeyError, TypeError)"]


class OutOfFuel(BaseException):
    """The program has run long enough."""


class World:
    """Chance and time of one run. Whatever the program does with a `Value` may call any function that exists by then."""

    def __init__(self, seed: int, namespace: dict[str, Any] | None = None, absent: Iterable[Any] = ()) -> None:
        self._random = random.Random(seed)
        self._namespace = {} if namespace is None else namespace
        self._absent = {id(value) for value in absent}
        self._nested = 0
        self.fuel = 2000

    def coin(self) -> bool:
        self.disturb()
        return self._random.random() < 0.5

    def tick(self, cost: int = 1) -> None:
        self.fuel -= cost
        if self.fuel < 0:
            raise OutOfFuel

    def disturb(self, *arguments: Any) -> None:
        """Call functions: those among the arguments, and some of the program's."""
        self.tick()
        if self._nested > 2:
            return
        functions = [one for one in (*arguments, *dict.values(self._namespace)) if isinstance(one, types.FunctionType)]
        for function in functions[:20]:
            if id(function) not in self._absent and self._random.random() < 0.6:
                self._nested += 1
                try:
                    function()
                except Exception:
                    continue
                finally:
                    self._nested -= 1


def _disturbing(result: Callable[[], Any]) -> Callable[..., Any]:
    def operation(self: Value, *arguments: Any, **named: Any) -> Any:
        Value.world.disturb(*arguments)
        return result()

    return operation


class Value:
    """Takes part in everything: it is called, entered, iterated, compared, subclassed, and made a metaclass."""

    world = World(0)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    @classmethod
    def __prepare__(cls, *arguments: Any, **named: Any) -> dict[str, Any]:
        cls.world.disturb()
        return {}

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.world.disturb(*arguments)
        return arguments[0] if arguments else Value()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Value()

    def __set_name__(self, owner: type, name: str) -> None:
        self.world.disturb(*vars(owner).values())

    def __len__(self) -> int:
        return 2

    def __hash__(self) -> int:
        return 1

    __iter__ = _disturbing(lambda: iter([Value(), Value()]))
    __bool__ = __eq__ = __lt__ = __contains__ = __exit__ = _disturbing(lambda: Value.world.coin())
    __format__ = _disturbing(str)
    __enter__ = __add__ = __radd__ = __iadd__ = __neg__ = __getitem__ = __setitem__ = __delitem__ = _disturbing(
        lambda: Value()
    )


class Recording(dict):
    """A namespace that notes the names whose values from the beginning are read.

    The interpreter asks a dictionary's subclass through `__getitem__`, in functions too.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()
        self.finished = False
        self.begin()

    def begin(self) -> None:
        """What there is now are the values from the beginning."""
        self.original = dict(dict.items(self))

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        Value.world.tick()
        if isinstance(value, list | tuple | str) and len(value) > 100:
            raise OutOfFuel
        if name in self.original and value is self.original[name]:
            self.read.add(name)
        return value

    def run(self, program: str, seed: int, absent: Iterable[Any] = ()) -> None:
        """Run a program to its end, its exception, or the end of its fuel."""
        Value.world = World(seed, self, absent)
        try:
            exec(compile(program, "<program>", "exec", dont_inherit=True), self)
            self.finished = True
        except (OutOfFuel, Exception):
            self.finished = False
        finally:
            Value.world = World(0)


def execute(program: str, values: dict[str, Any], seed: int) -> Recording:
    """What a program makes of these values, and which of them it reads."""
    namespace = Recording({**values, "turn": lambda: Value.world.tick(200)})
    namespace.run(program, seed)
    return namespace


TRIGGERS = ["u", "v", "w"]
"""Values that sparse programs only use to have something call their functions."""


class SparsePrograms:
    """Programs in which little happens besides functions, assignments, and what may call the functions in between."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._names = chance.sample(NAMES, chance.randint(2, 6))

    def program(self) -> str:
        return "\n".join(self._block(0))

    def _block(self, depth: int, *, loop: bool = False) -> list[str]:
        lines: list[str] = []
        for _ in range(self._chance.randint(1, 2 if depth else 8)):
            lines += self._statement(depth, loop)
        return lines

    def _inner(self, depth: int, *, loop: bool = False) -> list[str]:
        return ["    " + line for line in self._block(depth + 1, loop=loop)]

    def _statement(self, depth: int, loop: bool) -> list[str]:
        name, trigger = self._chance.choice(self._names), self._chance.choice(TRIGGERS)
        kind = self._chance.random()
        if kind < 0.3:
            body = self._chance.choice([f"{name}", f"(lambda: {name})()", f"[{name} for x in (1,)]"])
            decorator = [f"@{trigger}"] if self._chance.random() < 0.2 else []
            return [*decorator, f"def {self._chance.choice(self._names)}(x=None, *b):", f"    {body}"]
        if kind < 0.6:
            return [
                f"{name} = {self._chance.choice(['1', 'None', '[]', 'lambda: ' + self._chance.choice(self._names)])}"
            ]
        if kind < 0.62:
            return [self._chance.choice([f"import math as {name}", f"del {name}", f"raise {trigger}"])]
        if kind < 0.65 and loop:
            return [self._chance.choice(["break", "continue"])]
        if kind < 0.7 or depth > 2:
            statements = [f"{trigger}()", f"assert {trigger}", f"{name}, {trigger} = {trigger}", f"{trigger}.x = 1"]
            statements += [f"{name} = [*{trigger}]", f"{trigger} and ({name} := 1)", f"{trigger} += 1", f"-{trigger}"]
            statements += [f"{name} = 1 if {trigger} else 2", f"f'{{{trigger}}}'", f"({name} := 1) < {trigger}"]
            statements += [f"[{trigger} for {name} in {trigger}]", f"{{{trigger}: ({name} := 1)}}"]
            statements += [f"{trigger}(lambda: {name}, ({name} := 1))", f"1 < {trigger} < ({name} := 1)"]
            return [self._chance.choice(statements)]
        loops = [f"for {name} in {trigger}:", f"for {trigger} in [1, 2]:", f"while {trigger}:"]
        simple = [f"if {trigger}:", f"with {trigger}:", f"with {trigger} as {name}, {trigger} as ({name}, x):"]
        match self._chance.randint(0, 4):
            case 0:
                return [self._chance.choice(loops), "    turn()", *self._inner(depth, loop=True)]
            case 1:
                other = ["else:", *self._inner(depth, loop=loop)] if self._chance.random() < 0.5 else []
                head = self._chance.choice(simple)
                return [head, *self._inner(depth, loop=loop), *(other if head.startswith("if") else [])]
            case 2:
                lines = ["try:", *self._inner(depth, loop=loop), "except Exception:", *self._inner(depth, loop=loop)]
                return [*lines, *self._chance.choice([[], ["finally:", *self._inner(depth)]])]
            case 3:
                lines = [f"match {trigger}:", f"    case [{name}, x] if {trigger}:", "        1"]
                lines += ["    " + line for line in self._inner(depth, loop=loop)]
                last = ["    case _:", *("    " + line for line in self._inner(depth, loop=loop))]
                return [*lines, *self._chance.choice([[], last])]
            case _:
                heads = ["", "", f"({trigger})", "(metaclass=type(v))"]
                return [f"class {name}{self._chance.choice(heads)}:", *self._inner(depth)]


class Programs:
    """Writes programs; what it writes depends on `chance` alone."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._names = chance.sample(NAMES, chance.randint(6, len(NAMES)))
        self._plain = chance.choice([0.1, 0.5, 0.8])
        """How many expressions are constants: these call nothing, so that the order of what does matters."""
        self._left = 40

    def program(self) -> str:
        return "\n".join(self._block(0, loop=False, scope="module"))

    def _one(self, *choices: Any) -> Any:
        return self._chance.choice(choices)

    def _name(self) -> str:
        return self._chance.choice(self._names)

    def _block(self, depth: int, *, loop: bool, scope: str) -> list[str]:
        lines: list[str] = []
        for _ in range(self._chance.randint(1, 6 if depth == 0 else 3)):
            self._left -= 1
            if self._left < 0:
                break
            lines += self._statement(depth, loop, scope)
        return lines or ["pass"]

    def _indented(self, depth: int, *, loop: bool, scope: str) -> list[str]:
        return ["    " + line for line in self._block(depth + 1, loop=loop, scope=scope)]

    def _statement(self, depth: int, loop: bool, scope: str) -> list[str]:
        simple = [self._assign, self._assign, self._call, self._call, self._call, self._rebind, self._rare]
        if self._chance.random() < 0.3:
            simple.append(self._delete)
        compound = [
            self._if,
            self._for,
            self._while,
            self._with,
            self._try,
            self._match,
            self._def,
            self._def,
            self._class,
        ]
        if depth >= 3 or self._chance.random() < 0.5:
            if loop and self._chance.random() < 0.1:
                return [self._one("break", "continue")]
            return self._chance.choice(simple)(scope)
        return self._chance.choice(compound)(depth, loop, scope)

    # -- simple statements

    def _assign(self, scope: str) -> list[str]:
        return [
            self._one(
                f"{self._name()} = {self._expr()}",
                f"{self._name()} = {self._name()} = {self._expr()}",
                f"{self._name()}, *{self._name()} = {self._expr()}",
                f"{self._name()}[{self._expr(2)}], {self._name()} = {self._expr()}",
                f"{self._name()}: {self._name()} = {self._expr()}",
                f"{self._name()}.x = {self._expr()}",
            )
        ]

    def _call(self, scope: str) -> list[str]:
        return [self._one(f"{self._name()}({self._expr()})", f"{self._name()}()", self._walrus(), self._expr())]

    def _rebind(self, scope: str) -> list[str]:
        return [self._one(f"{self._name()} += {self._expr()}", f"{self._name()} = {self._name()}")]

    def _delete(self, scope: str) -> list[str]:
        return [self._one(f"del {self._name()}", f"del {self._name()}[0]", f"del ({self._name()}, {self._name()})")]

    def _rare(self, scope: str) -> list[str]:
        choices = [f"import math as {self._name()}", f"assert {self._expr()}, {self._expr()}", "pass"]
        if self._chance.random() < 0.2:
            choices.append(self._one("raise ValueError", f"raise {self._name()}"))
        if scope == "function":
            choices.append(f"return {self._expr()}")
        return [self._chance.choice(choices)]

    # -- compound statements

    def _if(self, depth: int, loop: bool, scope: str) -> list[str]:
        lines = [f"if {self._one(self._expr(), self._name(), self._walrus(), 'False', 'True')}:"]
        lines += self._indented(depth, loop=loop, scope=scope)
        if self._chance.random() < 0.5:
            lines += ["else:", *self._indented(depth, loop=loop, scope=scope)]
        return lines

    def _for(self, depth: int, loop: bool, scope: str) -> list[str]:
        target = self._one(self._name(), f"{self._name()}.x", f"{self._name()}[0]")
        lines = [f"for {target} in {self._one(self._name(), self._expr(), '[1, 2]', '()')}:"]
        lines += self._indented(depth, loop=True, scope=scope)
        if self._chance.random() < 0.3:
            lines += ["else:", *self._indented(depth, loop=loop, scope=scope)]
        return lines

    def _while(self, depth: int, loop: bool, scope: str) -> list[str]:
        body = self._indented(depth, loop=True, scope=scope)
        return [f"while {self._one(self._name(), self._expr())}:", "    turn()", *body]

    def _with(self, depth: int, loop: bool, scope: str) -> list[str]:
        items = [
            self._one(f"{self._expr()} as {self._name()}", self._name(), f"{self._name()} as ({self._name()}, b)")
            for _ in range(self._chance.randint(1, 2))
        ]
        return [f"with {', '.join(items)}:", *self._indented(depth, loop=loop, scope=scope)]

    def _try(self, depth: int, loop: bool, scope: str) -> list[str]:
        lines = ["try:", *self._indented(depth, loop=loop, scope=scope)]
        kind = self._chance.random()
        if kind < 0.8:
            error = self._chance.choice(_EXCEPTIONS)
            lines += [f"except {error}{self._one('', f' as {self._name()}')}:"]
            lines += self._indented(depth, loop=loop, scope=scope)
            if self._chance.random() < 0.3:
                lines += ["else:", *self._indented(depth, loop=loop, scope=scope)]
        if kind > 0.6:
            lines += ["finally:", *self._indented(depth, loop=False, scope=scope)]
        return lines

    def _match(self, depth: int, loop: bool, scope: str) -> list[str]:
        lines = [f"match {self._one(self._name(), self._expr(), '[1, 2]')}:"]
        patterns = [f"[{self._name()}, *{self._name()}]", f"{self._name()}.x", "1", f"{{'k': x, **{self._name()}}}"]
        for pattern in self._chance.sample(patterns, 2):
            if "b, *b" in pattern or (len(set(pattern.strip("[]").split(", *"))) == 1 and "*" in pattern):
                continue
            lines += [f"    case {pattern}{self._one('', f' if {self._expr()}')}:"]
            lines += ["    " + line for line in self._indented(depth, loop=loop, scope=scope)]
        lines += [f"    case {self._one('_', self._name())}:"]
        return lines + ["    " + line for line in self._indented(depth, loop=loop, scope=scope)]

    def _def(self, depth: int, loop: bool, scope: str) -> list[str]:
        lines = [f"@{self._name()}"] if self._chance.random() < 0.2 else []
        default = self._one("", f"={self._expr(2)}")
        annotation = self._one("", "", f": {self._name()}")
        lines += [f"def {self._name()}(x{annotation}{default or '=None'}, *b):"]
        body = self._indented(depth, loop=False, scope="function")
        if self._chance.random() < 0.3:
            body = [f"    global {self._chance.choice(['a', 'c', 'd', '__p'])}", *body]
        return lines + body

    def _class(self, depth: int, loop: bool, scope: str) -> list[str]:
        lines = [f"@{self._name()}"] if self._chance.random() < 0.1 else []
        lines += [
            f"class {self._one('K', self._name())}{self._one('', f'({self._name()})', f'(metaclass={self._name()})', '')}:"
        ]
        body = self._indented(depth, loop=False, scope="class")
        if self._chance.random() < 0.2:
            body = ["    global d", *body]
        return lines + body

    # -- expressions

    def _expr(self, depth: int = 0) -> str:
        if self._chance.random() < self._plain:
            return self._one("1", "None", "[]")
        if depth >= 3:
            return self._name()
        deeper = depth + 1
        return self._one(
            lambda: self._name(),
            lambda: self._name(),
            lambda: self._one("1", "'s'", "[]", "None"),
            lambda: f"{self._name()}({self._expr(deeper)})",
            lambda: f"{self._expr(deeper)} + {self._expr(deeper)}",
            lambda: f"({self._expr(deeper)} {self._one('and', 'or', '<', '==')} {self._expr(deeper)})",
            lambda: f"({self._expr(deeper)} < {self._expr(deeper)} < {self._expr(deeper)})",
            lambda: f"({self._expr(deeper)} if {self._expr(deeper)} else {self._expr(deeper)})",
            lambda: f"(lambda x={self._expr(deeper)}: {self._expr(deeper)})",
            lambda: f"[{self._expr(deeper)} for {self._name()} in {self._expr(deeper)}]",
            lambda: (
                f"[{self._expr(deeper)} for x in {self._expr(deeper)} for a in {self._expr(deeper)} if {self._name()}]"
            ),
            lambda: f"{{{self._name()}: {self._expr(deeper)} for x in {self._expr(deeper)}}}",
            lambda: f"list({self._expr(deeper)} for x in {self._expr(deeper)})",
            lambda: f"f'{{{self._name()}}}'",
            lambda: f"({self._expr(deeper)}, {self._expr(deeper)})",
            lambda: f"[{self._expr(deeper)}, *{self._name()}]",
            lambda: f"{{{self._expr(deeper)}: {self._expr(deeper)}}}",
            lambda: f"{self._name()}.x",
            lambda: f"{self._name()}[{self._expr(deeper)}]",
        )()

    def _walrus(self) -> str:
        walrus = f"({self._name()} := {self._expr(1)})"
        return self._one(walrus, f"({self._name()} and {walrus})", f"({walrus} or {self._expr(1)}) + {self._name()}")
