"""The memory limit of a node: by the user's systemd where there is one, by looking often enough where there is none."""

from __future__ import annotations

from kube_nb.backends.local import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PERIOD = 0.2
"""Seconds between two looks; a job can exceed its limit for so long."""


def scope(program: str, limit: int) -> list[str]:
    """The words before a command that make it run within `limit` bytes.

    The kernel kills the process that asks for too much; the runner is not stopped with it and tells how it ended.
    """
    properties = (f"MemoryMax={limit}", "MemorySwapMax=0", "OOMPolicy=continue")
    options = [word for value in properties for word in ("-p", value)]
    return [program, "--user", "--scope", "--quiet", "--collect", *options, "--"]


def scope_program() -> str:
    """Path of systemd-run if a user's systemd answers and can hold a limit, or ""."""
    import shutil
    import subprocess

    program = shutil.which("systemd-run")
    if not program:
        return ""
    try:
        subprocess.run([*scope(program, 2**30), "true"], capture_output=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return program


class Sampler:
    """Watches one node and kills its ranks when together they use more than the limit.

    Args:
        runner: pid of the node's runner, which is left alive to tell the end.
        limit: bytes.
    """

    def __init__(self, runner: int, limit: int) -> None:
        self._runner = runner
        self._limit = limit
        self.peak = 0
        self.exceeded = False

    def look(self) -> None:
        """Measure, and kill if need be."""
        ranks = processes.descendants(self._runner)
        used = self._used([self._runner, *ranks])
        self.peak = max(self.peak, used)
        if used > self._limit:
            self.exceeded = True
            processes.kill_tree(self._runner, itself=False)

    def _used(self, pids: Sequence[int]) -> int:
        resident = processes.resident(pids)
        total = sum(resident.values())
        if total <= self._limit:
            return total
        # Forked workers share most of their pages, which `resident` counts once for each of them.
        shares = {pid: processes.proportional(pid) for pid in resident}
        return sum(resident[pid] if share is None else share for pid, share in shares.items())
