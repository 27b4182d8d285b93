"""The conformance cases marked `rights` once more: with the printed Role alone, and with the right to read nodes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes.api import Api
from tests.cluster.users import tenant

ROOT = Path(__file__).parents[2]
FEWEST = 8
"""Cases that are marked at least: a suite that nobody runs passes, too."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("reads_nodes", [False, True], ids=["the printed Role alone", "may read nodes"])
def test_the_marked_cases_pass(admin: Api, tmp_path: Path, reads_nodes: bool) -> None:
    with tenant(admin, tmp_path, reads_nodes=reads_nodes) as somebody:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "rights", "-k", "kubernetes", "tests/conformance"],
            cwd=ROOT,
            env=os.environ | {"KUBECONFIG": str(somebody.kubeconfig), "PYTEST_ADDOPTS": "-p no:cacheprovider"},
            capture_output=True,
            text=True,
            timeout=1100,
            check=False,
        )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) >= FEWEST
    assert "skipped" not in run.stdout.splitlines()[-1]
