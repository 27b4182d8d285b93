"""The graph codec, with a real job process in between where it matters."""

from __future__ import annotations

import functools
import json
import logging
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kube_nb.runner import classes, graph
from kube_nb.runner.graph import NotPicklable, UnknownClass
from kube_nb.runner.objects import CorruptedObject, Objects

PACKAGE = Path(graph.__file__).parent
JOB = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import __main__
from pathlib import Path
from _kube_nb_job.runner import graph, objects
store = objects.Objects(Path(sys.argv[2]))
request = json.loads(sys.argv[3])
namespace = vars(__main__)
namespace.update(graph.load(request["graph"], namespace=namespace, objects=store))
exec(compile(request["code"], "Cell In[9]", "exec"), namespace)
names = {name: namespace[name] for name in request["names"]}
print(json.dumps(graph.dump(names, namespace=namespace, objects=store, classes=graph.notebook_classes())))
"""


class Kernel:
    """A notebook: cells run in `ns`; `job` runs one in a process of its own and returns what came back."""

    def __init__(self, directory: Path, packages: Path) -> None:
        self.ns: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
        self.objects = Objects(directory)
        self.packages = packages

    def run(self, source: str) -> None:
        exec(compile(textwrap.dedent(source), "Cell In[1]", "exec", dont_inherit=True), self.ns)

    def send(self, names: str, also: bool = True) -> dict[str, Any]:
        return graph.dump(
            {name: self.ns[name] for name in names.split()},
            namespace=self.ns,
            objects=self.objects,
            also=(lambda more: {name: self.ns[name] for name in more if name in self.ns}) if also else None,
        )

    def remotely(self, names: str, code: str, back: str) -> dict[str, Any]:
        """Run the code in a job; the reference of what it sends back."""
        request = {"graph": self.send(names), "code": textwrap.dedent(code), "names": back.split()}
        path = [str(self.packages), str(Path(cloudpickle.__file__).parents[1])]
        job = subprocess.run(
            [sys.executable, "-c", JOB, json.dumps(path), str(self.objects.directory), json.dumps(request)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert job.returncode == 0, job.stderr
        return json.loads(job.stdout.splitlines()[-1])

    def load(self, ref: dict[str, Any]) -> dict[str, Any]:
        return graph.load(ref, namespace=self.ns, objects=self.objects)

    def job(self, names: str, code: str, back: str) -> dict[str, Any]:
        return self.load(self.remotely(names, code, back))


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner as it lies in a job: under another name than here."""
    root = tmp_path_factory.mktemp("runner")
    package = root / "_kube_nb_job"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "runner").symlink_to(PACKAGE)
    return root


@pytest.fixture
def kernel(tmp_path: Path, packages: Path) -> Kernel:
    return Kernel(tmp_path / "objects", packages)


def here(kernel: Kernel, *values: Any) -> Any:
    """The values after a trip within this process."""
    ref = graph.dump({"values": values}, namespace=kernel.ns, objects=kernel.objects)
    back = kernel.load(ref)["values"]
    return back[0] if len(values) == 1 else back


# Plain values and aliases

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.sets(st.integers())
    ),
)


@given(values=st.dictionaries(st.text(), plain))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_what_travels_arrives_equal(kernel: Kernel, values: dict[str, Any]) -> None:
    ref = graph.dump(values, namespace=kernel.ns, objects=kernel.objects, inline=1 << 30)
    assert kernel.load(ref) == values


