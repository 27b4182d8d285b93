"""The backends that the conformance suite runs on, and how a test says what it needs of one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from kube_nb.backends.base import Capability


@dataclass(frozen=True, kw_only=True)
class Target:
    """A place where every test of the suite runs once.

    Attributes:
        name: in the ids of the tests.
        on: what `--on` calls it; empty: there is none on this machine.
    """

    name: str
    on: str


def _context() -> str:
    """The kubeconfig's current context; only the tests follow it unasked."""
    path = Path(os.environ.get("KUBECONFIG", "").split(os.pathsep)[0])
    return yaml.safe_load(path.read_text())["current-context"] if path.is_file() else ""


BACKENDS = (Target(name="local", on="local"), Target(name="kubernetes", on=_context()))


def needs(*capabilities: Capability) -> pytest.MarkDecorator:
    """Marks a test that only a backend with these capabilities can pass; it is skipped, and counted, on others."""
    return pytest.mark.needs(*capabilities)
