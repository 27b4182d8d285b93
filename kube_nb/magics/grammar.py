"""The one grammar of all magics: flags, their values, and the Python at the end of a line.

- `{expr}` outside single quotes is evaluated: a value that is wholly one expression is that object, inside text it is
  formatted as in an f-string; `{{` and `}}` are braces. Braces that hold no expression (`{"a": 1}`) are text.
- Flags are written out; `--flag value` and `--flag=value` are the same. What is no flag and has no place is refused.
- Lists are separated by commas, or given again.
- In a line that ends in Python, flags end at the first word that is no flag, or at `--`; the rest is not touched.

How a line falls into words stands in `words.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, NoReturn

from kube_nb.errors import BadFlag
from kube_nb.magics.typed import typed
from kube_nb.magics.words import Piece, Word, closing_brace, field_of, is_expression, next_word, skip_space, word_at

Evaluate = Callable[[str], Any]
"""Gives the value of a Python expression in the notebook's namespace."""

_FLAG = re.compile(r"--?[A-Za-z][\w-]*(?=[=\s]|$)")
_PAIR = re.compile(r"\s*[^\W\d]\w*=")
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"": lambda value: value, "r": repr, "s": str, "a": ascii}


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag, declared once and shared by every magic and command that takes it.

    Attributes:
        names: as they are written, e.g. ("-o", "--outputs").
        dest: the name of its value; default: the longest name as an identifier, `on_interrupt` for `--on-interrupt`.
        kind: "switch" has no value; "value" has one; "list" has several, separated by commas or repeated, `none` for
            none at all; "param" is NAME=VALUE, the value typed as YAML, and may be repeated; "pair" is NAME or
            NAME=TEXT, and a comma in TEXT separates nothing unless another NAME= follows it.
        parse: makes what is meant of a value (of each one of a list); its errors are the person's to read.
        default: what it is where it is not given.
        metavar: stands for the value in the usage.
        help: one line.
        choices: the only values there are.
        spaced: a "param" that is also written `-p NAME VALUE`.
        raw: a "param" whose value is the text as it stands.
    """

    names: tuple[str, ...]
    dest: str = ""
    kind: Literal["switch", "value", "list", "param", "pair"] = "value"
    parse: Callable[[Any], Any] | None = None
    default: Any = None
    metavar: str = ""
    help: str = ""
    choices: tuple[str, ...] = ()
    spaced: bool = False
    raw: bool = False

    def __post_init__(self) -> None:
        if not self.dest:
            object.__setattr__(self, "dest", max(self.names, key=len).lstrip("-").replace("-", "_"))

    @property
    def form(self) -> str:
        """What stands for its value in the usage; empty for a switch."""
        if self.kind == "switch":
            return ""
        by_kind = {"param": "NAME=VALUE", "pair": "NAME[=VALUE]", "list": "A,B"}
        return self.metavar or "|".join(self.choices) or by_kind.get(self.kind, self.dest.upper())


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What a line says.

    Attributes:
        values: of all flags, by `dest`, defaults included; also as attributes: `parsed.gpus`.
        given: the `dest` of each flag that was written.
        words: those that belong to no flag.
        rest: the Python at the end of the line, byte for byte.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()
    rest: str = ""

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("values", {})
        if name not in values:
            raise AttributeError(name)
        return values[name]


def parse(
    line: str,
    flags: Sequence[Flag],
    evaluate: Evaluate | None = None,
    *,
    rest: bool = False,
    words: int | None = 0,
) -> Parsed:
    """Read a line.

    Args:
        line: what follows the magic's name.
        flags: those it takes.
        evaluate: gives the value of an expression; None: braces are text.
        rest: what follows the flags is Python.
        words: how many words may stand without a flag; None: any number.

    Raises:
        BadFlag: an unknown or abbreviated flag, a missing value, a stray word, a quote that is never closed.
        BadValue: a value means nothing to the flag's `parse`.

    Example:
        >>> gpus, outputs = Flag(names=("--gpus",), parse=int), Flag(names=("-o", "--outputs"), kind="list")
        >>> parsed = parse("--gpus 2 -o a,b fit(X)", [gpus, outputs], rest=True)
        >>> parsed.gpus, parsed.outputs, parsed.rest
        (2, ('a', 'b'), 'fit(X)')
    """
    return _Parser(line, flags, evaluate).run(rest, words)


def asks_for_help(line: str, flags: Sequence[Flag]) -> bool:
    """Whether `--help` or `-h` stands among the flags; it may stand in the Python behind them without being meant."""
    asked = Flag(names=("--help", "-h"), dest="_help", kind="switch")
    try:
        return "_help" in _Parser(line, [*flags, asked], None, checks=False).run(rest=True, limit=None).given
    except BadFlag:  # no good line; the help says what is
        return any(word in asked.names for word in line.split())


def usage(name: str, flags: Iterable[Flag], *, about: str = "", words: str = "") -> str:
    """What `--help` shows of the magic or command `name`; `words` stands for what is no flag."""
    left = [(f"{', '.join(flag.names)} {flag.form}".rstrip(), flag.help) for flag in flags]
    left.append(("--help", "show this text"))
    width = min(max(len(written) for written, _ in left), 32)
    lines = [f"{name} [flags] {words}".rstrip(), *(["", about.strip()] if about else []), ""]
    for written, help in left:
        if len(written) > width:
            lines.append(f"  {written}")
            written = ""
        lines.append(f"  {written:<{width}}  {help}".rstrip())
    return "\n".join(lines)


def split_list(text: str, *, pairs: bool = False) -> list[str]:
    """The items of a comma-separated list; a comma in brackets or before a version (`a>=4,<5`) separates nothing.

    Args:
        pairs: of NAME and NAME=TEXT; a comma also belongs to a TEXT unless another NAME= follows it.

    Example:
        >>> split_list("numpy, torch>=2,<3, ray[data,train]")
        ['numpy', 'torch>=2,<3', 'ray[data,train]']
        >>> split_list("HOSTS=a,b,TOKEN=c", pairs=True)
        ['HOSTS=a,b', 'TOKEN=c']
    """
    return _listed([(text, False)], pairs)


def _listed(parts: Iterable[tuple[str, bool]], pairs: bool) -> list[str]:
    items: list[str] = []
    for text, quoted in _separated(parts):
        # The shell's `-o "a, b"` is a list of names too; in `K="a,b"` the comma belongs to the value.
        names = [name.strip() for name in text.split(",")]
        if quoted and all(name.isidentifier() for name in names):
            items += names
        elif pairs and items and "=" in items[-1] and not _PAIR.match(text):
            items[-1] += f",{text}"
        else:
            items.append(text.strip())
    return [item for item in items if item]


def _separated(parts: Iterable[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Items out of texts, some of them quoted: their commas are their own. With each, whether it was quoted in part."""
    items: list[tuple[str, bool]] = []
    current, quoted, depth = "", False, 0
    for text, own in parts:
        quoted |= own
        for at, character in enumerate(text):
            depth = max(0, depth + (character in "([{") - (character in ")]}")) if not own else depth
            if character == "," and not own and depth == 0 and not re.match(r"\s*[<>=!~]", text[at + 1 :]):
                items.append((current, quoted))
                current, quoted = "", False
            else:
                current += character
    return [*items, (current, quoted)]


