"""What an interpreter has installed. Run as a script, it says so of the interpreter that runs it.

The runner itself is started without site-packages, so it asks a process that has them. Standard library only: ships
with the job.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interpreter:
    """What an interpreter has.

    Attributes:
        missing: requirement that it does not meet -> the version that it has instead, or "".
        installed: normalised name -> version.
        abi: what compiled packages depend on.
        modules: installers that it can run with -m.
    """

    missing: dict[str, str]
    installed: dict[str, str]
    abi: list[str]
    modules: list[str]


def look(wanted: Sequence[str]) -> Interpreter:
    """The facts about this process."""
    installed: dict[str, str] = {}
    for place in sys.path:
        for entry in sorted(os.listdir(place)) if os.path.isdir(place) else ():
            stem, _, kind = entry.rpartition(".")
            if kind in ("dist-info", "egg-info"):
                name, _, version = stem.partition("-")
                installed.setdefault(name_of(name), version)
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    abi = [sys.implementation.cache_tag, sysconfig.get_config_var("SOABI"), sysconfig.get_platform(), libc]
    return Interpreter(
        missing={pin: installed.get(name_of(pin), "") for pin in wanted if not _present(pin, installed)},
        installed=installed,
        abi=[str(fact) for fact in abi],
        modules=[name for name in ("uv", "pip") if importlib.util.find_spec(name)],
    )


def _present(requirement: str, installed: Mapping[str, str]) -> bool:
    """Whether a requirement is met; what cannot be judged here is left to the installer, and so not present."""
    version = installed.get(name_of(requirement))
    simple = re.fullmatch(r"[A-Za-z0-9._-]+(?:==([^*;,\s]+))?", requirement.replace(" ", ""))
    if simple:
        return version is not None and (simple[1] is None or _same(simple[1], version))
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        try:
            from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
        except ImportError:
            return False
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        return False
    if parsed.marker is not None and not parsed.marker.evaluate():
        return True
    if parsed.url or parsed.extras or version is None:
        return False
    return parsed.specifier.contains(version, prereleases=True)


def _same(pinned: str, version: str) -> bool:
    """Equal as versions: a pin without a local label means every build of that version."""
    pinned, version = pinned.lower(), version.lower()
    if "+" not in pinned:
        version = version.partition("+")[0]
    return re.sub(r"(\.0)+$", "", pinned.lstrip("v")) == re.sub(r"(\.0)+$", "", version)


def name_of(requirement: str) -> str:
    """The normalised name that a requirement begins with."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""


if __name__ == "__main__":
    print(json.dumps(vars(look(json.load(sys.stdin)))))
