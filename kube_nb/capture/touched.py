"""Which names a cell may change in place: a name is left out only where nothing can keep or change its value."""

from __future__ import annotations

import ast

from kube_nb.capture.escapes import Transform, escape_of, unfold

# They look at an argument and keep nothing of it.
_LOOK = frozenset(
    {"abs", "bool", "callable", "complex", "display", "float", "format", "hasattr", "hash", "help", "id", "int"}
    | {"isinstance", "issubclass", "len", "print", "range", "repr", "round", "str", "type"}
)
# Operators whose result holds neither operand nor its elements.
_NEW = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)


def touched(code: str, *, transform: Transform | None = None) -> set[str]:
    """Names whose values the code passes on, calls, calls methods of, iterates, aliases or assigns into.

    A superset: whether something really changed is judged where the cell runs. Names of functions' own variables may be
    among them.

    Example:
        >>> sorted(touched("print(len(a), b > 0); c.append(d); e = f"))
        ['c', 'd', 'f']
    """
    found: set[str] = set()
    for _, tree in unfold(code, transform=transform):
        rebound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        rebound |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        look = _Look(_LOOK - rebound)
        try:
            look.visit(tree)
        except RecursionError:  # the compiler follows deeper nesting
            look.kept |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        found |= look.kept
    return found


class _Look(ast.NodeVisitor):
    """Collects the names whose values are kept or handed to code that might change them."""

    def __init__(self, looking: frozenset[str]) -> None:
        self.kept: set[str] = set()
        self._looking = looking
        self._kept = True
        """Whether the value of the expression that is visited now lives on."""

    def _dropped(self, *nodes: ast.expr | None) -> None:
        outer, self._kept = self._kept, False
        for node in nodes:
            if node is not None:
                self.visit(node)
        self._kept = outer

    def _all(self, *nodes: ast.AST | None) -> None:
        outer, self._kept = self._kept, True
        for node in nodes:
            if node is not None:
                self.visit(node)
        self._kept = outer

    def generic_visit(self, node: ast.AST) -> None:
        # What has no rule of its own below keeps what it is given.
        self._all(*ast.iter_child_nodes(node))

    def visit_Name(self, node: ast.Name) -> None:
        if self._kept and isinstance(node.ctx, ast.Load):
            self.kept.add(node.id)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self.kept |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_Expr(self, node: ast.Expr) -> None:
        self._dropped(node.value)

    def visit_If(self, node: ast.If | ast.While) -> None:
        self._dropped(node.test)
        self._all(*node.body, *node.orelse)

    visit_While = visit_If

    def visit_Assert(self, node: ast.Assert) -> None:
        self._dropped(node.test)
        self._all(node.msg)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.kept |= {inner.id for inner in ast.walk(node.target) if isinstance(inner, ast.Name)}
        self._all(node.target, node.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        self._dropped(node.left, *node.comparators)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self._dropped(*node.values)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> None:
        self._dropped(node.value, node.format_spec)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self._dropped(node.operand)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, _NEW):
            self._dropped(node.left, node.right)
        elif isinstance(node.op, ast.LShift | ast.RShift):  # where operators are commands, it is these
            self._all(node.left, node.right)
        else:
            self._same(node)

    def _same(self, node: ast.AST) -> None:
        """The value lives on where that of the whole expression does."""
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    visit_BoolOp = visit_Tuple = visit_List = visit_Dict = visit_Set = visit_Starred = _same

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._dropped(node.test)
        self.visit(node.body)
        self.visit(node.orelse)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load):
            self.visit(node.value)
        else:
            self._all(node.value)
        self._dropped(node.slice)

    def visit_Slice(self, node: ast.Slice) -> None:
        self._dropped(node.lower, node.upper, node.step)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            self.visit(node.value)
        else:
            self._all(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        escape = escape_of(node)
        if escape is not None:
            return  # the Python in it is a tree of its own; a name in `!cmd {name}` is formatted
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if isinstance(node.func, ast.Name) and node.func.id in self._looking:
            self._dropped(*arguments)
        else:
            self._all(node.func, *arguments)
