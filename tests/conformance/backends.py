"""The backends that the conformance suite runs on, and how a test says what it needs of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from kube_nb.backends.base import Capability
from tests.conformance.gate import address_towards


@dataclass(frozen=True, kw_only=True)
class Target:
    """A place where every test of the suite runs once.

    Attributes:
        name: in the ids of the tests.
        on: what `--on` calls it; empty: there is none on this machine.
        address: under which its jobs reach this machine.
    """

    name: str
    on: str
    address: str = "127.0.0.1"


def _cluster() -> Target:
    """The kubeconfig's current context; only the tests follow it unasked.

    Pods of a cluster that is not on this machine may need another address than the API server sees:
    KUBE_NB_TESTS_ADDRESS says which.
    """
    path = Path(os.environ.get("KUBECONFIG", "").split(os.pathsep)[0])
    if not path.is_file():
        return Target(name="kubernetes", on="")
    config = yaml.safe_load(path.read_text())
    context = next(one["context"] for one in config["contexts"] if one["name"] == config["current-context"])
    server = urlsplit(next(one["cluster"]["server"] for one in config["clusters"] if one["name"] == context["cluster"]))
    address = os.environ.get("KUBE_NB_TESTS_ADDRESS") or address_towards(server.hostname or "", server.port or 443)
    return Target(name="kubernetes", on=config["current-context"], address=address)


CLUSTER = _cluster()
BACKENDS = (Target(name="local", on="local"), CLUSTER)


def needs(*capabilities: Capability) -> pytest.MarkDecorator:
    """Marks a test that only a backend with these capabilities can pass; it is skipped, and counted, on others."""
    return pytest.mark.needs(*capabilities)
