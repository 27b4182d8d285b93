"""From the text of a cell to what is sent: Python with the cell's own line numbers, and what there is to know of it.

What can only work in a kernel is refused here, before anything is made.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kube_nb.capture.escapes import SHELL_CELLS, Escape, Transform, escape_of, to_python, unfold
from kube_nb.capture.flow import flow_of
from kube_nb.capture.imports import imports_of
from kube_nb.capture.names import Reads
from kube_nb.capture.paths import paths_in
from kube_nb.capture.touched import touched
from kube_nb.errors import CannotRunThere

_INSTALLERS = frozenset({"pip", "conda", "mamba", "micromamba", "uv"})
_INSTALL = re.compile(
    r"(?:^|[;&|(])\s*(?:sudo\s+)?(?:[A-Za-z_]\w*=\S*\s+)*"
    r"(?:(?:\S*python[\d.]*|\{[^}]*executable[^}]*\})\s+-m\s+pip|uv\s+pip|pip[\d.]*|conda|mamba|micromamba|uv)"
    r"\s+(?:-\S+\s+)*(?:install|uninstall|update|upgrade|remove|create|add|sync)\b([^;&|\n]*)",
    re.MULTILINE,
)
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.\-]*(?:\[[\w,\-]*\])?(?:[<>=!~]=?[\w.*,<>=!~]*)?")
_WITH_VALUE = frozenset({"-r", "-c", "-i", "-e", "-f", "-n", "--index-url", "--extra-index-url", "--find-links"})

# Magics that mean something in a job. Whatever an extension added to this kernel does not exist there.
_WORK_THERE = frozenset(
    [
        "time",
        "timeit",
        "prun",
        "capture",
        "bash",
        "sh",
        "script",
        "perl",
        "python",
        "python2",
        "python3",
        "pypy",
        "ruby",
        "html",
        "HTML",
        "javascript",
        "js",
        "latex",
        "markdown",
        "svg",
        "SVG",
        "writefile",
        "file",
        "system",
        "sx",
        "sc",
        "!",
        "env",
        "set_env",
        "cd",
        "pwd",
        "ls",
        "ll",
        "lf",
        "lk",
        "ldir",
        "lx",
        "cat",
        "mkdir",
        "rmdir",
        "rm",
        "cp",
        "mv",
        "less",
        "more",
        "man",
        "matplotlib",
        "pylab",
        "precision",
        "pprint",
        "who",
        "whos",
        "who_ls",
        "pinfo",
        "pinfo2",
        "pdoc",
        "pdef",
        "psource",
        "pfile",
        "psearch",
        "pycat",
        "pushd",
        "popd",
        "dirs",
        "dhist",
        "config",
        "colors",
        "xmode",
        "xdel",
        "lsmagic",
        "magic",
        "quickref",
        "alias",
        "unalias",
        "rehashx",
        "tb",
        "clear",
        "page",
        "bookmark",
        "autoawait",
        "pip",
        "conda",
        "mamba",
        "micromamba",
        "uv",
    ]
)
_NEED_THE_KERNEL = {
    name: why
    for names, why in {
        "debug pdb": "nobody can type into a job",
        "run": "the file does not exist in the job, and its names would not come back",
        "load_ext reload_ext unload_ext autoreload aimport": "extensions belong to the kernel",
        "load loadpy edit ed recall rep rerun history hist save macro paste cpaste pastebin notebook logstart logstop "
        "logon logoff logstate store": "it works on this notebook and its history",
        "gui qtconsole connect_info subshell": "it works on this kernel's process",
        "reset reset_selective code_wrap automagic autocall autoindent alias_magic doctest_mode killbgscripts": "it "
        "changes the kernel's own state",
    }.items()
    for name in names.split()
}
_NEXT = {
    "debug": "look at the error's frames when the job has failed, or debug the code in this kernel",
    "pdb": "look at the error's frames when the job has failed, or debug the code in this kernel",
    "run": "import the file as a module, or send it with `kube-nb run FILE.py`",
    "autoreload": "put it into a cell of its own; local modules travel as they are when the job is sent",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is sent of a cell.

    Attributes:
        raw: the text as it was typed.
        code: Python; its line N is line N of the person's cell.
        filename: what tracebacks call it.
        reads: names whose values from before the cell it may read.
        assigned: names that come back by default: what it assigns at the top level, functions and classes too.
        touched: names whose values it may change in place.
        announces: what in it reads names out of sight, such as `eval` and `df.query()`.
        imports: dotted names of modules that it may import.
        relative_paths: strings that look like files beside the notebook; whether they exist is the caller's question.
        needs_ipython: it uses magics; `!command` alone needs no IPython.
    """

    raw: str
    code: str
    filename: str
    reads: Reads
    assigned: frozenset[str]
    touched: frozenset[str]
    announces: frozenset[str]
    imports: frozenset[str]
    relative_paths: frozenset[str]
    needs_ipython: bool


