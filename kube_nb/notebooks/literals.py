"""Parameters as Python source that gives exactly these values, and as what JSON can hold of them.

papermill writes what YAML knows; of anything else (a date, a tuple, a key that is no text) it makes text. Here a value
either arrives as it is or is refused.
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from papermill.translators import PythonTranslator

from kube_nb.errors import BadValue

_BY_REPR = (
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
    *(decimal.Decimal, bytes, bytearray, range),
)
_MODULE = re.compile(r"\b(datetime|zoneinfo)\.(?=(?:datetime|date|time|timedelta|timezone|ZoneInfo)\b)")


class Exact(PythonTranslator):
    """papermill's own translation, extended to the values that it would turn into text."""

    @classmethod
    def translate(cls, val: Any) -> str:
        """Source that evaluates to `val`.

        Raises:
            TypeError: there is none.

        Example:
            >>> Exact.translate((1, datetime.date(2024, 1, 31)))
            '(1, __import__("datetime").date(2024, 1, 31))'
        """
        kind = type(val)
        if val is None or isinstance(val, (str, bool, int, float, dict, list)):
            return super().translate(val)
        if kind is decimal.Decimal:
            return f'__import__("decimal").{val!r}'
        if kind in _BY_REPR:
            # By `__import__`: the notebook's own `datetime` may be the class, and stays what it is.
            return _MODULE.sub(r'__import__("\1").', repr(val))
        if kind is tuple:
            return "(" + ", ".join(map(cls.translate, val)) + (",)" if len(val) == 1 else ")")
        if kind in (set, frozenset):
            return f"{kind.__name__}([" + ", ".join(map(cls.translate, sorted(val, key=repr))) + "])"
        if isinstance(val, PurePath):
            return f'__import__("pathlib").Path({str(val)!r})'
        if kind is complex and math.isfinite(val.real) and math.isfinite(val.imag):
            return repr(val)
        if kind.__module__ == "numpy" and getattr(val, "ndim", 1) == 0 and type(val.item()) is not kind:
            return cls.translate(val.item())
        raise TypeError(kind.__name__)

    @classmethod
    def translate_dict(cls, val: Any) -> str:
        return "{" + ", ".join(f"{cls.translate(key)}: {cls.translate(one)}" for key, one in val.items()) + "}"


def python_source(parameters: Mapping[str, Any]) -> str:
    """The cell that sets these parameters.

    Raises:
        BadValue: a value has no literal.
    """
    for name, value in parameters.items():
        try:
            Exact.translate(value)
        except TypeError as error:
            raise BadValue(
                what=f"the parameter `{name}` cannot be a {error}",
                why="a parameter is written into the notebook, so it is text, numbers, dates, and lists and mappings",
                next="save the value to a file or a store, and send its path as the parameter",
            ) from error
    return Exact.codify(dict(parameters), "Parameters")


def plain(value: Any) -> Any:
    """What JSON, and so the notebook's metadata, can hold of a value.

    Example:
        >>> plain({1: (datetime.date(2024, 1, 31), float("nan"))})
        {'1': ['2024-01-31', 'nan']}
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)
