"""What comes back from a cell: what it assigned, what it changed in place, and nothing else."""

from __future__ import annotations

import pytest

import kube_nb as kn


def test_what_the_cell_assigns_comes_back(cell):
    assert cell(send="model = {'weights': [1, 2]}")["model"] == {"weights": [1, 2]}


def test_a_function_that_the_cell_defines_comes_back_and_works(cell):
    kernel = cell(send="def triple(x):\n    return 3 * x")
    assert kernel.run("triple(2)").value == 6


def test_a_function_that_came_back_sees_globals_of_the_kernel(cell):
    kernel = cell("k = 2", send="def scaled(x):\n    return k * x\ny = scaled(1)")
    kernel.run("k = 10")
    assert kernel.run("scaled(1)").value == 10


def test_a_function_that_came_back_rebinds_globals_of_the_kernel(cell):
    kernel = cell("n = 0", send="def tick():\n    global n\n    n += 1")
    kernel.run("tick(); tick()")
    assert kernel["n"] == 2


def test_a_lambda_that_came_back_works(cell):
    kernel = cell("k = 3", send="f = lambda x: k + x")
    assert kernel.run("f(1)").value == 4


def test_a_value_changed_in_place_comes_back(cell):
    assert cell("scores = [1]", send="scores.append(2)")["scores"] == [1, 2]


def test_a_changed_dict_comes_back(cell):
    assert cell("table = {'a': 1}", send="table.update(b=2)\ntable['a'] = 0")["table"] == {"a": 0, "b": 2}


def test_a_deleted_item_comes_back(cell):
    assert cell("table = {'a': 1, 'b': 2}", send="del table['a']")["table"] == {"b": 2}


def test_a_new_column_of_a_table_comes_back(cell):
    kernel = cell("import pandas as pd\ndf = pd.DataFrame({'a': [1, 2]})", send="df['b'] = df['a'] * 10")
    assert kernel["df"]["b"].tolist() == [10, 20]


def test_an_item_of_an_array_comes_back(cell):
    assert cell("import numpy as np\nx = np.zeros(3)", send="x[1] = 5")["x"].tolist() == [0, 5, 0]


def test_an_array_changed_by_an_operator_comes_back(cell):
    assert cell("import numpy as np\nx = np.ones(2)", send="x *= 3")["x"].tolist() == [3, 3]


@pytest.mark.slow
def test_a_fitted_model_comes_back(cell):
    setup = "from sklearn.linear_model import LinearRegression\nmodel, X, y = LinearRegression(), [[0], [1]], [1, 3]"
    kernel = cell(setup, send="model.fit(X, y)")
    assert kernel["model"].predict([[2]])[0] == pytest.approx(5)


def test_an_attribute_that_the_cell_sets_comes_back(cell):
    setup = "class Box: ...\nbox = Box()"
    assert cell(setup, send="box.item = 7")["box"].item == 7


def test_a_change_through_another_name_comes_back(cell):
    kernel = cell("data = {'rows': [1]}", send="rows = data['rows']\nrows.append(2)")
    assert kernel["data"] == {"rows": [1, 2]}
    assert kernel["data"]["rows"] is kernel["rows"]


def test_a_change_by_a_function_of_the_notebook_comes_back(cell):
    assert cell("seen = []\ndef note(x):\n    seen.append(x)", send="note(1); note(2)")["seen"] == [1, 2]


def test_a_change_by_a_function_to_its_argument_comes_back(cell):
    assert cell("seen = []\ndef note(to, x):\n    to.append(x)", send="note(seen, 1)")["seen"] == [1]


def test_a_change_in_a_loop_over_values_comes_back(cell):
    kernel = cell("a, b = [], []", send="for one in (a, b):\n    one.append(1)")
    assert (kernel["a"], kernel["b"]) == ([1], [1])


def test_a_change_of_another_name_for_the_same_object_is_seen_under_both(cell):
    kernel = cell("a = [1]\nb = a", send="a.append(2)\nlast = b[-1]")
    assert kernel["a"] == kernel["b"] == [1, 2]
    assert kernel["a"] is kernel["b"]


def test_a_state_changed_inside_a_method_comes_back(cell):
    setup = "class Meter:\n    n = 0\n    def step(self): self.n += 1\nmeter = Meter()"
    assert cell(setup, send="meter.step()")["meter"].n == 1


def test_a_random_generator_that_was_used_comes_back_where_it_stands(cell):
    kernel = cell("import numpy as np\nrng = np.random.default_rng(7)", send="first = rng.integers(1000)")
    import numpy as np

    twin = np.random.default_rng(7)
    assert kernel["first"] == twin.integers(1000)
    assert kernel["rng"].integers(1000) == twin.integers(1000)


def test_what_the_cell_only_reads_is_the_same_object_afterwards(cell):
    kernel = cell("data = [1, 2]")
    before = kernel["data"]
    kernel.send("total = sum(data)")
    assert kernel["data"] is before


