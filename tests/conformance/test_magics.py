"""The magics as a notebook uses them: nesting, the line form, what is refused before the submit."""

from __future__ import annotations

import pytest

from kube_nb import Client
from kube_nb.backends.base import Capability
from tests.conformance.backends import needs
from tests.conformance.sending import files_below, own_jobs


def test_time_above_the_magic_works(cell):
    shown = cell("x = 20").run("%%time\n%%kube_train\ny = x + 1\nprint('ran')")
    assert "ran\n" in shown.text
    assert "Wall time" in shown.text


def test_names_come_back_under_time(cell):
    kernel = cell("x = 20")
    kernel.run("%%time\n%%kube_train\ny = x + 1")
    assert kernel["y"] == 21


def test_capture_above_the_magic_captures_what_the_job_prints(cell):
    kernel = cell()
    shown = kernel.run("%%capture out\n%%kube_train\nprint('captured')\ny = 1")
    assert "captured" not in shown.text
    assert "captured\n" in kernel["out"].stdout
    assert kernel["y"] == 1


def test_capture_above_the_magic_captures_what_the_job_displays(cell):
    kernel = cell()
    kernel.run("%%capture out\n%%kube_train\ndisplay(41)")
    assert any(output.data.get("text/plain") == "41" for output in kernel["out"].outputs)


def test_a_timed_line_inside_the_cell_works(cell):
    kernel = cell("x = 20", send="%time y = x + 1\nz = y")
    assert kernel["z"] == kernel["y"] == 21
    assert "Wall time" in kernel.text


def test_time_inside_the_cell_works(cell):
    kernel = cell("x = 20", send="%%time\ny = x + 1\nprint('ran')")
    assert kernel["y"] == 21
    assert kernel.text.startswith("ran\n")
    assert "Wall time" in kernel.text


def test_an_exception_under_time_fails_the_job(cell):
    kernel = cell(send="%%time\n1 / 0", fails=True)
    assert kernel.error.ename == "ZeroDivisionError"


def test_timeit_inside_the_cell_works(cell):
    assert "loop" in cell("x = 1", send="%timeit -n 2 -r 2 x + 1").text


