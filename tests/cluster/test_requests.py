"""How much one client asks of the API server, and what all who look at a cluster in one process share."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.connect import Place, connection, user_of
from kube_nb.backends.kubernetes.exec import Exec
from kube_nb.client import Client
from kube_nb.jobs.job import Job
from kube_nb.spec import Phase
from tests.cluster.audit import Audit
from tests.cluster.handmade import FOREVER
from tests.conformance.sending import until

MOST = 12
"""Requests of a submit."""
OF_JOBS = ("kube-nb-watch-jobs", "kube-nb-watch-pods", "kube-nb-watch-events")
WATCH = 6
"""Requests with which the watch of all jobs begins, once in a process: a list and a watch of each of three kinds."""


@pytest.fixture
def kubeconfig(cluster: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tenant's, which nobody in this process has used yet."""
    copy = tmp_path / "kubeconfig"
    copy.write_text(Path(os.environ["KUBECONFIG"]).read_text())
    monkeypatch.setenv("KUBECONFIG", str(copy))
    return copy


class Asked(list[str]):
    """The requests of this thread, and apart from them those of the watch of all jobs, which has threads of its own.

    Attributes:
        watch: each once; others' jobs that end before their pods are heard of let it list the pods again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watch: set[str] = set()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    requests = Asked()
    send = Api._transport

    def counted(self: Api, method: str, path: str, *rest: Any) -> Any:
        thread = threading.current_thread()
        if thread is threading.main_thread():
            requests.append(f"{method} {path}")
        elif thread.name in OF_JOBS:  # others' jobs in queues let it ask for Workloads as well
            requests.watch.add(f"{method} {path}")
        return send(self, method, path, *rest)

    monkeypatch.setattr(Api, "_transport", counted)
    return requests


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    made: list[Job] = []
    yield made
    for job in made:
        job.wait(90)
        job.delete()


def context(kubeconfig: Path) -> str:
    return yaml.safe_load(kubeconfig.read_text())["current-context"]


@pytest.mark.slow
@pytest.mark.usefixtures("shared_store")
def test_a_submit_asks_a_dozen_times_and_the_next_one_half_as_often(kubeconfig, asked, jobs):
    def submit() -> int:
        asked.clear()
        client = Client(on=context(kubeconfig), cpu="0.05", memory="64Mi")
        jobs.append(client.cell("x = 1", {"__name__": "__main__"}))
        return len(asked)

    assert submit() <= MOST, asked
    assert submit() <= MOST / 2, asked
    assert [job.wait(90).phase for job in jobs] == [Phase.SUCCEEDED] * 2
    assert len(asked.watch) == WATCH, asked.watch


def test_all_who_look_at_a_place_share_one_connection(kubeconfig, asked):
    place = Place("here", context(kubeconfig))
    first = connection(place)
    assert connection(Place("here", context(kubeconfig))) is first
    assert connection(Place("here", context(kubeconfig), namespace="other")) is not first
    assert user_of(first) == user_of(connection(place))
    assert len(asked) == 1


def test_what_is_watched_for_one_name_of_a_namespace_is_known_to_the_others(kubeconfig, asked, cluster):
    name = context(kubeconfig)
    first, second = (Client(on=on).backend for on in (name, f"{name}/{cluster.namespace}"))
    with closing(first.subscribe(lambda status: None)):
        until(lambda: len(asked.watch) == WATCH)
        first.list()
        asked.clear()
        second.list()
    assert asked == []
    assert first.name != second.name


def test_a_kubeconfig_that_was_written_anew_is_read_anew(kubeconfig):
    place = Place("here", context(kubeconfig))
    first = connection(place)
    os.utime(kubeconfig, (1, 1))  # as a login does
    assert connection(place) is not first


def test_a_program_in_a_container_is_asked_for_under_our_name(cluster, by_hand, unique, monkeypatch):
    agent = f"kube-nb {unique('agent')}"
    monkeypatch.setattr("kube_nb.backends.kubernetes.exec.USER_AGENT", agent)
    try:
        audit = Audit(agent)
    except LookupError as none:
        pytest.skip(f"cluster: {none}")
    seen = by_hand("exec", FOREVER)
    seen.running()
    with Exec.start(cluster, seen.snapshot().pods[0]["metadata"]["name"], ["true"], stdin=False) as program:
        program.output()
    until(lambda: {request.resource for request in audit.requests()} == {"pods/exec"}, 30)
