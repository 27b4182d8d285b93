"""What a job must have installed: what its code and values import, what the person asked for, and where it is from."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kube_nb.capture.locate import path_of
from kube_nb.capture.modules import LocalModules
from kube_nb.capture.work import Choice

if TYPE_CHECKING:
    from kube_nb.capture.packages_index import Index

_IN_EVERY_JOB = frozenset({"kube_nb", "cloudpickle", "__main__", "__mp_main__"})
"""Top-level names that every job has: a small kube_nb, and cloudpickle at the kernel's version."""
_NAMES_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})


@dataclass(frozen=True, kw_only=True)
class Packages:
    """What is installed before the code starts.

    Attributes:
        manifest: as the runner reads it (`runner/environment.py`).
        env: credentials of the package index, which the runner takes away again; secret.
        lines: what a person should know, one sentence each.
    """

    manifest: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    lines: tuple[str, ...] = ()


def packages_of(
    choice: Choice,
    imports: Iterable[str],
    local: LocalModules,
    *,
    needs_ipython: bool,
    companions: Iterable[str] = (),
) -> Packages:
    """What the job installs.

    In the kernel's own interpreter that is what the person asked for; elsewhere, also what provides the modules that
    are imported, at the kernel's versions. Distributions that nobody imports stay here.

    Args:
        imports: dotted names that the sent code imports; what is not installed here is named.
        local: the person's own modules, and what they import in turn.
        needs_ipython: the sent code uses magics.
        companions: modules that the job should have too; without them it shows less.

    Raises:
        BadValue: a package that was asked for is no requirement.
        CannotTravel: something was installed from a local path, which only this machine has.
    """
    elsewhere = choice.target is not None
    told: dict[str, Any] = {"install": choice.install, "requires_ipython": elsewhere and needs_ipython}
    modules = set[str]()
    if choice.target is not None:
        modules = {*local.external, *_unknown(imports, local), *choice.target.needs} - {"cloudpickle"}
    if elsewhere and needs_ipython:
        modules.add("IPython")
    wishes = {*companions} - modules if elsewhere and choice.install != "never" else set[str]()
    if not modules and not wishes and not choice.packages:
        return Packages(manifest=told | {"pins": [], "constraints": [], "index": {}})
    from kube_nb.capture.packages import Kernel, pins
    from kube_nb.capture.packages_fetch import fetching
    from kube_nb.capture.packages_index import nobody, serving, user_index, with_setting
    from kube_nb.capture.packages_rules import tags_of

    index, lines = with_setting(user_index(), choice.index), ()
    serves = nobody
    if choice.target is not None:
        serves = serving(index, tags_of(choice.target), fetching(index))
    found = pins(modules, kernel=Kernel(), target=choice.target, packages=choice.packages, serves=serves)
    told |= {"pins": list(found.pins), "constraints": list(found.constraints), "index": {}}
    if wishes:
        more = pins(modules | wishes, kernel=Kernel(), target=choice.target, packages=choice.packages, serves=serves)
        told["wished"] = [pin for pin in more.pins if pin not in found.pins]
        told["constraints"] = list(more.constraints)
    if not found.pins and not told.get("wished"):
        return Packages(manifest=told, lines=found.lines)
    if elsewhere:
        index, lines = _travelling(index)
        asked = pins((), kernel=Kernel(), packages=choice.packages).pins
        told["inferred"] = [pin for pin in found.pins if pin not in asked]
    told["index"] = index.manifest(public_roots=not elsewhere)
    return Packages(
        manifest=told, env=index.env_elsewhere() if elsewhere else index.env(), lines=(*found.lines, *lines)
    )


def credentials(index: Sequence[str] = (), *, elsewhere: bool = False) -> dict[str, str]:
    """Secret: what `Packages.env` has for a job that is made now.

    Args:
        index: package indexes of the settings.
        elsewhere: the job does not run in the kernel's own interpreter.
    """
    from kube_nb.capture.packages_index import user_index, with_setting

    found = with_setting(user_index(), index)
    return _travelling(found)[0].env_elsewhere() if elsewhere else found.env()


def _unknown(imports: Iterable[str], local: LocalModules) -> set[str]:
    """What the code imports and nobody here has: the person hears of it."""
    known = {name.partition(".")[0] for name in local.external} | local.names | sys.stdlib_module_names | _IN_EVERY_JOB
    return {name for name in imports if name and name.partition(".")[0] not in known}


def _holds_something(place: Path) -> bool:
    try:
        return any(place.iterdir()) if place.is_dir() else place.exists()
    except OSError:  # of somebody else
        return False


def _travelling(index: Index) -> tuple[Index, Sequence[str]]:
    """An index without what names a path of this machine, and what a person should know of it."""
    lines: list[str] = []

    def elsewhere(url: str) -> bool:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            if _holds_something(path_of(url)):
                lines.append(f"packages in {url} stay here: the job cannot read a path of this machine")
            return False
        if parts.hostname in _NAMES_THIS_MACHINE:
            lines.append(f"the package index {url} is this machine's own name for itself: the job may not reach it")
        return True

    def reaches(proxy: str) -> bool:
        near = urlsplit(proxy if "://" in proxy else f"http://{proxy}").hostname in _NAMES_THIS_MACHINE
        if near:
            lines.append("the proxy of this machine stays here: the job asks the package index without it")
        return not near

    return (
        replace(
            index,
            proxies={name: value for name, value in index.proxies.items() if name == "NO_PROXY" or reaches(value)},
            url=index.url if not index.url or elsewhere(index.url) else "",
            extra=tuple(filter(elsewhere, index.extra)),
            find_links=tuple(filter(elsewhere, index.find_links)),
        ),
        list(dict.fromkeys(lines)),
    )
