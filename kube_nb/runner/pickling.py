"""The pickler and the unpickler of a graph (see graph.py)."""

from __future__ import annotations

import builtins
import dis
import itertools
import pickle
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import cloudpickle.cloudpickle as cp

from . import classes as notebook
from . import special, tensors
from .classes import ClassId
from .sinks import Counting, Sink

_DEEPEST = 4000
OwnClass = Callable[[ClassId], type]


class NotPicklable(Exception):
    """The value called `name` cannot be pickled; `error` is what pickle said, and the cause."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(f"`{name}` cannot be pickled: {type(error).__name__}: {error}")
        self.name = name
        self.error = error


class _Cell:
    """Stands for a variable that closures share; pickled empty, so that a function may be in its own closure."""


class Pickler(cp.Pickler):
    by_name_only = False
    """Classes count as their name and identity: for sizes and fingerprints."""

    def __init__(self, sink: Sink, *, namespace: dict[str, Any], classes: Mapping[type, ClassId]) -> None:
        super().__init__(sink, protocol=5, buffer_callback=sink.buffer)
        self.namespace = namespace
        self._sink = sink
        self.globals_ref[id(namespace)] = namespace
        self.names: set[str] = set()
        self.modules: set[str] = set()
        """Where what the graph has by name comes from: types of values, functions and modules."""
        self.arrays = tensors.Arrays()
        self._classes = classes
        self._ids = {id(cls): class_id for cls, class_id in classes.items()}
        self._cells: dict[int, tuple[_Cell, types.CellType]] = {}
        self._filled: set[int] = set()
        self._reducers: dict[type, Callable[[Any], Any] | None] = {
            types.FunctionType: self._reduce_function,
            types.CellType: self._reduce_cell,
            _Cell: lambda _: (types.CellType, ()),
        }
        sink.write(_prologue())
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
            if blame is None or error is self._sink.error:
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
            return self._reduce_function
        if issubclass(kind, types.ModuleType):
            return self._reduce_module
        self.modules.add(kind.__module__)
        return special.reducer_of(kind) or self.arrays.reducer_of(kind)

    def _reduce_class(self, cls: type) -> Any:
        class_id = self._ids.get(id(cls))
        if class_id is not None:
            return _own_class, tuple(class_id)
        reduced = cp._class_reduce(cls)
        if reduced is NotImplemented or len(reduced) != 6:
            self.modules.add(cls.__module__)
            return reduced
        if self.by_name_only:
            return _own_class, (cls.__qualname__, str(id(cls)))
        make, arguments, state = reduced[:3]
        is_enum = make is cp._make_skeleton_enum
        tracker = arguments[-2]
        take_apart = notebook.parts_of_enum if is_enum else notebook.parts_of
        arguments, state = take_apart(cls, arguments, state)
        class_id = notebook.identify(cls, self.namespace, tracker) if cls.__module__ == "__main__" else None
        arguments = (None if class_id is None else tuple(class_id), is_enum, tracker, *arguments)
        return _make_class, arguments, state, None, None, _set_class

    def _reduce_function(self, func: types.FunctionType) -> Any:
        reduced = self._function_reduce(func)
        if reduced is NotImplemented:
            self.modules.add(func.__module__)
        return reduced

    def _reduce_module(self, module: types.ModuleType) -> Any:
        self.modules.add(module.__name__)
        return NotImplemented

    def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
        code = func.__code__
        own = func.__globals__ is self.namespace
        names = global_names(code)
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
                alone = Pickler(Counting(), namespace=self.namespace, classes=self._classes)
                alone.arrays.copies = False
                alone.dump({name: value})
            except Exception as found:  # noqa: BLE001 - pickling runs the value's own code
                return NotPicklable(name, found)
        return NotPicklable(next(iter(values), ""), error)


class Unpickler(pickle.Unpickler):
    def __init__(
        self, file: IO[bytes], *, namespace: dict[str, Any], own: OwnClass, buffers: Iterator[bytearray]
    ) -> None:
        super().__init__(file, buffers=buffers)
        self._own = own
        self._made: dict[int, tuple[type, str]] = {}
        self._named: dict[str, Any] = _RESTORERS | {
            _NAMESPACE: namespace,
            "class": self._make_class,
            "class-state": self._set_class,
            "own-class": self._own_class,
        }

    def load(self) -> Any:
        """One part of the graph; where it fails, no class that is half made is left for the next load to find."""
        try:
            return super().load()
        except BaseException:
            for cls, tracker in self._made.values():
                with cp._DYNAMIC_CLASS_TRACKER_LOCK:
                    cp._DYNAMIC_CLASS_TRACKER_BY_ID.pop(tracker, None)
                    cp._DYNAMIC_CLASS_TRACKER_BY_CLASS.pop(cls, None)
                notebook.forget(cls)
            raise

    def persistent_load(self, pid: Any) -> Any:
        try:
            return self._named[pid]
        except (KeyError, TypeError):
            raise pickle.UnpicklingError(f"the graph needs {pid!r}, which this version does not have") from None

    def _make_class(self, class_id: tuple[str, str] | None, is_enum: bool, tracker: str, *arguments: Any) -> type:
        existing = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
        if existing is not None:
            return existing
        cls = (notebook.make_enum if is_enum else notebook.make)(*arguments)
        self._made[id(cls)] = (cls, tracker)
        if class_id is not None:
            notebook.receive(cls, ClassId(*class_id))
        return cls

    def _set_class(self, cls: type, state: Any) -> None:
        if id(cls) in self._made:
            cp._class_setstate(cls, state)

    def _own_class(self, qualname: str, digest: str) -> type:
        return self._own(ClassId(qualname, digest))


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


def global_names(code: types.CodeType) -> frozenset[str]:
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
