"""What a notebook needs, seen without running it."""

from __future__ import annotations

import json

import pytest

from kube_nb.capture import notebook_source
from kube_nb.capture.notebook_source import not_here, prepare_notebook

PYTHON = {"language": "python"}


def looked_at(*cells: str, how=PYTHON):
    content = {"cells": [{"cell_type": "code", "source": text} for text in cells]}
    return prepare_notebook(json.dumps(content), filename="a.ipynb", how=how)


def test_imports_of_all_cells_are_seen_in_magics_too():
    found = looked_at("import torch", "%time import pandas as pd", "def f():\n    from helper import g")
    assert {"torch", "pandas", "helper", "nbclient", "ipykernel"} <= found.imports


def test_a_cell_that_is_no_python_and_what_needs_a_kernel_are_the_kernels_to_judge():
    found = looked_at("x = = 1", "%pip install x", "input()", "%debug", "import torch")
    assert "torch" in found.imports


def test_of_other_languages_nothing_is_known():
    assert looked_at("library(x)", how={"language": "R"}).imports <= {"nbclient", "ipykernel"}


def test_files_that_it_seems_to_read_are_named():
    assert looked_at("open('data.csv')").relative_paths == {"data.csv"}


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setattr(notebook_source, "find_spec", lambda name: None if name == "ipykernel" else object())


@pytest.mark.usefixtures("without")
def test_what_this_machine_lacks_is_installed_in_the_job():
    assert not_here(PYTHON, ["pandas>=2"]) == ("ipykernel",)
    assert not_here(PYTHON, ["ipykernel==6.29"]) == ()
    assert "ipykernel" not in looked_at("1").imports
