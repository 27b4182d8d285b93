"""Tickets: who runs, who waits, and for what."""

from __future__ import annotations

import os
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_nb.backends.local import machine
from kube_nb.backends.local.admission import Admission, Ticket, queue_reason, settle
from kube_nb.backends.local.order import Machine
from kube_nb.spec import Gpu, Phase, Resources
from tests.unit.small_runner.workshop import Workshop

FOREVER = (
    "import os, time\nprint(os.environ.get('CUDA_VISIBLE_DEVICES', 'none'), flush=True)\nwhile True: time.sleep(1)"
)
SMALL = Machine(cpu=2.0, memory=8 << 30, gpus=["0", "1"])


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    monkeypatch.setattr("kube_nb.backends.local.backend.machine", lambda environ, *, gpus: SMALL)
    with Workshop(tmp_path) as made:
        yield made


# The rule, alone ----------------------------------------------------------------------------------------------------

wishes = st.lists(
    st.tuples(st.sampled_from([0.5, 1.0, 1.5, 2.0]), st.sampled_from([0, 1 << 30, 8 << 30]), st.integers(0, 2)),
    max_size=8,
)


def tickets_of(wanted: list[tuple[float, int, int]]) -> list[Ticket]:
    return [Ticket(n, f"job-{n}", cpu, memory, gpus) for n, (cpu, memory, gpus) in enumerate(wanted)]


@given(wishes)
def test_no_more_is_given_than_there_is(wanted):
    tickets = tickets_of(wanted)
    settle(tickets, SMALL)
    held = [ticket for ticket in tickets if ticket.held]
    assert sum(ticket.cpu for ticket in held) <= SMALL["cpu"]
    assert sum(ticket.memory for ticket in held) <= SMALL["memory"]
    devices = [device for ticket in held for device in ticket.devices]
    assert len(devices) == len(set(devices))
    assert set(devices) <= set(SMALL["gpus"])
    assert all(len(ticket.devices) == ticket.gpus for ticket in held)


@given(wishes, wishes)
def test_who_comes_later_changes_nothing_for_those_before(wanted, later):
    alone, together = tickets_of(wanted), tickets_of(wanted + later)
    settle(alone, SMALL)
    settle(together, SMALL)
    assert [t.line() for t in alone] == [t.line() for t in together[: len(alone)]]


@given(wishes, st.randoms())
def test_everybody_gets_a_turn(wanted, chance):
    waiting = tickets_of(wanted)
    served = 0
    while waiting:
        settle(waiting, SMALL)
        holders = [ticket for ticket in waiting if ticket.held]
        assert holders
        waiting.remove(chance.choice(holders))
        served += 1
    assert served == len(wanted)


@given(wishes)
def test_a_ticket_is_read_as_it_was_written(wanted):
    tickets = tickets_of(wanted)
    settle(tickets, SMALL)
    for ticket in tickets:
        again = Ticket.parse(ticket.line())
        assert again is not None
        assert again.line() == ticket.line()


@pytest.mark.parametrize("line", ["", "\n", "1\tx", "a\tb\tc\td\te\tf\tg\n"])
def test_a_torn_line_is_no_ticket(line):
    assert Ticket.parse(line) is None


def test_one_who_waits_for_a_gpu_does_not_stop_one_who_wants_a_core():
    tickets = tickets_of([(0.5, 0, 2), (0.5, 0, 1), (1.0, 0, 0), (0.5, 0, 0)])
    settle(tickets, SMALL)
    assert [ticket.held for ticket in tickets] == [True, False, True, False]


def test_a_reason_names_what_is_missing_who_has_it_and_the_place():
    tickets = tickets_of([(0.5, 0, 2), (0.5, 0, 1), (0.5, 4 << 30, 1)])
    settle(tickets, SMALL)
    reason = queue_reason(tickets[2], tickets, SMALL)
    assert reason["code"] == "WaitingForTickets"
    assert "1 GPU" in reason["what"]
    assert "job-0" in reason["why"]
    assert "1 job before it" in reason["why"]


def test_numbers_rise_though_the_clock_jumps(tmp_path, monkeypatch):
    admission = Admission(str(tmp_path))
    first = admission.number()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert admission.number() == first + 1
    (tmp_path / "counter").write_text("nonsense")
    assert admission.number() >= 0


# With jobs ----------------------------------------------------------------------------------------------------------


def waits(status) -> bool:
    return status.reason is not None and status.reason.code == "WaitingForTickets"


def test_a_job_waits_visibly_and_starts_when_another_ends(workshop):
    first = workshop.submit(FOREVER, resources=Resources(cpu=2))
    workshop.first_line(first)
    second = workshop.submit("print('my turn')", resources=Resources(cpu=1))
    status = workshop.until(second, waits)
    assert status.phase is Phase.PENDING
    assert first in status.reason.why
    workshop.backend.cancel(first)
    assert workshop.end(second).phase is Phase.SUCCEEDED
    assert workshop.text(second) == "my turn\n"


