"""Failures of the code are tried again, as often as was asked for."""

from __future__ import annotations

import pytest

from kube_nb.spec import Phase
from tests.conformance.sending import Sender, code, ended, events, tail

pytestmark = pytest.mark.slow

COUNT = (
    "import kube_nb as kn\nfrom pathlib import Path\n"
    "seen = Path(kn.checkpoint_dir(), 'seen')\n"
    "attempt = len(seen.read_text()) if seen.exists() else 0\n"
    "seen.write_text('x' * (attempt + 1))\n"
    "print('attempt', attempt, flush=True)\n"
)


@pytest.mark.rights
@pytest.mark.via
def test_the_last_attempt_decides_and_the_checkpoints_survive(send: Sender) -> None:
    job = send.over(COUNT + "if attempt < 2:\n    raise ValueError(f'attempt {attempt}')\nmodel = 'made'", retries=2)

    assert job.phase is Phase.SUCCEEDED
    assert job.status().attempt == 2
    assert job.outputs["model"] == "made"
    text = tail(job)
    assert [line for line in text.splitlines() if line.startswith("attempt")] == ["attempt 0", "attempt 1", "attempt 2"]


def test_a_rerun_is_another_job_and_finds_none_of_its_checkpoints(send: Sender) -> None:
    job = send.over(COUNT)
    again = ended(send.client.rerun(job))

    assert [tail(one) for one in (job, again)] == ["attempt 0\n"] * 2


def test_each_attempt_has_its_own_account_and_error(send: Sender) -> None:
    job = send.over("print('x')\nraise ValueError('always')", retries=1)

    assert [(end.attempt, end.data["code"]) for end in events(job, "end")] == [(0, "Exception"), (1, "Exception")]
    assert (job.phase, code(job)) == (Phase.FAILED, "Exception")
    assert job.status().attempt == 1


def test_no_attempt_is_made_that_was_not_asked_for(send: Sender) -> None:
    assert send.over("raise ValueError").status().attempt == 0


@pytest.mark.parametrize(
    "source", ["import os; os._exit(3)", "import os; os.kill(os.getpid(), 9)", "import sys; sys.exit(3)"]
)
def test_a_process_that_was_lost_is_tried_again(send: Sender, source: str) -> None:
    job = send.over(COUNT + f"if attempt == 0:\n    {source}", retries=1)

    assert (job.phase, job.status().attempt) == (Phase.SUCCEEDED, 1)


def test_a_time_out_is_an_answer_and_is_not_tried_again(send: Sender) -> None:
    job = send.over("import time\ntime.sleep(600)", retries=2, timeout="1s")

    assert (code(job), job.status().attempt) == ("TimedOut", 0)


def test_each_attempt_begins_in_an_empty_folder(send: Sender) -> None:
    job = send.over(
        COUNT
        + "import os\nprint('found', os.listdir('.'))\nopen('left', 'w').close()\nif attempt == 0: raise ValueError",
        retries=1,
    )

    assert [line for line in tail(job).splitlines() if line.startswith("found")] == ["found []", "found []"]


def test_a_value_of_a_failed_attempt_does_not_come_back(send: Sender) -> None:
    job = send.over(COUNT + "if attempt == 0:\n    old = 1\n    raise ValueError\nnew = 2", retries=1)

    assert "new" in job.outputs
    assert "old" not in job.outputs


def test_a_reader_gets_all_attempts_while_they_happen(send: Sender) -> None:
    job = send(COUNT + "if attempt < 2: raise ValueError", retries=2)

    lines = [line for line in job.logs(follow=True) if line.startswith("attempt")]
    assert lines == ["attempt 0\n", "attempt 1\n", "attempt 2\n"]
