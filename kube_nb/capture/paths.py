"""Strings in a cell that look like files beside the notebook, which a job would not find."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from kube_nb.capture.escapes import SHELL_CELLS, escape_of

_LONGEST = 255
_SUFFIX = re.compile(r".*[^./\\]\.[A-Za-z][\w]{0,9}")
_NOT_A_PATH = re.compile(r"[\x00-\x1f<>|\"]|^\s|\s$|^[/~\\]|^[A-Za-z]:|^[A-Za-z][\w+.-]*:|^\.?/?$")
_OPENERS = frozenset({"open", "Path", "PurePath", "chdir", "listdir", "scandir", "iterdir", "glob", "rglob", "join"})
_READS = ("read_", "load", "from_", "imread")
_WRITES = ("to_", "save", "write_", "dump", "mkdir", "makedirs", "imwrite")
_SHELL_WORD = re.compile(r"""[^\s'"`;&|<>(){}$=]+""")


def paths_in(tree: ast.Module) -> Iterator[str]:
    """Relative paths among the strings of transformed code; places that it only writes to are left out.

    Example:
        >>> sorted(paths_in(ast.parse("df = read_csv('data/a.csv'); df.to_csv('b.csv'); print('Hello.')")))
        ['data/a.csv']
    """
    written = {id(argument) for node in ast.walk(tree) for argument in _written(node)}
    formatted: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant()):
                formatted.add(id(node.value))  # a docstring
            case ast.JoinedStr(values=parts):
                formatted |= {id(part) for part in parts}
                if parts and isinstance(parts[0], ast.Constant) and id(node) not in written:
                    yield from _folder(str(parts[0].value))
            case ast.Call():
                yield from _command(node)
                formatted |= {id(argument) for argument in node.args} if escape_of(node) else set()
                yield from _named(node)
            case ast.Constant(value=str(text)) if id(node) not in formatted and id(node) not in written:
                if _looks_like_a_path(text):
                    yield text
            case _:
                pass


def _looks_like_a_path(text: str) -> bool:
    if not 0 < len(text) <= _LONGEST or _NOT_A_PATH.search(text):
        return False
    return "/" in text or "\\" in text or _SUFFIX.fullmatch(text) is not None


def _folder(text: str) -> Iterator[str]:
    """The folder that an f-string such as f"data/{name}.csv" begins with."""
    folder, slash, _ = text.rpartition("/")
    if slash and _looks_like_a_path(folder + slash):
        yield folder


def _name(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _named(call: ast.Call) -> Iterator[str]:
    """A bare word, such as a folder, where a path is expected."""
    name = _name(call.func)
    match call.args:
        case [ast.Constant(value=str(text)), *_] if name in _OPENERS or name.startswith(_READS):
            is_text_join = name == "join" and isinstance(call.func, ast.Attribute) and _name(call.func.value) != "path"
            if re.fullmatch(r"[\w-]+", text) and not is_text_join and not any(_written(call)):
                yield text
        case _:
            pass


def _written(node: ast.AST) -> Iterator[ast.expr]:
    """The first argument of a call that writes there."""
    match node:
        case ast.Call(func=function, args=[target, *others], keywords=keywords):
            name = _name(function)
            modes = [*others[:1], *(keyword.value for keyword in keywords if keyword.arg == "mode")]
            opens_to_write = name == "open" and any(
                isinstance(mode, ast.Constant) and str(mode.value).startswith(("w", "x")) for mode in modes
            )
            if opens_to_write or name.startswith(_WRITES):
                yield target
        case _:
            pass


def _command(call: ast.Call) -> Iterator[str]:
    """Words of a shell command that look like paths; what follows `>` is written."""
    escape = escape_of(call)
    if escape is None or not (escape.kind == "system" or escape.name in SHELL_CELLS):
        return
    text = escape.body if escape.kind == "cell" else escape.text
    for word in _SHELL_WORD.findall(re.sub(r">\s*\S+", "", text)):
        if _looks_like_a_path(word):
            yield word
