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
import builtins
import dis
import hashlib
import io
import itertools
import pickle
import sys
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import cloudpickle.cloudpickle as cp

from . import classes as notebook
from . import special, tensors
from .classes import ClassId, UnknownClass
from .objects import Objects, Writer

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
_SPILL = 1024 * 1024
_DEEPEST = 4000
_HASHED_AT_ONCE = 8 * 1024 * 1024

GraphRef = dict[str, Any]
"""{"pickle": digest, "buffers": [digest...], "size": bytes in all}; an inline one has "data", base64, and no pickle."""
OwnClass = Callable[[ClassId], type]


class NotPicklable(Exception):
    """The value called `name` cannot be pickled; `error` is what pickle said, and the cause."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(f"`{name}` cannot be pickled: {type(error).__name__}: {error}")
        self.name = name
        self.error = error


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

    Raises:
        NotPicklable: names the first value that cannot be pickled.
        OSError: an object could not be written.
    """
    buffers: list[str] = []
    total = 0

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        nonlocal total
        with buffer.raw() as view:
            if view.nbytes < in_band:
                return True
            total += view.nbytes
        buffers.append(objects.write(buffer))
        return False

    sent = dict(values)
    with _Sink(objects) as sink:
        pickler = _Pickler(sink, namespace=namespace, classes=classes or {}, buffer_callback=out_of_band)
        pickler.dump(sent, blame=values)
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
        total += sink.size
        if not buffers and sink.size <= inline and (data := sink.data()) is not None:
            return {"pickle": None, "buffers": [], "size": total, "data": base64.b64encode(data).decode()}
        return {"pickle": sink.store(), "buffers": buffers, "size": total}


