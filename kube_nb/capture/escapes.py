"""IPython's syntax in a cell: Python made of it with the line numbers kept, and the Python that hides in magics."""

from __future__ import annotations

import ast
import re
import string
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType
from typing import Literal

Transform = Callable[[str], str]
"""Makes Python of a cell's text, as the kernel's `shell.transform_cell` does."""

_METHODS = {"system": "system", "getoutput": "system", "run_line_magic": "line", "run_cell_magic": "cell"}
SHELL_CELLS = frozenset({"bash", "sh", "script", "system", "sx", "!"})
_EXPANDED_CELLS = frozenset({"system", "sx", "!"})
_UNEXPANDED = frozenset({"time", "timeit", "prun", "capture"})
_INSPECT = frozenset({"pinfo", "pinfo2", "pdoc", "pdef", "psource", "pfile", "xdel"})
# Letters of options that are followed by a value.
_OPTIONS = {"time": "", "timeit": "nrpv", "prun": "DlsT"}
_BOUND_BY_SCRIPTS = re.compile(r"--(?:out|err|proc)(?:=|\s+)(\w+)")
_DOLLAR = re.compile(r"\$(\$?)([^\W\d]\w*)")
_BRACED = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Escape:
    """A `!command` or magic, as the transformed cell calls it.

    Attributes:
        kind: "system" for `!`, else whether it is a line or a cell magic.
        name: of the magic; "!" for commands.
        text: what follows the name on its line, or the command.
        body: the lines below a cell magic.
        line: where it stands.
    """

    kind: Literal["system", "line", "cell"]
    name: str
    text: str
    body: str
    line: int

    @property
    def shown(self) -> str:
        """As a person writes it, without its arguments."""
        return {"system": "", "line": "%", "cell": "%%"}[self.kind] + self.name


@dataclass(frozen=True)
class Fragment:
    """Python inside a magic. `own_names`: what it assigns stays inside (`%timeit`)."""

    code: str
    own_names: bool = False


@cache
def _manager() -> Transform:
    from IPython.core.inputtransformer2 import TransformerManager  # a tenth of a second; not needed in plain scripts

    return TransformerManager().transform_cell


def to_python(text: str, *, first_line: int = 1, transform: Transform | None = None) -> str:
    """Python made of a cell's text, padded so that line N is line N of the cell that the person sees.

    Args:
        text: as it was typed, or the part of it below `%%kube_train`.
        first_line: of the person's cell, on which `text` begins.
        transform: the kernel's own; None: IPython's.

    Raises:
        SyntaxError: IPython's syntax, misused.

    Example:
        >>> to_python("x = 1", first_line=3, transform=lambda text: text)
        '\\n\\nx = 1'
    """
    code = (transform or _manager())(text)
    raw = re.split(r"\r\n|\r|\n", text)
    blank = 0
    if code.strip():
        leading = re.split(r"\r\n|\r|\n", code)
        kept = next(number for number, line in enumerate(leading) if line.strip())
        blank = next((number for number, line in enumerate(raw) if line.strip()), kept) - kept
    return "\n" * (first_line - 1 + blank) + _aligned(code, raw[blank:])


def _aligned(code: str, raw: list[str]) -> str:
    """Give back the line breaks of a `!command \\` that goes on below: IPython makes one line of it."""
    if not any(line.endswith("\\") for line in raw) or "get_ipython()" not in code:
        return code
    made, at = [], 0
    for line in code.split("\n"):
        made.append(line)
        same = at < len(raw) and raw[at].strip() == line.strip()
        if not same and "get_ipython()" in line:
            while at < len(raw) - 1 and raw[at].endswith("\\"):
                made.append("")
                at += 1
        at += 1
    return "\n".join(made)


