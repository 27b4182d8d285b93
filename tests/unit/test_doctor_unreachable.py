"""The doctor where the target does not answer: that is a row, and the rest is said all the same."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import yaml

from kube_nb.client import Client
from kube_nb.doctor import examine, where


@pytest.fixture
def dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A context whose API server does not run."""
    pytest.importorskip("kubernetes", reason="cluster: the kubernetes package is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    name = "dead"
    config = {
        "clusters": [{"name": name, "cluster": {"server": f"https://127.0.0.1:{port}"}}],
        "users": [{"name": name, "user": {"token": "x"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return name


def test_a_cluster_that_does_not_answer_is_a_row(dead: str) -> None:
    client = Client(on=dead)
    checks = examine(client)
    assert [check.state for check in checks if check.name == "target"] == ["error"]
    assert "python" in {check.name for check in checks}
    assert where(client) == ""


def test_a_target_that_does_not_exist_is_a_row(dead: str) -> None:
    client = Client(on="nobodys")
    assert [check.state for check in examine(client) if check.name == "target"] == ["error"]
    assert where(client) == ""
