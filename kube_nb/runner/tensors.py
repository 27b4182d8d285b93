"""Arrays and tensors: their memory travels as buffers, once for each piece, by way of the CPU.

Views share their memory on the other side: tensors of one storage, and arrays that are views of an array which travels
under a name of its own. A tensor of a device goes back to that device where the other side has it, else it stays on the
CPU. No library is imported here before one of its values is met; they are known by the module of their type.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pickle import PickleBuffer
from typing import Any

_LARGE = 64 * 1024


class Arrays:
    """The reducers of one pickler.

    Attributes:
        copies: whether memory of a device is copied; without that it is counted in `bytes_left_there`.
    """

    def __init__(self) -> None:
        self.copies = True
        self.bytes_left_there = 0
        self._storages: dict[int, _Storage] = {}
        self._shared: dict[int, Any] = {}
        self._copy: Any = None

    def reducer_of(self, kind: type) -> Callable[[Any], Any] | None:
        """How values of exactly this type are reduced; None: as pickle does."""
        library = str(getattr(kind, "__module__", "")).partition(".")[0]
        if kind is _Storage:
            return self._reduce_storage
        if library == "numpy" and kind is sys.modules["numpy"].ndarray:
            return self._reduce_array
        if library == "torch" and kind in (sys.modules["torch"].Tensor, sys.modules["torch"].nn.Parameter):
            return self._reduce_tensor
        if library == "cupy" and kind.__name__ == "ndarray":
            return self._reduce_cupy
        if library in ("jax", "jaxlib") and kind.__name__ == "ArrayImpl":
            return self._reduce_jax
        return None

    def share(self, values: Iterable[Any]) -> None:
        """Let views of an array that is one of the values stay views of it."""
        numpy = sys.modules.get("numpy")
        for value in values:
            if numpy is not None and type(value) is numpy.ndarray and value.flags.c_contiguous:
                owner = _owner(value, numpy)
                if value.nbytes == owner.nbytes and not value.dtype.hasobject:
                    self._shared.setdefault(id(owner), value)

    def _reduce_array(self, array: Any) -> Any:
        numpy = sys.modules["numpy"]
        whole = self._shared.get(id(_owner(array, numpy)))
        if whole is not None and whole is not array and array.nbytes and not array.dtype.hasobject:
            offset = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
            return _view, (whole, array.dtype, array.shape, array.strides, offset, array.flags.writeable)
        flags = array.flags
        if array.nbytes >= _LARGE and array.dtype.kind in "mM":  # numpy gives out no buffer of dates
            numbers = numpy.ascontiguousarray(array).view(numpy.int64)
            return _dates, (PickleBuffer(numbers), array.dtype, array.shape)
        if array.nbytes >= _LARGE and not (flags.c_contiguous or flags.f_contiguous or array.dtype.hasobject):
            return numpy.ascontiguousarray(array).__reduce_ex__(5)  # numpy would put the bytes into the pickle
        return NotImplemented

    def _reduce_tensor(self, tensor: Any) -> Any:
        torch = sys.modules["torch"]
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.has_names():
            return NotImplemented
        if tensor.is_conj() or tensor.is_neg():
            tensor = tensor.detach().resolve_conj().resolve_neg().requires_grad_(tensor.requires_grad)
        untyped = _untyped(tensor)
        storage = self._storages.setdefault(untyped._cdata, _Storage(untyped))
        arguments = (
            storage,
            str(tensor.dtype).removeprefix("torch."),
            tensor.storage_offset(),
            tuple(tensor.size()),
            tensor.stride(),
            tensor.requires_grad,
            type(tensor) is not torch.Tensor,
        )
        attributes, gradient = dict(vars(tensor)), tensor.grad if tensor.is_leaf else None
        if not attributes and gradient is None:
            return _tensor, arguments
        return _tensor, arguments, (attributes, gradient), None, None, _set_tensor

    def _reduce_storage(self, storage: _Storage) -> Any:
        untyped = storage.untyped
        count = untyped.nbytes()
        device = str(untyped.device)
        if device != "cpu":
            if not self.copies:
                self.bytes_left_there += count
                return _storage, (b"", device)
            self._copy = None  # the one before is written by now
            self._copy = untyped = untyped.cpu()
        memory = (ctypes.c_ubyte * count).from_address(untyped.data_ptr()) if count else bytearray()
        return _storage, (PickleBuffer(memory), device)

    def _reduce_cupy(self, array: Any) -> Any:
        return self._from_device(array, _cupy, array.get)

    def _reduce_jax(self, array: Any) -> Any:
        numpy = sys.modules["numpy"]
        if array.dtype.kind not in "biufc" or not array.is_fully_addressable:
            return NotImplemented
        return self._from_device(array, _jax, lambda: numpy.asarray(array))

    def _from_device(self, array: Any, restore: Callable[[Any], Any], copy: Callable[[], Any]) -> Any:
        if self.copies:
            return restore, (copy(),)
        self.bytes_left_there += array.nbytes
        return restore, (None,)


class _Storage:
    """Memory that several tensors may share."""

    def __init__(self, untyped: Any) -> None:
        self.untyped = untyped


def _owner(array: Any, numpy: Any) -> Any:
    while type(array.base) is numpy.ndarray:
        array = array.base
    return array


def _view(whole: Any, dtype: Any, shape: Any, strides: Any, offset: int, writeable: bool) -> Any:
    import numpy

    memory = whole.reshape(-1).view(numpy.uint8)  # a buffer whatever the type: one of dates is none
    view = numpy.ndarray(shape, dtype, memory, offset, strides)
    view.flags.writeable = writeable and view.flags.writeable
    return view


def _dates(memory: Any, dtype: Any, shape: Any) -> Any:
    import numpy

    return numpy.frombuffer(memory, numpy.int64).view(dtype).reshape(shape)


def _untyped(tensor: Any) -> Any:
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage().untyped()  # torch 1


def _storage(memory: Any, device: str) -> Any:
    """A tensor of bytes on that memory."""
    import torch  # pyright: ignore[reportMissingImports]

    if not len(memory):
        whole = torch.empty(0, dtype=torch.uint8)
    else:
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        if len(memory) < _LARGE:
            whole = whole.clone()  # which may be resized, as torch's own memory
    if device != "cpu":
        with suppress(RuntimeError, AssertionError, NotImplementedError):  # what torch raises where it is not
            whole = whole.to(device)
    return whole


def _tensor(whole: Any, dtype: str, offset: int, size: Any, stride: Any, requires_grad: bool, parameter: bool) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    tensor = torch.empty(0, dtype=getattr(torch, dtype), device=whole.device)
    tensor.set_(_untyped(whole), offset, size, stride)
    return torch.nn.Parameter(tensor, requires_grad) if parameter else tensor.requires_grad_(requires_grad)


def _set_tensor(tensor: Any, state: tuple[dict[str, Any], Any]) -> None:
    attributes, gradient = state
    vars(tensor).update(attributes)
    tensor.grad = gradient


def _cupy(array: Any) -> Any:
    try:
        import cupy  # pyright: ignore[reportMissingImports]

        return cupy.asarray(array)
    except Exception:  # noqa: BLE001 - cupy is not here, or has no device: numpy's array has the same values and methods
        return array


def _jax(array: Any) -> Any:
    import jax  # pyright: ignore[reportMissingImports]

    return jax.numpy.asarray(array)


RESTORERS: dict[str, Callable[..., Any]] = {
    "view": _view,
    "dates": _dates,
    "storage": _storage,
    "tensor": _tensor,
    "tensor-state": _set_tensor,
    "cupy": _cupy,
    "jax": _jax,
}
