"""The values of a job as one pickle: what the cell reads on the way out, what it made on the way back.

One graph, so that two names for one object stay one object. On top of cloudpickle:

- The namespace of the notebook is never pickled: it becomes the namespace of the other side, in functions too, so that
  a function sees what the cell rebinds. Loading never writes into it.
- Classes of the notebook go out by value with a ClassId and come back as that id (`classes`); loading never writes into
  a class that exists.
- Closures that share a variable still share it.
- Buffers of at least `in_band` bytes (arrays, tensors) are objects of their own, written and read without a copy.
- What exists in one process alone (an open file, a device's memory) is mapped or refused, never copied silently.

A graph is a pickle of protocol 5 whose first opcodes put the namespace and our own restoring functions, as persistent
ids, into the memo of pickler and unpickler. So the rest of the pickle names them by number: no name of a module of ours
is in it, and no object costs a call of `persistent_id`. Dictionaries of values follow until a None.

Needs the standard library and cloudpickle.
"""

from __future__ import annotations

import base64
import io
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import classes as notebook
from .classes import ClassId, UnknownClass
from .objects import Objects
from .pickling import NotPicklable, OwnClass, Pickler, Unpickler
from .sinks import Counting, Hashing, Store

__all__ = [
    "IN_BAND",
    "ClassId",
    "NotPicklable",
    "UnknownClass",
    "check",
    "dump",
    "fingerprint",
    "load",
    "notebook_classes",
    "size",
]

IN_BAND = 64 * 1024
_DEFINITIONS = (types.ModuleType, types.FunctionType, type)
GraphRef = dict[str, Any]
"""{"pickle": digest, "buffers": [digest...], "size": bytes in all}; an inline one has "data", base64, and no pickle."""


def dump(
    values: Mapping[str, Any],
    *,
    namespace: dict[str, Any],
    objects: Objects,
    classes: Mapping[type, ClassId] | None = None,
    in_band: int = IN_BAND,
    inline: int = 0,
    codes: Iterable[types.CodeType] = (),
    also: Callable[[frozenset[str]], Mapping[str, Any]] | None = None,
    modules: set[str] | None = None,
) -> GraphRef:
    """Store `values` as one graph.

    Args:
        namespace: becomes the loading side's namespace wherever it occurs.
        classes: of the notebook, as `notebook_classes` gives them; each goes back as its id.
        in_band: smallest buffer that becomes an object of its own.
        inline: a pickle of at most so many bytes, without such buffers, is not stored but part of the reference.
        codes: code that will run with these values: the submodules it reads through a package are imported by loading.
        also: asked with the names of the namespace that functions in the graph read and that are not in it yet, until
            there are none; returns those values that shall travel too.
        modules: gets the names of the modules that loading the graph will import, and of some that it will not.

    Raises:
        NotPicklable: names the first value that cannot be pickled.
        OSError: an object could not be written.
    """
    sent = dict(values)
    with Store(objects, in_band) as store:
        pickler = Pickler(store, namespace=namespace, classes=classes or {})
        pickler.arrays.share(sent.values())
        # What runs while values are loaded (`__setstate__`) reads modules, functions and classes: they come first.
        definitions = {name: value for name, value in sent.items() if issubclass(type(value), _DEFINITIONS)}
        for part in (definitions, {name: value for name, value in sent.items() if name not in definitions}):
            pickler.dump(part, blame=values)
        submodules = pickler.submodules(codes, sent.values())
        if submodules:
            pickler.dump({}, submodules)
        asked: set[str] = set()
        while also is not None and (missing := pickler.names - sent.keys() - asked):
            asked |= missing
            more = {name: value for name, value in also(frozenset(missing)).items() if name not in sent}
            pickler.dump(more, blame=more)
            sent |= more
        pickler.dump(None)
        if modules is not None:
            modules |= {str(name) for name in pickler.modules}
        return store.reference(inline)


def load(
    ref: Mapping[str, Any],
    *,
    namespace: dict[str, Any],
    objects: Objects,
    classes: OwnClass | None = None,
    arrived: Callable[[dict[str, Any]], Any] = lambda part: None,
) -> dict[str, Any]:
    """The values of a graph. Writes nothing into `namespace`.

    Args:
        classes: the kernel's class for a ClassId; default: `classes.own_class` of this namespace.
        arrived: called with each part of them as soon as it is loaded: modules, functions and classes, then the rest.

    Raises:
        CorruptedObject: an object is missing or not what its digest says; nothing of it was unpickled.
        UnknownClass: the graph holds an instance of a class that the kernel does not have.
        Exception: whatever the constructors of the values raise, e.g. ModuleNotFoundError.
    """

    def own(class_id: ClassId) -> type:
        return notebook.own_class(class_id, namespace)

    buffers = (objects.read(digest) for digest in ref["buffers"])
    data = ref.get("data")
    with io.BytesIO(base64.b64decode(data)) if data is not None else objects.open(ref["pickle"]) as file:
        unpickler = Unpickler(file, namespace=namespace, own=classes or own, buffers=buffers)
        values: dict[str, Any] = {}
        while (part := unpickler.load()) is not None:
            arrived(part[0])
            values |= part[0]
        return values


def notebook_classes() -> dict[type, ClassId]:
    """The classes of the notebook that this process has received so far: what a job passes as `classes` to `dump`."""
    return notebook.received()


def size(*values: Any, namespace: dict[str, Any] | None = None) -> int:
    """Bytes that these values take in a graph, shared parts counted once; copies no buffer.

    Raises:
        Exception: whatever pickling them raises.
    """
    counting = Counting()
    pickler = Pickler(counting, namespace=_or_main(namespace), classes={})
    counting.size = 0  # without the opening that every graph has
    pickler.by_name_only = True
    pickler.arrays.copies = False
    pickler.dump({"": values})
    return counting.size + pickler.arrays.bytes_left_there


def fingerprint(value: Any, *, namespace: dict[str, Any] | None = None, deadline: float | None = None) -> bytes:
    """A digest that differs when the value was changed in place between two calls in one process.

    It may differ for an unchanged value too. Classes count by identity, not by what is in them.

    Args:
        deadline: `time.monotonic()` at which to give up.

    Raises:
        TimeoutError: it was not done by the deadline.
        Exception: whatever pickling the value raises.
    """
    hashing = Hashing(deadline)
    pickler = Pickler(hashing, namespace=_or_main(namespace), classes={})
    pickler.by_name_only = True
    pickler.dump({"": value})
    return hashing.digest()


def check(
    value: Any,
    *,
    namespace: dict[str, Any] | None = None,
    classes: Mapping[type, ClassId] | None = None,
    deadline: float | None = None,
) -> None:
    """Raise what pickling `value` raises; store nothing, copy no buffer.

    Args:
        deadline: `time.monotonic()` at which to give up with a TimeoutError.
    """
    pickler = Pickler(Counting(deadline), namespace=_or_main(namespace), classes=classes or {})
    pickler.arrays.copies = False
    pickler.dump({"": value})


def _or_main(namespace: dict[str, Any] | None) -> dict[str, Any]:
    return sys.modules["__main__"].__dict__ if namespace is None else namespace
