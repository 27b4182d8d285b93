"""A clock that jumps: nothing ends too early, nothing waits for ever, no time is negative."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube_nb.backends.local import lock
from kube_nb.backends.local import submit as starting
from kube_nb.backends.local.backend import LocalBackend
from kube_nb.jobs.job import elapsed
from kube_nb.spec import Phase
from tests.conformance.sending import Sender, code, ended, gone, running, tail, until

pytestmark = pytest.mark.slow

DAY, YEAR = 86_400.0, 31_536_000.0
# The clock is right for a moment, and wrong from then on.
JUMP = """
import time as _time
_real, _began = _time.time, _time.monotonic()
_time.time = lambda: _real() + ({jump} if _time.monotonic() - _began > {after} else 0)
_time.time_ns = lambda: int(_time.time() * 1e9)
"""


def entry_with(patch: str, folder: Path) -> Path:
    """The supervisor's script, with something done first."""
    entry = Path(starting._ENTRY)
    path = folder / "entry.py"
    path.write_text(f"{patch}\n__file__ = {str(entry)!r}\nexec(compile(open(__file__).read(), __file__, 'exec'))\n")
    return path


@pytest.fixture(params=[-DAY, YEAR], ids=["back", "on"])
def jump(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> float:
    """The clock of the supervisor and of the runner jumps while the job runs."""
    patch = JUMP.format(jump=request.param, after=0.4)
    monkeypatch.setattr(starting, "_ENTRY", str(entry_with(patch, tmp_path)))
    submit = LocalBackend.submit

    def with_a_bad_clock(self: LocalBackend, spec: Any, bundle: Any, progress: Any) -> Any:
        runner = tmp_path / "runner"
        if not runner.exists():
            shutil.copytree(bundle.runner, runner)
            (runner / "main.py").chmod(0o600)
            (runner / "main.py").write_text(
                patch + "\n" + (bundle.runner / "main.py").read_text().replace("from __future__ import annotations", "")
            )
        return submit(self, spec, replace(bundle, runner=runner))

    monkeypatch.setattr(LocalBackend, "submit", with_a_bad_clock)
    return request.param


@pytest.mark.usefixtures("jump")
def test_a_job_is_not_timed_out_by_a_jump(send: Sender) -> None:
    job = send.over("import time\ntime.sleep(1.5)\nx = 1", timeout="10m", retries=1)

    assert job.phase is Phase.SUCCEEDED
    assert job.outputs["x"] == 1


@pytest.mark.usefixtures("jump")
def test_a_job_is_timed_out_in_spite_of_a_jump(send: Sender) -> None:
    started = time.monotonic()
    job = send.over("import time\ntime.sleep(600)", timeout="2s")

    assert code(job) == "TimedOut"
    assert 2 < time.monotonic() - started < 15


@pytest.mark.usefixtures("jump")
def test_a_cancel_gives_its_grace_in_spite_of_a_jump(send: Sender) -> None:
    job = send(
        "import signal, sys, time\n"
        "def bye(*_):\n    time.sleep(1)\n    print('saved', flush=True)\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, bye)\nprint('ready', flush=True)\ntime.sleep(600)"
    )
    running(job)
    time.sleep(0.5)
    job.cancel()

    assert ended(job).phase is Phase.CANCELLED
    assert "saved\n" in tail(job)


def test_no_time_is_negative(send: Sender, jump: float) -> None:
    job = send.over("import time\ntime.sleep(1)")
    status = job.status()

    assert elapsed(status) >= 0
    assert status.started is not None
    assert status.ended is not None
    assert status.ended >= status.started


@pytest.mark.usefixtures("jump")
def test_the_queue_keeps_its_order(send: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = send.client.backend.capacity().cpu
    assert cores is not None
    first = send("print('ready', flush=True)\nimport time\ntime.sleep(600)", cpu=cores[1])
    running(first)
    real = time.time
    others = []
    for back in (0, DAY, 2 * DAY):  # each is sent a day before the one before it
        monkeypatch.setattr(time, "time", lambda back=back: real() - back)
        others.append(send("import time\nbegan = time.monotonic()", cpu=cores[1]))
    monkeypatch.setattr(time, "time", real)
    first.cancel()

    began = [ended(job).outputs["began"] for job in others]
    assert began == sorted(began)


@pytest.mark.parametrize("by", [-YEAR, YEAR], ids=["back", "on"])
def test_a_reader_whose_clock_jumps_goes_on_reading(send: Sender, monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    job = send("import time\nfor n in range(20):\n    print(n, flush=True)\n    time.sleep(0.05)")
    lines = job.logs(follow=True)
    next(lines)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + by)

    assert "".join(lines) == "".join(f"{n}\n" for n in range(1, 20))
    assert ended(job).phase is Phase.SUCCEEDED
    assert elapsed(job.status()) >= 0


def test_a_live_job_is_never_old(send: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    job = send("print('ready', flush=True)\nimport time\ntime.sleep(600)")
    running(job)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + YEAR)

    assert job.id not in send.client.clean()
    assert job.phase is Phase.RUNNING
    job.cancel()
    ended(job)


def test_a_clock_that_is_a_year_ahead_for_a_moment_costs_no_results(
    send: Sender, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = send.over("x = 1")
    swept = state_dir / "swept"
    until(swept.exists, what="the first job looks what is old")
    before = swept.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(starting, "_ENTRY", str(entry_with(JUMP.format(jump=YEAR, after=0), tmp_path)))
        second = send.over("x = 2")
    until(lambda: swept.stat().st_mtime_ns != before, what="the second job looks what is old")
    (supervisor, *_) = lock.recorded(str(state_dir / "jobs" / second.id / "lock"))

    assert gone(supervisor.pid)
    assert send.client.job(first.id).outputs["x"] == 1
