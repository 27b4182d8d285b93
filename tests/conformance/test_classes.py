"""Classes of the notebook: they work in the job, and what comes back is of the notebook's own classes."""

from __future__ import annotations

import pytest

SHAPES = """
class Shape:
    sides = 0
    def __init__(self, size):
        self.size = size
    def describe(self):
        return f"{type(self).__name__} of {self.size}"

class Square(Shape):
    sides = 4
    def __init__(self, size):
        super().__init__(size)
    def describe(self):
        return super().describe() + f" with {self.sides} sides"
    @property
    def area(self):
        return self.size ** 2
    @classmethod
    def unit(cls):
        return cls(1)
    @staticmethod
    def name():
        return "square"
"""


def test_inheritance_and_super_work(cell):
    assert cell(SHAPES, send="text = Square(3).describe()")["text"] == "Square of 3 with 4 sides"


def test_properties_class_and_static_methods_work(cell):
    kernel = cell(SHAPES, send="seen = Square(3).area, Square.unit().size, Square.name()")
    assert kernel["seen"] == (9, 1, "square")


def test_an_instance_that_comes_back_is_of_the_notebooks_own_class(cell):
    kernel = cell(SHAPES, send="made = Square(3)")
    assert type(kernel["made"]) is kernel["Square"]
    assert kernel["made"].area == 9


def test_an_instance_keeps_its_class_both_ways(cell):
    kernel = cell(SHAPES + "mine = Square(2)", send="mine.size = 5\nknown = isinstance(mine, Shape)")
    assert kernel["known"] is True
    assert type(kernel["mine"]) is kernel["Square"]
    assert kernel["mine"].size == 5


def test_instances_deep_inside_a_value_are_of_the_notebooks_own_class(cell):
    kernel = cell(SHAPES, send="made = {'all': [Square(1), Shape(2)]}")
    assert [type(one) for one in kernel["made"]["all"]] == [kernel["Square"], kernel["Shape"]]


def test_the_notebooks_class_is_not_changed_behind_its_back(cell):
    kernel = cell(SHAPES)
    square = kernel["Square"]
    before = dict(vars(square))
    kernel.send("Square.sides = 99\nmade = Square(1)")
    assert kernel["Square"] is square
    assert {**vars(square)} == before


def test_an_instance_does_not_bring_its_class_along(cell):
    kernel = cell(SHAPES)
    square = kernel["Square"]
    kernel.send("made = Square(1)")
    assert kernel["Square"] is square


def test_a_class_that_the_cell_defines_comes_back(cell):
    kernel = cell(send="class Point:\n    def __init__(self, x):\n        self.x = x\np = Point(3)")
    assert type(kernel["p"]) is kernel["Point"]
    assert kernel.run("Point(4).x").value == 4


def test_a_class_that_the_cell_defines_derives_from_the_notebooks(cell):
    kernel = cell(SHAPES, send="class Cube(Square):\n    sides = 6\ncube = Cube(2)")
    assert issubclass(kernel["Cube"], kernel["Square"])
    assert kernel["cube"].describe() == "Cube of 2 with 6 sides"


def test_a_class_that_the_cell_redefines_takes_the_place_of_the_old_one(cell):
    kernel = cell("class A:\n    version = 1\nold = A()", send="class A:\n    version = 2\nnew = A()")
    assert type(kernel["new"]) is kernel["A"]
    assert kernel["A"].version == 2
    assert kernel["old"].version == 1


def test_a_class_that_was_redefined_in_the_notebook_travels_as_it_is_now(cell):
    kernel = cell("class A:\n    v = 1")
    kernel.run("class A:\n    v = 2")
    kernel.send("made = A()\nseen = made.v")
    assert kernel["seen"] == 2
    assert type(kernel["made"]) is kernel["A"]


def test_a_method_added_later_travels(cell):
    setup = SHAPES + "def double(self):\n    return 2 * self.size\nShape.double = double"
    assert cell(setup, send="y = Square(4).double()")["y"] == 8


