"""Names of the notebook in the job: read, rebound, reached through functions and closures."""

from __future__ import annotations

import pytest


@pytest.mark.rights
@pytest.mark.via
def test_a_value_of_the_notebook_is_read(cell):
    assert cell("x = 20", send="y = x + 1")["y"] == 21


def test_a_name_that_is_read_and_assigned_is_both(cell):
    assert cell("x = 20", send="x = x + 1")["x"] == 21


def test_an_augmented_assignment_reads_and_assigns(cell):
    assert cell("x = 20", send="x += 1")["x"] == 21


def test_a_name_that_the_cell_assigns_first_is_not_needed_before(cell):
    assert cell(send="fresh = 1\nfresh += 1")["fresh"] == 2


def test_a_name_that_does_not_exist_is_said_before_the_submit(cell):
    kernel = cell(send="y = nowhere + 1", fails=True)
    assert kernel.error.ename == "MissingName"
    assert "nowhere" in kernel.error.evalue
    assert kernel.run("%kube_jobs") is not None


def test_a_function_calls_other_functions_of_the_notebook(cell):
    setup = "def inner(x):\n    return x + 1\ndef outer(x):\n    return inner(x) * 2"
    assert cell(setup, send="y = outer(1)")["y"] == 4


def test_a_function_reads_globals_of_the_notebook(cell):
    assert cell("k = 3\ndef scaled(x):\n    return k * x", send="y = scaled(2)")["y"] == 6


def test_a_function_sees_what_the_cell_rebinds(cell):
    assert cell("k = 1\ndef f():\n    return k", send="k = 2\ny = f()")["y"] == 2


def test_a_function_sees_a_function_that_the_cell_redefines(cell):
    setup = "def step():\n    return 'old'\ndef run():\n    return step()"
    assert cell(setup, send="def step():\n    return 'new'\ny = run()")["y"] == "new"


def test_a_function_rebinds_a_global(cell):
    setup = "count = 0\ndef tick():\n    global count\n    count += 1"
    kernel = cell(setup, send="tick()\ntick()\nseen = count")
    assert kernel["seen"] == 2
    assert kernel["count"] == 2


def test_a_function_that_the_cell_defines_sees_names_of_the_notebook(cell):
    assert cell("base = 10", send="def plus(x):\n    return base + x\ny = plus(1)")["y"] == 11


def test_globals_is_the_namespace_of_the_cell(cell):
    kernel = cell("x = 1", send="x\nglobals()['made'] = 5\nsame = made + x", flags="-i x")
    assert kernel["same"] == 6


def test_the_cell_is_the_main_module(cell):
    kernel = cell(
        "def f():\n    return 1",
        send="import __main__\nname = __name__\nfound = __main__.f is f\nwhere = f.__module__\ndel __main__",
    )
    assert (kernel["name"], kernel["found"], kernel["where"]) == ("__main__", True, "__main__")


def test_recursion_works(cell):
    setup = "def factorial(n):\n    return 1 if n < 2 else n * factorial(n - 1)"
    assert cell(setup, send="y = factorial(10)")["y"] == 3628800


def test_mutual_recursion_works(cell):
    setup = """
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
"""
    assert cell(setup, send="answers = even(10), odd(10)")["answers"] == (True, False)


def test_a_closure_keeps_its_value(cell):
    setup = "def adder(n):\n    def add(x):\n        return n + x\n    return add\nadd5 = adder(5)"
    assert cell(setup, send="y = add5(1)")["y"] == 6


def test_two_closures_share_their_cell(cell):
    setup = """
def counter():
    n = 0
    def up():
        nonlocal n
        n += 1
    def read():
        return n
    return up, read
up, read = counter()
"""
    assert cell(setup, send="up(); up()\ny = read()")["y"] == 2


def test_a_closure_that_changed_its_cell_comes_back_changed(cell):
    setup = """
def counter():
    n = 0
    def up():
        nonlocal n
        n += 1
        return n
    return up
up = counter()
"""
    kernel = cell(setup, send="up(); up()")
    assert kernel.run("up()").value == 3


