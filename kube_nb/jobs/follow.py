"""A job's streams, decoded: one sequence of text and events, whatever the number of nodes and attempts."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from kube_nb.backends.base import Backend, Cursor
from kube_nb.backends.leaving import Leaving
from kube_nb.events import Decoder, Event, Text
from kube_nb.spec import JobId


@dataclass(frozen=True)
class Attempt:
    """From here on, what follows on this node belongs to another try of the job.

    Attributes:
        rank: the first rank of that node.
    """

    number: int
    rank: int = 0


def follow(
    backend: Backend, id: JobId, *, nodes: int = 1, procs: int = 1, wait: bool = True
) -> Iterator[list[Text | Event | Attempt]]:
    """What the job wrote, in batches as they arrive; ends when the job has ended (or, without `wait`, where it stands).

    A batch is what one read brought: a reader that draws may leave out what the same batch replaces.

    Raises:
        NotFound: there is no such job.
        Unreachable: the target does not answer any more.
    """
    leaving = Leaving()
    if nodes == 1:
        yield from _node(backend, id, 0, 0, wait, leaving)
        return
    arrived: queue.SimpleQueue[list[Text | Event | Attempt] | BaseException | None] = queue.SimpleQueue()

    def read(node: int) -> None:
        try:
            for batch in _node(backend, id, node, node * procs, wait, leaving):
                arrived.put(batch)
            arrived.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the reader, which raises it
            arrived.put(error)

    for node in range(nodes):
        threading.Thread(target=read, args=(node,), name=f"follow-{id}-{node}", daemon=True).start()
    open_nodes = nodes
    try:
        while open_nodes:
            batch = arrived.get()
            if batch is None:
                open_nodes -= 1
            elif isinstance(batch, BaseException):
                raise batch
            else:
                yield batch
    finally:
        leaving.leave()  # e.g. an interrupt: a silent job would else be followed by nobody until it ends


def _node(
    backend: Backend, id: JobId, node: int, first_rank: int, wait: bool, leaving: Leaving
) -> Iterator[list[Text | Event | Attempt]]:
    attempt, decoder = 0, Decoder(first_rank)
    for chunk in backend.stream(id, node, Cursor(), follow=wait, leaving=leaving):
        batch: list[Text | Event | Attempt] = []
        if chunk.at.attempt != attempt:
            batch.extend(decoder.close())
            attempt, decoder = chunk.at.attempt, Decoder(first_rank)
            batch.append(Attempt(attempt, first_rank))
        batch.extend(decoder.feed(chunk.data))
        yield batch
    yield list(decoder.close())
