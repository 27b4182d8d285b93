"""What Ctrl-C means while a job is waited for."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kube_nb.jobs.job import Job

SECOND_WITHIN = 3.0
"""Seconds in which a second interrupt cancels."""


class Terminated(BaseException):
    """SIGTERM reached a process that waits for a job and nobody watches."""


def somebody_watches() -> bool:
    """Whether a person can answer: a frontend that takes input, or a terminal.

    Papermill and nbclient say with each request that there is no input; nobody watches there.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return os.isatty(0)


@contextmanager
def watched(*, interactive: bool) -> Iterator[None]:
    """Where nobody watches, SIGTERM ends the waiting as SIGINT does, so that the job can be cancelled.

    Papermill, nbclient and CI stop a kernel by either; nobody shall pay for a GPU that nobody waits for.
    """
    if interactive or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ending(said: str) -> KeyboardInterrupt:
    """What ends the cell after a cancel that nobody watched: shown as one line."""
    interrupt = KeyboardInterrupt(said)
    interrupt._render_traceback_ = lambda: [f"KeyboardInterrupt: {said}"]  # type: ignore[attr-defined]
    return interrupt


def interrupted(job: Job, *, interactive: bool, on_interrupt: str) -> str:
    """Answer an interrupt: cancel where nobody watches or it was asked for, else detach.

    Returns:
        the sentence to show.
    """
    if not interactive or on_interrupt == "cancel":
        job.cancel()
        job.wait()
        return f"job {job.id} was cancelled"
    try:
        print(
            f"\ndetached: job {job.id} goes on. Look again: %kube_attach {job.id}"
            f"\n          to end it: %kube_cancel {job.id}, or interrupt again within {SECOND_WITHIN:.0f} seconds",
            flush=True,
        )
        job.wait(timeout=SECOND_WITHIN)
    except KeyboardInterrupt:
        job.cancel()
        job.wait()
        return f"job {job.id} was cancelled"
    return ""
