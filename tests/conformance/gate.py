"""A gate at which the code of a job waits until its test opens it, wherever the job runs."""

from __future__ import annotations

import socket
import threading


class Gate:
    """A port of this machine: who connects waits for the end of the connection.

    Args:
        address: under which jobs reach this machine.
    """

    def __init__(self, address: str) -> None:
        self._server = socket.create_server((address, 0), backlog=16)  # who connects early waits in the backlog
        self.address: tuple[str, int] = self._server.getsockname()[:2]
        self.wait = f"__import__('socket').create_connection({self.address!r}).recv(1)"
        """Python source that ends once the gate is open."""

    def open(self) -> None:
        """Let everybody through who waits or will come."""
        threading.Thread(target=self._let_through, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _let_through(self) -> None:
        while True:
            try:
                self._server.accept()[0].close()
            except OSError:
                return  # the gate is gone


def address_towards(host: str, port: int) -> str:
    """The address of this machine that others see who are reached at `host`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return probe.getsockname()[0]
