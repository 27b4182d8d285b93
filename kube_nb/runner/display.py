"""What a notebook shows: rich representations, display ids, clear_output, and the value of the last expression."""

from __future__ import annotations

import base64
import json
import math
import os
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .objects import Objects
    from .voice import Voice

Bundle = tuple[dict[str, Any], dict[str, Any]]
"""MIME type -> content, and metadata."""

_WIDGET = "application/vnd.jupyter.widget-view+json"
_METHODS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "application/pdf": "_repr_pdf_",
    "image/jpeg": "_repr_jpeg_",
    "text/latex": "_repr_latex_",
    "application/json": "_repr_json_",
    "application/javascript": "_repr_javascript_",
}
_SCALARS = (int, float, complex, str, bytes, bool, type(None))
# What IPython's pretty printer lays out in its own way. A class that derives from one of them inherits that, unless a
# class before it in its method resolution order has a __repr__ of its own.
_PRETTY = (list, tuple, dict, set, frozenset, super, type, slice, range, BaseException)
_PRETTY += (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.SimpleNamespace)
_PRETTY_MODULES = frozenset({"collections", "re", "os"})
_NARROW = 79


class Displays:
    """Sends what is shown to the notebook."""

    def __init__(self, voice: Voice, objects: Objects) -> None:
        self._voice = voice
        self._objects = objects

    def show(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        update: bool = False,
        result: bool = False,
    ) -> None:
        """Show a MIME bundle; with `update`, in the place of what was shown under `id`.

        Raises:
            TypeError: a value in it is no JSON.
        """
        from ..events import IN_BAND

        shown = {mime: value for mime, value in data.items() if mime != _WIDGET or len(data) == 1}
        content = {"data": _json(shown), "metadata": _json(dict(metadata or {}))}
        text = json.dumps(content, allow_nan=False)
        if len(text) <= IN_BAND:
            self._voice.say("display", id=id, update=update, result=result, count=None, **content)
            return
        digest = self._objects.write(text.encode())
        self._voice.say("display", id=id, update=update, result=result, object=digest, size=len(text))

    def clear(self, wait: bool = False) -> None:
        self._voice.say("clear", wait=bool(wait))


class Handle:
    """What `display(..., display_id=...)` returns where there is no IPython: shows something else in the same place."""

    def __init__(self, id: str, show: Callable[..., Any]) -> None:
        self.display_id = id
        self._show = show

    def display(self, value: Any, **options: Any) -> None:
        self._show(value, display_id=self.display_id, **options)

    def update(self, value: Any, **options: Any) -> None:
        self._show(value, display_id=self.display_id, update=True, **options)

    def __repr__(self) -> str:
        return f"<DisplayHandle display_id={self.display_id}>"


def display_plainly(displays: Displays, *values: Any, **options: Any) -> Handle | None:
    """IPython's `display` for an environment without IPython."""
    id = options.get("display_id")
    if id is True:
        id = os.urandom(16).hex()
    if options.get("clear"):
        displays.clear(wait=True)
    for value in values:
        if options.get("raw"):
            data, metadata = value, {}
        else:
            own_display = method(value, "_ipython_display_")
            if own_display is not None:
                own_display()
                continue
            data, metadata = bundle_of(value) or ({"text/plain": repr(value)}, {})
        merged = metadata | (options.get("metadata") or {})
        displays.show(data, merged, id=id, update=bool(options.get("update")))
    return None if id is None else Handle(id, lambda value, **more: display_plainly(displays, value, **more))


def bundle_of(value: Any) -> Bundle | None:
    """What IPython would show for `value`; None: only IPython can tell, or the value failed to represent itself."""
    if method(value, "_ipython_display_") is not None:
        return None
    try:
        text = plain_text(value)
        if text is None:
            return None
        data: dict[str, Any] = {"text/plain": text}
        metadata: dict[str, Any] = {}
        if type(value) in _SCALARS or type(value) in _PRETTY:
            return data, metadata
        whole = method(value, "_repr_mimebundle_")
        if whole is not None:
            _merge(data, metadata, whole(include=None, exclude=None))
        for mime, name in _METHODS.items():
            one = None if mime in data else method(value, name)
            made = None if one is None else one()
            if made is not None:
                content, about = made if isinstance(made, tuple) else (made, {})
                data[mime] = content
                metadata |= {mime: about} if about else {}
    except Exception:  # noqa: BLE001 - a representation that fails: IPython shows the rest and tells of the failure
        return None
    return data, metadata


def _merge(data: dict[str, Any], metadata: dict[str, Any], made: Any) -> None:
    if made is None:
        return
    content, about = made if isinstance(made, tuple) else (made, {})
    data |= content
    metadata |= about or {}


def plain_text(value: Any) -> str | None:
    """The text IPython shows for `value`, where it is the value's own `repr`; None: its pretty printer lays it out."""
    kind = type(value)
    if kind in _SCALARS:
        return repr(value)
    if kind in (list, tuple, dict):
        inside = [*value, *value.values()] if kind is dict else value
        if len(inside) <= _NARROW and all(type(one) in _SCALARS for one in inside):
            text = repr(value)
            return text if len(text) < _NARROW and "\n" not in text else None
        return None
    for ancestor in kind.__mro__:
        members = vars(ancestor)
        if ancestor in _PRETTY or ancestor.__module__ in _PRETTY_MODULES or "_repr_pretty_" in members:
            return None
        if ancestor is not object and callable(members.get("__repr__")):
            # The repr that a dataclass got by itself is laid out too.
            return None if "__dataclass_fields__" in members else repr(value)
    return None


def method(value: Any, name: str) -> Callable[..., Any] | None:
    """A representation method of `value`; none for classes, and for proxies that claim to have every attribute."""
    try:
        if getattr(value, "_ipython_canary_method_should_not_exist_", None) is not None:
            return None
        found = getattr(value, name, None)
    except Exception:  # noqa: BLE001 - __getattr__ of foreign objects raises what it likes
        return None
    if isinstance(value, type) and not isinstance(found, types.MethodType):
        return None
    return found if callable(found) else None


def _json(value: Any) -> Any:
    """`value` as JSON, the way a kernel sends it: bytes in base64, numbers of other kinds, dates, NaN as text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {str(key): _json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json(one) for one in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return _json(value.tolist())
    if hasattr(value, "__index__"):
        return value.__index__()
    if hasattr(value, "__float__"):  # Decimal, Fraction
        return _json(float(value))
    raise TypeError(f"{type(value).__name__} cannot be shown: it is no JSON")
