"""From bytes of several ranks to lines of text a person reads."""

from __future__ import annotations

import codecs
from collections.abc import Iterator


class Lines:
    r"""Cuts the text of each rank into lines on `\n` alone and says which rank wrote each, when there is more than one.

    Args:
        prefixed: put `[rank] ` before each line.
        only: this rank alone; None: all.
    """

    def __init__(self, prefixed: bool, only: int | None = None) -> None:
        self._prefixed = prefixed
        self._only = only
        self._partial: dict[int, str] = {}
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}

    def add(self, rank: int, data: bytes) -> Iterator[str]:
        """The lines that these bytes complete, each with its newline."""
        if self._only is not None and rank != self._only:
            return
        decoder = self._decoders.get(rank)
        if decoder is None:
            decoder = self._decoders[rank] = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._partial.pop(rank, "") + decoder.decode(data)
        whole, newline, rest = text.rpartition("\n")
        if rest:
            self._partial[rank] = rest
        if newline:
            prefix = f"[{rank}] " if self._prefixed else ""
            for line in whole.split("\n"):
                yield f"{prefix}{line}\n"

    def close(self) -> Iterator[str]:
        """The unfinished line of each rank."""
        for rank, decoder in sorted(self._decoders.items()):
            rest = self._partial.pop(rank, "") + decoder.decode(b"", final=True)
            if rest:
                yield f"[{rank}] {rest}" if self._prefixed else rest