def prepare(cell: str, *, filename: str, first_line: int = 1, transform: Transform | None = None) -> Source:
    """Make of a cell's text what is sent.

    Args:
        cell: the text below `%%kube_train`, or what follows `%kube_train` on its line.
        filename: what tracebacks shall call it, e.g. "Cell In[5]".
        first_line: the line of the person's cell on which `cell` begins.
        transform: the kernel's `shell.transform_cell`; None: IPython's own.

    Raises:
        SyntaxError: Python's own, with the line in the person's cell.
        CannotRunThere: it uses what only a kernel has.

    Example:
        >>> prepare("model = fit(X)", filename="Cell In[1]").assigned
        frozenset({'model'})
    """
    code = to_python(cell, first_line=first_line, transform=transform)
    trees = list(unfold(code, transform=transform, filename=filename))
    escapes = [escape for tree in trees for node in ast.walk(tree) if (escape := escape_of(node))]
    for escape in escapes:
        _check_magic(escape)
    for tree in trees:
        _check_calls(tree)
    flow = flow_of(code, transform=transform, filename=filename)
    return Source(
        raw=cell,
        code=code,
        filename=filename,
        reads=flow.reads,
        assigned=flow.assigned,
        touched=frozenset(touched(code, transform=transform)),
        announces=flow.announces,
        imports=frozenset(module for tree in trees for module in imports_of(ast.unparse(tree))),
        relative_paths=frozenset(path for tree in trees for path in paths_in(tree)),
        needs_ipython=any(escape.kind != "system" for escape in escapes) or any(map(_uses_ipython, trees)),
    )


def _check_magic(escape: Escape) -> None:
    where = f"line {escape.line} of the cell"
    name = escape.name
    command = escape.text if escape.kind == "system" else ""
    if name in SHELL_CELLS:
        command = f"{escape.text}\n{escape.body}"
    elif name in _INSTALLERS:
        command = f"{name} {escape.text}"
    installed = _INSTALL.search(command)
    if installed:
        wanted = ",".join(_requirements(installed[1]))
        mark = {"system": "!", "line": "%"}.get(escape.kind, "")
        raise CannotRunThere(
            what=f"`{mark}{installed[0].strip()}` does not run inside a job ({where})",
            why="it would change an environment that other jobs share, after Python has started in it",
            next=f"put it on the magic's line: --packages {_quoted(wanted or 'NAME')}",
        )
    if escape.kind == "system" or name in _WORK_THERE:
        return
    if name.startswith("kube_"):
        why, after = "jobs are sent from the kernel", "send it from a cell of its own; in a job, use kn.Client()"
    elif name in _NEED_THE_KERNEL:
        why, after = _NEED_THE_KERNEL[name], _NEXT.get(name, "put it into a cell of its own")
    else:
        why = "it is not one of IPython's own; what an extension adds to this kernel does not exist in the job"
        after = "write it as Python, or run it in this kernel in a cell of its own"
    raise CannotRunThere(what=f"`{escape.shown}` does not run inside a job ({where})", why=why, next=after)


def _requirements(arguments: str) -> Iterator[str]:
    """The packages among the arguments of an installer."""
    skip = False
    for word in arguments.split():
        if skip or word.startswith("-"):
            skip = word in _WITH_VALUE
            continue
        bare = word.strip("'\"")
        if _REQUIREMENT.fullmatch(bare) and not bare.endswith(".txt"):
            yield bare


def _quoted(text: str) -> str:
    return f'"{text}"' if re.search(r"[<>!~ ]", text) else text


def _check_calls(tree: ast.Module) -> None:
    """Refuse what waits for somebody who types, unless the cell has a meaning of its own for the name."""
    nodes = list(ast.walk(tree))
    own = {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in nodes:
        match node:
            case ast.Call(func=ast.Name(id="input" | "getpass" | "breakpoint" as name), lineno=line) if name not in own:
                pass
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=module), attr="getpass" | "set_trace" | "post_mortem" as method),
                lineno=line,
            ) if module in ("getpass", "pdb", "ipdb"):
                name = f"{module}.{method}"
            case _:
                continue
        debugs = name not in ("input", "getpass", "getpass.getpass")
        raise CannotRunThere(
            what=f"`{name}()` does not work inside a job (line {line} of the cell)",
            why="nobody can type into a job",
            next=_NEXT["debug"]
            if debugs
            else "ask in a cell before; the answer travels by its name, a secret with --env",
        )


def _uses_ipython(tree: ast.Module) -> bool:
    """Whether `get_ipython()` is called for more than commands and magics."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    used = sum(1 for call in calls if escape_of(call))
    return sum(1 for call in calls if isinstance(call.func, ast.Name) and call.func.id == "get_ipython") > used
