r"""The one grammar of all magics: words, flags, `{expr}`.

- Quotes group as in a POSIX shell. A backslash is an ordinary character except before a quote, so `C:\data\x` survives.
- A value that is wholly `{expr}` is that object; inside text it is formatted; `{{` and `}}` are braces; nothing inside
  single quotes is evaluated; braces that hold no expression (`{"a": 1}`) are left as they are.
- A flag is written out: `--name value` or `--name=value`. What is no flag and has no place is refused.
- Lists are separated by commas that are not quoted, or given again.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from kube_nb.errors import BadFlag

Evaluate = Callable[[str], Any]
_FLAG = re.compile(r"--?[A-Za-z][\w-]*")
_QUOTES = "\"'"


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag, declared once.

    Attributes:
        names: as written, e.g. ("-o", "--outputs").
        kind: `switch` has no value; `list` may come again; `param` is `name=value`, typed as YAML.
        metavar: stands for the value in the usage.
    """

    names: tuple[str, ...]
    kind: Literal["value", "switch", "list", "param"] = "value"
    metavar: str = ""
    help: str = ""

    @property
    def dest(self) -> str:
        """The name of the option: `on_interrupt` for `--on-interrupt`."""
        return max(self.names, key=len).lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Parsed:
    """What a line says.

    Attributes:
        values: by the flags' `dest`; only those that were given.
        given: the `dest` of each flag that was given.
        positional: words that are no flags.
        rest: of the line form: Python, byte for byte.
    """

    values: dict[str, Any] = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)
    rest: str = ""

    @property
    def given(self) -> set[str]:
        return set(self.values)


@dataclass(frozen=True)
class _Piece:
    """Part of a word: `plain` and `double` may hold expressions, `expr` is one, `single` is text."""

    kind: Literal["plain", "double", "single", "expr"]
    text: str


@dataclass(frozen=True)
class _Word:
    start: int
    end: int
    pieces: tuple[_Piece, ...]

    @property
    def text(self) -> str:
        """As written, quotes taken away and nothing evaluated."""
        return "".join(f"{{{p.text}}}" if p.kind == "expr" else p.text for p in self.pieces)


def parse(line: str, flags: Sequence[Flag], evaluate: Evaluate, *, rest: bool = False, positional: int = 0) -> Parsed:
    """Read a line.

    Args:
        flags: the ones this magic knows.
        evaluate: gives the object of an expression.
        rest: flags end at the first word that is none, or at `--`; what follows is kept as it is.
        positional: how many words may stand without a flag.

    Raises:
        BadFlag: an unknown or abbreviated flag, a missing value, a stray word, an unclosed quote.
    """
    known = {name: flag for flag in flags for name in flag.names}
    parsed = Parsed()
    position = 0
    while (word := _next_word(line, position)) is not None:
        text = word.text
        quoted = word.pieces[0].kind != "plain"
        if text == "--" and not quoted and rest:
            return Parsed(parsed.values, parsed.positional, line[word.end :].lstrip())
        name, equals, _ = text.partition("=")
        looks_like_one = not quoted and _FLAG.fullmatch(name) is not None
        if looks_like_one and name in known:
            position = _take(line, word, known[name], name, bool(equals), known, evaluate, parsed)
            continue
        if looks_like_one:
            raise _unknown(name, known)
        if rest:
            return Parsed(parsed.values, parsed.positional, line[word.start :])
        if len(parsed.positional) >= positional:
            raise _stray(text, known)
        parsed.positional.append(str(_value(word.pieces, evaluate)))
        position = word.end
    return parsed


def words(line: str) -> list[str]:
    """The words of a line, quotes taken away and nothing evaluated."""
    found, position = [], 0
    while (word := _next_word(line, position)) is not None:
        found.append(word.text)
        position = word.end
    return found


def usage(name: str, flags: Sequence[Flag], *, summary: str, positional: str = "") -> str:
    """What `--help` prints."""
    lines = [f"%{name} [flags] {positional}".rstrip(), "", summary, ""]
    shown = [(", ".join(flag.names) + (f" {flag.metavar}" if flag.metavar else ""), flag.help) for flag in flags]
    width = min(30, max((len(left) for left, _ in shown), default=0))
    lines += [f"  {left:<{width}}  {help}" for left, help in shown]
    return "\n".join(lines)


