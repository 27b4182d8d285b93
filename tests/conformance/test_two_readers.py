"""Two kernels that attach to one job: each gets all of it, neither disturbs the other."""

from __future__ import annotations

import threading

import pytest

from kube_nb.client import Client
from kube_nb.spec import Phase
from tests.conformance.frontend import SeparateKernel
from tests.conformance.gate import Gate
from tests.conformance.sending import Sender, ended, running, sent, until

SLOW = "import time\nprint('ready', flush=True)\nfor n in range(50):\n    print(n, flush=True)\n    time.sleep(0.02)\nx = {'a': [1]}"
PRINTED = "ready\n" + "".join(f"{n}\n" for n in range(50))


def test_two_handles_read_the_same_while_it_runs(send: Sender) -> None:
    job = send(SLOW)
    texts: dict[int, str] = {}

    def read(number: int) -> None:
        texts[number] = "".join(Client().job(job.id).logs(follow=True))

    readers = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)

    assert texts == dict.fromkeys(range(4), PRINTED)


def test_another_kernel_attaches_and_gets_text_and_values(send: Sender, separate_kernel: SeparateKernel) -> None:
    job = send(SLOW)
    running(job)
    ran = separate_kernel.run(f"%kube_attach {job.id}")

    assert PRINTED in ran.text, ran
    assert separate_kernel["x"] == "{'a': [1]}"
    assert "Succeeded" in ran.card
    assert "".join(job.logs()) == PRINTED
    assert job.outputs["x"] == {"a": [1]}


def test_one_who_goes_away_does_not_disturb_the_other(send: Sender) -> None:
    job = send(SLOW)
    first, second = job.logs(follow=True), Client().job(job.id).logs(follow=True)
    next(first)
    first.close()  # type: ignore[attr-defined]

    assert "".join(second) == PRINTED
    assert ended(job).phase is Phase.SUCCEEDED


@pytest.mark.slow
def test_nothing_goes_on_reading_a_silent_job_of_several_nodes_for_one_who_went_away(send: Sender, gate: Gate) -> None:
    job = send(f"print('ready', flush=True)\n{gate.wait}", nodes=2)
    lines = job.logs(follow=True)
    assert sorted([next(lines), next(lines)]) == ["[0] ready\n", "[1] ready\n"]
    lines.close()  # type: ignore[attr-defined]

    until(lambda: not any(thread.name.startswith(f"follow-{job.id}") for thread in threading.enumerate()), 30)
    assert not job.phase.final
    gate.open()
    assert ended(job).phase is Phase.SUCCEEDED


def test_cancel_by_one_is_seen_by_the_other(send: Sender, separate_kernel: SeparateKernel) -> None:
    job = send("print('ready', flush=True)\nimport time\ntime.sleep(600)")
    attached = separate_kernel.start(f"%kube_attach {job.id}")
    attached.until("ready")
    job.cancel()
    ran = attached.finish()

    assert "Cancelled" in ran.card
    assert "Cancelled" in ran.traceback or "cancelled" in ran.traceback


def test_submitting_twice_with_one_id_makes_one_job(send: Sender) -> None:
    backend = send.client.backend
    kind = type(backend)
    submit = kind.submit
    seen = []

    def twice(self, spec, bundle, progress):  # the answer to the first is lost
        submit(self, spec, bundle)
        seen.append(spec.id)
        return submit(self, spec, bundle)

    kind.submit = twice
    try:
        job = send.over("print('once')")
    finally:
        kind.submit = submit

    assert seen == [job.id]
    assert [status.id for status in sent(send.client)] == [job.id]
    assert list(job.logs()) == ["once\n"]
