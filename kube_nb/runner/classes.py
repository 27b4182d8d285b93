"""Classes of the notebook, and how the kernel knows its own when they come back.

A class of `__main__` travels to the job by value together with its ClassId: its qualified name and a digest of its
definition. The job remembers which classes came so, and sends them back as that ClassId alone; the kernel binds it to
the class it has. Nothing is ever written into a class that already exists.

The digest is made of code, bases, annotations, enum members and slots; not of file names, line numbers, addresses or
hash seeds, so that a restarted kernel which ran the same source computes the same. Values of plain class attributes
are left out: they are state, which may change while the job runs, and must not cut a class off from its instances.
"""

from __future__ import annotations

import abc
import enum
import hashlib
import re
import sys
import threading
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import cloudpickle.cloudpickle as cp

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PLAIN = (int, float, complex, str, bytes, bool, type(None), type(...))
# Made by the interpreter, different from process to process or from version to version.
_NOT_DEFINITION = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__abstractmethods__", "__annotate__", "__annotate_func__"}
)


class ClassId(NamedTuple):
    """Which class of the notebook: its qualified name, and a digest of its definition."""

    qualname: str
    digest: str


class UnknownClass(Exception):
    """A class of the notebook came back to a kernel that does not have it, or has another by that name."""

    def __init__(self, class_id: ClassId, why: str) -> None:
        super().__init__(f"class `{class_id.qualname}` {why}")
        self.class_id = class_id
        self.why = why


