"""The backends that the conformance suite runs on, and how a test says what it needs of one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kube_nb.backends.base import Capability


@dataclass(frozen=True, kw_only=True)
class Target:
    """A place where every test of the suite runs once.

    Attributes:
        name: in the ids of the tests.
        on: what `--on` calls it.
    """

    name: str
    on: str


BACKENDS = (Target(name="local", on="local"),)


def needs(*capabilities: Capability) -> pytest.MarkDecorator:
    """Marks a test that only a backend with these capabilities can pass; it is skipped, and counted, on others."""
    return pytest.mark.needs(*capabilities)
