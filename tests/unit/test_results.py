"""What comes back, what stays, and what is said about the rest."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kube_nb.runner import graph
from kube_nb.runner.execute import RESULT
from kube_nb.runner.objects import Objects
from kube_nb.runner.results import Results
from tests.unit.rank_process import run_rank


class Home:
    """A namespace whose names can be brought back."""

    def __init__(self, directory: Path) -> None:
        self.objects = Objects(directory / "objects")
        self.names: dict[str, Any] = {}

    def back(self, *names: str, limit: int | None = None) -> dict[str, Any]:
        return Results(self.names, self.objects).index(names or self.names, limit=limit)

    def load(self, reference: dict[str, Any]) -> dict[str, Any]:
        return graph.load(reference, namespace={}, objects=self.objects)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def test_names_come_back_in_one_graph_with_type_and_size(home):
    shared = [1, 2]
    home.names |= {"a": shared, "b": {"inside": shared}, "array": np.zeros(100_000)}
    index = home.back()
    values = home.load(index["graph"])
    assert values["b"]["inside"] is values["a"]
    assert {name: entry["type"] for name, entry in index["names"].items()} == {
        "a": "list",
        "b": "dict",
        "array": "ndarray",
    }
    assert 800_000 < index["names"]["array"]["size"] < 801_000
    assert (index["remote"], index["unreturned"], index["files"]) == ({}, {}, {})


def test_small_values_travel_inside_the_index(home):
    home.names["a"] = [1]
    index = home.back()
    assert index["graph"]["data"]
    assert not list(home.objects.directory.glob("*")) if home.objects.directory.exists() else True


def test_nothing_is_no_graph(home):
    index = home.back()
    assert (index["graph"], index["names"]) == (None, {})


def test_over_the_limit_the_largest_stay_each_as_a_graph_of_its_own(home):
    home.names |= {"big": bytearray(50_000), "small": [1], "huge": np.zeros(100_000), "middle": bytearray(10_000)}
    index = home.back(limit=20_000)
    assert sorted(index["names"]) == ["middle", "small"]
    assert sorted(index["remote"]) == ["big", "huge"]
    assert home.load(index["remote"]["big"]["graph"]) == {"big": bytearray(50_000)}
    assert index["remote"]["huge"]["type"] == "ndarray"
    assert index["remote"]["huge"]["size"] > 800_000


def test_what_was_asked_for_has_no_limit(home):
    home.names["big"] = bytearray(50_000)
    assert home.back("big", limit=None)["remote"] == {}


class Config:
    def __init__(self):
        self.handlers = [{"stream": threading.Lock()}]


class Slotted:
    __slots__ = ("empty", "guard")

    def __init__(self):
        self.guard = threading.Lock()


class Odd:
    def __reduce__(self):
        raise KeyError("odd")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Config(), 'x.handlers[0]["stream"] is a lock (lock)'),
        ([1, (2, threading.Lock())], "x[1][1] is a lock (lock)"),
        (threading.Lock(), "it is a lock (lock)"),
        ({"a": {3: Slotted()}}, 'x["a"][3].guard is a lock (lock)'),
        ((n for n in ()), "it is a generator (generator)"),
        ([Odd()], "x[0] cannot be pickled: KeyError: 'odd'"),
    ],
)
def test_what_cannot_come_back_is_said_with_the_path_to_it(home, value, why):
    home.names |= {"x": value, "fine": 1}
    index = home.back()
    assert home.load(index["graph"]) == {"fine": 1}
    assert index["unreturned"] == {"x": why}


def test_modules_are_left_out_and_asked_for_they_are_named(home):
    home.names |= {"np": np, "x": 1}
    results = Results(home.names, home.objects)
    assert results.unasked(["np", "x", "gone"], ["x"]) == ["x"]
    assert results.exactly(["x", "np", "gone", "x"]) == ["x"]
    assert results.index(["x"], limit=None)["unreturned"] == {
        "np": "it is a module: import it",
        "gone": "the code did not make it",
    }


def test_the_result_that_cannot_come_back_is_called_the_result(home):
    home.names[RESULT] = {"lock": threading.Lock()}
    assert home.back()["unreturned"][RESULT] == 'result["lock"] is a lock (lock)'


@pytest.fixture
def work(tmp_path) -> Path:
    place = tmp_path / "work"
    for name in ("a.txt", "deep/b.txt", "deep/er/c.bin", ".hidden"):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return place


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", ["a.txt"]),
        ("**/*.txt", ["a.txt", "deep/b.txt"]),
        ("deep", ["deep/b.txt", "deep/er/c.bin"]),
        ("deep/*", ["deep/b.txt", "deep/er/c.bin"]),
        (".hidden", [".hidden"]),
        ("deep/er/c.bin", ["deep/er/c.bin"]),
    ],
)
def test_files_come_back_by_pattern(home, work, pattern, found):
    files = Results({}, home.objects).files([pattern], str(work))
    assert sorted(files) == found
    for name, entry in files.items():
        assert bytes(home.objects.read(entry["object"], entry["size"])).decode() == name


@pytest.mark.parametrize("pattern", ["*.pt", "../secret", "/etc/passwd", "deep/../../x"])
def test_a_pattern_without_files_is_said(home, work, pattern):
    results = Results({}, home.objects)
    assert results.files([pattern, "a.txt"], str(work)).keys() == {"a.txt"}
    assert f"--collect {pattern}" in results.index([], limit=None)["unreturned"]


# In a rank ----------------------------------------------------------------------------------------------------------


def test_names_and_files_of_a_rank():
    ran = run_rank(
        "import os, json as also_a_module\n"
        "model = {'a': 1}\nalias = model\nfile = open('out.csv', 'w')\nfile.write('1,2')\n"
        "def f(): return model\n"
        "class C: pass\n"
        "file.flush()",
        assigned=["model", "alias", "file", "f", "C", "os", "also_a_module"],
        collect=["*.csv"],
    )
    values = ran.values
    assert sorted(values) == ["C", "alias", "f", "model"]
    assert values["alias"] is values["model"]
    assert ran.index is not None
    assert "open file" in ran.index["unreturned"]["file"]
    assert set(ran.index["unreturned"]) == {"file"}
    entry = ran.index["files"]["out.csv"]
    assert bytes(ran.objects.read(entry["object"])) == b"1,2"


def test_exactly_the_names_that_were_asked_for():
    ran = run_rank("a = 1\nb = 2\nc = 3", names=["b", "missing"], assigned=["a", "b", "c"], limit=0)
    assert ran.values == {"b": 2}
    assert ran.index is not None
    assert ran.index["unreturned"] == {"missing": "the code did not make it"}


def test_the_result_comes_back_and_is_not_shown():
    ran = run_rank("40 + 2", returns=True)
    assert (ran.values, ran.shown) == ({RESULT: 42}, [])


def test_files_of_code_that_failed_come_back_because_they_were_asked_for():
    ran = run_rank("open('log.txt', 'w').write('x')\nx = 1\n1 / 0", assigned=["x"], collect=["log.txt"])
    assert ran.index is not None
    assert (list(ran.index["files"]), ran.index["names"]) == (["log.txt"], {})


def test_an_instance_of_the_notebooks_class_comes_back_as_one():
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "class Model:\n    fitted = False\n    def fit(self):\n        self.fitted = True\n        return self",
        namespace,
    )
    model = namespace["Model"]()
    ran = run_rank("fitted = model.fit()", {"model": model}, namespace=namespace, assigned=["fitted"], check=["model"])
    values = ran.values
    assert type(values["model"]) is namespace["Model"]
    assert values["fitted"] is values["model"]
    assert values["model"].fitted
    assert namespace["Model"].fitted is False
