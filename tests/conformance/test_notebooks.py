"""A real kernel, driven by nbclient: errors it can rely on, outputs that are saved, interrupts that end the job."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import v4

from kube_nb import Client
from kube_nb.spec import Phase
from tests.conformance.kernel import overwritten
from tests.conformance.sending import own_jobs, until

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
ROOT = Path(__file__).parents[2]


def notebook(*cells: str, tags: dict[int, str] | None = None) -> nbformat.NotebookNode:
    """A notebook of these cells, the extension loaded first."""
    made = v4.new_notebook(cells=[v4.new_code_cell(source) for source in ("%load_ext kube_nb", *cells)])
    made.metadata.kernelspec = {"name": "conformance", "language": "python", "display_name": "conformance"}
    for number, tag in (tags or {}).items():
        made.cells[number].metadata.tags = [tag]
    return made


@pytest.fixture
def driver(notebook_dir, tmp_path, monkeypatch):
    """Makes the nbclient of a notebook, whose kernel is this interpreter."""
    spec = tmp_path / "jupyter" / "kernels" / "conformance"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "conformance", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def make(made: nbformat.NotebookNode, **options) -> NotebookClient:
        resources = {"metadata": {"path": str(notebook_dir)}}
        return NotebookClient(made, kernel_name="conformance", timeout=90, resources=resources, **options)

    return make


def text_of(cell) -> str:
    return overwritten("".join(out.text for out in cell.outputs if out.get("name") == "stdout"))


def displays_of(cell) -> list:
    return [out.data for out in cell.outputs if "data" in out and not is_card(out)]


def is_card(output) -> bool:
    return output.get("data", {}).get("text/plain", "").startswith("job ")


def test_a_notebook_runs_from_top_to_bottom(driver):
    made = notebook(
        "def fit(xs):\n    return sum(xs)\nxs = [1, 2]",
        "%%kube_train\nmodel = fit(xs)\nprint('trained')\nmodel * 10",
        "model",
    )
    driver(made).execute()
    assert text_of(made.cells[2]) == "trained\n"
    assert displays_of(made.cells[2])[0]["text/plain"] == "30"
    assert displays_of(made.cells[3])[0]["text/plain"] == "3"


def test_the_saved_notebook_keeps_the_last_state_of_the_card(driver):
    made = notebook("%%kube_train\nx = 1")
    driver(made).execute()
    cards = [out.data["text/plain"] for out in made.cells[1].outputs if is_card(out)]
    assert len(cards) == 1
    assert "Succeeded" in cards[0]


def test_a_notebook_that_fails_carries_the_users_own_error(driver):
    made = notebook("class Mine(Exception): ...", "%%kube_train\nx = 1\nraise Mine('my words')")
    with pytest.raises(CellExecutionError) as caught:
        driver(made).execute()
    assert (caught.value.ename, caught.value.evalue) == ("Mine", "my words")
    error = made.cells[2].outputs[-1]
    assert (error.output_type, error.ename, error.evalue) == ("error", "Mine", "my words")
    shown = "\n".join(error.traceback)
    assert "raise Mine('my words')" in shown
    assert "Cell In[3]" in shown
    assert "site-packages/kube_nb" not in shown
    assert "kube_nb/" not in shown


def test_raises_exception_lets_the_notebook_go_on(driver):
    made = notebook("%%kube_train\n1 / 0", "after = 1\nafter", tags={1: "raises-exception"})
    driver(made).execute()
    assert made.cells[1].outputs[-1].ename == "ZeroDivisionError"
    assert displays_of(made.cells[2])[0]["text/plain"] == "1"


def test_allow_errors_lets_the_notebook_go_on(driver):
    made = notebook("%%kube_train\nraise KeyError('k')", "1 + 1")
    driver(made, allow_errors=True).execute()
    assert made.cells[1].outputs[-1].ename == "KeyError"
    assert displays_of(made.cells[2])[0]["text/plain"] == "2"


def test_a_syntax_error_is_the_notebooks(driver):
    made = notebook("%%kube_train\nx = = 1")
    with pytest.raises(CellExecutionError) as caught:
        driver(made).execute()
    assert caught.value.ename == "SyntaxError"


def test_a_figure_is_saved_in_the_notebook(driver):
    made = notebook("%%kube_train\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    driver(made).execute()
    assert any("image/png" in data for data in displays_of(made.cells[1]))


def test_updates_are_saved_in_their_last_state(driver):
    made = notebook("%%kube_train\nh = display(0, display_id=True)\nfor i in range(5):\n    h.update(i)\ndel h")
    driver(made).execute()
    assert [data["text/plain"] for data in displays_of(made.cells[1])] == ["4"]


def test_the_number_of_the_cell_is_that_of_the_notebook(driver):
    made = notebook("1", "%%kube_train\nx = 1")
    driver(made).execute()
    assert own_jobs(Client())[0].status().label == "Cell In[3]"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_a_kernel_that_nobody_watches_cancels_the_job(driver, number):
    sent = "%%kube_train\nimport time\nprint('up', flush=True)\ntime.sleep(600)"
    made = notebook("import os\nprint(os.getpid())", sent)
    nb = driver(made)

    async def interrupt() -> None:
        async with nb.async_setup_kernel():
            for index in (0, 1):
                await nb.async_execute_cell(made.cells[index], index)
            running = asyncio.ensure_future(nb.async_execute_cell(made.cells[2], 2))
            await asyncio.to_thread(until, lambda: own_jobs(Client()) and "up\n" in list(Client().job().logs()))
            os.kill(int(text_of(made.cells[1])), number)
            await asyncio.to_thread(until, lambda: Client().job().phase.final)
            with pytest.raises(CellExecutionError):
                await running

    asyncio.run(interrupt())
    assert Client().job().phase is Phase.CANCELLED
