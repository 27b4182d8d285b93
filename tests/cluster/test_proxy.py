"""A cluster behind a proxy that lets nobody through whom it does not know."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kube_nb.backends.kubernetes.connect import Place, connect
from kube_nb.backends.kubernetes.exec import Exec
from kube_nb.backends.kubernetes.kinds import JOBS
from kube_nb.errors import Unreachable
from tests.cluster.doorkeeper import Doorkeeper
from tests.cluster.handmade import FOREVER


@pytest.fixture
def doorkeeper() -> Iterator[Doorkeeper]:
    made = Doorkeeper()
    yield made
    made.close()


def place(doorkeeper: Doorkeeper, directory: Path, who: str) -> Place:
    content = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    for entry in content["clusters"]:
        entry["cluster"]["proxy-url"] = f"http://{who}127.0.0.1:{doorkeeper.port}"
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return Place("proxied", content["current-context"], kubeconfig=str(path))


def test_requests_and_programs_pass_with_the_name_and_password_of_the_address(doorkeeper, by_hand, tmp_path):
    api = connect(place(doorkeeper, tmp_path, f"{doorkeeper.known}@"))
    seen = by_hand("proxied", FOREVER)
    seen.running()
    assert api.get(JOBS, seen.id)["metadata"]["name"] == seen.id
    pod = seen.snapshot().pods[0]["metadata"]["name"]
    with Exec.start(api, pod, ["echo", "hello"], stdin=False) as program:
        assert program.output() == b"hello\n"


def test_without_them_nobody_passes(cluster, doorkeeper, tmp_path):
    with pytest.raises(Unreachable):
        connect(place(doorkeeper, tmp_path, "")).list(JOBS)
