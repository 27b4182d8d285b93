"""From a job's directory to what a person may know of it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kube_nb.backends.base import JobStatus, Reason
from kube_nb.backends.local import lock, processes
from kube_nb.backends.local.directory import JobDirectory, job_ids, tail
from kube_nb.backends.reasons import reason_of
from kube_nb.spec import JobId, Phase


class Statuses:
    """The statuses of all jobs of a state directory. What has ended is read once.

    Args:
        state: the directory.
    """

    def __init__(self, state: str) -> None:
        self._jobs = f"{state}/jobs"
        self._ended: dict[str, tuple[tuple[int, int], JobStatus]] = {}

    def read(self, id: str) -> JobStatus | None:
        """One job as it stands; None: there is no such job."""
        job = self.directory(id)
        stamp = state_stamp(job)
        before = self._ended.get(id)
        if before and before[0] == stamp:
            return before[1]
        self._ended.pop(id, None)
        status = status_of(job)
        if status is not None and status.phase.final:
            self._ended[id] = (stamp, status)
        return status

    def directory(self, id: str) -> JobDirectory:
        return JobDirectory(f"{self._jobs}/{id}")

    def ids(self) -> list[str]:
        """All names that may be jobs, those that changed last first."""
        return sorted(job_ids(self._jobs), key=self._changed, reverse=True)

    def _changed(self, id: str) -> int:
        try:
            return os.stat(f"{self._jobs}/{id}").st_mtime_ns
        except OSError:
            return 0


def state_stamp(job: JobDirectory) -> tuple[int, int]:
    """Changes whenever the job's state is replaced."""
    try:
        found = os.stat(job.state)
    except OSError:
        return (0, 0)
    return (found.st_ino, found.st_mtime_ns)


def status_of(job: JobDirectory) -> JobStatus | None:
    """What is known of a job; None where there is none. One whose supervisor is gone is found dead here."""
    status = _known(job)
    if status is None or status.phase.final or lock.alive(job.lock):
        return status
    status = _known(job)  # it may have ended between the two looks
    if status is None or status.phase.final:
        return status
    # Each who looks would find another end otherwise: what the first one writes is a sign of life to the second.
    try:
        with lock.alone(job.path):
            return _bury(job)
    except FileNotFoundError:
        return None  # somebody deletes the job at this moment


def _known(job: JobDirectory) -> JobStatus | None:
    """What state.json says; None: there is none, or it is not ours."""
    state = job.read_state()
    if state is None or state.get("id") != job.id:
        return None
    try:
        return _status(state)
    except (KeyError, TypeError, ValueError):
        return None


def _status(state: Mapping[str, Any]) -> JobStatus:
    phase = Phase(state["phase"])
    end = state["end"]
    waits = state["reason"]
    reason = None
    if waits:
        reason = Reason(**waits)
    elif end and phase is not Phase.SUCCEEDED:
        reason = reason_of(end)
    return JobStatus(
        id=JobId(state["id"]),
        name=state["name"],
        label=state["label"],
        phase=phase,
        reason=reason,
        created=float(state["created"]),
        started=state["started"],
        ended=state["ended"],
        attempt=state["attempt"],
        nodes=state["nodes"],
        owner=state["owner"],
        end=end,
    )


def _bury(job: JobDirectory) -> JobStatus | None:
    """The last state of a job whose supervisor died; what it left running is killed."""
    status = _known(job)
    state = job.read_state()
    if status is None or state is None or status.phase.final:
        return status
    known = lock.recorded(job.lock)
    rebooted = bool(known) and not known[0].here
    detail = {"supervisor": known[0].pid if known else None, "rebooted": rebooted, "log": tail(job.log)}
    dead = {**state, "phase": Phase.FAILED, "reason": None, "ended": _last_sign(job)}
    dead["end"] = {"v": 1, "code": "SupervisorLost", "rank": 0, "detail": detail}
    for runner in known[1:]:
        if runner.here and runner.runs:
            processes.kill_tree(runner.pid)
    with suppress(OSError):  # a disk that is full or read-only: the next one who looks finds the same
        job.write_state(dead, last=True)
    return _status(dead)


def _last_sign(job: JobDirectory) -> float:
    """When the job was last heard of: the youngest of its streams."""
    times = []
    try:
        with os.scandir(job.path) as entries:
            for entry in entries:
                if entry.name.startswith(("stream.", "state.json")):
                    times.append(entry.stat().st_mtime)
    except FileNotFoundError:
        pass  # somebody deletes the job at this moment
    return max(times, default=time.time())
