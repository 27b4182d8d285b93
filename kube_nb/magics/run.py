"""Runs a planned submit in a notebook: the card, the output, the interrupt, the names that come back."""

from __future__ import annotations

import secrets
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kube_nb.jobs.assign import Return, let_go, returned
from kube_nb.jobs.card import Card, snapshot
from kube_nb.jobs.failure import as_ipython_shows_it, failed
from kube_nb.jobs.interrupts import Terminated, ending, interrupted, somebody_watches, watched
from kube_nb.jobs.outputs import RESULT, size_text
from kube_nb.jobs.replay import Replay
from kube_nb.magics.draw import Board, Screen
from kube_nb.spec import Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from kube_nb.backends.base import JobStatus, Subscription
    from kube_nb.capture.bundle import Progress
    from kube_nb.capture.work import Work
    from kube_nb.client import Client
    from kube_nb.jobs.job import Job

_LONG = 2.0
"""Seconds after which packing, sending and fetching show their progress."""


def send(shell: InteractiveShell, client: Client, work: Work, *, detached: bool) -> tuple[Job, Board]:
    """Submit, with a card that tells how far packing and sending are where that takes long."""
    board = Board(shell, secrets.token_hex(4))
    made: list[Job] = []

    def card() -> Card:
        if made:  # what is uploaded goes to the pod after the submit
            return snapshot(made[0])
        return Card(job="…", label=work.task.label, where=client.backend.where, phase="Sending")

    job = client.plan(work, progress=_late(board, card)).submit(detached=detached)
    made.append(job)
    board.draw(snapshot(job))
    return job, board


def attend(
    shell: InteractiveShell, job: Job, board: Board, *, on_interrupt: str = "detach", assign: bool = True
) -> Any:
    """Show what the job writes until it has ended, then bind its names. An interrupt detaches or cancels.

    Returns:
        the value of a function or of the line form; None for a cell.

    Raises:
        what the user's code raised, or JobFailed where it was not the code that failed.
    """
    interactive = somebody_watches()
    replay = Replay()
    screen = Screen(shell, job, cleared=board.again, trusted=job.entry is not None)
    try:
        # What the job writes is not all there is to show: it may have to wait, or its target not be heard of.
        with watched(interactive=interactive), closing(watch(job, board, replay)):
            for batch in job.follow():
                replay.take(batch)
                screen.show(batch)
                board.draw(snapshot(job, replay))
            job.wait()
    except (KeyboardInterrupt, Terminated) as interrupt:
        screen.close()
        said = interrupted(job, interactive=interactive, on_interrupt=on_interrupt)
        board.close(snapshot(job, replay))
        if said:
            print(said)
        if isinstance(interrupt, Terminated) or (not interactive):
            raise ending(said) from None
        if not said:
            let_go(job)
            watch(job, board)
        return None
    screen.close()
    return finish(shell, job, board, replay, assign=assign)


def finish(shell: InteractiveShell, job: Job, board: Board, replay: Replay, *, assign: bool = True) -> Any:
    """Bind what came back in one step, draw the last card, raise what the job raised."""
    progress = _late(board, lambda: snapshot(job, replay))
    job.fetching = lambda done, total: progress(done, total, f"{size_text(done)} fetched")
    try:
        back = returned(job, shell.user_ns) if assign else Return(values={}, row=())
        if back.values:
            shell.push(back.values)
        if job.phase is Phase.SUCCEEDED and job.outputs.files:
            from pathlib import Path

            job.outputs.save_files(Path.cwd())
    finally:
        job.fetching = None  # what is fetched later has nothing to do with this cell
    board.close(snapshot(job, replay, back.row))
    if job.phase is Phase.SUCCEEDED:
        return job.outputs.values_now().get(RESULT)
    exception = job.exception()
    if exception is not None:
        raise as_ipython_shows_it(exception)
    reason = job.reason
    assert reason is not None, "a job that did not succeed has a reason"
    raise failed(job.id, reason)


def _late(board: Board, card: Callable[[], Card]) -> Progress:
    """Shows on a card how far something is, from when it has taken long."""
    started = time.monotonic()

    def progress(done: float, total: float | None, text: str) -> None:
        if time.monotonic() - started >= _LONG:
            board.draw(replace(card(), progress=(done, total, text)))

    return progress


def watch(job: Job, board: Board, replay: Replay | None = None) -> Subscription:
    """Keep the card of a job up to date from the background, until it has ended."""
    subscription: Subscription | None = None

    def changed(status: JobStatus) -> None:
        board.draw(snapshot(job, replay, status=status), now=True)
        if status.phase.final and subscription is not None:
            subscription.close()

    subscription = job.subscribe(changed)
    return subscription
