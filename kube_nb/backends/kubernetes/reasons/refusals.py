"""What the API server refused, in words: rights, credentials, quota, policies, sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kube_nb.backends.base import Finding, Reason
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.reasons.creation import reason_of_denial
from kube_nb.backends.kubernetes.snapshot import Snapshot
from kube_nb.backends.reasons import unheard
from kube_nb.errors import KubeNbError, Refused, Unreachable

_FORBIDDEN = re.compile(r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]*)"')
_IN_GROUP = re.compile(r'in API group "([^"]*)"')
_NO_NAMESPACE = re.compile(r'namespaces "([^"]+)" not found')

_TELL = "try again; if it stays so, tell who runs the cluster this sentence"
_ANONYMOUS = "system:anonymous"
"""Whom a cluster takes for a user without any credentials, where it has not switched this off."""


@contextmanager
def refused(namespace: str) -> Iterator[None]:
    """The API server's refusals as our error.

    Raises:
        Refused: with the one finding that tells why.
        Unreachable: it failed, which is no answer.
    """
    try:
        yield
    except ApiError as error:
        if in_doubt(error):
            raise unanswered(error) from error
        raise refusal(error, namespace) from error


def refusal(error: ApiError, namespace: str) -> Refused:
    """What the API server refused, as the error that a person reads."""
    reason = reason_of_refusal(error, namespace)
    return Refused(reason.what, reason.why, reason.next, findings=(Finding(level="error", reason=reason),))


def in_doubt(error: ApiError) -> bool:
    """Whether the API server, or what stands before it, failed at a request, which may have been done all the same.

    What admission has to say also comes as such a failure, but before anything is done; so does what is too large.
    """
    known = too_large(error) or reason_of_denial(error.message, what="") is not None
    return error.status >= 500 and not known


def unanswered(error: ApiError) -> Unreachable:
    """The same as the error that a person reads."""
    return Unreachable(
        what=f"the cluster failed when it was asked to {_act(error)}",
        why=error.message or f"it answered with HTTP status {error.status} and no word",
        next=_TELL,
    )


def why_unheard(snapshot: Snapshot, outage: KubeNbError) -> Reason:
    """Why nothing newer is known of a job."""
    if isinstance(outage, ApiError):
        outage = refusal(outage, snapshot.job["metadata"].get("namespace", ""))
    return unheard(outage)


def reason_of_refusal(error: ApiError, namespace: str) -> Reason:
    """Why the API server said no."""
    if error.status == 401 or f'User "{_ANONYMOUS}"' in error.message:
        return Reason(
            code="Unauthorized",
            what="the cluster does not accept your credentials",
            why="they are expired, or belong to another cluster",
            next="log in to the cluster again, as you do for kubectl; `kubectl auth whoami` tells whether it worked",
        )
    if error.status == 403 and (right := _missing_right(error, namespace)):
        return right
    if _NO_NAMESPACE.search(error.message):
        return _no_namespace(namespace)
    if (denial := reason_of_denial(error.message, what=f"the cluster refused to {_act(error)}")) is not None:
        return denial
    if too_large(error):
        return Reason(
            code="TooLarge",
            what=f"what is sent is too large for one request to the cluster ({error.resource})",
            why=error.message,
            next="send less with it, or let a store carry it: kube-nb doctor says which there are",
        )
    if error.status == 429:
        return Reason(
            code="ClusterBusy",
            what="the cluster takes no more requests just now",
            why=error.message,
            next="try again in a minute",
        )
    if error.cause == "Invalid":
        return Reason(
            code="InvalidObject",
            what=f"the cluster does not accept the {_singular(error.resource)}",
            why=error.message,
            next="check --patch and the settings that reach into the pod; --dry-run shows the whole",
        )
    code = error.cause or f"Http{error.status}"
    return Reason(code=code, what=f"the cluster refused to {_act(error)}", why=error.message, next=_TELL)


def too_large(error: ApiError) -> bool:
    """The request, or the object as etcd would keep it."""
    said = error.message
    return error.status == 413 or "must have at most" in said or "request is too large" in said or "Too long" in said


def _missing_right(error: ApiError, namespace: str) -> Reason | None:
    match = _FORBIDDEN.search(error.message)
    if match is None:
        return None
    group = _IN_GROUP.search(error.message)
    resource = match["resource"] + (f".{group[1]}" if group and group[1] else "")
    where = f"in namespace {namespace}" if "at the cluster scope" not in error.message else "in the whole cluster"
    return Reason(
        code="Forbidden",
        what=f"you may not {match['verb']} {resource} {where}",
        why=f"the cluster knows you as {match['user']} and no role gives you this right there",
        next="ask who runs the cluster for the role that `kube-nb doctor --rbac` prints, or take another namespace",
    )


def _no_namespace(namespace: str) -> Reason:
    return Reason(
        code="NamespaceNotFound",
        what=f"there is no namespace {namespace} on this cluster",
        why="it was never made, or was removed",
        next="name another one with --namespace, or ask who runs the cluster for it",
    )


def _act(error: ApiError) -> str:
    return " ".join(part for part in (error.verb, error.resource, error.name) if part)


def _singular(resource: str) -> str:
    return resource.partition("/")[0].removesuffix("s")
