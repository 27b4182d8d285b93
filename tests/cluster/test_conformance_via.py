"""The conformance cases marked `via` once more, with jobs that Kubeflow Trainer runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kube_nb.backends.kubernetes import addons
from kube_nb.backends.kubernetes.api import Api
from kube_nb.backends.kubernetes.manifests.trainjob import TRAIN_JOBS

ROOT = Path(__file__).parents[2]
FEWEST = 7
"""Cases that are marked at least: a suite that nobody runs passes, too."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_marked_cases_pass(cluster: Api) -> None:
    if addons.kind(cluster, "trainer.kubeflow.org", "trainjobs") is None:
        pytest.skip("cluster: it has no Kubeflow Trainer")
    version = cluster.list(TRAIN_JOBS)[1]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "via", "-k", "kubernetes", "tests/conformance"],
        cwd=ROOT,
        env=os.environ | {"CONFORMANCE_SET": "KUBE_NB_VIA=trainjob", "PYTEST_ADDOPTS": "-p no:cacheprovider"},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) >= FEWEST
    with cluster.watching(TRAIN_JOBS, version=version, seconds=2) as changes:
        assert sum(change["type"] == "ADDED" for change in changes) >= FEWEST, "plain Jobs ran them"
