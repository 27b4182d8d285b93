"""Notebooks made for a test, and what is left of them to look at."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbformat import NotebookNode, read, v4, writes

KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}


def notebook(*cells: str, parameters: str | None = None, tags: Mapping[int, str] | None = None) -> NotebookNode:
    """A notebook of these cells: what begins with `# ` and a capital letter is a heading, the rest is code.

    Args:
        parameters: the source of its first cell, which has the tag `parameters`.
        tags: of cells, by their place among `cells`.
    """
    made = v4.new_notebook(metadata={"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    if parameters is not None:
        made.cells.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    for at, text in enumerate(cells):
        source = textwrap.dedent(text).strip("\n")
        heading = source.startswith("# ") and source[2].isupper() and "\n" not in source
        cell = v4.new_markdown_cell(source) if heading else v4.new_code_cell(source)
        if at in (tags or {}):
            cell.metadata["tags"] = [tags[at]]
        made.cells.append(cell)
    return made


def saved(made: NotebookNode, path: Path = Path("train.ipynb")) -> str:
    """The path of a file that holds it."""
    path.write_text(writes(made))
    return str(path)


def sent(*cells: str, **how: Any) -> str:
    """The path of a notebook of these cells."""
    return saved(notebook(*cells, **how))


def executed(path: str | Path = "out.ipynb") -> NotebookNode:
    """What lies at the output path; it is a valid notebook."""
    return read(path, as_version=4)


def code_cells(made: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in made.cells if cell.cell_type == "code"]


def states(made: NotebookNode) -> list[str]:
    """How papermill's metadata says each code cell ended."""
    return [cell.metadata.papermill.status for cell in code_cells(made)]


def text(cell: NotebookNode) -> str:
    """All that a cell printed, and the plain text of what it showed."""
    parts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs]
    return "".join(parts)


def at_path(path: str) -> dict[str, Any]:
    """What lies there, which must be JSON whenever it is looked at; empty: nothing does yet."""
    return json.loads(Path(path).read_bytes()) if Path(path).exists() else {}
