"""Draws docs/quickstart.svg from a real run: `python docs/picture.py` executes the notebook and draws its outputs."""

from __future__ import annotations

import re
import sys
from html import escape, unescape
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
CELLS = 4
"""Code cells of the quickstart that are shown."""
WIDTH, LINE, LEFT, PAD = 900, 19, 74, 14
NBSP = "\N{NO-BREAK SPACE}"
GREY, INK, BLUE, EDGE, PAPER = "#57606a", "#1f2328", "#0550ae", "#d0d7de", "#f6f8fa"


class Drawing:
    """Lines of text and boxes, from top to bottom."""

    def __init__(self) -> None:
        self.y = PAD
        self._parts: list[str] = []

    def text(self, line: str, x: float = LEFT + 10, colour: str = INK, bold: bool = False) -> None:
        """One line in a fixed width."""
        weight = ' font-weight="600"' if bold else ""
        shown = escape(line).replace(" ", NBSP)
        self._parts.append(f'<text x="{x}" y="{self.y + 14}" fill="{colour}"{weight}>{shown}</text>')

    def box(self, height: float, colour: str, edge: str) -> None:
        """A rectangle behind what is drawn next."""
        self._parts.append(
            f'<rect x="{LEFT}" y="{self.y}" width="{WIDTH - LEFT - PAD}" height="{height}" rx="4" '
            f'fill="{colour}" stroke="{edge}"/>'
        )

    def code(self, prompt: str, source: str) -> None:
        """A cell as a person typed it."""
        lines = source.split("\n")
        self.box(len(lines) * LINE + 10, PAPER, EDGE)
        self.y += 5
        self.text(prompt, x=PAD, colour=BLUE)
        for line in lines:
            self.text(line, colour=BLUE if line.lstrip().startswith("%") else INK)
            self.y += LINE
        self.y += 10

    def plain(self, text: str) -> None:
        """What a cell printed, or a value."""
        for line in text.rstrip("\n").split("\n"):
            self.text(line)
            self.y += LINE
        self.y += 8

    def card(self, html: str) -> None:
        """The job card, from its own HTML."""
        title = re.search(r"<caption.*?>(.*?)</caption>", html, re.S)
        rows = re.findall(r"<tr><th.*?>(.*?)</th><td.*?>(.*?)</td></tr>", html, re.S)
        strip = lambda part: unescape(re.sub(r"<.*?>", "", part))  # noqa: E731
        self.box((len(rows) + 1) * LINE + 10, "white", EDGE)
        self._parts.append(
            f'<rect x="{LEFT}" y="{self.y}" width="5" height="{(len(rows) + 1) * LINE + 10}" fill="#1a7f37"/>'
        )
        self.y += 5
        self.text(strip(title[1]) if title else "job", x=LEFT + 16, bold=True)
        self.y += LINE
        for word, value in rows:
            self.text(strip(word), x=LEFT + 16, colour=GREY, bold=True)
            self.text(strip(value), x=LEFT + 116)
            self.y += LINE
        self.y += 12

    def svg(self) -> str:
        """The whole picture."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.y + PAD}" width="{WIDTH}" '
            f'font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="13" xml:space="preserve">'
            f'<rect width="100%" height="100%" fill="white"/>' + "".join(self._parts) + "</svg>\n"
        )


def main() -> None:
    """Run the notebook, draw its first cells."""
    notebook = nbformat.read(ROOT / "notebooks" / "01_quickstart.ipynb", as_version=4)
    number = sum(1 for cell in notebook.cells[:100] if cell.cell_type == "code")
    assert number >= CELLS, "the quickstart is too short"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"][:CELLS]
    notebook.cells = code
    NotebookClient(notebook, timeout=300).execute()
    drawing = Drawing()
    for count, cell in enumerate(code, start=1):
        drawing.code(f"In [{count}]:", cell.source)
        for output in cell.outputs:
            if output.output_type == "stream":
                drawing.plain(output.text)
            elif output.output_type == "error":
                sys.exit("\n".join(output.traceback))
            elif "text/html" in output.data and "<caption" in output.data["text/html"]:
                drawing.card(re.sub(r"\([\w.-]+\), user \w+", "(laptop), user ana", output.data["text/html"]))
            else:
                drawing.plain(output.data["text/plain"])
    (ROOT / "docs" / "quickstart.svg").write_text(drawing.svg())


if __name__ == "__main__":
    main()