def test_a_generator_function_works(cell):
    setup = "def squares(n):\n    for i in range(n):\n        yield i * i"
    assert cell(setup, send="y = list(squares(4))")["y"] == [0, 1, 4, 9]


def test_a_lambda_works(cell):
    assert cell("k = 2\ntwice = lambda x: k * x", send="y = twice(4)")["y"] == 8


def test_a_partial_works(cell):
    setup = "from functools import partial\ndef power(base, e):\n    return base ** e\nsquare = partial(power, e=2)"
    assert cell(setup, send="y = square(5)")["y"] == 25


def test_defaults_and_keyword_only_arguments_travel(cell):
    assert cell("def f(a, b=[1], *, c=3):\n    return a, b, c", send="y = f(0)")["y"] == (0, [1], 3)


def test_attributes_of_a_function_travel(cell):
    assert cell("def f():\n    return f.k\nf.k = 9", send="y = f()")["y"] == 9


def test_a_decorator_of_the_notebook_works(cell):
    setup = """
import functools
def loud(function):
    @functools.wraps(function)
    def run(*args):
        return str(function(*args)).upper()
    return run
@loud
def greet(name):
    "Say hello."
    return f"hi {name}"
"""
    kernel = cell(setup, send="y = greet('ann')\nabout = greet.__name__, greet.__doc__")
    assert kernel["y"] == "HI ANN"
    assert kernel["about"] == ("greet", "Say hello.")


def test_a_cached_function_works(cell):
    setup = """
from functools import lru_cache
@lru_cache(maxsize=None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
"""
    assert cell(setup, send="y = fib(30)\nhits = fib.cache_info().hits")["hits"] > 0


def test_two_names_for_one_object_stay_one_object_in_the_job(cell):
    assert cell("a = [1]\nb = a", send="same = a is b\na.append(2)\ny = b")["same"] is True


def test_two_names_for_one_object_stay_one_object_on_the_way_back(cell):
    kernel = cell(send="a = [1]\nb = a\nholder = {'inside': a}")
    assert kernel["a"] is kernel["b"]
    assert kernel["holder"]["inside"] is kernel["a"]


def test_an_array_and_its_view_stay_one_memory(cell):
    setup = "import numpy as np\nwhole = np.zeros(4)\npart = whole[1:3]"
    kernel = cell(setup, send="part[:] = 7\nseen = whole.tolist()")
    assert kernel["seen"] == [0, 7, 7, 0]


def test_a_module_is_read_under_its_alias(cell):
    assert cell("import numpy as np", send="y = float(np.sqrt(4))")["y"] == 2.0


def test_a_name_from_a_module_is_read(cell):
    assert cell("from math import sqrt as root", send="y = root(9)")["y"] == 3.0


def test_names_of_a_star_import_of_the_notebook_are_found(cell):
    assert cell("from math import *", send="y = sqrt(16) + floor(pi)")["y"] == 7.0


def test_a_star_import_in_the_cell_works(cell):
    assert cell(send="from math import *\ny = sqrt(16)")["y"] == 4.0


def test_comprehensions_read_names_of_the_notebook(cell):
    assert cell("k = 2\nxs = [1, 2]", send="ys = [k * x for x in xs if x < k]")["ys"] == [2]


def test_the_walrus_and_unpacking_assign(cell):
    kernel = cell(send="(a, *rest), [b] = (1, 2, 3), [4]\nif (n := len(rest)) > 1:\n    pass")
    assert (kernel["a"], kernel["rest"], kernel["b"], kernel["n"]) == (1, [2, 3], 4, 2)


def test_names_assigned_by_with_for_and_match_come_back(cell):
    kernel = cell(
        send="""
        from contextlib import nullcontext
        with nullcontext(1) as a:
            pass
        for b in range(3):
            pass
        match {"k": 5}:
            case {"k": c}:
                pass
        """
    )
    assert (kernel["a"], kernel["b"], kernel["c"]) == (1, 2, 5)


