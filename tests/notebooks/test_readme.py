"""The cells of README.md do what it says, pasted into a new notebook: on this machine, and with `--on` on a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from kube_nb import Client
from tests.conformance.backends import CLUSTER
from tests.conformance.sending import remove_sent, sent

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("guided")]


def cells(heading: str) -> list[str]:
    """The cells that this section shows."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```python\n(.+?)^```", section, re.DOTALL | re.MULTILINE)


def run(folder: Path, *sources: str) -> str:
    """All that the last of these cells shows, as text, and after it what the model in the kernel is then."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in (*sources, "print(type(model).__name__)")])
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [output for cell in notebook.cells[-2:] for output in cell.outputs]
    return "".join(output.get("text") or f"{dict(output.get('data', {}))}\n" for output in shown)


def test_the_first_cells_train_a_model_here(tmp_path: Path):
    text = run(tmp_path, *cells("From nothing to a trained model"))
    assert re.search(r"^(1\.0|0\.\d+)$", text, re.MULTILINE), text
    assert text.endswith("\nRandomForestClassifier\n")


@pytest.mark.cluster
def test_the_cell_for_a_cluster_trains_the_same_model_there(tmp_path: Path):
    if not CLUSTER.on:
        pytest.skip("cluster: no KUBECONFIG")
    [setup, _], [there] = cells("From nothing to a trained model"), cells("On a cluster")
    client = Client(CLUSTER.on)
    try:
        text = run(tmp_path, setup, there.replace("my-context", CLUSTER.on))
        assert re.search(r"^(1\.0|0\.\d+)$", text, re.MULTILINE), text
        assert text.endswith("\nRandomForestClassifier\n")
        assert len(sent(client)) == 1
    finally:
        remove_sent(client)
