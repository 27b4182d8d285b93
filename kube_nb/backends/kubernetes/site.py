"""The settings of a namespace: the ConfigMap `kube-nb-defaults`, where it can be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kube_nb.backends.kubernetes.api import Api, Object
from kube_nb.backends.kubernetes.api_error import Forbidden
from kube_nb.backends.kubernetes.kinds import CONFIG_MAPS
from kube_nb.config import Settings
from kube_nb.settings import OF_NAMESPACE
from kube_nb.toml_file import TomlFile

CONFIG_MAP = "kube-nb-defaults"
KEY = "config.toml"
"""The entry that counts: the same TOML as /etc/kube-nb/config.toml."""
_FRESH = 300.0


def joined(api: Api, settings: Settings) -> Settings:
    """These settings with what the namespace's ConfigMap says, above the machine's file and below everybody else.

    Raises:
        BadValue: it is no TOML, or a value in it means nothing; the line is named.
        Locked: a layer overrides what it locks.
    """
    text = text_of(api)
    return settings.with_site(text, where(api)) if text else settings


def where(api: Api) -> str:
    """How it is called in errors and tables."""
    return f"ConfigMap {CONFIG_MAP} of namespace {api.namespace}"


def text_of(api: Api) -> str:
    """What it says; empty where there is none, or where it cannot be read."""
    return ((config_map(api) or {}).get("data") or {}).get(KEY, "")


def config_map(api: Api) -> Object | None:
    """As it was a few minutes ago at most."""
    return api.remember(CONFIG_MAP, lambda: _read(api), seconds=_FRESH)


@dataclass(frozen=True)
class Said:
    """What a ConfigMap says, by name: settings that it sets, those that it locks, and what it has no say in."""

    sets: tuple[str, ...]
    locks: tuple[str, ...]
    ignored: tuple[str, ...]


def said(api: Api) -> Said | None:
    """What it says; None: there is none, or it cannot be read.

    Raises:
        BadValue: it is no TOML.
    """
    text = text_of(api)
    if not text:
        return None
    values = TomlFile.parse(text, Path(where(api))).values
    locked = values.pop("locked", [])
    locks = [str(name) for name in locked] if isinstance(locked, list) else []
    return Said(
        sets=tuple(sorted(OF_NAMESPACE & set(values))),
        locks=tuple(name for name in locks if name.partition(".")[0] in OF_NAMESPACE),
        ignored=tuple(
            sorted({*values, *locks} - {name for name in {*values, *locks} if name.partition(".")[0] in OF_NAMESPACE})
        ),
    )


def _read(api: Api) -> Object | None:
    try:
        return api.find(CONFIG_MAPS, CONFIG_MAP)
    except Forbidden:
        return None