class _Sent:
    """The classes that this process has sent, by their id: a class that was defined anew is still found by its old."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[ClassId, type] = {}

    def add(self, class_id: ClassId, cls: type) -> None:
        with self._lock:
            self._by_id[class_id] = cls

    def get(self, class_id: ClassId) -> type | None:
        with self._lock:
            return self._by_id.get(class_id)


_sent = _Sent()
_received: weakref.WeakKeyDictionary[type, ClassId] = weakref.WeakKeyDictionary()


def receive(cls: type, class_id: ClassId) -> None:
    """Remember that `cls` was made here from the class of the notebook that `class_id` names."""
    _received[cls] = class_id


def forget(cls: type) -> None:
    """Undo `receive`: the class could not be made whole."""
    _received.pop(cls, None)


def received() -> dict[type, ClassId]:
    """The classes of the notebook that this process has received."""
    return dict(_received)


def identify(cls: type, namespace: Mapping[str, Any], tracker: str) -> ClassId:
    """The ClassId under which `cls` is sent.

    A class that its qualified name does not lead to (made in a function, or since then defined anew) shares name and
    code with others, so `tracker`, unique in this process, goes into the digest.
    """
    digest = definition_digest(cls)
    if _by_qualname(cls.__qualname__, namespace) is not cls:
        digest = hashlib.sha256(f"{digest} {tracker}".encode()).hexdigest()
    class_id = ClassId(cls.__qualname__, digest)
    _sent.add(class_id, cls)
    return class_id


def own_class(class_id: ClassId, namespace: Mapping[str, Any]) -> type:
    """The kernel's class for what a job sent back: the one of that name and definition, else the one that was sent.

    Raises:
        UnknownClass: neither is here.
    """
    class_id = ClassId(*class_id)
    named = _by_qualname(class_id.qualname, namespace)
    if named is not None and definition_digest(named) == class_id.digest:
        return named
    sent = _sent.get(class_id)
    if sent is not None:
        return sent
    raise UnknownClass(class_id, "is not defined here" if named is None else "was defined differently when it was sent")


def make(metaclass: type, name: str, bases: tuple[type, ...], kwargs: dict[str, Any], tracker: str, extra: Any) -> type:
    """An empty class, to be filled by its state.

    A metaclass or an `__init_subclass__` that wants arguments, or refuses an empty class, is gone round: it had its
    say when the class was defined, and what it did is part of the state.
    """
    try:
        return cp._make_skeleton_class(metaclass, name, bases, kwargs, tracker, extra)
    except Exception:
        cls = _make_without_hooks(metaclass, name, types.resolve_bases(bases), kwargs)
        if cls is None:
            raise
    return cp._lookup_class_or_track(tracker, cls)


def _make_without_hooks(metaclass: type, name: str, bases: tuple[type, ...], kwargs: dict[str, Any]) -> type | None:
    try:
        cls = type.__new__(metaclass, name, bases, dict(kwargs))  # no hook of the metaclass
    except Exception:  # noqa: BLE001 - hooks are the person's code
        try:
            cls = type.__new__(metaclass, name, (_Stand,), dict(kwargs))  # no hook of a base either
            cls.__bases__ = bases
        except TypeError:  # a base with a memory layout of its own
            return None
    if issubclass(metaclass, abc.ABCMeta):
        abc._abc_init(cls)  # pyright: ignore[reportAttributeAccessIssue]
    return cls


class _Stand:
    """A base for the moment in which a class is made: it has no hooks."""


def parts_of(cls: type, arguments: tuple[Any, ...], state: tuple[dict[str, Any], Any]) -> tuple[tuple[Any, ...], Any]:
    """What a class is made from and its state as cloudpickle has them, and its slots, which that leaves out."""
    members, rest = state
    metaclass, name, bases, kwargs, *more = arguments
    if types.resolve_bases(bases) != cls.__bases__:  # of a NamedTuple or a TypedDict
        bases = cls.__bases__
    if "__slots__" in vars(cls):
        kwargs = {**kwargs, "__slots__": vars(cls)["__slots__"]}
    for key, member in list(members.items()):
        if isinstance(member, types.MemberDescriptorType) and member.__objclass__ is cls:
            del members[key]
    if sys.version_info >= (3, 14):
        import annotationlib  # pyright: ignore[reportMissingImports]

        for key in ("__annotate__", "__annotations_cache__", "__annotations__"):
            members.pop(key, None)
        annotations = annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
        if annotations:
            members["__annotations__"] = {
                field: one.__forward_arg__ if isinstance(one, annotationlib.ForwardRef) else one
                for field, one in annotations.items()
            }
    return (metaclass, name, bases, kwargs, *more), (members, rest)


def parts_of_enum(
    cls: type[enum.Enum], arguments: tuple[Any, ...], state: tuple[dict[str, Any], Any]
) -> tuple[tuple[Any, ...], Any]:
    """The same of an enum: its members are made again as they are, not from their values.

    cloudpickle leaves out aliases and what an `__init__` or a `__new__` of the enum made of the values.
    """
    members, rest = state
    bases, name, qualname, _, module, tracker, _ = arguments
    made = {}
    for key, member in cls.__members__.items():
        members.pop(key, None)
        attributes = {one: value for one, value in vars(member).items() if one not in _OF_EVERY_MEMBER}
        made[key] = (member.value, _new_arguments(member, cls._member_type_), attributes)  # type: ignore[attr-defined]
    return (bases, name, qualname, made, module, tracker), (members, rest)


_OF_EVERY_MEMBER = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_"})


def _new_arguments(member: enum.Enum, data: type) -> tuple[Any, ...]:
    """What makes the plain value that the member also is, e.g. a str."""
    if data is object:
        return ()
    if hasattr(data, "__getnewargs__"):
        return data.__getnewargs__(member)
    reduce: Any = data.__reduce__
    reduced = reduce(member) if reduce is not object.__reduce__ else ()
    return reduced[1] if isinstance(reduced, tuple) and len(reduced) > 1 else ()


def make_enum(
    bases: tuple[type, ...],
    name: str,
    qualname: str,
    members: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]],
    module: str,
    tracker: str,
) -> type:
    """An enum with its members, to be filled by its state."""
    metaclass = type(bases[-1])
    order = iter(members.values())

    def make_member(cls: type, *_: Any) -> Any:
        value, arguments, attributes = next(order)
        member: Any = _builtin_new(cls)(cls, *arguments)
        member._value_ = value
        vars(member).update(attributes)
        return member

    body: Any = metaclass.__prepare__(name, bases)
    body["__new__"] = make_member
    body["__init__"] = lambda *_: None
    for position, key in enumerate(members):
        body[key] = position  # a stand-in: a value may be a function, which would become a method
    cls = metaclass.__new__(metaclass, name, bases, body)
    for hook in ("__init__", "__new_member__"):
        if hook in vars(cls):
            delattr(cls, hook)
    cls.__module__ = module
    cls.__qualname__ = qualname
    return cp._lookup_class_or_track(tracker, cls)


def _builtin_new(cls: type) -> Any:
    """The `__new__` of the type in C that gives the class its memory layout."""
    found = (vars(base).get("__new__") for base in cls.__mro__)
    return next(new for new in found if isinstance(new, types.BuiltinFunctionType))


def definition_digest(cls: type) -> str:
    """A digest of what the class's source says, equal in every process that ran the same source."""
    return hashlib.sha256("\n".join(_definition(cls, frozenset())).encode("utf-8", "surrogatepass")).hexdigest()


