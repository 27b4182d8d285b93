"""`--engine kube-nb` and papermill's own engine make the same notebook, print the same and end with the same status."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from nbformat import NotebookNode, v4

from kube_nb import Client
from kube_nb.errors import JobFailed, KubeNbError
from kube_nb.spec import Phase
from tests.conformance.sending import until

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
ENGINE = "kube-nb"
_KERNELS_OWN = re.compile(r"ipykernel_\d+[/\\]\d+\.py|\x1b\[[0-9;]*m|\d{6,}\.py")


@dataclass(frozen=True)
class Outcome:
    """What one run left behind.

    Attributes:
        cells, metadata: of the executed notebook, without what differs from run to run.
        error: class and cell of what papermill raised.
    """

    cells: list[Any]
    metadata: Any
    error: tuple[Any, ...]
    files: Mapping[str, str]


def outcome(path: Path, engine: str | None, work: Path, **how: Any) -> Outcome:
    """Execute a notebook by papermill's API."""
    work.mkdir()
    output, files = work / "out.ipynb", {}
    error: tuple[Any, ...] = ()
    opened = {f"{name}_file": (work / name).open("w") for name in how.pop("streams", ())}
    try:
        papermill.execute_notebook(path, output, engine_name=engine, progress_bar=False, **opened, **how)
    except papermill.PapermillExecutionError as raised:
        error = (type(raised).__name__, raised.cell_index, raised.exec_count, raised.ename, raised.evalue)
    except RuntimeError as raised:
        error = (type(raised).__name__,)
    except TimeoutError as raised:
        error = (type(raised).__name__,)
    for name, file in opened.items():
        file.close()
        files[name] = Path(file.name).read_text()
    notebook = nbformat.read(output, as_version=4)
    return Outcome([plain(cell) for cell in notebook.cells], metadata(notebook), error, files)


def plain(cell: NotebookNode) -> Any:
    """A cell without its id and its times, the streams of a cell as they read."""
    cell = NotebookNode({key: value for key, value in cell.items() if key != "id"})
    own = {key: value for key, value in cell.metadata.items() if key not in ("papermill", "execution")}
    record = cell.metadata.get("papermill", {})
    own["papermill"] = {key: value for key, value in record.items() if key in ("status", "exception")}
    cell = json.loads(_KERNELS_OWN.sub("", json.dumps({**cell, "metadata": own})))
    if "outputs" in cell:
        joined: list[Any] = []
        for output in cell["outputs"]:
            if output["output_type"] == "stream" and joined and joined[-1].get("name") == output["name"]:
                joined[-1]["text"] += output["text"]  # how a kernel cuts it is a matter of time
            else:
                joined.append(output)
        cell["outputs"] = joined
    return cell


def metadata(notebook: NotebookNode) -> Any:
    kept = {key: value for key, value in notebook.metadata.items() if key != "kube_nb"}
    times = ("start_time", "end_time", "duration", "output_path")
    kept["papermill"] = {key: value for key, value in kept["papermill"].items() if key not in times}
    return json.loads(json.dumps(kept))


def notebook(*sources: str, parameters: str | None = None, tags: Mapping[int, list[str]] | None = None) -> NotebookNode:
    made = v4.new_notebook()
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made.metadata.language_info = {"name": "python"}
    if parameters is not None:
        made.cells.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    for at, source in enumerate(sources):
        cell = v4.new_markdown_cell(source) if source.startswith("# ") else v4.new_code_cell(source)
        cell.metadata["tags"] = list((tags or {}).get(at, []))
        made.cells.append(cell)
    return made


def injected_before() -> NotebookNode:
    made = notebook("print(lr)", parameters="lr = 1")
    made.cells.insert(1, v4.new_code_cell("lr = 2", metadata={"tags": ["injected-parameters"]}))
    return made


def failed_before() -> NotebookNode:
    made = notebook("print(1)")
    made.cells.insert(0, v4.new_markdown_cell("an old error", metadata={"tags": ["papermill-error-cell-tag"]}))
    return made


