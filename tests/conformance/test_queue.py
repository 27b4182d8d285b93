"""Who may run now: first come first served, and a visible reason for those who wait."""

from __future__ import annotations

import pytest

from kube_nb.backends.base import Capability
from kube_nb.spec import Phase
from tests.conformance.backends import needs
from tests.conformance.sending import Sender, became, code, ended, running, tail

HOLD = "print('ready', flush=True)\nimport time\ntime.sleep(600)"


def all_cores(send: Sender) -> float:
    cores = send.client.backend.capacity().cpu
    assert cores is not None
    return cores[1]


@needs(Capability.ADMISSION)
def test_a_job_for_which_there_is_no_room_waits_and_says_for_what(send: Sender) -> None:
    first = send(HOLD, cpu=all_cores(send))
    running(first)
    second = send("print('ran')", cpu=all_cores(send))
    while code(second) == "":
        assert second.phase is Phase.PENDING

    assert (second.phase, code(second)) == (Phase.PENDING, "WaitingForTickets")
    assert second.reason is not None
    assert first.id in second.reason.why
    assert "core" in second.reason.what
    assert second.reason.next
    first.cancel()
    assert ended(second).phase is Phase.SUCCEEDED
    assert second.reason is None
    assert tail(second) == "ran\n"


def test_a_job_for_which_there_is_room_does_not_wait(send: Sender) -> None:
    first = send(HOLD, cpu=0.1)
    running(first)

    assert send.over("print('ran')", cpu=0.1).phase is Phase.SUCCEEDED
    assert first.phase is Phase.RUNNING


@needs(Capability.ADMISSION)
def test_those_who_wait_run_in_their_order(send: Sender, tmp_path_factory: object) -> None:
    first = send(HOLD, cpu=all_cores(send))
    running(first)
    others = [send("import time\nbegan = time.time()", cpu=all_cores(send)) for _ in range(4)]
    first.cancel()

    began = [ended(job).outputs["began"] for job in others]
    assert began == sorted(began)


@needs(Capability.ADMISSION)
def test_the_place_of_a_job_that_was_cancelled_in_the_queue_is_free(send: Sender) -> None:
    first = send(HOLD, cpu=all_cores(send))
    running(first)
    second = send("print('never')", cpu=all_cores(send))
    third = send("print('ran')", cpu=all_cores(send))
    second.cancel()
    assert ended(second).phase is Phase.CANCELLED
    first.cancel()

    assert ended(third).phase is Phase.SUCCEEDED


@needs(Capability.ADMISSION)
def test_a_job_in_the_queue_outlives_the_client_that_sent_it(send: Sender) -> None:
    first = send(HOLD, cpu=all_cores(send))
    running(first)
    id = send("print('ran')", cpu=all_cores(send)).id
    first.cancel()

    assert ended(send.client.job(id)).phase is Phase.SUCCEEDED


@pytest.mark.slow
def test_a_job_inside_a_job_gives_it_its_result(send: Sender) -> None:
    job = send.over("from kube_nb import Client\ninner = Client().train(divmod, 7, 3)\nresult = inner.result()")

    assert became(job, Phase.SUCCEEDED).outputs["result"] == (2, 1)


@needs(Capability.ADMISSION)
def test_a_job_inside_a_job_does_not_wait_for_its_own_parent(send: Sender) -> None:
    job = send.over(
        "from kube_nb import Client\ninner = Client().train(divmod, 7, 3)\nresult = inner.result()",
        cpu=all_cores(send),
        timeout="60s",
    )

    assert became(job, Phase.SUCCEEDED).outputs["result"] == (2, 1)
