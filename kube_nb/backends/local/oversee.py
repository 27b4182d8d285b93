"""The supervisor's life after its first runner has been started: queue, streams, signals, attempts, the end."""

from __future__ import annotations

import os
import select
import signal
import time

from kube_nb.backends.local import lock as joblock
from kube_nb.backends.local import processes
from kube_nb.backends.local.admission import Ticket, queue_reason
from kube_nb.backends.local.bus import Bus, Listener, topic_of_changes, topic_of_job, topic_of_queue
from kube_nb.backends.local.directory import FULL, JobDirectory, remove_file, tail
from kube_nb.backends.local.memory import PERIOD, Sampler
from kube_nb.backends.local.processes import Identity
from kube_nb.backends.local.relay import Relay
from kube_nb.backends.local.supervisor import Node, start
from kube_nb.runner import ending
from kube_nb.runner.processes import adopt_orphans, kill_children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kube_nb.backends.local.admission import Admission
    from kube_nb.backends.local.order import Order

_RETRIED = frozenset({"Exception", "SystemExit", "Exited", "Signal", "RankLost", "OutOfMemory"})
"""Failures of the user's code. A time-out and a cancel are answers, not accidents; the rest would fail again."""
_MARGIN = 10.0
"""Seconds beyond the grace that a runner gets to end; then it and all its processes are killed."""
_BACKSTOP = 2.0
"""Seconds after which one who waits in the queue looks again, whatever was heard."""
_SELDOM = 3600.0


