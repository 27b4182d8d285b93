"""Classes of the notebook: they work in the job, and what comes back is of the notebook's own classes."""

from __future__ import annotations

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
