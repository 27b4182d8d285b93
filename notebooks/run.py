"""Executes a notebook in a fresh kernel and prints what each cell shows: `python notebooks/run.py NOTEBOOK`.

The file is left as it is. Jobs run on this machine, in a directory of their own that is removed afterwards.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode


def shown(output: NotebookNode) -> str:
    """An output as a terminal can show it."""
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
    if "text/plain" in output.data:
        return output.data["text/plain"]
    return f"<{', '.join(output.data)}>"


def show(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.get("execution_count"):
            continue
        prompt = f"In [{cell.execution_count}]: "
        print(prompt + cell.source.replace("\n", "\n" + "...: ".rjust(len(prompt))))
        for output in cell.outputs:
            print(shown(output).rstrip("\n"))
        print()


def main(path: Path) -> int:
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="kube-nb-", ignore_cleanup_errors=True) as state:
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        )
        try:
            client.execute(env={**os.environ, "KUBE_NB_ON": "local", "KUBE_NB_STATE_DIR": state})
        except CellExecutionError as error:
            show(notebook)
            print(f"{path.name} failed: {error.ename}: {error.evalue}", file=sys.stderr)
            return 1
    show(notebook)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