def test_an_indented_cell_runs(cell):
    assert cell(send="    x = 1\n    y = x + 1")["y"] == 2


def test_an_empty_cell_runs(cell):
    assert "Succeeded" in cell(send="# nothing but a comment").card


def test_a_future_import_holds_for_the_cell(cell):
    kernel = cell(send="from __future__ import annotations\ndef f(x: Nowhere): ...\nnotes = f.__annotations__")
    assert kernel["notes"] == {"x": "Nowhere"}


def test_inspect_finds_the_source_of_a_function(cell):
    kernel = cell("def f():\n    return 'the source'", send="import inspect\ntext = inspect.getsource(f)\ndel inspect")
    assert kernel["text"] == "def f():\n    return 'the source'\n"


def test_source_and_values_arrive_as_they_are(cell):
    text = "$HOME `id` \\n \\\\ \"q\" 'q' \x1e EOF <<EOF %%magic {braces} \x00"
    kernel = cell(f"value = {text!r}", send=f"literal = {text!r}\nback = value")
    assert kernel["literal"] == kernel["back"] == text


def test_a_builtin_that_the_notebook_shadows_is_the_notebooks(cell):
    assert cell("def sum(xs):\n    return 'mine'", send="y = sum([1, 2])")["y"] == "mine"


def test_the_last_results_of_the_notebook_are_read(cell):
    kernel = cell("40")
    kernel.run("2")
    kernel.send("total = __ + _\nsame = Out[2] + Out[3]")
    assert (kernel["total"], kernel["same"]) == (42, 42)


def test_a_name_in_another_script_is_found(cell):
    assert cell("größe = 2\nµ = 3", send="y = größe * µ")["y"] == 6


def test_a_private_name_travels(cell):
    assert cell("_hidden = 1\n__very = 2", send="y = _hidden + __very")["y"] == 3


def test_a_list_that_holds_itself_stays_so(cell):
    kernel = cell("ring = [1]\nring.append(ring)", send="known = ring[1] is ring\nring.append(2)")
    assert kernel["known"] is True
    assert kernel["ring"][1] is kernel["ring"]


def test_a_default_argument_that_a_call_changes_comes_back_changed(cell):
    kernel = cell("def note(x, seen=[]):\n    seen.append(x)\n    return seen", send="note(1)")
    assert kernel.run("note(2)").value == [1, 2]


def test_a_single_dispatch_function_works(cell):
    setup = """
from functools import singledispatch
@singledispatch
def kind(x): return "other"
@kind.register
def _(x: int): return "int"
"""
    assert cell(setup, send="kinds = kind(1), kind('a')")["kinds"] == ("int", "other")


def test_a_context_manager_function_works(cell):
    setup = """
from contextlib import contextmanager
@contextmanager
def doubled(x):
    yield 2 * x
"""
    assert cell(setup, send="with doubled(4) as y:\n    pass")["y"] == 8


def test_async_comprehensions_work_at_the_top_level(cell):
    setup = "async def numbers():\n    for i in range(3):\n        yield i"
    assert cell(setup, send="xs = [x async for x in numbers()]")["xs"] == [0, 1, 2]


def test_an_annotated_assignment_comes_back(cell):
    assert cell(send="x: int = 5")["x"] == 5


def test_a_nested_function_reads_names_of_the_notebook(cell):
    setup = "k = 5\ndef outer():\n    def inner():\n        return k\n    return inner()"
    assert cell(setup, send="k = 6\ny = outer()")["y"] == 6


def test_a_name_that_only_a_method_deep_inside_a_value_reads_travels(cell):
    setup = """
import math
FACTOR = 10
class Deep:
    def value(self): return math.floor(2.5) * FACTOR
nested = {"list": [(Deep(),)]}
"""
    assert cell(setup, send="y = nested['list'][0][0].value()")["y"] == 20
