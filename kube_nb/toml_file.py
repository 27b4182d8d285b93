"""A TOML file that a person keeps: reading it, finding the line of a key, changing a key without losing a comment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from kube_nb.errors import BadValue, StorageFailed

Key: TypeAlias = tuple[str, ...]
"""The way to a value: `("memory",)`, `("labels", "team")`, `("targets", "gpu", "context")`."""

_WORD = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_HEADER = re.compile(rf"\s*\[\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*\]\s*(?:#.*)?")
_ASSIGNMENT = re.compile(rf"\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*=")


@dataclass(frozen=True)
class TomlFile:
    """What a file says, and on which lines; empty where there is no file."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    lines: dict[Key, int] = field(default_factory=dict[Key, int])

    @classmethod
    def read(cls, path: Path, needle: str = "") -> TomlFile:
        """Read a file; one in which `needle` does not occur counts as empty.

        Raises:
            BadValue: it cannot be read, or is no TOML.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return cls(path)
        except (OSError, UnicodeDecodeError) as error:
            raise BadValue(what=f"{path} cannot be read", why=str(error)) from None
        return cls.parse(text, path) if needle in text else cls(path)

    @classmethod
    def parse(cls, text: str, path: Path) -> TomlFile:
        """The text of a file; `path` is how it is called.

        Raises:
            BadValue: it is no TOML.
        """
        import tomllib

        try:
            return cls(path, tomllib.loads(text), _lines(text))
        except tomllib.TOMLDecodeError as error:
            raise BadValue(what=f"{path} is not TOML", why=str(error), next="mend that line") from None

    def place(self, key: Key) -> str:
        """`path:line` of a key or of the table around it; the path where neither was found."""
        for length in range(len(key), 0, -1):
            if line := self.lines.get(key[:length]):
                return f"{self.path}:{line}"
        return str(self.path)


def write_toml(path: Path, values: Mapping[Key, Any], *, without: Key) -> None:
    """Set `values` in place of all that stands under `without`. The file is replaced as a whole, readable by its owner.

    Raises:
        BadValue: the file is no TOML.
        StorageFailed: it cannot be written.
    """
    import tomlkit

    TomlFile.read(path)  # no TOML: said here
    document: Any = tomlkit.parse(path.read_text(encoding="utf-8") if path.exists() else "")
    if without not in values:
        _remove(document, without)
    for key, value in values.items():
        table = document
        for name in key[:-1]:
            if name not in table:
                table[name] = tomlkit.table()
            table = table[name]
        table[key[-1]] = value
    try:
        _replace(Path(os.path.realpath(path)), tomlkit.dumps(document))  # a link into a dotfiles repository stays one
    except OSError as error:
        raise StorageFailed(what=f"{path} cannot be written", why=str(error)) from None


def _lines(text: str) -> dict[Key, int]:
    """Where each key stands, judged by the lines that open a table or assign: good enough to point a person there."""
    lines: dict[Key, int] = {}
    header: Key = ()
    for number, line in enumerate(text.split("\n"), start=1):
        if match := _HEADER.fullmatch(line):
            header = _parts(match[1])
            lines[header] = number
        elif match := _ASSIGNMENT.match(line):
            lines[header + _parts(match[1])] = number
    return lines


def _parts(dotted: str) -> Key:
    return tuple(part.strip("\"'") for part in re.findall(_WORD, dotted))


def _remove(table: Any, key: Key) -> None:
    """Remove a key, and the tables that it leaves empty."""
    name, *rest = key
    if name in table:
        if rest:
            _remove(table[name], tuple(rest))
        if not rest or not table[name]:
            del table[name]


def _replace(path: Path, text: str) -> None:
    import contextlib
    import tempfile

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