def load(
    ref: Mapping[str, Any], *, namespace: dict[str, Any], objects: Objects, classes: OwnClass | None = None
) -> dict[str, Any]:
    """The values of a graph. Writes nothing into `namespace`.

    Args:
        classes: the kernel's class for a ClassId; default: `classes.own_class` of this namespace.

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
        unpickler = _Unpickler(file, namespace=namespace, own=classes or own, buffers=buffers)
        values: dict[str, Any] = {}
        while (part := unpickler.load()) is not None:
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
    counting = _Counting()
    pickler = _Pickler(counting, namespace=_or_main(namespace), classes={}, buffer_callback=counting.buffer)
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
    hashing = _Hashing(deadline)
    pickler = _Pickler(hashing, namespace=_or_main(namespace), classes={}, buffer_callback=hashing.buffer)
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
    nothing = _Counting(deadline)
    pickler = _Pickler(nothing, namespace=_or_main(namespace), classes=classes or {}, buffer_callback=nothing.buffer)
    pickler.arrays.copies = False
    pickler.dump({"": value})


# Functions of the loading side, by name. A pickler only needs them as keys of its memo.


def _make_function(code: types.CodeType, namespace: dict[str, Any], name: str, cells: Any) -> types.FunctionType:
    return types.FunctionType(code, namespace, name, None, cells)


def _set_function(function: types.FunctionType, state: tuple[Any, ...]) -> None:
    attributes, slots, cells, global_values, _ = state
    for cell, content in cells:
        cell.cell_contents = content
    if global_values is not None:  # a namespace that is not the notebook's
        function.__globals__.update(global_values)
        function.__globals__.setdefault("__builtins__", builtins)
    function.__dict__.update(attributes)
    for name, value in slots.items():
        setattr(function, name, value)


def _same(value: Any) -> Any:
    return value


def _set_cell(cell: types.CellType, content: tuple[Any]) -> None:
    cell.cell_contents = content[0]


def _make_class(*_: Any) -> type:
    raise NotImplementedError("only an unpickler makes classes")


def _set_class(*_: Any) -> None:
    raise NotImplementedError("only an unpickler makes classes")


def _own_class(*_: Any) -> type:
    raise NotImplementedError("only an unpickler knows the kernel's classes")


_RESTORERS: dict[str, Callable[..., Any]] = {
    "function": _make_function,
    "function-state": _set_function,
    "cell": types.CellType,
    "cell-state": _set_cell,
    "same": _same,
    "class": _make_class,
    "class-state": _set_class,
    "own-class": _own_class,
    **special.RESTORERS,
    **tensors.RESTORERS,
}
_NAMESPACE = "namespace"


def _prologue() -> bytes:
    """Opcodes that put what the persistent ids name into the memo, at 0, 1, 2..."""
    opcodes = [pickle.PROTO + b"\x05"]
    for name in (_NAMESPACE, *_RESTORERS):
        text = name.encode()
        opcodes += [pickle.SHORT_BINUNICODE, bytes([len(text)]), text, pickle.BINPERSID, pickle.MEMOIZE, pickle.POP]
    return b"".join(opcodes)


class _Cell:
    """Stands for a variable that closures share; pickled empty, so that a function may be in its own closure."""


class _Pickler(cp.Pickler):
    by_name_only = False
    """Classes count as their name and identity: for sizes and fingerprints."""

    def __init__(
        self,
        file: Any,
        *,
        namespace: dict[str, Any],
        classes: Mapping[type, ClassId],
        buffer_callback: Callable[[pickle.PickleBuffer], Any],
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self.namespace = namespace
        self.globals_ref[id(namespace)] = namespace
        self.names: set[str] = set()
        self.arrays = tensors.Arrays()
        self._classes = classes
        self._ids = {id(cls): class_id for cls, class_id in classes.items()}
        self._cells: dict[int, tuple[_Cell, types.CellType]] = {}
        self._filled: set[int] = set()
        self._reducers: dict[type, Callable[[Any], Any] | None] = {
            types.FunctionType: self._function_reduce,
            types.CellType: self._reduce_cell,
            _Cell: lambda _: (types.CellType, ()),
        }
        file.write(_prologue())
        known = (namespace, *_RESTORERS.values())
        self.memo = {id(one): (index, one) for index, one in enumerate(known)}

    def dump(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, values: Mapping[str, Any] | None, extra: Any = None, *, blame: Mapping[str, Any] | None = None
    ) -> None:
        """One part of the graph. With `blame`, what fails is said to be one of those."""
        part = None if values is None else (dict(values), extra)
        self.arrays.share(values.values() if values else ())
        try:
            with _shallow_enough():
                super().dump(part)
        except Exception as error:
            if blame is None or isinstance(error, OSError):
                raise
            raise self._blamed(blame, error) from error

    def submodules(self, codes: Iterable[types.CodeType], values: Iterable[Any]) -> list[types.ModuleType]:
        """Submodules that the code reads through their package and that something else imported."""
        kept = list(values)
        return [module for code in codes for one in _codes(code) for module in cp._find_imported_submodules(one, kept)]

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        try:
            reducer = self._reducers[kind]
        except KeyError:
            reducer = self._reducers[kind] = self._reducer_of(kind)
        except TypeError:  # a metaclass that makes classes without a hash
            reducer = self._reducer_of(kind)
        return NotImplemented if reducer is None else reducer(obj)

    def _reducer_of(self, kind: type) -> Callable[[Any], Any] | None:
        if issubclass(kind, type):
            return self._reduce_class
        if issubclass(kind, types.FunctionType):
            return self._function_reduce
        return special.reducer_of(kind) or self.arrays.reducer_of(kind)

    def _reduce_class(self, cls: type) -> Any:
        class_id = self._ids.get(id(cls))
        if class_id is not None:
            return _own_class, tuple(class_id)
        reduced = cp._class_reduce(cls)
        if reduced is NotImplemented or len(reduced) != 6:
            return reduced
        if self.by_name_only:
            return _own_class, (cls.__qualname__, str(id(cls)))
        make, arguments, state = reduced[:3]
        is_enum = make is cp._make_skeleton_enum
        tracker = arguments[-2]
        if not is_enum:
            arguments, state = notebook.parts_of(cls, arguments, state)
        class_id = notebook.identify(cls, self.namespace, tracker) if cls.__module__ == "__main__" else None
        arguments = (None if class_id is None else tuple(class_id), is_enum, tracker, *arguments)
        return _make_class, arguments, state, None, None, _set_class

    def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
        code = func.__code__
        own = func.__globals__ is self.namespace
        names = _global_names(code)
        read = {name: func.__globals__[name] for name in names if name in func.__globals__}
        if own:
            self.names.update(names)
            namespace: dict[str, Any] = self.namespace
        else:
            namespace = self.globals_ref.setdefault(id(func.__globals__), {})
            if not namespace:
                keys = ("__package__", "__name__", "__path__", "__file__")
                namespace.update({key: func.__globals__[key] for key in keys if key in func.__globals__})
        closure = func.__closure__ or ()
        contents = [cell.cell_contents for cell in closure if _is_full(cell)]
        state = (
            dict(func.__dict__),
            _function_slots(func),
            [(self._cell(cell), cell.cell_contents) for cell in closure if self._fills(cell)],
            None if own else read,
            cp._find_imported_submodules(code, itertools.chain(read.values(), contents)),
        )
        cells = tuple(map(self._cell, closure)) if func.__closure__ is not None else None
        return _make_function, (code, namespace, func.__name__, cells), state, None, None, _set_function

    def _cell(self, cell: types.CellType) -> _Cell:
        return self._cells.setdefault(id(cell), (_Cell(), cell))[0]

    def _fills(self, cell: types.CellType) -> bool:
        """Whether the content of this cell is still to be sent."""
        if id(cell) in self._filled or not _is_full(cell):
            return False
        self._filled.add(id(cell))
        return True

    def _reduce_cell(self, cell: types.CellType) -> Any:
        if not self._fills(cell):
            return _same, (self._cell(cell),)
        return _same, (self._cell(cell),), (cell.cell_contents,), None, None, _set_cell

    def _blamed(self, values: Mapping[str, Any], error: Exception) -> NotPicklable:
        """The first value that cannot be pickled alone; where each can, the first whose graph is in question at all."""
        for name, value in values.items():
            try:
                check(value, namespace=self.namespace, classes=self._classes)
            except Exception as found:  # noqa: BLE001 - pickling runs the value's own code
                return NotPicklable(name, found)
        return NotPicklable(next(iter(values), ""), error)


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: IO[bytes], *, namespace: dict[str, Any], own: OwnClass, buffers: Iterator[bytearray]
    ) -> None:
        super().__init__(file, buffers=buffers)
        self._own = own
        self._made: set[int] = set()
        self._named: dict[str, Any] = _RESTORERS | {
            _NAMESPACE: namespace,
            "class": self._make_class,
            "class-state": self._set_class,
            "own-class": self._own_class,
        }

    def persistent_load(self, pid: Any) -> Any:
        try:
            return self._named[pid]
        except (KeyError, TypeError):
            raise pickle.UnpicklingError(f"the graph needs {pid!r}, which this version does not have") from None

    def _make_class(self, class_id: tuple[str, str] | None, is_enum: bool, tracker: str, *arguments: Any) -> type:
        existing = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
        if existing is not None:
            return existing
        cls = cp._make_skeleton_enum(*arguments) if is_enum else notebook.make(*arguments)
        self._made.add(id(cls))
        if class_id is not None:
            notebook.receive(cls, ClassId(*class_id))
        return cls

    def _set_class(self, cls: type, state: Any) -> None:
        if id(cls) in self._made:
            cp._class_setstate(cls, state)

    def _own_class(self, qualname: str, digest: str) -> type:
        return self._own(ClassId(qualname, digest))


def _function_slots(func: types.FunctionType) -> dict[str, Any]:
    slots = {
        "__qualname__": func.__qualname__,
        "__defaults__": func.__defaults__,
        "__kwdefaults__": func.__kwdefaults__,
        "__module__": func.__module__,
        "__doc__": func.__doc__,
    }
    annotate = getattr(func, "__annotate__", None)  # since 3.14; to evaluate annotations may fail
    if annotate is not None:
        slots["__annotate__"] = annotate
    else:
        slots["__annotations__"] = func.__annotations__
    if parameters := getattr(func, "__type_params__", ()):
        slots["__type_params__"] = parameters
    return slots


def _is_full(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  an empty cell raises
    except ValueError:
        return False
    return True


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


_NAME_OPCODES = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_GIVEN = frozenset({"__name__", "__builtins__", "__doc__", "__file__", "__package__", "__loader__", "__spec__"})
"""Names that every namespace has for itself."""
_global_names_of: weakref.WeakKeyDictionary[types.CodeType, frozenset[str]] = weakref.WeakKeyDictionary()


def _global_names(code: types.CodeType) -> frozenset[str]:
    """Names that the code, or code inside it, may read from its globals."""
    names = _global_names_of.get(code)
    if names is None:
        names = _global_names_of[code] = frozenset(
            instruction.argval
            for one in _codes(code)
            for instruction in dis.get_instructions(one)
            if instruction.opname in _NAME_OPCODES and instruction.argval not in _GIVEN
        )
    return names


def _or_main(namespace: dict[str, Any] | None) -> dict[str, Any]:
    return sys.modules["__main__"].__dict__ if namespace is None else namespace


@contextmanager
def _shallow_enough() -> Iterator[None]:
    """Make a structure that is too deep a RecursionError where it would overflow the C stack and end the process."""
    limit = sys.getrecursionlimit()
    if limit <= _DEEPEST or sys.version_info >= (3, 12):  # which counts C frames apart
        yield
        return
    sys.setrecursionlimit(_DEEPEST)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


class _Sink:
    """Where a pickle is written: in memory while it is small, then an object."""

    def __init__(self, objects: Objects) -> None:
        self.size = 0
        self._objects = objects
        self._small: list[bytes] = []
        self._writer: Writer | None = None

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, data: bytes | pickle.PickleBuffer) -> int:
        count = memoryview(data).nbytes
        self.size += count
        if self._writer is None and self.size > _SPILL:
            self._writer = self._objects.writer()
            for small in self._small:
                self._writer.write(small)
            self._small = []
        if self._writer is None:
            self._small.append(bytes(data))
        else:
            self._writer.write(data)
        return count

    def data(self) -> bytes | None:
        """What was written, if it is small."""
        return None if self._writer is not None else b"".join(self._small)

    def store(self) -> str:
        """Its digest."""
        return self._objects.write(b"".join(self._small)) if self._writer is None else self._writer.finish()


class _Counting:
    def __init__(self, deadline: float | None = None) -> None:
        self.size = 0
        self._deadline = deadline

    def write(self, data: bytes | pickle.PickleBuffer) -> int:
        _in_time(self._deadline)
        count = memoryview(data).nbytes
        self.size += count
        return count

    def buffer(self, buffer: pickle.PickleBuffer) -> bool:
        self.write(buffer)
        return False


class _Hashing:
    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._digest = hashlib.sha256()

    def write(self, data: bytes | pickle.PickleBuffer) -> int:
        with pickle.PickleBuffer(data).raw() as view:
            for start in range(0, view.nbytes, _HASHED_AT_ONCE):
                _in_time(self._deadline)
                with view[start : start + _HASHED_AT_ONCE] as part:
                    self._digest.update(part)
            return view.nbytes

    def buffer(self, buffer: pickle.PickleBuffer) -> bool:
        self.write(buffer)
        return False

    def digest(self) -> bytes:
        return self._digest.digest()


def _in_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError("there was no time to pickle all of it")
