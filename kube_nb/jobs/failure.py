"""A failure of the user's code, as the notebook shows it: their exception, their lines, none of ours."""

from __future__ import annotations

import linecache
import sys
from typing import TYPE_CHECKING, Any

from kube_nb.errors import JobFailed

if TYPE_CHECKING:
    from kube_nb.backends.base import Reason

_RULE = "-" * 75


def exception_of(error: dict[str, Any], original: BaseException | None, job: str) -> BaseException:
    """The exception to raise in the kernel: the original where it could be loaded, else one with its name and words.

    Args:
        error: the ERROR record of the stream.
        original: what the job's pickle gave.
        job: the id, named in the traceback.
    """
    exception = _named(error["ename"], error["evalue"]) if original is None else original
    rendered = render(error, job)
    try:
        exception._render_traceback_ = lambda: rendered  # type: ignore[attr-defined]  # what IPython asks for
    except AttributeError:  # a class with slots: IPython then shows its own, shorter traceback
        exception.add_note("\n".join(rendered))
    return exception


def as_ipython_shows_it(exception: BaseException) -> BaseException:
    """The exception, or in its place one with its name and words that IPython shows as it is told to.

    It has a way of its own for syntax errors, groups and SystemExit, in which the person's lines are lost, and shows
    nothing at all where the words cannot be had.
    """
    try:
        words = str(exception)
    except Exception:  # noqa: BLE001 - a __str__ of foreign code
        words = "<exception str() failed>"
    else:
        if not isinstance(exception, (SyntaxError, BaseExceptionGroup, SystemExit)):
            return exception
    shown = _named(type(exception).__name__, words)
    shown.__cause__ = exception
    render = getattr(exception, "_render_traceback_", None)
    if render is not None:
        shown._render_traceback_ = render
    return shown


def _named(name: str, words: str) -> JobFailed:
    kind = type(name, (JobFailed,), {"__module__": "__main__", "__str__": lambda self: self.what})
    return kind(what=words)


def failed(job: str, reason: Reason) -> JobFailed:
    """A failure that is no exception of the user's: out of memory, a time-out, a lost process."""
    return JobFailed(what=f"job {job}: {reason.what}", why=reason.why, next=reason.next, reason=reason)


def render(error: dict[str, Any], job: str = "") -> list[str]:
    """Lines of a traceback in IPython's form, the cause first."""
    lines: list[str] = []
    cause, context = error.get("cause"), error.get("context")
    if cause:
        lines += [*render(cause), "", "The above exception was the direct cause of the following exception:", ""]
    elif context:
        lines += [*render(context), "", "During handling of the above exception, another exception occurred:", ""]
    name = error["ename"]
    where = f"Traceback (most recent call last), job {job}" if job else "Traceback (most recent call last)"
    lines += [_RULE, f"{name}{where:>{max(len(where) + 2, 75 - len(name))}}"]
    for frame in _shortened(error.get("frames", [])):
        lines += _frame(frame)
    lines.append("")
    lines.append(f"{name}: {error['evalue']}" if error["evalue"] else name)
    lines += error.get("notes", [])
    for number, member in enumerate(error.get("group", []), start=1):
        lines += ["", f"  +-- {number} of {len(error['group'])}"]
        lines += [f"  | {line}" for part in render(member) for line in part.split("\n")]
    return lines


def _frame(frame: dict[str, Any]) -> list[str]:
    """Where it happened, and two lines around it where the source is at hand."""
    file, number = frame["file"], frame["line"]
    inside = f", in {frame['name']}" if frame["name"] not in ("<module>", "") else ""
    cell = _cell_name(file)
    lines = [f"{cell}{inside}, line {number}" if cell else f"File {file}:{number}{inside}"]
    source = linecache.getlines(file) if cell else []
    if not 0 < number <= len(source):
        return [*lines, f"----> {number} {frame['code']}".rstrip()]
    for at in range(max(1, number - 2), min(len(source), number + 2) + 1):
        arrow = "---->" if at == number else "     "
        lines.append(f"{arrow} {at:>3} {source[at - 1].rstrip()}".rstrip())
    return lines


def _cell_name(file: str) -> str | None:
    """`Cell In[5]` for the file name under which IPython compiled that cell in this kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    named = shell.compile.format_code_name(file) if shell is not None else None
    return " ".join(named) if named else None


def _shortened(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A recursion without end is told by its first and last frames."""
    if len(frames) <= 24:
        return frames
    return [*frames[:12], {**frames[12], "name": f"… {len(frames) - 24} frames left out", "code": ""}, *frames[-12:]]