def _by_qualname(qualname: str, namespace: Mapping[str, Any]) -> type | None:
    first, *rest = qualname.split(".")
    found = namespace.get(first)
    for name in rest:
        found = vars(found).get(name) if isinstance(found, type) else None
    return found if isinstance(found, type) else None


def _definition(cls: type, above: frozenset[type]) -> Iterator[str]:
    yield f"class {cls.__qualname__}"
    if cls in above:
        return
    above |= {cls}
    yield f"metaclass {_named(type(cls))}"
    for base in cls.__bases__:
        if base.__module__ == "__main__":
            yield from _definition(base, above)
        yield f"base {_named(base)}"
    members = vars(cls)
    if "__slots__" in members:
        slots = members["__slots__"]
        yield f"slots {sorted([slots] if isinstance(slots, str) else slots)}"
    for name, annotation in sorted(_annotations(cls).items()):
        yield f"annotation {name} {annotation}"
    if issubclass(cls, enum.Enum):
        for name, member in cls.__members__.items():
            yield f"member {name} {_plain(member.value)}"
    for name in sorted(set(members) - _NOT_DEFINITION):
        yield from _attribute(name, members[name], above)


def _attribute(name: str, value: object, above: frozenset[type]) -> Iterator[str]:
    """What an attribute says, when it is code; plain values are state."""
    if isinstance(value, type):
        if value.__module__ == "__main__":
            yield f"nested {name}"
            yield from _definition(value, above)
        return
    for function in _functions(value):
        yield f"function {name} {type(value).__name__}"
        yield from _code(function.__code__)
        yield f"defaults {_plain(function.__defaults__)} {_plain(sorted((function.__kwdefaults__ or {}).items()))}"


def _functions(value: object) -> Iterator[types.FunctionType]:
    """The functions behind a method, a property, a decorated function or another descriptor."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, types.FunctionType):
            yield one
        for link in ("__func__", "fget", "fset", "fdel", "func", "__wrapped__"):
            found = getattr(one, "__dict__", {}).get(link) if link in ("func", "__wrapped__") else None
            if found is None and isinstance(one, (property, classmethod, staticmethod)):
                found = getattr(one, link, None)
            if found is not None:
                pending.append(found)


def _code(code: types.CodeType) -> Iterator[str]:
    yield f"code {code.co_name} {code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount} {code.co_flags}"
    yield code.co_code.hex()  # as compiled: what the interpreter specialised at run time is not in it
    yield f"{code.co_names} {code.co_varnames} {code.co_freevars} {code.co_cellvars} {code.co_exceptiontable.hex()}"
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        else:
            yield _plain(constant)


def _plain(value: object) -> str:
    """A text for a value that is the same in every process."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if type(value) in _PLAIN:
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} [{', '.join(map(_plain, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__} {sorted(map(_plain, value))}"
    if isinstance(value, dict):
        return f"dict {[(_plain(key), _plain(one)) for key, one in value.items()]}"
    if isinstance(value, type):
        return _named(value)
    return f"a {_named(type(value))}"


def _named(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _annotations(cls: type) -> dict[str, str]:
    """Names and texts of annotations; evaluating them could fail or run code, so they are taken as they are."""
    if sys.version_info >= (3, 14):
        import annotationlib  # pyright: ignore[reportMissingImports]

        try:
            return annotationlib.get_annotations(cls, format=annotationlib.Format.STRING)
        except Exception:  # noqa: BLE001 - an annotation may be any expression, and this asks for names only
            return {}
    annotations = vars(cls).get("__annotations__", {})
    return {
        name: one if isinstance(one, str) else _named(one) if isinstance(one, type) else _ADDRESS.sub("", repr(one))
        for name, one in annotations.items()
    }
