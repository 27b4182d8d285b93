"""Values that pickle or cloudpickle would refuse, copy silently or send as a name that means nothing elsewhere.

`reducer_of(type)` is asked once for each type in a graph; `RESTORERS` are the functions that a graph names.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import io
import logging
import pickle
import sys
import typing
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

_STREAMS = ("stdout", "stderr", "stdin")


def reducer_of(kind: type) -> Callable[[Any], Any] | None:
    """How values of exactly this type are reduced; None: as pickle does."""
    known = _REDUCERS.get(kind)
    if known is not None:
        return known
    if kind is io.TextIOWrapper or any(kind is type(getattr(sys, name, None)) for name in _STREAMS):
        return _reduce_stream
    if issubclass(kind, logging.Logger):
        return _reduce_logger
    if "ctypes" in sys.modules and issubclass(kind, sys.modules["ctypes"].CDLL):
        return _refuse_library
    if issubclass(kind, enum.Enum) and kind.__module__ == "__main__":
        return _reduce_member
    if issubclass(kind, BaseException) and _has_its_own_constructor(kind):
        return _reduce_exception
    return None


def standard_stream(value: object) -> str | None:
    """`"stdout"` where the value is this process's standard output, and so on."""
    for name in _STREAMS:
        if value is not None and (value is getattr(sys, name, None) or value is getattr(sys, f"__{name}__", None)):
            return name
    return None


def is_open_file(value: object) -> bool:
    """Whether it is a file of this process, other than a standard stream."""
    if standard_stream(value) is not None or not isinstance(value, (io.TextIOWrapper, io.BufferedIOBase, io.RawIOBase)):
        return False
    try:
        return not value.closed and value.fileno() > 2
    except (OSError, ValueError):  # a file in memory
        return False


def _reduce_stream(stream: Any) -> Any:
    name = standard_stream(stream)
    if name is not None:
        return _stream, (name,)
    if isinstance(stream, io.TextIOWrapper):
        # cloudpickle would copy a file that is open for reading into a StringIO
        raise pickle.PicklingError(f"cannot pickle an open file ({type(stream).__name__})")
    return NotImplemented


def _stream(name: str) -> Any:
    return getattr(sys, name)


def _reduce_logger(logger: logging.Logger) -> Any:
    """By name; a logger that is not configured where it arrives gets level and console of this one."""
    if logger is not logging.getLogger(logger.name) and logger is not logging.root:
        raise pickle.PicklingError("cannot pickle a logger that logging.getLogger does not know")
    settings = []
    one: logging.Logger | None = logger
    while one is not None:
        consoles = []
        for handler in one.handlers:
            stream = getattr(handler, "stream", None)
            if one is logger and is_open_file(stream):
                raise pickle.PicklingError(f"cannot pickle a logger that writes to an open file ({handler!r})")
            name = standard_stream(stream)
            if name is not None and type(handler) is logging.StreamHandler:
                consoles.append((name, handler.level, handler.formatter))
        settings.append((None if one is logging.root else one.name, one.level, one.propagate, consoles))
        one = one.parent if one.propagate else None
    return _logger, (settings,)


def _logger(settings: list[tuple[str | None, int, bool, list[tuple[str, int, Any]]]]) -> logging.Logger:
    for name, level, propagate, consoles in settings:
        logger = logging.getLogger(name)
        untouched = logger.level == (logging.WARNING if name is None else logging.NOTSET) and logger.propagate
        if logger.handlers or not untouched:
            continue
        logger.setLevel(level)
        logger.propagate = propagate
        for stream, lowest, formatter in consoles:
            handler = logging.StreamHandler(getattr(sys, stream))
            handler.setLevel(lowest)
            handler.setFormatter(formatter)
            logger.addHandler(handler)
    return logging.getLogger(settings[0][0])


def _refuse_library(library: Any) -> Any:
    # Its handle is a number, which pickle would copy, and an address that means nothing elsewhere.
    raise pickle.PicklingError(f"cannot pickle a handle of a C library ({library!r})")


def _reduce_member(member: enum.Enum) -> Any:
    cls = type(member)
    if cls.__members__.get(member.name) is not member:  # flags that were combined
        return NotImplemented
    return _member, (cls, member.name)  # its value, e.g. a function, may not be found again by being equal


