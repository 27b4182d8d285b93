"""A value over the limit is named with its size, stays with its job, and goes from there to the next one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kube_nb import RemoteValue
from kube_nb.errors import NotFound
from tests.conformance.kernel import Kernel

Cell = Callable[..., Kernel]


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_NB_RETURN_LIMIT", "1MB")


def test_a_value_over_the_limit_is_named_with_its_size(cell: Cell) -> None:
    kernel = cell("large = 'old'", send="large = bytearray(3_000_000)\nsmall = [1]")

    assert isinstance(kernel["large"], RemoteValue)
    assert kernel["large"].size == pytest.approx(3_000_000, rel=0.01)
    assert kernel["large"].type == "bytearray"
    assert "large (bytearray, 3.0 MB)" in kernel.card
    assert kernel["small"] == [1]


def test_it_is_brought_when_it_is_asked_for(cell: Cell) -> None:
    kernel = cell(send="large = bytearray(b'x') * 3_000_000")

    assert kernel["large"].get() == bytearray(b"x") * 3_000_000


@pytest.mark.rights
def test_a_later_job_reads_it_where_it_lies(cell: Cell) -> None:
    kernel = cell(send="large = bytearray(b'x') * 3_000_000")
    cell(send="length, first = len(large), large[0]")

    assert (kernel["length"], kernel["first"]) == (3_000_000, ord("x"))
    assert isinstance(kernel["large"], RemoteValue)


def test_a_value_that_was_named_comes_back_whatever_its_size(cell: Cell) -> None:
    assert len(cell(send="large = bytearray(3_000_000)", flags="-o large")["large"]) == 3_000_000


def test_a_value_below_the_limit_comes_back(cell: Cell) -> None:
    assert cell(send="small = bytearray(500_000)")["small"] == bytearray(500_000)


def test_a_value_whose_job_was_deleted_says_so(cell: Cell) -> None:
    kernel = cell(send="large = bytearray(3_000_000)")
    kernel.run(f"%kube_delete {kernel.job.id}")

    with pytest.raises(NotFound):
        kernel["large"].get()


def test_a_value_that_cannot_come_back_is_named_with_the_reason(cell: Cell) -> None:
    kernel = cell(send="import threading\nguard = threading.Lock()\nother = 1")

    assert kernel["other"] == 1
    assert "guard" not in kernel
    assert "guard" in kernel.card
    assert "lock" in kernel.card