SHOWS = """
from IPython.display import HTML, Markdown, display, clear_output
import sys
print("out"); print("err", file=sys.stderr)
display(HTML("<b>x</b>"), metadata={"mine": 1})
handle = display("first", display_id=True)
handle.update("second")
{"a": 1}
"""
FIGURE = "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);"
CASES: dict[str, tuple[NotebookNode, dict[str, Any]]] = {
    "parameters": (
        notebook("print(lr, name)", parameters="lr = 1\nname = ''"),
        {"parameters": {"lr": 2, "name": "a'\"\n"}},
    ),
    "parameters cell missing": (notebook("print(lr)"), {"parameters": {"lr": 2}}),
    "unknown parameter": (notebook("print(other)", parameters="lr = 1"), {"parameters": {"other": [1, {"b": None}]}}),
    "injected parameters present": (injected_before(), {"parameters": {"lr": 3}}),
    "no parameters": (notebook("# Title", "x = 1", "", "x", parameters="lr = 1"), {}),
    "prepare only": (notebook("1 / 0", parameters="lr = 1"), {"parameters": {"lr": 2}, "prepare_only": True}),
    "report mode": (notebook("print(lr)", parameters="lr = 1"), {"parameters": {"lr": 2}, "report_mode": True}),
    "cell tags": (notebook("1", "1 / 0", "3", tags={0: ["mine"], 1: ["skip-execution"]}), {}),
    "raises-exception": (notebook("1 / 0", "print('on')", tags={0: ["raises-exception"]}), {}),
    "an error": (notebook("# Head", "x = 1", "def f():\n    raise KeyError('k')\nf()", "x"), {}),
    "an old error marker": (failed_before(), {}),
    "a syntax error": (notebook("x = = 1", "2"), {}),
    "exit": (notebook("import sys\nsys.exit()", "2"), {}),
    "exit with 3": (notebook("import sys\nsys.exit(3)", "2"), {}),
    "displays": (notebook(SHOWS, "handle.update('third')"), {}),
    "cleared": (notebook("from IPython.display import clear_output\nprint(1)\nclear_output(wait=True)\nprint(2)"), {}),
    "a figure": (notebook(FIGURE), {}),
    "magics": (notebook("%%capture kept\nprint(1)", "kept.stdout", "!echo from the shell", "%%bash\necho more"), {}),
    "stdout and stderr files": (notebook(SHOWS, "print('two')"), {"streams": ("stdout", "stderr"), "log_output": True}),
    "start timeout": (notebook("1"), {"start_timeout": 45}),
    "execution timeout": (notebook("1", "import time\ntime.sleep(600)"), {"execution_timeout": 2}),
    "a dead kernel": (notebook("print(1)", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "3"), {}),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBE_NB_ON", "local")


@pytest.mark.parametrize("name", CASES)
def test_the_engine_makes_what_papermill_makes(name, tmp_path):
    made, how = CASES[name]
    path = tmp_path / "in.ipynb"
    nbformat.write(made, path)
    plain = outcome(path, None, tmp_path / "plain", **how)
    ours = outcome(path, ENGINE, tmp_path / "ours", **how)
    assert ours.error == plain.error
    assert ours.files == plain.files
    if name == "a dead kernel":
        # papermill marks all cells completed; the truth is another one.
        assert [cell["metadata"]["papermill"]["status"] for cell in ours.cells] == ["completed", "failed", "pending"]
        return
    if name == "execution timeout":
        assert ours.cells[0] == plain.cells[0]
        assert ours.cells[1]["metadata"]["papermill"]["status"] == "failed"
        return
    assert ours.cells == plain.cells
    assert ours.metadata == plain.metadata
    assert len(Client().jobs()) == (0 if name == "prepare only" else 1)


# The command line ---------------------------------------------------------------------------------------------------


def papermill_cli(*words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "papermill", *words, "--engine", ENGINE, "--no-progress-bar"]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=100)


def test_a_notebook_may_come_from_stdin_and_go_to_stdout():
    made = nbformat.writes(notebook("print(lr)", parameters="lr = 1")).encode()
    done = papermill_cli("-", "-", "-p", "lr", "5", stdin=made)
    assert done.returncode == 0, done.stderr.decode()
    assert nbformat.reads(done.stdout.decode(), as_version=4).cells[2].outputs[0].text == "5\n"


@pytest.mark.parametrize(
    ("source", "status"), [("1", 0), ("1 / 0", 1), ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 138)]
)
def test_exit_codes_are_papermills(source, status, tmp_path):
    nbformat.write(notebook(source), tmp_path / "in.ipynb")
    assert papermill_cli("in.ipynb", "out.ipynb").returncode == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_papermill_cancels_the_job(number, tmp_path):
    nbformat.write(notebook("import time\nprint('up', flush=True)\ntime.sleep(600)"), tmp_path / "in.ipynb")
    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--engine", ENGINE]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: any("up\n" in list(job.logs()) for job in Client().jobs()))
        process.send_signal(number)
        assert process.wait(60) != 0
    finally:
        process.kill()
    assert Client().job().phase is Phase.CANCELLED
    assert nbformat.read("out.ipynb", 4).cells[0].metadata.papermill.status == "failed"


def test_loading_papermill_loads_nothing_of_ours_but_the_engine():
    program = "import sys, papermill; print(*sorted(name for name in sys.modules if name.startswith('kube_nb')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["kube_nb", "kube_nb.engine"]


# Options ------------------------------------------------------------------------------------------------------------


def test_options_of_the_job_are_further_arguments(tmp_path):
    nbformat.write(notebook("import os\nprint(os.environ['MINE'])"), tmp_path / "in.ipynb")
    papermill.execute_notebook(
        "in.ipynb", "out.ipynb", engine_name=ENGINE, progress_bar=False, env={"MINE": "1"}, cpu=0.5
    )
    assert nbformat.read("out.ipynb", 4).cells[0].outputs[0].text == "1\n"
    assert Client().job().entry.spec["resources"]["cpu"] == 0.5


def test_what_the_target_refuses_is_said_before_anything_runs(tmp_path):
    nbformat.write(notebook("1"), tmp_path / "in.ipynb")
    with pytest.raises(KubeNbError):
        papermill.execute_notebook("in.ipynb", "out.ipynb", engine_name=ENGINE, progress_bar=False, gpus=999)
    assert Client().jobs() == []


def test_a_cancelled_job_is_an_error(tmp_path):
    nbformat.write(notebook("import time\nprint('up', flush=True)\ntime.sleep(600)"), tmp_path / "in.ipynb")

    def cancel() -> None:
        until(lambda: any("up\n" in list(job.logs()) for job in Client().jobs()))
        Client().job().cancel()

    with ThreadPoolExecutor(1) as other:
        cancelled = other.submit(cancel)
        with pytest.raises(JobFailed):
            papermill.execute_notebook("in.ipynb", "out.ipynb", engine_name=ENGINE, progress_bar=False)
        cancelled.result()
    assert Client().job().phase is Phase.CANCELLED
