"""The sockets on which an API server is spoken to: kept alive, through a proxy, ended from another thread."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from kubernetes.client import Configuration
    from kubernetes.client.rest import RESTClientObject

_KEEP_ALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4}
"""A network that went away without a word is noticed after a minute."""


def keep_alive() -> list[tuple[int, int, int]]:
    """Options of a socket on which nothing may come for hours, and whose other end may vanish without a word."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    known = {name: getattr(socket, name) for name in _KEEP_ALIVE if hasattr(socket, name)}  # macOS lacks some
    return options + [(socket.IPPROTO_TCP, known[name], _KEEP_ALIVE[name]) for name in known]


def shut_down(stream: Any) -> None:
    """End a connection under the thread that reads it."""
    plain = getattr(stream, "socket", stream)  # through a proxy, TLS is around another socket
    if isinstance(plain, socket.socket):
        with suppress(OSError):  # it has ended by itself
            # Not the method of an SSLSocket, which also ends the decryption under the reader: what had arrived
            # would then be read as it is.
            socket.socket.shutdown(plain, socket.SHUT_RDWR)


def tls(configuration: Configuration) -> dict[str, Any]:
    """What a client of the `kubernetes` package is told of certificates, as a WebSocket takes it."""
    options: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED if configuration.verify_ssl else ssl.CERT_NONE}
    if configuration.verify_ssl and configuration.ssl_ca_cert:
        options["ca_certs"] = configuration.ssl_ca_cert
    if not configuration.verify_ssl:
        options["check_hostname"] = False
    for ours, theirs in (("certfile", "cert_file"), ("keyfile", "key_file"), ("server_hostname", "tls_server_name")):
        if getattr(configuration, theirs, None):
            options[ours] = getattr(configuration, theirs)
    return options


def proxied(configuration: Configuration) -> dict[str, Any]:
    """What it is told of a proxy, as a WebSocket takes it."""
    if not configuration.proxy:
        return {}
    proxy = urlsplit(configuration.proxy)
    options: dict[str, Any] = {
        "http_proxy_host": proxy.hostname,
        "http_proxy_port": proxy.port,
        "http_proxy_auth": _known_as(configuration.proxy),
        "proxy_type": proxy.scheme,
    }
    if configuration.no_proxy:
        options["http_no_proxy"] = configuration.no_proxy.split(",")
    return options


def pools(configuration: Configuration) -> RESTClientObject:
    """The connections of a client that were not used yet.

    A log that is followed may be silent for hours: who answers no more must be noticed otherwise.
    """
    from kubernetes.client.rest import RESTClientObject
    from urllib3 import make_headers

    who = _known_as(configuration.proxy or "")
    if who is not None:
        configuration.proxy_headers = make_headers(proxy_basic_auth=":".join(who))
    made = RESTClientObject(configuration)
    at_once = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as urllib3 has it where nobody says otherwise
    made.pool_manager.connection_pool_kw["socket_options"] = [at_once, *keep_alive()]
    return made


def _known_as(proxy: str) -> tuple[str, str] | None:
    """The name and the password in a proxy's address, which neither library takes from there."""
    address = urlsplit(proxy)
    return (unquote(address.username), unquote(address.password or "")) if address.username else None