def test_a_dataclass_works_both_ways(cell):
    setup = """
from dataclasses import dataclass, field, replace
@dataclass(frozen=True)
class Run:
    name: str
    scores: list = field(default_factory=list)
first = Run("a", [1])
"""
    kernel = cell(setup, send="second = replace(first, name='b')\nequal = first == Run('a', [1])")
    assert type(kernel["second"]) is kernel["Run"]
    assert kernel["second"] == kernel["Run"]("b", [1])
    assert kernel["equal"] is True


def test_a_dataclass_with_slots_works_both_ways(cell):
    setup = "from dataclasses import dataclass\n@dataclass(slots=True)\nclass P:\n    x: int\np = P(1)"
    kernel = cell(setup, send="p.x += 1\nq = P(5)")
    assert (kernel["p"].x, kernel["q"].x) == (2, 5)
    assert type(kernel["q"]) is kernel["P"]


def test_a_member_of_an_enum_is_the_notebooks_own_member(cell):
    setup = "from enum import Enum, IntFlag\nclass Colour(Enum):\n    RED = 1\n    BLUE = 2\nmine = Colour.RED"
    kernel = cell(setup, send="same = mine is Colour.RED\nother = Colour.BLUE")
    assert kernel["same"] is True
    assert kernel["other"] is kernel["Colour"].BLUE


def test_a_namedtuple_works_both_ways(cell):
    setup = "from collections import namedtuple\nPair = namedtuple('Pair', 'a b')\npair = Pair(1, 2)"
    kernel = cell(setup, send="swapped = Pair(pair.b, pair.a)")
    assert type(kernel["swapped"]) is kernel["Pair"]
    assert kernel["swapped"] == (2, 1)


def test_a_typed_namedtuple_works_both_ways(cell):
    setup = "from typing import NamedTuple\nclass Pair(NamedTuple):\n    a: int\n    b: int = 2"
    kernel = cell(setup, send="pair = Pair(1)")
    assert type(kernel["pair"]) is kernel["Pair"]
    assert kernel["pair"].b == 2


def test_an_abstract_class_works(cell):
    setup = """
from abc import ABC, abstractmethod
class Model(ABC):
    @abstractmethod
    def fit(self): ...
class Mean(Model):
    def fit(self):
        return "fitted"
"""
    kernel = cell(setup, send="y = Mean().fit()\nm = Mean()")
    assert kernel["y"] == "fitted"
    assert isinstance(kernel["m"], kernel["Model"])


def test_a_generic_class_works(cell):
    setup = """
from typing import Generic, TypeVar
T = TypeVar("T")
class Box(Generic[T]):
    def __init__(self, item: T): self.item = item
"""
    kernel = cell(setup, send="box = Box[int](3)")
    assert type(kernel["box"]) is kernel["Box"]


def test_an_exception_class_of_the_notebook_is_caught_in_the_job(cell):
    setup = "class Mine(Exception): ...\ndef fail():\n    raise Mine('no')"
    assert cell(setup, send="try:\n    fail()\nexcept Mine as e:\n    caught = str(e)")["caught"] == "no"


def test_a_class_that_refers_to_itself_works(cell):
    setup = """
class Node:
    root = None
    def __init__(self, next=None): self.next = next
    def grown(self): return Node(self)
Node.root = Node()
"""
    kernel = cell(setup, send="chain = Node.root.grown()")
    assert type(kernel["chain"].next) is kernel["Node"]


def test_getstate_and_setstate_are_used(cell):
    setup = """
import threading
class Locked:
    def __init__(self): self.n, self.lock = 1, threading.Lock()
    def __getstate__(self): return {"n": self.n}
    def __setstate__(self, state): self.__dict__ |= state | {"lock": threading.Lock()}
box = Locked()
"""
    kernel = cell(setup, send="with box.lock:\n    box.n += 1")
    assert kernel["box"].n == 2
    assert kernel["box"].lock.locked() is False


@pytest.mark.slow
def test_an_estimator_of_the_notebook_works_with_its_library(cell):
    setup = """
from sklearn.base import BaseEstimator, ClassifierMixin, clone
class Always(ClassifierMixin, BaseEstimator):
    def __init__(self, answer=1): self.answer = answer
    def fit(self, X, y):
        self.fitted_ = True
        return self
model = Always(answer=3)
"""
    kernel = cell(setup, send="copy = clone(model)\nmodel.fit([[0]], [0])")
    assert type(kernel["copy"]) is kernel["Always"]
    assert kernel["model"].fitted_ is True


