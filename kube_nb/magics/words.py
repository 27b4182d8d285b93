r"""The words of a magic's line, and the expressions in them.

- Quotes group as in a POSIX shell. A backslash is an ordinary character except before a quote, so `C:\data\x` survives;
  in double quotes it is special only before a double quote, in single quotes never.
- What stands between unquoted braces is part of one word: spaces, quotes and all.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Literal

from kube_nb.errors import BadFlag

_SAFE = re.compile(r"[\w@%+:,./-]+", re.ASCII)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_CONVERSION = re.compile(r"![rsa](?=:|$)|:")


@dataclass(frozen=True)
class Piece:
    """Part of a word, and the quotes it stood in; those are taken away. `{` may be evaluated except in single ones."""

    text: str
    quote: Literal["", "'", '"'] = ""


@dataclass(frozen=True)
class Word:
    """A word and where it lies in its line."""

    pieces: tuple[Piece, ...]
    start: int
    end: int

    @property
    def text(self) -> str:
        """Without the quotes, nothing evaluated."""
        return "".join(piece.text for piece in self.pieces)


def words(line: str) -> list[str]:
    """The words of a line, their quotes taken away and nothing evaluated.

    Raises:
        BadFlag: a quote is never closed.

    Example:
        >>> words(r"--env K='a b' C:\\data\\x")
        ['--env', 'K=a b', 'C:\\\\data\\\\x']
    """
    found = []
    word = next_word(line, 0)
    while word is not None:
        found.append(word.text)
        word = next_word(line, word.end)
    return found


def quote(word: str) -> str:
    """As it must be written to be one word of which nothing is evaluated.

    Example:
        >>> print(quote("it's {x}"))
        'it'\\''s {x}'
    """
    return word if _SAFE.fullmatch(word) else "'" + word.replace("'", r"'\''") + "'"


def skip_space(line: str, at: int) -> int:
    while at < len(line) and line[at].isspace():
        at += 1
    return at


def next_word(line: str, at: int) -> Word | None:
    """The first word from `at` on; None: there is none."""
    at = skip_space(line, at)
    return word_at(line, at) if at < len(line) else None


def word_at(line: str, start: int) -> Word:
    """The word that begins exactly here; it may be empty.

    Raises:
        BadFlag: a quote is never closed.
    """
    pieces: list[Piece] = []
    plain, at = "", start
    while at < len(line) and not line[at].isspace():
        character = line[at]
        if character == "\\" and line[at + 1 : at + 2] in ("'", '"'):
            plain += line[at + 1]
            at += 2
        elif character == "'" or character == '"':
            text, at = _quoted(line, at)
            pieces += [Piece(plain), Piece(text, character)]
            plain = ""
        else:
            end = closing_brace(line, at) if character == "{" and line[at + 1 : at + 2] != "{" else None
            step = 2 if line[at : at + 2] == "{{" else 1
            after = at + step if end is None else end + 1
            plain += line[at:after]
            at = after
    return Word(tuple(piece for piece in (*pieces, Piece(plain)) if piece.text or piece.quote), start, at)


def _quoted(line: str, start: int) -> tuple[str, int]:
    """The text inside the quotes that open at `start`, and the place behind them."""
    mark, text, at = line[start], "", start + 1
    while at < len(line):
        if line[at] == "\\" and mark == '"' and line[at + 1 : at + 2] == '"':
            text += '"'
            at += 2
        elif line[at] == mark:
            return text, at + 1
        else:
            text += line[at]
            at += 1
    raise BadFlag(
        what=f"the quote in `{line[start:][:40]}` is never closed",
        why="a backslash makes the quote behind it an ordinary character" if "\\" in line[start:] else "",
        next="close it; a text that ends with a backslash goes into single quotes",
    )


def closing_brace(text: str, start: int) -> int | None:
    """Where the brace that opens at `start` is closed, past brackets and strings of Python; None: nowhere."""
    expected: list[str] = []
    at = start
    while at < len(text):
        character = text[at]
        if character in _CLOSING:
            expected.append(_CLOSING[character])
        elif character in ")]}":
            if character != expected.pop():
                return None
            if not expected:
                return at
        elif character in "'\"":
            at = _end_of_string(text, at)
        at += 1
    return None


def _end_of_string(text: str, start: int) -> int:
    at = start + 1
    while at < len(text) and text[at] != text[start]:
        at += 2 if text[at] == "\\" else 1
    return at


def is_expression(text: str) -> bool:
    """Whether the text is one Python expression."""
    try:
        ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


@dataclass(frozen=True)
class Field:
    """`{expression!conversion:format}`."""

    expression: str
    conversion: str = ""
    format: str = ""


def field_of(text: str) -> Field | None:
    """What stands between braces; None: it is no expression, but braces of a text such as JSON."""
    if is_expression(text):
        return Field(text)
    for mark in _CONVERSION.finditer(text):
        expression = text[: mark.start()]
        # Nobody formats a constant: `{"a": 1}` is a mapping.
        if is_expression(expression) and not _is_constant(expression):
            rest = text[mark.end() :]
            if mark[0] == ":":
                return Field(expression, "", rest)
            return Field(expression, mark[0][1], rest.removeprefix(":"))
    return None


def _is_constant(expression: str) -> bool:
    return isinstance(ast.parse(expression.strip(), mode="eval").body, ast.Constant)
