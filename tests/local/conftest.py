"""Facts of the local target alone: its directory, its clock. What every target does is in tests/conformance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_nb.client import Client
from tests.conformance.sending import Sender


@pytest.fixture
def place(state_dir: Path) -> Path:
    """The state directory; a test file may put something special there."""
    return state_dir


@pytest.fixture
def send(place: Path) -> Iterator[Sender]:
    """Sends cells to this machine; their jobs are removed afterwards."""
    client = Client(on="local")
    yield Sender(client)
    for status in client.statuses():
        client.backend.delete(status.id)
