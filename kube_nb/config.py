"""The layers of the settings, and where each value came from.

Weakest first: defaults, the site (its file, and above it what the namespace of a target says), the user's file, the
nearest pyproject.toml, a notebook's metadata, `KUBE_NB_*`, the named target that a job is sent to, `%kube_config`, a
flag. The strongest layer that sets a setting wins. In a table (`labels`, `image_map`, `targets`) each entry counts by
itself, so that a person adds a label to those of the site. Which settings there are stands in `settings.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from kube_nb.errors import BadValue, Locked
from kube_nb.settings import OF_NAMESPACE, PLACE_OF_TARGET, SETTINGS, Setting, declared, near, table_of
from kube_nb.toml_file import Key, TomlFile, write_toml

SITE = Path("/etc/kube-nb/config.toml")
PREFIX = "KUBE_NB_"
LAYERS = ("site", "user", "project", "notebook", "environment", "target", "kernel", "flag")
"""Weakest first; below them are the defaults."""

Layer = Literal["default", "site", "user", "project", "notebook", "environment", "target", "kernel", "flag"]

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
        locked, at_site = _site(TomlFile.read(site))
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
        setting, depth = _meaning(key)
        if len(key) <= depth:
            return self._table(key)
        for entries in self._strongest_first():
            if key in entries:
                return entries[key].value
        return None if setting.initial is None or depth else setting.read(setting.initial)

    def origin(self, name: str) -> Origin:
        """Which layer set the value that holds; of a table: the strongest that set any of its entries."""
        key = _key(name)
        declared(key[0])
        for layer in reversed(LAYERS):
            for candidate, entry in self._layers.get(layer, {}).items():
                if candidate[: len(key)] == key:
                    return Origin(cast("Layer", layer), entry.where)
        return Origin("default")

    def with_layer(self, layer: Literal["notebook", "kernel", "flag"], values: Mapping[str, Any]) -> Settings:
        """These settings with a layer replaced; what is None is not set by it.

        Raises:
            BadValue: a name or a value means nothing.
            Locked: the site has locked one of them.
        """

        def where(key: Key) -> str:
            if layer == "notebook":
                return "the notebook's metadata"
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

    def for_target(self, target: str) -> Settings:
        """These settings as they hold for jobs that are sent to a target: NAME, or NAME/NAMESPACE.

        What a named target says is stronger than what is said for all targets, but for `%kube_config` and flags, which
        are said later. A target without a name changes nothing.

        Raises:
            Locked: the target overrides what the site has locked.
        """
        named = self._table(("targets",))
        name = target if target in named else target.rpartition("/")[0]
        ours: dict[Key, _Entry] = {}
        foreign: dict[Key, _Entry] = {}
        for layer in LAYERS:
            for key, entry in self._layers.get(layer, {}).items():
                if key[:2] == ("targets", name) and key[2] not in PLACE_OF_TARGET:
                    ours[key[2:]] = entry
                    if layer == "site":  # the site may contradict itself
                        foreign.pop(key[2:], None)
                    else:
                        foreign[key[2:]] = entry
        self._guard(foreign)
        return replace(self, _layers={**self._layers, "target": ours})

    def with_site(self, text: str, called: str) -> Settings:
        """These settings where the site says more: TOML that a target's namespace keeps for all its users.

        It is stronger than the site's file, which is of one machine, but for what that file locks: of the two, only
        the file is out of reach of the namespace's users. What a namespace has no say in, and what this version does
        not know, is left out: one text serves people with other versions too.

        Args:
            called: how errors and tables name it.

        Raises:
            BadValue: it is no TOML, or a value means nothing.
            Locked: a layer overrides what it locks.
        """
        locks, entries = _site(TomlFile.parse(text, Path(called)), OF_NAMESPACE)
        patch = entries.get(("patch",))
        if patch is not None and isinstance(patch.value, str):
            raise BadValue(what=f"`patch` names a file ({patch.where})", next="write the patch itself, as a table")
        held = {key: entry for key, entry in entries.items() if not self._lock(key)}
        told = replace(
            self,
            _layers={**self._layers, "site": {**self._layers["site"], **held}},
            _locks={**locks, **self._locks},
        )
        own = {id(entry) for entry in self._layers["site"].values()}
        for layer in LAYERS[1:]:
            entries = self._layers.get(layer, {})
            told._guard({key: entry for key, entry in entries.items() if id(entry) not in own})
        return told

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
        declared(key[0])
        entries = {} if value is None else _entries({name: value}, lambda _: "")
        self._guard(entries)
        _file(self._user_file)  # what is broken already is told before anything is written
        write_toml(
            self._user_file,
            {leaf: _plain(_shown(leaf, entry)) for leaf, entry in entries.items()},
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
                shown = setting.initial if entry is None else _shown(key, entry)
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
                    next="leave it out, or ask whoever keeps that",
                )


def _key(name: str) -> Key:
    """`labels.team` is an entry of the table `labels`; the entry's own name may hold dots."""
    setting = SETTINGS.get(name.split(".", 1)[0])
    return _parts(name, setting) if setting else (name,)


