"""The card says everything in words, in text and in HTML."""

from __future__ import annotations

import re

import pytest

from kube_nb.backends.base import Reason
from kube_nb.jobs.card import Card, asked_text, duration
from kube_nb.spec import Resources


def card(**changes):
    given = {"job": "fit-1", "label": "Cell In[5]", "where": "this machine", "phase": "Running", "seconds": 3.0}
    return Card(**(given | changes))


def test_the_text_is_complete_by_itself():
    reason = Reason(code="OutOfMemory", what="it used too much", why="limit 1 GB", next="ask for more with --memory")
    text = card(phase="Failed", reason=reason, rows=(("sent", "2 MB: X"),), notes=("`--image` has no effect",)).text()
    for part in ("fit-1", "Failed after 3.0 s", "Cell In[5]", "this machine", "OutOfMemory", "limit 1 GB", "--memory"):
        assert part in text
    assert "2 MB: X" in text
    assert "`--image` has no effect" in text


def test_the_html_is_a_table_without_script_and_its_state_is_a_word():
    html = card(progress=(1, 4, "epochs")).html()
    assert "<table" in html
    assert html.count('scope="row"') >= 3
    assert "Running" in html
    assert 'value="1" max="4"' in html
    assert "25% epochs" in html
    assert not re.search(r"<script|\son\w+=|javascript:", html)


def test_what_a_job_says_cannot_become_html():
    html = card(step='<img src=x onerror="alert(1)">', metrics={"<b>": 1.0}).html()
    assert "<img" not in html
    assert "<b>" not in html


def test_metrics_show_their_newest_values():
    assert "loss 0.25, step 4" in card(metrics={"loss": 0.25, "step": 4}).text()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (250, "4 min 10 s"), (7500, "2 h 5 min")]
)
def test_durations_are_written_for_a_person(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({}, ""),
        ({"memory": "2Gi", "cpu": 0.5}, "memory 2 GiB, 0.5 cores"),
        ({"cpu": 1, "gpus": 2, "gpu_product": ["A100"]}, "1 core, 2 nvidia.com/gpu A100"),
        ({"memory": "4Gi", "nodes": 2, "procs": 3}, "memory 4 GiB, 3 processes, on each of 2 nodes"),
        ({"nodes": 2}, "2 nodes"),
    ],
)
def test_what_a_job_asks_for_is_told_in_a_few_words(asked, text):
    assert asked_text(Resources.parse(**asked)) == text
