"""A file system with as much room as a test wants, where one can be mounted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of so many megabytes at `place`."""
    place.mkdir(mode=0o700)
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "kube-nb-test", str(place))
    try:
        yield place
    finally:
        # A supervisor that has just ended may still have its log open; the mount goes with the last one.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def make_read_only(place: Path) -> None:
    """Nobody can write there from now on, root neither."""
    deadline = time.monotonic() + 10
    # Not while a file there is open for writing: a supervisor that has just ended may still have its log.
    while subprocess.run(["mount", "-o", "remount,ro", str(place)], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, f"something holds files in {place} open"
        time.sleep(0.02)


def make_writable(place: Path) -> None:
    _mount("-o", "remount,rw", str(place))


def _mount(*arguments: str) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("mount: small file systems are mounted on Linux alone")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount: no file system can be mounted here ({done.stderr.strip()})")
