"""The ranks of a node: started together, heard, and ended together."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable

from . import ending, processes
from .alone import Alone
from .channel import Channel
from .loop import Loop, Signals
from .stream import Stream

TYPE_CHECKING = False  # without importing `typing`: see node.py
if TYPE_CHECKING:
    from typing import Any

PASSED_ON = frozenset({"state", "metric", "progress", "display", "clear", "cell", "output"})
_READ = 1 << 18
_LONGEST_HELD = 1 << 16
_HELD_FOR = 1.0
_REST = 0.001
"""Seconds between two looks at a pipe that had little: a rank that prints many lines need not wake us for each."""
_LOOK_FOR_PARENT = 1.0
_SETTLE = 0.1
"""Seconds in which the death of a rank counts before the exceptions that it causes in others."""
_FAREWELL = 60.0
"""Seconds a failed rank has for its own ending after the others were told to end."""
_UNKILLABLE = 30.0


class Rank:
    """One process of the user's code, and what is known of it.

    Args:
        number: among all ranks of the job.
        pid: leads its own session and process group.
        pipe: the read end of its stdout and stderr; `capacity` bytes fit in.
    """

    def __init__(self, number: int, pid: int, pipe: int, capacity: int) -> None:
        self.number = number
        self.pid = pid
        self.pipe = pipe
        self.capacity = capacity
        self.open = True
        self.held = b""
        """The beginning of a line, while other ranks write too."""
        self.flush_at: float | None = None
        self.resume_at: float | None = None
        self.bye: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.status: int | None = None
        """How its process ended, negative: the signal that killed it."""


class Gang:
    """Runs the ranks of a node until all have ended.

    One failing rank ends all; so do a time-out and a signal. What came first is how the attempt ended.

    Args:
        sign: HMAC in hexadecimal of a record, made with the job's key.
        filename: of the sent code.
        timeout: seconds from the start of the code; None: no limit.
        grace: seconds between SIGTERM and SIGKILL.
        others: the job's other nodes.
    """

    def __init__(
        self,
        stream: Stream,
        signals: Signals,
        parent: processes.Parent,
        sign: Callable[[dict[str, Any]], str],
        *,
        filename: str,
        timeout: float | None,
        grace: float,
        others: Alone | None = None,
    ) -> None:
        self.loop = Loop()
        self.started = 0.0
        self.result: str | None = None
        """Digest of the result's index, once rank 0 has sent it."""
        self._stream = stream
        self._signals = signals
        self._parent = parent
        self._sign = sign
        self._filename = filename
        self._timeout = timeout
        self._grace = grace
        self.loop.watch(signals.fd, signals.quiet, urgent=True)
        self._ranks: dict[int, Rank] = {}
        self._living: dict[int, Rank] = {}  # by process id
        self._channel: Channel | None = None
        self._oom_kills = processes.oom_kills()
        self._first_failure: Rank | None = None
        # The first that said that it failed; where it is a rank of another node: its END so far.
        self._suspect: Rank | dict[str, Any] | None = None
        self._cause: dict[str, Any] | None = None  # why all were stopped, where no rank of this node is the reason
        self._interrupts = 0
        self._running = False
        self._given_up = False
        self._writing = False
        self._cut_off = False
        # When these moments come, on the monotonic clock; None: not awaited.
        self._time_out_at: float | None = None
        self._kill_at: float | None = None
        self._judge_at: float | None = None
        self._farewell_at: float | None = None
        self._give_up_at: float | None = None
        self._others = others or Alone()
        self._others.attach(self)

    def listen(self, path: str, tokens: dict[str, int]) -> None:
        """Open the socket, before the first rank is there to speak."""
        self._channel = Channel(path, tokens, self._receive, self.loop)

    def start(self, number: int, command: list[str], *, cwd: str, env: dict[str, str]) -> None:
        """Start one rank.

        Raises:
            OSError: it could not be started.
        """
        self._signals.raising = False  # from now on there is something to stop
        read, write, capacity = processes.output_pipe()
        try:
            pid = processes.spawn(command, cwd=cwd, env=env, output=write)
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        rank = Rank(number, pid, read, capacity)
        self._ranks[number] = self._living[pid] = rank
        self.loop.watch(read, lambda: self._hear(rank))
        if not self.started:
            self.started = time.time()
            self._start_clock()

    def run(self) -> dict[str, Any]:
        """Serve the ranks until none is left; how they ended, as an END without what only the node knows."""
        if self._cause is not None:  # another node was lost while they were started
            self._terminate(list(self._living.values()))
        while True:
            self._heed_signals()
            self._reap()
            self._heed_time()
            self._heed_output()
            if self._over():
                break
            self.loop.turn(self._patience(), urgent_only=self._stream.output.full)
        return self._others.verdict(self._how_it_ended())

    def _over(self) -> bool:
        if _past(self._give_up_at):
            self._given_up, self._give_up_at = True, None
        if self._living and not self._given_up:
            return False
        if self._suspect is not None and not self._others.several:
            self._judge()
        return self._judge_at is None and self._others.over(self._how_it_ended())

    def kill(self) -> None:
        """Kill every process now; for when something went wrong here."""
        for rank in self._living.values():
            processes.send(rank.pid, signal.SIGKILL)
        processes.kill_children()

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()

    # Text

    def _hear(self, rank: Rank) -> None:
        if self._read(rank) < rank.capacity // 4 and rank.open:
            self.loop.rest(rank.pipe)
            rank.resume_at = time.monotonic() + _REST

    def _read(self, rank: Rank) -> int:
        """Pass on what the rank wrote before now, and not much of what it writes meanwhile; how many bytes it was."""
        done = 0
        while rank.open and done < rank.capacity:
            try:
                data = os.read(rank.pipe, _READ)
            except BlockingIOError:
                break
            if not data:
                self._close_pipe(rank)
                break
            done += len(data)
            self._pass_on(rank, data)
            if len(data) < _READ:
                break  # the pipe was empty then; to ask again would cost a system call for each line
        return done

    def _pass_on(self, rank: Rank, data: bytes) -> None:
        if len(self._ranks) == 1:
            self._stream.text(rank.number, data)
            return
        cut = data.rfind(b"\n") + 1
        if cut:
            self._stream.text(rank.number, rank.held + data[:cut])
            rank.held, rank.flush_at = data[cut:], None
        else:
            rank.held += data
        if len(rank.held) > _LONGEST_HELD:
            self._flush(rank)
        elif rank.held and rank.flush_at is None:
            rank.flush_at = time.monotonic() + _HELD_FOR

    def _flush(self, rank: Rank) -> None:
        held, rank.held, rank.flush_at = rank.held, b"", None
        self._stream.text(rank.number, held)

    def _catch_up(self, rank: Rank) -> None:
        """Pass on all that the rank wrote before now, the beginning of a line too."""
        self._read(rank)
        if rank.held:
            self._flush(rank)

    def _close_pipe(self, rank: Rank) -> None:
        if rank.open:
            rank.open, rank.resume_at = False, None
            self.loop.forget(rank.pipe)
            os.close(rank.pipe)

    # Messages

    def _receive(self, number: int, message: dict[str, Any]) -> str:
        """Do what a rank's message asks for; why not, where it is refused."""
        rank = self._ranks.get(number)
        kind = message.pop("kind", None)
        if rank is None or not isinstance(kind, str):
            return "the message has no kind"
        self._catch_up(rank)
        try:
            if kind in PASSED_ON:
                self._pass_event_on(kind, number, message)
            elif kind == "result":
                self._take_result(number, message["index"])
            elif kind == "error":
                rank.error = message["error"]
                self._write_signed("error", number, "error", rank.error)
                self._suspect_of_failure(rank)
            elif kind == "bye":
                rank.bye = message
                self._suspect_of_failure(rank)
            else:
                return f"there is no message of kind {kind[:40]!r}"
        except KeyError as missing:
            return f"the message has no {missing}"
        except ValueError as reserved:
            return str(reserved)
        return ""

    def _pass_event_on(self, kind: str, number: int, data: dict[str, Any]) -> None:
        if kind == "output":  # what it gives may be a pickle, which only who can tell that this job wrote it may load
            data = data | {"hmac": self._sign({"output": data})}
        if kind == "state" and data.get("phase") == "Running" and not self._running:
            self._running = True
            self._start_clock()
        self._stream.event(kind, number, **data)

    def _take_result(self, number: int, index: Any) -> None:
        if number == 0:  # each rank may have one; the job's is that of rank 0
            self._write_signed("result", number, "index", index)
            self.result = hashlib.sha256(canonical(index)).hexdigest()

    def _write_signed(self, kind: str, number: int, name: str, value: Any) -> None:
        self._stream.event(kind, number, **{name: value, "hmac": self._sign({name: value})})

    # Ends

    def _reap(self) -> None:
        for pid, status in processes.ended(self._living):
            rank = self._living.pop(pid, None)
            if rank is not None:
                self._finish(rank, status)

    def _finish(self, rank: Rank, status: int) -> None:
        """A rank's process has ended: take what it left behind, and judge."""
        rank.status = status
        if not self._living:
            processes.kill_children()
        if self._channel is not None:
            self._channel.drain()
        # What fits into a pipe is all that was written before; more can only come from a process that got away.
        self._catch_up(rank)
        self._close_pipe(rank)
        if rank.bye is None and rank.error is None:
            self._fail(rank)

    def _suspect_of_failure(self, rank: Rank) -> None:
        """A rank says that it failed. It may be the victim of one whose death is not noticed yet: wait a little."""
        end = self._end_of(rank)
        if self._suspect is None and end["code"] != "Succeeded":
            self._suspect = rank
            alone = len(self._living) <= 1 and not self._others.several
            self._judge_at = time.monotonic() + (0 if alone else _SETTLE)
            self._others.suspected(end)

    def suspect_elsewhere(self, end: dict[str, Any]) -> None:
        """A rank of another node says that it failed, with this END."""
        if self._suspect is None and not self._decided:
            self._suspect = end
            self._judge_at = time.monotonic() + _SETTLE

    def _judge(self) -> None:
        """The first that said that it failed did so, since no death was noticed meanwhile."""
        self._judge_at = None
        if isinstance(self._suspect, Rank):
            self._fail(self._suspect)
        elif self._suspect is not None:
            self.end_all(self._suspect)

    def blame(self, number: int) -> bool:
        """Node 0 says that this rank was the first that failed; False: it is none of this node."""
        rank = self._ranks.get(number)
        if rank is not None:
            self._fail(rank)
        return rank is not None

    @property
    def _decided(self) -> bool:
        return self._first_failure is not None or self._cause is not None

    def _end_of(self, rank: Rank) -> dict[str, Any]:
        end = ending.of_rank(
            rank.number,
            rank.status or 0,
            rank.bye,
            rank.error,
            filename=self._filename,
            out_of_memory=processes.oom_kills() > self._oom_kills,
        )
        if end["code"] == "OutOfMemory" and (limit := processes.memory_limit()) is not None:
            end["detail"] = {"limit": limit} | end["detail"]
        return end

    def _fail(self, rank: Rank) -> None:
        """The first rank that fails ends the others. Itself it may end in peace, unless that takes very long."""
        if self._decided:
            return
        self._first_failure = rank
        self._others.decided(self._end_of(rank), sudden=rank.bye is None and rank.error is None)
        others = [other for other in self._living.values() if other is not rank]
        if others or self._others.several:
            self._terminate(others)
            self._farewell_at = time.monotonic() + _FAREWELL

    def _stop(self, code: str, evalue: str = "", **detail: Any) -> None:
        """End all ranks, for a reason that is none of theirs."""
        self.end_all(ending.end(code, self._stream.rank, evalue=evalue, detail=detail))

    def end_all(self, end: dict[str, Any]) -> None:
        """End all ranks; `end` says why, unless that was decided before."""
        if not self._decided:
            self._cause = end
            self._others.decided(end, sudden=True)
        self._farewell_at = None
        self._terminate(list(self._living.values()))

    def _terminate(self, ranks: list[Rank]) -> None:
        for rank in ranks:
            processes.send(rank.pid, signal.SIGTERM)
            processes.send(rank.pid, signal.SIGCONT)  # a stopped process hears nothing else
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._grace

    def _kill(self) -> None:
        for rank in self._living.values():
            if self._farewell_at is None or rank is not self._first_failure:
                processes.send(rank.pid, signal.SIGKILL)
        self._kill_at = None
        self._give_up_at = time.monotonic() + _UNKILLABLE + (_FAREWELL if self._farewell_at is not None else 0)

    def _how_it_ended(self) -> dict[str, Any]:
        if self._first_failure is not None:
            record = self._end_of(self._first_failure)
        elif self._cause is not None:
            record = self._cause
            record["detail"].update(self._place())
        else:
            record = self._end_of(min(self._ranks.values(), key=lambda rank: rank.number))
        if self._living:  # they wait for a device, where no signal reaches them
            record["detail"]["left"] = [rank.pid for rank in self._living.values()]
        return record

    def _place(self) -> dict[str, str]:
        """Where in its work a rank was that was stopped; empty where none says so."""
        places = (rank.bye.get("place") for rank in self._ranks.values() if rank.bye is not None)
        return next(({"place": place} for place in places if isinstance(place, str)), {})

    # What else the loop looks at

    def _heed_signals(self) -> None:
        for signum in self._signals.take():
            if signum == signal.SIGHUP:
                self._orphaned()
            elif signum == signal.SIGTERM:
                self._others.hurry()
                self._stop("Stopped", "the job was stopped from outside", signal="SIGTERM")
            elif signum == signal.SIGINT:
                self._interrupts += 1
                self._stop("Cancelled")
                if self._interrupts > 1:
                    self._kill()

    def _orphaned(self) -> None:
        self._stop("Stopped", "the process that started this one is gone")
        self._kill()

    def _start_clock(self) -> None:
        if self._timeout is not None:
            self._time_out_at = time.monotonic() + self._timeout

    def _heed_time(self) -> None:
        for rank in self._ranks.values():
            if _past(rank.flush_at):
                self._flush(rank)
            if _past(rank.resume_at):
                rank.resume_at = None
                self.loop.resume(rank.pipe)
        if _past(self._time_out_at):
            self._time_out_at = None
            self._stop("TimedOut", f"the code ran longer than {self._timeout:g} seconds", timeout=self._timeout)
        self._others.heed_time()
        if _past(self._judge_at):
            self._judge_at = self._others.doubt()
            if self._judge_at is None:
                self._judge()
        if _past(self._kill_at):
            self._kill()
        if _past(self._farewell_at):
            self._stop("Stopped")
        if not self._parent.tells and self._parent.dead and self._give_up_at is None:
            self._orphaned()

    def _patience(self) -> float | None:
        """Seconds until one of the moments comes; None: none is awaited."""
        moments = [self._time_out_at, self._judge_at, self._kill_at, self._farewell_at, self._give_up_at]
        moments.append(self._others.moment())
        for rank in self._ranks.values():
            moments += [rank.flush_at, rank.resume_at]
        left = [moment - time.monotonic() for moment in moments if moment is not None]
        if not self._parent.tells:
            left.append(_LOOK_FOR_PARENT)
        return min(left, default=None)

    def _heed_output(self) -> None:
        output = self._stream.output
        if output.broken is not None and not self._cut_off:
            self._cut_off = True
            code = "OutOfDisk" if ending.disk_is_full(output.broken) else "RunnerFault"
            self._stop(code, f"the job's output cannot be written: {output.broken.strerror}")
        if output.waiting != self._writing:
            self._writing = output.waiting
            if output.waiting:
                self.loop.watch(output.fd, output.push, write=True, urgent=True)
            else:
                self.loop.forget(output.fd)


def _past(moment: float | None) -> bool:
    return moment is not None and time.monotonic() >= moment


def canonical(value: Any) -> bytes:
    """The one spelling of a JSON value that is signed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