@given(data=st.binary(min_size=1, max_size=300_000), writable=st.booleans(), in_band=st.integers(0, 400_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_an_array_arrives_byte_for_byte_and_as_writable_as_it_was(
    kernel: Kernel, data: bytes, writable: bool, in_band: int
) -> None:
    array = np.frombuffer(bytearray(data) if writable else data, dtype=np.uint8)
    ref = graph.dump({"a": array, "b": array}, namespace=kernel.ns, objects=kernel.objects, in_band=in_band)
    back = kernel.load(ref)
    assert back["a"] is back["b"]
    assert back["a"].tobytes() == data
    assert back["a"].flags.writeable == writable
    assert len(ref["buffers"]) == (len(data) >= in_band)


@pytest.mark.parametrize(
    "kind", ["M8[ns]", "m8[s]", "U7", "S5", "f2", "g", "c16", "?", ">i4", [("a", "f8"), ("b", "U3")], "V9"]
)
def test_arrays_of_every_type_and_their_views(kernel: Kernel, kind: Any) -> None:
    array = np.zeros((300, 300), dtype=kind)
    array[3, 4] = np.ones(1, dtype=kind)[0]
    ref = graph.dump({"view": array[3:5, ::2].T, "array": array}, namespace=kernel.ns, objects=kernel.objects)
    back = kernel.load(ref)
    assert len(ref["buffers"]) == 1
    assert back["array"].dtype == array.dtype
    assert back["array"].tobytes() == array.tobytes()
    assert back["view"].tobytes() == array[3:5, ::2].T.tobytes()
    back["array"][3, 0] = array[3, 4]
    assert back["view"][0, 0] == array[3, 4]


def test_two_equal_arrays_stay_two(kernel: Kernel) -> None:
    first, second = here(kernel, np.zeros(100_000), np.zeros(100_000))
    first[0] = 1
    assert second[0] == 0


def test_names_of_one_object_stay_names_of_one_object(kernel: Kernel) -> None:
    kernel.run("a = [1]; b = {'a': a}; b['self'] = b")
    back = kernel.load(kernel.send("a b"))
    assert back["b"]["a"] is back["a"]
    assert back["b"]["self"] is back["b"]


def test_a_small_graph_can_be_part_of_its_reference(kernel: Kernel) -> None:
    ref = graph.dump({"a": 1}, namespace={}, objects=kernel.objects, inline=65536)
    assert ref["pickle"] is None
    assert not kernel.objects.directory.exists()
    assert kernel.load(json.loads(json.dumps(ref))) == {"a": 1}


def test_large_bytes_are_written_and_read_without_buffers(kernel: Kernel) -> None:
    data = bytes(range(256)) * 50_000
    ref = graph.dump({"a": data, "b": bytearray(data)}, namespace={}, objects=kernel.objects, inline=65536)
    assert kernel.load(ref) == {"a": data, "b": data}
    assert ref["size"] > 2 * len(data)


def test_a_corrupted_pickle_is_never_unpickled(kernel: Kernel) -> None:
    ref = kernel.send("__name__")
    kernel.objects.path(ref["pickle"]).write_bytes(pickle.dumps(print))
    with pytest.raises(CorruptedObject):
        kernel.load(ref)


def test_a_view_stays_a_view_of_the_array_that_travels_with_it(kernel: Kernel) -> None:
    kernel.run("import numpy as np\na = np.arange(20_000.).reshape(100, 200)\nb = a[10:90:2, ::-1].T\nc = b[1]")
    ref = kernel.send("b c a np")
    assert len(ref["buffers"]) == 1
    back = kernel.load(ref)
    assert (back["b"] == kernel.ns["b"]).all()
    assert (back["c"] == kernel.ns["c"]).all()
    back["a"][:] = 7
    assert (back["b"] == 7).all()
    assert (back["c"] == 7).all()
    alone = kernel.load(kernel.send("b"))["b"]
    assert (alone == kernel.ns["b"]).all()


def test_a_place_that_cannot_be_written_is_not_blamed_on_a_value(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for value in (1, bytes(2_000_000), np.zeros(100_000)):
        with pytest.raises(OSError, match="file"):
            graph.dump({"value": value}, namespace={}, objects=Objects(tmp_path / "file" / "objects"))


def test_an_oserror_of_a_value_is_blamed_on_it(kernel: Kernel) -> None:
    kernel.run("class C:\n  def __getstate__(self): raise FileNotFoundError('model.bin')\nc = C()")
    with pytest.raises(NotPicklable, match=r"model\.bin"):
        kernel.send("c")


# Functions and the namespace


def test_a_function_sees_what_the_cell_rebinds(kernel: Kernel) -> None:
    kernel.run("k = 1\ndef f(): return k")
    assert kernel.job("f k", "k = 2\nseen = f()", "seen") == {"seen": 2}


def test_a_function_that_comes_back_sees_the_kernel(kernel: Kernel) -> None:
    kernel.run("k = 1")
    back = kernel.job("k", "def f(): return k\nk = 5", "f")
    assert back["f"]() == 1
    kernel.ns["k"] = 7
    assert back["f"]() == 7
    assert back["f"].__globals__ is kernel.ns


def test_loading_writes_nothing_into_the_namespace(kernel: Kernel) -> None:
    kernel.run("import os\nk = 1\ndef f(): return k, os, len\nclass C:\n  def m(self): return k")
    ref = kernel.send("f C")
    for namespace in ({}, {"k": 5, "__builtins__": None}):
        before = dict(namespace)
        graph.load(ref, namespace=namespace, objects=kernel.objects)
        assert namespace == before


def test_the_namespace_itself_becomes_the_jobs(kernel: Kernel) -> None:
    kernel.run("class Holder: pass\nholder = Holder(); holder.ns = globals()\nhuge = object()")
    assert kernel.job("holder", "same = holder.ns is globals()", "same holder")["holder"].ns is kernel.ns


def test_names_that_functions_read_are_asked_for(kernel: Kernel) -> None:
    kernel.run(
        """
        import math
        unit = 2
        unused = 'not sent'
        def inner(x): return math.sqrt(x) * unit
        class Tool:
            def run(self, x): return inner(x)
        tools = [Tool()]
        """
    )
    sent = kernel.load(kernel.send("tools"))
    assert sent.keys() == {"tools", "inner", "math", "unit"}
    assert kernel.job("tools", "y = tools[0].run(16)", "y") == {"y": 8.0}


def test_names_in_nested_code_and_class_bodies_are_found(kernel: Kernel) -> None:
    kernel.run(
        """
        a = b = c = d = 1
        def f():
            class Local:
                x = a
                def g(self): return [b for _ in range(2) if (lambda: c)()]
            return Local
        def attribute(x): return x.d
        """
    )
    assert kernel.load(kernel.send("f attribute")).keys() == {"f", "attribute", "a", "b", "c"}


def test_a_submodule_that_was_imported_apart_is_there(kernel: Kernel) -> None:
    kernel.run("import concurrent, xml.dom.minidom, xml\ndef f(): return xml.dom.minidom.parseString('<a/>')")
    assert kernel.job("f", "name = f().documentElement.tagName", "name") == {"name": "a"}
    code = compile("xml.dom.minidom", "cell", "exec")
    ref = graph.dump({"xml": kernel.ns["xml"]}, namespace=kernel.ns, objects=kernel.objects, codes=[code])
    assert b"xml.dom.minidom" in kernel.objects.read(ref["pickle"])


def test_closures_share_their_variables(kernel: Kernel) -> None:
    kernel.run(
        """
        def make():
            count = 0
            def add():
                nonlocal count
                count += 1
            def read(): return count
            return add, read
        add, read = make()
        add()
        """
    )
    assert kernel.job("add read", "add(); n = read()", "n") == {"n": 2}
    back = kernel.job("add read", "add()", "add read")
    back["add"]()
    assert back["read"]() == 3


def test_functions_of_all_kinds(kernel: Kernel) -> None:
    kernel.run(
        """
        import functools, operator
        def outer(n):
            def recursive(k): return 1 if k == 0 else k * recursive(k - 1)
            return recursive(n)
        factory = lambda n: (lambda: n)
        closure = factory(3)
        def keep(f):
            @functools.wraps(f)
            def wrapper(*args, **kwargs): return f(*args, **kwargs)
            return wrapper
        @keep
        def decorated(a: int, /, b: str = 'x', *, c: 'later' = 3) -> list:
            "doc"
            return [a, b, c]
        decorated.note = 'attribute'
        partial = functools.partial(decorated, 1, c=operator.itemgetter(0))
        @functools.lru_cache(maxsize=7)
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        @functools.singledispatch
        def show(x): return 'any'
        @show.register
        def _(x: int): return 'int'
        show(1)
        async def coroutine(): return 4
        def generator(): yield 5
        bound = [1, 2].append
        """
    )
    names = "outer factory closure decorated partial fib show coroutine generator bound"
    code = """
    import asyncio
    out = [outer(5), closure(), factory(1)(), decorated(1), decorated.note, decorated.__doc__, decorated.__name__,
           partial()[0], fib(30), fib.cache_parameters()['maxsize'], show(1), show('a'), asyncio.run(coroutine()),
           list(generator()), bound(3), bound.__self__, decorated.__wrapped__.__kwdefaults__,
           decorated.__wrapped__.__defaults__, sorted(decorated.__annotations__)]
    """
    expected = [120, 3, 1, [1, "x", 3], "attribute", "doc", "decorated", 1, 832040, 7, "int", "any", 4, [5], None]
    expected += [[1, 2, 3], {"c": 3}, ("x",), ["a", "b", "c", "return"]]
    assert kernel.job(names, code, "out")["out"] == expected


def test_functions_of_another_namespace_keep_their_own_globals(kernel: Kernel) -> None:
    kernel.run(
        """
        other = {'__name__': 'elsewhere', 'k': 10}
        exec('def g(): return k\\ndef h(v):\\n  global k\\n  k = v', other)
        g, h = other['g'], other['h']
        k = 1
        """
    )
    assert kernel.job("g h k", "h(20); seen = g(), k", "seen") == {"seen": (20, 1)}


# Classes


CLASSES = """
import abc, collections, dataclasses, enum, functools, typing
from typing import Generic, NamedTuple, Protocol, TypedDict, TypeVar

T = TypeVar('T')
class Base:
    count = 0
    def __init__(self, x=1): self.x = x
    def who(self): return 'base'
    def __eq__(self, other): return type(self) is type(other) and vars(self) == vars(other)
    def __hash__(self): return 1
class Child(Base):
    def who(self): return 'child of ' + super().who()
    def __init__(self): super().__init__(2)
    @classmethod
    def make(cls): return cls()
    @staticmethod
    def static(): return __class__.__name__
    @property
    def twice(self): return self.x * 2
    @functools.cached_property
    def cached(self): return [self.x]
    class Nested:
        deep = True
Child.instance = Child()
@dataclasses.dataclass
class Point:
    x: int
    y: 'int' = 2
    tags: list = dataclasses.field(default_factory=list)
@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Slotted(Point if False else object):
    a: int = 1
@dataclasses.dataclass
class Point3(Point):
    z: int = 3
class Colour(enum.Enum):
    RED = 1
    GREEN = 'g'
    def shout(self): return self.name + '!'
class Planet(enum.Enum):
    EARTH = (1.0, 2.0)
    WORLD = (1.0, 2.0)
    MARS = (3.0, 4.0)
    def __init__(self, mass, radius): self.mass, self.radius = mass, radius
class Coordinate(bytes, enum.Enum):
    def __new__(cls, value, label):
        self = bytes.__new__(cls, [value]); self._value_ = value; self.label = label
        return self
    X = (1, 'x')
class Operation(enum.Enum):
    ADD = functools.partial(lambda a, b: a + b) if not hasattr(enum, 'member') else enum.member(lambda a, b: a + b)
    def __call__(self, *args): return self.value(*args)
class Plain(tuple, enum.Enum):
    A = (1,)
class Text(enum.StrEnum):
    A = enum.auto()
class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2
class Flags(enum.Flag):
    A = enum.auto()
    B = enum.auto()
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    def area(self): return 4
class Meta(type):
    def __new__(mcs, name, bases, ns, *, tag): return super().__new__(mcs, name, bases, ns)
    def __init__(cls, name, bases, ns, *, tag):
        super().__init__(name, bases, ns); cls.tag = tag
    def __len__(cls): return 7
class WithMeta(metaclass=Meta, tag='t'):
    pass
class Registry:
    known = {}
    def __init_subclass__(cls, /, key, **kwargs):
        super().__init_subclass__(**kwargs); Registry.known[key] = cls
class Registered(Registry, key='r'):
    pass
class Slots:
    __slots__ = ('a', 'b', '__weakref__')
    def __init__(self): self.a = 1
class Box(Generic[T]):
    def __init__(self, item: T): self.item = item
class IntBox(Box[int]):
    pass
class Pair(NamedTuple):
    left: int
    right: int = 5
    def total(self): return self.left + self.right
class Movie(TypedDict, total=False):
    title: str
class Talks(Protocol):
    def talk(self) -> str: ...
class MyError(Exception):
    def __init__(self, code): super().__init__(code); self.code = code
class MyDict(dict):
    pass
class MyInt(int):
    def __new__(cls, value): return super().__new__(cls, value + 1)
    def __getnewargs__(self): return (int(self) - 1,)
Tup = collections.namedtuple('Tup', 'a b')
class Node:
    def __init__(self, value, next=None): self.value, self.next = value, next
def local():
    class Local:
        def who(self): return super().__hash__() and 'local'
    return Local
Local = local()
class Thing:
    def __init__(self): self.hook = self.method
    def method(self): return 'method'
    def __getattr__(self, name):
        if name.startswith('magic'): return name
        raise AttributeError(name)
class Described:
    class Field:
        def __set_name__(self, owner, name): self.name = name
        def __get__(self, obj, owner=None): return self if obj is None else obj.__dict__.get(self.name, 'unset')
        def __set__(self, obj, value): obj.__dict__[self.name] = value
    field = Field()
box, node = IntBox(4), Node(1); node.next = node
values = dict(
    Base=Base(), Child=Child(), Point=Point(1), Slotted=Slotted(3), Point3=Point3(1, z=9), Colour=Colour.RED,
    Planet=Planet.MARS, Coordinate=Coordinate.X, Text=Text.A, Operation=Operation.ADD, Plain=Plain.A, Level=Level.HIGH,
    Flags=Flags.A | Flags.B, Square=Square(), WithMeta=WithMeta(), Registered=Registered(), Slots=Slots(), IntBox=box,
    Pair=Pair(1), Movie=Movie(title='t'), MyError=MyError(3), MyDict=MyDict(a=1), MyInt=MyInt(4), Tup=Tup(1, 2),
    Node=node, Local=Local(), Nested=Child.Nested(), Thing=Thing(), Described=Described())
every = [
    Base, Child, Point, Slotted, Point3, Colour, Planet, Coordinate, Operation, Plain, Text, Level, Flags, Shape,
    Square, Meta, WithMeta, Registry, Registered, Slots, Box, IntBox, Pair, Movie, Talks, MyError, MyDict, MyInt, Tup,
    Node, Local, Child.Nested, Thing, Described]
"""

PROOFS = """
v = values
assert v['Child'].who() == 'child of base' and Child.static() == 'Child' and Child.make().x == 2
assert v['Child'].twice == 4 and v['Child'].cached == [2] and Child.Nested.deep and type(Child.instance) is Child
assert v['Point'] == Point(1) and dataclasses.fields(Point)[0].default is dataclasses.MISSING
assert Point3(1).z == 3 and v['Point3'].z == 9 and v['Point3'].tags == []
assert Slotted(1) < Slotted(2) and v['Slotted'].a == 3 and not hasattr(v['Slotted'], '__dict__')
@dataclasses.dataclass
class Point4(Point3):
    w: int = 4
assert Point4(1) == Point4(1, 2, [], 3, 4)
assert v['Colour'] is Colour.RED and Colour('g').shout() == 'GREEN!' and list(Colour) == [Colour.RED, Colour.GREEN]
assert Planet.EARTH.radius == 2.0 and Planet.WORLD is Planet.EARTH and v['Planet'] is Planet((3.0, 4.0))
assert Coordinate.X.label == 'x' and Coordinate(1) == b'\\x01' and v['Text'] == 'a' and Text('a') is Text.A
assert Operation.ADD(1, 2) == 3 and [one.name for one in Operation] == ['ADD'] and Plain.A.value == (1,)
assert v['Level'] is Level.HIGH and Level.HIGH > 1 and v['Flags'] == Flags.A | Flags.B and Flags.A in v['Flags']
assert v['Square'].area() == 4 and isinstance(v['Square'], Shape)
try: Shape()
except TypeError: pass
else: raise AssertionError
assert len(WithMeta) == 7 and WithMeta.tag == 't' and type(WithMeta) is Meta
assert Registry.known == {'r': Registered}
class Another(Registry, key='a'): pass
assert Registry.known['a'] is Another
assert v['Slots'].a == 1 and not hasattr(v['Slots'], 'b') and not hasattr(v['Slots'], '__dict__')
assert v['IntBox'].item == 4 and isinstance(v['IntBox'], Box) and typing.get_args(IntBox.__orig_bases__[0]) == (int,)
assert v['Pair'] == (1, 5) and v['Pair'].total() == 6 and Pair._fields == ('left', 'right')
assert v['Movie'] == {'title': 't'} and Movie(title='x') == {'title': 'x'} and not Movie.__total__
assert v['MyError'].code == 3 and v['MyDict'] == {'a': 1} and v['MyInt'] == 5 and type(v['MyInt']) is MyInt
assert v['Tup'].a == 1 and v['Node'].next is v['Node'] and v['Local'].who() == 'local'
assert v['Thing'].hook() == 'method' and v['Thing'].magic1 == 'magic1'
assert v['Described'].field == 'unset'
for cls in every:
    assert cls.__module__ == '__main__', cls
    if cls.__name__ in v: assert type(v[cls.__name__]) is cls or cls is Movie, cls
"""


def test_classes_of_all_kinds_work_in_the_job(kernel: Kernel) -> None:
    restarted(kernel, CLASSES + PROOFS)  # they hold in the notebook
    kernel.run(CLASSES)
    kernel.ns["PROOFS"] = PROOFS
    names = [name for name, value in kernel.ns.items() if not name.startswith("__")]
    kernel.job(" ".join(names), "exec(PROOFS, globals())", "")


def members(cls: type) -> dict[str, Any]:
    """What a class holds, without the cache that copyreg puts there when an instance is pickled."""
    return {name: value for name, value in vars(cls).items() if name != "__slotnames__"}


def test_instances_that_come_back_are_of_the_notebooks_own_classes(kernel: Kernel) -> None:
    kernel.run(CLASSES)
    every = list(kernel.ns["every"])
    before = {cls: members(cls) for cls in every}
    back = kernel.job("every values", "for one in values.values():\n  one", "every values")
    assert all(one is cls for one, cls in zip(back["every"], every, strict=True))
    for name, value in back["values"].items():
        assert type(value) is type(kernel.ns["values"][name]), name
    assert back["values"]["Colour"] is kernel.ns["Colour"].RED
    assert back["values"]["Child"].who() == "child of base"
    for cls, was in before.items():
        assert members(cls) == was, cls


def test_a_class_is_not_changed_behind_the_kernels_back(kernel: Kernel) -> None:
    kernel.run("class C:\n  k = 1\n  def m(self): return 'kernel'\nc = C()")
    own = kernel.ns["C"]
    was = members(own)
    back = kernel.job("C c", "C.k = 2; C.m = lambda self: 'job'; C.new = 3; c.x = C.k", "c C")
    assert back["C"] is own
    assert type(back["c"]) is own
    assert back["c"].x == 2
    assert members(own) == was
    assert back["c"].m() == "kernel"


def test_loading_by_value_never_touches_a_class_that_is_here(kernel: Kernel) -> None:
    kernel.run("class C:\n  k = 1\nclass E(__import__('enum').Enum):\n  A = 1")
    ref = kernel.send("C E")
    kernel.ns["C"].k = 2
    back = kernel.load(ref)
    assert back["C"] is kernel.ns["C"]
    assert back["C"].k == 2
    assert back["E"] is kernel.ns["E"]


def test_a_class_that_the_job_defined_comes_back_whole(kernel: Kernel) -> None:
    kernel.run("class Base:\n  def who(self): return 'kernel'")
    code = "class Made(Base):\n  def who(self): return 'made, ' + super().who()\nmade = Made()"
    ref = kernel.remotely("Base", code, "made Made")
    back = kernel.load(ref)
    assert back["made"].who() == "made, kernel"
    assert isinstance(back["made"], kernel.ns["Base"])
    again = kernel.load(ref)
    assert again["Made"] is back["Made"]
    kernel.ns.update(back)
    assert kernel.job("made", "", "made")["made"].__class__ is back["Made"]


def test_a_load_that_fails_leaves_no_class_half_made(kernel: Kernel) -> None:
    code = """
    class Fragile:
        def __setstate__(self, state):
            if FAILS: raise ValueError(FAILS)
    class Made:
        x = Fragile()
        x.y = 1
        def who(self): return 'made'
    """
    ref = kernel.remotely("__name__", textwrap.dedent(code) + "FAILS = 0", "Made Fragile")
    kernel.ns["FAILS"] = "not yet"
    with pytest.raises(ValueError, match="not yet"):
        kernel.load(ref)
    kernel.ns["FAILS"] = 0
    assert kernel.load(ref)["Made"]().who() == "made"


def test_a_class_that_the_cell_defines_anew_is_the_cells(kernel: Kernel) -> None:
    kernel.run("class C:\n  k = 1")
    back = kernel.job("C", "old = C()\nclass C:\n  k = 2\nnew = C()", "old new C")
    assert type(back["old"]) is kernel.ns["C"]
    assert back["C"].k == 2
    assert type(back["new"]) is back["C"]


def restarted(kernel: Kernel, source: str) -> Kernel:
    """Another kernel on the same files, which has sent nothing."""
    other = Kernel(kernel.objects.directory, kernel.packages)
    other.run(source)
    return other


def test_a_kernel_that_ran_the_same_source_binds_its_own_classes(kernel: Kernel, monkeypatch) -> None:
    kernel.run(CLASSES)
    kernel.ns["Base"].count = 99  # state, not definition
    names = [name for name in kernel.ns["values"] if name != "Local"]
    kernel.run("values.pop('Local')")
    ref = kernel.remotely("values", "", "values")
    monkeypatch.setattr(classes, "_sent", classes._Sent())
    other = restarted(kernel, "\n\n# lines\n" + CLASSES)
    back = other.load(ref)["values"]
    for name in names:
        assert type(back[name]) is type(other.ns["values"][name]), name


def test_the_same_digest_in_another_process(kernel: Kernel) -> None:
    kernel.run(CLASSES)
    digests = json.loads(
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sys, json; sys.path[:0] = {sys.path!r}\n{CLASSES}\n"
                "from kube_nb.runner.classes import definition_digest\n"
                "print(json.dumps([definition_digest(cls) for cls in every]))",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert digests == [classes.definition_digest(cls) for cls in kernel.ns["every"]]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    "changed",
    [
        "def m(self, a=1): return a + 2",
        "def m(self, a=2): return a + 1",
        "def m(self, b=1): return b + 1",
        "def m(self, a=1): return a + 1\n  def n(self): pass",
        "x: int\n  def m(self, a=1): return a + 1",
        "__slots__ = ()\n  def m(self, a=1): return a + 1",
        "@property\n  def m(self, a=1): return a + 1",
        "def m(self, a=1): return (lambda: a + 1.5)()",
    ],
)
def test_another_definition_has_another_digest(kernel: Kernel, changed: str) -> None:
    kernel.run("class C:\n  def m(self, a=1): return a + 1")
    first = classes.definition_digest(kernel.ns["C"])
    kernel.run("\n\n\nclass C:\n  def m(self, a=1): return a + 1  # a comment")
    assert classes.definition_digest(kernel.ns["C"]) == first
    kernel.run(f"class C:\n  {changed}")
    assert classes.definition_digest(kernel.ns["C"]) != first


def test_a_definition_is_the_same_after_it_ran_hot(kernel: Kernel) -> None:
    kernel.run("class C:\n  def m(self, n):\n    t = 0\n    for i in range(n): t += i\n    return t")
    first = classes.definition_digest(kernel.ns["C"])
    for _ in range(100):
        kernel.ns["C"]().m(100)
    assert classes.definition_digest(kernel.ns["C"]) == first


def test_a_class_defined_anew_since_it_was_sent(kernel: Kernel) -> None:
    kernel.run("class C:\n  k = 1\n  def m(self): return 1\nc = C()")
    sent = kernel.ns["C"]
    ref = kernel.remotely("c", "", "c")
    kernel.run("class C:\n  k = 1\n  def m(self): return 1")  # the cell was run again
    assert type(kernel.load(ref)["c"]) is kernel.ns["C"]
    kernel.run("class C:\n  def m(self): return 'other'")
    assert type(kernel.load(ref)["c"]) is sent


def test_a_kernel_without_the_class_says_so(kernel: Kernel, monkeypatch) -> None:
    kernel.run("class C:\n  pass\nc = C()")
    ref = kernel.remotely("c", "", "c")
    monkeypatch.setattr(classes, "_sent", classes._Sent())
    with pytest.raises(UnknownClass) as caught:
        restarted(kernel, "").load(ref)
    assert caught.value.class_id.qualname == "C"
    with pytest.raises(UnknownClass, match="differently"):
        restarted(kernel, "class C:\n  def m(self): pass").load(ref)


def test_classes_of_one_name_and_code_stay_apart(kernel: Kernel) -> None:
    kernel.run(
        """
        def make(n):
            class C: size = n
            return C
        one, two = make(1), make(2)
        a, b = one(), two()
        """
    )
    back = kernel.job("a b", "", "a b")
    assert type(back["a"]) is kernel.ns["one"]
    assert type(back["b"]) is kernel.ns["two"]


# Values that exist in one process, and values with a rule of their own


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock,
        Path(__file__).open,
        functools.partial(Path(__file__).open, "rb"),
        lambda: (n for n in range(3)),
        lambda: iter(lambda: 1, 2) and __import__("weakref").ref(Kernel),
        lambda: __import__("socket").socket(),
        lambda: __import__("sqlite3").connect(":memory:"),
        lambda: __import__("concurrent.futures").futures.ThreadPoolExecutor(),
        lambda: sys._getframe(),
        lambda: memoryview(b"abc")[1:],
        lambda: __import__("ctypes").pointer(__import__("ctypes").c_int(1)),
        lambda: __import__("ctypes").CDLL(None),
        lambda: logging.Logger("nobody knows it"),
    ],
)
def test_what_exists_in_one_process_is_refused_by_name(kernel: Kernel, make: Callable[[], Any]) -> None:
    with pytest.raises(NotPicklable) as caught:
        graph.dump({"fine": 1, "bad": {"inside": [make()]}}, namespace=kernel.ns, objects=kernel.objects)
    assert caught.value.name == "bad"
    assert not isinstance(caught.value.error, NotPicklable)


def test_a_list_of_50_000_links_is_refused_and_does_not_crash(kernel: Kernel) -> None:
    kernel.run(
        """
        import sys
        class Node: pass
        first = node = Node()
        for _ in range(50_000):
            node.next = Node()
            node = node.next
        """
    )
    limit = sys.getrecursionlimit()
    for deeper in (limit, 1_000_000):
        sys.setrecursionlimit(deeper)
        try:
            with pytest.raises(NotPicklable, match="recursion"):
                kernel.send("first")
            assert sys.getrecursionlimit() == deeper
        finally:
            sys.setrecursionlimit(limit)
    while kernel.ns["first"].__dict__:  # taken apart from the front: its destructor is recursive too
        kernel.ns["first"] = kernel.ns["first"].next


def test_values_of_many_kinds(kernel: Kernel) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.Categorical(["u", "v"])}, index=[5, 6])
    objects = np.array([{"a": 1}, None, "text"], dtype=object)
    back = here(
        kernel, frame, objects, re.compile("a+"), math_module := sys.modules["math"], np.float32(1.5), range(3),
        types.SimpleNamespace(a=1), functools.partial(int, base=2), memoryview(b"abc"), Path("a/b"), slice(1, 2), ...,
    )  # fmt: skip
    pd.testing.assert_frame_equal(back[0], frame)
    assert back[1].tolist() == objects.tolist()
    assert back[2:] == (
        re.compile("a+"), math_module, np.float32(1.5), range(3), types.SimpleNamespace(a=1), back[7], b"abc",
        Path("a/b"), slice(1, 2), ...,
    )  # fmt: skip
    assert back[7]("101") == 5