def _member(cls: type[enum.Enum], name: str) -> enum.Enum:
    return cls.__members__[name]


def _reduce_view(view: memoryview) -> Any:
    whole = memoryview(view.obj)
    if (view.nbytes, view.format, view.shape) == (whole.nbytes, whole.format, whole.shape):
        return memoryview, (view.obj,)
    raise pickle.PicklingError("cannot pickle a memoryview of a part of a buffer")


def _has_its_own_constructor(kind: type[BaseException]) -> bool:
    reduced_as_usual = kind.__reduce__ is BaseException.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__
    return reduced_as_usual and isinstance(kind.__init__, FunctionType) and not isinstance(kind.__new__, FunctionType)


def _reduce_exception(exception: BaseException) -> Any:
    # BaseException would call the constructor with `args`, which are seldom the arguments that it was called with.
    return _exception, (type(exception), exception.args), vars(exception) or None


def _exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    made = kind.__new__(kind, *args)
    builtin = next(base for base in kind.__mro__ if not isinstance(base.__init__, FunctionType))
    builtin.__init__(made, *args)
    return made


def _reduce_cached(cached: functools.cached_property[Any]) -> Any:
    return _cached_property, (cached.func, cached.attrname)  # before 3.12 it holds a lock


def _cached_property(func: Callable[..., Any], name: str | None) -> functools.cached_property[Any]:
    cached = functools.cached_property(func)
    if name is not None:
        cached.__set_name__(object, name)
    return cached


def _reduce_lru(cached: Any) -> Any:
    if cached.__module__ != "__main__" and "<locals>" not in cached.__qualname__:
        return NotImplemented
    parameters = cached.cache_parameters()
    state = {name: value for name, value in vars(cached).items() if name not in ("__wrapped__", "cache_parameters")}
    return _lru_cache, (cached.__wrapped__, parameters["maxsize"], parameters["typed"]), state


def _lru_cache(func: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(func)


def _reduce_weak(weak: Any) -> Any:
    return type(weak), (dict(weak),)  # what nothing else in the graph holds is gone on the other side too


def _reduce_new_type(new: Any) -> Any:
    if new.__module__ != "__main__":
        return NotImplemented
    return _new_type, (new.__name__, new.__supertype__)


def _new_type(name: str, supertype: Any) -> Any:
    new = typing.NewType(name, supertype)  # pyright: ignore[reportArgumentType]
    new.__module__ = "__main__"
    return new


def _reduce_parameters(parameters: Any) -> Any:
    if parameters.__module__ != "__main__":
        return NotImplemented
    return type(parameters), (parameters.__name__,)


def _reduce_alias(alias: Any) -> Any:
    if alias.__module__ != "__main__":
        return NotImplemented
    return _alias, (alias.__name__, alias.__value__, alias.__type_params__)


def _alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    return typing.TypeAliasType(name, value, type_params=parameters)  # pyright: ignore[reportAttributeAccessIssue]


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    memoryview: _reduce_view,
    functools.cached_property: _reduce_cached,
    functools._lru_cache_wrapper: _reduce_lru,
    weakref.WeakKeyDictionary: _reduce_weak,
    weakref.WeakValueDictionary: _reduce_weak,
    typing.NewType: _reduce_new_type,
    typing.ParamSpec: _reduce_parameters,
    typing.TypeVarTuple: _reduce_parameters,
    # fields of dataclasses are compared with these by identity
    type(dataclasses.MISSING): lambda _: "MISSING",
    type(dataclasses.KW_ONLY): lambda _: "KW_ONLY",
    type(dataclasses._HAS_DEFAULT_FACTORY): lambda _: "_HAS_DEFAULT_FACTORY",  # pyright: ignore
}
if sys.version_info >= (3, 12):
    _REDUCERS[typing.TypeAliasType] = _reduce_alias  # pyright: ignore[reportAttributeAccessIssue]

RESTORERS: dict[str, Callable[..., Any]] = {
    "exception": _exception,
    "member": _member,
    "stream": _stream,
    "logger": _logger,
    "cached-property": _cached_property,
    "lru-cache": _lru_cache,
    "new-type": _new_type,
    "alias": _alias,
}
