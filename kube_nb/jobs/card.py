"""The job card: what a person sees of a job, complete as text and as HTML without script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from kube_nb.spec import Phase

if TYPE_CHECKING:
    from kube_nb.backends.base import JobStatus, Reason
    from kube_nb.jobs.job import Job
    from kube_nb.jobs.journal import Entry
    from kube_nb.jobs.replay import Replay
    from kube_nb.spec import Resources

_BAR = 24
_NAMES = 12
_LONG = 2.0
"""Seconds after which work that is not the code's own shows a bar."""
_MARK = {"Succeeded": "#1a7f37", "Failed": "#b42318", "Cancelled": "#6e7781"}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One state of a job, ready to be drawn.

    Attributes:
        job, label, where: which job, what was sent, and the place it runs.
        phase: a phase, or "Sending" before the submit.
        reason: why; shown with its cause and next step.
        seconds: since the code started.
        step: what happens now, in words.
        progress: (done, total, text); total None: not known, the bar tells only that something is done.
        metrics: the newest value of each.
        rows: further lines, e.g. ("sent", "1.2 MB: X_train 1.1 MB").
        notes: warnings and what has no effect here.
    """

    job: str
    label: str
    where: str
    phase: str
    reason: Reason | None = None
    seconds: float | None = None
    step: str = ""
    progress: tuple[float, float | None, str] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def table(self) -> list[tuple[str, str]]:
        """The card as rows of a word and a text."""
        took = f" after {duration(self.seconds)}" if self.seconds is not None and self.phase != Phase.PENDING else ""
        if self.phase in (Phase.RUNNING, Phase.STARTING):
            took = took.replace("after", "for")
        state = f"{self.phase}{took}" + (f" ({self.step})" if self.step else "")
        rows = [("state", state)]
        rows += [(word, text) for word, text in (("what", self.label), ("where", self.where)) if text]
        if self.progress:
            rows.append(("progress", _progress_text(*self.progress)))
        if self.metrics:
            rows.append(("metrics", ", ".join(f"{name} {_number(value)}" for name, value in self.metrics.items())))
        rows += self.rows
        if self.reason and (self.reason.why or self.reason.next or self.phase not in (Phase.RUNNING, Phase.SUCCEEDED)):
            rows.append(("reason", f"{self.reason.what} [{self.reason.code}]"))
            rows += [(word, text) for word, text in (("why", self.reason.why), ("next", self.reason.next)) if text]
        rows += [("note", note) for note in self.notes]
        return rows

    def text(self) -> str:
        """Complete by itself, for terminals, logs and saved notebooks without a frontend."""
        lines = [f"job {self.job}"]
        lines += [f"  {word:<9} {_indented(text)}" for word, text in self.table()]
        return "\n".join(lines)

    def html(self) -> str:
        """A real table, without script; the state stands in words."""
        colour = _MARK.get(self.phase, "#0969da")
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left;vertical-align:top;padding:1px 12px 1px 0;font-weight:600">'
            f'{escape(word)}</th><td style="text-align:left;white-space:pre-wrap;padding:1px 0">'
            f"{self._cell(word, text)}</td></tr>"
            for word, text in self.table()
        )
        return (
            f'<div style="border:1px solid #8888;border-left:5px solid {colour};border-radius:4px;padding:6px 12px;'
            f'margin:4px 0;max-width:60em;font-size:13px"><table style="border:0;margin:0">'
            f'<caption style="caption-side:top;text-align:left;font-weight:600;padding:0 0 3px 0;color:inherit">'
            f"job <code>{escape(self.job)}</code></caption><tbody>{rows}</tbody></table></div>"
        )

    def _cell(self, word: str, text: str) -> str:
        if word != "progress" or not self.progress:
            return escape(text)
        done, total, _ = self.progress
        if not total:
            return f"<progress></progress> {escape(text)}"
        return f'<progress value="{float(done):g}" max="{float(total or 1):g}"></progress> {escape(text)}'


def bundle(card: Card) -> dict[str, str]:
    """The MIME bundle of a card."""
    return {"text/plain": card.text(), "text/html": card.html()}


def snapshot(
    job: Job,
    replay: Replay | None = None,
    rows: tuple[tuple[str, str], ...] = (),
    *,
    status: JobStatus | None = None,
) -> Card:
    """The card of a job as it is now, or was when its target was heard of last.

    Args:
        replay: what was read of its stream so far; None: nothing is read.
        rows: lines of the caller, e.g. what came back.
        status: what the target has just said; None: it is asked.

    Raises:
        Refused, Unreachable: nothing is known of the job.
    """
    from kube_nb.errors import NotFound, Refused, Unreachable
    from kube_nb.jobs.job import elapsed

    entry = job.entry
    sent = (("sent", _sent(entry)),) if entry else ()
    try:
        status = status or job.status()
    except (Refused, Unreachable) as error:
        status = job.last_seen(error)
    except NotFound as gone:
        return Card(
            job=job.id, label=entry.label if entry else "", where=job.where, phase="Deleted", notes=(gone.what,)
        )
    asks = asked_text(job.asks_by(status))
    asked = (("asks", asks),) if asks else ()
    running = status.phase in (Phase.STARTING, Phase.RUNNING)
    step = replay.step if replay and running and replay.step != "running" else ""
    progress = replay.progress if replay else None
    if progress is None and step and elapsed(status) > _LONG:  # installing, loading, returning: nobody knows how much
        progress, step = (0, None, step), ""
    return Card(
        job=job.id,
        label=status.label,
        where=job.where,
        phase=status.phase,
        reason=status.reason,
        seconds=elapsed(status),
        step=step,
        progress=progress,
        metrics=_newest(replay) if replay else {},
        rows=sent + asked + rows,
        notes=tuple(entry.notes) if entry else (),
    )


def asked_text(resources: Resources) -> str:
    """What each node asks for: `memory 2 GiB, 0.5 cores, 1 nvidia.com/gpu`; empty: nothing."""
    from kube_nb.backends.reasons import size_text

    sizes = (("memory", resources.memory), ("shm", resources.shm), ("disk", resources.disk))
    parts = [f"{name} {size_text(size)}" for name, size in sizes if size is not None]
    if resources.cpu is not None:
        parts.append(f"{resources.cpu:g} core{'s'[: resources.cpu != 1]}")
    if resources.gpu is not None:
        parts.append(" ".join([str(resources.gpu.count), resources.gpu.resource, *resources.gpu.products]))
    if resources.procs > 1:
        parts.append(f"{resources.procs} processes")
    if resources.nodes > 1:
        parts.append(f"on each of {resources.nodes} nodes" if parts else f"{resources.nodes} nodes")
    return ", ".join(parts)


def _sent(entry: Entry) -> str:
    """`1.2 MB: X_train, y_train, fit`."""
    from kube_nb.jobs.outputs import size_text

    names = [name for name in entry.sent if not name.startswith("__kube_nb")]
    listed = ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")
    return size_text(entry.shipped) + (f": {listed}" if names else "")


def duration(seconds: float) -> str:
    """Seconds for a person: `3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _newest(replay: Replay) -> dict[str, Any]:
    newest: dict[str, Any] = {}
    for point in replay.metrics[-50:]:
        if point["rank"] == 0:
            newest |= {k: v for k, v in point.items() if k not in ("rank", "attempt", "time") and v is not None}
    return newest


def _progress_text(done: float, total: float | None, text: str) -> str:
    if not total:
        return f"{_number(done) if done else ''} {text}".strip()
    share = min(1.0, max(0.0, done / total))
    filled = round(share * _BAR)
    return f"[{'#' * filled}{'.' * (_BAR - filled)}] {share:.0%} {text}".strip()


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _indented(text: str) -> str:
    return text.replace("\n", "\n            ")
