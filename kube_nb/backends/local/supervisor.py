"""The process that looks after one job: the counterpart of a cluster's kubelet.

What must happen before the runner starts is here, and imports next to nothing; the rest is in `oversee.py`, which is
loaded while the runner is already starting.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import sys

from kube_nb.backends.local.admission import Admission, Ticket
from kube_nb.backends.local.directory import JobDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from kube_nb.backends.local.order import Order

_PIPE = 1 << 20
_F_SETPIPE_SZ = 1031
_RESET_SIGNALS = (13, 25) if sys.platform == "linux" else (13,)
"""SIGPIPE and SIGXFSZ, which Python ignores and a child of it would go on to ignore."""


class Node:
    """One runner.

    Attributes:
        index: which node of the job.
        attempt: which try.
        pid: the runner's.
        pipe: its standard output.
        stream: the file that keeps it.
        signalled: it was asked to end.
        end: its last word, or what is known instead; None while it runs.
    """

    def __init__(self, index: int, attempt: int, pid: int, pipe: int, stream: int) -> None:
        self.index = index
        self.attempt = attempt
        self.pid = pid
        self.pipe = pipe
        self.stream = stream
        self.signalled = False
        self.end: dict[str, Any] | None = None


def main() -> None:
    """Take the lock that the kernel hands over, leave the kernel's family, read the order, and carry it out."""
    lock = int(sys.argv[1])
    os.set_inheritable(lock, False)
    # A kernel that is shut down ends all its children, and children that end before it haunt it: be nobody's child.
    if os.fork():
        os._exit(0)
    order = _order()
    if order is None:
        return
    job = JobDirectory(order["job"])
    log = _own_descriptors(job)
    admission = Admission(order["state"])
    ticket: Ticket | None = None
    nodes: list[Node] = []
    fault: OSError | None = None
    try:
        ticket = admission.enter(order["header"]["number"], job.id, order["demand"], order["machine"], order["parent"])
        if ticket.held and not os.path.exists(job.cancel):
            start(order, job, ticket.devices, 0, log, nodes)
    except OSError as failed:
        fault = failed

    from kube_nb.backends.local.oversee import Overseer

    Overseer(order, job, lock, log, admission, ticket).run(nodes, fault)


def start(order: Order, job: JobDirectory, devices: Sequence[str], attempt: int, log: int, started: list[Node]) -> None:
    """Start one runner for each node, and add them to `started`.

    Raises:
        OSError: a directory or a process could not be made; what was started before is in `started`.
    """
    nodes = order["nodes"]
    each = len(devices) // nodes
    env = dict(order["env"])
    if nodes > 1:
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    for node in range(nodes):
        if each:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(devices[node * each : (node + 1) * each])
        stream = os.open(job.stream(node, attempt), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        pipe, writer = os.pipe()
        try:  # noqa: SIM105 - contextlib would delay the first line
            fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE)
        except OSError:
            pass  # not Linux, or this user has too many large pipes: slower, no less right
        command = _command(order, job, node, attempt)
        try:
            pid = os.posix_spawnp(
                command[0],
                command,
                env,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, writer, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setpgroup=0,
                setsigdef=_RESET_SIGNALS,
            )
        finally:
            os.close(writer)
        os.set_blocking(pipe, False)
        started.append(Node(node, attempt, pid, pipe, stream))


def _command(order: Order, job: JobDirectory, node: int, attempt: int) -> list[str]:
    prefix: list[str] = []
    if order["scope"]:
        from kube_nb.backends.local.memory import scope

        prefix = scope(order["scope"], order["limit"])
    return [
        *prefix,
        *(order["python"], "-I", "-S", f"{order['runner']}/main.py"),
        *("--bundle", job.bundle, "--out", job.out, "--work", job.work(node, order["nodes"]), "--key", job.key),
        *("--end", job.end(node, attempt), "--node", str(node), "--attempt", str(attempt)),
        *("--checkpoints", job.checkpoints, "--env-store", f"{order['state']}/environments"),
        *("--parent", str(os.getpid())),
    ]


def _order() -> Order | None:
    """What the kernel wrote; None where it gave up or died before the end."""
    parts = []
    while part := os.read(0, 1 << 16):
        parts.append(part)
    try:
        return marshal.loads(b"".join(parts))  # noqa: S302 - from the process that started this one
    except (EOFError, ValueError):
        return None


def _own_descriptors(job: JobDirectory) -> int:
    """Let go of the kernel's pipe, and send what the supervisor itself says to the job's log."""
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0, inheritable=False)
    os.close(null)
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1, inheritable=False)
    os.dup2(log, 2, inheritable=False)
    return log


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
