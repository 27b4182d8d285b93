"""notebooks/03_papermill.ipynb runs from top to bottom and shows what its text says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("guided")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the executed notebook, with all that it wrote."""
    place = tmp_path_factory.mktemp("notebooks")
    for path in NOTEBOOKS.glob("03_*.ipynb"):
        shutil.copy(path, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBE_NB_STATE_DIR", str(place / "state"))
        notebook = nbformat.read(place / "03_papermill.ipynb", as_version=4)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(place)}}).execute()
    nbformat.write(notebook, place / "executed.ipynb")
    return place


def shown(folder: Path, source: str) -> str:
    """All that the first cell with this in its source shows, as text."""
    cells = nbformat.read(folder / "executed.ipynb", as_version=4).cells
    cell = next(cell for cell in cells if cell.cell_type == "code" and source in cell.source)
    parts = [o.get("text") or "\n".join(o.get("traceback", [])) or str(dict(o.get("data", {}))) for o in cell.outputs]
    return "\n".join(parts)


def test_a_notebook_runs_and_gives_what_it_named(folder):
    text = shown(folder, "--output one.ipynb")
    assert re.search(r"accuracy on 45 flowers: 0\.\d+", text)
    assert "Succeeded" in text
    named = shown(folder, "one.outputs")
    assert "RandomForestClassifier(max_depth=2, n_estimators=20" in named
    assert re.search(r"accuracy\W+0\.\d+", named.partition("\n")[2])


def test_the_sweep_is_one_table(folder):
    text = shown(folder, "pd.DataFrame")
    assert re.search(r"0\s+1\s+1\.0\s+0\.\d+", text)
    assert re.search(r"2\s+100\s+NaN\s+0\.\d+", text)
    assert sorted(path.name for path in folder.glob("forest-*.ipynb")) == [
        *("forest-1.ipynb", "forest-100.ipynb", "forest-20.ipynb")
    ]


def test_a_wrong_parameter_is_said(folder):
    assert "did you mean `trees`" in shown(folder, "-p tres")


def test_papermill_sends_it_too(folder):
    assert re.search(r"accuracy on 45 flowers", shown(folder, "-m papermill"))
    assert nbformat.read(folder / "engine.ipynb", 4).metadata.papermill.parameters == {"trees": 5}


def test_it_runs_again(folder):
    assert "Succeeded" in shown(folder, "%kube_rerun")
