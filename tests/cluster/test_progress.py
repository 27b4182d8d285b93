"""What takes long on the way to a cluster and back tells how far it is."""

from __future__ import annotations

import pytest

from kube_nb.backends.kubernetes.api import Api
from kube_nb.jobs.card import Card
from kube_nb.magics import draw, run
from tests.conformance.backends import CLUSTER
from tests.conformance.kernel import own_kernel

SIZE = 24_000_000
"""More than a Secret or a stream carries, in several pieces."""


@pytest.mark.lab
@pytest.mark.slow
def test_the_card_tells_how_far_sending_and_fetching_are(cluster: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Card] = []
    show = draw.Board.draw

    def noted(self: draw.Board, card: Card, *, now: bool = False) -> None:
        drawn.append(card)
        show(self, card, now=now)

    monkeypatch.setattr(draw.Board, "draw", noted)
    monkeypatch.setattr(run, "_LONG", 0.0)
    monkeypatch.setenv("KUBE_NB_ON", CLUSTER.on)
    monkeypatch.setenv("KUBE_NB_IMAGE", "lab/python:3.11")
    with own_kernel() as kernel:
        kernel.run(f"import os\ndata = os.urandom({SIZE})")
        kernel.send("back = data[::-1]", "--cpu 0.1 --memory 512Mi -o back")
        assert kernel["back"] == kernel["data"][::-1]
        kernel.job.delete()
    told = {
        word: [card.progress for card in drawn if card.progress and card.progress[2].endswith(word)]
        for word in ("sent", "fetched")
    }
    for word, steps in told.items():
        assert len(steps) > 1, word
        done = [step[0] for step in steps]
        assert done == sorted(done)
        assert (done[-1], {step[1] for step in steps}) == (steps[-1][1], {steps[-1][1]})
        assert done[-1] >= SIZE
