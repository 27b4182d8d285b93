"""The errors of kube-nb: what happened, why, and what to do next.

The class says the kind, so that code can catch it; the three sentences say it to a person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kube_nb.backends.base import Finding, Reason


class KubeNbError(Exception):
    """Something kube-nb could not do.

    Args:
        what: one sentence: what happened.
        why: one sentence: the cause; empty where it is evident.
        next: one sentence: what the person can do; empty where there is nothing to do.

    Example:
        >>> print(KubeNbError(what="job `a` was not found", next="list your jobs with %kube_jobs"))
        job `a` was not found
          next: list your jobs with %kube_jobs
    """

    def __init__(self, what: str, why: str = "", next: str = "") -> None:
        super().__init__(what, why, next)
        self.what = what
        self.why = why
        self.next = next

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why:  {self.why}")
        if self.next:
            lines.append(f"  next: {self.next}")
        return "\n".join(lines)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: our own frames tell a person nothing."""
        return [f"{type(self).__name__}: {self}"]


class BadValue(KubeNbError, ValueError):
    """A value a person wrote (a quantity, a duration, a setting) means nothing."""


class BadFlag(KubeNbError):
    """The line of a magic or a command does not follow the grammar."""


class CannotTravel(KubeNbError):
    """A value the cell reads cannot be sent to the job; `path` leads to it, e.g. `cfg.logger.handlers[0].stream`."""

    def __init__(self, what: str, why: str = "", next: str = "", *, path: str = "") -> None:
        super().__init__(what, why, next)
        self.path = path


class MissingName(KubeNbError, NameError):
    """The cell reads a name that neither the kernel nor the cell defines."""


class CannotRunThere(KubeNbError):
    """The cell uses something that exists only in a kernel, such as `%debug` or `input()`."""


class Refused(KubeNbError):
    """The target said no before anything was started; `findings` tells why."""

    def __init__(self, what: str, why: str = "", next: str = "", *, findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(what, why, next)
        self.findings = findings


class Unreachable(KubeNbError):
    """Nobody answered. Nothing was started, or the next submit with the same id finds it."""


class NotFound(KubeNbError, LookupError):
    """There is no such job, target or file."""


class Locked(KubeNbError):
    """A setting that the site has locked was overridden."""


class Corrupted(KubeNbError):
    """Bytes are not what their digest or their signature says."""


class StorageFailed(KubeNbError, OSError):
    """The directory that holds jobs cannot be written: full, read-only, or not ours."""


class JobFailed(KubeNbError):
    """The job did not succeed; `reason` is the cause, `__cause__` the original exception where it can be loaded."""

    def __init__(self, what: str, why: str = "", next: str = "", *, reason: Reason | None = None) -> None:
        super().__init__(what, why, next)
        self.reason = reason
