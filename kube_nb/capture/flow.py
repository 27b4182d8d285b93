"""What a cell does with the notebook's names, in the order in which it does it.

A name counts as read where its value from before the cell may be read: where no assignment certainly comes first.
So a cell that is run twice does not ship what its first run made. What functions read counts from the first moment at
which something could call them. Wherever the order is not known, the name counts as read.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType

from kube_nb.capture.bytecode import globals_in, nested
from kube_nb.capture.escapes import Transform, escape_of, expressions, fragments, names_bound, parsed, unfold
from kube_nb.capture.order import ClassScope, ComprehensionScope, Order, copied, join

MODULE_NAMES = frozenset(
    [
        "__name__",
        "__doc__",
        "__package__",
        "__loader__",
        "__spec__",
        "__builtin__",
        "__builtins__",
        "__annotations__",
        "__annotate__",
        "__conditional_annotations__",
        "__file__",
        "__cached__",
        "__debug__",
        "__dict__",
        "__module__",
        "__qualname__",
        "__class__",
        "__classdict__",
        "__static_attributes__",
        "__firstlineno__",
        "__type_params__",
        "__classcell__",
        "__classdictcell__",
    ]
)
"""What Python itself puts into a module or class; never a person's value."""

OPAQUE = frozenset({"eval", "exec", "globals"})
"""Builtins that read names out of sight, from wherever they are called."""
_NAMESPACES = frozenset({"globals", "locals", "vars"})
_QUERIES = frozenset({"query", "eval", "sql"})
_QUERIED = re.compile(r"@\s*([^\W\d]\w*)|\b(?:from|join)\s+([^\W\d]\w*)", re.IGNORECASE)
_PANDAS = frozenset({"pd", "pandas"})
_CATCH_NAME_ERROR = frozenset({"NameError", "UnboundLocalError"})
_LAZY_ANNOTATIONS = sys.version_info >= (3, 14)
# Evaluating these calls nothing.
_PASSIVE = (ast.Constant, ast.Name, ast.Lambda, ast.arguments, ast.arg, ast.Tuple, ast.List, ast.expr_context)
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


