"""Which package index the person uses, read from the configuration of uv and pip, and what that index serves."""

from __future__ import annotations

import configparser
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from packaging.tags import Tag
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, canonicalize_name
from packaging.utils import parse_sdist_filename as sdist
from packaging.utils import parse_wheel_filename as wheel
from packaging.version import InvalidVersion, Version

from kube_nb.capture.packages_roots import content_of, without_public_roots
from kube_nb.runner.installer import CREDENTIALS, PROXIES, PROXY_VARIABLES


@dataclass(frozen=True, kw_only=True)
class Index:
    """Where packages come from.

    Attributes:
        url: the main index; empty: the installer's own default.
        extra: further indexes. find_links: directories or pages with archives.
        strategy: how uv chooses between indexes; pip knows one way only, "unsafe-best-match".
        no_index: only `find_links` count.
        ca: file with the certificates to trust. insecure: hosts that are not asked for one.
        credentials: URL as above -> "user:password". Secret; in no URL above.
        proxies: variable -> URL, or the hosts that need none. Secret: a password may be in them.
    """

    url: str = ""
    extra: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    strategy: str = ""
    no_index: bool = False
    ca: Path | None = None
    insecure: tuple[str, ...] = ()
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)

    def manifest(self, *, public_roots: bool = True) -> dict[str, Any]:
        """What the runner is told, without the credentials; empty where nothing is configured.

        Args:
            public_roots: without, what everybody trusts is left out of the certificates: where the job runs it has
                its own, and a quarter of a megabyte for each job is a lot to keep.
        """
        ca = content_of(self.ca)
        private = ca if public_roots else without_public_roots(ca)
        told: dict[str, Any] = {
            "url": self.url,
            "extra": list(self.extra),
            "find_links": list(self.find_links),
            "strategy": self.strategy,
            "no_index": self.no_index,
            "insecure": list(self.insecure),
            "ca": private,
            "ca_public": private != ca,
        }
        return {key: value for key, value in told.items() if value}

    def env(self) -> dict[str, str]:
        """Secret: the credentials, as a variable of the job that the runner removes before the code starts."""
        return {CREDENTIALS: json.dumps(dict(self.credentials))} if self.credentials else {}

    def env_elsewhere(self) -> dict[str, str]:
        """Secret: the same with the way to the index, which a job does not inherit from this process there."""
        return self.env() | ({PROXIES: json.dumps(dict(self.proxies))} if self.proxies else {})


def user_index(
    environ: Mapping[str, str] | None = None, *, directory: Path | None = None, home: Path | None = None
) -> Index:
    """The index that the person's uv and pip would use.

    Where both are configured, uv's word comes first and the further indexes of both count. Environment variables come
    before files, and a project's file before the user's and the machine's.

    Args:
        environ: default: os.environ.
        directory: where a uv project is looked for, upwards; default: the working directory.
        home: the person's home directory.
    """
    env = os.environ if environ is None else environ
    base = Path.home() if home is None else home
    uv, pip = _uv(env, directory or Path.cwd(), base), _pip(env, base)
    sources = (uv, pip)
    credentials: dict[str, str] = {}

    def clean(urls: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_without_credentials(url, credentials) for url in urls))

    main = clean([url for source in sources for url in source.get("url", [])][:1])
    extra = clean([url for source in sources for url in source.get("extra", [])])
    for url, secret in uv.get("named", []):
        credentials.setdefault(_without_credentials(url, credentials), secret)
    strategy = "".join(uv.get("strategy", [])[:1])
    ca = next(iter([*pip.get("ca", []), *uv.get("ca", [])]), None)
    return Index(
        url="".join(main),
        extra=tuple(url for url in extra if url not in main),
        find_links=clean([url for source in sources for url in source.get("find_links", [])]),
        # What pip does with several indexes; uv's own default would take every package from the first that knows it.
        strategy=strategy or ("unsafe-best-match" if pip.get("extra") or uv.get("explicit") else ""),
        no_index=bool(uv.get("no_index") or pip.get("no_index")),
        ca=Path(ca).expanduser() if ca else None,
        insecure=tuple(dict.fromkeys(host for source in sources for host in source.get("insecure", []))),
        credentials=credentials,
        proxies=_proxies(env, "".join(pip.get("proxy", [])[:1])),
    )


def _proxies(env: Mapping[str, str], of_pip: str) -> dict[str, str]:
    """What uv and pip go through: variables, before which pip's own setting comes."""
    known = {name: env.get(name) or env.get(name.lower()) or "" for name in PROXY_VARIABLES}
    if of_pip:
        known |= {"HTTP_PROXY": of_pip, "HTTPS_PROXY": of_pip}
    found = {name: value for name, value in known.items() if value}
    return found if set(found) - {"NO_PROXY"} else {}