def test_first_come_first_served(workshop):
    first = workshop.submit(FOREVER, resources=Resources(cpu=2))
    workshop.first_line(first)
    queue = [workshop.submit("import time; print(time.monotonic())", resources=Resources(cpu=2)) for _ in range(4)]
    for job in queue:
        workshop.until(job, waits)
    workshop.backend.cancel(first)
    starts = [float(workshop.text(job)) for job in queue]
    assert starts == sorted(starts)


def test_the_death_of_a_supervisor_frees_its_tickets(workshop):
    first = workshop.submit(FOREVER, resources=Resources(cpu=2))
    workshop.first_line(first)
    second = workshop.submit("", resources=Resources(cpu=2))
    workshop.until(second, waits)
    begun = time.monotonic()
    os.kill(workshop.supervisor(first), signal.SIGKILL)
    assert workshop.end(second).phase is Phase.SUCCEEDED
    print(f"started after {time.monotonic() - begun:.3f} s")


def test_a_waiting_job_is_cancelled_at_once_and_never_starts(workshop):
    first = workshop.submit(FOREVER, resources=Resources(cpu=2))
    workshop.first_line(first)
    second = workshop.submit("print('no')", resources=Resources(cpu=1))
    workshop.until(second, waits)
    workshop.backend.cancel(second)
    status = workshop.end(second)
    assert (status.phase, status.started) == (Phase.CANCELLED, None)
    assert workshop.text(second) == ""
    third = workshop.submit("print('no')", resources=Resources(cpu=1))
    workshop.until(third, waits)
    assert "next" in workshop.status(third).reason.why


def test_each_job_and_each_node_gets_devices_of_its_own(workshop):
    job = workshop.submit(FOREVER, resources=Resources(gpu=Gpu(count=1), nodes=2))
    assert {workshop.first_line(job, node=0), workshop.first_line(job, node=1)} == {"0", "1"}
    assert workshop.backend.capacity().gpus == {"nvidia.com/gpu": (0, 2)}
    second = workshop.submit(FOREVER, resources=Resources(gpu=Gpu(count=1)))
    assert "GPU" in workshop.until(second, waits).reason.what
    workshop.backend.delete(job)
    assert workshop.first_line(second) == "0"


def test_capacity_is_what_is_left(workshop):
    assert workshop.backend.capacity().cpu == (2.0, 2.0)
    job = workshop.submit(FOREVER, resources=Resources(cpu=1.5, memory=1 << 30))
    workshop.first_line(job)
    capacity = workshop.backend.capacity()
    assert capacity.cpu == (0.5, 2.0)
    assert capacity.memory == (7 << 30, 8 << 30)


def test_more_ranks_than_cores_run_all_the_same(workshop):
    job = workshop.submit("print('x')", resources=Resources(nodes=2, procs=8))
    assert workshop.end(job).phase is Phase.SUCCEEDED


def test_a_job_inside_a_job_does_not_wait_for_its_parent(workshop, monkeypatch):
    parent = workshop.submit(FOREVER, resources=Resources(cpu=2))
    workshop.first_line(parent)
    monkeypatch.setenv("KUBE_NB_JOB", parent)
    child = workshop.submit(FOREVER, resources=Resources(cpu=2))
    workshop.first_line(child)
    monkeypatch.setenv("KUBE_NB_JOB", child)
    grandchild = workshop.submit("", resources=Resources(cpu=2))
    assert workshop.end(grandchild).phase is Phase.SUCCEEDED
    monkeypatch.setenv("KUBE_NB_JOB", "a-pod-somewhere")
    stranger = workshop.submit("", resources=Resources(cpu=2))
    workshop.until(stranger, waits)


# The machine --------------------------------------------------------------------------------------------------------


def test_the_machine_has_something():
    assert machine.cores() > 0
    assert machine.memory() > 1 << 20


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        ("", []),
        ("-1", []),
        ("GPU-8a1,GPU-77b", ["GPU-8a1", "GPU-77b"]),
        ("0, 7, 1", ["0"]),
    ],
)
def test_a_kernel_gives_away_no_device_that_it_does_not_see(monkeypatch, named, seen):
    monkeypatch.setattr(machine, "installed", lambda: 3)
    assert machine.visible({} if named is None else {"CUDA_VISIBLE_DEVICES": named}) == seen


def test_without_a_driver_there_is_no_device(monkeypatch):
    monkeypatch.setattr(machine, "installed", lambda: 0)
    assert machine.visible({"CUDA_VISIBLE_DEVICES": "0"}) == []