class Overseer:
    """One job, from its place in the queue to its last state.

    Args:
        order: what the kernel said.
        job: its directory.
        lock: descriptor that says that the job lives.
        log: descriptor for what runners say about their own faults.
        admission: the queue.
        ticket: the place in it, or None where none could be had.
    """

    def __init__(
        self, order: Order, job: JobDirectory, lock: int, log: int, admission: Admission, ticket: Ticket | None
    ) -> None:
        self._order = order
        self._job = job
        self._lock = lock
        self._log = log
        self._admission = admission
        self._ticket = ticket
        self._number: int = order["header"]["number"]
        self._topic = topic_of_job(order["state"], job.id)
        self._bus = Bus(order["bus"])
        self._relay = Relay(self._bus, self._topic)
        self._poll = select.poll()
        self._nodes: list[Node] = []
        self._pipes: dict[int, Node] = {}
        self._samplers: dict[Node, Sampler] = {}
        self._next_look = 0.0
        self._asked = ""  # "Cancelled" or "Stopped" once somebody wants the job to end
        self._first_failure: dict[str, Any] | None = None
        self._fault: OSError | None = None  # why the stream cannot be kept
        self._kill_at: float | None = None
        self._attempt = 0
        self._started: float | None = None
        self._phase = "Pending"

    def run(self, nodes: list[Node], fault: OSError | None) -> None:
        """Do it all; whatever happens, the job gets its last state.

        Args:
            nodes: the runners that were started already; none: the job has to wait for its turn.
            fault: why not all of them could be.
        """
        self._nodes = nodes
        try:
            self._introduce()
            if fault:
                raise fault
            end = self._carry_out()
        except OSError as failed:
            _log(f"{type(failed).__name__}: {failed}")
            end = self._broken(failed)
        except Exception as unforeseen:
            self._kill()
            self._finish(ending.end("SupervisorFault", 0, evalue=f"{type(unforeseen).__name__}: {unforeseen}"))
            raise
        self._finish(end)
        self._tidy()

    # Signals and the record -----------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        """Say who looks after the job; from then on it can be cancelled by a signal."""
        wakes, wake = os.pipe()
        os.set_blocking(wakes, False)
        os.set_blocking(wake, False)
        self._wakes = wakes
        self._poll.register(wakes, select.POLLIN)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, self._on_request)
        signal.signal(signal.SIGTERM, self._on_request)
        self._record()
        if os.path.exists(self._job.cancel):
            self._asked = "Cancelled"
        adopt_orphans()

    def _on_request(self, number: int, _: object) -> None:
        self._asked = self._asked or ("Cancelled" if number == signal.SIGINT else "Stopped")

    def _record(self) -> None:
        known = [Identity.of(os.getpid()), *(Identity.of(node.pid) for node in self._nodes)]
        try:
            joblock.record(self._lock, known)
        except OSError as failed:
            if failed.errno not in FULL:
                raise
            # The stream will meet the full disk soon enough, and say so better.

    # The course of the job ------------------------------------------------------------------------------------------

    def _carry_out(self) -> dict[str, Any]:
        if not self._nodes:
            self._ticket = self._queue()
            if self._ticket is None:
                return ending.end(self._asked, 0, evalue="before it started")
            self._begin()
        while True:
            end = self._see_through()
            again = end["code"] in _RETRIED and self._attempt < self._order["retries"] and not self._asked
            if not again:
                return end
            self._attempt += 1
            self._begin()

    def _begin(self) -> None:
        devices = self._ticket.devices if self._ticket else ()
        self._nodes = []
        start(self._order, self._job, devices, self._attempt, self._log, self._nodes)
        self._record()

    def _queue(self) -> Ticket | None:
        """Wait for the tickets; None: somebody wants the job to end."""
        shown: dict[str, str] = {}
        ticket: Ticket | None = None
        machine = self._order["machine"]
        with Listener(self._order["bus"], topic_of_queue(self._order["state"])) as listener:
            self._poll.register(listener, select.POLLIN)
            while not self._asked:
                ticket = self._admission.look(self._number, machine)
                if ticket is None:
                    demand, parent = self._order["demand"], self._order["parent"]
                    ticket = self._admission.enter(self._number, self._job.id, demand, machine, parent)
                if ticket.held:
                    break
                everyone = self._admission.tickets()
                reason = queue_reason(ticket, everyone, machine)
                if reason != shown:
                    shown = reason
                    self._write_state(reason=reason)
                self._wait_for_change(listener, everyone)
            self._poll.unregister(listener)
        return None if self._asked else ticket

    def _wait_for_change(self, listener: Listener, tickets: list[Ticket]) -> None:
        """Until somebody says that the tickets changed, or one who holds some dies without saying so."""
        ends = []
        try:
            for ticket in tickets:
                path = JobDirectory(f"{self._order['state']}/jobs/{ticket.job}").lock
                owner = next(iter(joblock.recorded(path)), None) if ticket.held else None
                end = processes.end_of(owner.pid) if owner and owner.here and owner.runs else None
                if end is not None:
                    ends.append(end)
                    self._poll.register(end, select.POLLIN)
            self._poll.poll(_BACKSTOP * 1000)
            self._drain_wakes()
            listener.drain()
        finally:
            for end in ends:
                self._poll.unregister(end)
                os.close(end)

    def _see_through(self) -> dict[str, Any]:
        """One attempt, until all of its runners have ended."""
        self._first_failure = self._kill_at = None
        self._started = self._started or time.time()
        self._phase = "Starting"
        self._relay.restart()
        self._write_state()
        for node in self._nodes:
            self._pipes[node.pipe] = node
            self._poll.register(node.pipe, select.POLLIN)
            if self._order["limit"] and not self._order["scope"]:
                self._samplers[node] = Sampler(node.pid, self._order["limit"])
        self._reap()  # one may have ended before its end could be heard of
        while self._running():
            self._turn()
        kill_children()  # whatever a killed runner left behind has become ours
        end = self._first_failure or self._nodes[0].end
        assert end is not None
        if self._fault and end["code"] != "Cancelled":
            return self._broken(self._fault)
        return end

    def _running(self) -> list[Node]:
        return [node for node in self._nodes if node.end is None]

    def _turn(self) -> None:
        """Wait for something to happen, and do what it asks for."""
        signalled = False
        for descriptor, _ in self._poll.poll(self._patience()):
            if descriptor == self._wakes:
                self._drain_wakes()
                signalled = True
            else:
                node = self._pipes[descriptor]
                if self._take(node) == 0:
                    self._poll.unregister(node.pipe)
                    del self._pipes[node.pipe]
        if self._relay.runs and self._phase == "Starting":
            self._phase = "Running"
            self._write_state()
        if signalled:
            self._reap()
        if self._asked or self._fault:
            self._ask_all(signal.SIGINT if self._asked == "Cancelled" else signal.SIGTERM)
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill()
        if self._samplers and now >= self._next_look:
            for node in self._running():
                self._samplers[node].look()
            # On a machine with very many processes a look takes long: never spend more than a tenth on it.
            self._next_look = time.monotonic() + max(PERIOD, 9 * (time.monotonic() - now))

    def _patience(self) -> int | None:
        """Milliseconds until something has to be done though nothing happens."""
        now = time.monotonic()
        waits = [self._relay.wake()]
        if self._kill_at is not None:
            waits.append(self._kill_at - now)
        if self._samplers:
            waits.append(self._next_look - now)
        soonest = min((wait for wait in waits if wait is not None), default=None)
        return None if soonest is None else max(0, int(soonest * 1000) + 1)

    def _drain_wakes(self) -> None:
        try:
            while os.read(self._wakes, 512):
                pass
        except BlockingIOError:
            pass

    def _take(self, node: Node) -> int:
        if self._fault:
            return self._relay.drop(node)
        try:
            return self._relay.copy(node)
        except OSError as failed:
            self._fault = failed
            return -1

    # How runners end ------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for node in self._running():
            pid, status = os.waitpid(node.pid, os.WNOHANG)
            if pid:
                self._close(node, os.waitstatus_to_exitcode(status))

    def _close(self, node: Node, status: int) -> None:
        # What it wrote before its end is in the pipe; whoever may still hold the other end is not waited for.
        while self._take(node) > 0:
            pass
        if self._pipes.pop(node.pipe, None):
            self._poll.unregister(node.pipe)
        os.close(node.pipe)
        os.close(node.stream)
        node.end = self._end_of(node, status)
        if node.end["code"] != "Succeeded" and self._first_failure is None:
            self._first_failure = node.end
            self._ask_all(signal.SIGTERM)

    def _end_of(self, node: Node, status: int) -> dict[str, Any]:
        end = ending.read_end(self._job.end(node.index, node.attempt))
        if end is None:
            how = {"exit": status, "signal": None} if status >= 0 else {"exit": None, "signal": -status}
            code = ending.code_of(status) if status > 0 else None
            if code is None:
                code = self._asked or "RunnerFault"
            end = ending.end(code, 0, **how, detail={"node": node.index, "log": tail(self._job.log)})
        sampler = self._samplers.pop(node, None)
        if sampler and sampler.exceeded and end["code"] in _RETRIED:
            end["code"] = "OutOfMemory"
            end["detail"] = {"limit": self._order["limit"], "peak": sampler.peak}
        elif end["code"] == "OutOfMemory" and self._order["limit"]:
            end["detail"] = {"limit": self._order["limit"], **(end.get("detail") or {})}
        return end

    def _ask_all(self, number: int) -> None:
        """Ask the runners to end, once; those that do not are killed when their time is over."""
        for node in self._running():
            if not node.signalled:
                node.signalled = True
                os.kill(node.pid, number)
                self._kill_at = self._kill_at or time.monotonic() + self._order["grace"] + _MARGIN

    def _kill(self) -> None:
        self._kill_at = None
        for node in self._running():
            processes.kill_tree(node.pid)

    def _broken(self, failed: OSError) -> dict[str, Any]:
        self._kill()
        kill_children()
        full = failed.errno in FULL
        why = f"{failed.strerror or failed}: {failed.filename or self._job.path}"
        return ending.end("OutOfDisk" if full else "SupervisorFault", 0, ename="OSError", evalue=why)

    # The state ------------------------------------------------------------------------------------------------------

    def _write_state(self, *, last: bool = False, **more: Any) -> None:
        state = self._order["header"] | {
            "phase": self._phase,
            "attempt": self._attempt,
            "started": self._started,
            "ended": None,
            "reason": None,
            "end": {},
        }
        try:
            self._job.write_state(state | more, last=last)
        except OSError as failed:
            # On a full disk the last state goes into the reserve; those before it are for show. A directory that
            # somebody removed has no readers.
            _log(f"{self._phase} could not be written: {failed}")
        self._bus.send(self._topic)
        self._bus.send(topic_of_changes(self._order["state"]), self._job.id)

    def _finish(self, end: dict[str, Any]) -> None:
        try:
            self._admission.leave(self._number)
        except OSError as failed:
            _log(f"the ticket goes with its supervisor: {failed}")
        self._bus.send(topic_of_queue(self._order["state"]))
        self._phase = {"Succeeded": "Succeeded", "Cancelled": "Cancelled"}.get(end["code"], "Failed")
        # The clock may have jumped back meanwhile.
        self._write_state(last=True, ended=max(time.time(), self._started or 0.0), end=end)
        remove_file(self._job.reserve)
        os.close(self._lock)
        self._bus.send(self._topic)  # for those who wait until the directory is free

    def _tidy(self) -> None:
        """Remove what is old, unless somebody did within the hour."""
        stamp = f"{self._order['state']}/swept"
        try:
            if abs(time.time() - os.stat(stamp).st_mtime) < _SELDOM:
                return
        except OSError:
            pass  # nobody ever did
        from kube_nb.backends.local.retention import sweep

        most, longest = self._order["retention"]
        sweep(stamp, max_bytes=most, max_age=longest)


def _log(text: str) -> None:
    """To the job's supervisor.log; on a full disk nobody hears it, and nothing else is changed by that."""
    try:  # noqa: SIM105  # contextlib would have to be imported
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))
    except OSError:
        pass