class _Walk(ast.NodeVisitor):
    """Visits statements and expressions in the order in which the interpreter evaluates them."""

    def __init__(self, transform: Transform | None, filename: str) -> None:
        self.order = Order()
        self.results: set[int] = set()
        self.announces: set[str] = set()
        self._transform = transform
        self._filename = filename
        self._codes: dict[tuple[str, int], list[CodeType]] = {}
        self._future_annotations = False
        self._calls_now = False
        """Whether the statement calls something, so that functions made in it may be called in it."""

    def run(self, code: str) -> None:
        tree, compiled = parsed(code, self._filename)
        outer = self._codes, self._future_annotations
        self._codes = {}
        for one in nested(compiled):
            self._codes.setdefault((one.co_name, one.co_firstlineno), []).append(one)
        self._block(tree.body)
        self._codes, self._future_annotations = outer
        if self.order.state is not None:
            self.order.lazy -= {name for name in self.order.lazy if name in self.order.state}

    def give_up(self, code: str) -> None:
        """Everything that the code mentions is read, and everything that it binds is assigned."""
        for tree in unfold(code, transform=self._transform, filename=self._filename):
            for node in ast.walk(tree):
                match node:
                    case ast.Name(id=name, ctx=ast.Load() | ast.Del()):
                        self.order.reads.add(name)
                    case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                        self.order.assigned.add(name)
                    case ast.ClassDef(name=name):
                        self.order.assigned.add(name)
                    case ast.Call():
                        self._reads_in_text(node)
                    case _:
                        pass
        self.announces |= self.order.reads & OPAQUE
        self.order.lines.clear()

    # -- statements

    def _block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.visit(statement)

    def _evaluate(self, *nodes: ast.expr | None) -> None:
        """Expressions of one statement, in their order."""
        present = [node for node in nodes if node is not None]
        outer = self._calls_now
        if not outer and any(not isinstance(inner, _PASSIVE) for node in present for inner in ast.walk(node)):
            self.order.flush()
            self._calls_now = True
        for node in present:
            self.visit(node)
        self._calls_now = outer

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            self._evaluate(*(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)))
        else:
            for child in ast.iter_child_nodes(node):
                self.visit(child)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.order.flush()  # `raise Error` calls it
        self._evaluate(node.exc, node.cause)
        self.order.state = None

    def visit_Break(self, node: ast.Break | ast.Continue) -> None:
        self.order.state = None

    visit_Continue = visit_Break

    def visit_Assert(self, node: ast.Assert) -> None:
        before = self.order.copy()  # `python -O` leaves the whole statement out
        self.order.flush()
        self._evaluate(node.test)
        with self.order.branch():
            self._evaluate(node.msg)
        self.order.state = before

    def visit_Assign(self, node: ast.Assign) -> None:
        self._evaluate(node.value)
        for target in node.targets:
            self._assign(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.order.flush()
        if isinstance(node.target, ast.Name):
            self.order.load(node.target.id, node.target.lineno)
            self._evaluate(node.value)
            self.order.store(node.target.id)
        else:
            self._evaluate(node.target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._annotation(node.annotation)
        self._evaluate(node.value)
        if node.value is not None or not isinstance(node.target, ast.Name):
            self._assign(node.target)

    def visit_TypeAlias(self, node: ast.AST) -> None:
        self._mention(node)
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
                    self._evaluate(target)

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
                self._evaluate(target)

    def visit_If(self, node: ast.If) -> None:
        self.order.flush()
        self._evaluate(node.test)
        truth = bool(node.test.value) if isinstance(node.test, ast.Constant) else None
        before, ends = self.order.copy(), []
        for taken, block in ((True, node.body), (False, node.orelse)):
            if truth in (None, taken):
                self.order.state = copied(before)
                with self.order.branch(certain=truth is taken or (taken and _is_main(node.test))):
                    self._block(block)
                ends.append(self.order.state)
        self.order.state = join(ends[0], ends[-1])

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self._evaluate(node.iter)
        self.order.flush()  # the iterator runs
        before = self.order.copy()
        with self.order.branch(certain=True):
            self._assign(node.target)
            self._block(node.body)
            self._again(before)
        with self.order.branch():
            self._block(node.orelse)
        self.order.state = before

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        self.order.flush()
        self._evaluate(node.test)
        before = self.order.copy()
        truth = bool(node.test.value) if isinstance(node.test, ast.Constant) else None
        with self.order.branch(certain=truth is True):
            if truth is not False:
                self._block(node.body)
            self._again(before)
        with self.order.branch():
            self._block(node.orelse)
        self.order.state = before

    def _again(self, before: set[str | tuple[int, str]] | None) -> None:
        """The next turn of a loop may call what this one made, before anything else is assigned."""
        self.order.state = copied(before)
        self.order.flush()

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        # Any of the context managers may swallow an exception: of what follows, only the first `as` is certain.
        words = ast.dump(ast.Tuple([item.context_expr for item in node.items])).lower()
        first, *others = node.items
        self._evaluate(first.context_expr)
        self.order.flush()  # __enter__ runs
        if isinstance(first.optional_vars, ast.Name):
            self._assign(first.optional_vars)
        after = self.order.copy()
        with self.order.branch(certain="suppress" not in words and "raises" not in words):
            if first.optional_vars is not None and not isinstance(first.optional_vars, ast.Name):
                self._assign(first.optional_vars)
            for item in others:
                self._evaluate(item.context_expr)
                self.order.flush()
                if item.optional_vars is not None:
                    self._assign(item.optional_vars)
            self._block(node.body)
            self._again(after)  # __exit__ runs
        self.order.state = after

    visit_AsyncWith = visit_With

    def visit_Try(self, node: ast.Try) -> None:
        before = self.order.copy()
        with self.order.branch(certain=not any(_may_catch_name_error(handler.type) for handler in node.handlers)):
            self._block(node.body)
            self._block(node.orelse)
        ends = self.order.state
        for handler in node.handlers:
            self.order.state = copied(before)
            with self.order.branch():
                self._evaluate(handler.type)
                if handler.name is not None:
                    self.order.store(handler.name, keep=False)
                self._block(handler.body)
            ends = join(ends, self.order.state)
        self.order.state = copied(before)
        with self.order.branch(certain=True):
            self._block(node.finalbody)
        if self.order.state is not None:
            self.order.state = None if ends is None else self.order.state | ends

    visit_TryStar = visit_Try

    def visit_Match(self, node: ast.Match) -> None:
        self._evaluate(node.subject)
        self.order.flush()  # comparing and taking apart runs the subject's code
        before = self.order.copy()
        ends = []
        for case in node.cases:
            self.order.state = copied(before)
            with self.order.branch():
                self.visit(case.pattern)
                self._evaluate(case.guard)
                self._block(case.body)
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
                self._future_annotations = True

    def visit_Global(self, node: ast.Global) -> None:
        if isinstance(self.order.scope, ClassScope):
            self.order.scope.globals.update(node.names)

    def visit_FunctionDef(self, node: _Function) -> None:
        arguments = node.args
        generic = bool(getattr(node, "type_params", []))
        self._evaluate(*node.decorator_list, *arguments.defaults, *arguments.kw_defaults)
        for parameter in getattr(node, "type_params", []):
            self._mention(parameter)
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        for annotation in [*(one.annotation for one in every if one is not None), node.returns]:
            if annotation is not None:
                self._annotation(annotation, lazy=generic)
        if node.decorator_list:
            self._function(node, node.name, now=True)
            self.order.flush()
            self.order.store(node.name)
        else:
            self.order.store(node.name)
            self._function(node, node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        heads = [*node.bases, *(keyword.value for keyword in node.keywords)]
        generic = getattr(node, "type_params", [])
        self._evaluate(*node.decorator_list)
        for part in [*generic, *heads] if generic else []:
            self._mention(part)
        if not generic:
            self._evaluate(*heads)
        custom = bool(heads or generic or node.decorator_list)
        if custom:
            self.order.flush()  # __prepare__ of a metaclass runs
        with self.order.inside(self.order.new_class(node.name)):
            self._block(node.body)
        # A metaclass, __init_subclass__, __set_name__ or a decorator may call the methods before the class has a name.
        if custom or not all(_calls_nothing(statement) for statement in node.body):
            self.order.flush()
        self.order.store(node.name)

    def _annotation(self, node: ast.expr, *, lazy: bool = False) -> None:
        self._mention(node)
        if not (lazy or self._future_annotations or _LAZY_ANNOTATIONS):
            self._evaluate(node)

    # -- functions

    def _function(self, node: ast.AST, name: str, *, now: bool = False) -> None:
        """What a function or lambda reads when it is called."""
        places = {getattr(item, "lineno", 0) for item in (node, *getattr(node, "decorator_list", []))}
        for code in [code for line in places for code in self._codes.get((name, line), [])]:
            used = globals_in(code)
            self.order.later(used.reads, now=now)
            self.order.written_by_functions(used.writes)
            self._note_opaque(used.reads)
        outer, self._calls_now = self._calls_now, now
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call):
                self._reads_in_text(inner)
                escape = escape_of(inner)
                for fragment in fragments(escape, self._transform) if escape else ():
                    self.order.later(globals_in(parsed(fragment.code, self._filename)[1]).reads, now=now)
        self._calls_now = outer

    def _note_opaque(self, names: Iterable[str]) -> None:
        found = OPAQUE.intersection(names) - {key for key in self.order.state or () if isinstance(key, str)}
        self.announces |= found
        self.order.opaque |= bool(found - {"eval"})

    # -- expressions

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.order.store(node.id)
        elif self.order.load(node.id, node.lineno):
            if node.id in OPAQUE:
                self._note_opaque({node.id})
            elif node.id in ("Out", "_oh"):
                self.announces.add(node.id)
            elif node.id == "get_ipython":
                self.order.opaque = True

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.order.store(node.target.id)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.visit(node.values[0])
        self._perhaps(*node.values[1:])

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        self._perhaps(node.body)
        self._perhaps(node.orelse)

    def visit_Compare(self, node: ast.Compare) -> None:
        self.visit(node.left)
        self.visit(node.comparators[0])
        self._perhaps(*node.comparators[1:])
        match node:
            case ast.Compare(left=ast.Constant(value=str(name)), comparators=[namespace]) if _is_namespace(namespace):
                self.order.later({name}, now=True)
            case _:
                pass

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None:
                self.visit(key)
            self.visit(value)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self._function(node, "<lambda>", now=self._calls_now)

    def _perhaps(self, *nodes: ast.expr) -> None:
        """Operands that are evaluated only if what comes before them says so."""
        before = self.order.copy()
        with self.order.branch():
            for node in nodes:
                self.visit(node)
        self.order.state = before

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        first, *others = node.generators
        self.visit(first.iter)
        targets = {name.id for part in node.generators for name in _names(part.target)}
        filtered = any(part.ifs for part in node.generators)
        before = self.order.copy()
        with self.order.inside(ComprehensionScope(targets)):
            with self.order.branch(certain=not isinstance(node, ast.GeneratorExp)):
                for part in (first, *others):
                    if part is not first:
                        self.visit(part.iter)
                    self.visit(part.target)
                    for condition in part.ifs:
                        self.visit(condition)
                with self.order.branch(certain=not filtered):
                    for element in [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]:
                        self.visit(element)
        self.order.state = before

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def visit_Subscript(self, node: ast.Subscript) -> None:
        match node:
            case ast.Subscript(value=ast.Name(id="Out" | "_oh" as name), slice=ast.Constant(value=int(number))):
                if self.order.load(name):
                    self.results.add(number)
            case _:
                if _is_namespace(node.value) and isinstance(node.slice, ast.Constant):
                    self.order.later({str(node.slice.value)}, now=True)
                self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr == "user_ns":
            self.announces.add("user_ns")
            self.order.opaque = True
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._reads_in_text(node)
        escape = escape_of(node)
        if escape is None:
            self.generic_visit(node)
            if _is_namespace(node):
                self.announces.add(ast.unparse(node.func))
                self.order.opaque = True
            return
        before = self.order.copy()
        for fragment in fragments(escape, self._transform):
            keeps, self.order.keeps = self.order.keeps, self.order.keeps and not fragment.own_names
            # `%time` and `%%capture` show an exception and go on, so nothing is certain behind them.
            with self.order.branch(certain=True):
                self.run(fragment.code)
            self.order.keeps = keeps
        for name in names_bound(escape):
            self.order.store(name)
        self.order.state = before

    # -- names in strings

    def _reads_in_text(self, node: ast.Call) -> None:
        """Names that a call reads by a string: `!cmd {name}`, `df.query("a > @name")`, `eval("name + 1")`."""
        escape = escape_of(node)
        if escape is not None:
            for text in expressions(escape):
                self._mention_text(text)
            return
        texts = [text for argument in node.args for text in _strings(argument)]
        match node.func:
            case ast.Attribute(value=ast.Name(id=name), attr="eval") if name in _PANDAS:
                self.announces.add(".eval()")
                for text in texts:
                    self._mention_text(text)
            case ast.Attribute(attr=method) if method in _QUERIES and _may_be_text(node.args):
                queried = {found for text in texts for pair in _QUERIED.findall(text) for found in pair if found}
                self.order.later(queried, now=self._calls_now)
                if queried or not (node.args and isinstance(node.args[0], ast.Constant)):
                    self.announces.add(f".{method}()")
            case ast.Name(id="eval" | "exec"):
                for text in texts:
                    self._mention_text(text)
            case ast.Attribute(value=namespace, attr="get" | "pop" | "setdefault") if _is_namespace(namespace):
                self.order.later(texts[:1], now=self._calls_now)
            case _:
                pass

    def _mention(self, node: ast.AST) -> None:
        """What an annotation or type parameter names: it may be evaluated, now, later or never."""
        for inner in ast.walk(node):
            match inner:
                case ast.Name(id=name, ctx=ast.Load()):
                    self.order.later({self.order.mangled(name)})
                case ast.Constant(value=str(text)):
                    self._mention_text(text)
                case _:
                    pass

    def _mention_text(self, text: str) -> None:
        try:
            tree = ast.parse(text.strip())
        except (SyntaxError, ValueError, RecursionError):
            return
        self.order.later({name.id for name in _names(tree)}, now=self._calls_now)


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (inner for inner in ast.walk(node) if isinstance(inner, ast.Name))


def _strings(node: ast.AST) -> Iterator[str]:
    return (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def _may_be_text(arguments: list[ast.expr]) -> bool:
    return bool(arguments) and not (isinstance(arguments[0], ast.Constant) and not isinstance(arguments[0].value, str))


def _is_namespace(node: ast.AST) -> bool:
    """`globals()`, and `locals()` or `vars()` without an argument."""
    match node:
        case ast.Call(func=ast.Name(id=name), args=[], keywords=[]):
            return name in _NAMESPACES
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
