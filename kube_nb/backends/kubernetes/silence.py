"""Why nobody answered, in words: a certificate, a refused connection, a name that nobody knows, silence."""

from __future__ import annotations

import ssl

from kube_nb.errors import Unreachable


class WrongCertificate(Unreachable):
    """Who answered is not the cluster that the kubeconfig means, or somebody is in between."""


def unreachable(server: str, error: BaseException) -> Unreachable:
    """Why nobody answered: a certificate, a refused connection, a name nobody knows, silence."""
    import urllib3

    cause: BaseException = error
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        cause = error.reason
    inner: BaseException | None = cause
    while inner is not None and not isinstance(inner, ssl.SSLCertVerificationError):
        inner = inner.args[0] if inner.args and isinstance(inner.args[0], BaseException) else inner.__cause__
    if inner is not None or "CERTIFICATE_VERIFY_FAILED" in str(cause):
        return WrongCertificate(
            what=f"{server} shows a certificate that this kubeconfig does not trust",
            why=str(inner or cause),
            next="get the kubeconfig anew from who runs the cluster; a wrong address may be answered by somebody else",
        )
    if isinstance(cause, urllib3.exceptions.NameResolutionError):
        why, next = "its name is not known to this network", "check the address in the kubeconfig, and the VPN"
    elif isinstance(cause, urllib3.exceptions.NewConnectionError | ConnectionRefusedError):
        why, next = f"no connection ({_last(cause)})", "check the VPN or the network; jobs that run there go on"
    elif isinstance(cause, urllib3.exceptions.TimeoutError | TimeoutError):
        why, next = "it does not answer in time", "check the VPN or the network; jobs that run there go on"
    else:
        why, next = f"the connection broke ({_last(cause)})", "try again; jobs that run there go on"
    return Unreachable(what=f"{server} cannot be reached", why=why, next=next)


def foreign(server: str, data: bytes) -> Unreachable:
    """Somebody else answered: what came is nothing that an API server writes, e.g. a proxy's page to log in."""
    begun = " ".join(data[:80].decode("utf-8", "replace").split())
    return Unreachable(
        what=f"what answers for {server} is no Kubernetes API server",
        why=f"it sent no JSON, but `{begun}`",
        next="a proxy may want you to log in; check the address in the kubeconfig, and the VPN",
    )


def _last(error: BaseException) -> str:
    return str(error).rsplit(": ", 1)[-1] or type(error).__name__
