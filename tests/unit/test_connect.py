"""From the names of targets to connections: one for each namespace that somebody looks at, whatever it is called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from kube_nb.backends import open_backend
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.connect import connection, place_of
from kube_nb.config import Settings
from kube_nb.errors import Unreachable

pytest.importorskip("kubernetes", reason="cluster: the kubernetes package is not installed")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Two contexts of one cluster, of which nobody is asked here, and two targets."""
    user = {"name": "anna", "user": {"token": "x"}}
    server = {"name": "eu", "cluster": {"server": "https://127.0.0.1:1"}}
    contexts = [
        {"name": "eu", "context": {"cluster": "eu", "user": "anna", "namespace": "team-a"}},
        {"name": "plain", "context": {"cluster": "eu", "user": "anna"}},
    ]
    kubeconfig = {"apiVersion": "v1", "kind": "Config", "clusters": [server], "users": [user], "contexts": contexts}
    for name in ("mine", "other"):
        (tmp_path / name).write_text(yaml.safe_dump(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "mine"))
    file = f"""
        [targets.gpu]
        context = "eu"
        namespace = "team-a"
        gpus = 1
        [targets.same]
        context = "eu"
        kubeconfig = "{tmp_path / "mine"}"
        [targets.elsewhere]
        context = "eu"
        kubeconfig = "{tmp_path / "other"}"
    """
    (tmp_path / "user.toml").write_text(file)
    return Settings.load(tmp_path, environ={}, user=tmp_path / "user.toml", site=tmp_path / "site.toml")


def connected(target: str, settings: Settings) -> Api:
    return connection(place_of(target, settings))


@pytest.mark.parametrize("other", ["eu/team-a", "gpu", "gpu/team-a", "same"])
def test_names_of_one_namespace_share_a_connection_and_so_a_watch(settings, other):
    assert connected(other, settings) is connected("eu", settings)


def test_a_context_without_a_namespace_means_the_default_one(settings):
    assert connected("plain", settings).namespace == "default"
    assert connected("plain/default", settings) is connected("plain", settings)


@pytest.mark.parametrize("other", ["eu/team-b", "gpu/team-b", "plain/team-a", "elsewhere"])
def test_another_namespace_user_or_kubeconfig_has_a_connection_of_its_own(settings, other):
    assert connected(other, settings) is not connected("eu", settings)


def test_each_target_keeps_its_own_name(settings):
    assert [open_backend(name, settings).name for name in ("eu", "gpu", "eu/team-a")] == ["eu", "gpu", "eu/team-a"]


def test_a_kubeconfig_that_was_written_anew_is_read_anew_under_every_name(settings, tmp_path):
    before = connected("eu", settings)
    os.utime(tmp_path / "mine", (1, 1))  # as a login does
    assert connected("gpu", settings) is connected("eu", settings) is not before


def test_outside_of_a_cluster_its_pods_account_is_out_of_reach(settings, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Unreachable):
        connected("in-cluster", settings)
