"""What Ctrl-C and SIGTERM mean to a kernel that waits for a job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kube_nb
from kube_nb.client import Client
from kube_nb.jobs.job import Job
from kube_nb.spec import Phase
from tests.conformance.frontend import SeparateKernel
from tests.conformance.kernel import Kernel
from tests.conformance.sending import became, ended, own_jobs, tail, until

pytestmark = pytest.mark.slow
SLEEPS = "import time\nprint('ready', flush=True)\nx = 1\ntime.sleep(600)"


def the_job() -> Job:
    (job,) = own_jobs(Client())
    return job


def test_the_first_interrupt_detaches_and_says_how_to_cancel(separate_kernel: SeparateKernel) -> None:
    running = separate_kernel.start(f"%%kube_train\n{SLEEPS}")
    running.until("ready")
    separate_kernel.interrupt()
    ran = running.finish()

    job = the_job()
    assert f"%kube_cancel {job.id}" in ran.text
    assert f"%kube_attach {job.id}" in ran.text
    assert not ran.error, ran.traceback
    assert job.phase is Phase.RUNNING
    cancelled = separate_kernel.run(f"%kube_cancel {job.id}")
    assert cancelled.reply["status"] == "ok"
    assert ended(job).phase is Phase.CANCELLED


def test_a_second_interrupt_within_three_seconds_cancels(separate_kernel: SeparateKernel) -> None:
    running = separate_kernel.start(f"%%kube_train\n{SLEEPS}")
    running.until("ready")
    separate_kernel.interrupt()
    running.until("detached")
    separate_kernel.interrupt()
    ran = running.finish()

    assert ended(the_job()).phase is Phase.CANCELLED
    assert "cancelled" in ran.text


def test_a_later_interrupt_is_the_kernels_own(separate_kernel: SeparateKernel) -> None:
    running = separate_kernel.start(f"%%kube_train\n{SLEEPS}")
    running.until("ready")
    separate_kernel.interrupt()
    running.finish()
    other = separate_kernel.start("print('here')\nimport time\ntime.sleep(600)")
    other.until("here")
    separate_kernel.interrupt()

    assert other.finish().error["ename"] == "KeyboardInterrupt"
    assert the_job().phase is Phase.RUNNING


def test_what_was_detached_can_be_attached_again(separate_kernel: SeparateKernel) -> None:
    source = "import time\nprint('ready', flush=True)\ntime.sleep(6)\nx = 'made'\nprint('done')"
    running = separate_kernel.start(f"%%kube_train\n{source}")
    running.until("ready")
    separate_kernel.interrupt()
    running.finish()
    attached = separate_kernel.run("%kube_attach")

    assert "ready\n" in attached.text
    assert "done\n" in attached.text
    assert separate_kernel["x"] == "'made'"


def test_on_interrupt_cancel_cancels_at_once(separate_kernel: SeparateKernel) -> None:
    running = separate_kernel.start(f"%%kube_train --on-interrupt cancel\n{SLEEPS}")
    running.until("ready")
    separate_kernel.interrupt()
    running.finish()

    assert the_job().phase is Phase.CANCELLED


def test_where_nobody_watches_an_interrupt_cancels(separate_kernel: SeparateKernel) -> None:
    running = separate_kernel.start(f"%%kube_train\n{SLEEPS}", watched=False)
    running.until("ready")
    separate_kernel.interrupt()
    ran = running.finish()

    assert the_job().phase is Phase.CANCELLED
    assert ran.error["ename"] == "KeyboardInterrupt"
    assert "kube_nb/" not in ran.traceback


def test_where_nobody_watches_sigterm_cancels(separate_kernel: SeparateKernel) -> None:
    running = separate_kernel.start(f"%%kube_train\n{SLEEPS}", watched=False)
    running.until("ready")
    separate_kernel.terminate()

    job = became(the_job(), Phase.CANCELLED, within=30)
    assert job.phase is Phase.CANCELLED
    assert "ready\n" in tail(job)


def test_an_interrupt_does_not_reach_the_code_of_the_job(separate_kernel: SeparateKernel) -> None:
    source = (
        "import time\nprint('ready', flush=True)\n"
        "try:\n    time.sleep(5)\n    print('undisturbed')\nexcept KeyboardInterrupt:\n    print('disturbed')"
    )
    running = separate_kernel.start(f"%%kube_train\n{source}")
    running.until("ready")
    separate_kernel.interrupt()
    running.finish()

    assert tail(ended(the_job())) == "ready\nundisturbed\n"


def test_a_kernel_that_is_killed_leaves_its_job_running(separate_kernel: SeparateKernel) -> None:
    running = separate_kernel.start(
        "%%kube_train\nimport time\nprint('ready', flush=True)\ntime.sleep(3)\nprint('done')"
    )
    running.until("ready")
    separate_kernel.close()
    time.sleep(0.5)

    job = the_job()
    assert ended(job).phase is Phase.SUCCEEDED
    assert tail(job) == "ready\ndone\n"
    assert job.outputs == {}


@pytest.mark.parametrize("after", [False, True], ids=["before it is made", "after it is made"])
def test_an_interrupt_while_the_job_is_sent_leaves_none_that_nobody_knows_of(
    cell: Callable[..., Kernel], monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    kernel = cell()
    kind = type(Client().backend)
    submit = kind.submit

    def interrupted(self: Any, spec: Any, bundle: Any, progress: Any) -> Any:
        if after:
            submit(self, spec, bundle)
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, "submit", interrupted)
    shown = kernel.send(SLEEPS, fails=True)

    assert shown.error is not None
    assert shown.error.ename == "KeyboardInterrupt"
    assert [ended(job).phase for job in own_jobs(Client())] == [Phase.CANCELLED] * after


REMOTE = "import kube_nb as kn\n@kn.remote\ndef fit():\n    import time\n    print('ready', flush=True)\n    time.sleep(600)\n"


def test_a_remote_function_detaches_at_the_first_interrupt(separate_kernel: SeparateKernel) -> None:
    running = separate_kernel.start(REMOTE + "fit()")
    running.until("ready")
    separate_kernel.interrupt()
    ran = running.finish()

    job = the_job()
    assert f"%kube_cancel {job.id}" in ran.text
    assert ran.error["ename"] == "KeyboardInterrupt"
    assert "kube_nb/" not in ran.traceback
    assert job.phase is Phase.RUNNING


def test_a_remote_function_for_which_nobody_waits_is_cancelled(separate_kernel: SeparateKernel) -> None:
    running = separate_kernel.start(REMOTE + "fit()", watched=False)
    running.until("ready")
    separate_kernel.interrupt()
    running.finish()

    assert the_job().phase is Phase.CANCELLED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_without_a_terminal_that_is_stopped_cancels_its_job(tmp_path: Path, number: signal.Signals) -> None:
    program = tmp_path / "program.py"
    program.write_text(REMOTE + "fit()")
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(kube_nb.__file__).parent.parent)},
    ) as process:
        job = until(lambda: own_jobs(Client()) or process.poll() is not None, what="the job was sent")[0]
        until(lambda: "ready" in tail(job), what="the code runs")
        process.send_signal(number)

        assert process.wait(30) != 0
    assert the_job().phase is Phase.CANCELLED