def _take(
    line: str,
    word: _Word,
    flag: Flag,
    name: str,
    has_value: bool,
    known: dict[str, Flag],
    evaluate: Evaluate,
    parsed: Parsed,
) -> int:
    """Read a flag's value; the position after it."""
    if flag.kind == "switch":
        if has_value:
            raise BadFlag(what=f"`{name}` takes no value", next=f"write {name} alone")
        parsed.values[flag.dest] = True
        return word.end
    if has_value:
        pieces, end = _after_equals(word, name), word.end
    else:
        follows = _next_word(line, word.end)
        if follows is None or (follows.pieces[0].kind == "plain" and follows.text.partition("=")[0] in known):
            raise BadFlag(what=f"`{name}` has no value", next=f"write {name} {flag.metavar or 'VALUE'}")
        pieces, end = follows.pieces, follows.end
    if flag.kind == "list":
        parsed.values.setdefault(flag.dest, []).extend(_listed(pieces, evaluate))
    elif flag.kind == "param":
        key, value = _parameter(pieces, name, evaluate)
        parsed.values.setdefault(flag.dest, {})[key] = value
    else:
        parsed.values[flag.dest] = _value(pieces, evaluate)
    return end


def _after_equals(word: _Word, name: str) -> tuple[_Piece, ...]:
    first, *others = word.pieces
    remainder = first.text[len(name) + 1 :]
    pieces = (_Piece("plain", remainder), *others) if remainder else tuple(others)
    return pieces or (_Piece("plain", ""),)


def _value(pieces: Sequence[_Piece], evaluate: Evaluate) -> Any:
    """The object of a value that is wholly an expression, else text."""
    if len(pieces) == 1 and pieces[0].kind == "expr":
        return _evaluated(pieces[0].text, evaluate)
    return "".join(_text(piece, evaluate) for piece in pieces)


def _text(piece: _Piece, evaluate: Evaluate) -> str:
    if piece.kind == "expr":
        return _formatted(piece.text, evaluate)
    if piece.kind == "double":
        return "".join(_formatted(p.text, evaluate) if p.kind == "expr" else p.text for p in _expressions(piece.text))
    return piece.text


def _listed(pieces: Sequence[_Piece], evaluate: Evaluate) -> list[Any]:
    if len(pieces) == 1 and pieces[0].kind == "expr":
        value = _evaluated(pieces[0].text, evaluate)
        if isinstance(value, str):
            return [part for part in value.split(",") if part]
        return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
    items: list[list[_Piece]] = [[]]
    for piece in pieces:
        if piece.kind != "plain":
            items[-1].append(piece)
            continue
        first, *others = piece.text.split(",")
        items[-1].append(_Piece("plain", first))
        items += [[_Piece("plain", other)] for other in others]
    texts = [_value([p for p in item if p.text or p.kind != "plain"], evaluate) for item in items]
    return [text for text in texts if text != ""]


def _parameter(pieces: Sequence[_Piece], flag: str, evaluate: Evaluate) -> tuple[str, Any]:
    first = pieces[0]
    key, equals, remainder = first.text.partition("=")
    if first.kind != "plain" or not equals or not key:
        raise BadFlag(what=f"`{flag}` takes name=value", next=f"write {flag} lr=0.1")
    value = ([_Piece("plain", remainder)] if remainder else []) + list(pieces[1:])
    if len(value) == 1 and value[0].kind == "expr":
        return key, _evaluated(value[0].text, evaluate)
    text = "".join(_text(piece, evaluate) for piece in value)
    if any(piece.kind in ("single", "double") for piece in value):
        return key, text
    return key, _yaml(text)


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _evaluated(expression: str, evaluate: Evaluate) -> Any:
    if not _is_expression(expression):
        return _yaml(f"{{{expression}}}")
    try:
        return evaluate(expression)
    except Exception as error:
        raise BadFlag(
            what=f"`{{{expression}}}` cannot be evaluated",
            why=f"{type(error).__name__}: {error}",
            next="define it first, or quote the value in single quotes to take it as text",
        ) from error


