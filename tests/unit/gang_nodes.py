"""Several nodes of one job on this machine: real runners that reach node 0 on the loopback interface."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path
from typing import Any

from kube_nb.runner.loop import Loop
from kube_nb.runner.wire import Secret, Wire
from tests.unit.one_node import KEY, OneNode, Ran, Running


class Nodes:
    """A folder for each node, and the runners that were started in them.

    Args:
        folder: empty.
        count: nodes of the job.
        options: of every runner, e.g. `join="2"`.
    """

    def __init__(self, folder: Path, count: int = 2, **options: str) -> None:
        self.count = count
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.options = options
        self.nodes = [_node(folder / str(number)) for number in range(count)]
        self.running: dict[int, Running] = {}

    def start(self, source: str, *numbers: int, attempt: int = 0, **changes: Any) -> Nodes:
        """Start these nodes, or all of them."""
        for number in numbers or range(self.count):
            self.sign(number, source, **changes)
            self.launch(number, attempt=attempt)
        return self

    def sign(self, number: int, source: str, key: bytes = KEY, **changes: Any) -> None:
        node = self.nodes[number]
        node.sign(node.manifest(source, **({"nodes": self.count, "grace": 3.0} | changes)), key)

    def launch(self, number: int, *, attempt: int = 0, address: str = "") -> Running:
        options = {"control": address or self.address} | self.options
        more = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.running[number] = self.nodes[number].launch(*more, attempt=attempt, node=number)
        return self.running[number]

    def until(self, number: int, text: bytes) -> None:
        self.running[number].until(text)

    def signal(self, number: int, signum: int) -> None:
        self.running[number].process.send_signal(signum)

    def wait(self, seconds: float = 30) -> list[Ran]:
        """What is left of each node, when all have ended."""
        return [self.running[number].wait(seconds) for number in sorted(self.running)]

    def kill(self) -> None:
        for running in self.running.values():
            if running.process.poll() is None:
                running.process.send_signal(signal.SIGCONT)
                running.process.kill()
                running.process.wait()


def _node(folder: Path) -> OneNode:
    folder.mkdir()
    return OneNode(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Puppet:
    """A node that does what a test says: it speaks the protocol, but runs nothing.

    Args:
        port: of node 0.
        node: which one it plays.
    """

    def __init__(self, port: int, node: int, *, nodes: int = 2, key: bytes = KEY) -> None:
        self.heard: list[dict[str, Any]] = []
        self.why_lost: str | None = None
        self._loop = Loop()
        self.connection = connect(port)
        self.wire = Wire(
            self.connection, self._loop, Secret(key, "job-1", nodes), node, received=self._receive, lost=self._lost
        )

    def until(self, kind: str, seconds: float = 10) -> dict[str, Any]:
        """Wait for a message of this kind."""
        deadline = time.monotonic() + seconds
        while not (found := [message for message in self.heard if message["kind"] == kind]):
            assert self.wire.open, f"lost: {self.why_lost}"
            assert time.monotonic() < deadline, f"{kind} never came, only {self.heard}"
            self._loop.turn(0.1, urgent_only=False)
        return found[0]

    def until_lost(self, seconds: float = 10) -> str:
        deadline = time.monotonic() + seconds
        while self.why_lost is None:
            assert time.monotonic() < deadline, "the connection was not cut"
            self._loop.turn(0.1, urgent_only=False)
        return self.why_lost

    def _receive(self, wire: Wire, message: dict[str, Any]) -> None:
        self.heard.append(message)

    def _lost(self, wire: Wire, why: str) -> None:
        self.why_lost = why


def connect(port: int, seconds: float = 10) -> socket.socket:
    """A connection to who listens there, as soon as somebody does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
