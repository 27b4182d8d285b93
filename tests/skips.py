"""A pytest plugin: at the end, each suite that could not run and why; in CI, no skip without a declared reason.

A skip's reason is written `suite: why`, e.g. `pytest.skip("cluster: no KUBECONFIG")`, and a backend's declared lack as
`capability NAME: BACKEND does not declare it`. A suite that is not in `DECLARED` fails the run where CI is set, and so
does one that KUBE_NB_TESTS_NEED names, e.g. `cluster`: whoever started a cluster for the tests wants them run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

DECLARED = {
    "browser": "a test in a real browser needs one",
    "capability": "a backend declares what it cannot do",
    "cluster": "a test against a cluster needs a KUBECONFIG",
    "gpu": "a test of devices needs one",
    "linux": "a fact of Linux is tested on Linux",
    "macos": "a fact of macOS is tested on macOS",
    "mount": "a full or read-only disk is tested where a file system can be mounted",
    "torch": "tensors are tested where torch is installed; the development environment leaves it out for its size",
}
"""Suites that a machine may be unable to run, and what they want."""


class Skips:
    """Gathers the reasons of all skips, of whole files too, over all worker processes."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._reasons[report.nodeid] = _reason(report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._reasons[report.nodeid] = _reason(report.longrepr)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # Files that were skipped while a worker collected them are known to that worker alone.
        self._reasons |= getattr(node, "workeroutput", {}).get("skipped_files", {})

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["skipped_files"] = self._reasons
        elif self._undeclared() and os.environ.get("CI") and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._reasons:
            return
        terminalreporter.section("what could not run here")
        for line in self._lines():
            terminalreporter.line(line)

    def _lines(self) -> Iterator[str]:
        for reason, number in sorted(Counter(self._reasons.values()).items()):
            yield f"{reason} ({number} skipped)"
        for test, reason in sorted(self._undeclared().items()):
            yield f"not to be skipped here, so CI fails: {test}: {reason}"

    def _undeclared(self) -> dict[str, str]:
        may = DECLARED.keys() - set(os.environ.get("KUBE_NB_TESTS_NEED", "").split())
        return {test: why for test, why in self._reasons.items() if why.split(":")[0].split(" ")[0] not in may}


def _reason(longrepr: object) -> str:
    text = str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Skips(config), "kube-nb-skips")
