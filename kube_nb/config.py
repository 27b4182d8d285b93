"""The layers of the settings, and where each value came from.

Weakest first: defaults, the site's file, the user's file, the nearest pyproject.toml, a notebook's metadata,
`KUBE_NB_*`, `%kube_config`, a flag. The strongest layer that sets a setting wins. In a table (`labels`, `image_map`,
`targets`) each entry counts by itself, so that a person adds a label to those of the site. Which settings there are
stands in `settings.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from kube_nb.errors import BadValue, Locked
from kube_nb.settings import SETTINGS, Setting, declared, near, table_of
from kube_nb.toml_file import Key, TomlFile, write_toml

SITE = Path("/etc/kube-nb/config.toml")
PREFIX = "KUBE_NB_"
LAYERS = ("site", "user", "project", "notebook", "environment", "kernel", "flag")
"""Weakest first; below them are the defaults."""

Layer = Literal["default", "site", "user", "project", "notebook", "environment", "kernel", "flag"]

_NAME = re.compile(r"[\w-]+")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@dataclass(frozen=True)
class Origin:
    """Where a value came from: the layer, and the place in it, e.g. `/etc/kube-nb/config.toml:3`."""

    layer: Layer
    where: str = ""


@dataclass(frozen=True)
class Row:
    """One line of `%kube_config`: `value` is text, with secrets masked; `locked` names the file that locks it."""

    name: str
    value: str
    origin: Origin
    locked: str = ""


@dataclass(frozen=True)
class _Entry:
    value: Any
    written: Any
    where: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings as they hold here and now. A value: what changes something returns new settings.

    Example:
        >>> settings = Settings.load(environ={"KUBE_NB_MEMORY": "4Gi"})
        >>> settings.get("memory"), settings.origin("memory").where
        (4294967296, 'KUBE_NB_MEMORY')
    """

    _layers: Mapping[str, Mapping[Key, _Entry]] = field(repr=False)
    _locks: Mapping[Key, str]
    _user_file: Path

    @classmethod
    def load(
        cls,
        cwd: Path | None = None,
        notebook: Mapping[str, Any] | None = None,
        *,
        kernel: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        user: Path | None = None,
        site: Path = SITE,
    ) -> Settings:
        """Read every layer.

        Args:
            cwd: where the search for pyproject.toml starts; None: the working directory.
            notebook: the metadata `kube_nb` of the notebook that is run as a job.
            kernel: what `%kube_config` has set, as `.kernel` of earlier settings gives it.
            environ: None: the environment of this process.
            user: the user's file; None: where this platform keeps it.
            site: the site's file. No variable moves it: whoever is bound by a lock could move it away.

        Raises:
            BadValue: a layer sets what does not exist or means nothing; names the place.
            Locked: a layer overrides what the site has locked.
        """
        user = user or _user_file()
        locked, at_site = _site(site)
        settings = cls(
            _layers={
                "site": at_site,
                "user": _file(user),
                "project": _project(cwd),
                "notebook": _entries(notebook or {}, lambda _: "the notebook's metadata"),
                "environment": _environment(os.environ if environ is None else environ),
            },
            _locks=locked,
            _user_file=user,
        )
        for layer in LAYERS[1:]:
            settings._guard(settings._layers.get(layer, {}))
        return settings.with_layer("kernel", kernel or {})

    def get(self, name: str) -> Any:
        """The value that holds, parsed: bytes, seconds, a tuple, a path, a dict for a table; None where nothing is set.

        Raises:
            BadValue: there is no such setting.
        """
        key = _key(name)
        setting = declared(key[0])
        if len(key) <= setting.depth:
            return self._table(key)
        for entries in self._strongest_first():
            if key in entries:
                return entries[key].value
        return None if setting.initial is None or setting.depth else setting.read(setting.initial)

    def origin(self, name: str) -> Origin:
        """Which layer set the value that holds; of a table: the strongest that set any of its entries."""
        key = _key(name)
        declared(key[0])
        for layer in reversed(LAYERS):
            for candidate, entry in self._layers.get(layer, {}).items():
                if candidate[: len(key)] == key:
                    return Origin(cast("Layer", layer), entry.where)
        return Origin("default")

    def with_layer(self, layer: Literal["kernel", "flag"], values: Mapping[str, Any]) -> Settings:
        """These settings with a layer replaced; what is None is not set by it.

        Raises:
            BadValue: a name or a value means nothing.
            Locked: the site has locked one of them.
        """

        def where(key: Key) -> str:
            return f"--{key[0].replace('_', '-')}" if layer == "flag" else "%kube_config in this kernel"

        entries = _entries({name: value for name, value in values.items() if value is not None}, where)
        self._guard(entries)
        return replace(self, _layers={**self._layers, layer: entries})

    def set(self, name: str, value: Any) -> Settings:
        """These settings with one changed for this kernel; None: no longer set by it.

        Raises:
            BadValue: the name or the value means nothing.
            Locked: the site has locked it.
        """
        key = _key(name)
        declared(key[0])
        kept = {".".join(k): v for k, v in self._kernel_entries() if k[: len(key)] != key}
        return self.with_layer("kernel", {**kept, name: value})

    @property
    def kernel(self) -> Mapping[str, Any]:
        """What is set for this kernel, as `load(kernel=...)` takes it."""
        return {".".join(key): written for key, written in self._kernel_entries()}

    def save(self, name: str, value: Any) -> Settings:
        """Write one setting into the user's file (0600, comments are kept); None: remove it from there.

        Raises:
            BadValue: the name or the value means nothing, or the file is no TOML.
            Locked: the site has locked it.
            StorageFailed: the file cannot be written.
        """
        key = _key(name)
        setting = declared(key[0])
        entries = {} if value is None else _entries({name: value}, lambda _: "")
        self._guard(entries)
        _file(self._user_file)  # what is broken already is told before anything is written
        write_toml(
            self._user_file,
            {leaf: _plain(entry.written if setting.as_written else entry.value) for leaf, entry in entries.items()},
            without=key,
        )
        return replace(self, _layers={**self._layers, "user": _file(self._user_file)})

    def table(self) -> list[Row]:
        """Every setting, and every entry of every table, with where it came from."""
        rows: list[Row] = []
        for name, setting in SETTINGS.items():
            keys = sorted({key for layer in self._layers.values() for key in layer if key[0] == name}) or [(name,)]
            for key in keys:
                entry = next((layer[key] for layer in self._strongest_first() if key in layer), None)
                if entry is None:
                    shown = setting.initial
                else:
                    shown = entry.written if setting.as_written else entry.value
                text = _CREDENTIALS.sub("***", _display(shown))
                rows.append(Row(".".join(key), text, self.origin(".".join(key)), self._lock(key)))
        return rows

    def _table(self, key: Key) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for entries in reversed(list(self._strongest_first())):
            for candidate, entry in entries.items():
                if candidate[: len(key)] == key:
                    inner = table
                    for name in candidate[len(key) : -1]:
                        inner = inner.setdefault(name, {})
                    inner[candidate[-1]] = entry.value
        return table

    def _strongest_first(self) -> Iterator[Mapping[Key, _Entry]]:
        return (self._layers[layer] for layer in reversed(LAYERS) if layer in self._layers)

    def _kernel_entries(self) -> Iterator[tuple[Key, Any]]:
        return ((key, entry.written) for key, entry in self._layers.get("kernel", {}).items())

    def _lock(self, key: Key) -> str:
        return next((file for locked, file in self._locks.items() if key[: len(locked)] == locked), "")

    def _guard(self, entries: Mapping[Key, _Entry]) -> None:
        """Locked values may be repeated, not changed."""
        for key, entry in entries.items():
            file = self._lock(key)
            site = self._layers["site"].get(key)
            if file and (site is None or site.value != entry.value):
                raise Locked(
                    what=f"`{'.'.join(key)}` cannot be changed" + (f" ({entry.where})" if entry.where else ""),
                    why=f"{file} locks it",
                    next="leave it out, or ask whoever keeps that file",
                )


