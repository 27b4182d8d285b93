"""What the output of a failed installer means, as a cause and a next step.

Standard library only: ships with the job.
"""

from __future__ import annotations

import re


class EnvironmentFailed(Exception):
    """The packages cannot be there.

    Attributes:
        code: stable, for programs: OutOfDisk, or one of `ending.ENVIRONMENT`.
        what, why, next: for a person.
    """

    def __init__(self, what: str, why: str = "", next: str = "", *, code: str) -> None:
        super().__init__(what, why, next)
        self.what = what
        self.why = why
        self.next = next
        self.code = code


_UNREACHABLE = (
    r"[Cc]onnection (refused|reset|aborted)|dns error|Name or service not known|Temporary failure in name resolution"
    r"|timed? ?out|certificate verify failed|invalid peer certificate|Network is unreachable|No route to host"
)
_FAILURES = (
    ("OutOfDisk", r"No space left on device|os error 28|Disk quota exceeded"),
    ("IndexUnreachable", r"Tunnel connection failed"),  # whatever a proxy refuses with, the index did not
    (
        "IndexRefused",
        r"\b(401|403)\b[^\n]*(Unauthorized|Forbidden|Client Error|Error|credentials)|Unauthorized|Forbidden",
    ),
    ("IndexUnreachable", rf"error sending request|NewConnectionError|SSLError|{_UNREACHABLE}"),
    ("BuildFailed", r"Failed to build|build backend returned|metadata-generation-failed|Failed building wheel"),
    (
        "PackageNotFound",
        r"was not found in the|no versions? of|No matching distribution found|only [^\n]* (is|are) available"
        r"|no wheels with a matching|404 Not Found",
    ),
    ("Conflict", r"unsatisfiable|ResolutionImpossible|conflicting dependencies"),
)
_SENTENCES = {
    "OutOfDisk": ("the disk is full while packages are installed", "free some space there"),
    "IndexRefused": ("{index} refused to answer", "check its credentials in the configuration of pip or uv"),
    "IndexUnreachable": (
        "{index} cannot be reached",
        "check the network and the configuration of pip or uv; without network, install the packages beforehand",
    ),
    "BuildFailed": (
        "{package} could not be built from its source",
        "choose a version that has a wheel for this Python and platform, or install what its build needs",
    ),
    "PackageNotFound": (
        "{package} was not found",
        "check its name and version; for a private package, name its index in the configuration of pip or uv",
    ),
    "Conflict": ("the packages contradict each other", "loosen one of the versions"),
    "InstallFailed": ("packages could not be installed", "see the log above"),
}
_PACKAGE = re.compile(
    r"No matching distribution found for (\S+)|Because (\S+) was not found|no versions? of (\S+)"
    r"|Because only (\S+) |Because (\S+) has no wheels|Failed to build `([^`]+)`|Failed building wheel for (\S+)"
)
_REASONS = {
    "IndexUnreachable": rf"({_UNREACHABLE})[^\n\"']*",
    # uv ends the words of the build with an empty line and a hint, pip with a mark of its own.
    "BuildFailed": r"([^\n]+)(?=\n\s*\[end of output\]|\n\nhint:)|(?<=\[stderr\]\n)[^\n]+",
    "Conflict": r"(?<=The conflict is caused by:\n)(?:[ ]+[^\n]+\n?)+|Because [^\n]+(?:\n +And [^\n]+)*",
    "PackageNotFound": r"Because [^\n]+|Could not find a version[^\n]+|[^\n]*404 Not Found[^\n]*",
}


def read_failure(output: str, index: str) -> EnvironmentFailed:
    """What went wrong, told from what uv or pip wrote. `index` is how a person knows the package index."""
    code = next((code for code, pattern in _FAILURES if re.search(pattern, output)), "InstallFailed")
    named = _PACKAGE.search(output)
    package = next((f"`{group}`" for group in named.groups() if group), "") if named else "a package"
    what, next_step = _SENTENCES[code]
    return EnvironmentFailed(what.format(index=index, package=package), _why(output, code), next_step, code=code)


def _why(output: str, code: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    found = list(re.finditer(_REASONS[code], output)) if code in _REASONS else []
    if found:
        text = "; ".join(line.strip() for line in found[-1][0].splitlines())
    else:
        pattern = dict(_FAILURES).get(code, "")
        text = next((line for line in lines if re.search(pattern, line)), "") if pattern else "".join(lines[-1:])
    return re.sub(r"^(error|ERROR|cause|WARNING|hint)[: ]*", "", text)[:500] or "the installer did not say why"
