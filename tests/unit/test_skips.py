"""The plugin that says what could not run, run on small suites of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[[], ["-n", "1"]], ids=["alone", "workers"])
def suite(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(source: str, *, ci: bool) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_it.py").write_text("import pytest\n" + source)
        monkeypatch.setenv("CI", "true") if ci else monkeypatch.delenv("CI", raising=False)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.skips", "-c", "/dev/null", *request.param, "."]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


IN_A_TEST = 'def test_a(): pytest.skip("{}")\ndef test_b(): pass\n'
IN_A_FILE = 'pytest.skip("{}", allow_module_level=True)\n'


@pytest.mark.parametrize("source", [IN_A_TEST, "def test_c(): pass\n" + IN_A_FILE])
@pytest.mark.slow
def test_a_declared_reason_is_named_and_accepted(suite, source):
    run = suite(source.format("cluster: no KUBECONFIG"), ci=True)
    assert run.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), run.stdout
    assert "cluster: no KUBECONFIG (1 skipped)" in run.stdout


@pytest.mark.slow
def test_a_reason_that_nobody_declared_fails_in_ci_alone(suite):
    source = IN_A_TEST.format("too lazy")
    assert suite(source, ci=False).returncode == pytest.ExitCode.OK
    run = suite(source, ci=True)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "test_it.py::test_a: too lazy" in run.stdout


@pytest.mark.slow
def test_a_file_that_skips_itself_without_a_declared_reason_fails_in_ci(suite, tmp_path):
    (tmp_path / "test_other.py").write_text("def test_b(): pass\n")
    run = suite(IN_A_FILE.format("too lazy"), ci=True)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout


@pytest.mark.slow
def test_the_lack_of_a_capability_is_counted(suite):
    source = '@pytest.mark.parametrize("n", [1, 2])\ndef test_a(n): pytest.skip("capability gpus: local lacks it")\n'
    run = suite(source, ci=True)
    assert "capability gpus: local lacks it (2 skipped)" in run.stdout
