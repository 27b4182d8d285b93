"""A whole notebook as a job: parameters, modules, outputs, the notebook that grows, and every way it may end."""

from __future__ import annotations

import datetime
import decimal
import json
import re
from pathlib import Path

import pytest
from nbformat import v4, writes

from kube_nb import Client, KubeNbError
from kube_nb.errors import BadFlag, BadValue, JobFailed, NotFound
from kube_nb.spec import Phase
from tests.conformance.notebooks import at_path, code_cells, executed, notebook, saved, sent, states, text
from tests.conformance.sending import account, became, code, ended, events, own_jobs, running, tail, until, written

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("target", "notebook_dir")]


@pytest.fixture
def run():
    """Runs a notebook to its end: `job = run(path, {"lr": 0.5}, timeout="5s", cell_timeout=2)`."""

    def run(path, parameters=None, *, output="out.ipynb", html=False, cell_timeout=None, **options):
        client = Client().options(**options)
        job = client.notebook(path, parameters, output=output, html=html, cell_timeout=cell_timeout)
        return ended(job, within=120)

    return run


def succeeded(job):
    assert job.phase is Phase.SUCCEEDED, f"{job.reason}\n{tail(job)}"
    return job


# Parameters ---------------------------------------------------------------------------------------------------------


def test_a_parameter_takes_the_place_of_its_default(run):
    path = sent("print('lr is', lr)\nlr * 2", parameters="lr = 0.1\nsteps = 3")
    succeeded(run(path, {"lr": 0.5}))
    cells = code_cells(executed())
    assert cells[1].metadata.tags == ["injected-parameters"]
    assert cells[1].source == "# Parameters\nlr = 0.5\n"
    assert text(cells[2]) == "lr is 0.5\n1.0"
    assert executed().metadata.papermill.parameters == {"lr": 0.5}
    assert states(executed()) == ["completed"] * 3


VALUES = {
    "day": datetime.date(2024, 1, 31),
    "moment": datetime.datetime(2024, 1, 31, 12, 30, tzinfo=datetime.UTC),
    "nothing": None,
    "large": 2**200 + 1,
    "quotes": """it's "so" \\ and\nso\ton {x} é \u2028 \U0001f600""",
    "flag": True,
    "endless": [float("inf"), -float("inf"), 1e-300],
    "nested": {"a": [1, {"b": (2, "c")}], 3: {4, 5}},
    "exact": decimal.Decimal("0.10"),
    "raw": b"\x00\xff",
    "place": Path("a b/c.csv"),
    "empty": [{}, (), "", []],
}


def test_parameters_arrive_exactly(run):
    names = ", ".join(VALUES)
    defaults = "\n".join(f"{name} = 0" for name in [*VALUES, "missing"])
    path = sent(
        f"import kube_nb as kn\nkn.output('got', ({names}))\nkn.output('nan', repr(missing))", parameters=defaults
    )
    job = succeeded(run(path, VALUES | {"missing": float("nan")}))
    assert job.outputs["got"] == tuple(VALUES.values())
    assert [type(value) for value in job.outputs["got"]] == [
        type(value) if not isinstance(value, Path) else type(Path()) for value in VALUES.values()
    ]
    assert job.outputs["nan"] == "nan"
    json.loads(Path("out.ipynb").read_text(), parse_constant=pytest.fail)  # other programs read it too


def test_a_parameter_that_the_notebook_has_not_is_refused_with_the_nearest():
    path = sent("learning_rate", parameters="learning_rate = 0.1\nsteps: int = 3  # how many")
    with pytest.raises(BadValue, match="learning_rte") as caught:
        Client().notebook(path, {"learning_rte": 1})
    assert "did you mean `learning_rate`" in caught.value.next
    assert own_jobs(Client()) == []


def test_a_parameter_that_papermill_cannot_infer_is_known(run):
    assert text(code_cells(executed_after(run, sent("a, b", parameters="a, b = 1, 2"), {"b": 5}))[2]) == "(1, 5)"


def executed_after(run, path, parameters=None):
    succeeded(run(path, parameters))
    return executed()


