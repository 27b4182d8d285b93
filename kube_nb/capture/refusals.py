"""What a cell may not do in a job, refused before anything is made: what needs the kernel or somebody who types."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from kube_nb.capture.escapes import SHELL_CELLS, Escape, escape_of
from kube_nb.errors import CannotRunThere

_INSTALLERS = frozenset({"pip", "conda", "mamba", "micromamba", "uv"})
_INSTALL = re.compile(
    r"(?:^|[;&|(])\s*(?:(?:sudo|[A-Za-z_]\w*=\S*)\s+)*"
    r"(?:(?:\S*python[\d.]*|\{[^}]*executable[^}]*\})\s+-m\s+pip|uv\s+pip|pip[\d.]*|conda|mamba|micromamba|uv)"
    r"\s+(?:-\S+\s+)*(?:install|uninstall|update|upgrade|remove|create|add|sync)\b([^;&|\n]*)",
    re.MULTILINE,
)
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.\-]*(?:\[[\w,\-]*\])?(?:[<>=!~]=?[\w.*,<>=!~]*)?")
_WITH_VALUE = frozenset({"-r", "-c", "-i", "-e", "-f", "-n", "--index-url", "--extra-index-url", "--find-links"})

# Magics that mean something in a job. Whatever an extension added to this kernel does not exist there.
_MAGICS = """
time timeit prun capture bash sh script perl python python2 python3 pypy ruby html HTML javascript js latex markdown svg
SVG writefile file system sx sc ! env set_env cd pwd ls ll lf lk ldir lx cat mkdir rmdir rm cp mv less more man
matplotlib pylab precision pprint who whos who_ls pinfo pinfo2 pdoc pdef psource pfile psearch pycat pushd popd dirs
dhist config colors xmode xdel lsmagic magic quickref alias unalias rehashx tb clear page bookmark autoawait
pip conda mamba micromamba uv
"""
_WORK_THERE = frozenset(_MAGICS.split())
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


def check(tree: ast.Module) -> None:
    """Look at the magics, commands and calls of transformed code.

    Raises:
        CannotRunThere: one of them does not work in a job.
    """
    for node in ast.walk(tree):
        escape = escape_of(node)
        if escape is not None:
            _check_magic(escape)
    _check_calls(tree)


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