def _formatted(expression: str, evaluate: Evaluate) -> str:
    """`{x}` and `{x:.2f}` inside text."""
    if _is_expression(expression):
        return format(_evaluated(expression, evaluate))
    for at in reversed([i for i, character in enumerate(expression) if character == ":"]):
        if _is_expression(expression[:at]):
            value = _evaluated(expression[:at], evaluate)
            try:
                return format(value, expression[at + 1 :])
            except (ValueError, TypeError):
                break
    return f"{{{expression}}}"


def _is_expression(text: str) -> bool:
    try:
        ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return False
    return True


def _next_word(line: str, position: int) -> _Word | None:
    while position < len(line) and line[position].isspace():
        position += 1
    if position == len(line):
        return None
    start, pieces, plain = position, [], ""
    while position < len(line) and not line[position].isspace():
        character = line[position]
        if character == "\\" and line[position + 1 : position + 2] in ('"', "'"):
            plain += line[position + 1]
            position += 2
        elif character in _QUOTES:
            text, end = _quoted(line, position)
            pieces += [_Piece("plain", plain)] if plain else []
            pieces.append(_Piece("double" if character == '"' else "single", text))
            plain, position = "", end
        elif line[position : position + 2] in ("{{", "}}"):
            plain += character
            position += 2
        elif character == "{" and (end := _closing(line, position)) is not None:
            pieces += [_Piece("plain", plain)] if plain else []
            pieces.append(_Piece("expr", line[position + 1 : end]))
            plain, position = "", end + 1
        else:
            plain += character
            position += 1
    pieces += [_Piece("plain", plain)] if plain or not pieces else []
    return _Word(start, position, tuple(pieces))


def _quoted(line: str, start: int) -> tuple[str, int]:
    """The text inside the quotes that open at `start`, and the position after them."""
    quote, text, position = line[start], "", start + 1
    while position < len(line):
        if quote == '"' and line[position] == "\\" and line[position + 1 : position + 2] == quote:
            text += quote
            position += 2
        elif line[position] == quote:
            return text, position + 1
        else:
            text += line[position]
            position += 1
    raise BadFlag(
        what=f"a quote is not closed: {line[start:]}", next=f"close it with {quote}, or write \\{quote} for it"
    )


def _closing(line: str, start: int) -> int | None:
    """Where the brace that opens at `start` is closed; strings inside are passed over. None: it is not."""
    depth, position, quote = 0, start, ""
    while position < len(line):
        character = line[position]
        if quote:
            if character == "\\":
                position += 1
            elif character == quote:
                quote = ""
        elif character in _QUOTES:
            quote = character
        elif character in "{[(":
            depth += 1
        elif character in "}])":
            depth -= 1
            if depth == 0:
                return position if character == "}" else None
        position += 1
    return None


def _expressions(text: str) -> Iterator[_Piece]:
    """The text and the expressions of double-quoted text."""
    position, plain = 0, ""
    while position < len(text):
        if text[position : position + 2] in ("{{", "}}"):
            plain += text[position]
            position += 2
        elif text[position] == "{" and (end := _closing(text, position)) is not None:
            yield _Piece("plain", plain)
            yield _Piece("expr", text[position + 1 : end])
            plain, position = "", end + 1
        else:
            plain += text[position]
            position += 1
    yield _Piece("plain", plain)


def _unknown(name: str, known: dict[str, Flag]) -> BadFlag:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return BadFlag(
        what=f"there is no flag `{name}`", next=f"did you mean {near[0]}?" if near else "--help lists the flags"
    )


def _stray(text: str, known: dict[str, Flag]) -> BadFlag:
    near = get_close_matches(f"--{text}", known, n=1, cutoff=0.5)
    return BadFlag(
        what=f"`{text}` stands alone on the line",
        next=f"did you mean {near[0]}?" if near else "give it to a flag, or take it away; --help lists the flags",
    )
