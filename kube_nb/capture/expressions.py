"""The expressions of a cell and the functions in it, in the order in which the interpreter evaluates them."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Iterable
from types import CodeType

from kube_nb.capture.bytecode import globals_in, nested
from kube_nb.capture.escapes import Transform, escape_of, fragments, names_bound, parsed
from kube_nb.capture.mentions import OPAQUE, is_namespace, mentioned
from kube_nb.capture.order import ComprehensionScope, Order

# Evaluating these calls nothing.
_PASSIVE = (ast.Constant, ast.Name, ast.Lambda, ast.arguments, ast.arg, ast.Tuple, ast.List, ast.expr_context)


class Expressions(ast.NodeVisitor):
    """Tells an `Order` what happens to names.

    Attributes:
        order: what has happened so far.
        results: the numbers N of `Out[N]`.
        announces: what reads names out of sight.
    """

    def __init__(self, transform: Transform | None, filename: str) -> None:
        self.order = Order()
        self.results: set[int] = set()
        self.announces: set[str] = set()
        self._transform = transform
        self._filename = filename
        self._codes: dict[tuple[str, int], list[CodeType]] = {}
        self.future_annotations = False
        self._calls_now = False
        """Whether the statement calls something, so that functions made in it may be called in it."""

    def run(self, code: str) -> None:
        tree, compiled = parsed(code, self._filename)
        outer = self._codes, self.future_annotations
        self._codes = {}
        for one in nested(compiled):
            self._codes.setdefault((one.co_name, one.co_firstlineno), []).append(one)
        self.block(tree.body)
        self._codes, self.future_annotations = outer
        if self.order.state is not None:
            self.order.lazy -= {name for name in self.order.lazy if name in self.order.state}

    @abstractmethod
    def block(self, statements: list[ast.stmt]) -> None:
        """Visit statements in their order."""

    def evaluate(self, *nodes: ast.expr | None) -> None:
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
            self.evaluate(*(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)))
        else:
            for child in ast.iter_child_nodes(node):
                self.visit(child)

    def function(self, node: ast.AST, name: str, *, now: bool = False) -> None:
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
                self.strings(inner)
                escape = escape_of(inner)
                for fragment in fragments(escape, self._transform) if escape else ():
                    self.order.later(globals_in(parsed(fragment.code, self._filename)[1]).reads, now=now)
        self._calls_now = outer

    def strings(self, call: ast.Call) -> None:
        """What a call reads by its strings."""
        found = mentioned(call)
        self.order.later(found.names, now=self._calls_now)
        self.announces |= found.announces

    def _note_opaque(self, names: Iterable[str]) -> None:
        found = OPAQUE.intersection(names) - {key for key in self.order.state or () if isinstance(key, str)}
        self.announces |= found
        self.order.opaque |= bool(found - {"eval"})

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
            case ast.Compare(left=ast.Constant(value=str(name)), comparators=[namespace]) if is_namespace(namespace):
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
        self.function(node, "<lambda>", now=self._calls_now)

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
        targets = {name.id for part in node.generators for name in ast.walk(part.target) if isinstance(name, ast.Name)}
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
                if is_namespace(node.value) and isinstance(node.slice, ast.Constant):
                    self.order.later({str(node.slice.value)}, now=True)
                self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr == "user_ns":
            self.announces.add("user_ns")
            self.order.opaque = True
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.strings(node)
        escape = escape_of(node)
        if escape is None:
            self.generic_visit(node)
            if is_namespace(node):
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
