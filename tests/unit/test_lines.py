"""Bytes of several ranks become lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kube_nb.jobs.lines import Lines

CHUNKS = st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=12)), max_size=20)


@given(CHUNKS)
def test_each_ranks_text_arrives_whole_whatever_the_cuts(chunks):
    lines = Lines(prefixed=True)
    found = [line for rank, data in chunks for line in lines.add(rank, data)] + list(lines.close())
    for rank in range(3):
        written = b"".join(data for r, data in chunks if r == rank).decode("utf-8", "replace")
        mine = [line.removeprefix(f"[{rank}] ") for line in found if line.startswith(f"[{rank}] ")]
        assert "".join(mine) == written


def test_lines_end_at_newlines_alone():
    lines = Lines(prefixed=False)
    assert list(lines.add(0, "a\x85b\u2028c\x1e\rd\n".encode())) == ["a\x85b\u2028c\x1e\rd\n"]


def test_one_rank_alone_can_be_read():
    lines = Lines(prefixed=False, only=1)
    assert list(lines.add(0, b"zero\n")) == []
    assert list(lines.add(1, b"one\n")) == ["one\n"]