def test_matplotlib_inline_inside_the_cell_works(cell):
    kernel = cell(send="%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert "image/png" in kernel.displays[-1]


def test_capture_inside_the_cell_works(cell):
    kernel = cell(send="%%capture out\nprint('inside')\ny = 3")
    assert kernel.text == ""
    assert kernel["y"] == 3


def test_bash_inside_the_cell_works(cell):
    assert cell(send="%%bash\nfor i in 1 2; do echo line $i; done").text == "line 1\nline 2\n"


def test_env_inside_the_cell_works(cell):
    assert cell(send="%env COLOUR=red\nimport os\nseen = os.environ['COLOUR']\ndel os")["seen"] == "red"


@pytest.mark.parametrize("line", ["%debug", "%run other.py", "%load_ext autoreload", "answer = input('?')"])
def test_what_needs_the_kernel_is_refused_before_the_submit(cell, line):
    kernel = cell(send=line, fails=True)
    assert kernel.error.ename == "CannotRunThere"
    assert own_jobs(Client()) == []


def test_pip_install_is_refused_with_a_pointer_to_packages(cell):
    kernel = cell(send="%pip install requests", fails=True)
    assert kernel.error.ename == "CannotRunThere"
    assert "--packages" in kernel.error.evalue


def test_the_line_form_gives_the_result_of_the_call(cell):
    kernel = cell("def fit(X):\n    return sum(X)\nX = [1, 2, 3]")
    kernel.run("total = %kube_train fit(X)")
    assert kernel["total"] == 6


def test_the_line_form_takes_flags_before_the_call(cell):
    kernel = cell("def f(text):\n    return text")
    kernel.run("x = %kube_train --name job-of-mine --timeout 1m f('--name {braces} $HOME \"q\"')")
    assert kernel["x"] == '--name {braces} $HOME "q"'


def test_two_dashes_end_the_flags_of_the_line_form(cell):
    kernel = cell("x = 5")
    kernel.run("y = %kube_train --name n -- -x + 1")
    assert kernel["y"] == -4


def test_the_line_form_shows_what_the_call_prints(cell):
    assert cell("def f():\n    print('printed')").run("%kube_train f()").text == "printed\n"


def test_the_line_form_shows_its_value_once(cell):
    shown = cell("def f():\n    return 41").run("%kube_train f()")
    assert [data["text/plain"] for data in shown.displays] == ["41"]


def test_the_line_form_awaits_a_coroutine(cell):
    kernel = cell("async def f():\n    return 42")
    kernel.run("y = %kube_train f()")
    assert kernel["y"] == 42


def test_the_line_form_raises_what_the_call_raised(cell):
    kernel = cell("def f():\n    raise KeyError('missing')")
    shown = kernel.run("y = %kube_train f()", fails=True)
    assert shown.error.ename == "KeyError"
    assert "y" not in kernel


def test_an_argument_changed_by_the_line_form_comes_back(cell):
    kernel = cell("def add(to):\n    to.append(1)\nseen = []")
    kernel.run("%kube_train add(seen)")
    assert kernel["seen"] == [1]


def test_the_line_form_inside_an_expression_of_the_cell_works(cell):
    kernel = cell("def f(x):\n    return 2 * x")
    kernel.run("total = 0\nfor i in range(2):\n    part = %kube_train f(i)\n    total += part")
    assert kernel["total"] == 2


def test_the_name_of_the_job_is_the_one_given(cell):
    assert cell(send="x = 1", flags="--name my-run").job.name == "my-run"


def test_the_job_is_bound_to_the_variable_given(cell):
    kernel = cell(send="x = 1", flags="--job run")
    assert kernel["run"].id == kernel.job.id


def test_a_flag_that_does_not_exist_is_refused_with_the_nearest(cell):
    kernel = cell(send="x = 1", flags="--tmieout 1h", fails=True)
    assert kernel.error.ename == "BadFlag"
    assert "--timeout" in kernel.error.evalue


def test_a_stray_word_is_refused(cell):
    assert cell(send="x = 1", flags="stray", fails=True).error.ename == "BadFlag"


def test_a_flag_takes_the_value_of_an_expression(cell):
    kernel = cell("label, back = 'from-python', ['a', 'b']")
    kernel.send("a = 1\nb = 2\nc = 3", "--name {label} -o {back}")
    assert kernel.job.name == "from-python"
    assert ("a" in kernel, "c" in kernel) == (True, False)


def test_the_body_of_the_cell_is_not_formatted(cell):
    assert cell("x = 1", send="text = '{x} $x {{x}}'")["text"] == "{x} $x {{x}}"


def test_help_needs_no_cell(cell):
    text = cell().run("%kube_train --help").text
    assert "--gpus" in text
    assert "--detach" in text


def test_a_session_is_refused_for_now(cell):
    kernel = cell(send="x = 1", flags="--session s", fails=True)
    assert "--session" in kernel.error.evalue


@needs(Capability.ADMISSION)
def test_gpus_that_nothing_has_are_refused_not_queued(cell):
    kernel = cell(send="x = 1", flags="--gpus 999", fails=True)
    assert kernel.error.ename == "Refused"
    assert own_jobs(Client()) == []


def test_an_unknown_target_is_refused(cell):
    kernel = cell(send="x = 1", flags="--on nowhere-at-all", fails=True)
    assert "nowhere-at-all" in kernel.error.evalue


def test_a_syntax_error_is_pythons_own(cell):
    kernel = cell(send="x = = 1", fails=True)
    assert kernel.error.ename == "SyntaxError"
    assert own_jobs(Client()) == []


def test_an_exception_shows_the_line_of_the_cell(cell):
    kernel = cell("def inner(x):\n    return 1 / x", send="a = 1\nb = inner(0)\nc = 2", fails=True)
    assert (kernel.error.ename, kernel.error.evalue) == ("ZeroDivisionError", "division by zero")
    assert "3 b = inner(0)" in kernel.error.text
    assert "2     return 1 / x" in kernel.error.text


def test_an_exception_shows_no_frames_of_the_runner(cell):
    text = cell(send="import json\njson.loads('{')", fails=True).error.text
    assert "json/decoder.py" in text
    assert "kube_nb" not in text.replace("kube-nb", "")


def test_the_cause_of_an_exception_is_shown(cell):
    kernel = cell(
        send="""
        try:
            {}["key"]
        except KeyError as e:
            raise RuntimeError("no key") from e
        """,
        fails=True,
    )
    assert kernel.error.ename == "RuntimeError"
    assert "KeyError" in kernel.error.text


def test_the_exception_that_the_kernel_raises_is_the_users_own(cell):
    setup = """
class Mine(Exception):
    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code
    def __reduce__(self):
        return Mine, (self.code,)
"""
    kernel = cell(setup)
    kernel.run(
        "from IPython import get_ipython\n"
        "try:\n    get_ipython().run_cell_magic('kube_train', '', 'raise Mine(7)')\n"
        "except Mine as caught:\n    code = caught.code"
    )
    assert kernel["code"] == 7


def test_the_magic_works_from_a_function(cell):
    kernel = cell("def go():\n    get_ipython().run_cell_magic('kube_train', '', 'y = 1 + 1')\ngo()")
    assert kernel["y"] == 2


def test_loading_the_extension_again_changes_nothing(cell):
    kernel = cell("%load_ext kube_nb\n%reload_ext kube_nb", send="x = 1")
    assert kernel["x"] == 1


def test_unloading_takes_the_magics_away(cell):
    kernel = cell("%unload_ext kube_nb")
    assert "not found" in kernel.run("%kube_train 1 + 1").stderr
    kernel.run("%load_ext kube_nb")
    kernel.send("x = 1")
    assert kernel["x"] == 1


def test_the_listing_names_the_jobs(cell):
    kernel = cell(send="x = 1", flags="--name listed")
    shown = kernel.run("%kube_jobs")
    assert kernel.job.id in shown.displays[0]["text/plain"]
    assert "Succeeded" in shown.displays[0]["text/plain"]


def test_logs_are_printed_again(cell):
    kernel = cell(send="print('once')")
    assert kernel.run("%kube_logs").text == "once\n"


def test_a_job_runs_again(cell):
    kernel = cell("x = 1", send="print('ran')\ny = x + 1")
    kernel.run("y = None")
    shown = kernel.run("%kube_rerun")
    assert shown.text == "ran\n"
    assert shown.job.id != kernel.job.id
    assert kernel["y"] == 2


def test_the_line_form_without_a_call_is_refused(cell):
    assert cell().run("%kube_train --name x", fails=True).error.ename == "BadFlag"


def test_a_cell_that_takes_too_long_says_so(cell):
    kernel = cell(send="import time\ntime.sleep(600)", flags="--timeout 500ms", fails=True)
    assert kernel.error.ename == "JobFailed"
    assert "TimedOut" in kernel.card


def test_a_failed_cell_shows_its_card_and_its_text(cell):
    kernel = cell(send="print('before')\nraise KeyError('k')", fails=True)
    assert kernel.text == "before\n"
    assert "Failed" in kernel.card


def test_an_exception_group_shows_its_members(cell):
    kernel = cell(send="raise ExceptionGroup('both', [ValueError('one'), KeyError('two')])", fails=True)
    assert kernel.error.ename == "ExceptionGroup"
    assert "one" in kernel.error.text
    assert "two" in kernel.error.text


def test_a_cell_under_two_magics_keeps_its_lines(cell):
    shown = cell("x = 0").run("%%time\n%%kube_train\ny = 1\nz = y / x", fails=True)
    assert "4 z = y / x" in shown.error.text


def test_an_exception_in_a_local_module_shows_its_line(cell, notebook_dir):
    (notebook_dir / "helper.py").write_text("def fail():\n    raise ValueError('in the module')\n")
    kernel = cell(send="import helper\nhelper.fail()", fails=True)
    assert "raise ValueError('in the module')" in kernel.error.text
    assert "helper.py" in kernel.error.text


def test_a_secret_of_the_magics_line_is_in_no_traceback_of_a_function_that_came_back(cell, state_dir):
    kernel = cell(send="def f():\n    return 1", flags="--env TOKEN=s3cr3t-in-a-flag")
    kernel.send("y = f()")
    assert [path for path, data in files_below(state_dir) if b"s3cr3t-in-a-flag" in data] == []
