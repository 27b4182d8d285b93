"""A cluster that does not answer: who waits goes on waiting and is told within seconds, and nothing old passes for new."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from kube_nb.client import Client
from kube_nb.errors import Unreachable
from kube_nb.spec import Phase
from tests.cluster.severed import Proxy
from tests.conformance.backends import CLUSTER
from tests.conformance.gate import Gate
from tests.conformance.kernel import own_kernel
from tests.conformance.sending import remove_sent, running, until

pytestmark = [pytest.mark.slow, pytest.mark.lab]
AWAY = "cannot be reached"
FLAGS = "--cpu 0.1 --memory 256Mi"


@pytest.fixture
def wire(cluster, tmp_path: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What everything of this test that asks the cluster goes through."""
    content = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    entry = next(one["cluster"] for one in content["clusters"] if urlsplit(one["cluster"]["server"]).port)
    address = urlsplit(entry["server"])
    proxy = Proxy(address.hostname or "", address.port or 443)
    entry |= {"server": f"https://127.0.0.1:{proxy.port}", "tls-server-name": address.hostname}
    copy = tmp_path / "kubeconfig"
    copy.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("KUBECONFIG", str(copy))
    monkeypatch.setenv("KUBE_NB_ON", CLUSTER.on)
    monkeypatch.setenv("KUBE_NB_IMAGE", "lab/python:3.11")
    yield proxy
    proxy.open = True
    remove_sent(Client())
    proxy.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate(CLUSTER.address)
    yield made
    made.close()


def cut(wire: Proxy) -> None:
    wire.open = False
    wire.sever()


def test_who_waits_is_told_and_waits_until_the_cluster_answers_again(wire, gate, caplog):
    job = Client(cpu="0.1", memory="256Mi").cell(f"print('ready', flush=True)\n{gate.wait}", {"__name__": "__main__"})
    running(job)
    waiting = threading.Thread(target=job.wait)
    waiting.start()
    cut(wire)
    with caplog.at_level(logging.WARNING):
        until(lambda: AWAY in caplog.text and job.id in caplog.text, 30)
    gate.open()
    assert waiting.is_alive()
    with pytest.raises(Unreachable):
        Client().statuses()
    with pytest.raises(Unreachable):
        job.status()
    assert job.wait(timeout=0.1) is job, "the time of one who waits is over also while nobody answers"
    wire.open = True
    waiting.join(120)
    assert job.phase is Phase.SUCCEEDED


def test_who_reads_along_is_told_that_nothing_comes_and_then_reads_on(wire, gate, caplog):
    job = Client(cpu="0.1", memory="256Mi").cell(
        f"print('ready', flush=True)\n{gate.wait}\nprint('after')", {"__name__": "__main__"}
    )
    lines = job.logs(follow=True)
    assert next(lines) == "ready\n"
    rest: list[str] = []
    reading = threading.Thread(target=lambda: rest.extend(lines))
    reading.start()
    cut(wire)
    with caplog.at_level(logging.WARNING):
        until(lambda: AWAY in caplog.text and job.id in caplog.text, 30)
    gate.open()
    wire.open = True
    reading.join(120)
    assert rest == ["after\n"]
    assert caplog.text.count(f"job {job.id}:") == 1


def test_the_card_of_a_followed_cell_says_that_the_cluster_is_away_and_forgets_it(wire, gate):
    seen: list[str] = []
    with own_kernel() as kernel:
        shown = kernel.shell.frontend

        def outage() -> None:
            until(lambda: shown.cell.cards and "Running" in shown.cell.card, 150)
            cut(wire)
            until(lambda: AWAY in shown.cell.card, 30)
            seen.append(shown.cell.card)
            wire.open = True
            until(lambda: AWAY not in shown.cell.card, 60)
            seen.append(shown.cell.card)

        def through_it() -> None:
            try:
                outage()
            finally:
                gate.open()

        beside = threading.Thread(target=through_it)
        beside.start()
        kernel.send(f"{gate.wait}\nback = 1", FLAGS)
        beside.join()
        assert kernel["back"] == 1
    away, again = seen
    assert "Running" in away
    assert "goes on" in away
    assert "Running" in again


def test_the_card_of_a_detached_job_says_it_too_and_the_list_of_jobs_shows_nothing_old(wire, gate):
    with own_kernel() as kernel:
        sent = kernel.send(f"{gate.wait}\nback = 1", f"{FLAGS} --detach --job j")
        until(lambda: "Running" in sent.card, 150)
        cut(wire)
        until(lambda: AWAY in sent.card, 30)
        listed = kernel.run("%kube_jobs", fails=True)
        assert listed.error is not None
        assert listed.error.ename == "Unreachable"
        wire.open = True
        until(lambda: AWAY not in sent.card, 60)
        gate.open()
        until(lambda: "Succeeded" in sent.card, 120)