def test_a_fitted_model_predicts_the_same(kernel: Kernel) -> None:
    from sklearn import ensemble

    x = np.random.default_rng(0).normal(size=(200, 3))
    model = ensemble.RandomForestClassifier(n_estimators=5, random_state=0).fit(x, x[:, 0] > 0)
    assert (here(kernel, model).predict(x) == model.predict(x)).all()


def test_standard_streams_are_those_of_the_other_side(kernel: Kernel) -> None:
    kernel.run("import sys\nout = [sys.stdout, sys.__stderr__]")
    assert kernel.job("out", "import sys\nsame = out == [sys.stdout, sys.stderr]", "same") == {"same": True}


def test_a_logger_keeps_name_level_and_console(kernel: Kernel) -> None:
    kernel.run(
        """
        import logging, sys
        log = logging.getLogger('kube-nb-test.child')
        parent = logging.getLogger('kube-nb-test')
        parent.handlers.clear()
        parent.setLevel(logging.DEBUG)
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(logging.Formatter('<%(message)s>'))
        parent.addHandler(console)
        """
    )
    code = """
    import io, logging
    handler, = log.parent.handlers
    handler.setStream(io.StringIO())
    log.debug('hello')
    text = handler.stream.getvalue()
    handler.setStream(sys.stderr)
    """
    back = kernel.job("log sys", code, "text log")
    assert back == {"text": "<hello>\n", "log": kernel.ns["log"]}
    assert len(kernel.ns["parent"].handlers) == 1


