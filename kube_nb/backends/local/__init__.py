"""The embedded target: every job is a detached supervisor process and a directory, on this machine.

Supervisors start from `entry.py`, which passes this file by: a job's first line waits for everything they import.
"""

from __future__ import annotations

from kube_nb.backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]
