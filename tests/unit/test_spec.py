"""Quantities, durations and names as a person writes them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb.errors import BadValue
from kube_nb.spec import (
    Gpu,
    JobSpec,
    Placement,
    Resources,
    SecretUse,
    VolumeUse,
    bytes_of,
    cores_of,
    new_job_id,
    object_name,
    seconds,
    spec_from,
)


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
    assert Gpu.parse("1:nvidia.com/mig-1g.5gb", ["A100", "H100"]) == Gpu(
        count=1, resource="nvidia.com/mig-1g.5gb", products=("A100", "H100")
    )


@pytest.mark.parametrize(
    "text", ["many", "-1", "1:", "1:gpu", "1:nvidia.com/", "1:/gpu", "1:Nvidia.com/gpu", "1:a b/c"]
)
def test_what_is_no_gpu_is_refused(text):
    with pytest.raises(BadValue):
        Resources.parse(gpus=text)


@pytest.mark.parametrize("product", ["", "-A100", "A 100", "x" * 64])
def test_what_is_no_product_is_refused(product):
    with pytest.raises(BadValue):
        Resources.parse(gpus=1, gpu_product=[product])


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("db", "db", ""),
        ("db:/etc/db", "db", "/etc/db"),
        ("db:/etc//db/", "db", "/etc/db"),
        ("my.db-1:", "my.db-1", "/kube-nb/secrets/my.db-1"),
    ],
)
def test_secrets_are_variables_or_files(text, name, path):
    assert SecretUse.parse(text) == SecretUse(name=name, path=path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data:/data", VolumeUse(claim="data", path="/data")),
        ("data:/data:rw", VolumeUse(claim="data", path="/data")),
        ("data://a/../data/:ro", VolumeUse(claim="data", path="/data", read_only=True)),
    ],
)
def test_volumes_are_claims_and_where_they_are_mounted(text, expected):
    assert VolumeUse.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":/data", "Db:/data", "a_b:/data", "db:data", "db:/", "db:/kube-nb/run", "db:/kube-nb"]
)
@pytest.mark.parametrize("parse", [SecretUse.parse, VolumeUse.parse])
def test_what_cannot_be_mounted_is_refused(parse, text):
    with pytest.raises(BadValue):
        parse(text)


@pytest.mark.parametrize("text", ["data", "data:", "data:/data:rx", "data:/data:ro:x"])
def test_what_is_no_volume_is_refused(text):
    with pytest.raises(BadValue):
        VolumeUse.parse(text)


@pytest.mark.parametrize("text", ["", "High", "a_b", "-a", "a" * 300])
def test_what_is_no_name_of_an_object_is_refused(text):
    with pytest.raises(BadValue):
        object_name(text, "a priority class")


def test_a_spec_is_read_back_as_it_was_written():
    spec = JobSpec(
        id=new_job_id("x"),
        name="x",
        resources=Resources.parse(gpus="2:amd.com/gpu", gpu_product=["MI300X"], shm="1Gi", disk="2Gi"),
        placement=Placement(
            secrets=(SecretUse.parse("a"), SecretUse.parse("b:/b")),
            volumes=(VolumeUse.parse("c:/c:ro"),),
            node_selector={"pool": "gpu"},
            priority_class="high",
        ),
    )
    assert spec_from(json.loads(json.dumps(asdict(spec)))) == spec


@given(st.text(max_size=80))
def test_a_job_id_is_a_dns_label_whatever_the_name(name):
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", new_job_id(name))


def test_two_jobs_of_one_name_have_two_ids():
    assert new_job_id("train") != new_job_id("train")
