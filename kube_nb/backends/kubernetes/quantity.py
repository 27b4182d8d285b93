"""Quantities as Kubernetes writes them: `100m`, `1Gi`, `2e3`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", start=1)}
_BILLIONTHS = 10**9
_QUANTITY = re.compile(r"([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)([a-zA-Z]*)")

Amounts = dict[str, float]
"""Resource -> how much: cores, bytes, devices."""


def number(quantity: str | float) -> float:
    """A quantity as a number; not a number where it is none.

    Example:
        >>> number("250m"), number("1Gi"), number(2)
        (0.25, 1073741824.0, 2.0)
    """
    match = _QUANTITY.fullmatch(str(quantity).strip())
    if match is None or match[2] not in _UNITS:
        return math.nan
    return float(match[1]) * _UNITS[match[2]]


def amounts(quantities: Mapping[str, Any] | None) -> Amounts:
    """The same for a mapping, such as a node's `allocatable`."""
    return {name: number(quantity) for name, quantity in (quantities or {}).items()}


def asked_by(pod: Mapping[str, Any]) -> Amounts:
    """What the scheduler sets aside for a pod with this spec: its containers together or its largest init container,
    where a limit stands in for a request that is missing."""
    total: Amounts = {}
    for container in pod.get("containers") or ():
        total = plus(total, _of(container))
    sidecars: Amounts = {}
    for container in pod.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars = plus(sidecars, _of(container))
            total = plus(total, _of(container))
        else:
            while_starting = plus(sidecars, _of(container))
            total = {name: max(total.get(name, 0), while_starting.get(name, 0)) for name in total | while_starting}
    return plus(total, amounts(pod.get("overhead")))


def limits_of(pod: Mapping[str, Any]) -> Amounts:
    """The limits of a pod's containers together."""
    total: Amounts = {}
    for container in pod.get("containers") or ():
        total = plus(total, amounts((container.get("resources") or {}).get("limits")))
    return total


def at_most(amount: float, limit: float) -> bool:
    """Whether an amount stays within a limit; nothing is known to exceed what is no number.

    Counted in billionths, the smallest unit of Kubernetes: three times a tenth is more than three tenths for a float.

    Example:
        >>> at_most(3 * 0.1, 0.3), at_most(0.301, 0.3)
        (True, False)
    """
    if not (math.isfinite(amount) and math.isfinite(limit)):
        return not amount > limit
    return round(amount * _BILLIONTHS) <= round(limit * _BILLIONTHS)


def plus(*parts: Mapping[str, float]) -> Amounts:
    """The sum, resource by resource."""
    return {name: sum(part.get(name, 0) for part in parts) for name in {name for part in parts for name in part}}


def total(parts: Iterable[Mapping[str, float]]) -> Amounts:
    """The sum of any number."""
    found: Amounts = {}
    for part in parts:
        for name, amount in part.items():
            found[name] = found.get(name, 0) + amount
    return found


def shown(resource: str, amount: float) -> str:
    """For a person: `2 cores`, `4 GiB`, `3`."""
    from kube_nb.backends.reasons import size_text

    plain = resource.rpartition(".")[2] if resource.startswith(("requests.", "limits.")) else resource
    if plain == "cpu":
        return f"{amount:g} core{'s'[: amount != 1]}"
    return size_text(amount) if plain in ("memory", "storage", "ephemeral-storage") else f"{amount:g}"


def _of(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    return amounts(resources.get("limits")) | amounts(resources.get("requests"))
