"""Names of images: which a registry can have, and which Python they tell of."""

from __future__ import annotations

import pytest

from kube_nb.backends.kubernetes.image import python_of, well_formed

DIGEST = "@sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "image",
    [
        "python",
        "python:3.11-slim",
        "library/python:3.11",
        "10.200.0.1:5000/lab/python:3.11",
        "localhost/x",
        "REGISTRY.example.com/team/image",
        "ghcr.io/a/b__c/d-e.f:v1.2_3-x" + DIGEST,
        "python" + DIGEST,
        "[fd00::1]:5000/x:1",
    ],
)
def test_a_name_that_a_registry_can_have(image):
    assert well_formed(image)


@pytest.mark.parametrize(
    "image",
    [
        "",
        " python",
        "Python:3.11",
        "python:",
        "python:3.11:slim",
        "https://ghcr.io/a/b",
        "a//b",
        "a/-b",
        "python:" + "x" * 129,
        "python@sha256:123",
        "team/Image",
        "python:3.11 slim",
        "python\n",
    ],
)
def test_a_name_that_no_registry_can_have(image):
    assert not well_formed(image)


@pytest.mark.parametrize(
    ("image", "python"),
    [
        ("python:3.11-slim", (3, 11)),
        ("python:3.13", (3, 13)),
        ("lab/python:3.11", (3, 11)),
        ("mirror.example.com:5000/hub/python:3.12.4-bookworm" + DIGEST, (3, 12)),
        ("quay.io/jupyter/scipy-notebook:python-3.12", (3, 12)),
        ("rapidsai/base:24.10-cuda12.5-py3.11", (3, 11)),
        ("rocm/pytorch:rocm6.1_ubuntu22.04_py3.10_pytorch_2.1", (3, 10)),
        ("team/train:py311-cu121", (3, 11)),
        ("python:3", None),
        ("python:latest", None),
        ("python", None),
        ("pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime", None),
        ("nvcr.io/nvidia/pytorch:24.10-py3", None),
        ("team/happy312:1", None),
    ],
)
def test_the_python_that_a_tag_tells_of(image, python):
    assert python_of(image) == python