def test_a_notebook_without_a_parameters_cell_takes_none():
    with pytest.raises(BadValue, match="takes no parameters"):
        Client().notebook(sent("x = 1"), {"x": 2})


def test_a_value_that_cannot_be_written_is_refused():
    with pytest.raises(BadValue, match="cannot be a object"):
        Client().notebook(sent("x", parameters="x = 1"), {"x": object()})


# What travels -------------------------------------------------------------------------------------------------------


def test_modules_and_files_beside_the_notebook_travel_and_files_come_back(run, notebook_dir):
    (notebook_dir / "helper.py").write_text("from deeper import two\ndef double(x): return two() * x\n")
    (notebook_dir / "deeper.py").write_text("def two(): return 2\n")
    (notebook_dir / "data").mkdir()
    (notebook_dir / "data" / "a.csv").write_text("1,2,3\n")
    path = sent("from helper import double\ndouble(len(open('data/a.csv').read()))\nopen('made.txt', 'w').write('x')")
    job = succeeded(run(path, include="data/*.csv", collect="made.txt"))
    assert job.outputs.files == {"made.txt": 1}


def test_old_outputs_stay_here(run):
    made = notebook("1 + 1")
    made.cells[0].outputs = [v4.new_output("stream", text="x" * 50_000_000)]
    made.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}}
    made.cells.append(v4.new_raw_cell("\\newpage"))
    made.cells.append(v4.new_markdown_cell("![a](attachment:a.png)", attachments={"a.png": {"image/png": "AAAA"}}))
    job = succeeded(run(saved(made)))
    assert job.entry.shipped < 20_000
    back = executed()
    assert text(back.cells[0]) == "2"
    assert back.cells[1].cell_type == "raw"
    assert back.cells[2].attachments == {"a.png": {"image/png": "AAAA"}}
    assert "application/vnd.jupyter.widget-state+json" in back.metadata.widgets


def test_settings_in_the_notebooks_metadata_hold_for_its_job():
    made = notebook("1")
    made.metadata["kube_nb"] = {"cpu": 0.5, "job": "an-earlier-one", "outputs": {}}
    plan = Client().plan_notebook(saved(made))
    assert plan.plan.spec.resources.cpu == 0.5
    assert Client().options(cpu=0.25).plan_notebook(saved(made)).plan.spec.resources.cpu == 0.25
    made.metadata["kube_nb"] = {"cpuu": 1}
    with pytest.raises(BadValue, match="cpuu"):
        Client().plan_notebook(saved(made))


# What comes back ----------------------------------------------------------------------------------------------------


def test_named_outputs_are_the_jobs_and_in_the_executed_notebook(run):
    path = sent(
        """
        import kube_nb as kn
        from pathlib import Path
        Path("model.bin").write_bytes(bytes(range(256)))
        kn.output("accuracy", 0.93)
        kn.output("model", Path("model.bin"))
        kn.output("pair", (1, 2j))
        kn.report(loss=0.5, step=1)
        """
    )
    job = succeeded(run(path))
    assert job.outputs["accuracy"] == 0.93
    assert bytes(job.outputs["model"]) == bytes(range(256))
    assert job.result()["pair"] == (1, 2j)
    assert job.metrics()[0]["loss"] == 0.5
    ours = executed().metadata.kube_nb
    assert ours.outputs.accuracy == 0.93
    assert ours.outputs.model.file == "model.bin"
    assert (ours.job, ours.state) == (job.id, "Succeeded")
    assert "kube_nb" not in executed().metadata.papermill


def test_the_executed_notebook_is_kept_with_its_job(run):
    job = succeeded(run(sent("# Report", "print('kept')"), output=None, html=True))
    again = Client().job(job.id)
    assert "kept" in again.notebook()
    assert "<html" in again.html()
    assert "kept" in again.html()
    saved_at = again.save("elsewhere.ipynb")
    assert text(code_cells(executed(saved_at))[0]) == "kept\n"
    assert Path("elsewhere.html").exists()


def test_the_record_tells_what_ran(run):
    job = succeeded(run(sent("x", parameters="x = 1"), {"x": 2}))
    record = Client().job(job.id).record
    assert record["parameters"] == {"x": 2}
    assert re.fullmatch("[0-9a-f]{64}", record["sha256"])
    assert re.fullmatch("[0-9a-f]{64}", record["bundle"])
    assert {"python", "nbclient", "papermill"} <= set(record["versions"])
    assert record["usage"]["peak_memory"] > 1_000_000
    assert "git" in record
    assert "lock" in record


def test_it_runs_again_with_the_same_parameters(run):
    first = succeeded(run(sent("print(x)", parameters="x = 1"), {"x": 2}))
    Path("out.ipynb").unlink()
    Path("train.ipynb").unlink()
    second = succeeded(ended(Client().rerun(Client().job(first.id)), within=120))
    assert second.id != first.id
    assert second.record["parameters"] == {"x": 2}
    assert second.record["sha256"] == first.record["sha256"]
    assert text(code_cells(executed())[2]) == "2\n"
    first.wait()
    assert executed().metadata.kube_nb.job == second.id, "the earlier job does not write there any more"


# While it runs ------------------------------------------------------------------------------------------------------


def test_the_notebook_grows_while_it_runs_and_keeps_what_it_has_when_cancelled():
    path = sent(
        "# Prepare",
        "print('one')",
        "# Train the *model*",
        "import time\nfrom IPython.display import HTML\ndisplay(HTML('<b>live</b>'))\nprint('ready', flush=True)\ntime.sleep(600)",
        "2",
    )
    job = Client().notebook(path, output="out.ipynb")
    running(job, within=120)
    seen = until(lambda: at_path("out.ipynb") and "ready" in text(code_cells(executed())[1]) and executed())
    assert text(code_cells(seen)[0]) == "one\n"
    assert states(seen) == ["completed", "running", "pending"]
    assert seen.metadata.kube_nb.job == job.id
    assert "<b>live</b>" in json.dumps(seen)
    assert events(job, "progress")[-1].data["text"] == "cell 2 of 3: Train the model"
    job.cancel()
    ended(job)
    assert job.phase is Phase.CANCELLED
    back = executed()
    assert states(back) == ["completed", "failed", "pending"]
    assert "ready" in text(code_cells(back)[1])
    assert back.metadata.kube_nb.state == "Cancelled"


SLOW_TO_TELL = """
import time
kernel = get_ipython().kernel
tell = kernel.shell_handlers["kernel_info_request"]
async def tell_and_linger(*request):
    await tell(*request)
    time.sleep(1)
kernel.shell_handlers["kernel_info_request"] = tell_and_linger
print("ready")
"""


def test_a_kernel_is_not_interrupted_at_the_end(run):
    """It would say so in the log of a notebook that went well."""
    job = Client().plan_notebook(sent(SLOW_TO_TELL), output="out.ipynb").submit()
    assert job.wait(150).phase is Phase.SUCCEEDED, job.reason
    assert list(job.logs()) == ["ready\n"]


def test_who_attaches_later_finishes_the_notebook(run):
    path = sent("print('one')", "import time; print('ready', flush=True); time.sleep(2)")
    plan = Client().plan_notebook(path, output="out.ipynb")
    job = plan.submit()
    became(job, Phase.RUNNING, within=120)
    other = Client().job(job.id)  # as another process has it: it did not send the job
    assert [line for progress, line in other.lines() if not progress] == ["one\n", "ready\n"]
    assert states(executed()) == ["completed", "completed"]
    assert executed().metadata.kube_nb.state == "Succeeded"


# How it ends --------------------------------------------------------------------------------------------------------


def test_a_failure_names_cell_heading_and_line(run):
    path = sent("x = 1", "# Train the model", "def fit():\n    raise ValueError('no data')\n\nfit()", "y = 2")
    job = run(path)
    assert (job.phase, code(job)) == (Phase.FAILED, "Exception")
    assert job.reason.what == "cell 2 of 3 (Train the model) raised ValueError in line 4"
    assert job.reason.why == "no data"
    back = executed()
    assert states(back) == ["completed", "failed", "pending"]
    assert "papermill-error-cell" in back.cells[0].source
    at = next(i for i, cell in enumerate(back.cells) if cell.metadata.get("papermill", {}).get("exception"))
    assert 'id="papermill-error-cell"' in back.cells[at - 1].source
    assert back.cells[at].outputs[-1].ename == "ValueError"
    with pytest.raises(JobFailed) as caught:
        job.result()
    shown = "\n".join(caught.value.__cause__._render_traceback_())
    assert "train.ipynb, cell 2 of 3 (Train the model):4" in shown
    assert "raise ValueError('no data')" in shown


