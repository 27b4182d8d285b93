"""What a cell does with the notebook's names, in the order in which it does it.

A name counts as read where its value from before the cell may be read: where no assignment certainly comes first.
So a cell that is run twice does not ship what its first run made. What functions read counts from the first moment at
which something could call them. Wherever the order is not known, the name counts as read.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from kube_nb.capture.escapes import Transform, unfold
from kube_nb.capture.expressions import Expressions
from kube_nb.capture.mentions import OPAQUE, names_in
from kube_nb.capture.order import ClassScope, ComprehensionScope, State, copied, join

_MODULE_NAMES = """
__name__ __doc__ __package__ __loader__ __spec__ __builtin__ __builtins__ __annotations__ __annotate__ __file__
__cached__ __conditional_annotations__ __debug__ __dict__ __module__ __qualname__ __class__ __classdict__
__static_attributes__ __firstlineno__ __type_params__ __classcell__ __classdictcell__
"""
MODULE_NAMES = frozenset(_MODULE_NAMES.split())
"""What Python itself puts into a module or class; never a person's value."""
_CATCH_NAME_ERROR = frozenset({"NameError", "UnboundLocalError"})
_LAZY_ANNOTATIONS = sys.version_info >= (3, 14)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Reads(frozenset[str]):
    """The names whose values a cell may read.

    Attributes:
        lines: names that are read for certain when the cell runs, and where first.
        results: the numbers N of `Out[N]`.
    """

    lines: Mapping[str, int]
    results: frozenset[int]

    def __new__(
        cls, names: Iterable[str] = (), lines: Mapping[str, int] | None = None, results: Iterable[int] = ()
    ) -> Reads:
        made = super().__new__(cls, names)
        made.lines = dict(lines or {})
        made.results = frozenset(results)
        return made


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What a cell does with names.

    Attributes:
        reads: whose values from before the cell it may read.
        assigned: what it may assign at the top level; modules apart, and what it deletes again for certain.
        announces: what in it reads names out of sight, such as `eval`.
    """

    reads: Reads
    assigned: frozenset[str]
    announces: frozenset[str]


def flow_of(code: str, *, transform: Transform | None = None, filename: str = "<cell>") -> Flow:
    """Follow transformed code through its statements.

    Raises:
        SyntaxError: Python's own.
    """
    walk = _Walk(transform, filename)
    order = walk.order
    try:
        walk.run(code)
    except RecursionError:  # the compiler follows deeper nesting than this walk
        walk.give_up(code)
    names = (order.reads | order.lazy) - MODULE_NAMES
    lines = {name: line for name, line in order.lines.items() if name in names}
    return Flow(
        reads=Reads(names, lines, walk.results),
        assigned=frozenset(order.assigned) - MODULE_NAMES,
        announces=frozenset(walk.announces),
    )


class _Walk(Expressions):
    """The statements of a cell."""

    def give_up(self, code: str) -> None:
        """Everything that the code mentions is read, and everything that it binds is assigned."""
        for _, tree in unfold(code, transform=self._transform, filename=self._filename):
            for node in ast.walk(tree):
                match node:
                    case ast.Name(id=name, ctx=ast.Load() | ast.Del()):
                        self.order.reads.add(name)
                    case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                        self.order.assigned.add(name)
                    case ast.ClassDef(name=name):
                        self.order.assigned.add(name)
                    case ast.Call():
                        self.strings(node)
                    case _:
                        pass
        self.announces |= self.order.reads & OPAQUE
        self.order.lines.clear()

    def block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.visit(statement)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.order.flush()  # `raise Error` calls it
        self.evaluate(node.exc, node.cause)
        self.order.state = None

    def visit_Break(self, node: ast.Break | ast.Continue) -> None:
        self.order.state = None

    visit_Continue = visit_Break

    def visit_Assert(self, node: ast.Assert) -> None:
        before = self.order.copy()  # `python -O` leaves the whole statement out
        self.order.flush()
        self.evaluate(node.test)
        with self.order.branch():
            self.evaluate(node.msg)
        self.order.state = before

    def visit_Assign(self, node: ast.Assign) -> None:
        self.evaluate(node.value)
        for target in node.targets:
            self._assign(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.order.flush()
        if isinstance(node.target, ast.Name):
            self.order.load(node.target.id, node.target.lineno)
            self.evaluate(node.value)
            self.order.store(node.target.id)
        else:
            self.evaluate(node.target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._annotation(node.annotation)
        self.evaluate(node.value)
        if node.value is not None or not isinstance(node.target, ast.Name):
            self._assign(node.target)

    def visit_TypeAlias(self, node: ast.AST) -> None:
        self._named(node, own=_type_parameters(node))
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                self.order.store(child.id)

    def visit_Delete(self, node: ast.Delete) -> None:
        self.order.flush()  # a finalizer may run
        todo = list(reversed(node.targets))
        while todo:
            target = todo.pop()
            match target:
                case ast.Name(id=name, lineno=line):
                    self.order.delete(name, line)
                case ast.Tuple(elts=parts) | ast.List(elts=parts):
                    todo.extend(reversed(parts))
                case _:
                    self.evaluate(target)

    def _assign(self, target: ast.expr) -> None:
        match target:
            case ast.Name(id=name):
                self.order.store(name)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                self.order.flush()  # the value's iterator runs
                for part in parts:
                    self._assign(part)
            case ast.Starred(value=part):
                self._assign(part)
            case _:
                self.evaluate(target)

    def visit_If(self, node: ast.If) -> None:
        self.order.flush()
        self.evaluate(node.test)
        truth = bool(node.test.value) if isinstance(node.test, ast.Constant) else None
        before, ends = self.order.copy(), []
        for taken, block in ((True, node.body), (False, node.orelse)):
            if truth in (None, taken):
                self.order.state = copied(before)
                with self.order.branch(certain=truth is taken or (taken and _is_main(node.test))):
                    self.block(block)
                ends.append(self.order.state)
        self.order.state = join(ends[0], ends[-1])

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.evaluate(node.iter)
        self.order.flush()  # the iterator runs
        before = self.order.copy()
        with self.order.branch(certain=True):
            self._assign(node.target)
            self.block(node.body)
            self._again(before)
        with self.order.branch():
            self.block(node.orelse)
        self.order.state = before

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        self.order.flush()
        self.evaluate(node.test)
        before = self.order.copy()
        truth = bool(node.test.value) if isinstance(node.test, ast.Constant) else None
        with self.order.branch(certain=truth is True):
            if truth is not False:
                self.block(node.body)
            self._again(before)
        with self.order.branch():
            self.block(node.orelse)
        self.order.state = before

    def _again(self, before: State) -> None:
        """The next turn of a loop may call what this one made, before anything else is assigned."""
        self.order.state = copied(before)
        self.order.flush()

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        # Any context manager may swallow an exception: of what follows, only the first `as` is certain. Files do not.
        words = ast.dump(ast.Tuple([item.context_expr for item in node.items])).lower()
        first, *others = node.items
        self.evaluate(first.context_expr)
        self.order.flush()  # __enter__ runs
        if isinstance(first.optional_vars, ast.Name):
            self._assign(first.optional_vars)
        after = self.order.copy()
        with self.order.branch(certain="suppress" not in words and "raises" not in words):
            if first.optional_vars is not None and not isinstance(first.optional_vars, ast.Name):
                self._assign(first.optional_vars)
            for item in others:
                self.evaluate(item.context_expr)
                self.order.flush()
                if item.optional_vars is not None:
                    self._assign(item.optional_vars)
            self.block(node.body)
            end = self.order.state
            self._again(after)  # __exit__ runs
        self.order.state = end if all(_is_file(item.context_expr) for item in node.items) else after

    visit_AsyncWith = visit_With

    def visit_Try(self, node: ast.Try) -> None:
        self._try(node)

    def _try(self, node: ast.Try | ast.TryStar) -> None:
        before = self.order.copy()
        with self.order.branch(certain=not any(_may_catch_name_error(handler.type) for handler in node.handlers)):
            self.block(node.body)
            self.block(node.orelse)
        ends = self.order.state
        for handler in node.handlers:
            self.order.state = copied(before)
            with self.order.branch():
                self.evaluate(handler.type)
                if handler.name is not None:
                    self.order.store(handler.name, keep=False)
                self.block(handler.body)
            ends = join(ends, self.order.state)
        self.order.state = copied(before)
        with self.order.branch(certain=True):
            self.block(node.finalbody)
        if self.order.state is not None:
            self.order.state = None if ends is None else self.order.state | ends

    def visit_TryStar(self, node: ast.TryStar) -> None:
        self._try(node)

    def visit_Match(self, node: ast.Match) -> None:
        self.evaluate(node.subject)
        self.order.flush()  # comparing and taking apart runs the subject's code
        before = self.order.copy()
        ends = []
        for case in node.cases:
            self.order.state = copied(before)
            with self.order.branch():
                self.visit(case.pattern)
                self.evaluate(case.guard)
                self.block(case.body)
            ends.append(self.order.state)
        last = node.cases[-1]
        if last.guard is not None or not isinstance(last.pattern, ast.MatchAs) or last.pattern.pattern is not None:
            ends.append(before)
        self.order.state = ends[0]
        for end in ends[1:]:
            self.order.state = join(self.order.state, end)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        self.generic_visit(node)
        if node.name is not None:
            self.order.store(node.name)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        if node.rest is not None:
            self.order.store(node.rest)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.order.store(alias.asname or alias.name.partition(".")[0], keep=False)
            if alias.name == "__main__":
                self.announces.add("__main__")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name == "*":
                self.announces.add(f"from {'.' * node.level}{node.module or ''} import *")
                self.order.opaque = True
            else:
                self.order.store(alias.asname or alias.name, keep=False)
            if node.module == "__future__" and alias.name == "annotations":
                self.future_annotations = True

    def visit_Global(self, node: ast.Global) -> None:
        if isinstance(self.order.scope, ClassScope):
            self.order.scope.globals.update(node.names)

    def visit_FunctionDef(self, node: _Function) -> None:
        arguments = node.args
        own = self._generic(node)
        self.evaluate(*node.decorator_list, *arguments.defaults, *arguments.kw_defaults)
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        for annotation in [*(one.annotation for one in every if one is not None), node.returns]:
            if annotation is not None:
                self._annotation(annotation, own)
        if node.decorator_list:
            self.function(node, node.name, now=True)
            self.order.flush()
            self.order.store(node.name)
        else:
            self.order.store(node.name)
            self.function(node, node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        heads = [*node.bases, *(keyword.value for keyword in node.keywords)]
        self.evaluate(*node.decorator_list)
        own = self._generic(node)
        with self.order.inside(ComprehensionScope(own)):
            self.evaluate(*heads)
            custom = bool(heads or own or node.decorator_list)
            if custom:
                self.order.flush()  # __prepare__ of a metaclass runs
            with self.order.inside(self.order.new_class(node.name)):
                self.block(node.body)
        # A metaclass, __init_subclass__, __set_name__ or a decorator may call the methods before the class has a name.
        if custom or not all(map(_calls_nothing, node.body)):
            self.order.flush()
        self.order.store(node.name)

    def _generic(self, node: ast.AST) -> set[str]:
        """Note what the type parameters of a class or function name; the names that are theirs."""
        own = _type_parameters(node)
        for parameter in getattr(node, "type_params", []):
            self._named(parameter, own=own)
        return own

    def _annotation(self, node: ast.expr, own: Set[str] = frozenset()) -> None:
        """Strings in it, and all of it where annotations are lazy, may be evaluated now, later or never."""
        self._named(node, own=own)
        if not (self.future_annotations or _LAZY_ANNOTATIONS):
            with self.order.inside(ComprehensionScope(set(own))):
                self.evaluate(node)

    def _named(self, node: ast.AST, *, own: Set[str]) -> None:
        self.order.later({self.order.mangled(name) for name in names_in(node) - own})


def _type_parameters(node: ast.AST) -> set[str]:
    return {parameter.name for parameter in getattr(node, "type_params", [])}


def _is_file(expression: ast.expr) -> bool:
    match expression:
        case ast.Call(func=ast.Name(id="open")):
            return True
        case _:
            return False


def _is_main(test: ast.expr) -> bool:
    match test:
        case ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()], comparators=[ast.Constant(value="__main__")]):
            return True
        case _:
            return False


def _may_catch_name_error(kind: ast.expr | None) -> bool:
    match kind:
        case ast.Tuple(elts=kinds):
            return any(_may_catch_name_error(one) for one in kinds)
        case ast.Name(id=name):
            return name in _CATCH_NAME_ERROR or not name.endswith(("Error", "Interrupt", "Iteration", "Exit"))
        case _:
            return True


def _calls_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.FunctionDef(decorator_list=[]) | ast.AsyncFunctionDef(decorator_list=[]) | ast.Pass():
            return True
        case ast.Expr(value=ast.Constant()) | ast.Assign(targets=[ast.Name()], value=ast.Constant()):
            return True
        case _:
            return False
