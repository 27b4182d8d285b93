"""Why a pod's image is not there yet: a name that is none, an image that does not exist, a registry that says no."""

from __future__ import annotations

import re

from kube_nb.backends.base import Reason
from kube_nb.backends.kubernetes.api import Object

_PULLING = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"})
_DENIED = re.compile(
    r"\b(?:(?:permission)?denied|unauthorized|unauthenticated|authorization|401|403|forbidden"
    r"|no basic auth credentials)\b",
    re.IGNORECASE,
)
_NOT_FOUND = re.compile(r"\b(?:not found|manifest unknown|name unknown|does not exist|404)\b", re.IGNORECASE)
_UNREACHABLE = re.compile(r"\b(?:dial tcp|timeout|connection refused|no such host|tls:|x509|EOF)(?!\w)", re.IGNORECASE)
_NAMES = re.compile(
    r"\[\w+ [^\]\s]+\]"  # [manifests TAG]
    r"|\bmanifest for \S+|\bmanifest \S+ in\b"
    r"|[^\s\",]*/[^\s\",]*"
    r"|\bsha256:\w+"
    r"|[\w-]+(?:\.[\w-]+)+(?::\d+)?"
)
"""References, addresses and names of hosts: they may hold any word, and none of them is a cause."""

_CHAINS = ("ErrImagePull: ", "failed to resolve reference ", "failed to pull and unpack image ")


def why_no_image(pod: Object) -> Reason | None:
    """What a container of the pod waits for, where it is its image."""
    status = pod.get("status") or {}
    for one in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (one.get("state") or {}).get("waiting")
        if waiting and (reason := _of_waiting(one.get("image", ""), waiting)):
            return reason
    return None


def _of_waiting(image: str, waiting: Object) -> Reason | None:
    cause, message = waiting.get("reason"), waiting.get("message") or ""
    if cause == "InvalidImageName":
        return Reason(
            code="InvalidImageName",
            what=f"`{image}` is no name of an image, so the job cannot start",
            why=_short(message) or "it is malformed",
            next="cancel the job and write --image like registry.example.com/team/image:tag",
        )
    if cause == "ErrImageNeverPull":
        return Reason(
            code="ImageNotFound",
            what=f"the node does not have the image {image}, and may not pull it",
            why="its pull policy is Never",
            next="change imagePullPolicy in --patch or the settings, or name another --image",
        )
    return _pulling(image, message) if cause in _PULLING else None


def _pulling(image: str, message: str) -> Reason:
    """A pull that failed is tried again by the kubelet, so the job waits."""
    said = _NAMES.sub("", message.replace(f'"{image}"', ""))
    # A registry that hides what it has says both: then it is a matter of rights as much as of names.
    if _DENIED.search(said):
        return Reason(
            code="ImagePullDenied",
            what=f"the registry does not give the image {image} to the cluster; it is tried again and again",
            why=_short(message),
            next="name a pull secret (setting `pull_secret`) that may read it, and check the name with --image",
        )
    if _UNREACHABLE.search(said):
        return Reason(
            code="RegistryUnreachable",
            what=f"the registry of {image} cannot be reached from the cluster; it is tried again and again",
            why=_short(message),
            next="wait, or name an image of a registry that the cluster reaches (--image, setting `image_map`)",
        )
    if _NOT_FOUND.search(said):
        return Reason(
            code="ImageNotFound",
            what=f"there is no image {image}; it is tried again and again",
            why=_short(message),
            next="cancel the job and correct --image: name and tag must exist in the registry",
        )
    return Reason(
        code="ImagePullFailing",
        what=f"the image {image} cannot be pulled; it is tried again and again",
        why=_short(message) or "the cluster does not say why",
        next="wait a moment; if it lasts, check --image",
    )


def _short(message: str) -> str:
    """What the registry or the network said; the same while the kubelet pulls and while it pauses."""
    text = message.strip().rstrip(".")
    for chain in _CHAINS:
        text = text.rpartition(chain)[2]
    return text if len(text) <= 300 else "…" + text[-300:]