def with_setting(index: Index, urls: Sequence[str]) -> Index:
    """The index that the setting `index` names, in the place of the installers' own; certificates stay.

    It is reached without the proxies of this machine: whoever names it there means one that jobs reach.
    """
    if not urls:
        return index
    credentials = dict(index.credentials)
    first, *further = dict.fromkeys(_without_credentials(url, credentials) for url in urls)
    return replace(
        index,
        url=first,
        extra=tuple(further),
        find_links=(),
        strategy="",
        no_index=False,
        credentials=credentials,
        proxies={},
    )


_Source = dict[str, list[Any]]
_TRUE = frozenset({"1", "true", "yes", "on", "y", "t"})


def _pip(env: Mapping[str, str], home: Path) -> _Source:
    options: dict[str, str] = {}
    for file in _pip_files(env, home):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue  # pip itself will say what is wrong with its file
        for section in ("global", "install"):
            if parser.has_section(section):
                options |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    options |= {key[4:].lower().replace("_", "-"): value for key, value in env.items() if key.startswith("PIP_")}
    found: _Source = {
        "url": options.get("index-url", options.get("pypi-url", "")).split(),
        "extra": options.get("extra-index-url", "").split(),
        "find_links": options.get("find-links", "").split(),
        "proxy": options.get("proxy", "").split(),
        "insecure": options.get("trusted-host", "").split(),
        "ca": [options["cert"]] if options.get("cert") else [],
        "no_index": [True] if options.get("no-index", "").lower() in _TRUE else [],
    }
    return {key: value for key, value in found.items() if value}


def _pip_files(env: Mapping[str, str], home: Path) -> Iterator[Path]:
    """The files that pip reads, weakest first."""
    name = "pip.ini" if os.name == "nt" else "pip.conf"
    chosen = env.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    if sys.platform == "darwin":
        yield Path("/Library/Application Support/pip") / name
        yield home / "Library/Application Support/pip" / name
    if os.name == "nt":
        yield Path(env.get("PROGRAMDATA", "C:/ProgramData")) / "pip" / name
        yield home / "pip" / name
        yield Path(env.get("APPDATA", str(home / "AppData/Roaming"))) / "pip" / name
    else:
        for place in reversed(env.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)):
            yield Path(place) / "pip" / name
        yield Path("/etc") / name
        yield home / ".pip" / name
        yield Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / name
    yield Path(sys.prefix) / name
    if chosen:
        yield Path(chosen)


def _uv(env: Mapping[str, str], directory: Path, home: Path) -> _Source:
    found: _Source = {}
    for table in _uv_tables(env, directory, home):
        for settings in (table.get("pip", {}), table):  # `uv pip` reads its own table first
            for key, values in _uv_settings(settings, env).items():
                found.setdefault(key, []).extend(values)
    from_env: _Source = {
        "url": [env[key] for key in ("UV_DEFAULT_INDEX", "UV_INDEX_URL") if env.get(key)],
        "extra": f"{env.get('UV_INDEX', '')} {env.get('UV_EXTRA_INDEX_URL', '')}".split(),
        "find_links": [part for part in env.get("UV_FIND_LINKS", "").split(",") if part],
        "strategy": [env["UV_INDEX_STRATEGY"]] if env.get("UV_INDEX_STRATEGY") else [],
        "insecure": env.get("UV_INSECURE_HOST", "").split(),
        "ca": [env["SSL_CERT_FILE"]] if env.get("SSL_CERT_FILE") else [],
        "no_index": [True] if env.get("UV_NO_INDEX", "").lower() in _TRUE else [],
    }
    for key in ("url", "extra"):
        from_env[key] = [_unnamed(url) for url in from_env[key]]
    return {key: values for key in found | from_env if (values := [*from_env.get(key, []), *found.get(key, [])])}


def _uv_tables(env: Mapping[str, str], directory: Path, home: Path) -> Iterator[dict[str, Any]]:
    """The configuration of uv, strongest first."""
    if env.get("UV_NO_CONFIG", "").lower() in _TRUE:
        return
    if env.get("UV_CONFIG_FILE"):
        yield _toml(Path(env["UV_CONFIG_FILE"]))
        return
    for place in (directory, *directory.parents):
        project = _toml(place / "uv.toml") or _toml(place / "pyproject.toml").get("tool", {}).get("uv", {})
        if project:
            yield project
            break
    if os.name == "nt":
        yield _toml(Path(env.get("APPDATA", str(home / "AppData/Roaming"))) / "uv" / "uv.toml")
        yield _toml(Path(env.get("PROGRAMDATA", "C:/ProgramData")) / "uv" / "uv.toml")
    else:
        yield _toml(Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "uv" / "uv.toml")
        yield _toml(Path("/etc/uv/uv.toml"))