def test_a_value_that_a_function_only_read_is_the_same_object_afterwards(cell):
    kernel = cell("import numpy as np\nx = np.arange(5)\ndef total(v):\n    return int(v.sum())")
    before = kernel["x"]
    kernel.send("y = total(x)")
    assert kernel["x"] is before
    assert kernel["y"] == 10


def test_names_that_the_cell_deletes_do_not_come_back(cell):
    assert "helper" not in cell(send="helper = 1\nresult = helper + 1\ndel helper")


def test_the_job_names_what_came_back(cell):
    kernel = cell("scores = [1]", send="scores.append(2)\nbest = 2")
    assert set(kernel.job.outputs) == {"scores", "best"}


def test_o_brings_back_exactly_these(cell):
    kernel = cell(send="a = 1\nb = 2\nc = 3", flags="-o a,c")
    assert ("a" in kernel, "b" in kernel, "c" in kernel) == (True, False, True)


def test_o_can_be_repeated(cell):
    kernel = cell(send="a = 1\nb = 2\nc = 3", flags="-o a -o c")
    assert ("a" in kernel, "b" in kernel, "c" in kernel) == (True, False, True)


def test_o_brings_a_name_that_the_cell_only_read(cell):
    kernel = cell("data = [1]")
    before = kernel["data"]
    kernel.send("n = len(data)", "-o data")
    assert kernel["data"] == before
    assert "n" not in kernel


def test_o_none_brings_nothing_back(cell):
    kernel = cell("scores = [1]", send="scores.append(2)\nbest = 2", flags="-o none")
    assert kernel["scores"] == [1]
    assert "best" not in kernel


def test_o_brings_back_whatever_the_size(cell):
    kernel = cell("%kube_config return_limit=1Ki", send="big = b'x' * 100_000", flags="-o big")
    assert kernel["big"] == b"x" * 100_000


def test_o_of_a_name_that_the_cell_never_made_is_said(cell):
    kernel = cell(send="a = 1", flags="-o a,nowhere")
    assert kernel["a"] == 1
    assert "nowhere" in kernel.card


def test_i_sends_only_these(cell):
    kernel = cell("a, b = 1, 2", send="names = sorted(set(globals()) & {'a', 'b'})", flags="-i b")
    assert kernel["names"] == ["b"]


def test_i_sends_what_cannot_be_seen_in_the_source(cell):
    assert cell("hidden = 5", send="y = eval('hid' + 'den')", flags="-i hidden")["y"] == 5


def test_x_keeps_a_name_here(cell):
    setup = "import threading\nlock = threading.Lock()"
    kernel = cell(setup, send="here = 'lock' in globals()\nif here: lock", flags="-x lock")
    assert kernel["here"] is False


def test_x_keeps_a_name_from_being_overwritten(cell):
    kernel = cell("mode = 'mine'", send="mode = 'the job'", flags="-x mode")
    assert kernel["mode"] == "mine"


def test_a_value_over_the_limit_stays_with_its_job(cell):
    kernel = cell("%kube_config return_limit=100Ki", send="big = b'x' * 1_000_000\nsmall = 1")
    assert isinstance(kernel["big"], kn.RemoteValue)
    assert kernel["small"] == 1
    assert (kernel["big"].name, kernel["big"].type, kernel["big"].job) == ("big", "bytes", kernel.job.id)
    assert kernel["big"].size >= 1_000_000


def test_a_value_that_stayed_can_be_brought(cell):
    kernel = cell("%kube_config return_limit=100Ki", send="big = b'x' * 1_000_000")
    assert kernel["big"].get() == b"x" * 1_000_000


def test_a_later_job_reads_a_value_that_stayed(cell):
    kernel = cell("%kube_config return_limit=100Ki", send="import numpy as np\nbig = np.arange(1_000_000)")
    assert isinstance(kernel["big"], kn.RemoteValue)
    kernel.send("total = int(big.sum())\nkind = type(big).__name__")
    assert kernel["total"] == 499999500000
    assert kernel["kind"] == "ndarray"


def test_a_value_that_stayed_and_is_changed_by_a_later_job_is_never_stale(cell):
    kernel = cell("%kube_config return_limit=100Ki", send="big = [b'x' * 1_000_000]")
    first = kernel["big"]
    kernel.send("big.append(1)")
    assert kernel["big"] is not first
    assert len(kernel["big"].get()) == 2


def test_the_card_says_that_a_value_stayed(cell):
    kernel = cell("%kube_config return_limit=100Ki", send="big = b'x' * 1_000_000")
    assert "big (bytes, 1.0 MB)" in kernel.card
    assert ".get()" in kernel.card


def test_a_name_that_cannot_come_back_is_said_and_the_others_come(cell):
    kernel = cell(send="import threading\nlock = threading.Lock()\nvalue = 1\ndel threading")
    assert kernel["value"] == 1
    assert "lock" not in kernel
    assert "lock" in kernel.card