def _parts(name: str, setting: Setting) -> Key:
    parts = tuple(name.split(".", setting.depth))
    inner = setting.entries.get(parts[-1].split(".", 1)[0]) if len(parts) > setting.depth else None
    return (*parts[:-1], *_parts(parts[-1], inner)) if inner else parts


def _meaning(key: Key) -> tuple[Setting, int]:
    """What a key's value means, and how many names stand above a value.

    Raises:
        BadValue: there is no such setting, or no such entry of it.
    """
    setting = declared(key[0])
    if not setting.entries or len(key) <= setting.depth:
        return setting, setting.depth
    entry = key[setting.depth]
    if entry not in setting.entries:
        nearest = near(entry, setting.entries) or ", ".join(sorted(setting.entries))
        raise BadValue(what=f"`{'.'.join(key[1:])}` means nothing", next=f"did you mean {nearest}?")
    inner = setting.entries[entry]
    return inner, setting.depth + inner.depth


def _shown(key: Key, entry: _Entry) -> Any:
    """As a person reads it again."""
    return entry.written if _meaning(key)[0].as_written else entry.value


def _entries(values: Mapping[str, Any], where: Callable[[Key], str]) -> dict[Key, _Entry]:
    """What a layer says, taken apart to its entries and parsed."""
    entries: dict[Key, _Entry] = {}
    for name, value in values.items():
        key = _key(name)
        declared(key[0], where(key))
        try:
            for leaf, written in _leaves(key, value):
                entries[leaf] = _Entry(_meaning(leaf)[0].read(written), written, where(leaf))
        except BadValue as bad:
            source = f" ({where(key)})" if where(key) else ""
            raise BadValue(f"setting `{name}`{source}: {bad.what}", bad.why, bad.next) from None
    return entries


def _leaves(key: Key, value: Any) -> Iterator[tuple[Key, Any]]:
    setting, depth = _meaning(key)
    if len(key) > depth:
        yield key, value
        return
    table = table_of(value)
    if len(key) > 1 and not table:
        raise BadValue(what=f"`{'.'.join(key)}` is empty")
    for name, entry in table.items():
        if setting.entries and len(key) == 1 and not _NAME.fullmatch(name):
            raise BadValue(what=f"`{name}` is not a name", next="use letters, digits, - and _")
        yield from _leaves((*key, name), entry)


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


def _site(file: TomlFile, only: frozenset[str] | None = None) -> tuple[dict[Key, str], dict[Key, _Entry]]:
    """The site's locks and settings; what is not among `only` is left out."""
    names: Any = file.values.get("locked", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast("list[Any]", names)):
        raise BadValue(what=f"`locked` is not a list of names ({file.place(('locked',))})")
    locks: dict[Key, str] = {}
    for name in cast("list[str]", names):
        if only is None:
            declared(_key(name)[0], file.place(("locked",)))
        if only is None or _key(name)[0] in only:
            locks[_key(name)] = str(file.path)
    values = {name: v for name, v in file.values.items() if name != "locked" and (only is None or name in only)}
    return locks, _entries(values, file.place)


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
