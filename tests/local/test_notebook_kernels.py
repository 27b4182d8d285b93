"""The kernel that a notebook names is the one it gets, where it exists; elsewhere the job's own Python."""

from __future__ import annotations

import json
import sys

import pytest

from kube_nb import Client
from kube_nb.spec import Phase
from tests.conformance.notebooks import code_cells, executed, notebook, saved, text

pytestmark = pytest.mark.slow
ASKS = "import os, sys\nprint(os.environ.get('WHOSE', 'own'), sys.executable)"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(name: str, **options) -> str:
    made = notebook(ASKS)
    made.metadata.kernelspec = {"name": name, "display_name": name, "language": "python"}
    job = Client(on="local").options(**options).notebook(saved(made), output="out.ipynb").wait(90)
    assert job.phase is Phase.SUCCEEDED, job.reason
    return text(code_cells(executed())[0]).strip()


def test_a_kernel_that_exists_is_honoured(tmp_path):
    spec = tmp_path / "jupyter" / "kernels" / "special"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    made = {"argv": argv, "display_name": "special", "language": "python", "env": {"WHOSE": "special"}}
    (spec / "kernel.json").write_text(json.dumps(made))
    assert run("special", env={"JUPYTER_PATH": str(tmp_path / "jupyter")}) == f"special {sys.executable}"


def test_a_kernel_that_does_not_exist_is_the_jobs_own_python():
    assert run("somebody-elses-conda") == f"own {sys.executable}"
