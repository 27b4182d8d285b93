"""What is heard of a stream while its bytes pass by, wherever they are cut."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
from hypothesis import given

from kube_nb.backends.kubernetes.log import Heard
from kube_nb.events import Encoder


def stream_of(texts: list[bytes], *, end: bool) -> bytes:
    encoder = Encoder()
    data = encoder.event("state", 0, phase="Running")
    data += b"".join(encoder.text(0, text) for text in texts)
    return data + (encoder.event("end", 0, code="Succeeded") if end else b"")


texts = st.lists(st.binary(max_size=40) | st.sampled_from([b'\x1e{"kind":"end"}\n', b"\n", b'a\x1e{"kind":"end",']))


@given(texts, st.booleans(), st.lists(st.integers(0, 400)))
def test_the_end_is_heard_exactly_where_the_runner_said_it(written, end, cuts):
    data = stream_of(written, end=end)
    heard = Heard()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, stop in itertools.pairwise(places):
        heard.take(data[start:stop])
    assert (heard.end is not None) == end
    assert heard.at == len(data)


def test_what_was_read_before_is_looked_at_but_not_counted():
    data = stream_of([b"text"], end=True)
    heard = Heard(at=len(data))
    heard.take(data, known=len(data))
    assert heard.at == len(data)
    assert heard.end is not None
    assert heard.end["code"] == "Succeeded"
