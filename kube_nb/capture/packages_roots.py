"""The certificates that a job's installer trusts: the person's own travel, everybody's do not."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


def content_of(path: Path | None) -> str:
    """The certificates in a file; empty where there is none, or it cannot be read."""
    try:
        return path.read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError):
        return ""


def without_public_roots(ca: str) -> str:
    """Of the certificates in a file, those that not everybody trusts; all of them where the file means to trust few."""
    public = _public_roots()
    own = {_compact(match[1]): match[0] for match in _CERTIFICATE.finditer(ca)}
    if not public or len(public & own.keys()) < len(public) / 2:
        return ca
    return "\n".join(text for key, text in own.items() if key not in public)


@lru_cache(maxsize=1)
def _public_roots() -> frozenset[str]:
    """Those that certifi knows, or pip's copy of it; none where neither is here."""
    for name in ("certifi", "pip"):
        spec = find_spec(name)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            file = Path(place, "" if name == "certifi" else "_vendor/certifi", "cacert.pem")
            if file.is_file():
                return frozenset(_compact(match[1]) for match in _CERTIFICATE.finditer(content_of(file)))
    return frozenset()


def _compact(certificate: str) -> str:
    return "".join(certificate.split())