def test_raises_exception_lets_the_notebook_go_on(run):
    job = succeeded(run(sent("1 / 0", "print('on')", tags={0: "raises-exception"})))
    assert code_cells(executed())[0].outputs[0].ename == "ZeroDivisionError"
    assert "on\n" in list(job.logs())


def test_an_exit_with_success_ends_the_notebook_with_success(run):
    succeeded(run(sent("print('one')\nimport sys\nsys.exit()", "print('two')")))
    assert states(executed())[1] == "pending"


def test_a_kernel_that_is_killed_is_no_success(run):
    path = sent(
        "# Train", "import os, signal\nprint('last words', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)", "1"
    )
    job = run(path)
    assert (job.phase, code(job)) == (Phase.FAILED, "Signal")
    assert job.reason.what == "the notebook's kernel was killed by SIGKILL in cell 1 of 2 (Train)"
    assert states(executed()) == ["failed", "pending"]


def test_a_kernel_that_leaves_is_no_success(run):
    job = run(sent("import os\nos._exit(0)", "1"))
    assert (job.phase, code(job)) == (Phase.FAILED, "Exited")
    assert states(executed()) == ["failed", "pending"]


def test_a_cell_has_a_limit(run):
    job = run(sent("1", "# Wait", "import time\ntime.sleep(600)"), cell_timeout="2s")
    assert (job.phase, code(job)) == (Phase.FAILED, "TimedOut")
    assert job.reason.what.startswith("cell 2 of 2 (Wait) was stopped")
    assert states(executed()) == ["completed", "failed"]


def test_the_job_has_a_limit(run):
    job = run(sent("print('one')", "# Wait", "import time\ntime.sleep(600)"), timeout="8s")
    assert (job.phase, code(job)) == (Phase.FAILED, "TimedOut")
    assert "in cell 2 of 2 (Wait)" in job.reason.what
    assert states(executed()) == ["completed", "failed"]


def test_a_failure_is_tried_again(run):
    path = sent(
        "import kube_nb as kn\nmark = kn.checkpoint_dir() / 'tried'\nagain = mark.exists()\nmark.touch()\nassert again"
    )
    job = succeeded(run(path, retries=1))
    assert job.status().attempt == 1
    assert states(executed()) == ["completed"]


def test_a_cell_may_print_100_mb(run):
    path = sent("line = 'x' * 99_999 + '\\n'\nfor _ in range(1000):\n    print(line, end='')", "print('after')")
    job = succeeded(run(path))
    said = written(job)
    assert len(said) == 100_000_000 + len("after\n")
    assert events(job, "end")[-1].data["account"] == account(said)
    assert sum(len(out.text) for out in code_cells(executed())[0].outputs) == 100_000_000


def test_a_notebook_of_another_language_says_so(run):
    made = notebook("print(1)")
    made.metadata.kernelspec = {"name": "ir", "display_name": "R", "language": "R"}
    made.metadata.language_info = {"name": "R"}
    job = run(saved(made))
    assert (job.phase, code(job)) == (Phase.FAILED, "EnvironmentFailed")
    assert job.reason.what == "the notebook is in R, and the job has no kernel for it"


@pytest.mark.parametrize("version", ["3", "4.0", "no kernelspec", "no cells"])
def test_old_and_bare_notebooks_run(run, version):
    if version == "3":
        cell = {"cell_type": "code", "language": "python", "input": ["print('ran')"], "outputs": [], "metadata": {}}
        content = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": [cell]}]}
    else:
        cell = {"cell_type": "code", "source": ["print('ran')"], "outputs": [], "metadata": {}, "execution_count": None}
        cells = [] if version == "no cells" else [cell]
        content = {"nbformat": 4, "nbformat_minor": 0, "metadata": {}, "cells": cells}
    Path("old.ipynb").write_text(json.dumps(content))
    succeeded(run("old.ipynb"))
    assert [text(cell) for cell in code_cells(executed())] == ([] if version == "no cells" else ["ran\n"])


