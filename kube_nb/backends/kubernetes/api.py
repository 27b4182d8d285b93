"""Requests to one API server: plain dicts in and out, its refusals and its silence as our errors.

The `kubernetes` package authenticates (client certificates, tokens, exec plugins and OIDC, renewed before each request)
and transports; its models are not used.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlencode

from kube_nb.backends.kubernetes.api_error import ApiError, Missing, error_of, status_in
from kube_nb.backends.kubernetes.credentials import authorization
from kube_nb.backends.kubernetes.kinds import Kind
from kube_nb.backends.kubernetes.silence import foreign, unreachable
from kube_nb.backends.kubernetes.wire import pools, shut_down
from kube_nb.errors import Unreachable

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from urllib3 import BaseHTTPResponse, PoolManager, Retry

T = TypeVar("T")
Object = dict[str, Any]
"""A Kubernetes object, as its JSON."""
PatchKind = Literal["merge", "strategic", "json", "apply"]

_PATCH_TYPES: Mapping[str, str] = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}
USER_AGENT = "kube-nb"
"""By which a platform team finds our requests in its audit log."""
_UNAUTHORIZED = 401
_PATIENCE = 30.0
"""Seconds for one answer, or for the beginning of one that goes on."""
_SILENCE = 100.0
"""Seconds after which a silent watch is taken for dead: bookmarks come about every minute."""


@dataclass
class Api:
    """One API server, seen by one user, with one namespace. Any thread may use it.

    Attributes:
        client: of the `kubernetes` package; holds the address and renews the credentials.
        namespace: where namespaced kinds are looked for.
        server: how the cluster is called in errors.
        renew: what else to ask with than with a client whose credentials were refused; None: there is nothing else.
    """

    client: ApiClient = field(repr=False)
    namespace: str
    server: str = "the cluster"
    renew: Callable[[ApiClient], ApiClient | None] = field(default=lambda refused: None, repr=False, compare=False)
    _process: int = field(default_factory=os.getpid, init=False, repr=False, compare=False)
    _remembered: dict[str, tuple[float, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _turns: dict[tuple[int, str], threading.Lock] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By process: a fork may find a lock held for ever."""

    def remember(self, what: str, ask: Callable[[], T], *, seconds: float = math.inf) -> T:
        """What `ask` answers, asked again after so many seconds: for what changes seldom and is wanted often.

        Of those who want it at the same time, one asks.
        """
        with self._turns.setdefault((os.getpid(), what), threading.Lock()):
            now = time.monotonic()
            known = self._remembered.get(what)
            if known is None or now > known[0]:
                known = self._remembered[what] = (now + seconds, ask())
            return known[1]

    def forget(self) -> None:
        """Ask anew for all that was remembered for a while only."""
        for what, (until, _) in list(self._remembered.items()):
            if until < math.inf:
                self._remembered.pop(what, None)

    # Objects --------------------------------------------------------------------------------------------------------

    def get(self, kind: Kind, name: str) -> Object:
        """One object.

        Raises:
            ApiError: status 404: there is none.
            Unreachable: nobody answered.
        """
        return self._json("GET", kind, name)

    def find(self, kind: Kind, name: str) -> Object | None:
        """One object, or None where there is none."""
        try:
            return self.get(kind, name)
        except Missing:
            return None

    def list(self, kind: Kind, *, labels: str = "", fields: str = "", limit: int = 500) -> tuple[list[Object], str]:
        """All objects that fit, read page by page, and the resource version to watch from."""
        query: dict[str, Any] = {"limit": limit}
        query |= {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}
        items: list[Object] = []
        while True:
            page = self._json("GET", kind, verb="list", query=query)
            items += page.get("items") or []
            more = page["metadata"].get("continue")
            if not more:
                return items, page["metadata"].get("resourceVersion", "")
            query["continue"] = more

    def create(self, kind: Kind, body: Object, *, dry_run: bool = False) -> Object:
        """Make an object. Unknown fields are an error.

        Raises:
            ApiError: status 409, cause "AlreadyExists": there is one of that name.
        """
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self._json("POST", kind, body=body, query=query)

    def patch(
        self, kind: Kind, name: str, body: Any, *, how: PatchKind = "merge", query: Mapping[str, Any] | None = None
    ) -> Object:
        """Change an object."""
        return self._json("PATCH", kind, name, body=body, query=query, content_type=_PATCH_TYPES[how])

    def delete(
        self,
        kind: Kind,
        name: str,
        *,
        propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
        grace: int | None = None,
        uid: str = "",
    ) -> bool:
        """Remove an object; False: there is none (or, with `uid`, it is another one by now)."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._json("DELETE", kind, name, body=body)
        except ApiError as error:
            if error.status == 404 or (uid and error.status == 409):
                return False
            raise
        return True

    def delete_all(self, kind: Kind, *, labels: str) -> None:
        """Remove all objects that fit."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        self._json("DELETE", kind, body=body, query={"labelSelector": labels}, verb="deletecollection")

    # Streams --------------------------------------------------------------------------------------------------------

    @contextmanager
    def watching(
        self, kind: Kind, *, version: str, labels: str = "", fields: str = "", seconds: int = 300
    ) -> Iterator[Changes]:
        """The changes after resource version `version`, with bookmarks, until the server ends it (`seconds` at most).

        Each item is `{"type": "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK", "object": ...}`.

        Raises:
            ApiError: status 410: the version is too old; list again.
            Unreachable: the stream broke.
        """
        query: dict[str, Any] = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": seconds,
        }
        query |= {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}
        with self.stream("GET", kind, query=query, verb="watch", read_timeout=_SILENCE) as response:
            yield Changes(response, self._lines(response))

    def _lines(self, response: BaseHTTPResponse) -> Iterator[Object]:
        held = b""
        for piece in self.pieces(response):
            *lines, held = (held + piece).split(b"\n")
            for line in lines:
                try:
                    item = json.loads(line)
                except ValueError as error:
                    raise foreign(self.server, line) from error
                if item["type"] == "ERROR":
                    raise error_of(item["object"].get("code", 500), item["object"], "watch", "")
                yield item

    def pieces(self, response: BaseHTTPResponse, most: int = 1 << 16) -> Iterator[bytes]:
        """The bytes of a streamed answer, as they arrive.

        Raises:
            Unreachable: the stream broke off before its end.
        """
        with self._translated():
            while piece := response.read1(most):
                yield piece

    @contextmanager
    def stream(
        self,
        method: str,
        kind: Kind,
        name: str = "",
        subresource: str = "",
        *,
        query: Mapping[str, Any] | None = None,
        verb: str = "get",
        read_timeout: float | None = None,
    ) -> Iterator[BaseHTTPResponse]:
        """An answer that is read while it comes, e.g. a pod's log; the connection is closed at the end.

        Args:
            read_timeout: seconds of silence after it has begun; it begins at once, or the connection leads nowhere.
        """
        response = self._send(method, kind, name, subresource, query=query)
        try:
            if response.status >= 400:
                raise self._refused(response, kind, name, subresource, verb)
            stream = _socket(response)
            if stream is not None:
                stream.settimeout(read_timeout)
            yield response
        finally:
            response.close()
            response.release_conn()

    # Inside ---------------------------------------------------------------------------------------------------------

    def raw(self, path: str) -> Object:
        """GET of any path, e.g. `/apis`.

        Raises:
            ApiError, Unreachable.
        """
        return self._decoded(self._transport("GET", path, None, None, _PATIENCE), "get", path, "")

    def authorization(self) -> str | None:
        """The header that says who asks, renewed where it is about to expire; None: a certificate says it.

        Raises:
            Unreachable: the credentials cannot be read.
        """
        with self._translated():
            return authorization(self.client)

    def renewed(self, refused: ApiClient) -> bool:
        """Whether there are other credentials by now than those of a client that were refused; `client` has them."""
        if self.client is refused and (other := self.renew(refused)) is not None:
            self.client, self._process = other, os.getpid()
            self.forget()  # somebody else may have logged in, or with other rights
        return self.client is not refused

    def _json(
        self,
        method: str,
        kind: Kind,
        name: str = "",
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        verb: str = "",
    ) -> Object:
        response = self._send(method, kind, name, body=body, query=query, content_type=content_type)
        words = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
        return self._decoded(response, verb or words[method], kind.plural, name)

    def _decoded(self, response: BaseHTTPResponse, verb: str, resource: str, name: str) -> Object:
        with self._translated():
            data = response.data
        if response.status >= 400:
            raise error_of(response.status, status_in(data), verb, resource, name)
        try:
            return json.loads(data)
        except ValueError as error:
            raise foreign(self.server, data) from error

    def _send(
        self,
        method: str,
        kind: Kind,
        name: str = "",
        subresource: str = "",
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> BaseHTTPResponse:
        path = kind.path(self.namespace, name, subresource)
        if query:
            path += "?" + urlencode(query, doseq=True)
        data = None if body is None else json.dumps(body).encode()
        return self._transport(method, path, data, content_type, _PATIENCE)

    def _transport(
        self, method: str, path: str, data: bytes | None, content_type: str | None, read_timeout: float
    ) -> BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
        if content_type and data is not None:
            headers["Content-Type"] = content_type
        with self._translated():
            client = self.client
            response = self._request(client, method, path, data, headers, read_timeout)
            if response.status == _UNAUTHORIZED and self.renewed(client):
                response.drain_conn()
                response = self._request(self.client, method, path, data, headers, read_timeout)
            return response

    def _request(
        self,
        client: ApiClient,
        method: str,
        path: str,
        data: bytes | None,
        headers: Mapping[str, str],
        read_timeout: float,
    ) -> BaseHTTPResponse:
        import urllib3

        token = authorization(client)
        return self._connections(client).request(
            method,
            client.configuration.host + path,
            body=data,
            headers={**headers, **({"Authorization": token} if token else {})},
            preload_content=False,
            timeout=urllib3.Timeout(connect=10.0, read=read_timeout),
            retries=_retries(method),
        )

    def _connections(self, client: ApiClient) -> PoolManager:
        """Those of this process: a fork would else write into its parent's, and spoil their encryption."""
        if self._process != os.getpid():
            client.rest_client, self._process = pools(client.configuration), os.getpid()
        return client.rest_client.pool_manager

    def _refused(self, response: BaseHTTPResponse, kind: Kind, name: str, subresource: str, verb: str) -> ApiError:
        with self._translated():
            data = response.read()
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        return error_of(response.status, status_in(data), verb, resource, name)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Failures of the transport as Unreachable."""
        import urllib3
        from kubernetes.config import ConfigException

        try:
            yield
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(self.server, error) from error
        except ConfigException as error:
            raise Unreachable(
                what=f"the credentials for {self.server} cannot be read",
                why=str(error),
                next="log in to the cluster again, as you do for kubectl",
            ) from error


class Changes(Iterator[Object]):
    """What a watch brings. `stop` ends it from another thread."""

    def __init__(self, response: BaseHTTPResponse, items: Iterator[Object]) -> None:
        self._response = response
        self._items = items

    def __next__(self) -> Object:
        return next(self._items)

    def stop(self) -> None:
        """Whoever waits for the next item gets Unreachable or the end, at once."""
        shut(self._response)


def shut(response: BaseHTTPResponse) -> None:
    """End an answer from another thread: whoever reads it gets Unreachable or the end, at once."""
    stream = _socket(response)
    if stream is not None:
        shut_down(stream)


def _socket(response: BaseHTTPResponse) -> Any:
    """What an answer comes through; None: it has all come."""
    connection: Any = response.connection
    return getattr(connection, "sock", None)


def _retries(method: str) -> Retry:
    """A busy API server says when to ask again (429); what only reads is asked again after a broken connection."""
    import urllib3

    return urllib3.Retry(
        total=None,
        connect=0,
        read=1 if method == "GET" else 0,
        other=0,
        redirect=3,
        status=4,
        status_forcelist=(429,),
        allowed_methods=None,
        backoff_factor=0.5,
        raise_on_status=False,
    )
