"""What the sent code changed in place is found; what it only read is not, as far as that can be told."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb.runner.changes import Baseline
from tests.unit.rank_process import run_rank


def changed(values: dict[str, Any], source: str, *, budget: float = 10.0) -> list[str]:
    baseline = Baseline(values, values, budget)
    exec(source, values)
    found, unchecked = baseline.compare()
    assert unchecked == []
    return found


class Model:
    def __init__(self):
        self.weights = np.zeros(100_000)
        self.history = []

    def fit(self):
        self.weights[-1] = 1
        return self

    def predict(self):
        return self.weights.sum()


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ([1], "x.append(2)"),
        ([1, [2]], "x[1].append(3)"),
        ({"a": 1}, "x['a'] = 2"),
        ({1}, "x.add(2)"),
        (bytearray(b"abc"), "x[0] = 0"),
        (Model(), "x.fit()"),
        (Model(), "x.history.append(1)"),
        (np.zeros(1000), "x[999] = 1"),
        (np.zeros((3, 4)).T, "x[0, 1] = 1"),
        (np.zeros(10, dtype=object), "x[0] = 'other'"),
        (pd.DataFrame({"a": [1, 2]}), "x.loc[0, 'a'] = 5"),
        (pd.DataFrame({"a": [1, 2]}), "x['b'] = 1"),
        (pd.Series(["a", "b"]), "x[0] = 'c'"),
        (([1], 2), "x[0].append(3)"),
        (1, "x = 2"),
        ("a", "x = 'b'"),
        ([1], "x = [2]"),
        (np.random.default_rng(0), "x.random()"),
    ],
)
def test_a_change_is_found(value, source):
    assert changed({"x": value, "other": [0]}, source) == ["x"]


@pytest.mark.parametrize(
    "source",
    ["x.history", "x.predict()", "y = x", "x.weights = x.weights", "import copy; z = copy.deepcopy(x); z.fit()"],
)
def test_what_was_only_read_is_unchanged(source):
    assert changed({"x": Model()}, source) == []


def test_reading_a_table_changes_nothing():
    table = pd.DataFrame({"a": [1, 2, 3], "b": list("xyz")})
    assert changed({"x": table}, "x.describe(); x.groupby('b').sum(); x.a.mean(); x.index.is_unique; x.iloc[0]") == []


def test_two_names_for_one_object_are_both_listed():
    one = [1]
    assert changed({"x": one, "y": one, "z": [1]}, "y.append(2)") == ["x", "y"]


def test_a_change_through_a_container_is_seen_by_both_names():
    model = Model()
    assert changed({"model": model, "config": {"model": model}, "other": Model()}, "model.fit()") == ["config", "model"]


def test_a_name_that_was_deleted_is_not_listed():
    assert changed({"x": [1]}, "del x") == []


def test_a_name_that_does_not_exist_is_not_looked_at():
    assert Baseline(["nothing"], {}, 1.0).compare() == ([], [])


@pytest.mark.parametrize(
    "value", [1, "text", None, (1, ("a", None)), frozenset({1}), threading, Model, len, b"x" * 10**7]
)
def test_what_cannot_change_costs_nothing(value, monkeypatch):
    monkeypatch.setattr("kube_nb.runner.graph.fingerprint", lambda *args, **kwargs: pytest.fail("looked at it"))
    assert changed({"x": value}, "pass") == []


def test_what_cannot_be_pickled_counts_as_changed():
    assert changed({"x": threading.Lock(), "y": [1]}, "pass") == ["x"]
    assert changed({"x": [1]}, "import threading; x.append(threading.Lock())") == ["x"]


def test_a_value_whose_pickle_raises_anything_counts_as_changed():
    class Odd:
        def __reduce__(self):
            raise KeyError("odd")

    assert changed({"x": Odd()}, "pass") == ["x"]


class Slow:
    """Takes its time to be pickled."""

    seconds = 0.4

    def __reduce__(self):
        time.sleep(self.seconds)
        return Slow, (), {"padding": b"x" * 100_000}


def test_what_takes_too_long_is_unchecked_and_the_rest_is_checked():
    values: dict[str, Any] = {"a": [Slow() for _ in range(50)], "b": [1], "c": [2]}
    began = time.monotonic()
    baseline = Baseline(values, values, 1.0)
    values["c"].append(3)
    assert baseline.compare() == (["c"], ["a"])
    assert time.monotonic() - began < 3


def test_a_large_array_does_not_take_the_time_of_the_small_ones(monkeypatch):
    monkeypatch.setattr("kube_nb.runner.graph.fingerprint", _expensive_when_large)
    values = {"large": np.zeros(10**6), "small": [1], "tiny": [2]}
    baseline = Baseline(values, values, 1.0)
    values["small"].append(1)
    assert baseline.compare() == (["small"], ["large"])


def _expensive_when_large(value: Any, **options: Any) -> bytes:
    if isinstance(value, np.ndarray):
        raise TimeoutError
    return repr(value).encode()


def test_no_value_is_kept_alive():
    values: dict[str, Any] = {"x": Model()}
    alive = weakref.ref(values["x"])
    baseline = Baseline(values, values, 5.0)
    del values["x"]
    gc.collect()
    assert alive() is None
    assert baseline.compare() == ([], [])


NESTED = st.recursive(
    st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


@given(st.lists(NESTED, min_size=1, max_size=5), st.data())
def test_any_single_change_is_found(value, data):
    def lists(one: Any) -> list[list[Any]]:
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
        return ([one] if isinstance(one, list) else []) + [found for child in inner for found in lists(child)]

    names = {"x": value, "y": [1]}
    baseline = Baseline(names, names, 10.0)
    data.draw(st.sampled_from(lists(value))).append("new")
    assert baseline.compare() == (["x"], [])


# In a rank ----------------------------------------------------------------------------------------------------------


def test_a_changed_value_comes_back_and_a_read_one_does_not():
    ran = run_rank(
        "changed.append(1)\ntable['b'] = 2\nlen(read)\ny = changed",
        {"changed": [0], "read": [5], "table": pd.DataFrame({"a": [1]})},
        assigned=["y"],
        check=["changed", "read", "table"],
    )
    values = ran.values
    assert sorted(values) == ["changed", "table", "y"]
    assert values["y"] is values["changed"]
    assert list(values["table"].columns) == ["a", "b"]


def test_a_name_without_time_is_named():
    ran = run_rank("pass", {"large": np.zeros(10**7), "small": [1]}, check=["large", "small"], budget=0.02)
    assert ran.index is not None
    assert ran.index["unchecked"] == ["large"]
    assert ran.index["names"] == {}


def test_nothing_is_checked_where_names_were_given():
    ran = run_rank("x.append(1)", {"x": [0]}, names=[], check=["x"])
    assert ran.index is not None
    assert (ran.index["names"], ran.index["unchecked"]) == ({}, [])


def test_a_change_by_a_global_statement_in_a_function_comes_back():
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("count = 1\ndef bump():\n    global count\n    count += 1", namespace)
    ran = run_rank("bump()", {"bump": namespace["bump"], "count": 1}, namespace=namespace, check=["bump", "count"])
    assert ran.values == {"count": 2}
