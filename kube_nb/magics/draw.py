"""Draws a job into the output of the cell that sent it: its text, its displays, its card."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from html import escape
from typing import TYPE_CHECKING, Any

from kube_nb.events import Event, Text
from kube_nb.jobs.card import Card, bundle
from kube_nb.jobs.lines import Lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from kube_nb.jobs.job import Job

_NOTEBOOK_LIMIT = 1_000_000
"""Characters of a job's text that one cell shows; the log has all of it."""
_TAIL = 8_000
_CARD_EVERY = 0.25
_SCRIPTS = ("application/javascript", "text/javascript")


class Board:
    """The job card in a notebook: one display that is updated in place, or one text at the end in a terminal.

    Any thread may draw.
    """

    def __init__(self, shell: InteractiveShell, display_id: str) -> None:
        self._shell = shell
        self._id = f"kube-nb-card-{display_id}"
        self.live = hasattr(shell, "kernel")
        self._lock = threading.RLock()  # an interrupt may come while it is held, and draws too
        self._shown = False
        self._last: Card | None = None
        self._drawn_at = 0.0

    def draw(self, card: Card, *, now: bool = False) -> None:
        """Show this state; states that follow each other within a quarter of a second are one unless `now`."""
        moment = time.monotonic()
        with self._lock:
            if not self.live or card == self._last or not (now or moment - self._drawn_at >= _CARD_EVERY):
                return
            self._last, self._drawn_at = card, moment
            publish(self._shell, bundle(card), {}, self._id, update=self._shown)
            self._shown = True

    def again(self) -> None:
        """Show the last state anew: the cell's output was cleared, and the card with it."""
        if self._last is not None:
            publish(self._shell, bundle(self._last), {}, self._id, update=False)

    def close(self, card: Card) -> None:
        """Show the last state."""
        if self.live:
            self.draw(card, now=True)
        else:
            print(card.text())


class Screen:
    """Writes what a job writes to where its cell writes.

    Args:
        shell: the kernel's.
        job: whose text and displays these are; of several ranks, only the first one's displays are shown.
        cleared: called when the job has cleared the cell's output, before anything else is written.
        trusted: it is one's own; HTML of others is shown in a sandbox.
    """

    def __init__(self, shell: InteractiveShell, job: Job, *, cleared: Callable[[], None], trusted: bool = True) -> None:
        entry = job.entry
        self._shell = shell
        self._job = job
        self._cleared = cleared
        self._clears_next = False
        self._trusted = trusted
        self._lines = Lines(prefixed=bool(entry) and entry.nodes * entry.procs > 1)
        self._plain = not (entry and entry.nodes * entry.procs > 1)
        self._written = 0
        self._left_out = 0
        self._tail: deque[str] = deque()
        self._tail_size = 0
        self._displayed: set[str] = set()
        self._decode = _decoder()

    def show(self, batch: list[Any]) -> None:
        """Write the text and the displays of a batch; a display that the same batch replaces is left out."""
        last = {
            item.data["id"]: number
            for number, item in enumerate(batch)
            if isinstance(item, Event) and item.kind == "display" and item.rank == 0 and item.data.get("id")
        }
        for number, item in enumerate(batch):
            if isinstance(item, Text):
                self._text(item)
            elif not isinstance(item, Event) or item.rank != 0:
                continue
            elif item.kind == "display":
                self._display(item, superseded=last.get(item.data.get("id"), number) > number)
            elif item.kind == "clear":
                self._clear(wait=bool(item.data.get("wait")))
        sys.stdout.flush()

    def close(self) -> None:
        """Write unfinished lines, and the end of what was left out."""
        for line in self._lines.close():
            self._write(line)
        if self._tail:
            print(
                f"\n[{self._left_out} lines are left out here; all: %kube_logs {self._job.id}. The last ones:]\n"
                + "".join(self._tail).lstrip("\n"),
                end="",
            )

    def _text(self, item: Text) -> None:
        if self._plain:  # as it comes, carriage returns and unfinished lines too
            self._write(self._decode(item.data))
        else:
            for line in self._lines.add(item.rank, item.data):
                self._write(line)

    def _clear(self, *, wait: bool) -> None:
        self._shell.display_pub.clear_output(wait=wait)
        if wait:  # a frontend clears when the next output comes
            self._clears_next = True
        else:
            self._cleared()

    def _before_output(self) -> None:
        if self._clears_next:
            self._clears_next = False
            self._cleared()

    def _write(self, text: str) -> None:
        if text:
            self._before_output()
        room = _NOTEBOOK_LIMIT - self._written
        if room > 0:
            shown = text[:room]
            sys.stdout.write(shown)
            self._written += len(shown)
            text = text[room:]
        if text:
            self._left_out += text.count("\n")
            self._tail.append(text[-_TAIL:])
            self._tail_size += len(self._tail[-1])
            while self._tail_size - len(self._tail[0]) >= _TAIL:
                self._tail_size -= len(self._tail.popleft())

    def _display(self, event: Event, *, superseded: bool) -> None:
        record = event.data
        update = bool(record.get("update"))
        if superseded and update:
            return  # a newer state of the same display follows at once
        display_id = f"{self._job.id}:{record['id']}" if record.get("id") else None
        if update and display_id not in self._displayed:
            if not self._trusted:
                return
            display_id = str(record["id"])  # one that the notebook shows already, or nothing does
        if "object" in record:
            record = json.loads(self._job.read_object(str(record["object"])))
        data = dict(record.get("data", {}))
        if not self._trusted:
            data = sandboxed(data)
        if not update:
            self._before_output()
        if display_id and not update:
            self._displayed.add(display_id)
        if hasattr(self._shell, "kernel"):
            publish(self._shell, data, dict(record.get("metadata", {})), display_id, update=update)
        else:
            print(data.get("text/plain", ""))


def publish(
    shell: InteractiveShell, data: dict[str, Any], metadata: dict[str, Any], display_id: str | None, *, update: bool
) -> None:
    """One display message, as IPython's own `display` sends it."""
    transient = {"display_id": display_id} if display_id else {}
    shell.display_pub.publish(data=data, metadata=metadata, transient=transient, update=update)


def sandboxed(data: dict[str, Any]) -> dict[str, Any]:
    """What somebody else's job displays, without the power to run code in this page."""
    safe = {
        mime: value for mime, value in data.items() if mime not in _SCRIPTS and not mime.startswith("application/vnd")
    }
    if isinstance(safe.get("text/html"), str):
        safe["text/html"] = (
            f'<iframe sandbox srcdoc="{escape(safe["text/html"])}" style="width:100%;border:1px solid #8888"></iframe>'
        )
    return safe


def _decoder() -> Any:
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode
