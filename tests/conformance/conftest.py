"""The conformance suite: each behaviour once, for every backend. A test never asks which backend it has."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from kube_nb import Client, KubeNbError
from tests.conformance.backends import BACKENDS, CLUSTER, Target
from tests.conformance.frontend import SeparateKernel
from tests.conformance.gate import Gate
from tests.conformance.kernel import Kernel, own_kernel
from tests.conformance.sending import Sender, remove_sent

_LOG = 60
"""Lines of a job's log that the report of a failed test shows."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*capabilities): skipped on a backend that does not declare them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker("conformance")
            callspec = getattr(item, "callspec", None)
            if callspec is not None and callspec.params.get("target") is not BACKENDS[0]:
                item.add_marker("cluster")


@pytest.fixture(autouse=True, params=BACKENDS, ids=lambda target: target.name)
def target(request: pytest.FixtureRequest, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """Where this test's jobs run: everything that names no target goes there. What is left of them is removed."""
    if not request.param.on:
        pytest.skip("cluster: no KUBECONFIG")
    monkeypatch.setenv("KUBE_NB_ON", request.param.on)
    for setting in os.environ.get("CONFORMANCE_SET", "").split():  # tests/cluster/test_conformance_via.py
        monkeypatch.setenv(*setting.split("=", 1))
    if request.param is CLUSTER:
        request.getfixturevalue("swept")(state_dir)
    backend = Client().backend
    for mark in request.node.iter_markers("needs"):
        for capability in mark.args:
            if capability not in backend.capabilities:
                pytest.skip(f"capability {capability.value}: {backend.name} does not declare it")
    yield request.param
    remove_sent(Client())


@pytest.fixture(scope="session")
def swept() -> Callable[[Path], None]:
    """Says in a state directory that the cluster was cleaned up today.

    It is done once a day, and each test has a day of its own: hundreds of jobs would look through all of the store.
    """
    from kube_nb.backends.kubernetes.cleaning import stamp_of
    from kube_nb.backends.kubernetes.connect import Place, connect
    from kube_nb.backends.kubernetes.store import memory_of

    api = connect(Place(CLUSTER.on, CLUSTER.on))

    def say(state: Path) -> None:
        state.mkdir(mode=0o700, exist_ok=True)
        for here_only in (False, True):
            stamp = stamp_of(memory_of(api, state), here_only=here_only)
            stamp.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            stamp.touch(0o600)

    return say


@pytest.fixture
def notebook_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that the notebook lies in: the kernel's working directory, and the first place of its imports."""
    directory = tmp_path / "notebook"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", [str(directory), *sys.path])
    return directory


@pytest.fixture
def kernel(target: Target, notebook_dir: Path) -> Iterator[Kernel]:
    """A fresh kernel with the extension loaded."""
    with own_kernel() as kernel:
        yield kernel


@pytest.fixture
def cell(kernel: Kernel) -> Callable[..., Kernel]:
    """`cell("scores = [1]", send="scores.append(2)")`: run the first in a fresh kernel, then the second as a job.

    `flags` go to `%%kube_train`. With `fails=True` the job's cell ends with an error, which `.error` then holds; an
    error that a test does not announce fails it.
    """

    def run(setup: str = "", *, send: str | None = None, flags: str = "", fails: bool = False) -> Kernel:
        if setup:
            kernel.run(setup)
        if send is not None:
            kernel.send(send, flags, fails=fails)
        return kernel

    return run


@pytest.fixture
def send(target: Target) -> Sender:
    """Sends cells without a kernel around them: `job = send("print(x)", {"x": 1}, retries=2)`."""
    return Sender(Client())


@pytest.fixture
def gate(target: Target) -> Iterator[Gate]:
    """A gate at which the code of a job waits: `cell(send=f"{gate.wait}\\nx = 1")`, then `gate.open()`."""
    gate = Gate(target.address)
    yield gate
    gate.open()  # a job that still waits there ends
    gate.close()


@pytest.fixture
def separate_kernel(target: Target, notebook_dir: Path) -> Iterator[SeparateKernel]:
    """A fresh kernel in a process of its own, with the extension loaded."""
    kernel = SeparateKernel(notebook_dir)
    yield kernel
    kernel.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    """A failure prints what its jobs said."""
    report = yield
    if report.when == "call" and report.failed and "target" in getattr(item, "funcargs", {}):
        client = Client()
        for id in client.journal.ids():
            report.sections.append((f"job {id}", _account_of(client, id)))
    return report


def _account_of(client: Client, id: str) -> str:
    try:
        job = client.job(id)
        log = list(job.logs())
        shown = "".join(log[-_LOG:])
        return f"{job.phase}: {job.reason}\n{shown}" + (f"({len(log)} lines in all)" if len(log) > _LOG else "")
    except KubeNbError as error:
        return str(error)
