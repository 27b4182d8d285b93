"""What a container leaves as its last word is not trusted: it can be anything, and a list of jobs reads all of them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from kube_nb.backends.reasons import reason_of
from kube_nb.runner import ending

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KNOWN = [
    "limit",
    "name",
    "nodes",
    "what",
    "why",
    "next",
    "place",
    "log",
    "store",
    "supervisor",
    "rebooted",
    "supervisor",
]
KNOWN += ["node", "ranks", "disruptions", "missing", "after", "left", "python", "timeout", "code", "signal", "cell"]
details = st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=8), anything, max_size=6)
fields = st.sampled_from([name for name in ending.end("Succeeded", 0) if name != "code"])
ends = st.builds(
    lambda code, said, detail: said | {"code": code, "detail": detail},
    st.sampled_from(sorted(ending.CODES)),
    st.dictionaries(fields, anything, max_size=5),
    details | anything,
)


@given(ends)
def test_whatever_it_is_it_has_every_part_of_its_kind(said):
    found = ending.parse_end(json.dumps(said))
    assert found is not None
    blank = ending.end(said["code"], 0)
    assert found.keys() >= blank.keys()
    assert isinstance(found["detail"], dict)
    assert float(found["ended"]) == found["ended"]
    assert ending.status_of(found) in set(ending.CODES.values())
    for name, value in said.items():
        if isinstance(value, str) and isinstance(blank[name], str):
            assert found[name] == value


@given(ends)
def test_it_has_words(said):
    found = ending.parse_end(json.dumps(said))
    assert found is not None
    reason = reason_of(found)
    assert reason.code == said["code"] or (said["code"] == "EnvironmentFailed" and reason.code in ending.ENVIRONMENT)
    assert all(isinstance(text, str) for text in (reason.what, reason.why, reason.next))


def test_what_is_no_end_is_none():
    for text in ("", "x", "[]", "{}", '{"code": 3}', '{"code": ["Succeeded"]}', '{"code": "Fine"}', "[" * 4000):
        assert ending.parse_end(text) is None


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_are_read(data):
    assert ending.parse_end(data) is None
