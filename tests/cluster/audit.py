"""What the API server has written down of one client's requests: its audit log, told apart by the user agent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kube_nb.backends.kubernetes import api


@dataclass(frozen=True)
class Request:
    """One request as the API server saw it.

    Attributes:
        verb: of Kubernetes, e.g. "watch". resource: e.g. "pods/log". address: path and query.
    """

    verb: str
    resource: str
    address: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


class Audit:
    """The log from here on.

    Args:
        agent: whose requests count.

    Raises:
        LookupError: there is no log that can be read here.
    """

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._path = Path(os.environ.get("LAB_ADMIN_KUBECONFIG", "/")).parent / "logs" / "audit.log"
        if not os.access(self._path, os.R_OK):
            raise LookupError(f"no audit log that can be read at {self._path}")
        self.begin()

    def begin(self) -> None:
        """What was asked so far counts no more."""
        self._from = self._path.stat().st_size

    def requests(self) -> list[Request]:
        """All since `begin`. A watch or a followed log counts when it begins, and once."""
        with open(self._path, "rb") as log:
            log.seek(self._from)
            entries = [json.loads(line) for line in log if line.endswith(b"\n")]
        mine = {entry["auditID"]: entry for entry in entries if self._agent in entry.get("userAgent", "")}
        return [_request(entry) for entry in mine.values()]


def _request(entry: dict[str, Any]) -> Request:
    about = entry.get("objectRef", {})
    resource = "/".join(filter(None, (about.get("resource", ""), about.get("subresource", ""))))
    return Request(entry["verb"], resource, entry["requestURI"])


@contextmanager
def audited(agent: str) -> Iterator[Audit]:
    """Requests of this process under a name of their own; others use the same cluster as the same user.

    What is exec'd keeps its own name: it does not go through `Api`.
    """
    with patch.object(api, "USER_AGENT", agent):
        yield Audit(agent)
