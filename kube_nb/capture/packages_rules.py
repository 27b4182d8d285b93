"""How the packages of a kernel become the packages of a job on another platform: one rule for each kind.

Pure functions over what is recorded of the installed distributions, so that a lock recorded anywhere can be resolved
for any target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from packaging import tags
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from kube_nb.capture.packages_index import Offer, Serves, nobody
from kube_nb.errors import CannotTravel
from kube_nb.spec import Platform

_NEWEST_GLIBC = 36  # of the slim Python images: Debian 12
_SYSTEMS = {"Linux": ("linux", "posix"), "Darwin": ("darwin", "posix"), "Windows": ("win32", "nt")}
_CALLED = {"Darwin": "macOS"}


def called(platform: Platform) -> str:
    """A platform for a person: `macOS (arm64)`."""
    return f"{_CALLED.get(platform.system, platform.system)} ({platform.machine})"


def markers_of(platform: Platform) -> dict[str, str]:
    """What environment markers of requirements are compared with there."""
    sys_platform, os_name = _SYSTEMS.get(platform.system, (platform.system.lower(), "posix"))
    return {
        "os_name": os_name,
        "sys_platform": sys_platform,
        "platform_system": platform.system,
        "platform_machine": platform.machine,
        "platform_release": "",
        "platform_version": "",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "implementation_version": platform.python,
        "python_version": ".".join(platform.python.split(".")[:2]),
        "python_full_version": platform.python,
    }


def tags_of(platform: Platform) -> frozenset[tags.Tag]:
    """The tags of wheels that can be installed there."""
    version = (int(platform.python.split(".")[0]), int(platform.python.split(".")[1]))
    machine = platform.machine
    if platform.system == "Linux":
        legacy = ["manylinux2014", "manylinux2010", "manylinux1", "linux"]
        names = [f"manylinux_2_{minor}" for minor in range(_NEWEST_GLIBC, 4, -1)] + legacy
        platforms = [f"{name}_{machine}" for name in names]
    elif platform.system == "Darwin":
        platforms = list(tags.mac_platforms((14, 0), machine))
    else:
        platforms = [{"AMD64": "win_amd64", "ARM64": "win_arm64", "x86": "win32"}.get(machine, "win_amd64")]
    interpreter = f"cp{version[0]}{version[1]}"
    return frozenset(
        chain(
            tags.cpython_tags(version, platforms=platforms),
            tags.compatible_tags(version, interpreter, platforms),
        )
    )


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What is recorded of one installed distribution.

    Attributes:
        installer: who put it there: "pip", "uv", "conda", or empty.
        requires: its requirements as its metadata states them.
        tags: of the wheel that it came from, e.g. "cp311-cp311-macosx_11_0_arm64"; empty where not recorded.
        url: the content of direct_url.json, for what came from no index.
        build: conda's build string where `conda list` recorded it; the name is then conda's, too.
    """

    name: str
    version: str
    installer: str = ""
    requires: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    url: Mapping[str, Any] | None = None
    build: str = ""

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Installed:
        """From a recorded lock's JSON."""
        lists = {key: tuple(record.get(key, ())) for key in ("requires", "tags")}
        return cls(**{**record, **lists})

    @property
    def key(self) -> str:
        return canonicalize_name(self.name)

    @property
    def conda(self) -> bool:
        """Whether conda put it there; its builders leave the path of their own machine in direct_url.json."""
        return self.installer == "conda" or bool(_CONDA_BUILD.search(str((self.url or {}).get("url", ""))))

    @property
    def editable(self) -> bool:
        return bool((self.url or {}).get("dir_info", {}).get("editable"))


@dataclass(frozen=True, kw_only=True)
class Pins:
    """What a job has installed.

    Attributes:
        pins: requirements, one for each package that the code imports.
        constraints: the versions of what these require in turn.
        lines: what differs from the kernel, one sentence each.
    """

    pins: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