def _uv_settings(table: Mapping[str, Any], env: Mapping[str, str]) -> _Source:
    indexes = [entry for entry in table.get("index", []) if entry.get("url")]
    named: list[tuple[str, str]] = []
    for entry in indexes:
        prefix = f"UV_INDEX_{re.sub(r'[^A-Z0-9]', '_', str(entry.get('name', '')).upper())}"
        user, password = env.get(f"{prefix}_USERNAME", ""), env.get(f"{prefix}_PASSWORD", "")
        if entry.get("name") and (user or password):
            named.append((entry["url"], f"{user}:{password}"))
    return {
        "url": [entry["url"] for entry in indexes if entry.get("default")] + _list(table.get("index-url")),
        "extra": [entry["url"] for entry in indexes if not entry.get("default")] + _list(table.get("extra-index-url")),
        "explicit": [True for entry in indexes if entry.get("explicit")],
        "find_links": _list(table.get("find-links")),
        "strategy": _list(table.get("index-strategy")),
        "insecure": _list(table.get("allow-insecure-host")),
        "no_index": [True] if table.get("no-index") else [],
        "named": named,
    }


def _list(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)] if value else []


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def _unnamed(url: str) -> str:
    """uv lets an index have a name: `pytorch=https://…`."""
    name, equals, rest = url.partition("=")
    return rest if equals and "/" not in name else url


def _without_credentials(url: str, credentials: dict[str, str]) -> str:
    """The URL without user and password, which go into `credentials`."""
    parts = urlsplit(url)
    secret, at, host = parts.netloc.rpartition("@")
    plain = urlunsplit(parts._replace(netloc=host)) if at else url
    plain = plain.rstrip("/") if parts.scheme in ("http", "https") else plain
    if at:
        credentials[plain] = secret
    return plain


@dataclass(frozen=True)
class Offer:
    """What an index has of one version of a package for the target.

    Attributes:
        found: whether it has a file that can be installed there; None: nobody could be asked.
        size: bytes of that file; None: not known.
    """

    found: bool | None = None
    size: int | None = None


Serves = Callable[[str, str], Offer]
"""Asked with a package's name and version."""
Fetch = Callable[[str], bytes | None]
"""Gets a page of an index, as PEP 691 JSON or PEP 503 HTML; None: there is no such page. Raises OSError otherwise."""


def nobody(name: str, version: str) -> Offer:
    """The answer where no index can be asked."""
    return Offer()


def serving(index: Index, tags: frozenset[Tag], fetch: Fetch) -> Serves:
    """What `index` has for a target that can use wheels with one of `tags`; each page is fetched once.

    Where no main index is configured, the installer's own is asked in the job and not here: what the others lack is
    then not known.
    """
    complete = bool(index.url or index.no_index)
    pages: dict[str, list[tuple[str, int | None]] | None] = {}

    def serves(name: str, version: str) -> Offer:
        key = canonicalize_name(name)
        if key not in pages:
            pages[key] = _files(index, key, fetch)
        files = pages[key]
        offer = Offer() if files is None else _offer(files, key, version, tags)
        return offer if offer.found or complete else Offer()

    return serves


def _files(index: Index, name: str, fetch: Fetch) -> list[tuple[str, int | None]] | None:
    found: list[tuple[str, int | None]] = []
    urls = () if index.no_index else tuple(filter(None, (index.url, *index.extra)))  # those that were configured
    try:
        for url in urls:
            found += _read_page(fetch(f"{url}/{quote(name)}/"))
        for place in index.find_links:
            if urlsplit(place).scheme in ("http", "https"):
                found += _read_page(fetch(place))
            else:
                directory = Path(place.removeprefix("file://")).expanduser()
                found += [(file.name, file.stat().st_size) for file in directory.iterdir()]
    except (OSError, ValueError):  # unreachable, or no page of an index
        return None
    return found


def _offer(files: Sequence[tuple[str, int | None]], name: str, version: str, tags: frozenset[Tag]) -> Offer:
    try:
        wanted = Version(version)
    except InvalidVersion:
        return Offer(found=False)
    source: Offer | None = None
    for file, size in files:
        try:
            if file.endswith(".whl"):
                project, found, _, supported = wheel(file)
                if project == name and found == wanted and not supported.isdisjoint(tags):
                    return Offer(found=True, size=size)
            elif sdist(file) == (name, wanted):
                source = Offer(found=True, size=size)
        except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
            continue  # indexes hold files that no installer of today can read
    return source or Offer(found=False)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href") if tag == "a" else None
        if href:
            self.files.append(urlsplit(href).path.rpartition("/")[2].replace("%2B", "+").replace("%2b", "+"))


def _read_page(page: bytes | None) -> list[tuple[str, int | None]]:
    if page is None:
        return []
    if page.lstrip().startswith(b"{"):
        return [(file["filename"], file.get("size")) for file in json.loads(page).get("files", [])]
    links = _Links()
    links.feed(page.decode("utf-8", "replace"))
    return [(file, None) for file in links.files]
