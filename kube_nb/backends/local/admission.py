"""Who may run now: tickets of cores, memory and GPUs, first come first served.

`<state>/tickets` has one line for each job that waits or runs; whoever changes it holds `<state>/admission.lock`.
A ticket is worth what its job's lock is worth: where the supervisor is dead, the next reader drops the ticket.
The order is that of a counter, not of the clock.
"""

from __future__ import annotations

import os
import time

from kube_nb.backends.local import lock
from kube_nb.backends.local.directory import JobDirectory, write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    import fcntl
    from collections.abc import Callable, Iterable, Sequence

    from kube_nb.backends.local.order import Demand, Machine
elif os.name == "posix":
    import fcntl

_CORE = 1e-9
"""Cores are floats: sums of tenths may miss a whole by this much."""


class Ticket:
    """What one job takes, or waits for.

    Attributes:
        number: the place in the queue; lower came first.
        job: the job's id.
        cpu, memory, gpus: how much it takes.
        held: whether it has it.
        devices: which GPUs it has, as CUDA_VISIBLE_DEVICES names them.
    """

    __slots__ = ("cpu", "devices", "gpus", "held", "job", "memory", "number")

    def __init__(
        self,
        number: int,
        job: str,
        cpu: float,
        memory: int,
        gpus: int,
        held: bool = False,
        devices: Sequence[str] = (),
    ) -> None:
        self.number = number
        self.job = job
        self.cpu = cpu
        self.memory = memory
        self.gpus = gpus
        self.held = held
        self.devices = tuple(devices)

    def line(self) -> str:
        held = "held" if self.held else "waits"
        return (
            f"{self.number}\t{self.job}\t{self.cpu!r}\t{self.memory}\t{self.gpus}\t{held}\t{','.join(self.devices)}\n"
        )

    @classmethod
    def parse(cls, line: str) -> Ticket | None:
        fields = line.rstrip("\n").split("\t")
        try:
            number, job, cpu, memory, gpus, held, devices = fields
            return cls(
                int(number),
                job,
                float(cpu),
                int(memory),
                int(gpus),
                held == "held",
                [device for device in devices.split(",") if device],
            )
        except ValueError:
            return None


def settle(tickets: Iterable[Ticket], machine: Machine) -> list[Ticket]:
    """Give what is free to those who wait, in their order, and return who got it.

    What an earlier job waits for is kept for it: a later job starts before it only with what nobody before it wants,
    so that a job that waits for a GPU does not stop those that want a core, and no job waits for ever.
    """
    queue = sorted(tickets, key=lambda ticket: ticket.number)
    holders = [ticket for ticket in queue if ticket.held]
    cpu = machine["cpu"] - sum(ticket.cpu for ticket in holders)
    memory = machine["memory"] - sum(ticket.memory for ticket in holders)
    taken = {device for ticket in holders for device in ticket.devices}
    devices = [device for device in machine["gpus"] if device not in taken]
    gpus = len(devices)
    admitted = []
    for ticket in queue:
        if ticket.held:
            continue
        if ticket.cpu <= cpu + _CORE and ticket.memory <= max(memory, 0) and ticket.gpus <= max(gpus, 0):
            ticket.held = True
            ticket.devices = tuple(devices[: ticket.gpus])
            del devices[: ticket.gpus]
            admitted.append(ticket)
        cpu -= ticket.cpu
        memory -= ticket.memory
        gpus -= ticket.gpus
    return admitted