_ONLY_ON: Mapping[str, str] = {
    r"pyobjc(-.*)?|appnope|appscript|rumps|py2app|macholib|mlx(-metal)?|tensorflow-metal|coremltools-metal": "Darwin",
    r"pywin32(-ctypes)?|pypiwin32|pywinpty|winpty|wmi|comtypes|win32-setctime|windows-curses|pyreadline3?|wexpect"
    r"|torch-directml|onnxruntime-directml|tensorflow-directml.*": "Windows",
    r"nvidia-.*-cu\d+|triton|secretstorage|jeepney|pyinotify|evdev|dbus-python|python-apt|systemd-python": "Linux",
}
_CALLED_ELSEWHERE = {"tensorflow-macos": ("Darwin", "tensorflow"), "tensorflow-intel": ("Windows", "tensorflow")}

_CONDA_NAMES = {
    "pytorch": "torch",
    "torchtriton": "triton",
    "py-xgboost": "xgboost",
    "py-opencv": "opencv-python",
    "pytables": "tables",
    "msgpack-python": "msgpack",
    "matplotlib-base": "matplotlib",
    "seaborn-base": "seaborn",
    "numpy-base": "numpy",
    "pyarrow-core": "pyarrow",
    "dask-core": "dask",
    "tensorflow-base": "tensorflow",
    "brotli-python": "brotli",
    "python-graphviz": "graphviz",
    "python-tzdata": "tzdata",
    "python-xxhash": "xxhash",
    "faiss": "faiss-cpu",
    "pyqt": "pyqt5",
}
_CONDA_ONLY = re.compile(r"mkl-(service|fft|random)|conda(-.*)?|mamba|libmambapy|menuinst|anaconda(-.*)?")
"""Python packages that only conda has, or that mean nothing without it."""
_CONDA_PYTHON = re.compile(r"(^|_)py(\d|h)")
"""In the build string of a conda package: it is a Python package, not a C library or a name for a group."""
_CONDA_BUILD = re.compile(r"/(feedstock_root|croot|conda-bld|ci_py\d+|work/ci_)")


def resolve_for(
    lock: Sequence[Installed],
    target: Platform,
    serves: Serves = nobody,
    *,
    roots: Iterable[str] | None = None,
    here: Platform | None = None,
) -> Pins:
    """The packages of `lock` as they are installed on `target`.

    Args:
        lock: what is installed in the kernel, or at least all that `roots` require.
        serves: asked what the person's index has for the target, and only where the answer changes something.
        roots: distributions that the code imports; they become pins, what they require becomes constraints.
            Default: all of `lock`.
        here: the kernel's platform: what is not required there either is not spoken of. Default: it may be any.

    Raises:
        CannotTravel: something was installed from a local path, which only this machine has.
    """
    rules = _Rules(target, serves)
    known = rules.named(lock)
    wanted = set(known) if roots is None else {rules.names.get(key, key) for key in map(canonicalize_name, roots)}
    reached = _closure(known, wanted, [markers_of(target)])
    at_home = [markers_of(replace(here, python=target.python))] if here else _any_system(target)
    for key in sorted(_closure(known, wanted, at_home) - reached):
        rules.leave_out(known[key], f"for another platform than {called(target)}")
    imported_first = sorted(reached, key=lambda key: (key not in wanted, key))
    decided = {key: pin for key in imported_first if (pin := rules.pin(known[key]))}
    if rules.refused:
        raise CannotTravel(
            what=f"cannot be installed in the job: {', '.join(rules.refused)}",
            why="installed here from a local path, which exists only on this machine",
            next="install it editable (pip install -e PATH), then its source travels with the job; or from an index",
        )
    # A constraint can name no place to take a package from, so what comes from a URL is asked for itself.
    asked = {key for key, pin in decided.items() if key in wanted or " @ " in pin}
    constraints = (pin for key, pin in decided.items() if key not in asked and "==" in pin)
    return Pins(
        pins=tuple(pin for key, pin in decided.items() if key in asked),
        constraints=tuple(constraints),
        lines=rules.lines(),
    )