def test_a_failed_job_assigns_nothing(cell):
    kernel = cell("x, scores = 1, []", send="x = 2\nscores.append(1)\nnew = 3\n1 / 0", fails=True)
    assert (kernel["x"], kernel["scores"], "new" in kernel) == (1, [], False)


def test_a_function_that_came_back_finds_what_its_cell_imported(cell):
    kernel = cell(send="import string\nfrom math import sqrt\ndef f():\n    return string.digits, sqrt(4)")
    assert kernel.run("f()").value == ("0123456789", 2.0)


def test_all_names_are_assigned_in_one_step(cell, monkeypatch):
    kernel = cell("a = b = 0")
    steps = []
    push = kernel.shell.push

    def noted(names, interactive=True):
        steps.extend([set(names)] if interactive else [])  # IPython's own names are none of the person's
        push(names, interactive)

    monkeypatch.setattr(kernel.shell, "push", noted)
    kernel.send("a = 1\nb = 2")
    assert steps == [{"a", "b"}]


def test_nothing_is_assigned_where_one_value_cannot_be_loaded(cell):
    setup = """
class Picky:
    def __reduce__(self):
        return (bound, ())
def bound():
    import os
    if "KUBE_NB_JOB" not in os.environ:
        raise OSError("only in a job")
    return Picky()
"""
    kernel = cell(setup, send="a = 1\npicky = Picky()", fails=True)
    assert "a" not in kernel


def test_the_notebooks_helper_names_are_left_alone(cell):
    kernel = cell("5")
    before = kernel.run("_").value
    kernel.send("x = 1")
    assert kernel["_ih"][-1].startswith("get_ipython().run_cell_magic('kube_train'")
    assert before == 5


def test_a_module_that_only_the_job_has_is_said_and_the_rest_comes_back(cell):
    body = """
    import sys, types
    sys.modules["only_there"] = types.ModuleType("only_there")
    import only_there
    def f():
        return only_there.answer
    x = 1
    """
    kernel = cell(send=body)
    assert (kernel["x"], "f" in kernel, "only_there" in kernel) == (1, True, False)
    assert "`only_there` cannot be imported here" in kernel.card


def test_a_constant_that_a_function_imported_comes_back_with_it(cell):
    kernel = cell(send="from math import pi\nfrom os import path\ndef f():\n    return pi, path.sep")
    assert kernel.run("f()").value == (3.141592653589793, "/")


def test_a_class_that_came_back_finds_what_its_cell_imported(cell):
    kernel = cell(
        send="from math import sqrt\nclass Root:\n    def of(self, x):\n        return sqrt(x)\nroot = Root()"
    )
    assert kernel.run("root.of(9)").value == 3.0


def test_a_failed_job_gives_back_what_was_asked_for(cell):
    kernel = cell("x = 1", send="x = 2\ny = 3\n1 / 0", flags="-o x", fails=True)
    assert (kernel["x"], "y" in kernel) == (2, False)


def test_of_several_tries_the_last_one_comes_back(cell):
    body = (
        "import kube_nb as kn\nmark = kn.checkpoint_dir() / 'tried'\ntries = 1 + mark.exists()\nprint('try', tries)\n"
    )
    kernel = cell(send=body + "if tries == 1:\n    mark.touch()\n    raise ValueError", flags="--retries 1 -o tries")
    assert kernel["tries"] == 2
    assert kernel.text.splitlines()[0] == "try 1"
    assert kernel.text.splitlines()[-1] == "try 2"


def test_nothing_comes_back_from_a_cell_that_only_prints(cell):
    kernel = cell("x = 1", send="print(x)")
    assert "came back" not in kernel.card
    assert list(kernel.job.outputs) == []


def test_a_large_array_comes_back_whole(cell):
    kernel = cell("import numpy as np", send="big = np.arange(3_000_000)")
    assert int(kernel["big"].sum()) == 4499998500000
    assert kernel["big"].flags.writeable


def test_values_of_a_failed_cell_stay_as_they_were_before_its_last_success(cell):
    kernel = cell("x = 1", send="x = 2")
    kernel.send("x = 3\nraise ValueError", fails=True)
    assert kernel["x"] == 2


def test_a_name_that_the_cell_does_not_read_sees_the_change_of_its_object(cell):
    kernel = cell("a = [1]\nb = a", send="a.append(2)")
    assert kernel["b"] == [1, 2]
    assert kernel["a"] is kernel["b"]


def test_a_result_that_was_shown_is_no_name_that_travels(cell):
    kernel = cell("a = [1]")
    kernel.run("a")
    kernel.send("a.append(2)")
    assert "_" not in [name.strip().split(" ")[0] for name in kernel.card.partition("came back")[2].split(",")]
    assert kernel["a"] == [1, 2]
