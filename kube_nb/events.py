"""The records a job emits, and the one encoder and decoder of a job's stream. Standard library only.

A stream is the user's own text, passed through byte for byte, with events between its lines, so that a person who reads
it with `kubectl logs` reads what the job printed:

- An event is one line: U+001E, then a JSON object. `kind` says what it is, `rank` and `attempt` who emitted it, `seq`
  counts the events of one stream from 0, `offset` is how many bytes of user text came before it.
- A physical line of user text that starts with U+001E has that character doubled.
- An event that must come in the middle of a line breaks it: U+001E and a newline that are not the user's, then an
  event that says `cont`. Because the mark stands before the newline, a reader can show every finished line at once.
- Between a return and the newline behind it stands a mark that is not the user's: a container runtime may take the
  return out of a line that ends with both. (`\\r`, n marks, `\\n`: one mark more.)
- Text belongs to the rank named by the last `rank` event, at first to the first rank of the node.

Kinds: state, metric, progress, display, clear, cell, output, result, error, rank, account, end.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MARK = b"\x1e"
IN_BAND = 64 * 1024
"""Bytes of one value or display that travel inside an event; what is larger becomes a file."""
IN_BAND_TOTAL = 512 * 1024
"""Bytes of values that travel inside the events of one job."""
_LONGEST_EVENT = 4 * 1024 * 1024
_ENVELOPE = frozenset({"kind", "rank", "attempt", "seq", "offset", "cont"})


@dataclass(frozen=True)
class Text:
    """Bytes that rank `rank` wrote, exactly as it wrote them; a chunk may begin and end anywhere."""

    rank: int
    data: bytes


@dataclass(frozen=True)
class Event:
    """One record. `data` holds what belongs to the kind, e.g. `{"values": {"loss": 0.3}, "step": 4}`."""

    kind: str
    rank: int = 0
    attempt: int = 0
    seq: int = 0
    offset: int = 0
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Account:
    """What a stream has carried so far: user text only, so that a reader can prove that it has all of it."""

    bytes: int = 0
    lines: int = 0
    _sha256: Any = field(default_factory=hashlib.sha256, repr=False)

    def add(self, data: bytes) -> None:
        self.bytes += len(data)
        self.lines += data.count(b"\n")
        self._sha256.update(data)

    def summary(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "lines": self.lines, "sha256": self._sha256.hexdigest()}


_RETURN = re.compile(rb"(\r\x1e*)\n")
_REST_OF_LINE = re.compile(rb"\x1e*\n")


def _ends_with_return(data: bytes, before: bool) -> bool:
    """Whether a text ends with a return, marks behind it apart; `before`: the same of what came before it."""
    rest = data.rstrip(MARK)
    return rest.endswith(b"\r") if rest else before


class Encoder:
    """Makes the bytes of one stream. The caller serialises calls and writes what each returns, in order.

    Args:
        rank: the rank whose text comes first.
        attempt: which try of the job this stream belongs to, from 0.
    """

    def __init__(self, rank: int = 0, attempt: int = 0) -> None:
        self.account = Account()
        self._rank = rank
        self.attempt = attempt
        self._seq = 0
        self._line_start = True
        self._after_return = False

    def text(self, rank: int, data: bytes) -> bytes:
        """The bytes that carry `data`, written by `rank`."""
        if not data:
            return b""
        switch = b"" if rank == self._rank else self.event("rank", rank)
        self._rank = rank
        self.account.add(data)
        encoded = data
        if MARK in data:
            encoded = data.replace(b"\n\x1e", b"\n\x1e\x1e")
            if self._line_start and data.startswith(MARK):
                encoded = MARK + encoded
        if self._after_return and _REST_OF_LINE.match(data):
            encoded = encoded.replace(b"\n", b"\x1e\n", 1)
        if b"\r" in data:
            encoded = _RETURN.sub(b"\\1\x1e\n", encoded)
        self._line_start = data.endswith(b"\n")
        self._after_return = _ends_with_return(data, self._after_return)
        return switch + encoded

    def event(self, kind: str, rank: int, /, **data: Any) -> bytes:
        """The bytes of one event.

        Raises:
            ValueError: `data` uses a key of the envelope.
        """
        if not _ENVELOPE.isdisjoint(data):
            raise ValueError(f"reserved keys: {sorted(_ENVELOPE & set(data))}")
        record: dict[str, Any] = {
            "kind": kind,
            "rank": rank,
            "attempt": self.attempt,
            "seq": self._seq,
            "offset": self.account.bytes,
        }
        broken = b""
        if not self._line_start:
            record["cont"] = True
            broken = b"\x1e\n"
        self._seq += 1
        self._line_start = True
        self._after_return = False
        return broken + MARK + json.dumps(record | data, separators=(",", ":")).encode() + b"\n"


class Decoder:
    """Turns the bytes of one stream, cut anywhere, back into text and events.

    Args:
        rank: the rank whose text comes first.

    Example:
        >>> encoder = Encoder()
        >>> stream = encoder.text(0, b"a b") + encoder.event("metric", 0, step=1) + encoder.text(0, b" c")
        >>> [item.data for item in Decoder().feed(stream)]
        [b'a b', {'step': 1}, b' c']
    """

    def __init__(self, rank: int = 0) -> None:
        self._rank = rank
        self._held = b""
        self._line_start = True
        self._after_return = False
        """Whether what was fed before the bytes at hand ends with a return, marks behind it apart."""

    def feed(self, chunk: bytes) -> Iterator[Text | Event]:
        """What is known after these bytes; a torn event or break mark is held back until the rest is fed."""
        data = self._held + chunk
        self._held = b""
        if not data:
            return
        if MARK not in data:
            self._line_start = data.endswith(b"\n")
            self._after_return = data.endswith(b"\r")
            yield Text(self._rank, data)
            return
        yield from self._scan(data)
        taken = data[: len(data) - len(self._held)]
        self._after_return = _ends_with_return(taken, self._after_return)

    def close(self) -> Iterator[Text | Event]:
        """What was held back when the stream ended; an event torn by a killed runner is dropped."""
        held, self._held = self._held, b""
        torn_event = self._line_start and held.startswith(MARK)
        if self._after_return and not self._line_start and held.startswith(b"\x1e\n"):
            held = held[1:]
        if held and not torn_event:
            yield Text(self._rank, held)

    def _scan(self, data: bytes) -> Iterator[Text | Event]:
        start = position = 0  # text from `start` on is not yet yielded; up to `position` it is known to be text
        while True:
            mark = data.find(MARK, position)
            if mark < 0:
                self._line_start = data.endswith(b"\n") if len(data) > position else self._line_start
                if len(data) > start:
                    yield Text(self._rank, data[start:])
                return
            at_start = data[mark - 1 : mark] == b"\n" if mark > position else self._line_start
            # What follows decides what the mark means; without it, hold back from the mark on.
            event_at = mark if at_start else mark + 2
            lead = data[mark : mark + 2]
            if not at_start and len(lead) == 2 and lead != b"\x1e\n":
                position = mark + 1
                self._line_start = False
                continue
            if at_start and lead == b"\x1e\x1e":
                if mark > start:
                    yield Text(self._rank, data[start:mark])
                start, position = mark + 1, mark + 1
                self._line_start = False
                # The doubled mark is now an ordinary character in mid-line, which may itself end the line.
                continue
            newline = self._end_of_event(data, event_at)
            if newline is None:
                if mark > start:
                    yield Text(self._rank, data[start:mark])
                self._held = data[mark:]
                self._line_start = at_start
                return
            event, cont = (None, False) if newline < 0 else _parse(data[event_at + 1 : newline])
            if not at_start and not cont and self._returns(data, mark):
                if mark > start:
                    yield Text(self._rank, data[start:mark])
                start = mark + 1  # the mark only kept the return and the newline apart
            if event is None:  # a line of text after all
                position = mark + 1 if at_start else mark + 2
                self._line_start = not at_start
                continue
            text_end = mark if at_start or cont else event_at
            if text_end > start:
                yield Text(self._rank, data[start:text_end])
            if event.kind == "rank":
                self._rank = event.rank
            else:
                yield event
            start = position = newline + 1
            self._line_start = True
            if start == len(data):
                return

    def _returns(self, data: bytes, mark: int) -> bool:
        """Whether the line ends with a return before this mark."""
        line = data.rfind(b"\n", 0, mark) + 1
        return _ends_with_return(data[line:mark], self._after_return and not line)

    @staticmethod
    def _end_of_event(data: bytes, at: int) -> int | None:
        """Where the event line that may start at `at` ends; None: not known yet; -1: no event starts there."""
        if len(data) < at + 2:
            return None if data[at : at + 1] in (b"", MARK) else -1
        if data[at : at + 1] != MARK or data[at + 1 : at + 2] == MARK:
            return -1
        newline = data.find(b"\n", at)
        if newline < 0:
            return None if len(data) - at < _LONGEST_EVENT else -1
        return newline


def _parse(line: bytes) -> tuple[Event | None, bool]:
    """The event of a line and whether it broke a line of text; (None, False) where it is none: it is not trusted."""
    try:
        record = json.loads(line)
        kind, rank, attempt, seq, offset = (record[k] for k in ("kind", "rank", "attempt", "seq", "offset"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, False
    if not isinstance(kind, str) or not all(type(n) is int for n in (rank, attempt, seq, offset)):
        return None, False
    data = {key: value for key, value in record.items() if key not in _ENVELOPE}
    return Event(kind, rank, attempt, seq, offset, data), bool(record.get("cont"))
