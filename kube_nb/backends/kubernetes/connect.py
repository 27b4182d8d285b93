"""From what `--on` says to one cluster, one namespace and one user."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import Forbidden, Missing
from kube_nb.backends.kubernetes.credentials import Renewal
from kube_nb.backends.kubernetes.kinds import SELF_REVIEWS
from kube_nb.backends.kubernetes.wire import pools
from kube_nb.config import Settings
from kube_nb.errors import NotFound, Unreachable

IN_CLUSTER = "in-cluster"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_FRESH = 600.0
_connections: dict[tuple[Any, ...], Api] = {}


@dataclass(frozen=True)
class Place:
    """Where a target is, before anybody was asked.

    Attributes:
        name: how a person calls it.
        context: of the kubeconfig; empty: the pod's own service account.
        namespace: empty: the context's, else `default`.
        kubeconfig: None: $KUBECONFIG or ~/.kube/config.
    """

    name: str
    context: str
    namespace: str = ""
    kubeconfig: str | None = None


def place_of(target: str, settings: Settings) -> Place:
    """Which cluster a target means: `in-cluster`, a named target, else a context; `/NAMESPACE` may follow.

    Exact names come first, as names of contexts may hold slashes.

    Raises:
        NotFound: there is no such target; the nearest is named.
    """
    named: Mapping[str, Mapping[str, Any]] = settings.get("targets") or {}
    asked = settings.get("namespace") or ""
    known = contexts()
    for name, said in _readings(target):
        entry = named.get(name, {})
        namespace = said or asked or entry.get("namespace", "")
        called = target if said or not asked else f"{target}/{asked}"
        if name == IN_CLUSTER:
            return Place(called, "", namespace)
        if name in named or name in known:
            return Place(called, entry.get("context") or name, namespace, entry.get("kubeconfig"))
    near = get_close_matches(target, ["local", IN_CLUSTER, *named, *known], n=1, cutoff=0.5)
    raise NotFound(
        what=f"there is no target `{target}`",
        why="it is neither a named target of the settings nor a context of " + _where_contexts_are(),
        next=f"did you mean `{near[0]}`?" if near else "kubectl config get-contexts lists the contexts",
    )


def contexts(kubeconfig: str | None = None) -> dict[str, dict[str, Any]]:
    """The contexts of the kubeconfig by name; empty where there is none or it cannot be read."""
    import yaml

    found: dict[str, dict[str, Any]] = {}
    for path in _kubeconfigs(kubeconfig):
        try:
            content = yaml.safe_load(path.read_text())
        except (OSError, ValueError, yaml.YAMLError):
            continue
        for entry in (content or {}).get("contexts") or []:
            found.setdefault(entry.get("name", ""), entry.get("context") or {})
    return found


def connection(place: Place) -> Api:
    """This process's connection to a place; a new one once the kubeconfig was written anew, e.g. by a login.

    All who look at a namespace as the same user share it, by whatever name, so that what was asked for one of them is
    known to the others. Who holds an older one goes on with it: its credentials are read anew once they are refused.

    Raises:
        NotFound, Unreachable: as `connect` does.
    """
    # The stamps hold the path of the kubeconfig; a pod's token is written anew every hour, which changes nothing.
    key = (os.getpid(), place.context, _namespace(place), _stamps(place) if place.context else ())
    found = _connections.get(key)
    return found or _connections.setdefault(key, connect(place))


def connect(place: Place) -> Api:
    """A connection that was not used yet.

    Raises:
        NotFound: the package that speaks to clusters is not installed.
        Unreachable: the kubeconfig cannot be read, or the process is in no cluster.
    """
    # The variable may say something else by the time the credentials are read anew.
    place = replace(place, kubeconfig=place.kubeconfig or os.environ.get("KUBECONFIG") or None)
    renew = Renewal(partial(_client, place), partial(_stamps, place))
    server = f"the cluster of `{place.context}`" if place.context else "this pod's cluster"
    return Api(_client(place), _namespace(place), server, renew)


def _namespace(place: Place) -> str:
    """The one that is meant where none is said: that of the context, or of the pod, else `default`, as for kubectl."""
    if place.namespace:
        return place.namespace
    if place.context:
        return contexts(place.kubeconfig).get(place.context, {}).get("namespace") or "default"
    try:
        return (_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        return "default"


def _client(place: Place) -> Any:
    """With the address and the credentials that are written down now."""
    try:
        from kubernetes import client, config
    except ModuleNotFoundError as missing:
        raise NotFound(
            what=f"`{place.name}` is a cluster, for which the Kubernetes client is needed",
            why=f"the package `{missing.name}` is not installed here",
            next="pip install 'kube-nb[kubernetes]'",
        ) from missing
    with _usable(place):
        if place.context:
            made = config.new_client_from_config(place.kubeconfig, place.context, persist_config=False)
        else:
            configuration = client.Configuration()
            config.load_incluster_config(client_configuration=configuration)
            made = client.ApiClient(configuration)
    made.rest_client = pools(made.configuration)
    return made


@contextmanager
def _usable(place: Place) -> Iterator[None]:
    """What cannot be read of a place as Unreachable."""
    from kubernetes.config import ConfigException

    try:
        yield
    except (ConfigException, OSError) as error:
        raise Unreachable(
            what=f"the target `{place.name}` cannot be used",
            why=str(error),
            next="try kubectl --context " + place.context
            if place.context
            else "in-cluster works inside a pod that has a service account: a job has the one of --service-account",
        ) from error


def user_of(api: Api) -> str:
    """The name by which the cluster knows who asks; `unknown` where it does not tell.

    Raises:
        ApiError: the credentials are not valid (401), or the cluster is at a loss.
        Unreachable: nobody answered.
    """
    return api.remember("user", lambda: _review(api), seconds=_FRESH)


def _review(api: Api) -> str:
    try:
        review = api.create(SELF_REVIEWS, {"apiVersion": SELF_REVIEWS.version, "kind": "SelfSubjectReview"})
    except (Forbidden, Missing):  # nothing else is taken for an answer: the name decides whose jobs are whose
        return "unknown"
    return review.get("status", {}).get("userInfo", {}).get("username", "unknown")


def _readings(target: str) -> Iterator[tuple[str, str]]:
    """As a whole name first, then as NAME/NAMESPACE."""
    yield target, ""
    name, slash, namespace = target.rpartition("/")
    if slash and name and namespace:
        yield name, namespace


def _kubeconfigs(kubeconfig: str | None) -> list[Path]:
    text = kubeconfig or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return [Path(part).expanduser() for part in text.split(os.pathsep) if part]


def _stamps(place: Place) -> tuple[tuple[str, int], ...]:
    """Others once the credentials of a place were written anew."""
    files = _kubeconfigs(place.kubeconfig) if place.context else [_ACCOUNT / "token"]
    return tuple(map(_stamp, files))


def _stamp(path: Path) -> tuple[str, int]:
    try:
        return str(path), path.stat().st_mtime_ns
    except OSError:
        return str(path), 0


def _where_contexts_are() -> str:
    return os.environ.get("KUBECONFIG") or "~/.kube/config"