def _key(name: str) -> Key:
    """`labels.team` is an entry of the table `labels`; the entry's own name may hold dots."""
    first = name.split(".", 1)[0]
    setting = SETTINGS.get(first)
    return tuple(name.split(".", setting.depth)) if setting else (name,)


def _entries(values: Mapping[str, Any], where: Callable[[Key], str]) -> dict[Key, _Entry]:
    """What a layer says, taken apart to its entries and parsed."""
    entries: dict[Key, _Entry] = {}
    for name, value in values.items():
        key = _key(name)
        setting = declared(key[0], where(key))
        try:
            for leaf, written in _leaves(key, value, setting):
                entries[leaf] = _Entry(setting.read(written), written, where(leaf))
        except BadValue as bad:
            source = f" ({where(key)})" if where(key) else ""
            raise BadValue(f"setting `{name}`{source}: {bad.what}", bad.why, bad.next) from None
    return entries


def _leaves(key: Key, value: Any, setting: Setting) -> Iterator[tuple[Key, Any]]:
    if len(key) > setting.depth:
        if setting.entries and key[-1] not in setting.entries:
            nearest = near(key[-1], setting.entries) or ", ".join(sorted(setting.entries))
            raise BadValue(what=f"`{'.'.join(key[1:])}` means nothing", next=f"did you mean {nearest}?")
        yield key, value
        return
    table = table_of(value)
    if len(key) > 1 and not table:
        raise BadValue(what=f"`{'.'.join(key)}` is empty")
    for name, entry in table.items():
        if setting.entries and len(key) == 1 and not _NAME.fullmatch(name):
            raise BadValue(what=f"`{name}` is not a name", next="use letters, digits, - and _")
        yield from _leaves((*key, name), entry, setting)