def parsed(code: str, filename: str = "<cell>") -> tuple[ast.Module, CodeType]:
    """The tree and the compiled form of transformed code; `await` may stand at the top level.

    Raises:
        SyntaxError: Python's own, with the line of the source also where the compiler leaves it out.
    """
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the job's own compiler says them, where the person sees them
            tree = compile(code, filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
            # From the text again: a tree is compiled only to a third of the depth that the text may have.
            return tree, compile(code, filename, "exec", flags, dont_inherit=True)
    except SyntaxError as error:
        lines = code.split("\n")
        if error.text is None and error.lineno is not None and 0 < error.lineno <= len(lines):
            error.text = lines[error.lineno - 1]
        if error.lineno is None:
            raise _unreadable(code, filename, error) from None
        raise
    except ValueError as error:  # NUL bytes before 3.11.4, lone surrogates
        raise _unreadable(code, filename, error) from None


def _unreadable(code: str, filename: str, error: Exception) -> SyntaxError:
    """An error of the whole text, with the line of the character that causes it."""
    bad = re.search("[\x00\ud800-\udfff]", code)
    line = code.count("\n", 0, bad.start()) + 1 if bad else 1
    message = getattr(error, "msg", None) or str(error)
    return SyntaxError(message, (filename, line, 1, code.split("\n")[line - 1], line, 1))


def escape_of(node: ast.AST) -> Escape | None:
    """The escape that a call in transformed code stands for; None: it is ordinary Python."""
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython")), attr=method), args=args, lineno=line
        ) if method in _METHODS:
            pass
        case _:
            return None
    texts = [arg.value for arg in args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    match _METHODS[method], texts:
        case "system", [text]:
            return Escape("system", "!", text, "", line)
        case "line", [name, text]:
            return Escape("line", name, text, "", line)
        case "cell", [name, text, body]:
            return Escape("cell", name, text, body, line)
        case _:
            return None


def fragments(escape: Escape, transform: Transform | None = None) -> list[Fragment]:
    """The Python that a magic runs, with the line numbers of the cell."""

    def python(text: str, line: int, own_names: bool = False) -> Fragment:
        return Fragment(to_python(text, first_line=line, transform=transform), own_names)

    first = _without_options(escape.text, _OPTIONS.get(escape.name, ""))
    cell = escape.kind == "cell"
    match escape.name:
        case "time" | "prun":
            return [python(text, line) for text, line in ((first, escape.line), (escape.body, escape.line + 1)) if text]
        case "timeit":
            parts = [(first, escape.line), (escape.body, escape.line + 1)]
            return [python(text, line, own_names=True) for text, line in parts if text]
        case "capture" if cell:
            return [python(escape.body, escape.line + 1)]
        case _:
            return []


def expressions(escape: Escape) -> list[str]:
    """The Python expressions that IPython puts into a command or a magic's line: `{path}`, `$name`."""
    if escape.kind != "system" and escape.name in _UNEXPANDED:
        return []
    text = escape.text + ("\n" + escape.body if escape.name in _EXPANDED_CELLS else "")
    found = [name for dollar, name in _DOLLAR.findall(text) if not dollar]
    if escape.name in _INSPECT:
        found += re.findall(r"[^\W\d]\w*", text)
    return found + list(_fields(text))


def names_bound(escape: Escape) -> set[str]:
    """Names that a magic itself assigns: `%%capture out`, `%%bash --out text`."""
    if escape.kind != "cell":
        return set()
    if escape.name == "capture":
        words = [word for word in escape.text.split() if word.isidentifier()]
        return set(words[:1])
    return set(_BOUND_BY_SCRIPTS.findall(escape.text))


def unfold(
    code: str, *, transform: Transform | None = None, filename: str = "<cell>"
) -> Iterator[tuple[str, ast.Module]]:
    """A transformed cell and its tree, then the Python inside its magics, and inside those."""
    tree, _ = parsed(code, filename)
    yield code, tree
    for node in ast.walk(tree):
        escape = escape_of(node)
        for fragment in fragments(escape, transform) if escape else ():
            yield from unfold(fragment.code, transform=transform, filename=filename)


def _fields(text: str) -> Iterator[str]:
    try:
        for _, field, spec, _ in string.Formatter().parse(text):
            if field:
                yield field
            if spec:
                yield from _fields(spec)
    except ValueError:  # IPython then leaves the text alone, perhaps after some were evaluated
        yield from _BRACED.findall(text)


def _without_options(text: str, with_value: str) -> str:
    """The statement behind options such as `-n 10 -r3 -q`."""
    pattern = rf"\s*(?:-[{with_value or '-'}]\s*\S+|--?[A-Za-z][\w-]*)(?=\s|$)"
    match = re.match(pattern, text)
    while match:
        text = text[match.end() :]
        match = re.match(pattern, text)
    return text.strip()