def test_a_logger_that_writes_to_a_file_is_refused(kernel: Kernel, tmp_path: Path) -> None:
    log = logging.getLogger("kube-nb-test.file")
    log.handlers = [logging.FileHandler(tmp_path / "log.txt")]
    kernel.ns["log"] = log
    try:
        with pytest.raises(NotPicklable, match="open file"):
            kernel.send("log")
    finally:
        log.handlers.pop().close()


def test_types_of_the_notebook_travel(kernel: Kernel) -> None:
    kernel.run(
        """
        import typing
        T = typing.TypeVar('T'); P = typing.ParamSpec('P'); Ts = typing.TypeVarTuple('Ts')
        UserId = typing.NewType('UserId', int)
        def f(x: T, user: UserId) -> 'typing.Callable[P, T]': return user
        alias = dict[str, UserId] | None
        """
    )
    back = kernel.job("T P Ts UserId f alias", "x = f(1, UserId(3)); name = UserId.__name__, P.__name__", "x name")
    assert back == {"x": 3, "name": ("UserId", "P")}


# Sizes and changes


def test_size_counts_shared_buffers_once(kernel: Kernel) -> None:
    array = np.zeros(1_000_000)
    assert 8_000_000 <= graph.size(array, array) < 8_001_000


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: [1, [2]], lambda v: v[1].append(3)),
        (lambda: {"a": 1}, lambda v: v.update(a=2)),
        (lambda: np.zeros(200_000), lambda v: v.__setitem__(150_000, 1)),
        (lambda: pd.DataFrame({"a": np.zeros(50_000)}), lambda v: v.__setitem__("b", 1)),
        (lambda: types.SimpleNamespace(a=[1]), lambda v: setattr(v, "b", 2)),
        (lambda: {1, 2}, lambda v: v.add(3)),
    ],
)
def test_a_change_in_place_changes_the_fingerprint(make: Callable[[], Any], change: Callable[[Any], None]) -> None:
    value = make()
    before = graph.fingerprint(value)
    assert graph.fingerprint(value) == before
    change(value)
    assert graph.fingerprint(value) != before


def test_a_fingerprint_gives_up_at_its_deadline() -> None:
    with pytest.raises(TimeoutError):
        graph.fingerprint(np.zeros(100_000), deadline=0.0)