def _environment(environ: Mapping[str, str]) -> dict[Key, _Entry]:
    """`KUBE_NB_*`; an empty one is not set.

    A stranger is left alone (a Service called kube-nb gives every pod KUBE_NB_PORT), a slip of the pen is not.
    """
    values: dict[str, str] = {}
    for variable, value in environ.items():
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX).lower()
            if name in SETTINGS and value:
                values[name] = value
            elif name not in SETTINGS and (nearest := near(name, likeness=0.8)):
                declared(name, variable, hint=f"did you mean {PREFIX}{nearest.upper()}?")
    return _entries(values, lambda key: PREFIX + key[0].upper())


def _user_file() -> Path:
    import platformdirs

    return platformdirs.user_config_path("kube-nb", appauthor=False) / "config.toml"


def _site(path: Path) -> tuple[dict[Key, str], dict[Key, _Entry]]:
    """The site's locks and settings."""
    file = TomlFile.read(path)
    names: Any = file.values.get("locked", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast("list[Any]", names)):
        raise BadValue(what=f"`locked` is not a list of names ({file.place(('locked',))})")
    locks: dict[Key, str] = {}
    for name in cast("list[str]", names):
        declared(_key(name)[0], file.place(("locked",)))
        locks[_key(name)] = str(path)
    return locks, _entries({name: v for name, v in file.values.items() if name != "locked"}, file.place)


def _file(path: Path) -> dict[Key, _Entry]:
    file = TomlFile.read(path)
    return _entries(file.values, file.place)


def _project(cwd: Path | None) -> dict[Key, _Entry]:
    """`[tool.kube-nb]` of the nearest pyproject.toml; one that says nothing of us is not ours to judge."""
    try:
        start = (cwd or Path()).absolute()
    except FileNotFoundError:  # somebody removed the working directory
        return {}
    path = next((path for folder in (start, *start.parents) if (path := folder / "pyproject.toml").is_file()), None)
    if path is None:
        return {}
    file = TomlFile.read(path, needle="kube-nb")
    section: Any = file.values.get("tool", {}).get("kube-nb", {})
    if not isinstance(section, dict):
        raise BadValue(what=f"tool.kube-nb is not a table ({file.place(('tool', 'kube-nb'))})")
    return _entries(cast("dict[str, Any]", section), lambda key: file.place(("tool", "kube-nb", *key)))


def _plain(value: Any) -> Any:
    """A value as TOML has it."""
    if isinstance(value, Path):
        return str(value)
    return list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value


def _display(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        # A patch may hold anything, passwords too: only what it touches is shown.
        return ", ".join(f"{key}: ..." for key in cast("Mapping[str, Any]", value))
    if isinstance(value, tuple):
        return ", ".join(_display(item) for item in cast("tuple[Any, ...]", value))
    return f"{value:g}" if isinstance(value, float) else str(value)
