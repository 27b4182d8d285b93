"""`!command` and `x = !command`, with or without IPython."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from string import Formatter
from typing import Any


def run(command: str, names: Mapping[str, Any]) -> int:
    """Run a command whose output goes where `print` goes, in the same order.

    Args:
        names: what `{expression}` and `$name` in the command mean.

    Returns:
        its exit status, negative: the signal that killed it.
    """
    shell = _shell(expand(command, names))
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.stdout is sys.__stdout__:
        return _status(subprocess.run(shell, check=False).returncode)
    # %%capture or redirect_stdout: what a command writes belongs there too.
    with subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout or ():
            sys.stdout.write(line.decode("utf-8", "replace"))
    return _status(process.returncode)


def output_of(command: str, names: Mapping[str, Any]) -> list[str]:
    """The lines a command writes to its standard output and error; IPython's list of lines where there is IPython."""
    lines = _captured(expand(command, names)).splitlines()
    if find_spec("IPython") is None:
        return Lines(lines)
    from IPython.utils.text import SList

    return SList(lines)


def text_of(command: str, names: Mapping[str, Any]) -> str:
    """What a command writes to its standard output and error, in one piece."""
    return _captured(expand(command, names))


class Lines(list[str]):
    """The lines of a command's output, with the short names that IPython gives them. Comes back as a plain list."""

    @property
    def l(self) -> list[str]:  # noqa: E743 - IPython's name
        return [*self]

    @property
    def n(self) -> str:
        return "\n".join(self)

    @property
    def s(self) -> str:
        return " ".join(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, ([*self],)


def expand(command: str, names: Mapping[str, Any]) -> str:
    """The command with `{expression}`, `$name` and `$name.attribute` replaced, as IPython does; `$$name` stays `$name`.

    A command in which one of them cannot be computed is left as it is.
    """
    if "{" not in command and "$" not in command and "}" not in command:
        return command
    try:
        return _Expander().vformat(command, (), dict(names))
    except Exception:  # noqa: BLE001 - any error of the expression: it was the shell's own, such as ${HOME}
        return command


class _Expander(Formatter):
    """A re-statement of IPython's formatter: expressions in braces, and dollars outside single quotes."""

    def parse(self, format_string: str) -> Iterator[tuple[str, str | None, str | None, str | None]]:
        import re

        dollar = re.compile(r"(.*?)\$(\$?[\w\.]+)(?=([^']*'[^']*')*[^']*$)")
        for literal, field, spec, conversion in super().parse(format_string):
            text, rest = "", 0
            for match in dollar.finditer(literal):
                if match[2].startswith("$"):
                    text += match[1] + match[2]
                else:
                    yield text + match[1], match[2], "", None
                    text = ""
                rest = match.end()
            yield text + literal[rest:], field, spec, conversion

    def vformat(self, format_string: str, args: Any, kwargs: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        parts: list[str] = []
        for literal, field, spec, conversion in self.parse(format_string):
            parts.append(literal)
            if field is not None:
                value = eval(f"{field}:{spec}" if spec else field, kwargs)
                parts.append(format(self.convert_field(value, conversion or None)))
        return "".join(parts)


def _captured(command: str) -> str:
    if command.rstrip().endswith("&"):
        raise OSError("Background processes not supported.")  # IPython's words
    done = subprocess.run(_shell(command), check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.decode("utf-8", "replace")


def _shell(command: str) -> list[str]:
    """The person's shell, as in the kernel; /bin/sh where none is named."""
    return [shutil.which(os.environ.get("SHELL", "sh")) or "/bin/sh", "-c", command]


def _status(code: int) -> int:
    return -(code - 128) if code > 128 else code
