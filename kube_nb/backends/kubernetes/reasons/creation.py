"""Why the cluster does not make a job's pods, or refuses an object: quota, limits, policies, webhooks, what is missing.

The same sentences come as the answer to a request and as the Job controller's warnings (FailedCreate).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kube_nb.backends.base import Reason
from kube_nb.backends.kubernetes.api import Object
from kube_nb.backends.kubernetes.snapshot import Snapshot, about

_QUOTA = re.compile(
    r"exceeded quota: (?P<name>[^,]+), requested: (?P<requested>.+), used: (?P<used>.+), limited: (?P<limited>.+)"
)
_QUOTA_WANTS = re.compile(r"failed quota: (?P<name>[^:]+): must specify (?P<what>.+)")
_CONTAINERS = re.compile(r" for: [^;]*")
_CORES = "{spec: {template: {spec: {containers: [{name: job, resources: {limits: {cpu: 1}}}]}}}}"
"""A patch that sets the limit that no flag sets."""
_LIMIT = re.compile(
    r"((?:minimum|maximum) \S+ usage per \w+ is [^\].]*|\S+ max limit to request ratio per \w+ is [^\].]*)"
)
_POD_SECURITY = re.compile(r'violates PodSecurity "(?P<level>[^":]+)[^"]*": (?P<what>.*)', re.DOTALL)
_WEBHOOK = re.compile(
    r'admission webhook "(?P<name>[^"]+)" denied the request(?: without explanation|: (?P<said>.*))', re.DOTALL
)
_POLICY = re.compile(r"ValidatingAdmissionPolicy '(?P<name>[^']+)'.* denied request: (?P<said>.*)", re.DOTALL)
_NO_ANSWER = re.compile(r'failed calling webhook "(?P<name>[^"]+)": (?P<said>.*)', re.DOTALL)
_NO_ACCOUNT = re.compile(r'serviceaccount "(?P<name>[^"]+)" not found')
_NO_PRIORITY = re.compile(r"no PriorityClass with name (?P<name>\S+) was found")
_NO_RUNTIME = re.compile(r'RuntimeClass "(?P<name>[^"]+)" not found|runtimeclass\S* "(?P<other>[^"]+)" not found')


def reason_not_created(snapshot: Snapshot) -> Reason | None:
    """Why a Job has fewer pods than nodes; None: nothing is known against it."""
    for event in reversed(snapshot.events):
        if event.get("reason") == "FailedCreate" and about(event)[0] == "Job":
            return _of_event(event)
    return None


def _of_event(event: Object) -> Reason:
    message = event.get("message", "")
    what = "the cluster does not make the job's pods"
    known = reason_of_denial(message, what=what)
    if known is not None:
        return known
    return Reason(
        code="PodsNotCreated",
        what=what,
        why=message.removeprefix("Error creating: "),
        next="cancel the job and mend what is said above, or ask who runs the cluster",
    )


def reason_of_denial(message: str, *, what: str) -> Reason | None:
    """Which rule of the cluster an object breaks, by the API server's own words; None: they are not known.

    Args:
        what: what could not be done.
    """
    for pattern, tell in _RULES:
        match = pattern.search(message)
        if match:
            return tell(what, match)
    return None


def _quota(what: str, match: re.Match[str]) -> Reason:
    short = _short_of(match)
    never = [text for text, _, too_large in short if too_large]
    why = f"quota {match['name']}: " + "; ".join(text for text, _, _ in short)
    if never:
        return Reason(
            code="QuotaTooSmall",
            what=f"{what}: it asks for more than the namespace may ever have",
            why=why,
            next=f"ask for less with {_flags(short)}, or ask who runs the cluster for a larger quota",
        )
    return Reason(
        code="QuotaExceeded",
        what=f"{what}: the quota of the namespace is used up",
        why=why,
        next=f"wait until something ends, cancel a job, or ask for less with {_flags(short)}",
    )


def _short_of(match: re.Match[str]) -> list[tuple[str, str, bool]]:
    """Each resource that is short: in words, its name, and whether the request alone is more than the quota."""
    requested, used, limited = (_amounts(match[key]) for key in ("requested", "used", "limited"))
    found = []
    for resource, wanted in requested.items():
        limit = limited.get(resource, "?")
        has = used.get(resource, "0")
        asked, most = _number(wanted), _number(limit)
        too_large = asked is not None and most is not None and asked > most
        found.append((f"{resource}: {wanted} is asked for, {has} of {limit} is used", resource, too_large))
    return found


def _amounts(text: str) -> dict[str, str]:
    pairs = (part.strip().rpartition("=") for part in text.split(","))
    return {name: value.rstrip(".") for name, _, value in pairs if name}


_UNITS = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", start=1)
}


def _number(quantity: str) -> float | None:
    """A quantity of Kubernetes as a number; None: it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", quantity)
    if match is None or match[2] not in _UNITS:
        return None
    return float(match[1]) * _UNITS[match[2]]


def _flags(short: list[tuple[str, str, bool]]) -> str:
    flags = dict.fromkeys(flag_of(resource) for _, resource, _ in short)
    return " and ".join(flags)


def flag_of(resource: str) -> str:
    """The flag by which a person asks for a resource."""
    if resource == "limits.cpu":  # cores may be borrowed: `--cpu` is what is set aside
        return "--patch"
    name = resource.removeprefix("requests.").removeprefix("limits.")
    if name in ("cpu", "memory"):
        return f"--{name}"
    if name == "ephemeral-storage":
        return "--disk"
    return "--gpus" if "/" in name else "--nodes" if name in ("pods", "count/pods") else f"`{name}`"


def _quota_wants(what: str, match: re.Match[str]) -> Reason:
    resources = re.split(r"[;,] ?", _CONTAINERS.sub("", match["what"]))
    flags = sorted({flag_of(resource) for resource in resources})
    next = f"say it with {' and '.join(flags)}"
    if "--patch" in flags:
        next += f" (a file with `{_CORES}`), or ask who runs the cluster for a LimitRange with a default"
    return Reason(
        code="QuotaWantsRequest",
        what=f"{what}: the quota of the namespace wants it to say how much it needs",
        why=f"quota {match['name']}: must specify {match['what']}",
        next=next,
    )


def _limit(what: str, match: re.Match[str]) -> Reason:
    return Reason(
        code="LimitRange",
        what=f"{what}: one pod may not ask for so much, or so little",
        why=match[1],
        next="ask for what the limit allows with --cpu and --memory, or ask who runs the cluster",
    )


def _pod_security(what: str, match: re.Match[str]) -> Reason:
    return Reason(
        code="PodSecurity",
        what=f"{what}: they are less confined than the namespace allows",
        why=f"Pod Security `{match['level']}`: {match['what']}",
        next="remove what asks for more rights from --patch or the settings, or ask who runs the cluster",
    )


def _denied(what: str, match: re.Match[str]) -> Reason:
    return Reason(
        code="AdmissionDenied",
        what=f"{what}: a policy of the cluster forbids it",
        why=f"{match['name']} says: {(match['said'] or 'nothing more').strip()}",
        next="do what it says, by a flag, the settings or --patch, or ask who runs the cluster",
    )


def _no_answer(what: str, match: re.Match[str]) -> Reason:
    return Reason(
        code="WebhookUnavailable",
        what=f"{what}: an add-on of the cluster that has to agree does not answer",
        why=f"{match['name']}: {match['said'].strip()}",
        next="wait until it answers again; if it does not, tell who runs the cluster",
    )


def _no_account(what: str, match: re.Match[str]) -> Reason:
    return Reason(
        code="ServiceAccountMissing",
        what=f"{what}: there is no service account {match['name']} in the namespace",
        why="--service-account, the settings or --patch name it",
        next="name one that `kubectl get serviceaccounts` lists, or have it made",
    )


def _no_priority(what: str, match: re.Match[str]) -> Reason:
    return Reason(
        code="PriorityClassMissing",
        what=f"{what}: the cluster has no priority class {match['name']}",
        why="--priority-class, the settings or --patch name it",
        next="name one that the cluster has, or leave it out",
    )


def _no_runtime(what: str, match: re.Match[str]) -> Reason:
    return Reason(
        code="RuntimeClassMissing",
        what=f"{what}: the cluster has no runtime class {match['name'] or match['other']}",
        why="--runtime-class, the settings or --patch name it",
        next="name one that the cluster has, or leave it out",
    )


_RULES: tuple[tuple[re.Pattern[str], Callable[[str, re.Match[str]], Reason]], ...] = (
    (_WEBHOOK, _denied),  # first: what a webhook says may quote any of the others
    (_POLICY, _denied),
    (_NO_ANSWER, _no_answer),
    (_QUOTA, _quota),
    (_QUOTA_WANTS, _quota_wants),
    (_POD_SECURITY, _pod_security),
    (_LIMIT, _limit),
    (_NO_ACCOUNT, _no_account),
    (_NO_PRIORITY, _no_priority),
    (_NO_RUNTIME, _no_runtime),
)
