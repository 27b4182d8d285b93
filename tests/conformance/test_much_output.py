"""Output without end: bounded in the notebook, whole in the log."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from kube_nb.spec import Phase
from tests.conformance.kernel import Kernel
from tests.conformance.sending import Sender, account, code, ended, events, running

Cell = Callable[..., Kernel]


@pytest.mark.slow
def test_a_million_lines_are_all_there_and_once(send: Sender) -> None:
    job = send("for n in range(1_000_000):\n    print(n)")

    followed = hashlib.sha256()
    expected = 0
    for line in job.logs(follow=True):
        assert line == f"{expected}\n"
        followed.update(line.encode())
        expected += 1
    assert expected == 1_000_000
    assert ended(job).phase is Phase.SUCCEEDED
    end = events(job, "end")[-1].data["account"]
    assert (end["lines"], end["sha256"]) == (1_000_000, followed.hexdigest())
    assert account("".join(job.logs()).encode()) == end


@pytest.mark.slow
def test_output_without_end_is_whole_in_the_log(send: Sender) -> None:
    job = send.over("n = 0\nwhile True:\n    print('line', n)\n    n += 1", timeout="2s")

    assert code(job) == "TimedOut"
    text = "".join(job.logs()).encode()
    assert account(text) == events(job, "end")[-1].data["account"]
    lines = text.decode().splitlines()
    assert len(lines) > 10_000
    assert lines[:-1] == [f"line {n}" for n in range(len(lines) - 1)]


@pytest.mark.slow
def test_output_without_end_can_be_cancelled(send: Sender) -> None:
    job = send("while True:\n    print('ready')")
    running(job)
    job.cancel()

    assert ended(job).phase is Phase.CANCELLED
    assert account("".join(job.logs()).encode()) == events(job, "end")[-1].data["account"]


@pytest.mark.slow
def test_much_output_is_bounded_in_the_notebook(cell: Cell) -> None:
    kernel = cell(send="for n in range(400_000):\n    print('this is line', n)")

    assert len(kernel.text) < 1_200_000
    assert kernel.text.startswith("this is line 0\nthis is line 1\n")
    assert kernel.text.endswith("this is line 399999\n")
    assert "%kube_logs" in kernel.text
    assert kernel.job.id in kernel.text
    assert sum(1 for _ in kernel.job.logs()) == 400_000


def test_little_output_is_whole_in_the_notebook(cell: Cell) -> None:
    kernel = cell(send="for n in range(1000):\n    print(n)")

    assert kernel.text == "".join(f"{n}\n" for n in range(1000))


@pytest.mark.slow
def test_one_line_without_end_is_bounded_in_the_notebook(cell: Cell) -> None:
    kernel = cell(send="import sys\nfor n in range(300):\n    sys.stdout.write('x' * 20_000)\nprint('end')")

    assert len(kernel.text) < 1_200_000
    assert kernel.text.endswith("xend\n")
