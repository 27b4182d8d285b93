"""Parameters as papermill's own flags give them: files, YAML, typed values, raw text; the later is the stronger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kube_nb.errors import BadValue, NotFound

_AS_PAPERMILL = {
    "None": None,
    **{text: float(text) for text in ("nan", "NaN", "inf", "-inf", "Infinity", "-Infinity")},
}


def value_of(value: Any) -> Any:
    """What a value after `-p` means to papermill where YAML takes it for text: `None`, `nan`, `inf`."""
    return _AS_PAPERMILL.get(value, value) if isinstance(value, str) else value


def gather(
    *,
    files: Iterable[str] = (),
    yaml: str | None = None,
    typed: Mapping[str, Any] | None = None,
    raw: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All parameters that were given.

    Args:
        files: YAML or JSON, each a mapping. yaml: such a mapping as text.
        typed, raw: by name.

    Raises:
        NotFound: a file cannot be read.
        BadValue: it is no mapping.

    Example:
        >>> gather(yaml="{lr: 0.1, day: 2024-01-31}", raw={"lr": "1"})
        {'lr': '1', 'day': '2024-01-31'}
    """
    found: dict[str, Any] = {}
    for path in files:
        found |= _mapping(f"-f {path}", _text(path))
    if yaml is not None:
        found |= _mapping(f"-y {yaml}", yaml)
    return found | dict(typed or {}) | dict(raw or {})


def _text(path: str) -> str:
    from papermill.iorw import papermill_io

    try:
        return papermill_io.read(path, [".json", ".yaml", ".yml"])
    except OSError as error:
        raise NotFound(
            what=f"the parameters in `{path}` cannot be read", why=str(error.strerror or error), next="check the path"
        ) from error


def _mapping(where: str, text: str) -> dict[str, Any]:
    import yaml
    from papermill.iorw import NoDatesSafeLoader

    try:
        value = yaml.load(text, Loader=NoDatesSafeLoader)  # noqa: S506  (a SafeLoader that knows fewer types)
    except yaml.YAMLError as error:
        raise BadValue(what=f"`{where}` is not YAML", why=str(error).partition("\n")[0]) from error
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise BadValue(what=f"`{where}` gives no parameters by name", next="write a mapping: {lr: 0.1}")
    return value
