"""Tests that name what only the lab's cluster has say so, and are skipped on any other cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OF_THE_LAB = re.compile(r"lab/python|Lab-GPU|10\.200\.|[\"'](standard|block|node2)[\"']")
SAYS_SO = re.compile(r"pytest\.mark\.lab\b|def \w+\([^)]*\blab\b")
FILES = [
    path for suite in ("cluster", "conformance", "notebooks") for path in (ROOT / "tests" / suite).glob("test_*.py")
]
NAMING = [path for path in FILES if OF_THE_LAB.search(path.read_text())]


@pytest.mark.parametrize("path", NAMING, ids=lambda path: path.stem)
def test_a_file_that_names_something_of_the_lab_says_so(path: Path):
    assert SAYS_SO.search(path.read_text())


@pytest.mark.slow
def test_elsewhere_they_are_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LAB_CLUSTER", raising=False)
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "tests/cluster/test_progress.py"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "cluster: not the lab (no LAB_CLUSTER) (1 skipped)" in run.stdout