class Admission:
    """The tickets of one state directory.

    Args:
        state: the directory.
    """

    def __init__(self, state: str) -> None:
        self._jobs = f"{state}/jobs"
        self._lock = f"{state}/admission.lock"
        self._tickets = f"{state}/tickets"
        self._counter = f"{state}/counter"

    def number(self) -> int:
        """The next place in the queue.

        Raises:
            OSError: the directory cannot be written.
        """
        with _Locked(self._lock):
            descriptor = os.open(self._counter, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                last = os.pread(descriptor, 32, 0).strip()
                # After a lost counter the clock is the best guess of a number that nobody had.
                number = int(last) + 1 if last.isdigit() else int(time.time())
                os.pwrite(descriptor, b"%20d\n" % number, 0)
            finally:
                os.close(descriptor)
        return number

    def enter(self, number: int, job: str, demand: Demand, machine: Machine, parent: str) -> Ticket:
        """Queue up, and take at once what is free; on a live parent's ticket it costs nothing and never waits.

        Raises:
            OSError: the directory cannot be written.
        """
        with _Locked(self._lock):
            tickets = self._live()
            if parent and any(ticket.held and ticket.job == parent for ticket in tickets):
                mine = Ticket(number, job, 0.0, 0, 0, True)
            else:
                mine = Ticket(number, job, demand["cpu"], demand["memory"], demand["gpus"])
            tickets.append(mine)
            settle(tickets, machine)
            self._write(tickets)
        return mine

    def look(self, number: int, machine: Machine) -> Ticket | None:
        """One's own ticket after the dead are gone and what is free is given away; None: somebody removed it."""
        with _Locked(self._lock):
            before = self.tickets()
            tickets = self._live(before)
            if settle(tickets, machine) or len(tickets) < len(before):
                self._write(tickets)
        return next((ticket for ticket in tickets if ticket.number == number), None)

    def leave(self, number: int) -> None:
        """Give back what a job had, or its place in the queue.

        Raises:
            OSError: the directory cannot be written; the ticket is dropped when its supervisor has ended.
        """
        with _Locked(self._lock):
            self._write([ticket for ticket in self.tickets() if ticket.number != number])

    def tickets(self) -> list[Ticket]:
        """All tickets, those of dead jobs too."""
        try:
            with open(self._tickets, encoding="utf-8", errors="replace") as file:
                lines = file.readlines()
        except FileNotFoundError:
            return []
        return [ticket for ticket in map(Ticket.parse, lines) if ticket]

    def held(self) -> list[Ticket]:
        """The tickets of the live jobs that run."""
        return [ticket for ticket in self._live() if ticket.held]

    def _live(self, tickets: Iterable[Ticket] | None = None) -> list[Ticket]:
        everyone = self.tickets() if tickets is None else tickets
        return [ticket for ticket in everyone if lock.alive(JobDirectory(f"{self._jobs}/{ticket.job}").lock)]

    def _write(self, tickets: Iterable[Ticket]) -> None:
        write_atomic(self._tickets, "".join(ticket.line() for ticket in tickets).encode())


class _Locked:
    """The lock of the tickets, for a few file operations."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def queue_reason(mine: Ticket, tickets: Iterable[Ticket], machine: Machine) -> dict[str, str]:
    """Why a job waits, as the fields of a `Reason`: for what, who has it, and its place in the queue."""
    everyone = list(tickets)
    wants = []
    holders: list[str] = []
    units: list[tuple[float, float, Callable[[Ticket], float], Callable[[float], str]]] = [
        (mine.cpu, machine["cpu"], lambda ticket: ticket.cpu, lambda n: f"{n:g} core{'s'[: n != 1]}"),
        (mine.memory, machine["memory"], lambda ticket: ticket.memory, lambda n: f"{n / 2**30:.3g} GiB"),
        (mine.gpus, len(machine["gpus"]), lambda ticket: ticket.gpus, lambda n: f"{n:g} GPU{'s'[: n != 1]}"),
    ]
    before = [ticket for ticket in everyone if not ticket.held and ticket.number < mine.number]
    for wanted, total, amount, words in units:
        held = sum(amount(ticket) for ticket in everyone if ticket.held)
        reserved = sum(amount(ticket) for ticket in before)
        if not wanted or wanted <= total - held - reserved + _CORE:
            continue
        wants.append(words(wanted))
        for ticket in everyone:
            if ticket.held and amount(ticket):
                holders.append(
                    f"`{ticket.job}` has {words(amount(ticket))} of {total:g}"
                    if amount(ticket) < 2**20
                    else f"`{ticket.job}` has {words(amount(ticket))} of {words(total)}"
                )
    shown = holders[:3] + ([f"{len(holders) - 3} more jobs hold the rest"] if len(holders) > 3 else [])
    place = f"{len(before)} job{'s' if len(before) != 1 else ''} before it" if before else "it is the next"
    return {
        "code": "WaitingForTickets",
        "what": f"the job waits for {' and '.join(wants) or 'its turn'}",
        "why": "; ".join([*shown, place]),
        "next": "wait, or cancel a job that is before it",
    }
