"""The names a job needs: what a cell reads, closed over what it reaches; a superset of what the interpreter reads."""

from __future__ import annotations

import random
import sys
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kube_nb.capture.flow import flow_of
from kube_nb.capture.names import closure, globals_of, reads, touched
from tests.unit.programs import NAMES, TRIGGERS, Programs, SparsePrograms, Value, execute

PYTHONS_OWN = {"__name__", "__builtins__", "__annotations__", "__annotate__", "__conditional_annotations__", "__doc__"}


def law(examples: int) -> settings:
    """The same programs at every run."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def plain(code: str) -> str:
    return code


def names_read(code: str) -> set[str]:
    """The names that a cell reads, those apart that every cell has."""
    return set(reads(code, transform=plain)) - {"print", "len", "list"}


def notebook(code: str) -> dict:
    """A namespace as the kernel has it after a cell."""
    namespace: dict = {"__name__": "__main__"}
    exec(compile(code, "<notebook>", "exec", dont_inherit=True), namespace)
    return namespace


def captured(code: str, namespace: dict) -> set[str]:
    return set(closure(reads(code, transform=plain), namespace).values)


@st.composite
def programs(draw) -> str:
    kind = draw(st.sampled_from([Programs, SparsePrograms, SparsePrograms]))
    program = kind(draw(st.randoms(use_true_random=False))).program()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(program, "<program>", "exec", dont_inherit=True)
    except SyntaxError:
        return "pass"
    return program


def values() -> dict:
    return {name: Value() for name in [*NAMES, *TRIGGERS, "_K__p"]} | {"__name__": "__main__"}


# -- the laws


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@law(400)
@given(program=programs(), seed=st.integers(0, 1000))
def test_what_the_interpreter_reads_is_found(program, seed):
    found = flow_of(program, transform=plain)
    for run in range(3):
        ran = execute(program, values(), seed + run)
        assert ran.read - found.reads - PYTHONS_OWN == set()


@pytest.mark.filterwarnings("ignore")
@law(150)
@given(program=programs(), seed=st.integers(0, 1000))
def test_what_the_interpreter_assigns_is_found(program, seed):
    ran = execute(program, values(), seed)
    if ran.finished:
        new = {name for name, value in dict.items(ran) if value is not ran.original.get(name)}
        new -= {name for name in new if type(dict.__getitem__(ran, name)).__name__ == "module"}
        assert new - flow_of(program, transform=plain).assigned - PYTHONS_OWN == set()


@pytest.mark.filterwarnings("ignore")
@law(120)
@given(before=programs(), program=programs(), seed=st.integers(0, 1000))
def test_what_functions_of_the_notebook_read_is_found_too(before, program, seed):
    kernel = execute(before, values(), seed)
    for name, value in list(dict.items(kernel)):
        if (value is None or isinstance(value, int | str | tuple)) and name != "__name__":
            kernel[name] = Value()  # one that no other name has
    kernel.begin()
    found = closure(flow_of(program, transform=plain).reads, kernel)
    kernel.read.clear()
    kernel.run(program, seed, absent=[value for name, value in dict.items(kernel) if name not in found.values])
    assert kernel.read - set(found.values) - PYTHONS_OWN == set()


# -- what is read


GENERIC = [  # the syntax of Python 3.12
    ("def f[T: A](x: T) -> B: return c", {"A", "B", "c"}),
    ("class K[T](B[T]):\n    x = T", {"B"}),
    ("type X[T] = A | T", {"A"}),
]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *(GENERIC if sys.version_info >= (3, 12) else []),
        ("x = 1\nprint(x)", set()),
        ("print(x)\nx = 1", {"x"}),
        ("x = x + 1", {"x"}),
        ("x += 1", {"x"}),
        ("if a:\n    x = 1\nprint(x)", {"a", "x"}),
        ("if a:\n    x = 1\nelse:\n    x = 2\nprint(x)", {"a"}),
        ("if a:\n    x = 1\nelse:\n    raise b\nprint(x)", {"a", "b"}),
        ("for i in a:\n    x = i\nprint(x, i)", {"a", "x", "i"}),
        ("while a:\n    x = 1\nprint(x)", {"a", "x"}),
        ("try:\n    x = a\nexcept KeyError:\n    pass\nprint(x)", {"a", "x", "KeyError"}),
        ("try:\n    x = a\nfinally:\n    y = 1\nprint(x, y)", {"a"}),
        ("with a as b:\n    x = 1\nprint(x, b)", {"a", "x"}),
        ("with open(a) as f:\n    x = f.read()\nprint(x)", {"open", "a"}),
        ("match a:\n    case [x]:\n        y = 1\n    case _:\n        y = 2\nprint(y, x)", {"a", "x"}),
        ("match a:\n    case K(k=x) if x:\n        pass", {"a", "K"}),
        ("[x for x in a if b]", {"a", "b"}),
        ("[x for x in x]", {"x"}),
        ("[(y := x) for x in a]\nprint(y)", {"a", "y"}),
        ("(y := a) + y", {"a"}),
        ("a and (y := 1)\nprint(y)", {"a", "y"}),
        ("{k: v for k, v in a}", {"a"}),
        ("class A:\n    x = 1\n    y = x", set()),
        ("class A:\n    x = x", {"x"}),
        ("class A:\n    x = 1\n    y = [x for _ in a]", {"a", "x"}),
        ("class A(B, metaclass=M): pass", {"B", "M"}),
        ("class A:\n    def m(self): return __x", {"_A__x"}),
        ("@d\ndef f(x=a, *, y: t = b): return c", {"d", "a", "t", "b", "c"}),
        ("def f():\n    global x\n    x += 1\nf()", {"x"}),
        ("def f():\n    x = 1\n    def g():\n        nonlocal x\n        x = y\n    return g", {"y"}),
        ("def f(x): return f(x - 1) + k", {"k"}),
        ("f = lambda x=a: x + b", {"a", "b"}),
        ("async def f(): return await a", {"a"}),
        ("await a", {"a"}),
        ("f'{a} {b:{c}}'", {"a", "b", "c"}),
        ("del x", {"x"}),
        ("x = 1\ndel x", set()),
        ("import os, os.path as p\nos.x(p)", set()),
        ("from a import b\nb", set()),
        ("a.x = b\nc[d] = e", {"a", "b", "c", "d", "e"}),
        ("a, *b = c", {"c"}),
        ("x: A", {"A"}),
        ("def f(x: 'A[B]'): pass", {"A", "B"}),
        ("if False:\n    x", set()),
        ("assert a, b", {"a", "b"}),
        ("df.query('a > @least and b < @most')", {"df", "least", "most"}),
        ("pd.eval('a + b')", {"pd", "a", "b"}),
        ("eval('a + b')", {"eval", "a", "b"}),
        ("globals()['a']", {"globals", "a"}),
        ("duckdb.sql('select * from df join other on x')", {"duckdb", "df", "other"}),
        ("_ + __ + _5", {"_", "__", "_5"}),
    ],
)
def test_what_a_cell_reads(code, expected):
    assert names_read(code) == expected


def test_functions_count_when_something_may_call_them():
    assert names_read("def a(): return b()\ndef b(): return C\nC = 3\na()") == set()
    assert names_read("def a(): return b()\na()\ndef b(): return 1") == {"b"}
    assert names_read("def a(): return x\nfor i in (1, 2):\n    pass\nx = 1\na()") == {"x"}


def test_a_deeply_nested_expression_is_followed():
    code = "total = " + " + ".join(f"x{i}" for i in range(1200))
    assert {"x0", "x1199"} <= names_read(code)
    assert "total" in flow_of(code, transform=plain).assigned


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a = 1", {"a"}),
        ("def f(): pass\nclass K: pass", {"f", "K"}),
        ("import os\nfrom a import b", set()),
        ("with a as b, c as (d, e): pass", {"b", "d", "e"}),
        ("for i in x: y = 1", {"i", "y"}),
        ("(a := 1)", {"a"}),
        ("a, *b = c\nd[0] = e.f = g = 1", {"a", "b", "g"}),
        ("a = 1\ndel a", set()),
        ("a = 1\nif b:\n    del a", {"a"}),
        ("try: pass\nexcept E as e: f = 1", {"f"}),
        ("match a:\n    case {'k': b, **c}: pass\n    case [d, *e] | (d, e): pass", {"b", "c", "d", "e"}),
        ("def f():\n    global g\n    g = 1\nf()", {"f", "g"}),
        ("[(z := x) for x in a]", {"z"}),
        ("for _ in a: pass", set()),
        ("x: int\ny: int = 1", {"y"}),
        ("class K:\n    inner = 1", {"K"}),
    ],
)
def test_what_a_cell_assigns(code, expected):
    assert flow_of(code, transform=plain).assigned == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("eval(x)", {"eval"}),
        ("def f(): exec(x)", {"exec"}),
        ("list(map(eval, x))", {"eval"}),
        ("locals()", {"locals"}),
        ("vars(x)", set()),
        ("def f(): return locals()", set()),
        ("df.query(text)", {".query()"}),
        ("df.query('a > 1')", set()),
        ("model.eval()", set()),
        ("from m import *", {"from m import *"}),
        ("import __main__", {"__main__"}),
        ("Out[n]", {"Out"}),
        ("Out[3]", set()),
    ],
)
def test_what_reads_out_of_sight_is_announced(code, expected):
    assert flow_of(code, transform=plain).announces == expected


# -- what is missing


def missing(code: str, namespace: dict | None = None) -> dict[str, int]:
    return closure(reads(code, transform=plain), namespace or {}).missing


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1\nprint(absent)", {"absent": 2}),
        ("print(absent)\nabsent = 1", {"absent": 1}),
        ("[absent for _ in range(3)]", {"absent": 1}),
        ("for i in range(3):\n    absent(i)", {"absent": 2}),
        ("with open('x') as f:\n    absent(f)", {"absent": 2}),
        ("if __name__ == '__main__':\n    absent()", {"absent": 2}),
        ("del absent", {"absent": 1}),
    ],
)
def test_a_name_that_nothing_defines_is_told_with_its_line(code, expected):
    assert missing(code) == expected


@pytest.mark.parametrize(
    "code",
    [
        "def f(): return absent",
        "try:\n    absent\nexcept NameError:\n    absent = 1",
        "try:\n    absent\nexcept Exception:\n    pass",
        "if False:\n    absent",
        "if len([]):\n    absent",
        "x = 1 or absent",
        "for i in range(3):\n    last = i\nprint(last)",
        "def init():\n    global made\n    made = 1\ninit()\nprint(made)",
        "from math import *\nsqrt(2)",
        "exec('x = 1')\nprint(x)",
        "globals()['x'] = 1\nprint(x)",
        "from contextlib import suppress\nwith suppress(NameError):\n    absent",
        "display(1); get_ipython(); exit; __name__; In; Out",
        "x: 'absent' = 1",
    ],
)
def test_a_name_that_may_never_be_read_is_not_missed(code):
    assert missing(code) == {}


def test_a_function_of_the_notebook_may_define_a_name():
    kernel = notebook("def init():\n    global made\n    made = 1")
    assert missing("init()\nprint(made)", kernel) == {}


def test_names_that_look_alike_are_suggested():
    found = closure(reads("fit(X_trian)", transform=plain), {"X_train": 1, "fit": len})
    assert found.suggestions == {"X_trian": ["X_train"]}


# -- the closure


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("f()", {"f", "k"}),
        ("wrapped()", {"wrapped", "k", "tail"}),
        ("part()", {"part", "k"}),
        ("method()", {"method", "k2"}),
        ("Child()", {"Child", "k2", "k3", "k4", "k5", "helper", "k"}),
        ("instances", {"instances", "k2", "k3", "k4", "k5", "helper", "k"}),
        ("enclosed()", {"enclosed", "k"}),
        ("default()", {"default", "k2"}),
        ("cached()", {"cached", "k3"}),
        ("np.pi", {"np"}),
        ("recursive(3)", {"recursive", "k"}),
    ],
)
def test_functions_and_classes_bring_what_they_read(cell, expected):
    kernel = notebook(
        """
