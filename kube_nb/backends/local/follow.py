"""A node's stream, read as it grows, through all attempts."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

from kube_nb.backends.base import Chunk, Cursor
from kube_nb.backends.leaving import Leaving
from kube_nb.backends.local.bus import Listener, topic_of_job
from kube_nb.backends.local.directory import JobDirectory
from kube_nb.backends.local.status import state_stamp, status_of
from kube_nb.backends.local.watch import supervisor_end

_CHUNK = 1 << 20
_BACKSTOP = 2.0
"""Seconds after which it looks again although nothing was heard."""


def read(job: JobDirectory, node: int, cursor: Cursor) -> Iterator[Chunk]:
    """What is there from `cursor` on, in this attempt and those after it."""
    attempt, offset = cursor.attempt, cursor.offset
    while True:
        # Looked for before reading: once there is another attempt, this one is complete.
        complete = os.path.exists(job.stream(node, attempt + 1))
        yield from _read_attempt(job, node, Cursor(attempt, offset))
        if not complete:
            return
        attempt, offset = attempt + 1, 0


def _read_attempt(job: JobDirectory, node: int, cursor: Cursor) -> Iterator[Chunk]:
    try:
        descriptor = os.open(job.stream(node, cursor.attempt), os.O_RDONLY)
    except FileNotFoundError:
        return  # not started yet
    offset = cursor.offset
    try:
        while data := os.pread(descriptor, _CHUNK, offset):
            yield Chunk(Cursor(cursor.attempt, offset), data)
            offset += len(data)
    finally:
        os.close(descriptor)


def follow(job: JobDirectory, state: str, bus: str, node: int, cursor: Cursor, leaving: Leaving) -> Iterator[Chunk]:
    """The same, until the job has ended and all is read, or the reader leaves."""
    supervisor: int | None = None
    # The ear first, then the look: what is written in between is heard.
    with Listener(bus, topic_of_job(state, job.id)) as listener:
        poll = select.poll()
        poll.register(listener.fileno(), select.POLLIN)
        state_seen: tuple[int, int] | None = None
        over = False
        try:
            while True:
                now = state_stamp(job)
                if now != state_seen:
                    state_seen, over = now, _over(job)
                for chunk in read(job, node, cursor):
                    yield chunk
                    cursor = Cursor(chunk.at.attempt, chunk.at.offset + len(chunk.data))
                if over or leaving.gone:
                    return
                if supervisor is None:
                    supervisor = supervisor_end(job)
                    if supervisor is not None:
                        poll.register(supervisor, select.POLLIN)
                ready = poll.poll(_BACKSTOP * 1000)
                listener.drain()
                if not ready or any(descriptor == supervisor for descriptor, _ in ready):
                    state_seen = None  # its supervisor may have died without a last state
        finally:
            if supervisor is not None:
                os.close(supervisor)


def _over(job: JobDirectory) -> bool:
    status = status_of(job)
    return status is None or status.phase.final
