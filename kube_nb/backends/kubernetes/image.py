"""What the name of an image tells: whether it is one, and which Python is in it."""

from __future__ import annotations

import platform
import re

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.capacity import nodes
from kube_nb.spec import Platform

_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])"
_NAME = re.compile(
    rf"(?:{_HOST}(?::\d+)?/)?(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@[A-Za-z][\w+.-]*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.\d+)?(?![\d.])")
_IN_TAG = re.compile(r"(?:^|[^a-z])(?:python|py|cp)[-_]?(3)\.?(\d{1,2})(?![\d])")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "386": "i686", "arm": "armv7l"}
"""What Kubernetes calls an architecture -> what `platform.machine()` calls it on Linux."""


def well_formed(image: str) -> bool:
    """Whether a registry may have an image of that name.

    Example:
        >>> well_formed("10.0.0.1:5000/team/python:3.11-slim"), well_formed("Python:3.11")
        (True, False)
    """
    return _NAME.fullmatch(image) is not None


def python_of(image: str) -> tuple[int, int] | None:
    """The minor version of Python that the name tells; None: it tells none.

    Example:
        >>> python_of("python:3.11-slim"), python_of("quay.io/jupyter/scipy-notebook:python-3.12"), python_of("x:3.11")
        ((3, 11), (3, 12), None)
    """
    match = _NAME.fullmatch(image)
    if match is None or match["tag"] is None:
        return None
    own_tag = _VERSION.match(match["tag"]) if match["path"].rpartition("/")[2] == "python" else None
    found = own_tag or _IN_TAG.search(match["tag"].lower())
    return (int(found[1]), int(found[2])) if found else None


def platform_of(api: Api, image: str) -> Platform:
    """What packages of a job with this image are installed for."""
    kernel = platform.python_version()
    told = python_of(image)
    same = told is None or kernel.split(".")[:2] == [str(part) for part in told]
    python = kernel if same or told is None else f"{told[0]}.{told[1]}.0"
    return Platform(system="Linux", machine=_machine(api), python=python)


def _machine(api: Api) -> str:
    """Of the nodes, where they can be read and agree; else this machine's own, which a cluster's notebook shares."""
    own = platform.machine() if platform.system() == "Linux" else "x86_64"
    labels = {node.labels.get("kubernetes.io/arch", "") for node in nodes(api) or ()} - {""}
    found = {_MACHINES.get(label, label) for label in labels}
    return next(iter(found)) if len(found) == 1 else own