def test_an_instance_of_a_nested_class_is_the_notebooks(cell):
    kernel = cell("class Outer:\n    class Inner:\n        x = 1", send="made = Outer.Inner()")
    assert type(kernel["made"]) is kernel["Outer"].Inner


def test_an_instance_of_a_class_made_in_a_function_comes_back(cell):
    setup = "def make(n):\n    class Local:\n        def get(self):\n            return n\n    return Local()"
    assert cell(setup, send="one = make(3)")["one"].get() == 3


def test_metaclasses_and_class_hooks_work(cell):
    setup = """
class Meta(type):
    def __call__(cls, *args):
        made = super().__call__(*args)
        made.tag = cls.tag
        return made
class Base(metaclass=Meta):
    tag = "base"
    kinds = []
    def __init_subclass__(cls, **more):
        super().__init_subclass__(**more)
        Base.kinds.append(cls.__name__)
class One(Base):
    tag = "one"
"""
    kernel = cell(setup, send="seen = One().tag, list(Base.kinds)\nmade = One()")
    assert kernel["seen"] == ("one", ["One"])
    assert type(kernel["made"]) is kernel["One"]
    assert kernel["Base"].kinds == ["One"]


def test_instances_are_keys_both_ways(cell):
    setup = """
class Key:
    def __init__(self, name): self.name = name
    def __eq__(self, other): return isinstance(other, Key) and self.name == other.name
    def __hash__(self): return hash(self.name)
table = {Key("a"): 1}
"""
    kernel = cell(setup, send="found = table[Key('a')]\ntable[Key('b')] = 2")
    assert kernel["found"] == 1
    assert kernel["table"][kernel["Key"]("b")] == 2


def test_a_cached_property_works_both_ways(cell):
    setup = """
from functools import cached_property
class Slow:
    calls = 0
    @cached_property
    def value(self):
        self.calls += 1
        return 42
slow = Slow()
"""
    kernel = cell(setup, send="seen = slow.value, slow.value")
    assert (kernel["seen"], kernel["slow"].calls, kernel["slow"].value) == ((42, 42), 1, 42)


def test_total_ordering_and_operators_work(cell):
    setup = """
from functools import total_ordering
@total_ordering
class Version:
    def __init__(self, n): self.n = n
    def __eq__(self, other): return self.n == other.n
    def __lt__(self, other): return self.n < other.n
    def __add__(self, other): return Version(self.n + other.n)
"""
    assert cell(setup, send="newest = max(Version(1), Version(3)) + Version(1)")["newest"].n == 4


def test_a_property_with_a_setter_works(cell):
    setup = """
class Celsius:
    def __init__(self): self._t = 0
    @property
    def fahrenheit(self): return self._t * 9 / 5 + 32
    @fahrenheit.setter
    def fahrenheit(self, f): self._t = (f - 32) * 5 / 9
t = Celsius()
"""
    assert cell(setup, send="t.fahrenheit = 212")["t"].fahrenheit == 212


def test_a_protocol_of_the_notebook_works(cell):
    setup = """
from typing import Protocol, runtime_checkable
@runtime_checkable
class Closes(Protocol):
    def close(self): ...
class Door:
    def close(self): ...
"""
    assert cell(setup, send="known = isinstance(Door(), Closes)")["known"] is True


def test_a_subclass_of_a_builtin_works_both_ways(cell):
    setup = "class Bag(dict):\n    def total(self):\n        return sum(self.values())\nbag = Bag(a=1)"
    kernel = cell(setup, send="bag['b'] = 2\nseen = bag.total()")
    assert (kernel["seen"], type(kernel["bag"]) is kernel["Bag"], kernel["bag"].total()) == (3, True, 3)


def test_state_of_a_class_that_the_job_changes_stays_the_notebooks(cell):
    setup = "class Registry:\n    items = []\n    @classmethod\n    def add(cls, x):\n        cls.items.append(x)"
    kernel = cell(setup, send="Registry.add(1)\nseen = list(Registry.items)")
    assert kernel["seen"] == [1]
    assert kernel["Registry"].items == []
