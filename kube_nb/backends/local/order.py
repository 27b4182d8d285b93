"""What a supervisor is told, once, through its standard input. Types only: a supervisor never imports this file.

It travels as `marshal` bytes between two processes of the same interpreter: a supervisor that imports `json` first
shows a job's first line 10 ms later.
"""

from __future__ import annotations

from typing import Any, TypedDict


class Machine(TypedDict):
    """What one kernel may use here."""

    cpu: float
    memory: int
    gpus: list[str]
    """Devices as CUDA_VISIBLE_DEVICES names them."""


class Demand(TypedDict):
    """What a whole job, all its nodes together, takes from the machine."""

    cpu: float
    memory: int
    gpus: int


class Order(TypedDict):
    """One job, for its supervisor."""

    job: str
    """The job's directory."""
    state: str
    """The directory of all jobs, runners and environments."""
    bus: str
    """The runtime directory of the wake-ups; empty: there is none."""
    header: dict[str, Any]
    """What of state.json never changes."""
    python: str
    runner: str
    nodes: int
    retries: int
    grace: float
    demand: Demand
    machine: Machine
    parent: str
    """The job inside which this one was submitted, or empty."""
    limit: int
    """Bytes of memory each node may use; 0: no limit."""
    scope: str
    """Path of systemd-run where a user scope can hold the limit, or empty: it is held by sampling."""
    env: dict[str, str]
    """The job's whole environment. Secret: it is never written anywhere."""
    retention: tuple[int, float]
    """Bytes and seconds after which finished jobs are removed."""