import functools, math as np
k = k2 = k3 = k4 = k5 = 1
def f(): return [k for _ in range(3)]
def tail(): return k
def decorate(g):
    @functools.wraps(g)
    def run(*a): return g(*a), tail()
    return run
wrapped = decorate(f)
part = functools.partial(f)
def helper(): return k
class Parent:
    def m(self): return k2
    @property
    def p(self): return k3
    @staticmethod
    def s(): return k4
    @functools.cached_property
    def c(self): return k5
class Child(Parent):
    class Inner:
        def deep(self): return helper()
class Small:
    def m(self): return k2
method = Small().m
instances = [{"deep": (Child(),)}]
def enclose(g):
    def inner(): return g()
    return inner
enclosed = enclose(lambda: k)
def default(g=lambda: k2): return g()
@functools.lru_cache
def cached(): return k3
def recursive(n): return recursive(n - 1) if n else k
"""
    )
    assert captured(cell, kernel) == expected


def test_slots_and_objects_with_manners_of_their_own_are_looked_at_without_asking_them():
    kernel = notebook(
        """
k = 1
class Slotted:
    __slots__ = ("held",)
    def __init__(self, held): self.held = held
class Proxy:
    @property
    def __class__(self): raise RuntimeError
    @property
    def __dict__(self): raise RuntimeError
    def __getattr__(self, name): raise RuntimeError
    def __eq__(self, other): raise RuntimeError
