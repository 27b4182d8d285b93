"""What a job has said, gathered from nodes that are read side by side."""

from __future__ import annotations

import pytest

from kube_nb.events import Event, Text
from kube_nb.jobs.follow import Attempt
from kube_nb.jobs.replay import Replay

Said = list[Text | Event | Attempt]

FIRST: Said = [Event("error", rank=0, attempt=0, data={"ename": "E"}), Attempt(1, 0)]
FIRST += [Event("result", rank=0, attempt=1, data={"index": {}})]
SECOND: Said = [Event("error", rank=1, attempt=0, data={"ename": "E"}), Attempt(1, 1), Event("end", rank=1, attempt=1)]
AGAIN: Said = [Event("error", rank=1, attempt=1, data={"ename": "F"})]


def orders(*nodes: Said) -> list[Said]:
    """All ways in which the words of the nodes can arrive, each node's in order."""
    if not any(nodes):
        return [[]]
    begun = [(node[0], (*nodes[:at], node[1:], *nodes[at + 1 :])) for at, node in enumerate(nodes) if node]
    return [[word, *rest] for word, left in begun for rest in orders(*left)]


def replayed(said: Said) -> Replay:
    replay = Replay()
    for item in said:
        replay.take([item])
    return replay


@pytest.mark.parametrize("said", orders(FIRST, SECOND))
def test_a_node_that_is_heard_late_does_not_hide_the_result(said: Said):
    assert replayed(said).result == (1, {"index": {}})


@pytest.mark.parametrize("said", orders(FIRST[:2], SECOND + AGAIN))
def test_the_error_of_the_last_attempt_is_kept(said: Said):
    assert replayed(said).error == (1, {"ename": "F"})


def test_what_was_given_back_by_a_try_that_failed_counts_no_more():
    assert replayed([*FIRST, Attempt(2, 0)]).result is None
