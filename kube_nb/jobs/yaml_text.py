"""Manifests as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


def yaml_of(manifests: Iterable[Mapping[str, Any]]) -> str:
    """YAML that `kubectl` reads as what was written.

    Go's YAML takes a lone `y` or `n` for a truth value, which Python's does not, so it writes them without quotes.

    Example:
        >>> print(yaml_of([{"labels": {"team": "y"}}]), end="")
        ---
        labels:
          team: 'y'
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]$"), list("yYnN"))
    return yaml.dump_all(manifests, Dumper=Dumper, sort_keys=False, explicit_start=True)
