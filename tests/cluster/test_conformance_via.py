"""The conformance cases marked `via` once more: with jobs that Kubeflow Trainer runs, and without any storage."""

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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
FEWEST = 7
"""Cases that are marked at least: a suite that nobody runs passes, too."""


def marked_cases_pass(setting: str) -> None:
    """Run them in a process of their own, every job with this setting."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "via", "-k", "kubernetes", "tests/conformance"],
        cwd=ROOT,
        env=os.environ | {"CONFORMANCE_SET": setting, "PYTEST_ADDOPTS": "-p no:cacheprovider"},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) >= FEWEST


def test_the_marked_cases_pass_through_trainer(cluster: Api) -> None:
    if addons.kind(cluster, "trainer.kubeflow.org", "trainjobs") is None:
        pytest.skip("cluster: it has no Kubeflow Trainer")
    version = cluster.list(TRAIN_JOBS)[1]
    marked_cases_pass("KUBE_NB_VIA=trainjob")
    with cluster.watching(TRAIN_JOBS, version=version, seconds=2) as changes:
        assert sum(change["type"] == "ADDED" for change in changes) >= FEWEST, "plain Jobs ran them"


def test_the_marked_cases_pass_without_any_storage(cluster: Api) -> None:
    marked_cases_pass("KUBE_NB_STORE=none")
