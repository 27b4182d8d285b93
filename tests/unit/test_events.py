"""Laws of the stream: whatever the user prints, text and events arrive as they were written."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb.events import Decoder, Encoder, Event, Text

TRICKY = st.binary(max_size=40) | st.lists(
    st.sampled_from([b"\n", b"\x1e", b"a", b"{", b'{"kind":"end"}', b"\r", b"\x85", b"\x00", b"\xff"]), max_size=12
).map(b"".join)
WRITES = st.lists(st.tuples(st.integers(0, 2), TRICKY | st.none()), max_size=20)


def encoded(writes):
    """The stream of these writes, and what a reader must find: text joined, events in their places."""
    encoder, stream, expected = Encoder(), b"", []
    for number, (rank, data) in enumerate(writes):
        if data is None:
            stream += encoder.event("metric", rank, n=number)
            expected.append((rank, number))
        else:
            stream += encoder.text(rank, data)
            expected.append((rank, data))
    return encoder, stream, joined(expected)


def joined(items):
    result = []
    for rank, data in items:
        if data == b"":
            continue
        if isinstance(data, bytes) and result and result[-1][0] == rank and isinstance(result[-1][1], bytes):
            result[-1] = (rank, result[-1][1] + data)
        else:
            result.append((rank, data))
    return result


def decoded(pieces):
    decoder, items = Decoder(), []
    for piece in pieces:
        items += decoder.feed(piece)
    items += decoder.close()
    return joined((item.rank, item.data if isinstance(item, Text) else item.data["n"]) for item in items)


@given(WRITES, st.lists(st.integers(1, 30), min_size=1, max_size=10))
def test_text_and_events_survive_any_interleaving_and_any_cut(writes, sizes):
    _, stream, expected = encoded(writes)
    pieces, position, turn = [], 0, 0
    while position < len(stream):
        pieces.append(stream[position : position + sizes[turn % len(sizes)]])
        position += len(pieces[-1])
        turn += 1
    assert decoded(pieces) == expected


@given(WRITES)
def test_the_account_is_of_the_users_text_alone(writes):
    encoder, _, _ = encoded(writes)
    text = b"".join(data for _, data in writes if data is not None)
    assert encoder.account.summary() == {
        "bytes": len(text),
        "lines": text.count(b"\n"),
        "sha256": hashlib.sha256(text).hexdigest(),
    }


@given(st.lists(TRICKY.filter(lambda data: b"\x1e" not in data), max_size=10))
def test_ordinary_text_passes_through_unchanged(chunks):
    encoder = Encoder()
    assert b"".join(encoder.text(0, chunk) for chunk in chunks) == b"".join(chunks).replace(b"\r\n", b"\r\x1e\n")


@given(WRITES)
def test_no_line_ends_with_a_return_which_a_container_runtime_would_take_away(writes):
    _, stream, _ = encoded(writes)
    assert b"\r\n" not in stream


@given(st.binary(max_size=200))
def test_a_reader_survives_any_bytes(data):
    decoder = Decoder()
    for item in [*decoder.feed(data), *decoder.close()]:
        assert isinstance(item, Text | Event)


def test_a_finished_line_is_shown_before_the_next_one_begins():
    decoder = Decoder()
    assert [item.data for item in decoder.feed(Encoder().text(0, b"listening\n"))] == [b"listening\n"]


def test_seq_and_offset_tell_where_an_event_belongs():
    encoder = Encoder(attempt=2)
    stream = encoder.text(0, b"abc") + encoder.event("metric", 0) + encoder.text(0, b"d") + encoder.event("metric", 1)
    events = [item for item in Decoder().feed(stream) if isinstance(item, Event)]
    assert [(e.seq, e.offset, e.rank, e.attempt) for e in events] == [(0, 3, 0, 2), (1, 4, 1, 2)]


def test_an_event_torn_by_a_killed_runner_is_dropped():
    stream = Encoder().text(0, b"line\n") + Encoder().event("metric", 0, n=1)[:-5]
    decoder = Decoder()
    assert [*decoder.feed(stream), *decoder.close()] == [Text(0, b"line\n")]


@pytest.mark.parametrize(
    "line", [b"\x1e{not json}\n", b"\x1e[]\n", b'\x1e{"kind":1,"rank":0,"attempt":0,"seq":0,"offset":0}\n']
)
def test_a_line_that_is_no_event_is_text(line):
    decoder = Decoder()
    assert b"".join(item.data for item in [*decoder.feed(line), *decoder.close()]) == line


def test_a_reserved_key_is_refused():
    with pytest.raises(ValueError, match="seq"):
        Encoder().event("metric", 0, seq=1)
