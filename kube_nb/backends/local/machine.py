"""What this machine has, as far as this process may use it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from kube_nb.backends.local.order import Machine

_PATIENCE = 20.0
"""Seconds for nvidia-smi, which wakes the driver when nobody has used it for a while."""


def machine(environ: Mapping[str, str], *, gpus: bool) -> Machine:
    """What a kernel with this environment may use.

    Args:
        gpus: whether to look for devices, which may take a second.
    """
    return Machine(cpu=cores(), memory=memory(), gpus=visible(environ) if gpus else [])


@cache
def cores() -> float:
    """Cores: the affinity of this process and the quota of its control group count."""
    if hasattr(os, "sched_getaffinity"):
        count = float(len(os.sched_getaffinity(0)))
    else:
        count = float(os.cpu_count() or 1)
    quota = _first("/sys/fs/cgroup/cpu.max").split()
    if len(quota) != 2:
        quota = [_first(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period")]
    if quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
        count = min(count, int(quota[0]) / int(quota[1]))
    return count


@cache
def memory() -> int:
    """Bytes: what is built in, or what the control group of this process may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = _first(path)
        if limit.isdigit():
            total = min(total, int(limit))
    return total


def visible(environ: Mapping[str, str]) -> list[str]:
    """The GPUs that a process with this environment sees, as CUDA_VISIBLE_DEVICES names them.

    CUDA sees what stands before the first name of no device; names that are no numbers are taken at their word.
    """
    found = [str(index) for index in range(installed())]
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is None or not found:
        return found
    devices: list[str] = []
    for name in map(str.strip, named.split(",")):
        if name not in found and not name.startswith(("GPU-", "MIG-")):
            break
        devices.append(name)
    return devices


@cache
def installed() -> int:
    """How many NVIDIA GPUs the driver shows."""
    program = shutil.which("nvidia-smi")
    if program:
        try:
            shown = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_PATIENCE, check=True)
        except (OSError, subprocess.SubprocessError):
            return 0
        return sum(line.startswith("GPU ") for line in shown.stdout.splitlines())
    try:
        return sum(1 for _ in Path("/proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return 0


def may_have_gpus() -> bool:
    """Whether looking for GPUs is worth its time."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/gpus").exists()


def _first(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
