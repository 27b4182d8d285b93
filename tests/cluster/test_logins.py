"""Credentials end while jobs run: it is said, nobody waits for ever, and a new login counts for whoever holds an old one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes import feed
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.api_error import ApiError
from kube_nb.backends.kubernetes.connect import connect
from kube_nb.backends.kubernetes.exec import Exec
from kube_nb.backends.kubernetes.kinds import JOBS, PODS
from kube_nb.backends.kubernetes.names import selector
from kube_nb.backends.kubernetes.watch import Watch
from kube_nb.client import Client
from kube_nb.config import Settings
from kube_nb.errors import Refused
from kube_nb.jobs import patience
from kube_nb.jobs.card import snapshot
from kube_nb.jobs.job import Job
from kube_nb.spec import Phase
from tests.cluster.handmade import FOREVER, job
from tests.cluster.logins import Login, logged_in
from tests.conformance.backends import CLUSTER
from tests.conformance.gate import Gate
from tests.conformance.sending import running, until

pytestmark = pytest.mark.lab
SIZE = 5_000_000
"""More than a stream carries."""


@pytest.fixture
def login(admin: Api, tmp_path: Path) -> Iterator[Login]:
    with logged_in(admin, tmp_path) as made:
        yield made


@pytest.fixture
def client(login: Login, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Theirs, in a namespace without any storage."""
    monkeypatch.setenv("KUBECONFIG", str(login.user.kubeconfig))
    settings = Settings.load(environ={"KUBE_NB_STATE_DIR": str(state_dir), "KUBE_NB_STORE": "none"})
    return Client(login.user.context, settings=settings, image="lab/python:3.11", cpu="0.1", memory="256Mi")


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate(CLUSTER.address)
    yield made
    made.close()


def cell(client: Client, source: str) -> Job:
    return client.options(outputs=["back"]).cell(source, {"__name__": "__main__"})


def refused(act) -> str:
    """The code with which an act is refused."""
    with pytest.raises(Refused) as caught:
        act()
    return caught.value.findings[0].reason.code


# A new login --------------------------------------------------------------------------------------------------------


def test_a_new_login_counts_for_whoever_holds_a_connection_already(login):
    held = connect(login.place)
    watch = Watch(held, selector())
    assert watch.snapshots() == []
    login.withdraw()
    login.again()
    name = held.create(JOBS, job("t-job", FOREVER))["metadata"]["name"]
    assert watch.wait(name, lambda one: one, 30)
    watch.close()


def test_a_program_is_started_in_a_container_with_a_new_login_too(login):
    held = connect(login.place)
    held.create(JOBS, job("t-job", FOREVER))
    pod = until(lambda: [pod for pod in held.list(PODS)[0] if (pod.get("status") or {}).get("phase") == "Running"])[0]
    login.withdraw()
    login.again()
    with Exec.start(held, pod["metadata"]["name"], ["echo", "hello"], stdin=False) as program:
        assert program.output() == b"hello\n"


def test_a_program_that_gives_credentials_is_asked_again_once_they_are_refused(login, tmp_path):
    """It says nothing of when they end."""
    said = tmp_path / "said"
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import json, sys\n"
        "status = {'token': open(sys.argv[1]).read()}\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential', 'status': status}))"
    )
    said.write_text(login.token())
    program = {"command": sys.executable, "args": [str(plugin), str(said)], "interactiveMode": "Never"}
    login.write({"exec": {"apiVersion": "client.authentication.k8s.io/v1", **program}})
    held = connect(login.place)
    assert held.list(JOBS)[0] == []
    login.withdraw()
    said.write_text(login.token())
    assert held.list(JOBS)[0] == []


def test_credentials_of_another_cluster_by_the_same_name_are_not_taken(login):
    held = connect(login.place)
    login.withdraw()
    login.again()
    content = login.user.kubeconfig.read_text()
    login.user.kubeconfig.write_text(content.replace(held.client.configuration.host, "https://127.0.0.1:1"))
    with pytest.raises(ApiError) as caught:
        held.list(JOBS)
    assert caught.value.status == 401


@pytest.mark.slow
def test_what_a_job_without_a_store_made_is_brought_with_a_new_login(client, login, gate):
    made = cell(client, f"print('ready', flush=True)\n{gate.wait}\nback = bytes({SIZE})")
    running(made)
    login.withdraw()
    gate.open()
    login.again()
    assert made.wait(150).phase is Phase.SUCCEEDED, made.reason
    assert len(made.outputs["back"]) == SIZE


# None ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_who_waits_hears_that_the_credentials_have_ended_and_waits_on_after_a_login(client, login, gate, monkeypatch):
    for module, name in ((feed, "LASTING"), (patience, "_LASTING")):
        monkeypatch.setattr(module, name, 1.0)
    made = cell(client, f"print('ready', flush=True)\n{gate.wait}\nback = 1")
    running(made)
    cards: list[str] = []
    subscription = made.subscribe(lambda status: cards.append(snapshot(made, status=status).text()))
    login.withdraw()
    _end_all_watches(client)
    assert refused(made.wait) == "Unauthorized"
    assert refused(client.statuses) == "Unauthorized"
    until(lambda: "does not accept your credentials" in cards[-1] and "log in" in cards[-1])
    assert "Running" in cards[-1]
    login.again()
    until(lambda: "credentials" not in cards[-1])
    gate.open()
    assert made.wait(150).phase is Phase.SUCCEEDED, made.reason
    subscription.close()


def _end_all_watches(client: Client) -> None:
    """As an API server does after five minutes; until then it trusts whom it knew when they began."""
    watch = client.backend._watch  # type: ignore[attr-defined]
    for one in watch._session._feeds:
        if one._changes is not None:
            one._changes.stop()


@pytest.mark.slow
def test_who_follows_a_job_that_has_not_begun_hears_that_the_credentials_have_ended(client, login, monkeypatch):
    monkeypatch.setattr(feed, "LASTING", 1.0)
    monkeypatch.setattr("kube_nb.backends.kubernetes.stream.LASTING", 1.0)
    made = cell(client.options(cpu="0.1", image="lab/nobody-has-this:1"), "back = 1")
    codes: list[str] = []
    follower = threading.Thread(target=lambda: codes.append(refused(lambda: list(made.logs(follow=True)))))
    follower.start()
    until(lambda: made.phase is Phase.STARTING)
    login.withdraw()
    _end_all_watches(client)
    follower.join(60)
    assert codes == ["Unauthorized"]
