"""The guided notebooks run from top to bottom and show what their text says."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

from kube_nb import Client
from tests.conformance.backends import CLUSTER
from tests.conformance.sending import remove_sent

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("guided")]


@pytest.fixture(scope="module", params=["local", pytest.param("cluster", marks=pytest.mark.cluster)])
def quickstart(request, tmp_path_factory):
    """The notebook after it ran there. A cluster is named in one line before it, and nothing else is said of it."""
    on = "local" if request.param == "local" else CLUSTER.on
    if not on:
        pytest.skip("cluster: no KUBECONFIG")
    state = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBE_NB_STATE_DIR", str(state))
        notebook = nbformat.read(NOTEBOOKS / "01_quickstart.ipynb", as_version=4)
        notebook.cells.insert(0, new_code_cell(f"%load_ext kube_nb\n%kube_config on={on}"))
        try:
            NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(state)}}).execute()
            yield notebook
        finally:
            remove_sent(Client(on))


def shown(notebook, source):
    """All that the first cell with this in its source shows, as text."""
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code" and source in cell.source)
    parts = [o.get("text") or "\n".join(o.get("traceback", [])) or str(dict(o.get("data", {}))) for o in cell.outputs]
    return "\n".join(parts)


def test_the_model_comes_back_into_the_kernel(quickstart):
    text = shown(quickstart, "--name iris")
    assert re.search(r"accuracy on 45 flowers: 0\.\d+", text)
    assert re.search(r"came back.*model \(RandomForestClassifier", text)
    assert "accuracy 0." in text, "the metric is on the card"
    assert "array([" in shown(quickstart, "model.predict")


def test_the_figure_and_the_table_of_the_job_are_shown(quickstart):
    text = shown(quickstart, "importance.plot")
    assert "image/png" in text
    assert "petal width" in text


def test_one_call_gives_its_value(quickstart):
    assert shown(quickstart, "small = %kube_train").rstrip().endswith("{'text/plain': '5'}")


def test_the_python_faces_give_the_same(quickstart):
    assert re.search(r"0\.\d+", shown(quickstart, "score(10)"))
    assert len(re.findall(r"0\.\d+|1\.0", shown(quickstart, "score.submit"))) == 3


def test_the_error_is_the_users_own_with_the_users_own_line(quickstart):
    text = shown(quickstart, "rows = len")
    assert "ValueError: Found input variables with inconsistent numbers of samples" in text
    assert "model = fit(X_train, y_train[: rows - 1])" in text
    assert "kube_nb/" not in text


def test_the_log_and_the_list_are_there_afterwards(quickstart):
    assert "accuracy on 45 flowers" in shown(quickstart, "%kube_logs iris")
    assert "Succeeded" in shown(quickstart, "%kube_jobs")
