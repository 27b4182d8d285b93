"""Each way to end has its own phase and reason, and its negative twin."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from kube_nb.backends.base import Capability
from kube_nb.errors import JobFailed
from kube_nb.spec import Phase
from tests.conformance.backends import needs
from tests.conformance.kernel import Kernel
from tests.conformance.sending import Sender, became, code, ended, gone, running, tail

SIGKILL, SIGSEGV, SIGTERM = 9, 11, 15


@pytest.mark.parametrize(
    "source",
    ["pass", "import sys; sys.exit(0)", "import sys; sys.exit()", "raise SystemExit", "exit()", "# nothing", ""],
)
def test_these_succeed(send: Sender, source: str) -> None:
    job = send.over(source)

    assert (job.phase, job.reason) == (Phase.SUCCEEDED, None)


@pytest.mark.parametrize(
    ("argument", "status", "words"), [("3", 3, ""), ("'text'", 1, "text"), ("[1, 2]", 1, "[1, 2]"), ("True", 1, "")]
)
def test_sys_exit_with_anything_else_is_a_failure(send: Sender, argument: str, status: int, words: str) -> None:
    job = send.over(f"import sys\nprint('before')\nsys.exit({argument})")

    assert (job.phase, code(job)) == (Phase.FAILED, "SystemExit")
    assert job.status().end["exit"] == status
    assert job.reason is not None
    assert words in job.reason.what + job.reason.why
    assert tail(job).startswith("before\n")


@pytest.mark.parametrize("status", [0, 7])
def test_a_process_that_ends_without_a_word_has_not_succeeded(send: Sender, status: int) -> None:
    job = send.over(f"import os\nprint('before', flush=True)\nx = 1\nos._exit({status})")

    assert (job.phase, code(job)) == (Phase.FAILED, "Exited")
    assert job.status().end["exit"] == status
    assert job.reason is not None
    assert f"status {status}" in job.reason.what
    assert tail(job) == "before\n"
    with pytest.raises(JobFailed):
        job.outputs["x"]


def test_a_segmentation_fault_is_told_by_its_name(send: Sender) -> None:
    job = send.over("import ctypes\nprint('before')\nctypes.string_at(0)")

    assert (job.phase, code(job)) == (Phase.FAILED, "Signal")
    assert job.status().end["signal"] == SIGSEGV
    assert job.reason is not None
    assert "SIGSEGV" in job.reason.what
    assert job.reason.next


def test_the_next_step_after_a_segmentation_fault_finds_the_line(send: Sender) -> None:
    job = send.over("import ctypes\nx = 1\nctypes.string_at(0)", env={"PYTHONFAULTHANDLER": "1"})

    assert "Cell In[1]" in tail(job)
    assert "line 3" in tail(job)


@pytest.mark.parametrize(("number", "name"), [(SIGKILL, "SIGKILL"), (SIGTERM, "SIGTERM")])
def test_a_signal_by_somebody_is_no_lack_of_memory_and_no_cancel(send: Sender, number: int, name: str) -> None:
    job = send.over(f"import os\nprint('before', flush=True)\nos.kill(os.getpid(), {number})")

    assert (job.phase, code(job)) == (Phase.FAILED, "Signal")
    assert job.status().end["signal"] == number
    assert job.reason is not None
    assert name in job.reason.what
    assert "before\n" in tail(job)


@pytest.mark.slow
@needs(Capability.MEMORY_LIMIT)
def test_too_much_memory_is_told_with_the_limit(send: Sender) -> None:
    job = send.over(
        "import time\nheld = []\nwhile True:\n    held.append(bytearray(b'x') * (8 << 20))\n    time.sleep(0.02)",
        memory="200Mi",
        timeout="60s",
    )

    assert (job.phase, code(job)) == (Phase.FAILED, "OutOfMemory")
    assert job.reason is not None
    assert "200 MiB" in job.reason.why
    assert "--memory" in job.reason.next


@pytest.mark.slow
@needs(Capability.MEMORY_LIMIT)
def test_memory_below_the_limit_is_no_reason_to_end(send: Sender) -> None:
    job = send.over(
        "import time\nheld = bytearray(b'x') * (50 << 20)\ntime.sleep(1)\nprint(len(held))", memory="400Mi", outputs=()
    )

    assert code(job) == ""


@needs(Capability.MEMORY_LIMIT)
def test_a_kill_below_the_limit_is_no_lack_of_memory(send: Sender) -> None:
    job = send.over("import os\nos.kill(os.getpid(), 9)", memory="400Mi")

    assert code(job) == "Signal"


def test_a_memory_error_of_python_is_an_exception(send: Sender) -> None:
    job = send.over("bytearray(1 << 62)")

    assert code(job) == "Exception"
    assert type(job.exception()) is MemoryError


@pytest.mark.rights
@pytest.mark.via
def test_too_much_time_is_told_with_the_limit(send: Sender) -> None:
    started = time.monotonic()
    job = send.over("import time\nprint('before')\ntime.sleep(600)", timeout="1s")

    assert time.monotonic() - started < 20
    assert (job.phase, code(job)) == (Phase.FAILED, "TimedOut")
    assert job.reason is not None
    assert "1 s" in job.reason.what
    assert "--timeout" in job.reason.next
    assert tail(job).startswith("before\n")


def test_code_that_ends_in_time_is_not_timed_out(send: Sender) -> None:
    assert code(send.over("import time\ntime.sleep(0.5)", timeout="60s")) == ""


@pytest.mark.slow
@needs(Capability.ADMISSION)
def test_time_counts_from_the_start_of_the_code_not_of_the_queue(send: Sender) -> None:
    cores = send.client.backend.capacity().cpu
    assert cores is not None
    first = send("import time\ntime.sleep(2)", cpu=cores[1])
    second = send("print('ran')", cpu=cores[1], timeout="1500ms")

    assert code(ended(second)) == ""
    assert code(ended(first)) == ""


def test_the_code_hears_of_its_time_out_and_may_say_goodbye(send: Sender) -> None:
    job = send.over(
        "import signal, sys, time\n"
        "def bye(*_):\n    print('bye', flush=True)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\ntime.sleep(600)",
        timeout="1s",
    )

    assert code(job) == "TimedOut"
    assert "bye\n" in tail(job)


def test_a_child_process_left_running_does_not_hold_the_job_and_is_ended(send: Sender) -> None:
    started = time.monotonic()
    job = send.over(
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "away = subprocess.Popen(['sh', '-c', 'sleep 600 & echo $!'], stdout=subprocess.PIPE, start_new_session=True)\n"
        "print(child.pid, int(away.stdout.readline()))\nchild = away = None"
    )

    assert time.monotonic() - started < 30
    assert code(job) == ""
    if Capability.PROCESS_FAULTS in send.client.backend.capabilities:
        assert all(gone(int(pid)) for pid in tail(job).split())


def test_a_thread_left_running_is_waited_for_as_python_does(send: Sender) -> None:
    job = send.over(
        "import threading, time\ndef work():\n    time.sleep(1)\n    print('done')\nthreading.Thread(target=work).start()"
    )

    assert code(job) == ""
    assert tail(job) == "done\n"


def test_a_daemon_thread_left_running_is_not_waited_for(send: Sender) -> None:
    job = send.over("import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()")

    assert code(job) == ""


@pytest.mark.slow
def test_two_thousand_threads(send: Sender) -> None:
    job = send.over(
        "import sys, threading\n"
        "start = threading.Event()\nlock = threading.Lock()\nsaid = 0\n"
        "def work(n):\n    global said\n    start.wait()\n    sys.stdout.write(f'thread {n}\\n')\n    with lock:\n        said += 1\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in range(2000)]\n"
        "for thread in threads: thread.start()\n"
        "start.set()\n"
        "for thread in threads: thread.join()\n"
        "print('said', said)",
        outputs=(),
    )

    lines = tail(job, most=10**6).splitlines()
    assert code(job) == ""
    assert lines[-1] == "said 2000"
    assert sorted(lines[:-1]) == sorted(f"thread {n}" for n in range(2000))


@pytest.mark.slow
@needs(Capability.PROCESS_FAULTS)
def test_threads_that_never_end_are_ended_by_a_cancel(send: Sender) -> None:
    job = send(
        "import os, threading\n"
        "for n in range(2000): threading.Thread(target=threading.Event().wait).start()\n"
        "print('ready', os.getpid(), flush=True)"
    )
    said = running(job)
    job.cancel()

    assert ended(job).phase is Phase.CANCELLED
    assert gone(int(said[-1].split()[1]))


def test_a_job_that_failed_has_a_phase_before_it_as_every_other(send: Sender) -> None:
    job = send("import time\nprint('ready', flush=True)\ntime.sleep(0.2)\nraise ValueError")

    running(job)
    became(job, Phase.RUNNING)
    assert ended(job).phase is Phase.FAILED


@pytest.mark.parametrize(
    ("source", "flags", "said"),
    [
        ("import os\nos._exit(7)", "", "status 7"),
        ("import os\nos.kill(os.getpid(), 9)", "", "SIGKILL"),
        ("import ctypes\nctypes.string_at(0)", "", "SIGSEGV"),
        ("import time\ntime.sleep(600)", "--timeout 1s", "--timeout"),
    ],
)
def test_the_notebook_shows_one_cause_and_one_next_step(
    cell: Callable[..., Kernel], source: str, flags: str, said: str
) -> None:
    kernel = cell(send=source, flags=flags, fails=True)
    lines = kernel.error.text.splitlines()

    assert kernel.error.ename == "JobFailed"
    assert said in kernel.error.text
    assert [line.split()[0] for line in lines] == ["JobFailed:", "why:", "next:"]
    assert kernel.job.id in lines[0]
    assert f"[{code(kernel.job)}]" in kernel.card