slotted = Slotted(lambda: k)
proxy = Proxy()
"""
    )
    assert captured("slotted, proxy", kernel) == {"slotted", "proxy", "k"}


def test_builtins_travel_only_where_the_notebook_has_its_own():
    assert captured("len([]); sum(x)", {"x": 1}) == {"x"}
    assert captured("len([])", {"len": 3}) == {"len"}


def test_what_ipython_put_there_stays_except_results():
    history, results = ["", "1 + 1"], {3: "three", 4: "four"}
    kernel = {"In": history, "_ih": history, "Out": results, "_oh": results, "_i": "1 + 1", "_i3": "x", "_dh": ["/"]}
    kernel |= {"_": 5, "__": 6, "_3": "three", "__name__": "__main__", "__builtins__": {}, "_sh": random}
    cell = "In, _ih, _i, _i3, _dh, _sh, _, __, _3, __name__, __builtins__, Out[4]"
    found = closure(reads(cell, transform=plain), kernel)
    assert found.values == {"_": 5, "__": 6, "_3": "three", "Out": {4: "four"}}
    assert found.missing == {}


def test_a_name_that_is_called_like_one_of_ipython_is_the_persons_own():
    assert captured("In, Out, exit", {"In": 1, "Out": 2, "exit": 3}) == {"In", "Out", "exit"}


def test_arguments_of_a_call_are_followed_too():
    kernel = notebook("k = 1\ndef f(): return k")
    assert set(closure((), kernel, extra={"given": ([kernel["f"]],)}).values) == {"k"}


def test_functions_tell_what_they_may_change_assign_and_import():
    kernel = notebook(
        "scores = []\ndef add():\n    global count\n    from json import decoder\n    scores.append(eval('1'))\n    count = 1"
    )
    found = closure({"add"}, kernel)
    assert found.touched == {"scores"}
    assert found.assigned == {"count"}
    assert found.announces == {"eval"}
    assert found.modules >= {"json", "json.decoder"}


def test_the_modules_of_values_are_told():
    from decimal import Decimal
    from fractions import Fraction

    found = closure({"price", "kind", "m"}, {"price": Decimal(1), "kind": Fraction, "m": random})
    assert found.modules >= {"decimal", "fractions", "random"}


def test_globals_of_a_function_are_those_of_all_code_inside_it():
    def function(x):
        class Inner:
            y = a  # type: ignore[name-defined]  # noqa: F821

        return [b.attribute for _ in x], lambda: c, Inner  # type: ignore[name-defined]  # noqa: F821

    assert globals_of(function) == {"a", "b", "c"}


# -- what may be changed in place


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("model.fit(X, y)", {"model", "X", "y"}),
        ("scores.append(1)", {"scores"}),
        ("a.x = 1\nb[0] = 2\nc += 1\ndel d[0]", {"a", "b", "c", "d"}),
        ("x = a", {"a"}),
        ("x = a[0].b", {"a"}),
        ("x = (a, [b])", {"a", "b"}),
        ("x = a if b else c", {"a", "c"}),
        ("x = a or b", {"a", "b"}),
        ("for row in rows: row['x'] = 1", {"rows", "row"}),
        ("f()", {"f"}),
        ("def f(): a.append(1)", {"a"}),
        ("lambda: a.append(1)", {"a"}),
        ("[r.pop() for r in rows]", {"r", "rows"}),
        ("with a as b: pass", {"a"}),
        ("print(len(a), b > 0, c[0], f'{d}')", set()),
        ("a", set()),
        ("x = a - b", set()),
        ("x = a + b", {"a", "b"}),
        ("if a: pass", set()),
        ("print = f\nprint(a)", {"f", "print", "a"}),
        ("a >> b", {"a", "b"}),
        ("x = c[i]", {"c"}),
    ],
)
def test_what_a_cell_may_change_in_place(code, expected):
    assert touched(code, transform=plain) == expected
