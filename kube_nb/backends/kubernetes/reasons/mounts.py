"""Why a pod's volumes or variables are not there: a Secret, ConfigMap or claim that is missing, or does not bind."""

from __future__ import annotations

import re

from kube_nb.backends.base import Reason
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.snapshot import Snapshot, about, claims_of, condition, created, last_seen, state

_MISSING = re.compile(r'(?P<kind>secret|configmap) "?(?P<name>[^"\s]+)"? not found')
_NO_KEY = re.compile(
    r"(?:couldn't find key|references non-existent (?:secret|config) key:?) (?P<key>\S+)"
    r"(?: in (?P<kind>\S+) (?P<name>\S+))?"
)
_NO_CLAIM = re.compile(r'persistentvolumeclaim "(?P<name>[^"]+)" not found')
_UNBOUND = ("unbound immediate PersistentVolumeClaims", "didn't find available persistent volumes to bind")
_ELSEWHERE = ("volume node affinity conflict", "no available volume zone")
_PATIENCE = 30.0
"""Seconds that a submit may take from the Job to its Secret."""


def why_unbound(snapshot: Snapshot, pod: Object) -> Reason | None:
    """Whether a pod is not placed because of a claim that it mounts."""
    message = (condition(pod, "PodScheduled", "False") or {}).get("message", "")
    if match := _NO_CLAIM.search(message):
        return Reason(
            code="ClaimMissing",
            what=f"there is no volume claim {match['name']} in the namespace",
            why="the job mounts it",
            next="correct --volume, or make the claim: the job then starts by itself",
        )
    if any(words in message for words in _UNBOUND):
        return _unbound(snapshot, pod)
    if any(words in message for words in _ELSEWHERE):
        return Reason(
            code="VolumeElsewhere",
            what="the job's volume can be reached from other nodes only than those that could run it",
            why=message,
            next="ask for resources of the nodes where the volume is, or use another volume",
        )
    return None


def _unbound(snapshot: Snapshot, pod: Object) -> Reason:
    claims = claims_of(pod)
    said = ""
    for event in snapshot.events:
        if about(event)[0] == "PersistentVolumeClaim" and about(event)[1] in claims:
            said = event.get("message", "")
    return Reason(
        code="VolumeUnbound",
        what=f"the job waits for a volume: the claim {' or '.join(claims) or 'it mounts'} has none yet",
        why=said or "no volume was made for it so far, or none fits",
        next="wait a moment; if it lasts, ask who runs the cluster for a storage class",
    )


def why_not_mounted(snapshot: Snapshot, pod: Object, now: float) -> Reason | None:
    """Why a placed pod's container is not begun, where it is a volume, a Secret or a ConfigMap."""
    waiting = state(pod, "waiting") or {}
    if waiting.get("reason") == "CreateContainerConfigError":
        return _of_words(snapshot, waiting.get("message", ""), now) or _config(waiting.get("message", ""))
    if condition(pod, "PodReadyToStartContainers"):
        return None  # all is mounted by now; only the image may be missing
    subject = ("Pod", pod["metadata"]["name"])
    told = [one for one in snapshot.events if about(one) == subject and last_seen(one) >= created(pod)]
    failed = [one for one in reversed(told) if one.get("reason") in ("FailedMount", "FailedAttachVolume")]
    # A kubelet that is busy also says that it has timed out; what names the cause is worth more.
    named = (one for one in failed if _names_it(one.get("message", "")))
    event = next(named, failed[0] if failed else None)
    if event is None:
        return None
    if event["reason"] == "FailedAttachVolume":
        return _not_attached(event)
    if _names_it(event.get("message", "")):
        return _of_words(snapshot, event["message"], now)
    return _not_mounted(snapshot, event, now)


def _names_it(message: str) -> bool:
    return any(pattern.search(message) for pattern in (_MISSING, _NO_KEY))


def _of_words(snapshot: Snapshot, message: str, now: float) -> Reason | None:
    match = _MISSING.search(message)
    if match is None:
        return _no_key(message)
    kind, name = match["kind"], match["name"].rpartition("/")[2]
    if kind == "secret" and name == snapshot.id:
        return _incomplete(snapshot, now)
    words = {"secret": "Secret", "configmap": "ConfigMap"}[kind]
    return Reason(
        code=f"{words}Missing",
        what=f"there is no {words} {name} in the namespace",
        why="the job uses it",
        next=f"correct {'--secret' if kind == 'secret' else '--patch or the settings'}, or make the {words}: "
        "the job then starts by itself",
    )


def _incomplete(snapshot: Snapshot, now: float) -> Reason | None:
    """Our own Secret comes a moment after the Job; without it the submit was broken off."""
    if now < created(snapshot.job) + _PATIENCE:
        return None
    return Reason(
        code="IncompleteSubmit",
        what="the submit of this job was broken off before all had arrived",
        why=f"the Job is there, its Secret {snapshot.id} is not",
        next="send it again, or remove it with %kube_delete; its own kernel completes it by itself",
    )


def _no_key(message: str) -> Reason | None:
    match = _NO_KEY.search(message)
    if match is None:
        return None
    kind = "ConfigMap" if (match["kind"] or "").lower().startswith("config") else "Secret"
    return Reason(
        code=f"{kind}KeyMissing",
        what=f"the {kind} {(match['name'] or '').rpartition('/')[2]} has no key {match['key']}".replace("  ", " "),
        why="the job uses it",
        next=f"correct the name of the key, or add it to the {kind}: the job then starts by itself",
    )


def _config(message: str) -> Reason:
    return Reason(
        code="CannotStart",
        what="the container of the job cannot be made as it is asked for",
        why=message,
        next="cancel the job and mend what is said above: it stands in --patch, the settings or the image",
    )


def _not_mounted(snapshot: Snapshot, event: Object, now: float) -> Reason | None:
    """The kubelet sums up what it waits for; shortly after the submit that is our own Secret."""
    if now < created(snapshot.job) + _PATIENCE:
        return None
    return Reason(
        code="VolumeNotMounted",
        what="a volume of the job cannot be mounted; it is tried again and again",
        why=event.get("message", ""),
        next="wait a moment; if it lasts, check --volume and --secret, or ask who runs the cluster",
    )


def _not_attached(event: Object) -> Reason:
    message = event.get("message", "")
    if "Multi-Attach" in message:
        return Reason(
            code="VolumeBusy",
            what="the job's volume is held by another node; it waits for it",
            why=message,
            next="wait until what uses it there has ended, or use a volume that many nodes may mount",
        )
    return Reason(
        code="VolumeNotMounted",
        what="a volume of the job cannot be attached to its node; it is tried again and again",
        why=message,
        next="wait a moment; if it lasts, ask who runs the cluster",
    )