# What is refused before the submit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [("{not json", "it is not JSON: .* in line 1"), ("[1, 2]", "not a notebook's"), ('{"a": 1}', "not a notebook's")],
)
def test_what_is_no_notebook_is_refused(content, why):
    Path("bad.ipynb").write_text(content)
    with pytest.raises(BadValue, match="is not a notebook") as caught:
        Client().notebook("bad.ipynb")
    assert re.search(why, caught.value.why)
    assert own_jobs(Client()) == []


def test_what_cannot_work_is_refused():
    path = sent("1")
    with pytest.raises(NotFound, match="nowhere"):
        Client().notebook("nowhere.ipynb")
    with pytest.raises(NotFound, match="no folder"):
        Client().notebook(path, output="nowhere/out.ipynb")
    with pytest.raises(BadValue, match="take the place of"):
        Client().notebook(path, output=path)
    with pytest.raises(BadFlag, match="one process"):
        Client().options(procs=2).notebook(path)
    with pytest.raises(KubeNbError):
        Client().notebook(path, cell_timeout="soon")
    assert own_jobs(Client()) == []


# The magic ----------------------------------------------------------------------------------------------------------


def test_the_magic_runs_a_notebook_and_shows_what_it_shows(kernel, notebook_dir):
    sent("print(lr, name, day, n)\ndisplay(lr)", parameters="lr = 1\nname = ''\nday = ''\nn = 0")
    (notebook_dir / "more.yaml").write_text("n: 7\n")
    flags = "-p lr 0.5 -r name 10 -y '{day: 2024-01-31}' -f more.yaml --output out.ipynb --job held"
    shown = kernel.run(f"%kube_notebook train.ipynb {flags}")
    assert "0.5 10 2024-01-31 7\n" in shown.text
    assert {"text/plain": "0.5"} in shown.displays
    assert "Succeeded" in shown.cards[0]["text/plain"]
    assert "all cells have run" in shown.cards[0]["text/plain"]
    assert kernel["held"].phase is Phase.SUCCEEDED
    assert states(executed()) == ["completed"] * 3


def test_the_magic_raises_what_the_notebook_raised_and_runs_it_again(kernel, notebook_dir):
    sent("# Look", "assert False, 'so it is'")
    shown = kernel.run("%kube_notebook train.ipynb --output out.ipynb", fails=True)
    assert (shown.error.ename, shown.error.evalue) == ("AssertionError", "so it is")
    assert "cell 1 of 1 (Look)" in shown.error.text
    again = kernel.run("%kube_rerun", fails=True)
    assert again.error.ename == "AssertionError"
    assert again.job.id == executed().metadata.kube_nb.job


def test_a_dry_run_sends_nothing(kernel):
    sent("x", parameters="x = 1")
    shown = kernel.run("%kube_notebook train.ipynb -p x=5 --dry-run")
    assert "x = 5" in shown.displays[0]["text/plain"]
    assert own_jobs(Client()) == []


def test_this_notebook_runs_as_it_is_saved(kernel, notebook_dir, monkeypatch):
    first = kernel.run("%kube_notebook .", fails=True)
    assert first.error.ename == "NotFound"
    kernel.run("a = 1")
    kernel.run("b = 2")
    path = sent("a = 1", "%load_ext kube_nb", "%kube_notebook . --output out.ipynb", "print('ran')")
    monkeypatch.setenv("JPY_SESSION_NAME", str(notebook_dir / path))
    shown = kernel.run("%kube_notebook . --output out.ipynb")
    assert "ran here and is not in train.ipynb" in shown.text
    back = executed()
    assert text(code_cells(back)[-1]) == "ran\n"
    assert code_cells(back)[2].outputs == [], "the cell that sends it is left out in the job"


def test_a_notebook_is_json_that_papermill_would_write(run):
    succeeded(run(sent("1")))
    content = Path("out.ipynb").read_text()
    assert content == writes(executed())