def _any_system(target: Platform) -> list[dict[str, str]]:
    systems = {"Linux": "x86_64", "Darwin": "arm64", "Windows": "AMD64"}
    return [
        markers_of(Platform(system=name, machine=machine, python=target.python)) for name, machine in systems.items()
    ]


def _closure(
    known: Mapping[str, Installed], wanted: Iterable[str], environments: Sequence[Mapping[str, str]]
) -> set[str]:
    """The names that `wanted` require, in any of these environments."""
    waiting = [(key, "") for key in wanted]
    seen: set[tuple[str, str]] = set()
    while waiting:
        key, extra = waiting.pop()
        if (key, extra) in seen or key not in known:
            continue
        seen.add((key, extra))
        for requirement in requirements(known[key]):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({**one, "extra": extra}) for one in environments):
                needed = canonicalize_name(requirement.name)
                waiting += [(needed, ""), *((needed, canonicalize_name(name)) for name in requirement.extras)]
    return {key for key, _ in seen}


def requirements(distribution: Installed) -> Iterator[Requirement]:
    """What a distribution requires; what no installer of today can read is left out."""
    yield from filter(None, map(_parsed, distribution.requires))


@lru_cache(maxsize=8192)
def _parsed(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


@dataclass
class _Rules:
    """What becomes of each distribution on the target, and the sentences about it."""

    target: Platform
    serves: Serves
    names: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    _said: list[str] = field(default_factory=list)
    _left_out: dict[str, list[str]] = field(default_factory=dict)
    _by_conda: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._usable = tags_of(self.target)

    def leave_out(self, one: Installed, reason: str) -> None:
        self._left_out.setdefault(reason, []).append(f"{one.name} {one.version}")

    def lines(self) -> tuple[str, ...]:
        left_out = [
            f"not installed in the job, {why}: {_listed(sorted(names, key=str.lower))}"
            for why, names in self._left_out.items()
        ]
        conda = _listed(self._by_conda)
        by_conda = [f"installed by conda here, from your package index in the job: {conda}"] if conda else []
        return (*self._said, *by_conda, *left_out)

    def named(self, lock: Sequence[Installed]) -> dict[str, Installed]:
        """The distributions by the names that an index knows."""
        known: dict[str, Installed] = {}
        for one in lock:
            if not one.build or one.installer != "conda":
                known[one.key] = one
            elif _CONDA_PYTHON.search(one.build):
                known[one.key] = replace(one, version=_normal(one.version))
        for one in lock:
            if one.key not in known:
                self.leave_out(one, "no Python packages but conda's own")
        for key, one in list(known.items()):
            other = _CONDA_NAMES.get(key) if one.build else self._called_here(key)
            if other is None:
                continue
            del known[key]
            self.names[key] = other
            if other in known:  # one project in two parts, whose requirements are split between them
                known[other] = replace(known[other], requires=(*known[other].requires, *one.requires))
            else:
                known[other] = replace(one, name=other)
                self._said.append(f"{one.name} {one.version} is called {other} in a package index")
        return known

    def _called_here(self, key: str) -> str | None:
        other = _CALLED_ELSEWHERE.get(key)
        return other[1] if other and other[0] != self.target.system else None

    def pin(self, one: Installed) -> str | None:
        """The requirement that installs it on the target; None: it is not installed there."""
        if one.editable:
            return None  # its source travels as local modules
        for pattern, system in _ONLY_ON.items():
            if system != self.target.system and re.fullmatch(pattern, one.key):
                self.leave_out(one, f"for another platform than {called(self.target)}")
                return None
        if one.conda:
            return self._from_conda(one)
        if one.url:
            return self._from_url(one, one.url)
        if "+" in one.version:
            return self._labelled(one)
        if self._built_elsewhere(one.tags) and self.serves(one.name, one.version).found is False:
            self.leave_out(one, f"for another platform than {called(self.target)}")
            return None
        return _exactly(one)

    def _from_conda(self, one: Installed) -> str | None:
        if _CONDA_ONLY.fullmatch(one.key):
            self.leave_out(one, "only conda has them")
            return None
        if "+" in one.version:
            return self._labelled(one)
        # conda-forge counts its own builds in the version: 2.5.1.post103 is everybody's 2.5.1.
        public = replace(one, version=re.sub(r"\.post[1-9]\d{2}$", "", one.version))
        if self.serves(public.name, public.version).found is False:
            return self._newest(one, f"your package index has no {one.name} {one.version}, which conda installed here")
        self._by_conda.append(f"{public.name} {public.version}")
        return _exactly(public)

    def _newest(self, one: Installed, why: str) -> str:
        self._said.append(f"{why}: the job installs the newest version")
        return one.name

    def _labelled(self, one: Installed) -> str:
        """A version with a local label, such as torch 2.5.1+cpu, is one that only some indexes have."""
        public, _, label = one.version.partition("+")
        kept = self.serves(one.name, one.version)
        if kept.found:
            return _exactly(one)
        offer = self.serves(one.name, public)
        if offer.found is False:
            return self._newest(one, f"your package index has neither {one.name} {one.version} nor {public}")
        reason = f"your package index has no +{label}" if kept.found is False else "no index could be asked for it"
        size = f"a download of {_size(offer)}" if offer.size else "the size of the download is unknown"
        self._said.append(f"{one.name} {one.version}: {reason}, so the job installs {one.name} {public} ({size})")
        return f"{one.name}=={public}"

    def _built_elsewhere(self, built_for: Sequence[str]) -> bool:
        usable = self._usable
        return bool(built_for) and all(usable.isdisjoint(tags.parse_tag(tag)) for tag in built_for)

    def _from_url(self, one: Installed, recorded: Mapping[str, Any]) -> str | None:
        url, had_secret = _bare(str(recorded.get("url", "")))
        scheme = urlsplit(url).scheme
        vcs = recorded.get("vcs_info")
        if scheme == "file" or (scheme not in ("http", "https") and not vcs):
            self.refused.append(f"{one.name} {one.version} (from {url})")
            return None
        if had_secret or scheme == "ssh" or (vcs and "@" in url):
            self._said.append(f"{one.name} is installed from {url}: the job needs the right to read there")
        folder = f"#subdirectory={recorded['subdirectory']}" if recorded.get("subdirectory") else ""
        if vcs:
            return f"{one.name} @ {vcs['vcs']}+{url}@{vcs['commit_id']}{folder}"
        if self._built_elsewhere(one.tags):
            self._said.append(
                f"{one.name} {one.version} was installed from a file for another platform ({url}): "
                "the job takes this version from your package index"
            )
            return _exactly(one)
        hashes = recorded.get("archive_info", {}).get("hashes", {})
        checked = f"#sha256={hashes['sha256']}" if "sha256" in hashes and not folder else folder
        return f"{one.name} @ {url}{checked}"


def _listed(names: Sequence[str]) -> str:
    """At most a dozen names: nobody reads a hundred."""
    shown = names if len(names) <= 12 else names[:11]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(shown) < len(names) else "")


def _normal(version: str) -> str:
    """conda writes 2.9.0post0 where everybody else writes 2.9.0.post0."""
    try:
        return str(Version(version))
    except InvalidVersion:
        return version


def _exactly(one: Installed) -> str:
    return f"{one.name}=={one.version}"


def _size(offer: Offer) -> str:
    return f"{(offer.size or 0) / 1e6:,.0f} MB"


def _bare(url: str) -> tuple[str, bool]:
    """The URL without a password, and whether it had one. `git@host` alone is an account, not a secret."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at or (parts.scheme == "ssh" and ":" not in user):
        return url, False
    return urlunsplit(parts._replace(netloc=host)), True
