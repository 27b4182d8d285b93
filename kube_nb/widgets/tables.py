"""Tables that are complete as text and as HTML: jobs, settings, the doctor's findings."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any


class Table:
    """Rows under headings; drawn by a notebook, a terminal or a program that reads its text.

    Args:
        headings: one word each.
        rows: as many texts in each row.
        caption: what it shows.
        after: a sentence or a text of several lines below it.
    """

    def __init__(
        self, headings: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", after: str = ""
    ) -> None:
        self.headings = [str(word) for word in headings]
        self.rows = [[str(cell) for cell in row] for row in rows]
        self.caption = caption
        self.after = after

    def text(self) -> str:
        """Aligned columns without borders."""
        from io import StringIO

        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in self.headings:
            table.add_column(heading.upper(), overflow="fold", no_wrap=False)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        out = StringIO()
        Console(file=out, width=160, color_system=None).print(table)
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
        return "\n".join([*([self.caption] if self.caption else []), *lines, *([self.after] if self.after else [])])

    def html(self) -> str:
        """A real table with a caption and column headings."""
        style = "text-align:left;vertical-align:top;padding:2px 14px 2px 0;white-space:pre-wrap"
        head = "".join(f'<th scope="col" style="{style}">{escape(word)}</th>' for word in self.headings)
        body = "".join(
            "<tr>" + "".join(f'<td style="{style}">{escape(cell)}</td>' for cell in row) + "</tr>" for row in self.rows
        )
        caption = f'<caption style="text-align:left">{escape(self.caption)}</caption>' if self.caption else ""
        tag = "pre" if "\n" in self.after else "p"
        after = f"<{tag}>{escape(self.after)}</{tag}>" if self.after else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{after}"

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()