@dataclass
class _Parser:
    line: str
    flags: Sequence[Flag]
    evaluate: Evaluate | None
    checks: bool = True
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = {name: flag for flag in self.flags for name in flag.names}

    def run(self, rest: bool, limit: int | None) -> Parsed:
        words: list[str] = []
        at, flags_ended = skip_space(self.line, 0), False
        while at < len(self.line):
            written = None if flags_ended else _FLAG.match(self.line, at)
            if written is not None and written[0] in self.known:
                at = self._flag(self.known[written[0]], written[0], written.end())
            elif written is not None:
                self._unknown(written[0], rest)
            elif not flags_ended and re.match(r"--(?=\s|$)", self.line[at:]):
                at, flags_ended = at + 2, True
                if rest:
                    at = skip_space(self.line, at)
                    break
            elif rest:
                break
            else:
                word = word_at(self.line, at)
                if limit is not None and len(words) >= limit:
                    self._stray(word.text)
                words.append(str(self._value(word.pieces, word.text)))
                at = word.end
            at = skip_space(self.line, at)
        return Parsed(
            values={flag.dest: flag.default for flag in self.flags} | self.values,
            given=frozenset(self.values),
            words=tuple(words),
            rest=self.line[at:] if rest else "",
        )

    # -- flags and their values

    def _flag(self, flag: Flag, written: str, at: int) -> int:
        """Take a flag with its value; where the line goes on."""
        with_equals = self.line[at : at + 1] == "="
        if flag.kind == "switch":
            if with_equals:
                _bad(f"`{written}` takes no value", f"write {written} alone")
            self.values[flag.dest] = True
            return at
        word = word_at(self.line, at + 1) if with_equals else next_word(self.line, at)
        ahead = None if with_equals else _FLAG.match(self.line, skip_space(self.line, at))
        if word is None or (ahead is not None and ahead[0] in self.known):
            _bad(f"`{written}` has no value", f"write {written} {flag.form}")
        if flag.kind in ("list", "pair"):
            items = [self._checked(flag, written, item) for item in self._items(flag, word.pieces, written)]
            self.values[flag.dest] = (*self.values.get(flag.dest, ()), *items)
        elif flag.kind == "param":
            return self._param(flag, written, word)
        elif flag.dest in self.values:
            _bad(f"`{written}` is given twice", "write it once")
        else:
            self.values[flag.dest] = self._checked(flag, written, self._value(word.pieces, written))
        return word.end

    def _param(self, flag: Flag, written: str, word: Word) -> int:
        name, pieces = _split_at_equals(word.pieces)
        end = word.end
        if pieces is None:
            following = next_word(self.line, end) if flag.spaced else None
            if following is None:
                _bad(f"`{written} {word.text}` gives no value", f"write {written} NAME=VALUE")
            pieces, end = following.pieces, following.end
        if not name.isidentifier():
            _bad(f"`{name}` is not a name", f"write {written} NAME=VALUE")
        value = self._value(pieces, written, as_yaml=not flag.raw)
        self.values[flag.dest] = self.values.get(flag.dest, {}) | {name: self._checked(flag, written, value)}
        return end

    def _items(self, flag: Flag, pieces: tuple[Piece, ...], where: str) -> list[Any]:
        whole = self._whole(pieces)
        if whole is not None:
            value = self._evaluated(whole, where)
            return split_list(value) if isinstance(value, str) else _elements(value)
        parts = [part for piece in pieces for part in self._parts(piece, where)]
        items = _listed(parts, flag.kind == "pair")
        return [] if items == ["none"] else items

    def _checked(self, flag: Flag, written: str, value: Any) -> Any:
        if not self.checks:
            return value
        if flag.choices and value not in flag.choices:
            near = get_close_matches(str(value), flag.choices, 1)
            after = f"did you mean {near[0]}?" if near else f"it takes {', '.join(flag.choices)}"
            _bad(f"`{value}` is no value of `{written}`", after)
        return value if flag.parse is None else flag.parse(value)

    # -- evaluation

    def _whole(self, pieces: tuple[Piece, ...]) -> str | None:
        """The expression that a value wholly is."""
        filled = [piece for piece in pieces if piece.text]
        if self.evaluate is None or len(filled) != 1 or filled[0].quote == "'":
            return None
        text = filled[0].text
        whole = text.startswith("{") and not text.startswith("{{") and closing_brace(text, 0) == len(text) - 1
        return text[1:-1] if whole and is_expression(text[1:-1]) else None

    def _value(self, pieces: tuple[Piece, ...], where: str, *, as_yaml: bool = False) -> Any:
        """An object, or text, which is typed for a parameter."""
        whole = self._whole(pieces)
        if whole is not None:
            return self._evaluated(whole, where)
        if as_yaml and len(pieces) == 1 and pieces[0].text.startswith("{") and not pieces[0].text.startswith("{{"):
            return typed(pieces[0].text)  # JSON: what is between the braces is no expression
        text = "".join(text for piece in pieces for text, _ in self._parts(piece, where))
        return typed(text) if as_yaml else text

    def _parts(self, piece: Piece, where: str) -> list[tuple[str, bool]]:
        """The texts of a piece, its expressions formatted; with each, whether its commas are its own."""
        if piece.quote == "'" or self.evaluate is None:
            return [(piece.text, bool(piece.quote))]
        parts: list[tuple[str, bool]] = []
        text, at = piece.text, 0
        while at < len(text):
            end = closing_brace(text, at) if text[at] == "{" else None
            if text[at : at + 2] in ("{{", "}}"):
                parts.append((text[at], bool(piece.quote)))
                at += 2
            elif end is not None and (found := field_of(text[at + 1 : end])) is not None:
                value = _CONVERSIONS[found.conversion](self._evaluated(found.expression, where))
                form = "".join(text for text, _ in self._parts(Piece(found.format), where))
                parts.append((self._format(value, form, where), True))
                at = end + 1
            elif end is not None:
                parts.append((text[at : end + 1], True))
                at = end + 1
            else:
                parts.append((text[at], bool(piece.quote)))
                at += 1
        return _merged(parts)

    def _format(self, value: Any, form: str, where: str) -> str:
        try:
            return format(value, form)
        except (ValueError, TypeError) as error:
            raise BadFlag(
                what=f"`{form}` in `{where}` does not format a {type(value).__name__}", why=str(error)
            ) from error

    def _evaluated(self, expression: str, where: str) -> Any:
        assert self.evaluate is not None
        try:
            return self.evaluate(expression.strip())
        except Exception as error:
            raise BadFlag(
                what=f"`{{{expression}}}` of `{where}` cannot be evaluated",
                why=f"{type(error).__name__}: {error}",
                next="define it first; text with braces goes into single quotes",
            ) from error

    # -- what is wrong

    def _unknown(self, written: str, rest: bool) -> NoReturn:
        near = self._nearest(written)
        after = "Python that begins with a dash goes behind --; " if rest and not written.startswith("--") else ""
        _bad(f"there is no flag `{written}`", f"did you mean {near}?" if near else f"{after}--help lists the flags")

    def _stray(self, word: str) -> NoReturn:
        near = self._nearest(word)
        after = f"did you mean {near}?" if near else "give it to a flag, or take it away; --help lists the flags"
        _bad(f"`{word}` stands alone on the line", after)

    def _nearest(self, written: str) -> str:
        """The flag a person may have meant."""
        bare = {name.lstrip("-"): name for name in self.known}
        word = written.lstrip("-").partition("=")[0].lower()
        near = [name for name in bare if len(word) > 1 and name.startswith(word)]
        near = near or get_close_matches(word, bare, 1, 0.6)
        return bare[near[0]] if near else ""


def _bad(what: str, next: str) -> NoReturn:
    raise BadFlag(what=what, next=next)


def _elements(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


def _merged(parts: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Neighbours of one kind as one text, so that a comma is seen with what follows it."""
    merged: list[tuple[str, bool]] = []
    for text, own in parts:
        if merged and merged[-1][1] == own:
            merged[-1] = (merged[-1][0] + text, own)
        else:
            merged.append((text, own))
    return merged


def _split_at_equals(pieces: tuple[Piece, ...]) -> tuple[str, tuple[Piece, ...] | None]:
    """The name before the first `=`, and the pieces behind it; None: there is no `=`."""
    name = ""
    for number, piece in enumerate(pieces):
        before, equals, after = piece.text.partition("=")
        name += before
        if equals:
            rest = (Piece(after, piece.quote), *pieces[number + 1 :])
            return name, tuple(one for one in rest if one.text)
    return name, None
