"""Quantities, durations and names as a person writes them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb.errors import BadValue
from kube_nb.spec import Gpu, Resources, bytes_of, cores_of, new_job_id, seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4Gi", 4 * 1024**3), ("4GB", 4 * 10**9), ("4G", 4 * 10**9), ("512MiB", 512 * 1024**2), ("1.5k", 1500), (7, 7)],
)
def test_memory_is_read_as_bytes(text, expected):
    assert bytes_of(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("90s", 90), ("1h30m", 5400), ("2d", 172800), ("250ms", 0.25), (1.5, 1.5)]
)
def test_durations_are_read_as_seconds(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("500m", 0.5), ("2", 2), (0.25, 0.25)])
def test_cores_are_read(text, expected):
    assert cores_of(text) == expected


@pytest.mark.parametrize("parse", [bytes_of, seconds, cores_of])
@pytest.mark.parametrize("text", ["", "0", "-1", "4 apples", "1e999", "nan", "Gi", "1h30x"])
def test_what_means_nothing_is_refused(parse, text):
    with pytest.raises(BadValue):
        parse(text)


def test_gpus_name_their_resource():
    assert Gpu.parse("2:amd.com/gpu") == Gpu(count=2, resource="amd.com/gpu")
    assert Gpu.parse("0") is None
    with pytest.raises(BadValue):
        Resources.parse(gpus="many")


@given(st.text(max_size=80))
def test_a_job_id_is_a_dns_label_whatever_the_name(name):
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", new_job_id(name))


def test_two_jobs_of_one_name_have_two_ids():
    assert new_job_id("train") != new_job_id("train")
